//! A place at another system that applications read, told by a recipe.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::is_loopback;
use crate::ident::DnsLabel;
use crate::recipe::{ConsumerRecipe, Parameters, is_base};

/// A place at another system, such as a variable of a pipeline. Jobs that run keep what they began with: let
/// `retire.grace` be as long as the longest one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPlaceSpec {
    /// How it is read and written: the name of a recipe for consumers beside the policies, or of one that rekeyd brings
    /// along.
    pub recipe: DnsLabel,
    /// Where requests go, where the recipe does not say it or means another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The credential that rekeyd logs in with, by its name in the settings; its `hosts` have to name the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<DnsLabel>,
    /// Further credentials that the recipe asks for, by their names in the settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, DnsLabel>,
    /// What the recipe asks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// What is written: a template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other name is
    /// an error. Where two users take turns, let one place have both parts: two places are never written at once.
    #[serde(default = "value_alone")]
    pub content: String,
    /// Makes the place where there is none. Otherwise somebody else has to.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub create: bool,
    /// Takes over a place that rekeyd did not write. Without it such a one is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// The recipe as it was when the policy was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub definition: Option<Box<ConsumerRecipe>>,
}

impl HttpPlaceSpec {
    /// Where requests go.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        let own = self.definition.as_ref().and_then(|recipe| recipe.base.as_deref());
        self.base.as_deref().or(own)
    }

    /// The server that requests go to, with its port where that is not the usual one, and the way to it.
    #[must_use]
    pub fn server(&self) -> String {
        self.url()
            .and_then(|url| {
                let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
                Some(format!("{}{port}{}", url.host_str()?, url.path().trim_end_matches('/')))
            })
            .unwrap_or_else(|| "nowhere".into())
    }

    /// Where they go, read as by the one who sends them.
    fn url(&self) -> Option<Url> {
        self.base().filter(|base| is_base(base)).and_then(|base| Url::parse(base).ok())
    }

    /// What the recipe calls the place; before the recipe was found, everything that the policy says of it.
    #[must_use]
    pub fn name(&self) -> String {
        let named = self.definition.as_ref().and_then(|recipe| recipe.place(&self.parameters));
        named.unwrap_or_else(|| {
            let said = self.parameters.iter().map(|(name, value)| format!(" {name}={}", value.0));
            format!("{}{}", self.recipe, said.collect::<String>())
        })
    }

    /// One text for all the ways to write a place: two consumers of one place are one, whatever their recipes are called.
    #[must_use]
    pub fn place(&self) -> String {
        let server = self.url().map_or_else(String::new, |url| {
            let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
            let host = if is_loopback(&host) { "localhost".to_owned() } else { host };
            let port = url.port_or_known_default().unwrap_or_default();
            format!("{host}:{port}{}", url.path().trim_end_matches('/'))
        });
        format!("{server} {}", self.name())
    }
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
