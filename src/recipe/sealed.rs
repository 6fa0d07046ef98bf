//! `seal(value, key)`: a sealed box of libsodium, in base64, as GitHub takes its secrets.
//!
//! X25519 with a key pair made for this one box, and XSalsa20-Poly1305: whoever has the private key of `key` can open it,
//! and nobody else, not even who sealed it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crypto_box::PublicKey;
use crypto_box::aead::OsRng;
use minijinja::value::Value;
use minijinja::{Error, ErrorKind};
use zeroize::Zeroizing;

/// Seals a value for the holder of a key.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands them over")]
pub(super) fn seal(value: Value, key: Value) -> Result<String, Error> {
    let failed = |reason| Error::new(ErrorKind::BadSerialization, Cow::Borrowed(reason));
    let text = Zeroizing::new(value.to_string());
    let key = key.as_str().and_then(|key| BASE64_STANDARD.decode(key).ok());
    let key: Option<[u8; 32]> = key.and_then(|key| key.try_into().ok());
    let key = key.ok_or_else(|| failed("is to be sealed for a key that is not one of 32 bytes in base64"))?;
    let sealed = PublicKey::from(key).seal(&mut OsRng, text.as_bytes());
    sealed.map(|sealed| BASE64_STANDARD.encode(sealed)).map_err(|_| failed("cannot be sealed"))
}

#[cfg(test)]
mod tests {
    use crypto_box::SecretKey;

    use super::*;

    #[test]
    fn only_the_holder_of_the_key_opens_it_and_no_two_are_equal() {
        let (own, other) = (SecretKey::generate(&mut OsRng), SecretKey::generate(&mut OsRng));
        let key = Value::from(BASE64_STANDARD.encode(own.public_key().as_bytes()));
        let sealed = || {
            let text = seal(crate::template::opaque("hunter2"), key.clone()).expect("sealed");
            BASE64_STANDARD.decode(text).expect("base64")
        };
        assert_eq!(own.unseal(&sealed()).expect("opened"), b"hunter2");
        assert!(other.unseal(&sealed()).is_err());
        assert_ne!(sealed(), sealed());
    }

    #[test]
    fn what_is_no_key_is_told_without_the_value() {
        for key in ["", "hunter3", "aGVsbG8="] {
            let error = seal(crate::template::opaque("hunter2"), key.into()).expect_err("no key");
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error}");
        }
    }
}
