//! A Redis or Valkey user as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsSpec;
use crate::ident::{DnsLabel, Principal};

/// A user of a Redis or Valkey, on one server or on every node of a replicated set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSpec {
    /// Every server that has the user: users are not replicated, so replicas belong here too. The first is the
    /// one that `check` is run on.
    #[schemars(length(min = 1, max = 64))]
    pub nodes: Vec<RedisNode>,
    /// How connections to all of them are protected. A login hands the value itself to the server.
    #[serde(default)]
    pub tls: TlsSpec,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// How the value changes.
    pub strategy: RedisStrategy,
    /// A command that must succeed with the candidate, besides the login, word by word: `[GET, health]`. One that only
    /// reads, by the node's own list (`ACL CAT read`), or `PING`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<String>,
}

/// Where a server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisNode {
    /// Host name or address.
    pub host: String,
    /// The server's port.
    #[serde(default = "redis_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// How a Redis value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RedisStrategy {
    /// One user, who takes both values until every reader has moved.
    DualPassword(DualPasswordSpec),
}

/// One user, who takes two values at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DualPasswordSpec {
    /// The user whose password changes.
    pub user: Principal,
}

impl RedisSpec {
    /// The user that a rotation changes.
    #[must_use]
    pub const fn user(&self) -> &Principal {
        let RedisStrategy::DualPassword(dual) = &self.strategy;
        &dual.user
    }
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The first node stands for all.
impl fmt::Display for RedisSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes.as_slice() {
            [] => f.write_str("no node"),
            [node] => node.fmt(f),
            [first, rest @ ..] => write!(f, "{first} and {} more", rest.len()),
        }
    }
}

const fn redis_port() -> u16 {
    6379
}
