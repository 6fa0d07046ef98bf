//! How long a person may take for what only a person can do.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Interval, Spec, TargetSpec};
use crate::recipe::RecipeStrategy;

/// Where a person makes or revokes a key: how long that may take, and how often they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ByHandSpec {
    /// How long a rotation waits before it is told as overdue; it waits on. A containment is overdue at once.
    pub deadline: Interval,
    /// How often the person is told again; six times as often once it is overdue.
    pub remind_every: Interval,
}

impl Default for ByHandSpec {
    fn default() -> Self {
        let hours = |hours: u64| Interval::from_duration(std::time::Duration::from_secs(hours * 3_600));
        Self { deadline: hours(72), remind_every: hours(6) }
    }
}

impl ByHandSpec {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Until when a person has to have done it, where a rotation that began then asks them.
    #[must_use]
    pub fn until(&self, opened_at: Timestamp, contains: bool) -> Timestamp {
        let allowed = if contains { jiff::SignedDuration::ZERO } else { self.deadline.as_signed() };
        opened_at.saturating_add(allowed).unwrap_or(opened_at)
    }
}

impl Spec {
    /// Whether a person makes its keys.
    #[must_use]
    pub fn makes_by_hand(&self) -> bool {
        matches!(&self.target, TargetSpec::Http(http) if http.strategy() == RecipeStrategy::HandOff)
    }

    /// Whether a person revokes them.
    #[must_use]
    pub fn revokes_by_hand(&self) -> bool {
        let TargetSpec::Http(http) = &self.target else { return false };
        http.strategy() != RecipeStrategy::Reissued
            && http.definition.as_ref().is_some_and(|recipe| recipe.revoke.is_none())
    }

    /// Whether a person may be asked to do something: of a plug-in nobody knows before it says so.
    #[must_use]
    pub fn may_ask_people(&self) -> bool {
        matches!(self.target, TargetSpec::Exec(_)) || self.makes_by_hand() || self.revokes_by_hand()
    }
}
