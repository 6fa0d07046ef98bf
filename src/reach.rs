//! What systems that are reached over HTTP have in common: whom they trust, and why one is not reached.

use std::borrow::Cow;
use std::error::Error as _;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// The authorities of the file, or the system's own. None are needed where nothing is encrypted.
pub(crate) fn trust(encrypted: bool, ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable =
                |reason: String| format!("cannot read authorities from {}: {reason}", path.display());
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?
            {
                let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unreadable("there is no certificate in it".into()));
            }
        }
        // Plain http asks for no certificate.
        None if !encrypted => {}
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine trusts no authority: name one with `caFile`".into());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Why there is no connection to send anything on.
#[derive(Debug)]
pub(crate) struct Unreached {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) remedy: &'static str,
}

impl Unreached {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let mut next = error.source();
        while let Some(cause) = next {
            let io: Option<&std::io::Error> = cause.downcast_ref();
            if io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused) {
                return Self {
                    reason: "connection refused".into(),
                    remedy: "check that the server is running, and the address of the store",
                };
            }
            if let Some(rustls::Error::InvalidCertificate(reason)) = cause.downcast_ref() {
                return Self {
                    reason: format!("the server's certificate is not accepted: {reason}").into(),
                    remedy: "check `caFile` and the address of the store, and the certificate's names and dates",
                };
            }
            if let Some(rustls::Error::InvalidMessage(_)) = cause.downcast_ref() {
                return Self {
                    reason: "the server does not speak TLS there".into(),
                    remedy: "check the port in the address of the store, and whether something in between ends TLS",
                };
            }
            // An error inside one of the system's, as which the TLS library's comes, is not its source.
            next = match io.and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => cause.source(),
            };
        }
        Self {
            reason: "the server cannot be reached".into(),
            remedy: "check the address of the store and the network",
        }
    }
}
