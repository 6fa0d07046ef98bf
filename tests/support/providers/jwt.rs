//! JSON Web Tokens as providers read them, after RFC 7519 (claims), RFC 7515 and RFC 7518 (RS256).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rekeyd::clock::{Clock as _, SystemClock};
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

/// A key of RSA that is used here and nowhere else.
pub(crate) const KEY: &str = include_str!("signing-key.pem");

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It is signed with another key, or is none.
    Signature,
    /// It is well signed, and its time is not yet there, or too long.
    Early,
    /// It is well signed, and its time is over.
    Over,
}

/// The header and the claims of a token that is signed with it, and whose time it is.
pub(crate) fn read(token: &str) -> Option<(Value, Value)> {
    judged(token).ok()
}

/// The same, and what is wrong with it.
pub(crate) fn judged(token: &str) -> Result<(Value, Value), Wrong> {
    let (header, claims) = signed(token).ok_or(Wrong::Signature)?;
    let now = SystemClock.now().as_second();
    let time = |claim: &str| claims[claim].as_i64().ok_or(Wrong::Early);
    let (from, to) = (time("iat")?, time("exp")?);
    if to <= now {
        return Err(Wrong::Over);
    }
    if from <= now + 60 && to - from <= 3_600 { Ok((header, claims)) } else { Err(Wrong::Early) }
}

fn signed(token: &str) -> Option<(Value, Value)> {
    let (message, signature) = token.rsplit_once('.')?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).expect("a key of RSA");
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
    public.verify(message.as_bytes(), &decode(signature)?).ok()?;
    let (header, claims) = message.split_once('.')?;
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
    (header["alg"] == "RS256").then_some((header, claims))
}
