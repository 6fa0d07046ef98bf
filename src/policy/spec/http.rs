//! The key of an HTTP API as a target, told by a recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{DnsLabel, Principal};
use crate::recipe::{Parameters, Recipe, RecipeStrategy, Server};

/// A key of an HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSpec {
    /// How its keys are made, tried and revoked: the name of a recipe beside the policies, or of one that rekeyd
    /// brings along.
    pub recipe: DnsLabel,
    /// Whose key it is: the account, the bot or the application, in the provider's words where the recipe uses it.
    pub owner: Principal,
    /// Where requests go, where the recipe does not say it or means another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The credential that makes keys, by its name in the settings; its `hosts` have to name the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<DnsLabel>,
    /// Further credentials that the recipe asks for, by their names in the settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, DnsLabel>,
    /// What the recipe asks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: Parameters,
    /// The recipe as it was when the policy was read: a rotation follows the one that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub definition: Option<Box<Recipe>>,
}

impl HttpSpec {
    /// Where requests go.
    #[must_use]
    pub fn base(&self) -> Option<&str> {
        let own = self.definition.as_ref().and_then(|recipe| recipe.base.as_deref());
        self.base.as_deref().or(own)
    }

    /// How the value changes.
    #[must_use]
    pub const fn strategy(&self) -> RecipeStrategy {
        match &self.definition {
            Some(recipe) => recipe.strategy,
            // Before the recipe was found nothing is held against the policy.
            None => RecipeStrategy::DualKey,
        }
    }

    /// The host that requests go to, with its port where that is not the usual one, for people.
    #[must_use]
    pub fn server(&self) -> String {
        self.base().and_then(Server::of).map_or_else(|| "nowhere".into(), |server| server.to_string())
    }

    /// The server that requests go to, and every further one that the recipe has asked: all of them may get to see a key.
    /// `None` where it is not known of each of them which one that is, which is the same as nothing else.
    #[must_use]
    pub fn servers(&self) -> Option<String> {
        let own = Server::of(self.base()?)?.to_string();
        let further = match &self.definition {
            Some(recipe) => recipe.further_servers(&self.parameters)?,
            None => BTreeSet::new(),
        };
        let others: BTreeSet<_> =
            further.iter().map(ToString::to_string).filter(|server| *server != own).collect();
        Some(others.into_iter().fold(own, |servers, server| format!("{servers} and {server}")))
    }
}

impl fmt::Display for HttpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.recipe, self.server())
    }
}
