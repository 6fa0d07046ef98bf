//! Secret values: wiped when dropped, opaque when printed, compared in constant time.
//!
//! A [`SecretValue`] can be moved and borrowed, not cloned, displayed or serialised by accident. The one
//! way to its bytes is [`SecretValue::expose`], which only adapters and the run document's wire format
//! call; `tests/it/tidy.rs` holds them to it.

mod admin;
mod certificate;
mod generate;
mod material;
mod ssh_key;

use std::collections::BTreeMap;
use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use self::admin::AdminCredential;
pub use self::certificate::{
    Authority, CertificateSpec, CertificateUsage, KeyKind, LONGEST as LONGEST_CERTIFICATE,
};
pub use self::generate::{Alphabet, AtLeast, Unsatisfiable, ValueSpec};
pub use self::material::{Material, PREVIOUS, Unmade};
pub use self::ssh_key::SshKeySpec;
use crate::ident::{PartName, Principal};

/// Bytes that must not be seen: a password, an API key, a document that holds one.
pub struct SecretValue(Zeroizing<Box<[u8]>>);

impl SecretValue {
    /// Takes the bytes over: they move to a box of exactly their size and the old buffer is wiped, so no
    /// part of the value stays behind in freed memory.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self(Zeroizing::new(bytes.as_slice().into()))
    }

    /// The bytes themselves. A caller sends them to the one system they are meant for and keeps nothing.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where a system takes only text.
    ///
    /// # Errors
    /// When the value is not UTF-8. The error does not show the bytes.
    pub fn expose_str(&self) -> Result<&str, NotText> {
        std::str::from_utf8(&self.0).map_err(|_| NotText)
    }

    /// A second copy with its own life. Named, so that every copy can be found.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether a text gives the value away. Values of less than four bytes occur in every text.
    #[must_use]
    pub fn occurs_in(&self, text: &str) -> bool {
        self.0.len() >= 4 && memchr::memmem::find(text.as_bytes(), &self.0).is_some()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for SecretValue {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretValue {}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(...)")
    }
}

/// The value is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value is not UTF-8 text")]
pub struct NotText;

/// A principal and its value: what logs in.
#[derive(Debug, PartialEq, Eq)]
pub struct Credential {
    pub principal: Principal,
    pub value: SecretValue,
    /// What belongs to the value and changes with it: the token that the next one is asked for with, a key's
    /// certificate.
    pub parts: Parts,
}

/// Further values of a credential by their names.
pub type Parts = BTreeMap<PartName, SecretValue>;

impl Credential {
    #[must_use]
    pub fn new(principal: Principal, value: SecretValue) -> Self {
        Self { principal, value, parts: Parts::new() }
    }

    #[must_use]
    pub fn with_parts(self, parts: Parts) -> Self {
        Self { parts, ..self }
    }

    /// All of it that nobody else may see.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretValue> {
        std::iter::once(&self.value).chain(self.parts.values())
    }

    /// See [`SecretValue::duplicate`].
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let parts = self.parts.iter().map(|(name, part)| (name.clone(), part.duplicate())).collect();
        Self { principal: self.principal.clone(), value: self.value.duplicate(), parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_shows_nothing() {
        let secret = SecretValue::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "SecretValue(...)");
        let credential = Credential::new("app".parse().expect("a principal"), secret);
        assert!(!format!("{credential:?}").contains("hunter2"));
    }

    #[test]
    fn a_text_that_gives_it_away_is_known() {
        let secret = SecretValue::new(b"hunter2".to_vec());
        assert!(secret.occurs_in("it was hunter2!"));
        assert!(!secret.occurs_in("it was hunter 2"));
        assert!(!SecretValue::new(b"it".to_vec()).occurs_in("it was"));
    }

    #[test]
    fn equality_is_of_bytes() {
        let one = || SecretValue::new(b"one".to_vec());
        assert_eq!(one(), one());
        assert_ne!(one(), SecretValue::new(b"two".to_vec()));
        assert_ne!(one(), SecretValue::new(b"one ".to_vec()));
    }
}
