//! The value of a secret: a JSON object, as AWS's own clients read it.

use std::fmt;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::copies::Fields;
use crate::policy::spec::{Extra, ExtraValue, FieldNames};
use crate::secret::{Credential, Parts, SecretValue};

/// The service takes no more, in bytes.
pub(super) const LONGEST: usize = 65_536;

/// Why a value cannot be read or written. Shows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfit {
    NotAnObject,
    NoText(String),
    NotAPrincipal(String),
    NotUtf8,
    TooLong(usize),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("its value is not a JSON object"),
            Self::NoText(key) => write!(f, "it has no key `{}` that holds text", key.escape_default()),
            // The text may be anything, a value under the wrong key too: it is not shown.
            Self::NotAPrincipal(key) => {
                write!(f, "key `{}` does not hold a principal", key.escape_default())
            }
            Self::NotUtf8 => f.write_str("the value is not UTF-8 text"),
            Self::TooLong(length) => {
                write!(f, "it would have {length} bytes, and a secret has at most {LONGEST}")
            }
        }
    }
}

/// The credential in a text.
pub(super) fn credential(text: &str, fields: &FieldNames) -> Result<Credential, Unfit> {
    let mut object: Map<String, Value> = serde_json::from_str(text).map_err(|_| Unfit::NotAnObject)?;
    let value = SecretValue::new(take_text(&mut object, &fields.value)?.into_bytes());
    let principal = take_text(&mut object, &fields.principal)?.parse();
    let principal = principal.map_err(|_| Unfit::NotAPrincipal(fields.principal.clone()))?;
    let mut parts = Parts::new();
    for (name, key) in &fields.parts {
        if !object.contains_key(key) {
            continue;
        }
        parts.insert(name.clone(), SecretValue::new(take_text(&mut object, key)?.into_bytes()));
    }
    Ok(Credential::new(principal, value).with_parts(parts))
}

/// Takes a text out, so that there is no second copy.
fn take_text(object: &mut Map<String, Value>, key: &str) -> Result<String, Unfit> {
    match object.get_mut(key).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(Unfit::NoText(key.to_owned())),
    }
}

/// The text with another credential and the policy's further keys. What else there was stays, unless it was no object.
/// The same for the same, so that a repetition is one to the service.
pub(super) fn compose(
    base: Option<&str>,
    fields: &FieldNames,
    credential: &Credential,
    extra: &Extra,
) -> Result<Zeroizing<String>, Unfit> {
    let mut object: Map<String, Value> =
        base.and_then(|base| serde_json::from_str(base).ok()).unwrap_or_default();
    for (key, value) in extra {
        let value = match value {
            ExtraValue::Text(text) => text.as_str().into(),
            ExtraValue::Number(number) => (*number).into(),
        };
        object.insert(key.clone(), value);
    }
    let value = credential.value.expose_str().map_err(|_| Unfit::NotUtf8)?;
    object.insert(fields.principal.clone(), credential.principal.as_str().into());
    object.insert(fields.value.clone(), value.into());
    for (name, key) in &fields.parts {
        match credential.parts.get(name) {
            Some(part) => {
                let part = part.expose_str().map_err(|_| Unfit::NotUtf8)?;
                object.insert(key.clone(), part.into());
            }
            // It would pass for one of the new value's.
            None => _ = object.remove(key),
        }
    }
    fits(Value::Object(object).to_string())
}

/// The fields of a copy. The same for the same.
pub(super) fn of_fields(fields: &Fields) -> Result<Zeroizing<String>, Unfit> {
    let mut object = Map::new();
    for (key, value) in fields {
        object.insert(key.clone(), value.expose_str().map_err(|_| Unfit::NotUtf8)?.into());
    }
    fits(Value::Object(object).to_string())
}

/// What a control document begins with: the service takes no empty text, and somebody else's is known by its lack.
const DOCUMENT: &str = "rekeyd control document\n";

/// A control document as the secret holds it.
pub(super) fn of_document(document: &SecretValue) -> Result<Zeroizing<String>, Unfit> {
    let document = document.expose_str().map_err(|_| Unfit::NotUtf8)?;
    let mut text = String::with_capacity(DOCUMENT.len() + document.len());
    text.push_str(DOCUMENT);
    text.push_str(document);
    fits(text)
}

/// A control document in a text; `None` when it is none.
pub(super) fn document(text: &str) -> Option<SecretValue> {
    Some(SecretValue::new(text.strip_prefix(DOCUMENT)?.as_bytes().to_vec()))
}

/// A text that the service takes.
fn fits(text: String) -> Result<Zeroizing<String>, Unfit> {
    let text = Zeroizing::new(text);
    if text.len() > LONGEST { Err(Unfit::TooLong(text.len())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn someone(value: &str) -> Credential {
        Credential::new("app_a".parse().expect("a principal"), SecretValue::new(value.as_bytes().to_vec()))
    }

    #[test]
    fn what_others_put_there_stays() {
        let base = json!({"username": "old", "password": "old", "note": "mine", "port": 1}).to_string();
        let extra = Extra::from([
            ("engine".into(), ExtraValue::Text("postgres".into())),
            ("port".into(), ExtraValue::Number(5432)),
        ]);
        let fields = FieldNames::default();
        let text = compose(Some(&base), &fields, &someone("new"), &extra).expect("a text");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        let expected = json!({"username": "app_a", "password": "new", "note": "mine", "engine": "postgres", "port": 5432});
        assert_eq!(read, expected);
        assert_eq!(credential(&text, &fields).expect("a credential"), someone("new"));
        let plain = compose(Some("plain text"), &fields, &someone("new"), &Extra::new()).expect("a text");
        assert_eq!(
            serde_json::from_str::<Value>(&plain).expect("JSON"),
            json!({"username": "app_a", "password": "new"})
        );
    }

    #[test]
    fn what_is_unfit_is_named_without_its_content() {
        let fields = FieldNames::default();
        for (text, expected) in [
            ("hunter2", "not a JSON object"),
            (r#"["hunter2"]"#, "not a JSON object"),
            (r#"{"username": "u", "hunter2": "hunter2"}"#, "no key `password`"),
            (r#"{"username": "u", "password": ["hunter2"]}"#, "no key `password`"),
            (r#"{"user": "u", "password": "hunter2"}"#, "no key `username`"),
            (
                r#"{"username": " hunter2", "password": "hunter2"}"#,
                "key `username` does not hold a principal",
            ),
        ] {
            let said = credential(text, &fields).expect_err("it is unfit").to_string();
            assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
        }
        let long = compose(None, &fields, &someone(&"x".repeat(LONGEST)), &Extra::new());
        assert_eq!(long.expect_err("it is too long"), Unfit::TooLong(LONGEST + 34));
    }
}
