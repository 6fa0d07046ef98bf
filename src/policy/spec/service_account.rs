//! A service account of a cluster as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interval;
use crate::ident::{DnsLabel, Principal};

/// The tokens of a service account of a cluster, which makes them itself. Each is bound to a Secret of rekeyd's own, and
/// dies with it. The principal beside the value is the name of that Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountSpec {
    /// The cluster, by its name in the settings.
    #[serde(default = "default_cluster")]
    pub cluster: DnsLabel,
    /// Where the account is; the policy's own namespace when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<DnsLabel>,
    /// The account.
    pub service_account: Principal,
    /// How long a token lives.
    pub strategy: ServiceAccountStrategy,
}

/// How long a token of a service account lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServiceAccountStrategy {
    /// Until its Secret is deleted, in which Kubernetes itself keeps it.
    LongLived(LongLivedSpec),
    /// Until its Secret, which is empty, is deleted, and no longer than it says.
    Bound(BoundSpec),
}

/// A token without an end of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LongLivedSpec {}

/// A token that ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoundSpec {
    /// How long it lives. The API server may be set to give out none that lives so long.
    pub expiration: Interval,
}

impl ServiceAccountSpec {
    /// Where the account is.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_ref().map_or("default", DnsLabel::as_str)
    }
}

impl fmt::Display for ServiceAccountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.cluster, self.namespace(), self.service_account)
    }
}

fn default_cluster() -> DnsLabel {
    "main".parse().expect("a literal label")
}
