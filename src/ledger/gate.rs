//! The gate: no byte of a live value reaches the ledger. Pure.
//!
//! Each part of a commit is searched for each value as it is, in base64 (both alphabets, at each of the
//! three alignments it can have inside a longer text) and in hexadecimal. Percent and JSON escapes are
//! undone in the searched text rather than done to the value, so that every way to write them is found,
//! nested ones too.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem;
use zeroize::Zeroizing;

use crate::secret::SecretValue;

/// Shorter values are not searched for: any text of a record's size contains some of them, so finding
/// one says nothing, and refusing it would keep the rotation from ever being recorded.
const SHORTEST_VALUE: usize = 4;

/// Shorter pieces of base64 turn up by chance.
const SHORTEST_BASE64: usize = 6;

/// Where a value was found, and in which form. Says nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    part: &'static str,
    form: Form,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            Form::Plain => "as it is or escaped",
            Form::Base64 => "in base64",
            Form::Hexadecimal => "in hexadecimal",
        };
        write!(f, "the {} would contain a live value, {form}", self.part)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Base64,
    Hexadecimal,
}

/// The first live value found in any of the parts.
pub(super) fn search(parts: &[(&'static str, Vec<u8>)], forbidden: &[&SecretValue]) -> Option<Hit> {
    let needles: Vec<Needle<'_>> = forbidden
        .iter()
        .map(|value| value.expose())
        .filter(|value| value.len() >= SHORTEST_VALUE)
        .map(Needle::new)
        .collect();
    for (part, text) in parts {
        for view in readings(text) {
            let lower = Zeroizing::new(view.to_ascii_lowercase());
            if let Some(form) = needles.iter().find_map(|needle| needle.found_in(&view, &lower)) {
                return Some(Hit { part, form });
            }
        }
    }
    None
}

type Bytes = Zeroizing<Vec<u8>>;

struct Needle<'a> {
    plain: &'a [u8],
    base64: Vec<Bytes>,
    hexadecimal: Bytes,
}

impl<'a> Needle<'a> {
    fn new(value: &'a [u8]) -> Self {
        let base64 = (0..3)
            .flat_map(|before| [base64_core(value, before, false), base64_core(value, before, true)])
            .filter(|core| core.len() >= SHORTEST_BASE64)
            .collect();
        let mut hexadecimal = Zeroizing::new(Vec::with_capacity(value.len() * 2));
        for byte in value {
            for nibble in [byte >> 4, byte & 15] {
                hexadecimal.push(b"0123456789abcdef"[usize::from(nibble)]);
            }
        }
        Self { plain: value, base64, hexadecimal }
    }

    fn found_in(&self, text: &[u8], lower: &[u8]) -> Option<Form> {
        if memmem::find(text, self.plain).is_some() {
            Some(Form::Plain)
        } else if self.base64.iter().any(|core| memmem::find(text, core).is_some()) {
            Some(Form::Base64)
        } else if memmem::find(lower, &self.hexadecimal).is_some() {
            Some(Form::Hexadecimal)
        } else {
            None
        }
    }
}

/// The base64 characters that the value alone decides when `before` bytes, modulo three, precede it.
fn base64_core(value: &[u8], before: usize, url_safe: bool) -> Bytes {
    let mut padded = Zeroizing::new(vec![0; before]);
    padded.extend_from_slice(value);
    let engine = if url_safe { &URL_SAFE_NO_PAD } else { &STANDARD_NO_PAD };
    let encoded = Zeroizing::new(engine.encode(padded.as_slice()).into_bytes());
    let first = (before * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    Zeroizing::new(encoded.get(first..end).unwrap_or_default().to_vec())
}

/// The text as it is and with its escapes undone: each kind, either order, twice.
fn readings(text: &[u8]) -> Vec<Bytes> {
    let mut views = vec![Zeroizing::new(text.to_vec())];
    let mut fresh = 0;
    for _ in 0..2 {
        let until = views.len();
        for at in fresh..until {
            for undo in [json_unescaped, percent_decoded, form_decoded] {
                let view = undo(&views[at]);
                if !views.contains(&view) {
                    views.push(view);
                }
            }
        }
        fresh = until;
    }
    views
}

fn form_decoded(text: &[u8]) -> Bytes {
    let spaced: Bytes = Zeroizing::new(text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect());
    percent_decoded(&spaced)
}

fn percent_decoded(text: &[u8]) -> Bytes {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, hex_number(text.get(at + 1..at + 3))) {
            (b'%', Some(decoded)) => {
                out.push(u8::try_from(decoded).expect("two hexadecimal digits are a byte"));
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn json_unescaped(text: &[u8]) -> Bytes {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let plain = match (byte, text.get(at + 1)) {
            (b'\\', Some(b'"' | b'\\' | b'/')) => Some(text[at + 1]),
            (b'\\', Some(b'n')) => Some(b'\n'),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'b')) => Some(8),
            (b'\\', Some(b'f')) => Some(12),
            _ => None,
        };
        if let Some(plain) = plain {
            out.push(plain);
            at += 2;
        } else if let Some((c, length)) = unicode_escape(&text[at..]) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            at += length;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}

/// A `\uXXXX` escape, or a pair of them, at the start of the text, and its length.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| -> Option<u16> {
        let marked = text.get(at..at + 2) == Some(b"\\u");
        if marked { hex_number(text.get(at + 2..at + 6))?.try_into().ok() } else { None }
    };
    let first = unit(0)?;
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, 6));
    }
    let c = char::decode_utf16([first, unit(6)?]).next()?.ok()?;
    Some((c, 12))
}

fn hex_number(digits: Option<&[u8]>) -> Option<u32> {
    let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: impl Into<Vec<u8>>, value: &[u8]) -> bool {
        search(&[("text", text.into())], &[&SecretValue::new(value.to_vec())]).is_some()
    }

    fn percent(value: &[u8], all: bool) -> String {
        let escaped = |b: &u8| all || !b.is_ascii_alphanumeric();
        value
            .iter()
            .map(|b| if escaped(b) { format!("%{b:02X}") } else { char::from(*b).to_string() })
            .collect()
    }

    proptest! {
        #[test]
        fn a_value_is_found_in_every_form(
            value in proptest::collection::vec(any::<u8>(), 6..40),
            before in proptest::collection::vec(any::<u8>(), 0..5),
            after in proptest::collection::vec(any::<u8>(), 0..5),
        ) {
            let whole = [&before[..], &value[..], &after[..]].concat();
            let hexadecimal: String = whole.iter().map(|b| format!("{b:02x}")).collect();
            prop_assert!(found(STANDARD_NO_PAD.encode(&whole), &value));
            prop_assert!(found(URL_SAFE_NO_PAD.encode(&whole), &value));
            prop_assert!(found(hexadecimal.to_uppercase(), &value));
            prop_assert!(found(hexadecimal, &value));
            prop_assert!(found(percent(&whole, false), &value));
            prop_assert!(found(percent(&whole, true).to_lowercase(), &value));
            prop_assert!(found(whole, &value));
        }

        #[test]
        fn a_text_is_found_however_json_writes_it(value in "\\PC{4,20}|[\"\\\\\n\t/é😀a]{6}") {
            prop_assume!(value.len() >= SHORTEST_VALUE);
            let json = serde_json::to_string(&value).expect("JSON");
            prop_assert!(found(json.replace('/', "\\/"), value.as_bytes()));
            let units: String = value.encode_utf16().map(|u| format!("\\u{u:04X}")).collect();
            prop_assert!(found(units, value.as_bytes()));
            let twice = serde_json::to_string(&json).expect("JSON");
            prop_assert!(found(twice, value.as_bytes()));
        }
    }

    #[test]
    fn a_space_may_be_a_plus() {
        assert!(found("q=correct+horse%21", b"correct horse!"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert!(!found("rotate(orders/orders-db): v16 -> v17", b"hunter2hunter2"));
        assert!(!found("any text", b"any"), "values that short turn up by chance");
        assert!(!found("any text", b""));
    }
}
