//! Where a policy stands, for people and dashboards. Pure: made from what was read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::ident::{PolicyName, Principal, RotationId, Version};
use crate::ledger::{Outcome, Record, TriggerKind};
use crate::policy::Policy;
use crate::policy::spec::Interval;
use crate::rotation::decision::Verdicts;
use crate::rotation::opening::drift;
use crate::rotation::progress::{Direction, Step};
use crate::rotation::run::{Document, Marker, Run, Trigger};
use crate::rotation::sitting::Slots;
use crate::rotation::verification::Verification;
use crate::schedule::{Due, Facts, Schedule};
use crate::store::Current;

/// Where a policy stands. Field names are stable: `rekeyd status -o json` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub policy: PolicyName,
    pub state: State,
    /// The version in force; 0 before the first.
    pub version: Version,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// When the value in force was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Interval>,
    pub overdue: bool,
    /// When it rotates next by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Timestamp>,
    /// What makes it due then, or why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenRotation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRotation>,
    /// What came of trying the value in force between rotations, as far as a daemon that runs did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verification>,
    /// What is wrong, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// A policy's state in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// A value is in force and no rotation is open.
    Ready,
    /// A rotation is open.
    Rotating,
    /// A rotation is frozen until a person decides.
    InDoubt,
    /// A containment was asked for and is not done: what leaked is alive.
    Owing,
    /// The value in force failed when it was last tried.
    Drifted,
    /// The value in force is older than allowed.
    Overdue,
    /// No value was promoted or adopted yet.
    Empty,
    /// The store cannot be read.
    Unknown,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Rotating => "rotating",
            Self::InDoubt => "in doubt",
            Self::Owing => "containment owed",
            Self::Drifted => "drifted",
            Self::Overdue => "overdue",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
        }
    }
}

/// A rotation that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenRotation {
    pub rotation: RotationId,
    pub trigger: TriggerKind,
    pub requested_by: String,
    pub to: Version,
    pub opened_at: Timestamp,
    /// The step it is at; as far as the store tells, when no process here is driving it.
    pub step: Step,
    /// Whether a process here is driving it.
    pub driven: bool,
    /// What it waits for, who still uses the outgoing value, or why it was left open: as told here last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub direction: Direction,
    /// Until when a person has to act, where it waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act_by: Option<Timestamp>,
    /// Whether `rekeyd resume --abandon` is still possible.
    pub may_abandon: bool,
    /// In doubt: what is known of the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Verdicts>,
}

/// What a process that drives rotations knows of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// The step it is at.
    pub step: Option<Step>,
    /// What was told of a rotation last.
    pub detail: Option<(RotationId, String)>,
}

/// How the latest rotation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRotation {
    pub rotation: RotationId,
    pub outcome: Outcome,
    pub trigger: TriggerKind,
    pub closed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Status {
    /// `live` is what is known here of its rotation, `verified` what was last found here of the value in force.
    #[must_use]
    pub fn of(
        policy: &Policy,
        schedule: Option<&Schedule>,
        slots: &Result<Slots, Failure>,
        live: Live,
        verified: Option<Verification>,
        now: Timestamp,
    ) -> Self {
        let mut status = Self::nothing(policy.name());
        status.max_age = policy.spec().schedule.as_ref().and_then(|schedule| schedule.max_age);
        let slots = match slots {
            Ok(slots) => slots,
            Err(failure) => {
                status.state = State::Unknown;
                status.problem = Some(Problem {
                    what: failure.to_string(),
                    remedy: failure.remedy().map(ToOwned::to_owned),
                });
                return status;
            }
        };
        let none = Marker::default();
        let (marker, run) = match &slots.document {
            None => (&none, None),
            Some(Document::Closed(marker)) => (&**marker, None),
            Some(Document::Open(run)) => (&run.before, Some(run)),
        };
        status.take_marker(marker, now);
        match run {
            Some(run) => status.take_run(run, slots.current.as_ref(), live, now),
            None => {
                status.problem = problem_at_rest(policy, marker, slots);
                status.take_verification(verified.filter(|verified| verified.version == marker.version));
                if marker.owes.is_some() {
                    status.state = State::Owing;
                }
            }
        }
        status.take_schedule(schedule, &facts(marker), run.is_some(), now);
        status
    }

    /// Of a policy that is gone, while a rotation of it is open.
    #[must_use]
    pub fn of_gone(run: &Run, current: Option<&Current>, live: Live, now: Timestamp) -> Self {
        let mut status = Self::nothing(&run.plan.policy);
        status.take_marker(&run.before, now);
        status.take_run(run, current, live, now);
        status.next_cause = Some("its policy is gone: nothing follows the open rotation".into());
        status
    }

    /// Of a policy that is gone and owes a containment; `None` if it does not.
    #[must_use]
    pub fn of_gone_owing(policy: &PolicyName, marker: &Marker, now: Timestamp) -> Option<Self> {
        let problem = problem_of_gone(marker)?;
        let mut status = Self::nothing(policy);
        status.take_marker(marker, now);
        (status.state, status.problem) = (State::Owing, Some(problem));
        status.next_cause = Some("its policy is gone: nobody tries the containment".into());
        Some(status)
    }

    pub(crate) fn nothing(policy: &PolicyName) -> Self {
        Self {
            policy: policy.clone(),
            state: State::Empty,
            version: Version::NONE,
            principal: None,
            since: None,
            age_seconds: None,
            max_age: None,
            overdue: false,
            next_due: None,
            next_cause: None,
            open: None,
            last: None,
            verified: None,
            problem: None,
        }
    }

    fn take_verification(&mut self, verified: Option<Verification>) {
        self.verified = verified;
        let Some((what, remedy)) = verified.and_then(|verified| verified.finding.problem()) else { return };
        self.state = State::Drifted;
        self.problem.get_or_insert_with(|| Problem { what: what.into(), remedy: Some(remedy.into()) });
    }

    fn take_marker(&mut self, marker: &Marker, now: Timestamp) {
        self.version = marker.version;
        if let Some(current) = &marker.current {
            self.state = State::Ready;
            self.principal = Some(current.principal.clone());
            self.since = Some(current.since);
            self.age_seconds = Some(seconds_between(current.since, now));
        }
        if let Some(record) = &marker.record {
            self.last = Some(LastRotation {
                rotation: record.rotation,
                outcome: record.outcome,
                trigger: record.trigger,
                closed_at: record.closed_at,
                failure: record.failure.clone(),
            });
        }
    }

    fn take_run(&mut self, run: &Run, current: Option<&Current>, live: Live, now: Timestamp) {
        let promoted = run.promotion(current).is_some();
        let standing = run.standing(promoted, true, now);
        self.state = State::Rotating;
        if promoted && run.course.direction == Direction::Forward {
            self.version = run.to;
            self.principal = run.candidate.as_ref().map(|candidate| candidate.principal.clone());
            self.since = Some(run.since());
            self.age_seconds = Some(seconds_between(run.since(), now));
        } else if let Some(outgoing) = run.outgoing.as_ref().filter(|_| run.course.reverts) {
            self.version = run.replaced();
            self.principal = Some(outgoing.principal.clone());
            self.since = Some(run.opened_at);
            self.age_seconds = Some(seconds_between(run.opened_at, now));
        }
        let stored = match (run.course.direction, promoted, run.course.published_at) {
            (Direction::Back, _, _) => standing.line()[0],
            (Direction::Forward, true, Some(_)) => Step::Converge,
            (Direction::Forward, true, None) => Step::Publish,
            (Direction::Forward, false, _) => standing.line()[0],
        };
        let step = live.step.unwrap_or(stored);
        let spec = &run.plan.spec;
        let waits_for_person = match step {
            Step::Mint => spec.makes_by_hand() && run.candidate.is_none(),
            Step::Retire => spec.revokes_by_hand(),
            _ => false,
        };
        self.open = Some(OpenRotation {
            rotation: run.rotation,
            trigger: run.effective_trigger().kind,
            requested_by: run.effective_trigger().requested_by.clone(),
            to: run.to,
            opened_at: run.opened_at,
            step,
            driven: live.step.is_some(),
            detail: live.detail.and_then(|(rotation, detail)| (rotation == run.rotation).then_some(detail)),
            direction: if run.course.reverts { Direction::Back } else { run.course.direction },
            act_by: waits_for_person.then(|| spec.by_hand.until(run.opened_at, run.contains())),
            may_abandon: standing.may_turn_back(),
            known: run.course.doubt.map(|_| run.course.known.unwrap_or_default()),
        });
        if let Some(doubt) = run.course.doubt {
            self.state = State::InDoubt;
            self.problem = {
                let known = run.course.known.unwrap_or_default();
                Some(Problem { what: doubt.to_string(), remedy: Some(known.remedy(doubt)) })
            };
        }
    }

    fn take_schedule(&mut self, schedule: Option<&Schedule>, facts: &Facts, open: bool, now: Timestamp) {
        let Some(schedule) = schedule else {
            self.next_cause = Some("no schedule: rotates only on request".into());
            return;
        };
        self.overdue = schedule.overdue(facts, now);
        if self.overdue && self.state == State::Ready {
            self.state = State::Overdue;
        }
        if open {
            return;
        }
        match schedule.due(facts, now) {
            Due::Now(cause) => {
                self.next_due = Some(now);
                self.next_cause = Some(cause.to_string());
            }
            Due::At(at, cause) => {
                self.next_due = Some(at);
                self.next_cause = Some(cause.to_string());
            }
            Due::Never(idle) => self.next_cause = Some(idle.to_string()),
        }
    }
}

/// What is wrong with a policy that no rotation is open for.
fn problem_at_rest(policy: &Policy, marker: &Marker, slots: &Slots) -> Option<Problem> {
    if let Some(owed) = &marker.owes {
        return Some(Problem {
            what: not_done(owed),
            remedy: Some("`rekeyd resume` tries it now, `rekeyd resume --abandon` gives it up".into()),
        });
    }
    let drift = drift(policy, marker, slots.current.as_ref().map(|current| &current.revision))?;
    Some(Problem { what: drift.reason().to_owned(), remedy: drift.remedy().map(ToOwned::to_owned) })
}

/// What is wrong with a policy that is gone and owes a containment.
#[must_use]
pub fn problem_of_gone(marker: &Marker) -> Option<Problem> {
    let what = format!("{}, and its policy is gone", not_done(marker.owes.as_ref()?));
    let remedy = "bring the policy back under this name, and the daemon tries it again; or `rekeyd resume --abandon` gives it up";
    Some(Problem { what, remedy: Some(remedy.into()) })
}

fn not_done(owed: &Trigger) -> String {
    let Trigger { requested_by, at, .. } = owed;
    format!("the containment that {requested_by} asked for at {at:.0} is not done")
}

/// What a schedule decides on, from what the store keeps between rotations.
#[must_use]
pub fn facts(marker: &Marker) -> Facts {
    let since = marker.current.as_ref().map(|current| current.since);
    let taken_back = |record: &&Record| record.outcome == Outcome::RolledBack && record.to != record.from;
    Facts {
        promoted_at: since,
        handled: marker.handled,
        watched_since: since.unwrap_or(Timestamp::MIN),
        rolled_back_at: marker.record.as_ref().filter(taken_back).map(|record| record.closed_at),
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0)
}
