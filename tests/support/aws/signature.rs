//! Signature Version 4, as the service checks it.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{INMOST, KEY_ID, REGION, SECRET_KEY};

/// How far a signature's date may be from the service's own.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// The code and the text of the error that a request's signature earns, if it does.
pub(super) fn fault(
    method: &str,
    headers: &[(String, String)],
    body: &[u8],
    now: Timestamp,
) -> Option<(&'static str, String)> {
    let date = headers.iter().find(|(each, _)| each == "x-amz-date").map(|(_, value)| value.as_str());
    let wrong = wrong(method, headers, body).map(|code| (code, INMOST.to_owned()));
    wrong.or_else(|| off(date.unwrap_or_default(), now).map(|text| ("InvalidSignatureException", text)))
}

/// What the service says of a date that is none of these minutes: the code is that of a wrong signature.
fn off(date: &str, now: Timestamp) -> Option<String> {
    const FORM: &str = "%Y%m%dT%H%M%SZ";
    let at = jiff::civil::DateTime::strptime(FORM, date).ok()?;
    let at = jiff::tz::TimeZone::UTC.to_ambiguous_timestamp(at).compatible().ok()?;
    let (early, late) = (now - TOLERANCE, now + TOLERANCE);
    let told = |at: Timestamp| at.strftime(FORM);
    if at < early {
        let (early, now) = (told(early), told(now));
        return Some(format!(
            "Signature expired: {date} is now earlier than {early} ({now} - 5 min.) {INMOST}"
        ));
    }
    let (latest, now) = (told(late), told(now));
    (at > late).then(|| {
        format!("Signature not yet current: {date} is still later than {latest} ({now} + 5 min.) {INMOST}")
    })
}

fn wrong(method: &str, headers: &[(String, String)], body: &[u8]) -> Option<&'static str> {
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
