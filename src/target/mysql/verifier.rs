//! What a server keeps of a value, computed here so that the value does not travel.
//!
//! | method | what is kept | source |
//! |---|---|---|
//! | `mysql_native_password` | `*` and the hex digits of SHA1(SHA1(value)) | MySQL's protocol documentation |
//! | `ed25519` | the public key whose secret scalar is SHA-512(value), in Base64 without padding | MariaDB's `auth_ed25519` |
//! | `caching_sha2_password` | `$A$`, [`Rounds`] in thousands as three hex digits, `$`, 20 bytes of salt, SHA-crypt | MySQL's WL#9591 and `caching_sha2_password_digest_rounds`, and Drepper's SHA-crypt |
//!
//! The first two have no salt: who knows a value knows what is kept of it, so what an account holds can be
//! compared with a value. The third is compared with its own salt.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use curve25519_dalek::edwards::EdwardsPoint;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::policy::spec::MysqlAuthentication;
use crate::secret::SecretValue;

/// The salt of `caching_sha2_password`.
const SALT: usize = 20;

/// And the digest's characters.
const DIGEST: usize = 43;

/// How many times `caching_sha2_password` hashes, in thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rounds(u16);

impl Rounds {
    /// What a server does that was not told otherwise, and the least that one does.
    pub(super) const LEAST: Self = Self(5);

    /// Of a server's `caching_sha2_password_digest_rounds`, which keeps whole thousands only.
    pub(super) fn configured(rounds: &str) -> Option<Self> {
        let thousands = rounds.parse::<u32>().ok()? / 1_000;
        Some(Self(u16::try_from(thousands).ok()?.clamp(Self::LEAST.0, 0xfff)))
    }

    /// Of what a server keeps, and what comes after them.
    fn of(kept: &[u8]) -> Option<(Self, &[u8])> {
        let (digits, rest) = kept.strip_prefix(b"$A$")?.split_at_checked(3)?;
        let is_number = digits.iter().all(u8::is_ascii_hexdigit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
        let thousands = u16::from_str_radix(digits, 16).ok().filter(|thousands| *thousands > 0)?;
        Some((Self(thousands), rest.strip_prefix(b"$")?))
    }

    const fn number(self) -> usize {
        self.0 as usize * 1_000
    }
}

/// Whether to compare a value with what a server keeps takes long enough to hold up others.
pub(super) fn is_slow(plugin: &str, kept: &[u8]) -> bool {
    plugin == MysqlAuthentication::CachingSha2.plugin()
        && Rounds::of(kept).is_some_and(|(rounds, _)| rounds != Rounds::LEAST)
}

impl MysqlAuthentication {
    /// The plugin's name at a server.
    pub(super) const fn plugin(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Native => "mysql_native_password",
        }
    }

    pub(super) fn of_plugin(name: &str) -> Option<Self> {
        [Self::Ed25519, Self::CachingSha2, Self::Native].into_iter().find(|method| method.plugin() == name)
    }
}

/// What the server is to keep of a value.
pub(super) fn verifier(
    method: MysqlAuthentication,
    value: &SecretValue,
    rounds: Rounds,
) -> Zeroizing<Vec<u8>> {
    match method {
        MysqlAuthentication::Native => native(value),
        MysqlAuthentication::Ed25519 => ed25519(value),
        MysqlAuthentication::CachingSha2 => caching_sha2(value, &salt(), rounds),
    }
}

/// Whether what a server keeps is of this value.
pub(super) fn holds(plugin: &str, kept: &[u8], value: &SecretValue) -> bool {
    let ours = match MysqlAuthentication::of_plugin(plugin) {
        Some(MysqlAuthentication::Native) => native(value),
        Some(MysqlAuthentication::Ed25519) => ed25519(value),
        Some(MysqlAuthentication::CachingSha2) => {
            let Some((rounds, rest)) = Rounds::of(kept) else { return false };
            // One of another length would be hashed for nothing.
            let Some(salt) = rest.get(..SALT).filter(|_| rest.len() == SALT + DIGEST) else { return false };
            caching_sha2(value, salt, rounds)
        }
        None => return false,
    };
    ours.ct_eq(kept).into()
}

fn native(value: &SecretValue) -> Zeroizing<Vec<u8>> {
    use sha1::{Digest as _, Sha1};
    let twice = Sha1::digest(Sha1::digest(value.expose()));
    let hex = twice.iter().map(|byte| format!("{byte:02X}"));
    Zeroizing::new(std::iter::once("*".to_owned()).chain(hex).collect::<String>().into_bytes())
}

fn ed25519(value: &SecretValue) -> Zeroizing<Vec<u8>> {
    let digest = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(value.expose())));
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&digest[..32]);
    let public = EdwardsPoint::mul_base_clamped(*scalar).compress();
    Zeroizing::new(STANDARD_NO_PAD.encode(public.as_bytes()).into_bytes())
}

/// Bytes of a salt: never zero, never `$`, and 7 bits only, as the server makes them.
fn salt() -> [u8; SALT] {
    let mut salt = [0; SALT];
    // Failing to get random bytes is not survivable, as everywhere.
    getrandom::fill(&mut salt).expect("the system gives random bytes");
    salt.map(|byte| match byte & 0x7f {
        0 | b'$' => b'.',
        byte => byte,
    })
}

fn caching_sha2(value: &SecretValue, salt: &[u8], rounds: Rounds) -> Zeroizing<Vec<u8>> {
    let mut kept = Zeroizing::new(format!("$A${:03X}$", rounds.0).into_bytes());
    kept.extend_from_slice(salt);
    kept.extend_from_slice(&sha_crypt(value.expose(), salt, rounds.number()));
    kept
}

/// <https://www.akkadia.org/drepper/SHA-crypt.txt> with SHA-256, and without its limit of 16 bytes for a salt:
/// that limit is why the crate `sha-crypt` cannot be used.
fn sha_crypt(value: &[u8], salt: &[u8], rounds: usize) -> Zeroizing<Vec<u8>> {
    let b = Sha256::new().chain_update(value).chain_update(salt).chain_update(value).finalize();
    let repeat = |digest: &[u8], length: usize| -> Zeroizing<Vec<u8>> {
        Zeroizing::new(digest.iter().copied().cycle().take(length).collect())
    };
    let mut a = Sha256::new().chain_update(value).chain_update(salt);
    a.update(&**repeat(&b, value.len()));
    let mut bits = value.len();
    while bits > 0 {
        if bits & 1 == 1 {
            a.update(b)
        } else {
            a.update(value)
        }
        bits >>= 1;
    }
    let mut digest = a.finalize();

    let mut p = Sha256::new();
    (0..value.len()).for_each(|_| p.update(value));
    let p = repeat(&p.finalize(), value.len());
    let mut s = Sha256::new();
    (0..16 + usize::from(digest[0])).for_each(|_| s.update(salt));
    let s = repeat(&s.finalize(), salt.len());
    for round in 0..rounds {
        let mut c = Sha256::new();
        if round % 2 == 1 {
            c.update(&**p)
        } else {
            c.update(digest)
        }
        if !round.is_multiple_of(3) {
            c.update(&**s);
        }
        if !round.is_multiple_of(7) {
            c.update(&**p);
        }
        if round % 2 == 1 {
            c.update(digest)
        } else {
            c.update(&**p)
        }
        digest = c.finalize();
    }
    encode(&digest.into())
}

/// SHA-crypt's own Base64: three bytes at a time, in its order, the least significant digit first.
fn encode(digest: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = Zeroizing::new(Vec::with_capacity(43));
    let mut push = |number: u32, digits: usize| {
        text.extend((0..digits).map(|digit| DIGITS[(number >> (6 * digit)) as usize & 0x3f]));
    };
    let (mut one, mut two, mut three) = (0, 10, 20);
    for _ in 0..10 {
        let [a, b, c] = [digest[one], digest[two], digest[three]].map(u32::from);
        push(a << 16 | b << 8 | c, 4);
        (one, two, three) = (three + 1, one + 1, two + 1);
    }
    push(u32::from(digest[31]) << 8 | u32::from(digest[30]), 3);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec())
    }

    #[test]
    fn verifiers_are_those_of_the_servers() {
        // `SELECT PASSWORD('new')` and `ed25519 USING PASSWORD('new')` on MariaDB 10.11.
        assert_eq!(&**native(&value("old")), b"*CD02AC33DE7D3D2AFEDF5F2BAB51B07CDB499E79");
        assert_eq!(&**ed25519(&value("new")), b"2Myhib04x6YbkKFUPRi2sDYC70U9V12xITjrzW+EOtY");
        assert_eq!(&**ed25519(&value("old")), b"dlNojf0wXTZgcRfYqLyUfMBmV1l8ergCEesvpvjbwdc");
        // Test vectors of the SHA-crypt specification, for 5,000 and for 10,000 rounds.
        let crypt = |value: &str, salt: &str, rounds| sha_crypt(value.as_bytes(), salt.as_bytes(), rounds);
        assert_eq!(
            &**crypt("Hello world!", "saltstring", 5_000),
            b"5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"
        );
        assert_eq!(
            &**crypt("Hello world!", "saltstringsaltst", 10_000),
            b"3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"
        );
    }

    #[test]
    fn what_is_kept_is_of_one_value_only() {
        let methods =
            [MysqlAuthentication::Native, MysqlAuthentication::Ed25519, MysqlAuthentication::CachingSha2];
        for (method, rounds) in
            methods.into_iter().flat_map(|method| [(method, Rounds::LEAST), (method, Rounds(7))])
        {
            let kept = verifier(method, &value("one"), rounds);
            assert!(holds(method.plugin(), &kept, &value("one")), "{method:?}");
            assert!(!holds(method.plugin(), &kept, &value("other")), "{method:?}");
            assert!(!holds("unix_socket", &kept, &value("one")), "{method:?}");
            assert!(!holds(method.plugin(), b"", &value("one")), "{method:?}");
        }
        let kept = verifier(MysqlAuthentication::CachingSha2, &value("one"), Rounds::LEAST);
        assert_eq!(kept.len(), 70);
        assert!(!kept.contains(&0));
        let again = verifier(MysqlAuthentication::CachingSha2, &value("one"), Rounds::LEAST);
        assert_ne!(*kept, *again, "it has a salt");
    }

    #[test]
    fn a_hash_says_how_many_rounds_it_has() {
        let sha2 = MysqlAuthentication::CachingSha2;
        // MySQL 8.0.31 with caching_sha2_password_digest_rounds = 10000, of `one`.
        let kept = b"$A$00A$\x16\x18\x16\x06\x05\x1eLG\x10\x0bWO~D\x01,dx:\x07Y8U8LncK2pq59vAX32w048JK8cIuqKAEUkhAqpWBnw8";
        assert_eq!(Rounds::of(kept).map(|(rounds, _)| rounds.number()), Some(10_000));
        assert!(holds(sha2.plugin(), kept, &value("one")) && !holds(sha2.plugin(), kept, &value("two")));
        assert!(is_slow(sha2.plugin(), kept));
        assert!(verifier(sha2, &value("one"), Rounds(10)).starts_with(b"$A$00A$"));
        assert!(!is_slow(sha2.plugin(), &verifier(sha2, &value("one"), Rounds::LEAST)));
        let odd = [&b"$A$000$"[..], b"$A$+05$", b"$A$00", b"$A$00G$", b"$A$0005$", b"$B$005$"];
        for damaged in odd {
            let rest = [damaged, &[b'.'; 63]].concat();
            assert!(Rounds::of(&rest).is_none(), "{}", rest.escape_ascii());
            assert!(!holds(sha2.plugin(), &rest, &value("one")));
        }
        for (said, rounds) in [("5000", 5), ("10000", 10), ("12999", 12), ("4095000", 4095), ("1", 5)] {
            assert_eq!(Rounds::configured(said), Some(Rounds(rounds)), "{said}");
        }
        assert_eq!(Rounds::configured("99999999999"), None);
    }
}
