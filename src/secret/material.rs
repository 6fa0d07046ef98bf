//! A new value with what belongs to it.

use jiff::Timestamp;

use super::certificate::{self, Authority};
use super::{Parts, SecretValue, ValueSpec, ssh_key};
use crate::ident::{DnsLabel, PartName};

/// The public key of an SSH key.
const PUBLIC_KEY: &str = "publicKey";
/// A key's certificate, with those between it and a root.
const CERTIFICATE: &str = "certificate";
/// The certificate of who signed it.
const AUTHORITY: &str = "authority";
/// The value before this one, for readers that take both.
pub const PREVIOUS: &str = "previous";

/// A new value, and its parts.
#[derive(Debug)]
pub struct Material {
    pub value: SecretValue,
    pub parts: Parts,
}

/// Why there is no value. Shows nothing of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmade {
    #[error("the key cannot be made")]
    Key,
    #[error("its names cannot stand in a certificate")]
    Names,
    #[error("the value is not an SSH key in OpenSSH's form without a passphrase")]
    NotAnSshKey,
    #[error("it would be valid beyond {authority}, when its authority's own certificate ends")]
    Outlives { authority: Timestamp },
    #[error("its certificate is none in PEM, or another key's")]
    OtherCertificate,
    #[error("there is no authority to sign it")]
    NoAuthority,
}

impl ValueSpec {
    /// Who signs it, where somebody has to.
    #[must_use]
    pub fn authority(&self) -> Option<&DnsLabel> {
        self.certificate.as_ref()?.authority.as_ref()
    }

    /// The parts that a value has.
    #[must_use]
    pub fn part_names(&self) -> Vec<PartName> {
        let names: &[&str] = match (&self.ssh_key, &self.certificate) {
            (Some(_), _) => &[PUBLIC_KEY],
            (None, Some(_)) => &[CERTIFICATE, AUTHORITY],
            (None, None) => &[],
        };
        names.iter().map(|name| part(name)).collect()
    }

    /// A new value.
    ///
    /// # Errors
    /// When it is a certificate that cannot be signed.
    pub fn make(&self, authority: Option<&Authority>, now: Timestamp) -> Result<Material, Unmade> {
        if let Some(spec) = &self.ssh_key {
            let (value, public) = ssh_key::make(spec)?;
            return Ok(Material { value, parts: [(part(PUBLIC_KEY), public)].into() });
        }
        let Some(spec) = &self.certificate else {
            return Ok(Material { value: self.generate(), parts: Parts::new() });
        };
        if spec.authority.is_some() && authority.is_none() {
            return Err(Unmade::NoAuthority);
        }
        let made = certificate::make(spec, authority, now)?;
        let parts = [(part(CERTIFICATE), made.certificate), (part(AUTHORITY), made.authority)].into();
        Ok(Material { value: made.key, parts })
    }

    /// The parts that a value gives by itself: what somebody hands over may lack them.
    ///
    /// # Errors
    /// When the value is not of this form.
    pub fn parts_of(&self, value: &SecretValue) -> Result<Parts, Unmade> {
        match &self.ssh_key {
            Some(_) => Ok([(part(PUBLIC_KEY), ssh_key::public_of(value)?)].into()),
            None => Ok(Parts::new()),
        }
    }

    /// Whether parts that somebody gave belong to a value.
    ///
    /// # Errors
    /// When they are another value's.
    pub fn belongs(&self, value: &SecretValue, parts: &Parts) -> Result<(), Unmade> {
        match (&self.certificate, parts.get(&part(CERTIFICATE))) {
            (Some(_), Some(given)) => certificate::belongs(value, given),
            _ => Ok(()),
        }
    }
}

fn part(name: &str) -> PartName {
    name.parse().expect("a literal name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().expect("a moment")
    }

    fn text<'a>(material: &'a Material, name: &str) -> &'a str {
        material.parts[&part(name)].expose_str().expect("text")
    }

    fn certificate(of: serde_json::Value) -> ValueSpec {
        serde_json::from_value(serde_json::json!({ "certificate": of })).expect("a specification")
    }

    fn authority(spec: &serde_json::Value) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        if spec["ca"] == true {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        }
        params.not_after = rcgen::date_time_ymd(spec["until"].as_i64().unwrap_or(2036) as i32, 1, 1);
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    }

    #[test]
    fn an_ssh_key_comes_with_its_public_one() {
        let spec: ValueSpec =
            serde_json::from_value(serde_json::json!({"sshKey": {"comment": "orders"}})).expect("one");
        let (one, two) = (spec.make(None, now()).expect("a key"), spec.make(None, now()).expect("a key"));
        assert_ne!(one.value, two.value);
        assert!(one.value.expose_str().expect("text").starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        let public = text(&one, PUBLIC_KEY);
        assert!(public.starts_with("ssh-ed25519 AAAA") && public.ends_with(" orders"), "{public}");
        assert_eq!(spec.parts_of(&one.value).expect("one"), one.parts);
        assert_ne!(spec.parts_of(&two.value).expect("one"), one.parts);
        let wrong = spec.parts_of(&SecretValue::new(b"hunter2".to_vec())).expect_err("no key");
        assert_eq!(wrong, Unmade::NotAnSshKey);
    }

    #[test]
    fn a_certificate_says_what_was_asked_for() {
        let spec = certificate(serde_json::json!({
            "commonName": "orders", "dnsNames": ["orders.example.com"], "ipAddresses": ["10.0.0.7"],
            "uris": ["spiffe://example.com/orders"], "validFor": "30d", "usages": ["server", "client"],
        }));
        let made = spec.make(None, now()).expect("a certificate");
        assert_eq!(text(&made, CERTIFICATE), text(&made, AUTHORITY), "it signed itself");
        let (_, pem) = x509_parser::pem::parse_x509_pem(text(&made, CERTIFICATE).as_bytes()).expect("PEM");
        let read = pem.parse_x509().expect("a certificate");
        assert_eq!(read.validity().not_before.timestamp(), now().as_second() - 300);
        assert_eq!(read.validity().not_after.timestamp(), now().as_second() + 30 * 86_400);
        assert_eq!(read.subject().to_string(), "CN=orders");
        assert!(!read.is_ca());
        let names = read.subject_alternative_name().expect("one").expect("one").value.general_names.clone();
        assert_eq!(names.len(), 3, "{names:?}");
        let usage = read.extended_key_usage().expect("one").expect("one").value;
        assert!(usage.server_auth && usage.client_auth);
        let key = rcgen::KeyPair::from_pem(made.value.expose_str().expect("text")).expect("a key");
        assert_eq!(rcgen::PublicKeyData::subject_public_key_info(&key), read.public_key().raw);
    }

    #[test]
    fn an_authority_signs_what_ends_before_itself() {
        let (pem, key) = authority(&serde_json::json!({"ca": true}));
        let signer = Authority::new(&pem, &key).expect("an authority");
        let spec =
            certificate(serde_json::json!({"authority": "internal", "dnsNames": ["a"], "validFor": "30d"}));
        assert_eq!(spec.make(None, now()).expect_err("nobody signs it"), Unmade::NoAuthority);
        let made = spec.make(Some(&signer), now()).expect("a certificate");
        assert_eq!(text(&made, AUTHORITY), pem);
        let (_, own) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let (_, leaf) = x509_parser::pem::parse_x509_pem(text(&made, CERTIFICATE).as_bytes()).expect("PEM");
        let (own, leaf) = (own.parse_x509().expect("one"), leaf.parse_x509().expect("one"));
        assert_eq!(leaf.issuer(), own.subject());
        // It signs nothing itself, and is for what was asked and nothing else.
        let basic = leaf.basic_constraints().expect("one").expect("one");
        assert!(!basic.value.ca);
        let usage = leaf.key_usage().expect("one").expect("one").value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign(), "{usage}");
        let usage = leaf.extended_key_usage().expect("one").expect("one").value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any && usage.other.is_empty(), "{usage:?}");
        let as_authority =
            Authority::new(text(&made, CERTIFICATE), made.value.expose_str().expect("text")).err();
        assert_eq!(as_authority, Some("its certificate is not one of an authority"));
        let (pem, key) = authority(&serde_json::json!({"ca": true, "until": 2026}));
        let ended = Authority::new(&pem, &key).expect("an authority");
        assert!(matches!(spec.make(Some(&ended), now()), Err(Unmade::Outlives { .. })));
    }

    #[test]
    fn what_is_no_authority_is_told() {
        let (good, key) = authority(&serde_json::json!({"ca": true}));
        let (leaf, its) = authority(&serde_json::json!({"ca": false}));
        for (certificate, key, said) in [
            (leaf.as_str(), its.as_str(), "not one of an authority"),
            (good.as_str(), its.as_str(), "do not belong together"),
            (good.as_str(), "hunter2", "its key is none"),
            ("hunter2", key.as_str(), "holds no certificate"),
        ] {
            let problem = Authority::new(certificate, key).err().expect(said);
            assert!(problem.contains(said), "{problem}");
        }
    }
}
