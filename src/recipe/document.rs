//! A recipe document as it is written: Kubernetes' envelope around a [`Recipe`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
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

/// What a policy says for a parameter: text, a number, true or false, a list or a map of such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterValue(pub Value);

/// What policies say for the parameters of a recipe.
pub type Parameters = BTreeMap<String, ParameterValue>;

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
