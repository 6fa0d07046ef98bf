//! The rules of what a person has to do.

use std::borrow::Cow;

use super::{Breaches, Rule, field};
use crate::policy::diagnostic::Problem;
use crate::policy::spec::{ByHandSpec, Interval, Spec};

/// What a person is told is looked at once a minute.
const MOST_OFTEN: Interval = Interval::from_duration(std::time::Duration::from_secs(60));

const LATEST: Interval = Interval::from_duration(std::time::Duration::from_secs(90 * 24 * 3_600));

/// What is wrong with the time that a person has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ByHandProblem {
    #[error("nobody makes a key in 0s")]
    NoTime,
    #[error("who has {0} for it forgets it")]
    TooLong(Interval),
    #[error("to be told every {0} is to be told all the time")]
    TooOften(Interval),
    #[error("with {remind_every} between two reminders there is none within the deadline of {deadline}")]
    NeverTold { remind_every: Interval, deadline: Interval },
    #[error("no person is asked for anything at this target")]
    NobodyAsked,
}

impl Problem for ByHandProblem {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::NoTime => "give it a length, or remove it".into(),
            Self::TooLong(_) => format!("use at most {LATEST}").into(),
            Self::TooOften(_) => format!("use {MOST_OFTEN} or more").into(),
            Self::NeverTold { .. } => "use a remindEvery that is shorter than the deadline".into(),
            Self::NobodyAsked => "leave `byHand` out".into(),
        }
    }
}

pub(super) fn rules(by_hand: ByHandSpec, found: &mut Breaches) {
    let at = field(["spec", "byHand"]);
    let ByHandSpec { deadline, remind_every } = by_hand;
    if deadline.is_zero() {
        found.add(at.join("deadline"), Rule::ByHand(ByHandProblem::NoTime));
    } else if deadline > LATEST {
        found.add(at.join("deadline"), Rule::ByHand(ByHandProblem::TooLong(deadline)));
    }
    if remind_every < MOST_OFTEN {
        found.add(at.join("remindEvery"), Rule::ByHand(ByHandProblem::TooOften(remind_every)));
    } else if remind_every >= deadline && !deadline.is_zero() {
        let problem = ByHandProblem::NeverTold { remind_every, deadline };
        found.add(at.join("remindEvery"), Rule::ByHand(problem));
    }
}

/// Of a target of which all is known.
pub(super) fn asked(spec: &Spec, found: &mut Breaches) {
    if spec.by_hand != ByHandSpec::default() && !spec.may_ask_people() {
        found.add(field(["spec", "byHand"]), Rule::ByHand(ByHandProblem::NobodyAsked));
    }
}
