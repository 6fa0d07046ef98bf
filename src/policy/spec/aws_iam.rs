//! A user of AWS IAM as a target.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{DnsLabel, Principal};

/// The access keys of a user of AWS IAM, which makes them itself. The principal beside the value is the id of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsIamSpec {
    /// The account and how rekeyd logs in there: a store of the settings that is an `awsSecretsManager`, by its name.
    /// The value itself may live in another store.
    pub store: DnsLabel,
    /// The user. It must not have more than one key that is not rekeyd's: two are all that there may be.
    pub user: Principal,
}

impl fmt::Display for AwsIamSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} user {}", self.store, self.user)
    }
}
