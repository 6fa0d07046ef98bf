//! The recipes that rekeyd brings along: those of `policies/recipes`.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::{ConsumerRecipe, ConsumerRecipeDocument, Recipe, RecipeDocument};
use crate::ident::DnsLabel;

macro_rules! shipped {
    ($list:ident: $($name:literal),* $(,)?) => {
        /// Each by its name, as it is written.
        pub const $list: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../policies/recipes/", $name, ".yaml")))),*];
    };
}

shipped!(
    PLACES:
    "github-environment-secret",
    "github-organization-secret",
    "github-secret",
    "gitlab-variable",
);

shipped!(
    ALL:
    "anthropic",
    "azure-application-secret",
    "cloudflare-token",
    "cohere",
    "datadog-api-key",
    "docker-hub",
    "gitea-token",
    "github-app-installation",
    "github-deploy-key",
    "github-token",
    "gitlab-project-token",
    "google-service-account-key",
    "grafana-service-account",
    "openai-service-account",
    "openbao-userpass",
    "rabbitmq-user",
    "sendgrid",
    "slack-token",
    "twilio-api-key",
);

/// Those that can be read; a test holds that all of them can.
static SHIPPED: LazyLock<BTreeMap<DnsLabel, Arc<Recipe>>> = LazyLock::new(|| {
    let read = |&(name, text): &(&str, &str)| {
        let document: RecipeDocument = serde_saphyr::from_str(text).ok()?;
        (document.metadata.name.as_str() == name).then(|| (document.metadata.name, Arc::new(document.spec)))
    };
    ALL.iter().filter_map(read).collect()
});

/// Each by its name.
pub fn all() -> impl Iterator<Item = (&'static DnsLabel, &'static Arc<Recipe>)> {
    SHIPPED.iter()
}

/// The one of that name.
#[must_use]
pub fn find(name: &DnsLabel) -> Option<&'static Arc<Recipe>> {
    SHIPPED.get(name)
}

static SHIPPED_PLACES: LazyLock<BTreeMap<DnsLabel, Arc<ConsumerRecipe>>> = LazyLock::new(|| {
    let read = |&(name, text): &(&str, &str)| {
        let document: ConsumerRecipeDocument = serde_saphyr::from_str(text).ok()?;
        (document.metadata.name.as_str() == name).then(|| (document.metadata.name, Arc::new(document.spec)))
    };
    PLACES.iter().filter_map(read).collect()
});

/// Those for consumers, each by its name.
pub fn places() -> impl Iterator<Item = (&'static DnsLabel, &'static Arc<ConsumerRecipe>)> {
    SHIPPED_PLACES.iter()
}

/// The one for consumers of that name.
#[must_use]
pub fn find_place(name: &DnsLabel) -> Option<&'static Arc<ConsumerRecipe>> {
    SHIPPED_PLACES.get(name)
}
