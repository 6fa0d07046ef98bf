//! A copy of a value in a store, under a path of its own, as a place that applications read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{DnsLabel, StorePath};

/// A copy in a KV version 2 mount, for those who have no right at the value's own path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultCopySpec {
    /// The store whose server and login are used, by its name in the settings.
    pub store: DnsLabel,
    /// The mount; the store's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<StorePath>,
    /// Where in the mount the copy is.
    pub path: StorePath,
    /// The fields, each with a template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other
    /// name is an error.
    #[serde(default = "name_and_value")]
    pub data: BTreeMap<String, String>,
    /// The field that says whose the copy is and which version it holds.
    #[serde(default = "mark_field", skip_serializing_if = "is_mark_field")]
    pub mark: String,
    /// Takes over a secret that rekeyd did not write and that holds no field but those of `data`. Without it such a one is
    /// refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
}

/// A copy in a secret of AWS Secrets Manager, for those who have no right at the value's own: a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsCopySpec {
    /// The store whose region and login are used, by its name in the settings.
    pub store: DnsLabel,
    /// The secret's name.
    pub name: StorePath,
    /// The keys, each with a template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other
    /// name is an error.
    #[serde(default = "name_and_value")]
    pub data: BTreeMap<String, String>,
    /// The key that says whose the copy is and which version it holds.
    #[serde(default = "mark_field", skip_serializing_if = "is_mark_field")]
    pub mark: String,
    /// Takes over a secret that rekeyd did not write and that holds no key but those of `data`. Without it such a one is
    /// refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
}

/// What the copies of all stores have.
#[derive(Debug, Clone, Copy)]
pub struct CopyContent<'a> {
    pub data: &'a BTreeMap<String, String>,
    pub mark: &'a str,
    pub adopt: bool,
}

impl VaultCopySpec {
    #[must_use]
    pub fn content(&self) -> CopyContent<'_> {
        CopyContent { data: &self.data, mark: &self.mark, adopt: self.adopt }
    }
}

impl AwsCopySpec {
    #[must_use]
    pub fn content(&self) -> CopyContent<'_> {
        CopyContent { data: &self.data, mark: &self.mark, adopt: self.adopt }
    }
}

fn name_and_value() -> BTreeMap<String, String> {
    [("username", "{{ principal }}"), ("password", "{{ value }}")]
        .map(|(field, template)| (field.to_owned(), template.to_owned()))
        .into()
}

fn mark_field() -> String {
    "rekeyd".into()
}

fn is_mark_field(field: &str) -> bool {
    field == "rekeyd"
}
