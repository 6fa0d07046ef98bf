//! What the ledger says about one closed rotation. Holds names, versions and times; no value.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ident::{PolicyName, Principal, RequestId, RotationId, Version};

/// The `apiVersion` of records.
pub const RECORD_API_VERSION: &str = "rekeyd.dev/v1alpha1";

/// One closed rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub api_version: String,
    pub kind: RecordKind,
    pub rotation: RotationId,
    pub policy: PolicyName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub trigger: TriggerKind,
    pub request: RequestId,
    /// Who asked: `uid 1000`, `schedule`.
    pub requested_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub outcome: Outcome,
    /// In force before. [`Version::NONE`] for the first.
    pub from: Version,
    /// In force after. Equal to `from` unless a value was promoted; higher by two where one was taken back
    /// from readers.
    pub to: Version,
    pub strategy: String,
    /// `postgres orders-db:5432/orders`.
    pub target: String,
    /// The principal in force after.
    pub principal: Principal,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<Principal>,
    /// `main:apps/orders/db`.
    pub store: String,
    pub consumers: Vec<String>,
    /// SHA-256 of the policy's specification at opening, in hexadecimal.
    pub policy_hash: String,
    pub opened_at: Timestamp,
    pub closed_at: Timestamp,
    /// When the value that this rotation took out had been promoted; with `closed_at`, its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_promoted_at: Option<Timestamp>,
    /// Proof that the outgoing value is dead.
    pub proof: Proof,
    /// For how long readers had a value that the target refused, until all of them had moved, in milliseconds: in
    /// place, and where a containment cuts before they have moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// From the request to the proof, in milliseconds: containment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contained_ms: Option<u64>,
    /// Why it did not end as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The program and version that wrote it.
    pub writer: String,
}

/// The `kind` of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordKind {
    RotationRecord,
}

/// What started a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TriggerKind {
    Scheduled,
    Manual,
    Contain,
    Adopt,
    /// The target refused the value that was in force.
    Drift,
}

impl TriggerKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Manual => "manual",
            Self::Contain => "contain",
            Self::Adopt => "adopt",
            Self::Drift => "drift",
        }
    }
}

impl fmt::Display for TriggerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The candidate is in force and the outgoing value is dead.
    Rotated,
    /// The candidate had been accepted by the target and was taken back. Where readers had it already, the
    /// value before it came back under a version of its own.
    RolledBack,
    /// The candidate never came into force.
    Abandoned,
}

impl Outcome {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::RolledBack => "rolledBack",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was seen of the outgoing value at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// A login with the new value was accepted.
    pub new_accepted: bool,
    /// A login with the old value was refused. `None` when there was no old value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_refused: Option<bool>,
    /// Sessions of the old value that were closed.
    pub sessions_closed: u64,
    /// Sessions of the old value that were left. `None` where the target does not list all that there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_left: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of all versions are read and written as they are: their bytes are signed.
    #[test]
    fn what_sessions_are_left_is_said_where_it_is_known() {
        for (text, left) in [
            (r#"{"newAccepted":true,"oldRefused":true,"sessionsClosed":1,"sessionsLeft":0}"#, Some(0)),
            (r#"{"newAccepted":true,"oldRefused":true,"sessionsClosed":1}"#, None),
        ] {
            let proof: Proof = serde_json::from_str(text).expect("a proof");
            assert_eq!(proof.sessions_left, left);
            assert_eq!(serde_json::to_string(&proof).expect("JSON"), text);
        }
    }
}
