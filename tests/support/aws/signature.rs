//! Signature Version 4, as the service checks it.

use sha2::{Digest as _, Sha256};

use super::{KEY_ID, REGION, SECRET_KEY};

/// The code of the error that a request's signature earns, if it does.
pub(super) fn fault(method: &str, headers: &[(String, String)], body: &[u8]) -> Option<&'static str> {
    let header = |name: &str| headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str());
    let Some(rest) = header("authorization").and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256 ")) else {
        return Some("MissingAuthenticationTokenException");
    };
    let part = |name: &str| {
        rest.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let (credential, signed, signature) = (part("Credential"), part("SignedHeaders"), part("Signature"));
    let date = header("x-amz-date").unwrap_or_default();
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{REGION}/secretsmanager/aws4_request");
    match credential.split_once('/') {
        Some((KEY_ID, found)) if found == scope => {}
        Some((KEY_ID, _)) => return Some("InvalidSignatureException"),
        _ => return Some("UnrecognizedClientException"),
    }
    for needed in ["host", "x-amz-date", "x-amz-target"] {
        if !signed.split(';').any(|name| name == needed) {
            return Some("InvalidSignatureException");
        }
    }
    let canonical: String = signed
        .split(';')
        .map(|name| format!("{name}:{}\n", header(name).unwrap_or_default().trim()))
        .collect();
    let request = format!("{method}\n/\n\n{canonical}\n{signed}\n{}", hex(&Sha256::digest(body)));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let mut key = format!("AWS4{SECRET_KEY}").into_bytes();
    for part in [day, REGION, "secretsmanager", "aws4_request"] {
        key = hmac(&key, part.as_bytes());
    }
    (hex(&hmac(&key, text.as_bytes())) != signature).then_some("InvalidSignatureException")
}

/// HMAC with SHA-256, RFC 2104; no key here is longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |pad: u8| -> Vec<u8> {
        (0..64).map(|index| key.get(index).copied().unwrap_or_default() ^ pad).collect()
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
