//! A policy document as it is written: Kubernetes' envelope around a [`Spec`].

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostic::printable;
use super::spec::Spec;
use crate::ident::{DnsLabel, PolicyName};

/// What to rotate, when, where its value lives and who reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "RotationPolicy")]
pub struct Document {
    pub api_version: ApiVersion,
    pub kind: Kind,
    pub metadata: Metadata,
    pub spec: Spec,
}

/// The version of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    #[serde(rename = "rekeyd.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    RotationPolicy,
}

/// Who the policy is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The policy's name, one of its kind in the namespace.
    pub name: DnsLabel,
    /// Policies of one name in two namespaces are two policies.
    #[serde(default = "default_namespace")]
    pub namespace: DnsLabel,
    /// Select policies, for example those of one team.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Notes for other tools; without effect.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<LabelKey, String>,
}

impl Metadata {
    /// The policy's full name.
    #[must_use]
    pub fn policy_name(&self) -> PolicyName {
        PolicyName::new(self.namespace.clone(), self.name.clone())
    }
}

fn default_namespace() -> DnsLabel {
    "default".parse().expect("a literal label")
}

/// A label's key after Kubernetes: `team`, or `example.com/team`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelKey(Box<str>);

impl LabelKey {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabelKey {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        let is_domain = |prefix: &str| {
            prefix.len() <= 253 && prefix.split('.').all(|part| part.parse::<DnsLabel>().is_ok())
        };
        if prefix.is_none_or(is_domain) && !name.is_empty() && is_label_text(name) {
            Ok(Self(text.into()))
        } else {
            Err(LabelError::NotAKey(shortened(text)))
        }
    }
}

/// A label's value after Kubernetes: up to 63 letters, digits and inner `-`, `_`, `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(Box<str>);

impl LabelValue {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabelValue {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if is_label_text(text) { Ok(Self(text.into())) } else { Err(LabelError::NotAValue(shortened(text))) }
    }
}

/// Why a text is not part of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("`{0}` is not a label key: write for example team or example.com/team")]
    NotAKey(String),
    #[error("`{0}` is not a label value: use up to 63 letters, digits and inner `-`, `_`, `.`")]
    NotAValue(String),
}

fn is_label_text(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && outer(text.bytes().next()) && outer(text.bytes().last())
}

fn shortened(text: &str) -> String {
    printable(&text.chars().take(64).collect::<String>())
}

macro_rules! label_text_form {
    ($($name:ident: $pattern:literal),+ $(,)?) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = LabelError;
            fn try_from(text: String) -> Result<Self, LabelError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(part: $name) -> Self {
                part.0.into()
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    )+};
}

label_text_form! {
    LabelKey: "^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    LabelValue: "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_kubernetes() {
        for key in ["team", "app.kubernetes.io/name", "a_b.c-D"] {
            assert!(key.parse::<LabelKey>().is_ok(), "{key} was refused");
        }
        for key in ["", "/a", "a/", "a/b/c", "-a", "Example.com/a", "a..b/c", &"a".repeat(64)] {
            assert!(key.parse::<LabelKey>().is_err(), "{key:?} was taken");
        }
        for value in ["", "payments", "v1.2_3-x"] {
            assert!(value.parse::<LabelValue>().is_ok(), "{value:?} was refused");
        }
        for value in ["-a", "a-", "a b", "a/b", &"a".repeat(64)] {
            assert!(value.parse::<LabelValue>().is_err(), "{value:?} was taken");
        }
    }
}
