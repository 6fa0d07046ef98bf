//! The control document of a policy: the open rotation, or the marker of the last closed one.
//!
//! It lives in the store beside the value, so a daemon on another node finds it: nothing that
//! correctness needs is on a local disk. It is created and changed by compare-and-set, which makes
//! opening a rotation the policy's lock. A value that a target might accept is in here before the target
//! can accept it.
//!
//! The wire form is JSON; values are base64 in it. Stores keep it as one opaque [`SecretValue`].

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::decision::Verdicts;
use super::plan::Plan;
use super::progress::{Direction, Doubt, Standing};
use crate::ident::{Fence, PartName, Principal, RequestId, RotationId, Version};
use crate::ledger::{Outcome, Record, TriggerKind};
use crate::policy::spec::Containment;
use crate::secret::{Credential, SecretValue};
use crate::store::{Current, Revision};

/// How many finished requests a marker remembers, so that a repeated one does not rotate again.
const REMEMBERED_REQUESTS: usize = 64;

/// How many rotations that asked for a key a marker remembers: a request that comes later than all of these is left to a
/// person.
const REMEMBERED_ASKERS: usize = 16;

/// A policy's control document, as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Document {
    // Externally tagged: an inner tag would make serde buffer the values in memory that nobody wipes.
    Open(Box<Run>),
    Closed(Box<Marker>),
}

/// A policy's control document, as it is written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Written<'a> {
    Open(&'a Run),
    Closed(&'a Marker),
}

impl Written<'_> {
    fn to_wire(&self) -> SecretValue {
        // Room for all but extreme policies, so that the growing buffer leaves no copies behind.
        let mut wire = Zeroizing::new(Vec::with_capacity(32 * 1024));
        serde_json::to_writer(&mut *wire, self).expect("a control document has only string keys");
        SecretValue::new(std::mem::take(&mut *wire))
    }
}

impl Document {
    /// Reads the wire form.
    ///
    /// # Errors
    /// When it was not written by this or an earlier version of rekeyd. The error names the place in
    /// the document, not its content.
    pub fn from_wire(wire: &SecretValue) -> Result<Self, Unreadable> {
        serde_json::from_slice(wire.expose())
            .map_err(|error| Unreadable { line: error.line(), column: error.column() })
    }
}

/// A control document that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control document is not one of this version's (line {line}, column {column})")]
pub struct Unreadable {
    line: usize,
    column: usize,
}

/// An open rotation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub rotation: RotationId,
    pub trigger: Trigger,
    pub plan: Plan,
    /// The version that a promotion makes current.
    pub to: Version,
    /// `None` while the target that makes it has not been heard of: see [`Course::asked`].
    #[serde(default, with = "wire::optional_credential", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Credential>,
    #[serde(default, with = "wire::optional_credential", skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<Credential>,
    /// The store's revision of the current value at opening: what the promotion compares with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Revision>,
    pub opened_at: Timestamp,
    /// The marker as it was before this rotation: what an abandoned one puts back.
    pub before: Marker,
    pub course: Course,
}

/// The part of a run document that changes while the rotation runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Course {
    /// Orders this attempt among all of the policy; see [`Fence`].
    pub fence: Fence,
    #[serde(default)]
    pub direction: Direction,
    /// Going back: whoever turned it knew that no target had seen the candidate. Nobody installs it from then
    /// on, so that every process comes to the same record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untouched: bool,
    /// The containment that took this rotation over, if one did. Its rules hold, and its words stand in
    /// the record; its request stands there only if the candidate answers it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<Trigger>,
    /// The containment that this rotation does not answer: another one has to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes: Option<Trigger>,
    /// The target's own time after the install; kept where the value changes in place, because the
    /// sessions to close are those that began before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<Timestamp>,
    /// Where the target makes the value: the keys that it had before it was asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Vec<Principal>>,
    /// How often a sitting began to ask the target for a key. Only who began last may keep what it gets: every
    /// other key of this rotation is nobody's, and may be deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u32,
    /// How many of those had no effect for sure.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub in_vain: u32,
    /// When the candidate was kept, where the target made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted_at: Option<Timestamp>,
    /// Since when the outgoing key is disabled, where it can be enabled again until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// Since when the target refuses what readers have, by the clock of whoever saw it first: the install in place,
    /// or the retire of a containment that cuts before they have moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<Timestamp>,
    /// How long that was, once they have moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// When every consumer had the new version and the grace began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<Timestamp>,
    /// Sittings that may have sent the promotion to a path that was empty. Nothing bars such a write: it may
    /// arrive at any time, so the way is forward only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub creating: u32,
    /// What the promotion replaces, where a person decided that it may be another value than the one
    /// the rotation began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
    /// Why it is frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// What was known of the values then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Verdicts>,
    /// Why it was turned back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// A person turned it back: nobody waits for the containment any more that it may have been.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// Readers that were not well when the rotation opened. They say nothing about the candidate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ailing: Vec<String>,
    /// Its readers are well with the candidate: from here on the outgoing value may die at any time, and
    /// nobody brings it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// The values have changed places; see [`Run::revert`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reverts: bool,
}

/// What stands in the way of a promotion and may be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    Revision(Revision),
    /// The value was deleted.
    Nothing,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Course {
    /// The course of a rotation that has just opened.
    #[must_use]
    pub const fn new(fence: Fence) -> Self {
        Self {
            fence,
            direction: Direction::Forward,
            untouched: false,
            taken_over: None,
            owes: None,
            installed_at: None,
            found: None,
            asked: 0,
            in_vain: 0,
            minted_at: None,
            disabled_at: None,
            cut_at: None,
            window_ms: None,
            published_at: None,
            creating: 0,
            over: None,
            doubt: None,
            known: None,
            failure: None,
            given_up: false,
            ailing: Vec::new(),
            settled: false,
            reverts: false,
        }
    }

    /// Whether the target may have made a key because of this rotation.
    #[must_use]
    pub const fn may_have_minted(&self) -> bool {
        self.asked > self.in_vain
    }

    /// The containment that a rotation does, which this trigger opened: it was asked for as one, or the containment that
    /// took it over is answered by its candidate.
    #[must_use]
    pub fn containment<'a>(&'a self, opened_by: &'a Trigger) -> Option<&'a Trigger> {
        let is_one = opened_by.kind == TriggerKind::Contain;
        match &self.taken_over {
            // Its rules hold, and another rotation has to follow.
            Some(other) if !is_one && other.request == opened_by.request => None,
            Some(other) => Some(other),
            None => Some(opened_by).filter(|_| is_one),
        }
    }

    /// A person gives the rotation up, and with it the containment that it does. Both is said in its record.
    pub fn give_up(&mut self, opened_by: &Trigger, why: &str) {
        let alive = self.containment(opened_by).map(|Trigger { requested_by, .. }| {
            format!(
                "; with it the containment that {requested_by} asked for is given up: what leaked is alive"
            )
        });
        (self.failure, self.given_up) = (Some(format!("{why}{}", alive.unwrap_or_default())), true);
    }

    /// Turns a rotation that went back.
    pub fn forward(&mut self) {
        if self.direction == Direction::Back {
            (self.direction, self.untouched) = (Direction::Forward, false);
            (self.failure, self.given_up) = (None, false);
        }
    }
}

impl Run {
    /// The wire form of the control document while this rotation is open.
    #[must_use]
    pub fn to_wire(&self) -> SecretValue {
        Written::Open(self).to_wire()
    }

    /// The containment that it does, if it does one.
    #[must_use]
    pub fn containment(&self) -> Option<&Trigger> {
        self.course.containment(&self.trigger)
    }

    /// Whether containment's rules hold.
    #[must_use]
    pub fn contains(&self) -> bool {
        self.effective_trigger().kind == TriggerKind::Contain
    }

    /// Brings back what was in force before a promotion, which stands in the store at a revision: the values
    /// change places, and the same line is walked again, for one version more. Installing the value again
    /// raises it from the dead, should somebody have retired it, and the higher fence bars whoever still
    /// would.
    pub fn revert(&mut self, promoted: Revision, why: &str) {
        std::mem::swap(&mut self.outgoing, &mut self.candidate);
        (self.to, self.base) = (self.to.next(), Some(promoted));
        let Course { fence, taken_over, owes, ailing, cut_at, .. } = &self.course;
        self.course = Course {
            taken_over: taken_over.clone(),
            owes: owes.clone(),
            ailing: ailing.clone(),
            cut_at: *cut_at,
            failure: Some(why.to_owned()),
            reverts: true,
            ..Course::new(fence.next())
        };
    }

    /// The version that readers have while the candidate is not promoted.
    #[must_use]
    pub const fn replaced(&self) -> Version {
        // The one that its readers failed with.
        if self.course.reverts { self.to.previous() } else { self.before.version }
    }

    /// Since when the candidate is in use, or will have been: what is brought back is as old as it was.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        let before = self.before.current.as_ref().filter(|_| self.course.reverts);
        before.map_or(self.opened_at, |before| before.since)
    }

    /// The revision of the candidate, if it is what the store holds as current. The value that the
    /// rotation began with is none, even if it is the same: an adoption may find it there.
    #[must_use]
    pub fn promotion(&self, current: Option<&Current>) -> Option<Revision> {
        let promoted = current.filter(|current| {
            Some(&current.credential) == self.candidate.as_ref() && self.replaces() != Some(&current.revision)
        });
        promoted.map(|current| current.revision.clone())
    }

    /// The store's revision that a promotion replaces; `None` for an empty path.
    #[must_use]
    pub fn replaces(&self) -> Option<&Revision> {
        match &self.course.over {
            None => self.base.as_ref(),
            Some(Over::Revision(revision)) => Some(revision),
            Some(Over::Nothing) => None,
        }
    }

    /// The trigger that counts: the containment's, if one took over.
    #[must_use]
    pub fn effective_trigger(&self) -> &Trigger {
        self.course.taken_over.as_ref().unwrap_or(&self.trigger)
    }

    /// Where the rotation stands at a moment. `promoted` and `touched` are the engine's to know: the
    /// first is read from the store, the second is what happened in this sitting.
    #[must_use]
    pub fn standing(&self, promoted: bool, touched: bool, now: Timestamp) -> Standing {
        let left = self.containment_left(now);
        let mints = self.plan.strategy.mints();
        Standing {
            strategy: self.plan.strategy,
            adopts: self.trigger.kind == TriggerKind::Adopt,
            direction: self.course.direction,
            has_outgoing: self.outgoing.is_some(),
            promoted,
            touched: touched && !self.course.untouched && (!mints || self.course.may_have_minted()),
            creating: self.course.creating > 0,
            contains: left.is_some(),
            cuts: left.is_some_and(|left| left.is_zero()),
            reverts: self.course.reverts,
            may_revert: promoted && self.may_revert(),
        }
    }

    /// Whether the values may still change places, once the candidate is promoted. Where there is no overlap
    /// the earlier value is dead already, and under a containment it has to die.
    #[must_use]
    pub fn may_revert(&self) -> bool {
        let Course { direction, settled, reverts, .. } = self.course;
        self.plan.rolls_back()
            && self.outgoing.is_some()
            && self.candidate.is_some()
            && self.outgoing.as_ref().is_some_and(|outgoing| {
                // One from before the policy had parts cannot be published again.
                self.plan.spec.part_names().iter().all(|name| outgoing.parts.contains_key(name))
            })
            && self.trigger.kind != TriggerKind::Adopt
            && !self.contains()
            && direction == Direction::Forward
            && !settled
            && !reverts
    }

    /// How long a containment still waits for consumers before it cuts the outgoing value off; `None`
    /// when this is no containment. Clocks of two machines may differ; one that was set back far must not
    /// keep a leaked value alive: nothing is left then.
    #[must_use]
    pub fn containment_left(&self, now: Timestamp) -> Option<Duration> {
        // The first counts: asking again must not put the cut off.
        let triggers = [Some(&self.trigger), self.course.taken_over.as_ref()].into_iter().flatten();
        let asked = triggers.filter(|trigger| trigger.kind == TriggerKind::Contain).map(|trigger| trigger.at);
        let since = asked.min().filter(|_| self.contains())?;
        let deadline = self.plan.spec.retire.containment_deadline.as_signed();
        let left = deadline.saturating_sub(now.duration_since(since));
        Some(match self.plan.spec.containment {
            Containment::KeepServing if left <= deadline.saturating_add(deadline) => {
                Duration::try_from(left).unwrap_or_default()
            }
            Containment::KeepServing | Containment::CutNow => Duration::ZERO,
        })
    }
}

/// What asked for a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    pub kind: TriggerKind,
    /// At most one rotation for each request.
    pub request: RequestId,
    /// `schedule`, `uid 1000`.
    pub requested_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub at: Timestamp,
    /// The scheduled time that this answers, before jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal: Option<Timestamp>,
}

/// What is known of a policy between rotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// The version in force; [`Version::NONE`] before the first.
    pub version: Version,
    /// The highest fence ever used.
    pub fence: Fence,
    /// The value in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<InForce>,
    /// The latest scheduled time that was acted upon, before jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled: Option<Timestamp>,
    /// The latest requests and how they ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Answered>,
    /// The latest rotations that asked a target for a key, oldest first: what is tagged with one of these was made for
    /// this very document, and not for a policy of the same name elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub askers: Vec<RotationId>,
    /// A containment that was asked for and is not done: the next rotation is it, whoever opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owes: Option<Trigger>,
    /// The last record, for `rekeyd status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

impl Marker {
    /// The wire form of the control document between rotations.
    #[must_use]
    pub fn to_wire(&self) -> SecretValue {
        Written::Closed(self).to_wire()
    }

    /// How an earlier request ended, if this is a repetition of it.
    #[must_use]
    pub fn answer(&self, request: &RequestId) -> Option<&Answered> {
        self.requests.iter().find(|answered| answered.request == *request)
    }

    /// Remembers that a rotation asked a target for a key.
    pub fn remember_asker(&mut self, rotation: RotationId) {
        if self.askers.contains(&rotation) {
            return;
        }
        if self.askers.len() == REMEMBERED_ASKERS {
            self.askers.remove(0);
        }
        self.askers.push(rotation);
    }

    /// Remembers how a request ended.
    pub fn remember(&mut self, answered: Answered) {
        if self.requests.len() == REMEMBERED_REQUESTS {
            self.requests.remove(0);
        }
        self.requests.push(answered);
    }
}

/// The value in force, without the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    pub rotation: RotationId,
    pub principal: Principal,
    /// The store's revision of it. Another one there was written by somebody else.
    pub revision: Revision,
    /// When it was made: its age counts from here.
    pub since: Timestamp,
    /// Where a target made it, as [`super::plan::maker`] names that: another one knows nothing of it, and would call
    /// it dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// A request and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answered {
    pub request: RequestId,
    pub rotation: RotationId,
    pub outcome: Outcome,
    pub version: Version,
}

/// The wire form of values: base64, through buffers that are wiped.
mod wire {
    use std::collections::BTreeMap;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use zeroize::Zeroizing;

    use super::{Credential, PartName, Principal, SecretValue};

    #[derive(Serialize, Deserialize)]
    struct Form {
        principal: Principal,
        value: Zeroizing<String>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        parts: BTreeMap<PartName, Zeroizing<String>>,
    }

    impl Form {
        fn of(credential: &Credential) -> Self {
            let text = |value: &SecretValue| Zeroizing::new(STANDARD.encode(value.expose()));
            let parts = credential.parts.iter().map(|(name, part)| (name.clone(), text(part))).collect();
            Self { principal: credential.principal.clone(), value: text(&credential.value), parts }
        }

        fn credential<E: serde::de::Error>(self) -> Result<Credential, E> {
            let bytes = |text: &str| {
                let bytes = STANDARD.decode(text).map_err(|_| E::custom("a value is not base64"))?;
                Ok(SecretValue::new(bytes))
            };
            let parts = self.parts.iter().map(|(name, part)| Ok((name.clone(), bytes(part)?)));
            let parts = parts.collect::<Result<_, E>>()?;
            Ok(Credential::new(self.principal, bytes(&self.value)?).with_parts(parts))
        }
    }

    pub(super) mod optional_credential {
        use super::{Credential, Deserialize as _, Deserializer, Form, Serialize as _, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            credential: &Option<Credential>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            credential.as_ref().map(Form::of).serialize(to)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Credential>, D::Error> {
            Option::<Form>::deserialize(from)?.map(Form::credential).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_document_says_where_and_not_what() {
        let wire = SecretValue::new(br#"{"open":{"candidate":"hunter2"}}"#.to_vec());
        let error = Document::from_wire(&wire).expect_err("an incomplete document");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_marker_survives_the_wire_and_forgets_the_oldest_request() {
        let mut marker = Marker { version: Version::new(3), fence: Fence::new(5), ..Marker::default() };
        for number in 0..=REMEMBERED_REQUESTS {
            marker.remember(Answered {
                request: format!("request-{number}").parse().expect("a request id"),
                rotation: RotationId::generate(),
                outcome: Outcome::Rotated,
                version: Version::new(3),
            });
        }
        let askers: Vec<_> = (0..=REMEMBERED_ASKERS).map(|_| RotationId::generate()).collect();
        askers.iter().chain(askers.last()).for_each(|asker| marker.remember_asker(*asker));
        assert_eq!(marker.askers, askers[1..]);
        assert!(marker.answer(&"request-0".parse().expect("a request id")).is_none());
        assert!(marker.answer(&"request-1".parse().expect("a request id")).is_some());
        let Ok(Document::Closed(again)) = Document::from_wire(&marker.to_wire()) else {
            panic!("a closed marker was not read back");
        };
        assert_eq!(*again, marker);
    }
}
