//! The shape of a MariaDB or MySQL target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{AlternatingSpec, InPlaceSpec, TlsSpec, is_loopback};
use crate::ident::{DnsLabel, Principal};

/// An account of a MariaDB or MySQL server, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MysqlSpec {
    /// The server that accounts are changed on: itself, not a proxy that shares sessions.
    pub endpoint: MysqlEndpoint,
    /// Further endpoints that must accept the candidate before it is promoted: replicas, proxies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_verify: Vec<MysqlEndpoint>,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// The host part of the accounts: `%` is any host.
    #[serde(
        default = "any_host",
        skip_serializing_if = "is_any_host",
        deserialize_with = "in_small_letters"
    )]
    pub account_host: String,
    /// How the accounts prove their value. As it is now when absent, and the best that the server has for a
    /// new account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<MysqlAuthentication>,
    /// How the value changes.
    pub strategy: MysqlStrategy,
    /// A statement that must succeed with the candidate, besides the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Where a MariaDB or MySQL server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MysqlEndpoint {
    /// Host name, address, or the absolute path of a Unix socket.
    pub host: String,
    /// The server's port.
    #[serde(default = "mysql_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The database that logins are tried on; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    #[serde(default)]
    pub tls: TlsSpec,
}

impl MysqlEndpoint {
    /// Whether the host is the path of a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether the connection does not leave this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_socket() || is_loopback(&self.host)
    }
}

impl fmt::Display for MysqlEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_socket() {
            f.write_str(&self.host)?;
        } else {
            write!(f, "{}:{}", self.host, self.port)?;
        }
        self.database.as_ref().map_or(Ok(()), |database| write!(f, "/{database}"))
    }
}

const fn mysql_port() -> u16 {
    3306
}

fn any_host() -> String {
    "%".to_owned()
}

/// As the servers keep the host parts of accounts, whatever they were made with.
fn in_small_letters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.to_ascii_lowercase())
}

fn is_any_host(host: &str) -> bool {
    host == "%"
}

/// How an account proves its value. The server keeps something that the value cannot be read from, and rekeyd
/// computes it, so that a value is never sent in a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MysqlAuthentication {
    /// MariaDB: a signature. Nothing that the server keeps or that passes the network lets one log in.
    Ed25519,
    /// MySQL: a salted hash. The first login after a change hands the value to the server, over TLS.
    CachingSha2,
    /// Both, older: SHA-1 twice, without a salt.
    Native,
}

/// How a MariaDB or MySQL value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MysqlStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(AlternatingSpec),
    /// One user, whose outgoing value works beside the new one until every reader has moved.
    DualPassword(InPlaceSpec),
    /// One user; readers fail between install and publish.
    InPlace(InPlaceSpec),
}

impl MysqlStrategy {
    /// The users that take turns, or the one.
    #[must_use]
    pub fn users(&self) -> Vec<&Principal> {
        match self {
            Self::Alternating(pair) => pair.users.iter().collect(),
            Self::DualPassword(one) | Self::InPlace(one) => vec![&one.user],
        }
    }
}
