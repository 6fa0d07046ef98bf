//! A ClickHouse user, or a pair of them, as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AlternatingSpec, DualPasswordSpec, TlsSpec};
use crate::ident::{DnsLabel, Principal};

/// A user of a ClickHouse or a pair of them, on one server or on every node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClickhouseSpec {
    /// The HTTP interface of every server that has the user, whether they replicate users or not: each is asked
    /// whether it takes a value. The first is the one that `check` is run on.
    #[schemars(length(min = 1, max = 64))]
    pub nodes: Vec<ClickhouseNode>,
    /// How connections to all of them are protected. A login hands the value itself to the server.
    #[serde(default)]
    pub tls: TlsSpec,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// How the value changes.
    pub strategy: ClickhouseStrategy,
    /// A statement that must succeed with the candidate, besides the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Where a server's HTTP interface is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClickhouseNode {
    /// Host name or address.
    pub host: String,
    /// The port of the HTTP interface.
    #[serde(default = "http_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// How a ClickHouse value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClickhouseStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(AlternatingSpec),
    /// One user, who takes both values until every reader has moved.
    DualPassword(DualPasswordSpec),
}

impl ClickhouseStrategy {
    /// The users that take turns, or the one.
    #[must_use]
    pub fn users(&self) -> Vec<&Principal> {
        match self {
            Self::Alternating(pair) => pair.users.iter().collect(),
            Self::DualPassword(one) => vec![&one.user],
        }
    }
}

impl fmt::Display for ClickhouseNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The first node stands for all.
impl fmt::Display for ClickhouseSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes.as_slice() {
            [] => f.write_str("no node"),
            [node] => node.fmt(f),
            [first, rest @ ..] => write!(f, "{first} and {} more", rest.len()),
        }
    }
}

/// The one with TLS.
const fn http_port() -> u16 {
    8443
}
