//! `jwt(key, claims, kid)`: a JSON Web Token signed with RS256, by which GitHub Apps and Google's accounts log in.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

/// Signs claims with a key in PEM.
pub(super) fn sign(arguments: Kwargs) -> Result<String, Error> {
    let key: Value = arguments.get("key")?;
    let claims: Value = arguments.get("claims")?;
    let id: Option<Value> = arguments.get("kid")?;
    arguments.assert_all_used()?;
    let pem = Zeroizing::new(key.to_string());
    let mut header = serde_json::json!({"alg": "RS256", "typ": "JWT"});
    if let Some(id) = id {
        header["kid"] = id.to_string().into();
    }
    let encode = |json: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = serde_json::to_vec(&claims).map_err(|_| failed("its claims are no JSON"))?;
    let mut token = format!("{}.{}", encode(header.to_string().as_bytes()), encode(&claims));
    let signature = signature(&pem, token.as_bytes())?;
    token.push('.');
    token.push_str(&encode(&signature));
    Ok(token)
}

fn signature(pem: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| failed("is to be signed with a key that is not in PEM"))?;
    let pair = match &key {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        _ => return Err(failed("is to be signed with a key that is not one of RSA")),
    };
    let pair = pair.map_err(|_| failed("is to be signed with a key that is not one of RSA"))?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
        .map_err(|_| failed("cannot be signed"))?;
    Ok(signature)
}

fn failed(reason: &'static str) -> Error {
    Error::new(ErrorKind::BadSerialization, Cow::Borrowed(reason))
}
