//! What stands beside a credential in a store that keeps more than that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Keys and what stands there, fixed by the policy.
pub type Extra = BTreeMap<String, ExtraValue>;

/// Text or a whole number: what the schema of a custom resource can say of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ExtraValue {
    Text(String),
    Number(i64),
}

impl fmt::Display for ExtraValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

// By hand: derived, a wrong kind would be told as "no variant matches".
impl<'de> Deserialize<'de> for ExtraValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = ExtraValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a whole number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ExtraValue, E> {
                Ok(ExtraValue::Text(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ExtraValue, E> {
                Ok(ExtraValue::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ExtraValue, E> {
                let number = i64::try_from(number);
                number.map(ExtraValue::Number).map_err(|_| E::custom("the number is too large"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

// In words that API servers know, who allow no choice of types else.
impl JsonSchema for ExtraValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ExtraValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true})
    }
}
