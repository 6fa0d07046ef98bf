//! What happens to a rotation, as it happens: for progress on a terminal, logs and metrics.
//!
//! Events are told, not stored: nothing depends on one arriving. They hold names, versions and times.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::decision::Verdicts;
use super::progress::{Doubt, Step};
use super::verification::Verification;
use crate::failure::FailureClass;
use crate::ident::{PolicyName, RequestId, RotationId, Version};
use crate::ledger::{Record, TriggerKind};

/// Takes events in. Must not block.
pub trait Observer: Send + Sync {
    fn observe(&self, event: &Event);

    /// Readers of a policy got the value in force back between rotations.
    fn mended(&self, _policy: &PolicyName, _readers: &[String]) {}

    /// The value in force of a policy was tried between rotations.
    fn verified(&self, _policy: &PolicyName, _verification: &Verification) {}
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub at: Timestamp,
    pub policy: PolicyName,
    pub rotation: RotationId,
    /// The version the rotation brings in.
    pub version: Version,
    pub trigger: TriggerKind,
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event")]
pub enum What {
    Opened,
    /// An open rotation is taken up again.
    Resumed,
    Started {
        step: Step,
    },
    Done {
        step: Step,
        #[serde(with = "milliseconds", rename = "elapsedMs")]
        elapsed: Duration,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// A step failed and is tried again.
    Retrying {
        step: Step,
        class: FailureClass,
        failure: String,
        #[serde(with = "milliseconds", rename = "delayMs")]
        delay: Duration,
    },
    /// A step waits for its time.
    Waiting {
        step: Step,
        detail: String,
    },
    /// The candidate is being taken back.
    TurnedBack {
        step: Step,
        failure: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remedy: Option<String>,
    },
    /// Frozen until a person decides.
    InDoubt {
        step: Step,
        doubt: Doubt,
        known: Verdicts,
        remedy: String,
    },
    /// Left open, to be taken up later.
    Parked {
        step: Step,
        failure: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remedy: Option<String>,
    },
    /// The process stops; the rotation is left open.
    Stopped {
        step: Step,
    },
    /// Another process has the policy now.
    Lost {
        step: Step,
    },
    /// A person gives a containment up: nobody tries it again, and what leaked is alive.
    GivenUp {
        request: RequestId,
        /// Who asked for it.
        requested_by: String,
        /// Who gave it up.
        by: String,
    },
    Closed {
        record: Box<Record>,
        /// A containment is owed from then on.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        owed: bool,
    },
}

/// Durations as whole milliseconds with microseconds behind the point.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(duration.as_micros() as f64 / 1_000.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        f64::deserialize(from).map(|ms| Duration::from_micros((ms.max(0.0) * 1_000.0) as u64))
    }
}
