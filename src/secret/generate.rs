//! New values, drawn from the operating system's random source.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SecretValue;

/// What a generated value looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ValueSpec {
    /// Characters in the value, 16 to 256.
    #[schemars(range(min = 16, max = 256))]
    pub length: u16,
    /// The characters it is made of.
    pub alphabet: Alphabet,
}

impl Default for ValueSpec {
    fn default() -> Self {
        Self { length: 32, alphabet: Alphabet::Alphanumeric }
    }
}

/// The characters of a generated value. All are ASCII, so SASLprep leaves them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Alphabet {
    /// `A-Z a-z 0-9`: 5.95 bits a character, safe in a URL, a DSN, a shell word and a YAML scalar.
    Alphanumeric,
    /// `A-Z a-z 0-9 - _`: 6 bits a character, safe in a URL.
    UrlSafe,
    /// `0-9 a-f`: 4 bits a character.
    Hex,
}

impl Alphabet {
    const fn characters(self) -> &'static [u8] {
        match self {
            Self::Alphanumeric => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Self::UrlSafe => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
            Self::Hex => b"0123456789abcdef",
        }
    }
}

impl ValueSpec {
    /// A new value. It is built in the buffer that it lives in; nothing is copied.
    ///
    /// # Panics
    /// When the operating system has no random source: there is no safe way to go on.
    #[must_use]
    pub fn generate(&self) -> SecretValue {
        let characters = self.alphabet.characters();
        // Bytes at or above the largest multiple of the alphabet's size are drawn again: no character is likelier.
        let limit = 256 - 256 % characters.len();
        let mut value = SecretValue::new(vec![0; usize::from(self.length)]);
        let mut draws = Zeroizing::new([0_u8; 64]);
        let mut next = draws.len();
        for slot in &mut *value.0 {
            *slot = loop {
                if next == draws.len() {
                    getrandom::fill(&mut *draws).expect("the operating system has a random source");
                    next = 0;
                }
                let draw = usize::from(draws[next]);
                next += 1;
                if draw < limit {
                    break characters[draw % characters.len()];
                }
            };
        }
        value
    }

    /// How hard the value is to guess, in bits.
    #[must_use]
    pub fn entropy_bits(&self) -> f64 {
        f64::from(self.length) * (self.alphabet.characters().len() as f64).log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_length_and_alphabet_asked_for_and_differ() {
        for alphabet in [Alphabet::Alphanumeric, Alphabet::UrlSafe, Alphabet::Hex] {
            let spec = ValueSpec { length: 40, alphabet };
            let (one, two) = (spec.generate(), spec.generate());
            assert_eq!(one.expose().len(), 40);
            assert!(one.expose().iter().all(|b| alphabet.characters().contains(b)));
            assert_ne!(one, two);
        }
    }

    #[test]
    fn no_character_is_likelier_than_another() {
        let spec = ValueSpec { length: 256, alphabet: Alphabet::Alphanumeric };
        let mut counts = [0_u32; 256];
        for _ in 0..400 {
            for byte in spec.generate().expose() {
                counts[usize::from(*byte)] += 1;
            }
        }
        // 102,400 draws over 62 characters: 1,652 each; 8 standard deviations are 325.
        let seen: Vec<u32> = counts.into_iter().filter(|count| *count > 0).collect();
        assert_eq!(seen.len(), 62);
        assert!(seen.iter().all(|count| (1_327..=1_977).contains(count)), "{seen:?}");
    }

    #[test]
    fn the_default_is_beyond_guessing() {
        assert!(ValueSpec::default().entropy_bits() > 128.0);
    }
}
