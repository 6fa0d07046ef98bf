//! A credential of Jenkins as a place that applications read.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::is_loopback;
use crate::ident::DnsLabel;

/// A credential of a Jenkins, in its own store or in that of a folder. Builds that run keep what they began with: let
/// `retire.grace` be as long as the longest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JenkinsSpec {
    /// `https://ci.example.com/jenkins`; plain http only on loopback.
    pub url: String,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The credential that rekeyd logs in with, by its name in the settings: a user and its API token. It has to say its
    /// `hosts`.
    pub admin: DnsLabel,
    /// The folder in whose store the credential is, `team/orders`; Jenkins' own store when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The domain in the store; `_` is the global one.
    #[serde(default = "global_domain", skip_serializing_if = "is_global_domain")]
    pub domain: String,
    /// The credential's id: what pipelines name it by.
    pub id: String,
    /// What kind of credential it is.
    pub credential: JenkinsCredential,
    /// Who may use it, where rekeyd makes it. One that is there keeps its own.
    #[serde(default, skip_serializing_if = "JenkinsScope::is_global")]
    pub scope: JenkinsScope,
    /// Makes the credential where there is none. Otherwise somebody else has to.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub create: bool,
    /// Takes over a credential that rekeyd did not write. Without it such a one is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
}

/// What kind of credential it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JenkinsCredential {
    /// A user name and a password: the principal and its value.
    UsernamePassword(JenkinsPair),
    /// A text.
    SecretText(JenkinsText),
    /// A file.
    File(JenkinsFile),
}

/// A user name and a password: the principal and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JenkinsPair {}

/// A secret text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JenkinsText {
    /// A template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other name is an error.
    #[serde(default = "value_alone")]
    pub content: String,
}

/// A secret file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JenkinsFile {
    /// The name that builds find it by.
    pub name: String,
    /// A template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other name is an error.
    pub content: String,
}

/// Who may use a credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum JenkinsScope {
    /// Whatever Jenkins runs, below the folder.
    #[default]
    Global,
    /// Jenkins itself and its agents, and no build.
    System,
}

impl JenkinsScope {
    /// As Jenkins writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "GLOBAL",
            Self::System => "SYSTEM",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    const fn is_global(&self) -> bool {
        matches!(self, Self::Global)
    }
}

impl JenkinsSpec {
    /// Its template, and where that stands in the consumer.
    pub(crate) fn template(&self) -> Option<(Vec<String>, &str)> {
        let (kind, content) = match &self.credential {
            JenkinsCredential::UsernamePassword(_) => return None,
            JenkinsCredential::SecretText(text) => ("secretText", &text.content),
            JenkinsCredential::File(file) => ("file", &file.content),
        };
        Some((["jenkins", "credential", kind, "content"].map(String::from).to_vec(), content))
    }

    /// Where Jenkins is; `None` where the text is no address.
    #[must_use]
    pub fn address(&self) -> Option<Url> {
        Url::parse(&self.url).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host())
    }

    /// The host that the admin logs in at, as `hosts` of the settings name it.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        let url = self.address()?;
        Some(url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned())
    }

    /// The names of the folders that lead to the store.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.folder.as_deref().into_iter().flat_map(|folder| folder.trim_matches('/').split('/'))
    }

    /// One text for all the ways to write a place: two consumers of one place are one.
    #[must_use]
    pub fn place(&self) -> String {
        let server = self.address().map_or_else(
            || self.url.clone(),
            |url| {
                let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
                let host = if is_loopback(&host) { "localhost".to_owned() } else { host };
                let port = url.port_or_known_default().unwrap_or_default();
                format!("{host}:{port}{}", url.path().trim_end_matches('/'))
            },
        );
        let folders: Vec<&str> = self.folders().collect();
        format!("{server} {} {} {}", folders.join("/"), self.domain, self.id)
    }
}

fn global_domain() -> String {
    "_".into()
}

fn is_global_domain(domain: &str) -> bool {
    domain == "_"
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_yes(is: &bool) -> bool {
    *is
}

fn value_alone() -> String {
    "{{ value }}".into()
}
