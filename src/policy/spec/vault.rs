//! What an OpenBao or a Vault makes as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interval;
use crate::ident::{DnsLabel, Principal, StorePath};

/// A login of an OpenBao or a Vault, which makes the values itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultSpec {
    /// The server and how rekeyd logs in there: a store of the settings that is a `vault`, by its name. The value
    /// itself may live in another store.
    pub store: DnsLabel,
    /// What is made there.
    pub strategy: VaultStrategy,
}

/// What is made at an OpenBao or a Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VaultStrategy {
    /// The secret id that a program logs in with, as an AppRole.
    SecretId(SecretIdSpec),
    /// A token.
    Token(TokenSpec),
}

/// The secret ids of an AppRole. The principal beside the value is the accessor of the secret id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretIdSpec {
    /// Where the method is mounted.
    #[serde(default = "default_mount")]
    pub mount: StorePath,
    /// The role.
    pub role: Principal,
    /// What becomes of tokens that were got with a secret id when that is destroyed.
    #[serde(default)]
    pub tokens: DerivedTokens,
}

/// What becomes of tokens that were got with a secret id when that is destroyed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DerivedTokens {
    /// They are found by what their secret id left in them, and revoked. rekeyd has to be allowed to list the
    /// accessors of all tokens.
    #[default]
    Revoke,
    /// They live to their own end. A containment then leaves them to whoever has them.
    Expire,
}

/// A token, which has no parent: it lives on when rekeyd's own ends. The principal beside the value is its accessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenSpec {
    /// Whose token it is: the display name of all that are made for it.
    pub name: Principal,
    /// The token role that it is made with, which has to make orphans. Without one, or where it allows no policies by
    /// name, `policies` are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Principal>,
    /// The policies that it has; those of the role when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub policies: Vec<String>,
    /// How long it lives without being renewed; what the server or the role says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Interval>,
    /// It can be renewed for ever, for so long at a time. rekeyd has to have `sudo` where it makes tokens; a token role
    /// that has a `token_period` itself needs neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Interval>,
}

impl VaultSpec {
    /// Whose keys are made: a role, or the name of a token.
    #[must_use]
    pub const fn owner(&self) -> &Principal {
        match &self.strategy {
            VaultStrategy::SecretId(secret) => &secret.role,
            VaultStrategy::Token(token) => &token.name,
        }
    }
}

impl fmt::Display for VaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.strategy {
            VaultStrategy::SecretId(SecretIdSpec { mount, role, .. }) => {
                write!(f, "{} auth/{mount}/role/{role}", self.store)
            }
            VaultStrategy::Token(TokenSpec { name, .. }) => write!(f, "{} token {name}", self.store),
        }
    }
}

fn default_mount() -> StorePath {
    "approle".parse().expect("a literal path")
}
