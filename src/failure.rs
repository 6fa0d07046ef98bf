//! What went wrong, in the one form that every adapter answers with.
//!
//! The engine decides on the [`FailureClass`] alone; people read the rest. An adapter translates its
//! driver's errors here and lets no driver text through that could quote a value, a DSN or a statement.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a failure says about the world. The classes differ in what may safely happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureClass {
    /// The other side looked at the value and will never take it. Nothing was changed.
    Refused,
    /// The request went out and its outcome is not known: it may have taken effect, or still may.
    Ambiguous,
    /// Nothing was changed; the same request may succeed later.
    Unavailable,
    /// Nothing was changed; rekeyd's own rights do not suffice.
    Denied,
    /// Somebody else changed the object, or holds it. Nothing was changed.
    Conflict,
    /// Nothing was changed and repeating it is pointless until somebody changes the configuration.
    Invalid,
}

impl FailureClass {
    /// Whether the request certainly had no effect.
    #[must_use]
    pub const fn is_certain(self) -> bool {
        !matches!(self, Self::Ambiguous)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Ambiguous => "ambiguous",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
        }
    }
}

impl FailureClass {
    /// What to do where nobody knows better.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unavailable | Self::Ambiguous => "check that it runs and can be reached, then look again",
            Self::Denied => "give rekeyd the right that it lacks",
            Self::Conflict => "find out who else changes it",
            Self::Refused | Self::Invalid => "correct what the reason names",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A failed call: what it was doing to which object, why it failed, and what to do about it.
///
/// Prints as `cannot install role app_b on orders-db:5432/orders: the server is starting`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {doing}: {reason}")]
pub struct Failure {
    class: FailureClass,
    doing: Box<str>,
    reason: Box<str>,
    remedy: Option<Cow<'static, str>>,
}

impl Failure {
    /// `doing` completes "cannot ..." and names the object; `reason` is lower case without a full stop.
    #[must_use]
    pub fn new(class: FailureClass, doing: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            class,
            doing: doing.into().into_boxed_str(),
            reason: reason.to_string().into_boxed_str(),
            remedy: None,
        }
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same failure seen from a caller that knows more.
    #[must_use]
    pub const fn reclassified(mut self, class: FailureClass) -> Self {
        self.class = class;
        self
    }

    /// The same failure, and more to say about it.
    #[must_use]
    pub fn with_reason(mut self, reason: impl fmt::Display) -> Self {
        self.reason = reason.to_string().into_boxed_str();
        self
    }

    #[must_use]
    pub const fn class(&self) -> FailureClass {
        self.class
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

/// What kept a file or a folder from being used, in words for people: the library's own for a missing one
/// is "entity not found".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoReason(pub std::io::ErrorKind);

impl fmt::Display for IoReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            std::io::ErrorKind::NotFound => f.write_str("no such file or folder"),
            kind => kind.fmt(f),
        }
    }
}

/// One line of a preflight: something looked at without changing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub subject: String,
    pub verdict: Verdict,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    #[must_use]
    pub fn pass(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Pass, detail: detail.into(), remedy: None }
    }

    #[must_use]
    pub fn warn(subject: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Warn,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }

    #[must_use]
    pub fn fail(subject: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Fail,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A failed call as a finding.
    #[must_use]
    pub fn from_failure(subject: impl Into<String>, failure: &Failure) -> Self {
        Self {
            subject: subject.into(),
            verdict: Verdict::Fail,
            detail: failure.reason().to_owned(),
            remedy: Some(failure.remedy().unwrap_or(failure.class().remedy()).to_owned()),
        }
    }
}

/// How a [`Finding`] came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Pass,
    Warn,
    Fail,
}
