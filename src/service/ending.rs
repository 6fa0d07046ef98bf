//! How something asked for ended, as it is told to people and scripts.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ident::PolicyName;
use crate::ledger::{Outcome, Record, TriggerKind};
use crate::rotation::engine::Ended;

/// How something asked for ended. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    pub ending: EndingKind,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<Record>>,
}

/// How something asked for ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndingKind {
    Rotated,
    /// The same request was answered before; nothing was done.
    Repeated,
    RolledBack,
    Abandoned,
    /// The rotation is open and will be taken up again.
    Open,
    InDoubt,
    /// Nothing was opened.
    Failed,
}

impl EndingKind {
    /// 0 done, 1 failed, 3 in doubt.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Rotated | Self::Repeated => 0,
            Self::RolledBack | Self::Abandoned | Self::Open | Self::Failed => 1,
            Self::InDoubt => 3,
        }
    }
}

impl Ending {
    #[must_use]
    pub fn of(policy: &PolicyName, ended: Ended) -> Self {
        let resume = || Some(format!("`rekeyd resume {policy}` finishes it"));
        let (ending, message, remedy, record) = match ended {
            Ended::Closed(record) => return Self::closed(policy, record),
            Ended::Answered(answered) => {
                let message = format!(
                    "{policy}: request {} was answered before, by rotation {} ({}, {})",
                    answered.request, answered.rotation, answered.outcome, answered.version
                );
                let ending = match answered.outcome {
                    Outcome::Rotated => EndingKind::Repeated,
                    Outcome::RolledBack => EndingKind::RolledBack,
                    Outcome::Abandoned => EndingKind::Abandoned,
                };
                (ending, message, None, None)
            }
            Ended::Parked { step, failure } => {
                let remedy = failure.remedy().map(ToOwned::to_owned).or_else(resume);
                (EndingKind::Open, format!("{policy}: open at step {step}: {failure}"), remedy, None)
            }
            Ended::Stopped { step } => {
                (EndingKind::Open, format!("{policy}: stopped before step {step}"), resume(), None)
            }
            Ended::Lost { step } => {
                let message = format!("{policy}: another process took the rotation over at step {step}");
                (EndingKind::Open, message, Some("see `rekeyd status`".into()), None)
            }
            Ended::InDoubt { step, doubt, known } => {
                let message = format!("{policy}: in doubt at step {step}: {doubt}");
                (EndingKind::InDoubt, message, Some(known.remedy(doubt)), None)
            }
        };
        Self { ending, message, remedy, record }
    }

    /// Where somebody waits for a containment that came to nothing.
    #[must_use]
    pub fn owing(mut self) -> Self {
        if self.record.as_deref().is_some_and(is_undone) {
            self.remedy = Some(
                "what leaked is alive and the containment is owed: the daemon tries it again, `rekeyd resume` tries it \
                 now, and `rekeyd resume --abandon` gives it up"
                    .into(),
            );
        }
        self
    }

    /// Where a person gave up what it contained.
    #[must_use]
    pub fn forgiving(mut self, policy: &PolicyName) -> Self {
        if self.record.as_deref().is_some_and(is_undone) {
            self.remedy = Some(format!(
                "nobody tries the containment again: `rekeyd contain {policy}` asks for it anew, should anything have leaked"
            ));
        }
        self
    }

    /// Nothing was opened.
    #[must_use]
    pub fn failed(failure: &Failure) -> Self {
        Self {
            ending: EndingKind::Failed,
            message: failure.to_string(),
            remedy: failure.remedy().map(ToOwned::to_owned),
            record: None,
        }
    }

    fn closed(policy: &PolicyName, record: Box<Record>) -> Self {
        let why = record.failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
        let (ending, message) = match record.outcome {
            Outcome::Rotated => (EndingKind::Rotated, format!("{policy}: {} -> {}", record.from, record.to)),
            Outcome::RolledBack if record.to != record.from => (
                EndingKind::RolledBack,
                format!("{policy}: rolled back, {} brings back the value of {}{why}", record.to, record.from),
            ),
            Outcome::RolledBack => (
                EndingKind::RolledBack,
                format!("{policy}: rolled back, {} stays in force{why}", record.from),
            ),
            Outcome::Abandoned => {
                (EndingKind::Abandoned, format!("{policy}: abandoned, {} stays in force{why}", record.from))
            }
        };
        Self { ending, message, remedy: None, record: Some(record) }
    }
}

/// A containment that came to nothing.
fn is_undone(record: &Record) -> bool {
    record.trigger == TriggerKind::Contain && record.outcome != Outcome::Rotated
}
