//! A credential as the bytes that are sealed.
//!
//! `length of the principal (1 byte) || principal || value`; a principal has 1 to 255 bytes. One that has further
//! parts begins with a zero byte instead, and each field with its length (4 bytes, big endian): the principal, the
//! value, and for each part its name and its value.

use zeroize::Zeroizing;

use crate::ident::{PartName, Principal};
use crate::secret::{Credential, Parts, SecretValue};

pub(super) fn encode(credential: &Credential) -> Zeroizing<Vec<u8>> {
    let (principal, value) = (credential.principal.as_str().as_bytes(), credential.value.expose());
    if credential.parts.is_empty() {
        let mut plain = Zeroizing::new(Vec::with_capacity(1 + principal.len() + value.len()));
        plain.push(u8::try_from(principal.len()).expect("a principal has at most 255 bytes"));
        plain.extend_from_slice(principal);
        plain.extend_from_slice(value);
        return plain;
    }
    let mut fields = vec![principal, value];
    for (name, part) in &credential.parts {
        fields.extend([name.as_str().as_bytes(), part.expose()]);
    }
    // Of its full size from the start: one that grows leaves copies behind.
    let size = 1 + fields.iter().map(|field| 4 + field.len()).sum::<usize>();
    let mut plain = Zeroizing::new(Vec::with_capacity(size));
    plain.push(0);
    for field in fields {
        plain.extend_from_slice(&u32::try_from(field.len()).expect("less than 4 GiB").to_be_bytes());
        plain.extend_from_slice(field);
    }
    plain
}

pub(super) fn decode(plain: &[u8]) -> Option<Credential> {
    let (&length, rest) = plain.split_first()?;
    if length > 0 {
        let (principal, value) = rest.split_at_checked(usize::from(length))?;
        return Some(Credential::new(principal_of(principal)?, SecretValue::new(value.to_vec())));
    }
    let mut fields = Fields(rest);
    let (principal, value) = (fields.next()??, fields.next()??);
    let mut parts = Parts::new();
    while let Some(name) = fields.next() {
        let name: PartName = std::str::from_utf8(name?).ok()?.parse().ok()?;
        parts.insert(name, SecretValue::new(fields.next()??.to_vec()));
    }
    let credential = Credential::new(principal_of(principal)?, SecretValue::new(value.to_vec()));
    Some(credential.with_parts(parts))
}

fn principal_of(bytes: &[u8]) -> Option<Principal> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The fields of an entry; `Some(None)` for what is none.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let field = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            rest.split_at_checked(length)
        });
        Some(field.map(|(field, rest)| {
            self.0 = rest;
            field
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(parts: &[(&str, &[u8])]) -> Credential {
        let secret = |bytes: &[u8]| SecretValue::new(bytes.to_vec());
        let parts = parts.iter().map(|(name, part)| (name.parse().expect("a name"), secret(part))).collect();
        Credential::new("app".parse().expect("a principal"), secret(b"\0hunter2")).with_parts(parts)
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let cases: [&[(&str, &[u8])]; 3] =
            [&[], &[("certificate", b"a\nb")], &[("previous", b"\0"), ("refreshToken", b"")]];
        for parts in cases {
            let written = credential(parts);
            assert_eq!(decode(&encode(&written)), Some(written));
        }
    }

    #[test]
    fn the_longest_principal_is_read_as_it_was_written() {
        let principal = "a".repeat(Principal::LONGEST).parse().expect("a principal");
        let written = Credential::new(principal, SecretValue::new(b"hunter2".to_vec()));
        assert_eq!(decode(&encode(&written)), Some(written));
    }

    #[test]
    fn what_is_cut_short_is_no_credential() {
        let whole = encode(&credential(&[("certificate", b"abc"), ("previous", b"de")]));
        // At the end of a part it is a credential with fewer of them: the seal is what keeps it whole.
        let ends: Vec<_> = (1..whole.len()).filter(|end| decode(&whole[..*end]).is_some()).collect();
        assert_eq!(ends.len(), 2, "{ends:?}");
    }
}
