//! How a connection is protected: libpq's `require`, `verify-ca` and `verify-full`.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::failure::IoReason;
use crate::policy::spec::{TlsMode, TlsSpec};

/// A client configuration for the mode; `None` where there is no TLS.
///
/// The authorities' file is read each time, so that a renewed one is used without a restart; the
/// system's own are read once.
///
/// # Errors
/// When the authorities cannot be read, as a reason in words.
pub(crate) async fn client_config(spec: &TlsSpec) -> Result<Option<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match spec.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Require => Arc::new(NameUnchecked { roots: None, provider: Arc::clone(&provider) }),
        TlsMode::VerifyCa => {
            let roots = Some(roots(spec).await?);
            Arc::new(NameUnchecked { roots, provider: Arc::clone(&provider) })
        }
        TlsMode::VerifyFull => {
            WebPkiServerVerifier::builder_with_provider(roots(spec).await?, Arc::clone(&provider))
                .build()
                .map_err(|_| "no authority is trusted".to_owned())?
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Some(config))
}

/// A configuration for what uses no TLS: it trusts nobody.
pub(crate) fn closed() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// What a failed handshake means, in words, and what to do about it.
pub(crate) fn explain(error: &Error) -> (String, &'static str) {
    match error {
        Error::InvalidCertificate(problem) => match problem {
            // An authority of that name is trusted, and its key is another one: it was renewed.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                "the server's certificate is not signed by a trusted authority".to_owned(),
                "set tls.caFile to the authority that signed the server's certificate",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                "the server's certificate does not name this host".to_owned(),
                "use the host name in the certificate, or tls.mode verify-ca where names cannot match",
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ("the server's certificate has expired".to_owned(), "renew the server's certificate")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("the server's certificate is not valid yet".to_owned(), "check the clocks of both machines")
            }
            _ => (
                "the server's certificate cannot be verified".to_owned(),
                "check the server's certificate against tls.caFile with `openssl verify`",
            ),
        },
        _ => ("the TLS handshake failed".to_owned(), "check the server's TLS settings and its log"),
    }
}

async fn roots(spec: &TlsSpec) -> Result<Arc<RootCertStore>, String> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let Some(path) = &spec.ca_file else {
        if let Some(roots) = SYSTEM.get() {
            return Ok(Arc::clone(roots));
        }
        let roots = tokio::task::spawn_blocking(system_roots).await;
        let roots = roots.ok().filter(|roots| !roots.is_empty());
        let roots = roots.ok_or("this machine has no trusted authorities; set tls.caFile")?;
        return Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(roots))));
    };
    let pem = tokio::fs::read(path).await.map_err(|error| {
        format!("cannot read the authorities in {}: {}", path.display(), IoReason(error.kind()))
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or_else(|| format!("{} holds something that is not a certificate", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("{} holds no certificate", path.display()));
    }
    Ok(Arc::new(roots))
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// `verify-ca`: the chain is checked and the name is not. `require`: neither is.
///
/// The handshake's signature is checked in both: it ties the certificate that channel binding refers to
/// to the server that holds its key.
#[derive(Debug)]
struct NameUnchecked {
    /// `None` trusts any certificate.
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NameUnchecked {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
