//! Keys with a certificate (X.509), signed by themselves or by an authority of the settings.
//!
//! Nothing revokes one: what ends its life is its last day. A reader that trusts the authority goes on taking the
//! certificate before until then.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SerialNumber,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

use super::{SecretValue, Unmade};
use crate::ident::DnsLabel;
use crate::policy::spec::Interval;

/// It counts as valid for so long before it was made: clocks differ.
const BEFORE: SignedDuration = SignedDuration::from_mins(5);

/// A key with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSpec {
    /// Who signs it, by its name in the settings' `authorities`; itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<DnsLabel>,
    /// Whom it is for, where readers look at that: the user of a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// The hosts that it is for; `*.example.com` for all right below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_names: Vec<String>,
    /// The addresses that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub ip_addresses: Vec<IpAddr>,
    /// Whom it is for, as URIs: a SPIFFE id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
    /// How long it is valid.
    pub valid_for: Interval,
    /// What it is for.
    #[serde(default = "server")]
    #[schemars(length(min = 1))]
    pub usages: Vec<CertificateUsage>,
    /// What kind of key it is.
    #[serde(default)]
    pub key: KeyKind,
}

fn server() -> Vec<CertificateUsage> {
    vec![CertificateUsage::Server]
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CertificateUsage {
    /// Whoever has it is a server.
    Server,
    /// Whoever has it is a client.
    Client,
}

impl CertificateUsage {
    /// As documents write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// What kind of key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeyKind {
    /// What all of today's TLS takes.
    #[default]
    EcdsaP256,
    /// Ed25519, which browsers do not take.
    Ed25519,
}

impl CertificateSpec {
    /// Everything that it says somebody is, but for URIs.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let texts = self.common_name.iter().chain(&self.dns_names).cloned();
        texts.chain(self.ip_addresses.iter().map(ToString::to_string))
    }
}

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, and what is between it and a root.
    chain: String,
    /// The certificates of `chain` that somebody else signed: readers need them, too.
    between: String,
    ends: Timestamp,
}

impl Authority {
    /// From PEM: its certificate first, then those that it is signed by, if it is no root; and its key.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn new(certificates: &str, key: &str) -> Result<Self, &'static str> {
        const NO_CERTIFICATE: &str = "its file holds no certificate in PEM";
        let mut between = String::new();
        let (mut first, mut soonest) = (None, Timestamp::MAX);
        for pem in Pem::iter_from_buffer(certificates.as_bytes()) {
            let pem = pem.map_err(|_| NO_CERTIFICATE)?;
            let certificate = pem.parse_x509().map_err(|_| NO_CERTIFICATE)?;
            if certificate.issuer() != certificate.subject() {
                // Readers take nothing for longer than all that is between.
                soonest = soonest.min(ends(&certificate)?);
                between.push_str(&pem::encode(&pem::Pem::new("CERTIFICATE", pem.contents.clone())));
            }
            if first.is_none() {
                first =
                    Some((ends(&certificate)?, signs(&certificate)?, certificate.public_key().raw.to_vec()));
            }
        }
        let (ends, (), public) = first.ok_or(NO_CERTIFICATE)?;
        let ends = ends.min(soonest);
        let key = KeyPair::from_pem(key)
            .map_err(|_| "its key is none in PKCS #8, as ECDSA P-256, P-384, Ed25519 or RSA")?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != public {
            return Err("its key and its certificate do not belong together");
        }
        let issuer = Issuer::from_ca_cert_pem(certificates, key).map_err(|_| NO_CERTIFICATE)?;
        Ok(Self { issuer, chain: certificates.to_owned(), between, ends })
    }

    /// When its own certificate ends.
    #[must_use]
    pub const fn ends(&self) -> Timestamp {
        self.ends
    }
}

fn ends(certificate: &X509Certificate<'_>) -> Result<Timestamp, &'static str> {
    Timestamp::from_second(certificate.validity().not_after.timestamp())
        .map_err(|_| "its certificate never ends")
}

fn signs(certificate: &X509Certificate<'_>) -> Result<(), &'static str> {
    const NO_AUTHORITY: &str = "its certificate is not one of an authority";
    let basic = certificate.basic_constraints().map_err(|_| NO_AUTHORITY)?;
    if !basic.is_some_and(|basic| basic.value.ca) {
        return Err(NO_AUTHORITY);
    }
    let usage = certificate.key_usage().map_err(|_| NO_AUTHORITY)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) { Err(NO_AUTHORITY) } else { Ok(()) }
}

/// Whether a certificate is that of a private key.
pub(super) fn belongs(key: &SecretValue, given: &SecretValue) -> Result<(), Unmade> {
    let text = key.expose_str().map_err(|_| Unmade::OtherCertificate)?;
    let key = KeyPair::from_pem(text).map_err(|_| Unmade::OtherCertificate)?;
    let pem =
        Pem::iter_from_buffer(given.expose()).next().and_then(Result::ok).ok_or(Unmade::OtherCertificate)?;
    let certificate = pem.parse_x509().map_err(|_| Unmade::OtherCertificate)?;
    let is_its = rcgen::PublicKeyData::subject_public_key_info(&key) == certificate.public_key().raw;
    if is_its { Ok(()) } else { Err(Unmade::OtherCertificate) }
}

/// A private key, its certificate, and the authority's.
pub(super) struct Made {
    pub(super) key: SecretValue,
    pub(super) certificate: SecretValue,
    pub(super) authority: SecretValue,
}

pub(super) fn make(
    spec: &CertificateSpec,
    authority: Option<&Authority>,
    now: Timestamp,
) -> Result<Made, Unmade> {
    let algorithm = match spec.key {
        KeyKind::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
        KeyKind::Ed25519 => &PKCS_ED25519,
    };
    let key = KeyPair::generate_for(algorithm).map_err(|_| Unmade::Key)?;
    let ends = now.checked_add(spec.valid_for.as_signed()).map_err(|_| Unmade::Key)?;
    if let Some(authority) = authority.filter(|authority| authority.ends < ends) {
        return Err(Unmade::Outlives { authority: authority.ends });
    }
    let params = params(spec, now, ends)?;
    let made = match authority {
        Some(authority) => params.signed_by(&key, &authority.issuer),
        None => params.self_signed(&key),
    };
    let certificate = made.map_err(|_| Unmade::Key)?.pem();
    let text = |text: String| SecretValue::new(text.into_bytes());
    let (chain, own) = match authority {
        Some(authority) => (certificate + &authority.between, authority.chain.clone()),
        None => (certificate.clone(), certificate),
    };
    let mut pem = Zeroizing::new(key.serialize_pem());
    Ok(Made { key: text(std::mem::take(&mut *pem)), certificate: text(chain), authority: text(own) })
}

fn params(spec: &CertificateSpec, now: Timestamp, ends: Timestamp) -> Result<CertificateParams, Unmade> {
    let mut params = CertificateParams::new(spec.dns_names.clone()).map_err(|_| Unmade::Names)?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = &spec.common_name {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.subject_alt_names.extend(spec.ip_addresses.iter().copied().map(SanType::IpAddress));
    for uri in &spec.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(|_| Unmade::Names)?));
    }
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial).expect("the operating system has a random source");
    // A serial number is positive.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now.checked_sub(BEFORE).unwrap_or(now))?;
    params.not_after = at(ends)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let usages = spec.usages.iter().map(|usage| match usage {
        CertificateUsage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        CertificateUsage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    });
    params.extended_key_usages = usages.collect();
    Ok(params)
}

fn at(moment: Timestamp) -> Result<OffsetDateTime, Unmade> {
    OffsetDateTime::from_unix_timestamp(moment.as_second()).map_err(|_| Unmade::Key)
}

/// The longest that a certificate is valid.
pub const LONGEST: Interval = Interval::from_duration(Duration::from_secs(398 * 86_400));
