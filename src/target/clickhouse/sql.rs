//! Parts of statements. Every name and every text goes through [`ident`] or [`literal`].

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::failure::{Failure, FailureClass};
use crate::secret::SecretValue;

/// A text that may hold what a server keeps of a value.
pub(super) type Statement = Zeroizing<String>;

/// A name.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", escaped(name, '`'))
}

/// A text.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", escaped(text, '\''))
}

/// Several texts, for `IN`.
pub(super) fn literals<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<String> = texts.into_iter().map(literal).collect();
    format!("({})", texts.join(", "))
}

/// Several names.
pub(super) fn idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(ident).collect();
    names.join(", ")
}

fn escaped(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0' => out.push_str("\\0"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// Ways to log in with these values and no other; with none, one that nobody has and that is over.
pub(super) fn ways(values: &[&SecretValue]) -> Result<Statement, Failure> {
    let mut list = Zeroizing::new(String::new());
    for value in values {
        let salt = hexadecimal(&random()?);
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(&way(value, &salt));
    }
    if list.is_empty() {
        let (nobodys, salt) = (hexadecimal(&random()?), hexadecimal(&random()?));
        list.push_str(&format!("sha256_hash BY '{}' SALT '{}' VALID UNTIL '{OVER}'", *nobodys, *salt));
    }
    Ok(list)
}

/// A moment long ago.
const OVER: &str = "2000-01-01 00:00:00";

/// The hash is of the value with its salt behind it.
fn way(value: &SecretValue, salt: &str) -> Statement {
    let digest = Zeroizing::new(<[u8; 32]>::from(
        Sha256::new().chain_update(value.expose()).chain_update(salt.as_bytes()).finalize(),
    ));
    Zeroizing::new(format!("sha256_hash BY '{}' SALT '{salt}'", *hexadecimal(&*digest)))
}

fn random() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| {
        Failure::new(FailureClass::Unavailable, "make a salt", "this machine gives no random bytes")
    })?;
    Ok(bytes)
}

/// Upper-case, as servers write it themselves.
fn hexadecimal(bytes: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02X}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec())
    }

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        assert_eq!(ident("app"), "`app`");
        assert_eq!(ident("a`b\\`c'd"), "`a\\`b\\\\\\`c'd`");
        assert_eq!(literal("it's `\\' OR 1"), "'it\\'s `\\\\\\' OR 1'");
        assert_eq!(literal("a\nb\0"), "'a\\nb\\0'");
        assert_eq!(literals(["a", "b'"]), "('a', 'b\\'')");
    }

    #[test]
    fn a_way_is_the_hash_of_value_and_salt() {
        // `SELECT hex(SHA256(concat('secret', 'AB12')))` on ClickHouse 26.9.
        let digest = "DB01A77315A46AAC86B4BB4CB93F12222DA331457EF6163ABE13863B986D06E9";
        assert_eq!(*way(&value("secret"), "AB12"), format!("sha256_hash BY '{digest}' SALT 'AB12'"));
    }

    #[test]
    fn each_way_has_a_salt_of_its_own() {
        let one = value("one");
        let list = ways(&[&one, &one]).expect("random bytes");
        let (first, second) = list.split_once(", ").expect("two");
        assert_ne!(first, second);
        assert!(!list.contains("VALID UNTIL"));
        let none = ways(&[]).expect("random bytes");
        assert!(none.ends_with("VALID UNTIL '2000-01-01 00:00:00'"), "{}", *none);
        assert!(!list.contains("one"));
    }
}
