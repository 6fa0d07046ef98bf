//! Searches bytes for values, in every form that they are passed on in, whole or in part.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// So many bytes of a value that stand together give it away.
const WINDOW: usize = 12;

/// Values, and where they must not be.
#[derive(Default)]
pub(crate) struct Canaries {
    values: BTreeSet<Vec<u8>>,
}

/// Finds them.
pub(crate) struct Scanner {
    patterns: AhoCorasick,
    forms: Vec<&'static str>,
}

impl Canaries {
    pub(crate) fn add(&mut self, value: &[u8]) {
        assert!(value.len() >= WINDOW, "a value of {} bytes may be anywhere", value.len());
        self.values.insert(value.to_vec());
    }

    pub(crate) fn scanner(&self) -> Scanner {
        let (mut patterns, mut forms) = (BTreeSet::new(), Vec::new());
        for value in &self.values {
            for (form, written, width) in forms_of(value) {
                patterns.extend(written.windows(width).map(|window| (window.to_vec(), form)));
            }
        }
        forms.extend(patterns.iter().map(|(_, form)| *form));
        let patterns = AhoCorasick::new(patterns.iter().map(|(pattern, _)| pattern)).expect("not too many");
        Scanner { patterns, forms }
    }
}

impl Scanner {
    /// The form of the first value that is found, and where.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<(&'static str, usize)> {
        let found = self.patterns.find(bytes)?;
        Some((self.forms[found.pattern().as_usize()], found.start()))
    }
}

/// A value in all forms, each with the width of a window on it.
pub(crate) fn forms_of(value: &[u8]) -> Vec<(&'static str, Vec<u8>, usize)> {
    let hex = |upper: bool| {
        let digit = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
        value.iter().map(digit).collect::<String>().into_bytes()
    };
    let each =
        |form: &dyn Fn(u8) -> String| value.iter().map(|byte| form(*byte)).collect::<String>().into_bytes();
    let units: Vec<u16> = match std::str::from_utf8(value) {
        Ok(text) => text.encode_utf16().collect(),
        Err(_) => value.iter().map(|byte| u16::from(*byte)).collect(),
    };
    let wide = |bytes: fn(u16) -> [u8; 2]| units.iter().flat_map(|unit| bytes(*unit)).collect::<Vec<u8>>();
    let mut forms = vec![
        ("raw", value.to_vec(), WINDOW),
        ("hex", hex(false), 2 * WINDOW),
        ("HEX", hex(true), 2 * WINDOW),
        ("percent", each(&|byte| format!("%{byte:02X}")), 3 * WINDOW),
        ("json", each(&|byte| format!("\\u{byte:04x}")), 6 * WINDOW),
        ("utf16le", wide(u16::to_le_bytes), 2 * WINDOW),
        ("utf16be", wide(u16::to_be_bytes), 2 * WINDOW),
    ];
    for before in 0..3 {
        // What stands before the value in the same group of three, and after it, is not known.
        let padded = [&vec![0; before], value].concat();
        let whole = |text: String| {
            let first = (before * 8).div_ceil(6);
            let last = padded.len() * 8 / 6;
            text.into_bytes()[first..last].to_vec()
        };
        // Of twelve bytes that begin within a group, fifteen letters are theirs alone.
        forms.push(("base64", whole(STANDARD_NO_PAD.encode(&padded)), WINDOW * 4 / 3 - 1));
        forms.push(("base64url", whole(URL_SAFE_NO_PAD.encode(&padded)), WINDOW * 4 / 3 - 1));
    }
    // As encoders write it, which leave most letters as they are.
    let escaped: String = url::form_urlencoded::byte_serialize(value).collect();
    forms.push(("form", escaped.clone().into_bytes(), WINDOW));
    forms.push(("url", escaped.replace('+', "%20").into_bytes(), WINDOW));
    forms.push(("url, lower case", lower_escapes(&escaped).into_bytes(), WINDOW));
    if let Ok(text) = std::str::from_utf8(value) {
        let quoted = serde_json::to_string(text).expect("JSON");
        forms.push(("JSON", quoted.as_bytes()[1..quoted.len() - 1].to_vec(), WINDOW));
        forms.push(("JSON in JSON", serde_json::to_string(&quoted).expect("JSON").into_bytes(), WINDOW));
    }
    forms
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut after = 0;
    let lower = |c: char| {
        after = if c == '%' { 2 } else { i32::max(after - 1, -1) };
        if c != '%' && after >= 0 { c.to_ascii_lowercase() } else { c }
    };
    text.chars().map(lower).collect()
}
