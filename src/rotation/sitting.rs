//! One process's turn at one rotation: the run document as it was last read or written, the adapters it
//! names, and what has been seen so far.
//!
//! Dropping a sitting loses nothing: the next one starts from the document.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::candidate::stand_in;
use super::plan::{Strategy, maker};
use super::progress::{Direction, Standing, Step};
use super::run::{Answered, Course, Document, InForce, Marker, Run};
use crate::consumer::{Consumer, PublishRequest};
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Version};
use crate::ledger::record::{RECORD_API_VERSION, RecordKind};
use crate::ledger::{Outcome, Proof, Record, TriggerKind};
use crate::policy::spec::StoreSpec;
use crate::secret::{Credential, SecretValue};
use crate::store::{Current, Place, Revision, Store};
use crate::target::{Attempt, Target};

/// What a store holds for a policy.
#[derive(Debug)]
pub struct Slots {
    pub current: Option<Current>,
    pub document: Option<Document>,
    /// The control document's revision, when there is one.
    pub revision: Option<Revision>,
}

/// Reads what a store holds for a policy.
///
/// # Errors
/// When the store cannot be read, or holds a document that this version does not understand.
pub async fn look(store: &dyn Store, policy: &PolicyName, place: &StoreSpec) -> Result<Slots, Failure> {
    let (control, current) = tokio::join!(store.control(policy), store.current(Place::from(place)));
    let (control, current) = (control?, current?);
    let (document, revision) = match control {
        None => (None, None),
        Some(control) => (Some(read_document(policy, &control.document)?), Some(control.revision)),
    };
    Ok(Slots { current, document, revision })
}

/// Reads a policy's control document.
///
/// # Errors
/// When this version does not understand it.
pub fn read_document(policy: &PolicyName, wire: &SecretValue) -> Result<Document, Failure> {
    Document::from_wire(wire).map_err(|error| {
        Failure::new(FailureClass::Invalid, format!("read the control document of {policy}"), error)
            .with_remedy("run the version of rekeyd that wrote it, or restore it from the store's history")
    })
}

/// One process's turn at one rotation.
pub struct Sitting {
    pub(super) run: Run,
    /// Of the control document.
    pub(super) revision: Revision,
    pub(super) store: Arc<dyn Store>,
    pub(super) target: Option<Arc<dyn Target>>,
    pub(super) consumers: Vec<Arc<dyn Consumer>>,
    /// The store's revision of the candidate, once it is current.
    pub(super) promoted: Option<Revision>,
    /// No promotion can be under way but what this sitting knows of: it opened the rotation, nobody else was
    /// here since, and each promotion that it sent was answered.
    pub(super) alone: bool,
    /// What this sitting knows of its promotions to an empty path.
    pub(super) creating: Creating,
    /// What this sitting asked the target to make.
    pub(super) asking: Asking,
    /// Going back: the store's revision of the outgoing value, now that the candidate cannot replace it.
    pub(super) held: Option<Revision>,
    /// See [`Standing::touched`].
    pub(super) touched: bool,
    pub(super) seen: Seen,
    /// As it was appended to the ledger.
    pub(super) record: Option<Record>,
}

/// Whether a sitting counts as one that may have sent a promotion to an empty path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Creating {
    #[default]
    No,
    /// It counts, and each that it sent had no effect for sure.
    InVain,
    /// One may be under way.
    Perhaps,
}

/// What a sitting knows of the keys that it asked a target for.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Its place among all that asked, as [`Course::asked`] counts them; 0 before it did.
    pub(super) number: u32,
    /// One of its calls may have had an effect.
    pub(super) perhaps: bool,
    /// A key that was made and is not kept yet.
    pub(super) made: Option<Credential>,
    /// That it ends too early, and is kept all the same.
    pub(super) short: Option<String>,
    /// The write that keeps it may have had an effect.
    pub(super) kept_perhaps: bool,
    /// When a person was reminded of what has to be done by hand.
    pub(super) reminded_at: Option<Timestamp>,
}

/// What a sitting has seen, for the record.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) new_accepted: bool,
    pub(super) old_refused: bool,
    pub(super) sessions_closed: u64,
    /// The outgoing value may have sessions that the target does not list.
    pub(super) sessions_unlisted: bool,
    /// When the outgoing value was taken out.
    pub(super) retired_at: Option<Timestamp>,
    pub(super) contained_at: Option<Timestamp>,
    /// A retire that cuts, until the run document has it.
    pub(super) cut_at: Option<Timestamp>,
}

impl Sitting {
    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    #[must_use]
    pub const fn is_promoted(&self) -> bool {
        self.promoted.is_some()
    }

    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        self.run.standing(self.promoted.is_some(), self.touched, now)
    }

    /// The step that a walk from here would begin with.
    pub(super) fn next_step(&self, now: Timestamp) -> Step {
        self.standing(now).line()[0]
    }

    /// How long a step may take. Readers that hang must not put a containment's cut off: telling them is
    /// broken off then, as it is by a death, and done again after the cut.
    pub(super) fn time_for(&self, step: Step, now: Timestamp) -> Option<Duration> {
        self.run.containment_left(now).filter(|_| self.standing(now).waits_for_cut(step))
    }

    pub(super) fn attempt(&self) -> Attempt<'_> {
        Attempt {
            policy: &self.run.plan.policy,
            rotation: self.run.rotation,
            version: self.run.to,
            fence: self.run.course.fence,
        }
    }

    /// The candidate. It is there in every step but the one that has it made, and those of the way back.
    ///
    /// # Errors
    /// When it is not: a defect of rekeyd.
    pub(super) fn candidate(&self) -> Result<&Credential, Failure> {
        self.run.candidate.as_ref().ok_or_else(|| {
            let doing = format!("rotate {}", self.run.plan.policy);
            Failure::new(FailureClass::Invalid, doing, "there is no candidate yet")
                .with_remedy("report it: this is a defect of rekeyd")
        })
    }

    /// What readers are told.
    ///
    /// # Errors
    /// See [`Self::candidate`].
    pub(super) fn publication(&self) -> Result<PublishRequest<'_>, Failure> {
        self.candidate().map(|candidate| self.publication_of(candidate))
    }

    fn publication_of<'a>(&'a self, credential: &'a Credential) -> PublishRequest<'a> {
        PublishRequest {
            policy: &self.run.plan.policy,
            version: self.run.to,
            credential,
            restores: self.run.course.reverts.then_some(self.run.before.version),
            is_urgent: self.run.contains()
                || matches!(self.run.plan.strategy, Strategy::InPlace | Strategy::Reissued),
        }
    }

    /// What the store or a reader would refuse for sure is not begun: in place it would be an outage. Those that cannot
    /// be asked hold nothing back, and a containment waits for none.
    pub(super) async fn rehearse(&mut self) -> Result<(), Failure> {
        if matches!(self.run.trigger.kind, TriggerKind::Contain | TriggerKind::Adopt) {
            return Ok(());
        }
        match self.store.rehearse(Place::from(&self.run.plan.spec.store)).await {
            Err(failure) if refuses(&failure) => return Err(failure),
            Ok(()) | Err(_) => {}
        }
        // Nobody is told of what stands in for a key that is not made yet.
        let stand_in = self.run.candidate.is_none().then(|| match &self.run.outgoing {
            Some(outgoing) => {
                let mut like = outgoing.duplicate();
                // The new one has parts that this one may be without.
                for (name, part) in stand_in(&self.run.plan).parts {
                    like.parts.entry(name).or_insert(part);
                }
                like
            }
            None => stand_in(&self.run.plan),
        });
        let candidate = stand_in.as_ref().or(self.run.candidate.as_ref());
        let request = self.publication_of(candidate.expect("one stands in for the other"));
        let rehearsed = join_all(self.consumers.iter().map(|consumer| consumer.rehearse(request))).await;
        let mut ailing = Vec::new();
        for rehearsed in rehearsed {
            match rehearsed {
                Ok(readers) => ailing.extend(readers),
                Err(failure) if refuses(&failure) => return Err(failure),
                Err(_) => {}
            }
        }
        self.run.course.ailing = ailing;
        Ok(())
    }

    /// Lets the values change places, in the store first, unless somebody has passed the point meanwhile from
    /// which there is no bringing back.
    ///
    /// Dying after the write: the next sitting walks the line for the value that is brought back.
    pub(super) async fn revert(&mut self, why: &str) -> Result<(), Amendment> {
        while let Some(promoted) = self.promoted.clone().filter(|_| self.run.may_revert()) {
            let (to, base, course) = (self.run.to, self.run.base.clone(), self.run.course.clone());
            self.run.revert(promoted, why);
            let policy = &self.run.plan.policy;
            match self.store.save(policy, &self.run.to_wire(), Some(&self.revision)).await {
                Ok(revision) => {
                    self.revision = revision;
                    (self.promoted, self.held, self.alone) = (None, None, false);
                    self.seen = Seen::default();
                    return Ok(());
                }
                Err(failure) => {
                    std::mem::swap(&mut self.run.outgoing, &mut self.run.candidate);
                    (self.run.to, self.run.base, self.run.course) = (to, base, course);
                    if failure.class() != FailureClass::Conflict {
                        return Err(Amendment::Failed(failure));
                    }
                    self.refresh().await?;
                }
            }
        }
        Ok(())
    }

    /// Changes the run document, in the store first. When somebody else changed it in the meantime and
    /// it is still this rotation's, theirs is taken and the change applied to it.
    ///
    /// Dying after the write and before the return is the same as having returned.
    pub(super) async fn amend(&mut self, change: impl Fn(&mut Course)) -> Result<(), Amendment> {
        self.amend_knowing(|course, _| change(course)).await
    }

    /// The same, with what is known by then of [`Standing::touched`].
    pub(super) async fn amend_knowing(
        &mut self,
        change: impl Fn(&mut Course, bool),
    ) -> Result<(), Amendment> {
        loop {
            if mutated!(BlindDocument) {
                self.overlook().await;
            }
            let before = self.run.course.clone();
            change(&mut self.run.course, self.touched);
            match self.store.save(&self.run.plan.policy, &self.run.to_wire(), Some(&self.revision)).await {
                Ok(revision) => {
                    self.revision = revision;
                    return Ok(());
                }
                Err(failure) => {
                    self.run.course = before;
                    if failure.class() != FailureClass::Conflict {
                        return Err(Amendment::Failed(failure));
                    }
                    self.refresh().await?;
                }
            }
        }
    }

    /// Keeps the key that this sitting had made, unless somebody asked for another one since then or the
    /// rotation was turned back: then it is given back, and nobody must use it.
    ///
    /// Dying before the write: the key is nobody's, and whoever asks next has it deleted. Dying after it is
    /// the same as having returned.
    pub(super) async fn keep_minted(
        &mut self,
        made: Credential,
        now: Timestamp,
    ) -> Result<Option<Credential>, Amendment> {
        let mut made = Some(made);
        loop {
            // Our own write, whose answer was lost.
            if self.run.candidate.is_some() && self.run.candidate == made {
                return Ok(None);
            }
            let Course { direction, asked, .. } = self.run.course;
            let was_last = asked == self.asking.number || mutated!(KeptWhoeverAsked);
            let may_keep = direction == Direction::Forward && was_last;
            if self.run.candidate.is_some() || !may_keep {
                return Ok(made);
            }
            std::mem::swap(&mut self.run.candidate, &mut made);
            let before = self.run.course.minted_at.replace(now);
            if mutated!(KeptInMemory) {
                return Ok(None);
            }
            match self.store.save(&self.run.plan.policy, &self.run.to_wire(), Some(&self.revision)).await {
                Ok(revision) => {
                    self.revision = revision;
                    return Ok(None);
                }
                Err(failure) => {
                    std::mem::swap(&mut self.run.candidate, &mut made);
                    self.run.course.minted_at = before;
                    if failure.class() != FailureClass::Conflict {
                        self.asking.made = made;
                        self.asking.kept_perhaps |= !failure.class().is_certain();
                        return Err(Amendment::Failed(failure));
                    }
                    if let Err(amendment) = self.refresh().await {
                        self.asking.made = made;
                        return Err(amendment);
                    }
                }
            }
        }
    }

    /// Gives up a candidate that the target made and does not take, so that another one is asked for.
    pub(super) async fn drop_minted(&mut self) -> Result<(), Amendment> {
        while let Some(candidate) = self.run.candidate.take() {
            match self.store.save(&self.run.plan.policy, &self.run.to_wire(), Some(&self.revision)).await {
                Ok(revision) => self.revision = revision,
                Err(failure) => {
                    self.run.candidate = Some(candidate);
                    if failure.class() != FailureClass::Conflict {
                        return Err(Amendment::Failed(failure));
                    }
                    self.refresh().await?;
                }
            }
        }
        Ok(())
    }

    /// The seeded bug: takes whatever the document has become for what it was.
    pub(super) async fn overlook(&mut self) {
        if let Ok(Some(control)) = self.store.control(&self.run.plan.policy).await {
            self.revision = control.revision;
        }
    }

    /// Writes the same document again, at another revision: whoever opened it and believes that nobody else
    /// was at the target learns of this sitting when he next writes.
    pub(super) async fn announce(&mut self) -> Result<(), Amendment> {
        self.amend(|_| {}).await
    }

    /// Reads the run document again, in case somebody else changed it.
    pub(super) async fn refresh(&mut self) -> Result<(), Amendment> {
        match self.closing().await? {
            None => Ok(()),
            Some(_) => Err(Amendment::ClaimLost),
        }
    }

    /// Reads the run document again. The record that closed it, if it is closed and no other rotation
    /// was opened since.
    pub(super) async fn closing(&mut self) -> Result<Option<Record>, Amendment> {
        let slots = look(&*self.store, &self.run.plan.policy, &self.run.plan.spec.store)
            .await
            .map_err(Amendment::Failed)?;
        match (slots.document, slots.revision) {
            (Some(Document::Open(run)), Some(revision)) if run.rotation == self.run.rotation => {
                self.promoted = run.promotion(slots.current.as_ref());
                if revision != self.revision {
                    // Somebody else was here, and perhaps at the target.
                    (self.touched, self.alone) = (true, false);
                }
                self.run = *run;
                self.revision = revision;
                Ok(None)
            }
            (Some(Document::Closed(marker)), _) => {
                let closing = marker.record.filter(|record| record.rotation == self.run.rotation);
                closing.map(Some).ok_or(Amendment::ClaimLost)
            }
            _ => Err(Amendment::ClaimLost),
        }
    }

    /// The record of this rotation, as it would be closed now.
    pub(super) fn record(&self, now: Timestamp) -> Record {
        let run = &self.run;
        let trigger = run.effective_trigger();
        let outcome = self.standing(now).outcome();
        let promotes = outcome == Outcome::Rotated || run.course.reverts;
        let principal = match &run.outgoing {
            Some(outgoing) if !promotes => &outgoing.principal,
            _ => run.candidate.as_ref().map_or(&run.plan.candidate, |candidate| &candidate.principal),
        };
        let takes_out = run.outgoing.is_some() && run.trigger.kind != TriggerKind::Adopt;
        Record {
            api_version: RECORD_API_VERSION.into(),
            kind: RecordKind::RotationRecord,
            rotation: run.rotation,
            policy: run.plan.policy.clone(),
            owner: run.plan.spec.owner.clone(),
            trigger: trigger.kind,
            request: trigger.request.clone(),
            requested_by: trigger.requested_by.clone(),
            reason: trigger.reason.clone(),
            outcome,
            from: run.before.version,
            to: if promotes { run.to } else { run.before.version },
            strategy: run.plan.strategy.as_str().into(),
            target: run.plan.target_label(),
            principal: principal.clone(),
            outgoing: run.outgoing.as_ref().filter(|_| takes_out).map(|c| c.principal.clone()),
            store: run.plan.store_label(),
            consumers: self.consumers.iter().map(|consumer| consumer.label()).collect(),
            policy_hash: run.plan.spec_hash.clone(),
            opened_at: run.opened_at,
            closed_at: now,
            previous_promoted_at: run.before.current.as_ref().map(|current| current.since),
            proof: Proof {
                new_accepted: self.seen.new_accepted,
                old_refused: (takes_out && self.target.is_some() && promotes)
                    .then_some(self.seen.old_refused),
                sessions_closed: self.seen.sessions_closed,
                sessions_left: (!self.seen.sessions_unlisted).then_some(0),
            },
            window_ms: run.course.window_ms,
            contained_ms: self.seen.contained_at.map(|at| whole_milliseconds(trigger.at, at)),
            failure: run.course.failure.clone(),
            writer: concat!("rekeyd ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Whether the record would hold the candidate: the ledger takes none that does.
    pub(super) fn record_shows_candidate(&self, now: Timestamp) -> bool {
        let record = serde_json::to_string(&self.record(now)).expect("a record has only string keys");
        self.run.candidate.iter().flat_map(Credential::secrets).any(|secret| secret.occurs_in(&record))
    }

    /// The marker that closes this rotation.
    pub(super) fn marker(&self, record: Record) -> Marker {
        let run = &self.run;
        let mut marker = run.before.clone();
        marker.fence = run.course.fence.max(marker.fence);
        if run.course.asked > 0 {
            marker.remember_asker(run.rotation);
        }
        let promotes = record.outcome == Outcome::Rotated || run.course.reverts;
        if let (Some(revision), Some(candidate)) =
            (self.promoted.as_ref().filter(|_| promotes), &run.candidate)
        {
            marker.version = run.to;
            marker.current = Some(InForce {
                rotation: run.rotation,
                principal: candidate.principal.clone(),
                revision: revision.clone(),
                since: run.since(),
                made_by: maker(&run.plan.spec.target),
            });
        }
        // Held back by writing the same value again: that is no drift. One that was there before stays.
        if let (Some(current), Some(held)) = (&mut marker.current, &self.held)
            && run.base.as_ref() == Some(&current.revision)
        {
            current.revision = held.clone();
        }
        // A request that came to nothing may be made again; not one that restarted readers.
        if promotes {
            marker.handled = run.trigger.nominal.into_iter().chain(marker.handled).max();
            // Opened after it, this rotation answers what was owed before; one that is recorded as
            // something else does not.
            let contains = record.trigger == TriggerKind::Contain;
            let owed = marker.owes.take_if(|_| contains);
            let taken_over = run.course.taken_over.as_ref();
            let mut answered = vec![&run.trigger.request, &record.request];
            answered.extend(owed.iter().chain(taken_over.filter(|_| contains)).map(|other| &other.request));
            for request in answered {
                if marker.answer(request).is_none() {
                    marker.remember(Answered {
                        request: request.clone(),
                        rotation: run.rotation,
                        outcome: record.outcome,
                        version: marker.version,
                    });
                }
            }
            let late = taken_over.filter(|other| !contains && other.request != run.trigger.request);
            marker.owes = marker.owes.or_else(|| late.cloned());
        }
        // One that came to nothing is still to be done: what leaked is alive.
        let undone = Some(run.effective_trigger()).filter(|_| !promotes && run.contains());
        let forgiven = undone.filter(|_| run.course.given_up).map(|trigger| &trigger.request);
        let owed = [marker.owes.take(), run.course.owes.clone(), undone.cloned()];
        marker.owes = owed
            .into_iter()
            .flatten()
            .find(|owed| marker.answer(&owed.request).is_none() && forgiven != Some(&owed.request));
        marker.record = Some(record);
        marker
    }

    /// The version in force now.
    #[must_use]
    pub fn version_in_force(&self) -> Version {
        if self.promoted.is_some() && self.run.course.direction == Direction::Forward {
            self.run.to
        } else {
            self.run.replaced()
        }
    }
}

/// Why the run document could not be changed.
#[derive(Debug)]
pub(super) enum Amendment {
    /// It is no longer this rotation's.
    ClaimLost,
    Failed(Failure),
}

/// From one moment to a later one; 0 when the clock was set back in between.
/// Whether it would fail in the same way if it were asked again.
fn refuses(failure: &Failure) -> bool {
    matches!(failure.class(), FailureClass::Invalid | FailureClass::Conflict | FailureClass::Denied)
}

pub(super) fn whole_milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}
