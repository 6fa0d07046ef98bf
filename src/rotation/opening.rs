//! Opens rotations: by request, by adoption, and again after whoever drove them is gone.
//!
//! Opening is one create-only write of the control document. It is the policy's lock, and it makes the
//! candidate durable before any target can see it.

use std::sync::Arc;

use super::candidate::{candidate, completed};
use super::engine::Engine;
use super::event::What;
use super::plan::{Plan, Strategy, maker, target_label};
use super::progress::Step;
use super::run::{Answered, Course, Document, Marker, Run, Trigger};
use super::sitting::{Amendment, Asking, Creating, Seen, Sitting, look, read_document};
use super::steps;
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, PolicyName, RotationId};
use crate::ledger::{Record, TriggerKind};
use crate::policy::spec::TargetSpec;
use crate::policy::{Policy, Spec};
use crate::secret::Credential;
use crate::store::{Place, Revision, Store};

/// What came of asking for a rotation.
pub enum Opening {
    Opened(Sitting),
    /// Another rotation of the policy is open.
    Busy(Sitting),
    /// This very request was answered before.
    Answered(Answered),
    /// It was opened, and somebody else brought it to its end already.
    Closed(Box<Record>),
}

impl Engine {
    /// Opens a rotation: its candidate is durable when this returns, and nothing else has changed.
    ///
    /// # Errors
    /// When the store cannot be read or written, or holds a value that the policy cannot rotate.
    pub async fn open(&self, policy: &Policy, trigger: &Trigger) -> Result<Opening, Failure> {
        let store = self.adapters.store(&policy.spec().store.name)?;
        if trigger.kind != TriggerKind::Contain {
            // What could not be recorded is not begun. A containment cannot wait for that.
            self.adapters.ledger()?;
        }
        // Rotations of writes whose answer was lost. Each write has an id of its own: one that was opened may
        // be closed again by now, and its id must not come to stand for another candidate.
        let mut tried = Vec::new();
        let mut conflict = None;
        // Each turn answers a lost race or a lost reply by reading again.
        for _ in 0..8 {
            let slots = look(&*store, policy.name(), &policy.spec().store).await?;
            let marker = match self.marker_of(slots.document, trigger) {
                Found::Marker(marker) => match marker.record {
                    Some(record) if tried.contains(&record.rotation) => {
                        return Ok(Opening::Closed(Box::new(record)));
                    }
                    _ => marker,
                },
                Found::Ours(answered) => return Ok(Opening::Answered(answered)),
                Found::Open(run) => {
                    let revision = slots.revision.expect("an open document was read at a revision");
                    let ours = tried.contains(&run.rotation);
                    let same_request = run.trigger.request == trigger.request;
                    let promoted = run.promotion(slots.current.as_ref());
                    let mut sitting = self.sit(*run, revision, Arc::clone(&store), Some(policy))?;
                    sitting.promoted = promoted;
                    // Also one that is ours: others may have been at it since it was written.
                    sitting.touched = true;
                    if !ours && !same_request {
                        return Ok(Opening::Busy(sitting));
                    }
                    match sitting.announce().await {
                        Ok(()) => {}
                        // Closed in the meantime: looked at again.
                        Err(Amendment::ClaimLost) => continue,
                        Err(Amendment::Failed(failure)) => return Err(failure),
                    }
                    self.tell(&sitting, if ours { What::Opened } else { What::Resumed });
                    return Ok(Opening::Opened(sitting));
                }
            };
            let (outgoing, base) = match slots.current {
                Some(current) => (Some(current.credential), Some(current.revision)),
                None => (None, None),
            };
            if let Some(drift) = drift(policy, &marker, base.as_ref()) {
                // Document and value were not read at one moment: a rotation elsewhere may have passed in
                // between. What is the same when it is read again was so at the moment between.
                let again = look(&*store, policy.name(), &policy.spec().store).await?;
                let found = again.current.map(|current| current.revision);
                if again.revision != slots.revision || found != base {
                    continue;
                }
                // A containment takes what is there as it is: whatever that may be, it is taken out.
                if trigger.kind != TriggerKind::Contain {
                    return Err(drift);
                }
            }
            let doing = match trigger.kind {
                TriggerKind::Contain => format!("contain {}", policy.name()),
                _ => format!("rotate {}", policy.name()),
            };
            if let Some(moved) = moved(policy, &marker, &doing) {
                return Err(moved);
            }
            let plan = plan(policy, outgoing.as_ref(), &marker, doing)?;
            let candidate = if plan.strategy.mints() {
                None
            } else {
                let leaked = trigger.kind == TriggerKind::Contain || marker.owes.is_some();
                Some(candidate(&plan, outgoing.as_ref(), leaked, &*self.clock, &*self.adapters)?)
            };
            let rotation = RotationId::generate();
            tried.push(rotation);
            let run = self.new_run(rotation, trigger, plan, candidate, outgoing, base, marker);
            match self.begin(run, slots.revision.as_ref(), Arc::clone(&store)).await {
                Ok(sitting) => return Ok(Opening::Opened(sitting)),
                Err(failure)
                    if matches!(failure.class(), FailureClass::Conflict | FailureClass::Ambiguous) =>
                {
                    conflict = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        // A reader that is ahead may have been told by a rotation that passed meanwhile, or be somebody else's.
        if let Some(failure) = conflict.filter(|failure| failure.remedy().is_some()) {
            return Err(failure);
        }
        Err(Failure::new(
            FailureClass::Unavailable,
            format!("open a rotation of {}", policy.name()),
            "the store's answers were lost or others opened rotations at the same time",
        ))
    }

    /// Opens an adoption: the value that is already live becomes version 1.
    ///
    /// # Errors
    /// When the policy is managed already, a rotation is open, or the store fails.
    pub async fn open_adoption(
        &self,
        policy: &Policy,
        trigger: &Trigger,
        live: Credential,
        replace: bool,
    ) -> Result<Sitting, Failure> {
        let doing = || format!("adopt {}", policy.name());
        self.adapters.ledger()?;
        let store = self.adapters.store(&policy.spec().store.name)?;
        let slots = look(&*store, policy.name(), &policy.spec().store).await?;
        let marker = match self.marker_of(slots.document, trigger) {
            Found::Marker(marker) => marker,
            Found::Ours(_) | Found::Open(_) => {
                return Err(Failure::new(FailureClass::Conflict, doing(), "a rotation of it is open")
                    .with_remedy("finish it with `rekeyd resume` first"));
            }
        };
        if marker.current.is_some() && !replace {
            return Err(Failure::new(
                FailureClass::Invalid,
                doing(),
                format_args!("it is managed already, at {}", marker.version),
            )
            .with_remedy("pass --replace if the live value was changed by hand"));
        }
        let mints = Strategy::of(&policy.spec().target).mints();
        if !mints && !policy.principals().contains(&&live.principal) {
            return Err(Failure::new(
                FailureClass::Invalid,
                doing(),
                format_args!("the policy does not rotate `{}`", live.principal),
            ));
        }
        let live = completed(policy.spec(), live, &doing())?;
        let plan = Plan::for_principal(policy, live.principal.clone());
        let base = slots.current.map(|current| current.revision);
        let run = self.new_run(RotationId::generate(), trigger, plan, Some(live), None, base, marker);
        self.begin(run, slots.revision.as_ref(), store).await
    }

    /// Takes up the open rotation of a policy, if there is one. The policy itself may be gone: the run
    /// keeps its pinned plan. How its readers are told follows the policy `in_force`, so that a mistake
    /// there can be corrected.
    ///
    /// # Errors
    /// When the store cannot be read, or an adapter that the rotation names cannot be built.
    pub async fn reopen(
        &self,
        policy: &PolicyName,
        in_force: Option<&Policy>,
        store: &DnsLabel,
    ) -> Result<Option<Sitting>, Failure> {
        let store = self.adapters.store(store)?;
        let Some(control) = store.control(policy).await? else { return Ok(None) };
        let Document::Open(run) = read_document(policy, &control.document)? else { return Ok(None) };
        let current = store.current(Place::from(&run.plan.spec.store)).await?;
        let promoted = run.promotion(current.as_ref());
        let mut sitting = self.sit(*run, control.revision, store, in_force)?;
        sitting.promoted = promoted;
        sitting.touched = true;
        if mutated!(FreshValueOnRetry)
            && let Some(candidate) = &mut sitting.run.candidate
        {
            candidate.value = sitting.run.plan.spec.value.generate();
        }
        // One that is frozen is only looked at.
        if sitting.run.course.doubt.is_none() {
            match sitting.announce().await {
                Ok(()) => {}
                Err(Amendment::ClaimLost) => return Ok(None),
                Err(Amendment::Failed(failure)) => return Err(failure),
            }
        }
        self.tell(&sitting, What::Resumed);
        Ok(Some(sitting))
    }

    /// Makes a run document durable. What it needs is built first: what cannot be driven is not begun.
    async fn begin(
        &self,
        run: Run,
        expected: Option<&Revision>,
        store: Arc<dyn Store>,
    ) -> Result<Sitting, Failure> {
        let mut sitting = self.sit(run, Revision::new(""), store, None)?;
        if sitting.run.trigger.kind == TriggerKind::Adopt && sitting.record_shows_candidate(self.clock.now())
        {
            return Err(Failure::new(
                FailureClass::Invalid,
                format!("adopt {}", sitting.run.plan.policy),
                "the value is part of a name that the record holds, so it is easily guessed",
            )
            .with_remedy("set a long random value at the target by hand, and adopt that"));
        }
        sitting.rehearse().await?;
        if mutated!(SetBeforeDurable | IntentInTransaction) {
            let steps: &[Step] =
                if mutated!(SetBeforeDurable) { &[Step::Install] } else { &[Step::Install, Step::Verify] };
            for step in steps {
                let performed = steps::perform(&mut sitting, *step, &*self.clock, &*self.adapters);
                during!(step.as_str(), performed).await;
            }
        }
        let (policy, wire) = (sitting.run.plan.policy.clone(), sitting.run.to_wire());
        sitting.revision = sitting.store.save(&policy, &wire, expected).await?;
        sitting.alone = true;
        self.tell(&sitting, What::Opened);
        Ok(sitting)
    }

    fn sit(
        &self,
        run: Run,
        revision: Revision,
        store: Arc<dyn Store>,
        in_force: Option<&Policy>,
    ) -> Result<Sitting, Failure> {
        let Spec { target, consumers, .. } = &run.plan.spec;
        let target = self.adapters.target(target)?;
        let now = |pinned| in_force.and_then(|policy| policy.spec().consumer_like(pinned)).unwrap_or(pinned);
        let consumers =
            consumers.iter().map(|spec| self.adapters.consumer(now(spec))).collect::<Result<_, _>>()?;
        Ok(Sitting {
            run,
            revision,
            store,
            target,
            consumers,
            promoted: None,
            alone: false,
            creating: Creating::default(),
            asking: Asking::default(),
            held: None,
            touched: false,
            seen: Seen::default(),
            record: None,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of the document")]
    fn new_run(
        &self,
        rotation: RotationId,
        trigger: &Trigger,
        plan: Plan,
        candidate: Option<Credential>,
        outgoing: Option<Credential>,
        base: Option<Revision>,
        marker: Box<Marker>,
    ) -> Run {
        let mut course = Course::new(marker.fence.next());
        if matches!(trigger.kind, TriggerKind::Scheduled | TriggerKind::Manual) {
            course.taken_over = marker.owes.clone();
        }
        Run {
            rotation,
            trigger: trigger.clone(),
            to: marker.version.next(),
            plan,
            candidate,
            outgoing,
            base,
            opened_at: self.clock.now(),
            course,
            before: *marker,
        }
    }

    fn marker_of(&self, document: Option<Document>, trigger: &Trigger) -> Found {
        let answered = |marker: &Marker| marker.answer(&trigger.request).cloned().map(Found::Ours);
        match document {
            None => Found::Marker(Box::default()),
            // Another rotation may be open by the time that whoever asked hears of it.
            Some(Document::Open(run)) => answered(&run.before).unwrap_or(Found::Open(run)),
            Some(Document::Closed(marker)) => answered(&marker).unwrap_or(Found::Marker(marker)),
        }
    }
}

enum Found {
    Marker(Box<Marker>),
    Open(Box<Run>),
    /// This very request was answered before.
    Ours(Answered),
}

/// What the rotation does. Where the value in force is lost, its user gets the new one: whoever has the
/// old one is refused then, whatever it was.
fn plan(
    policy: &Policy,
    outgoing: Option<&Credential>,
    marker: &Marker,
    doing: String,
) -> Result<Plan, Failure> {
    if let (None, Some(lost)) = (outgoing, &marker.current)
        && policy.principals().contains(&&lost.principal)
    {
        return Ok(Plan::for_principal(policy, lost.principal.clone()));
    }
    Plan::derive(policy, outgoing.map(|outgoing| &outgoing.principal)).map_err(|problem| {
        Failure::new(FailureClass::Invalid, doing, problem).with_remedy(
            "name that principal in the policy, or take the right value over with `rekeyd adopt`",
        )
    })
}

/// Why a key is neither rotated nor tried: it was made by another server than the one that the policy names now. That
/// one would call it refused, and learn it; and the key would live on where it was made.
///
/// A server that is not known is never the same as another one.
#[must_use]
pub fn moved(policy: &Policy, marker: &Marker, doing: &str) -> Option<Failure> {
    let current = marker.current.as_ref()?;
    let target = &policy.spec().target;
    let reason = match (maker(target), &current.made_by) {
        (None, _) if matches!(target, TargetSpec::Http(_)) => {
            "an address in the policy or its recipe leads to no server for sure".to_owned()
        }
        (_, None) => return None,
        (Some(now), Some(made_by)) if now == *made_by => return None,
        (now, Some(made_by)) => {
            let now = now.unwrap_or_else(|| target_label(target));
            format!("the key in force was made by {made_by}, and the policy names {now} now")
        }
    };
    Some(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
        "name the earlier one again to rotate or contain it there; to move, bring a key of the new one in with `rekeyd adopt --replace`, and delete the earlier one by hand",
    ))
}

/// Why a value in the store is not rotated away unasked: rekeyd did not write it.
#[must_use]
pub fn drift(policy: &Policy, marker: &Marker, current: Option<&Revision>) -> Option<Failure> {
    let place = format!("{}:{}", policy.spec().store.name, policy.spec().store.path);
    let (class, reason, remedy) = match (&marker.current, current) {
        (None, None) => return None,
        (Some(ours), Some(found)) if ours.revision == *found => return None,
        (None, Some(_)) => (
            FailureClass::Invalid,
            format!("{place} holds a value that rekeyd did not write"),
            "take it over with `rekeyd adopt`",
        ),
        (Some(_), Some(_)) => (
            FailureClass::Conflict,
            format!("the value at {place} was changed by somebody else since {}", marker.version),
            "find out which value the target accepts, and take that over with `rekeyd adopt --replace`",
        ),
        (Some(_), None) => (
            FailureClass::Conflict,
            format!("the value at {place} was deleted since {}", marker.version),
            "take the live value over with `rekeyd adopt --replace`",
        ),
    };
    Some(Failure::new(class, format!("rotate {}", policy.name()), reason).with_remedy(remedy))
}
