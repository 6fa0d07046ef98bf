//! New values, drawn from the operating system's random source.
//!
//! A value with rules is drawn from all values of its length and alphabet, and drawn again until it keeps them: of
//! those that do, none is likelier than another. How many do is known exactly ([`ValueSpec::share`]), so a rule that
//! nothing or hardly anything keeps is refused as the policy is read, and so are rules that leave a value to be
//! guessed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::SecretValue;
use super::certificate::CertificateSpec;
use super::ssh_key::SshKeySpec;

/// Of so many values drawn at least one has to keep the rules, on average.
const MOST_DRAWS: f64 = 1_000.0;

/// What a generated value looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ValueSpec {
    /// Characters in the value, 16 to 256.
    #[schemars(range(min = 16, max = 256))]
    pub length: u16,
    /// The characters it is made of.
    pub alphabet: Alphabet,
    /// Further characters, for systems that insist on some: punctuation of ASCII.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub symbols: String,
    /// Characters that it never has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub without: String,
    /// How many it has of each kind, at least.
    #[serde(skip_serializing_if = "AtLeast::is_nothing")]
    pub at_least: AtLeast,
    /// Its first character is a letter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub starts_with_letter: bool,
    /// Instead of characters: an SSH key. The private key is the value, the public one its part `publicKey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_key: Option<SshKeySpec>,
    /// Instead of characters: a key with a certificate. The private key is the value; `certificate` and `authority` are
    /// its parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Box<CertificateSpec>>,
}

impl Default for ValueSpec {
    fn default() -> Self {
        Self {
            length: 32,
            alphabet: Alphabet::Alphanumeric,
            symbols: String::new(),
            without: String::new(),
            at_least: AtLeast::default(),
            starts_with_letter: false,
            ssh_key: None,
            certificate: None,
        }
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

/// How many characters of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AtLeast {
    /// `A-Z`.
    #[serde(skip_serializing_if = "is_zero")]
    pub upper: u16,
    /// `a-z`.
    #[serde(skip_serializing_if = "is_zero")]
    pub lower: u16,
    /// `0-9`.
    #[serde(skip_serializing_if = "is_zero")]
    pub digits: u16,
    /// What is neither a letter nor a digit.
    #[serde(skip_serializing_if = "is_zero")]
    pub symbols: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl AtLeast {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    const fn by_kind(self) -> [u16; 4] {
        [self.upper, self.lower, self.digits, self.symbols]
    }
}

/// The names of the kinds, as policies write them.
const KINDS: [&str; 4] = ["upper", "lower", "digits", "symbols"];

/// Which of [`KINDS`] a character is.
const fn kind(character: u8) -> usize {
    match character {
        b'A'..=b'Z' => 0,
        b'a'..=b'z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    }
}

/// How many characters a value may have.
const LENGTHS: std::ops::RangeInclusive<u16> = 16..=256;

/// A value with fewer bits can be guessed.
const LEAST_BITS: f64 = 80.0;

/// Why no value can be made by some rules, or none that is of use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsatisfiable {
    #[error("`{0}` is no punctuation of ASCII")]
    NotASymbol(char),
    #[error("a value is to have {wanted} of kind `{kind}`, and no such character may be in it")]
    NoneOfKind { kind: &'static str, wanted: u16 },
    #[error("the characters that a value is to have are {wanted}, and its length is {length}")]
    TooMany { wanted: u32, length: u16 },
    #[error("a value is to begin with a letter, and no letter may be in it")]
    NoLetter,
    #[error("no character is left")]
    Nothing,
    #[error("a value of {0} characters is not supported")]
    Length(u16),
    #[error("a value of this length and alphabet has {0} bits: it can be guessed")]
    Guessable(u32),
    #[error("less than one value in {} keeps these rules", MOST_DRAWS)]
    Rare,
}

impl ValueSpec {
    /// A new value of characters. It is built in the buffer that it lives in; nothing is copied.
    ///
    /// Rules that cannot be kept ([`Self::check`]) are not: no policy has them.
    ///
    /// # Panics
    /// When the operating system has no random source: there is no safe way to go on.
    #[must_use]
    pub fn generate(&self) -> SecretValue {
        let characters = self.characters();
        let letters: Vec<u8> = characters.iter().copied().filter(u8::is_ascii_alphabetic).collect();
        let first = if self.starts_with_letter && !letters.is_empty() { &letters } else { &characters };
        let mut value = SecretValue::new(vec![0; usize::from(self.length)]);
        let mut draws = Draws::new();
        // Far more than it takes, so that it ends whatever the rules are.
        for _ in 0..1_000_000 {
            if let Some((head, rest)) = value.0.split_first_mut() {
                *head = draws.one_of(first);
                rest.iter_mut().for_each(|slot| *slot = draws.one_of(&characters));
            }
            if self.keeps_rules(&value) {
                break;
            }
        }
        value
    }

    fn keeps_rules(&self, value: &SecretValue) -> bool {
        let mut counts = [0_u16; 4];
        value.expose().iter().for_each(|character| counts[kind(*character)] += 1);
        counts.iter().zip(self.at_least.by_kind()).all(|(count, wanted)| *count >= wanted)
    }

    /// Every character that may be in it, once.
    fn characters(&self) -> Vec<u8> {
        let mut characters = self.alphabet.characters().to_vec();
        for symbol in self.symbols.bytes() {
            if !characters.contains(&symbol) {
                characters.push(symbol);
            }
        }
        characters.retain(|character| !self.without.as_bytes().contains(character));
        if characters.is_empty() { self.alphabet.characters().to_vec() } else { characters }
    }

    /// Whether a value can be made by these rules.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn check(&self) -> Result<(), Unsatisfiable> {
        if !LENGTHS.contains(&self.length) {
            return Err(Unsatisfiable::Length(self.length));
        }
        if let Some(other) = self.symbols.chars().find(|symbol| !symbol.is_ascii_punctuation()) {
            return Err(Unsatisfiable::NotASymbol(other));
        }
        if self.alphabet.characters().iter().all(|one| self.without.as_bytes().contains(one))
            && self.symbols.bytes().all(|one| self.without.as_bytes().contains(&one))
        {
            return Err(Unsatisfiable::Nothing);
        }
        let sizes = self.sizes(&self.characters());
        for ((kind, wanted), size) in KINDS.into_iter().zip(self.at_least.by_kind()).zip(sizes) {
            if wanted > 0 && size == 0 {
                return Err(Unsatisfiable::NoneOfKind { kind, wanted });
            }
        }
        if self.starts_with_letter && sizes[0] + sizes[1] == 0 {
            return Err(Unsatisfiable::NoLetter);
        }
        let [upper, lower, digits, symbols] = self.at_least.by_kind().map(u32::from);
        // A letter at the front that nothing else asks for takes a place, too.
        let wanted = (upper + lower).max(u32::from(self.starts_with_letter)) + digits + symbols;
        if wanted > u32::from(self.length) {
            return Err(Unsatisfiable::TooMany { wanted, length: self.length });
        }
        if self.share() < 1.0 / MOST_DRAWS {
            return Err(Unsatisfiable::Rare);
        }
        let bits = self.entropy_bits();
        if bits < LEAST_BITS { Err(Unsatisfiable::Guessable(bits as u32)) } else { Ok(()) }
    }

    fn sizes(&self, characters: &[u8]) -> [usize; 4] {
        let mut sizes = [0; 4];
        characters.iter().for_each(|character| sizes[kind(*character)] += 1);
        sizes
    }

    /// How many of the values that are drawn keep the rules: 1 is all.
    #[must_use]
    pub fn share(&self) -> f64 {
        let sizes = self.sizes(&self.characters()).map(|size| size as f64);
        let wanted = self.at_least.by_kind().map(usize::from);
        let length = usize::from(self.length);
        if !self.starts_with_letter || length == 0 {
            return share(length, sizes, wanted);
        }
        let letters = sizes[0] + sizes[1];
        if letters == 0.0 {
            return 0.0;
        }
        let first = |kind: usize| {
            let mut rest = wanted;
            rest[kind] = rest[kind].saturating_sub(1);
            sizes[kind] / letters * share(length - 1, sizes, rest)
        };
        first(0) + first(1)
    }

    /// How hard the value is to guess, in bits: the logarithm of how many there are.
    #[must_use]
    pub fn entropy_bits(&self) -> f64 {
        let characters = self.characters();
        let bits = |count: usize| (count as f64).log2();
        let [upper, lower, ..] = self.sizes(&characters);
        let all = match (self.length, self.starts_with_letter) {
            (0, _) => 0.0,
            (length, true) => bits(upper + lower) + f64::from(length - 1) * bits(characters.len()),
            (length, false) => f64::from(length) * bits(characters.len()),
        };
        (all + self.share().log2()).max(0.0)
    }
}

/// The probability that of so many characters, drawn alike from kinds of these sizes, there are as many of each kind
/// as wanted.
fn share(length: usize, sizes: [f64; 4], wanted: [usize; 4]) -> f64 {
    // For each number of characters that are left: the probability that the kinds from here on get theirs of them.
    let mut rest = vec![1.0; length + 1];
    // The last kind takes all that is left, so it comes first here.
    let mut total = 0.0;
    for kind in (0..4).rev() {
        total += sizes[kind];
        let p = if total > 0.0 { sizes[kind] / total } else { 0.0 };
        let is_last = kind == 3;
        rest = (0..=length)
            .map(|left| {
                if is_last {
                    // What is left is of this kind, whatever it is.
                    return f64::from(u8::from(left >= wanted[kind] && (sizes[kind] > 0.0 || left == 0)));
                }
                binomial(left, p)
                    .zip(0..)
                    .filter(|(_, count)| *count >= wanted[kind])
                    .map(|(probability, count)| probability * rest[left - count])
                    .sum()
            })
            .collect();
    }
    rest[length]
}

/// The probabilities of 0 to `n` successes in `n` trials.
fn binomial(n: usize, p: f64) -> impl Iterator<Item = f64> {
    // By logarithms: powers of small numbers vanish.
    let choose = (0..=n).scan(0.0_f64, move |log, k| {
        if k > 0 {
            *log += ((n - k + 1) as f64 / k as f64).ln();
        }
        Some((k, *log))
    });
    choose.map(move |(k, log)| match (p, k) {
        (p, 0) if p <= 0.0 => 1.0,
        (p, k) if p >= 1.0 => f64::from(u8::from(k == n)),
        (p, _) if p <= 0.0 => 0.0,
        (p, k) => (log + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp(),
    })
}

/// Random bytes, a buffer at a time.
struct Draws {
    bytes: Zeroizing<[u8; 64]>,
    next: usize,
}

impl Draws {
    fn new() -> Self {
        Self { bytes: Zeroizing::new([0; 64]), next: 64 }
    }

    /// One of 1 to 256 characters, none likelier than another.
    fn one_of(&mut self, characters: &[u8]) -> u8 {
        // Bytes at or above the largest multiple of the alphabet's size are drawn again.
        let limit = 256 - 256 % characters.len();
        loop {
            if self.next == self.bytes.len() {
                getrandom::fill(&mut *self.bytes).expect("the operating system has a random source");
                self.next = 0;
            }
            let draw = usize::from(self.bytes[self.next]);
            self.next += 1;
            if draw < limit {
                return characters[draw % characters.len()];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(length: u16) -> ValueSpec {
        ValueSpec { length, ..ValueSpec::default() }
    }

    #[test]
    fn values_have_the_length_and_alphabet_asked_for_and_differ() {
        for alphabet in [Alphabet::Alphanumeric, Alphabet::UrlSafe, Alphabet::Hex] {
            let spec = ValueSpec { alphabet, ..spec(40) };
            let (one, two) = (spec.generate(), spec.generate());
            assert_eq!(one.expose().len(), 40);
            assert!(one.expose().iter().all(|b| alphabet.characters().contains(b)));
            assert_ne!(one, two);
        }
    }

    #[test]
    fn no_character_is_likelier_than_another() {
        let mut counts = [0_u32; 256];
        for _ in 0..400 {
            for byte in spec(256).generate().expose() {
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

    #[test]
    fn rules_are_kept() {
        let spec = ValueSpec {
            symbols: "!#-".into(),
            without: "0O1lI".into(),
            at_least: AtLeast { upper: 2, lower: 2, digits: 3, symbols: 2 },
            starts_with_letter: true,
            ..spec(20)
        };
        assert_eq!(spec.check(), Ok(()));
        let mut of_first = [0_u32; 4];
        for _ in 0..2_000 {
            let value = spec.generate();
            assert_eq!(value.expose().len(), 20);
            assert!(!value.expose().iter().any(|b| b"0O1lI".contains(b)));
            assert!(spec.keeps_rules(&value));
            of_first[kind(value.expose()[0])] += 1;
        }
        assert!(of_first[0] > 800 && of_first[1] > 800, "{of_first:?}");
        assert_eq!(of_first[2] + of_first[3], 0);
    }

    #[test]
    fn the_share_of_values_that_keep_the_rules_is_what_is_drawn() {
        for (alphabet, symbols, at_least, starts) in [
            (Alphabet::Alphanumeric, "", AtLeast { upper: 6, lower: 6, digits: 0, symbols: 0 }, false),
            (Alphabet::Alphanumeric, "!#", AtLeast { upper: 0, lower: 0, digits: 4, symbols: 1 }, true),
            (Alphabet::Hex, "", AtLeast { upper: 0, lower: 4, digits: 9, symbols: 0 }, true),
        ] {
            let spec = ValueSpec {
                alphabet,
                symbols: symbols.into(),
                at_least,
                starts_with_letter: starts,
                ..spec(16)
            };
            let free = ValueSpec { at_least: AtLeast::default(), ..spec.clone() };
            let kept = (0..20_000).filter(|_| spec.keeps_rules(&free.generate())).count() as f64 / 20_000.0;
            // 6 standard deviations of a share of 20,000.
            let deviation = (spec.share() * (1.0 - spec.share()) / 20_000.0).sqrt() * 6.0;
            assert!((kept - spec.share()).abs() < deviation, "{kept} of {}: {spec:?}", spec.share());
        }
        assert!((spec(256).share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn rules_that_nothing_keeps_are_told() {
        let digits = AtLeast { digits: 1, ..AtLeast::default() };
        for (spec, said) in [
            (ValueSpec { symbols: "!é".into(), ..spec(20) }, "`é` is no punctuation"),
            (ValueSpec { symbols: "a".into(), ..spec(20) }, "`a` is no punctuation"),
            (ValueSpec { without: "0123456789".into(), at_least: digits, ..spec(20) }, "of kind `digits`"),
            (
                ValueSpec { at_least: AtLeast { upper: 10, lower: 10, digits: 1, symbols: 0 }, ..spec(20) },
                "are 21, and its length is 20",
            ),
            (
                ValueSpec {
                    at_least: AtLeast { digits: 20, ..AtLeast::default() },
                    starts_with_letter: true,
                    ..spec(20)
                },
                "are 21",
            ),
            (
                ValueSpec { without: "0123456789abcdef".into(), alphabet: Alphabet::Hex, ..spec(20) },
                "no character is left",
            ),
            (
                ValueSpec {
                    without: "abcdef".into(),
                    alphabet: Alphabet::Hex,
                    starts_with_letter: true,
                    ..spec(20)
                },
                "no letter may be in it",
            ),
            (
                ValueSpec { at_least: AtLeast { digits: 14, ..AtLeast::default() }, ..spec(16) },
                "less than one value in 1000",
            ),
        ] {
            let problem = spec.check().expect_err(said).to_string();
            assert!(problem.contains(said), "{problem}");
        }
    }

    #[test]
    fn a_length_that_there_is_none_of_costs_nothing() {
        let digits = AtLeast { digits: 1, ..AtLeast::default() };
        for length in [0, 1, 15, 257, u16::MAX] {
            let asked = ValueSpec { at_least: digits, starts_with_letter: true, ..spec(length) };
            assert_eq!(asked.check(), Err(Unsatisfiable::Length(length)));
        }
        let asked = ValueSpec { alphabet: Alphabet::Hex, ..spec(19) };
        assert_eq!(asked.check(), Err(Unsatisfiable::Guessable(76)));
    }

    #[test]
    fn rules_that_leave_little_to_guess_are_known() {
        let few =
            ValueSpec { without: "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".into(), ..spec(20) };
        assert_eq!(few.check(), Err(Unsatisfiable::Guessable(66)));
        assert!((few.entropy_bits() - 20.0 * 10_f64.log2()).abs() < 1e-6);
    }
}
