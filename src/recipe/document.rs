//! A recipe document as it is written: Kubernetes' envelope around a [`Recipe`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Recipe;
use crate::ident::DnsLabel;
use crate::policy::document::ApiVersion;

/// How the keys of a provider are rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Recipe")]
pub struct RecipeDocument {
    pub api_version: ApiVersion,
    pub kind: RecipeKind,
    pub metadata: RecipeMetadata,
    pub spec: Recipe,
}

/// The kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecipeKind {
    Recipe,
}

/// What a recipe is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecipeMetadata {
    /// The name by which policies know it. One of a name that rekeyd brings along takes its place.
    pub name: DnsLabel,
}

/// A body in JSON whose texts are templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Body(pub Value);

impl JsonSchema for Body {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Body".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "Any JSON; its texts are templates."})
    }
}

/// What a policy says for a parameter: text, a number, true or false, or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ParameterValue {
    Text(String),
    Number(i64),
    Truth(bool),
    List(Vec<String>),
}

/// What policies say for the parameters of a recipe.
pub type Parameters = BTreeMap<String, ParameterValue>;

// By hand: derived, a wrong kind would be told as "no variant matches".
impl<'de> Deserialize<'de> for ParameterValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = ParameterValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number, true or false, or a list of texts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Text(text.to_owned()))
            }
            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Truth(truth))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ParameterValue, E> {
                let number = i64::try_from(number);
                number.map(ParameterValue::Number).map_err(|_| E::custom("the number is too large"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ParameterValue, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(ParameterValue::List(list))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

// In words that API servers know, who allow no choice of types.
impl JsonSchema for ParameterValue {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ParameterValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-preserve-unknown-fields": true})
    }
}
