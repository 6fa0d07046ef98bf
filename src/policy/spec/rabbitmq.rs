//! A pair of RabbitMQ users as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsSpec;
use crate::ident::{DnsLabel, Principal};

/// A pair of users of a RabbitMQ, changed over its management API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RabbitmqSpec {
    /// The management API, of any node: users are one for a cluster.
    pub endpoint: RabbitmqEndpoint,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// How the value changes.
    pub strategy: RabbitmqStrategy,
}

/// Where a management API is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RabbitmqEndpoint {
    /// Host name or address.
    pub host: String,
    /// The port of the management API.
    #[serde(default = "management_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// How the connection is protected. A login hands the value itself to the server.
    #[serde(default)]
    pub tls: TlsSpec,
}

/// How a RabbitMQ value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RabbitmqStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(PairSpec),
}

/// Two users that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PairSpec {
    /// The two users.
    pub users: [Principal; 2],
}

impl RabbitmqSpec {
    /// The users that take turns.
    #[must_use]
    pub const fn users(&self) -> &[Principal; 2] {
        let RabbitmqStrategy::Alternating(pair) = &self.strategy;
        &pair.users
    }
}

impl fmt::Display for RabbitmqEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The one with TLS.
const fn management_port() -> u16 {
    15671
}
