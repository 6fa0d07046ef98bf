//! Sealing: XChaCha20-Poly1305 with a random nonce, bound to the place a value belongs to.
//!
//! A sealed value is `nonce (24 bytes) || ciphertext || tag (16 bytes)`. With 192 random bits, nonces do
//! not repeat in the life of a key. The associated data are the format, the kind, the revision and the
//! name of an entry, so nobody who can write the file can make one entry pass for another, or an old
//! value of an entry for its present one. Putting back the whole file goes unnoticed: the backup of a
//! store is as trusted as the store.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::key::Key;

const NONCE_SIZE: usize = 24;

/// Changes with the meaning of anything that is sealed or of the data it is bound to.
const FORMAT: &[u8] = b"rekeyd embedded store 1";

/// What an entry is. The text is the value of its column, so it must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A credential at a path.
    Credential,
    /// A policy's control document.
    Control,
    /// The value that shows whether a key is the store's.
    KeyCheck,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Control => "control",
            Self::KeyCheck => "key check",
        }
    }
}

/// Seals and unseals with one key.
pub(super) struct Sealer(XChaCha20Poly1305);

impl Sealer {
    pub(super) fn new(key: &Key) -> Self {
        Self(XChaCha20Poly1305::new(key.as_bytes().into()))
    }

    pub(super) fn seal(&self, kind: Kind, name: &str, revision: i64, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_SIZE];
        getrandom::fill(&mut nonce).expect("the operating system has a random source");
        let payload = Payload { msg: plain, aad: &associated(kind, name, revision) };
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).expect("an entry is shorter than 256 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// The value; `None` when it was sealed with another key or for another place, or was altered.
    pub(super) fn unseal(
        &self,
        kind: Kind,
        name: &str,
        revision: i64,
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_SIZE>()?;
        let payload = Payload { msg: ciphertext, aad: &associated(kind, name, revision) };
        self.0.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }
}

/// No two places give the same bytes: a kind holds no zero byte, a revision has a fixed size, and the
/// name is last.
fn associated(kind: Kind, name: &str, revision: i64) -> Vec<u8> {
    [FORMAT, b"\0", kind.as_str().as_bytes(), b"\0", &revision.to_be_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KeySource;

    fn sealer() -> Sealer {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        Key::generate_file(&path).expect("a key file");
        Sealer::new(&Key::load(&KeySource::File(path)).expect("a key"))
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_own_place() {
        let sealer = sealer();
        let sealed = sealer.seal(Kind::Credential, "apps/a", 7, b"hunter2");
        let open = |kind, name, revision| sealer.unseal(kind, name, revision, &sealed);
        assert_eq!(open(Kind::Credential, "apps/a", 7).expect("its own place").as_slice(), b"hunter2");
        assert!(open(Kind::Control, "apps/a", 7).is_none(), "opened as another kind");
        assert!(open(Kind::Credential, "apps/b", 7).is_none(), "opened under another name");
        assert!(open(Kind::Credential, "apps/a", 8).is_none(), "opened at another revision");
        assert!(
            super::tests::sealer().unseal(Kind::Credential, "apps/a", 7, &sealed).is_none(),
            "another key"
        );
    }

    #[test]
    fn no_altered_byte_goes_unnoticed() {
        let sealer = sealer();
        let sealed = sealer.seal(Kind::Control, "a/b", 1, b"document");
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[index] ^= 1;
            assert!(sealer.unseal(Kind::Control, "a/b", 1, &altered).is_none(), "byte {index}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.unseal(Kind::Control, "a/b", 1, &sealed[..length]).is_none(), "cut at {length}");
        }
    }

    #[test]
    fn the_same_value_never_looks_the_same() {
        let sealer = sealer();
        let seal = || sealer.seal(Kind::Control, "a/b", 1, b"document");
        assert_ne!(seal(), seal());
    }
}
