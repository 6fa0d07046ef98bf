//! A value that no target checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::Principal;

/// No target: a random value that only its readers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratedSpec {
    /// The name beside the value, for stores and templates that carry one.
    #[serde(default = "generated_principal")]
    pub principal: Principal,
    /// The value before stays beside the new one, as its part `previous`, so that what was made with it is still
    /// taken. A containment drops it: both are the new one then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ring: bool,
}

fn generated_principal() -> Principal {
    "generated".parse().expect("a literal principal")
}
