//! What a login says of a value, and what the answers of several places say together.

use std::fmt::Display;

use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// How far a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeDepth {
    /// One login on the main endpoint.
    Login,
    /// A login on every declared endpoint, and the policy's check statement.
    Check,
}

/// The answer to a login attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Accepted,
    /// A genuine authentication refusal: the only evidence that a value is dead.
    Refused,
    /// The login worked and the policy's check did not, or an endpoint besides the main one refuses.
    Unfit(Failure),
    /// No verdict: a time-out, a reset, too many connections, a server that is starting.
    Unknown(Failure),
}

impl Probe {
    /// Of what the main endpoint says, and of what the others say about a value that it accepts. A verdict says more
    /// than an endpoint that could not be asked.
    pub(super) fn with_others(self, others: Vec<Self>) -> Self {
        if self != Self::Accepted {
            return self;
        }
        let mut problems: Vec<Self> = others.into_iter().filter(|probe| *probe != Self::Accepted).collect();
        problems.sort_by_key(|probe| !matches!(probe, Self::Unfit(_)));
        problems.into_iter().next().unwrap_or(self)
    }

    /// Of an endpoint beside the main one that refuses. That is no verdict on the value: it may be late (a replica
    /// that lags) or ask somebody else (a list of its own).
    pub(super) fn refused_elsewhere(
        principal: &Principal,
        endpoint: impl Display,
        remedy: &'static str,
    ) -> Self {
        let doing = format!("log in as {principal} at {endpoint}");
        let reason = "this endpoint does not accept the value that the main one accepts";
        Self::Unfit(Failure::new(FailureClass::Unavailable, doing, reason).with_remedy(remedy))
    }

    /// Of what each of several nodes says that keep users of their own: what works is accepted by all, and what is
    /// dead is refused by all. `remedy` is for two that disagree.
    pub(super) fn of_nodes<N: Display>(
        principal: &Principal,
        answers: impl IntoIterator<Item = (Self, N)>,
        remedy: &'static str,
    ) -> Self {
        let mut answers = answers.into_iter();
        let Some((first, _)) = answers.next() else {
            let doing = format!("log in as {principal}");
            return Self::Unknown(Failure::new(FailureClass::Invalid, doing, "the policy names no node"));
        };
        let contrary = match first {
            Self::Accepted => "this node does not accept the value that the first one accepts",
            Self::Refused => "this node accepts the value that the first one refuses",
            Self::Unfit(_) | Self::Unknown(_) => return first,
        };
        let mut unknown = None;
        for (answer, node) in answers {
            match answer {
                answer if answer == first => {}
                Self::Accepted | Self::Refused | Self::Unfit(_) => {
                    let doing = format!("log in as {principal} at {node}");
                    let failure = Failure::new(FailureClass::Unavailable, doing, contrary);
                    return Self::Unfit(failure.with_remedy(remedy));
                }
                Self::Unknown(_) => unknown = unknown.or(Some(answer)),
            }
        }
        unknown.unwrap_or(first)
    }
}
