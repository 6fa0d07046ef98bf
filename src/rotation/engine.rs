//! Opens rotations and drives them: retries, waits, and stops when told to.
//!
//! What comes next is [`progress`](super::progress)'s to say and what a step does is
//! [`steps`](super::steps)'s; here is only the loop around them. It may be dropped or killed at any
//! point: the next one begins from the run document.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder as _;
use tokio_util::sync::CancellationToken;

use super::decision::Verdicts;
use super::event::{Event, Observer, What};
use super::limits::{Limits, Patience, Permit, Urgency};
use super::opening::Opening;
use super::plan::{Strategy, target_label};
use super::progress::{Direction, Doubt, Next, Standing, Step, StepResult, Tries, Walk};
use super::run::{Answered, Course, Marker, Trigger};
use super::sitting::{Amendment, Sitting, Slots, look};
use super::steps::{self, Awaiting, Report};
use crate::clock::{Clock, Steady};
use crate::consumer::{Consumer, Expected};
use crate::failure::{Failure, FailureClass};
use crate::ident::{DnsLabel, PolicyName};
use crate::ledger::{Ledger, Record, TriggerKind};
use crate::policy::Policy;
use crate::policy::spec::{ConsumerSpec, StoreSpec, TargetSpec};
use crate::secret::Authority;
use crate::settings::LimitSettings;
use crate::store::{Current, Store};
use crate::target::Target;

/// First and longest pause before a failed step is tried again within a sitting.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How often a waiting rotation looks again, at most and at least.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Finds the adapters that a policy names.
pub trait Adapters: Send + Sync {
    /// The stores there are.
    fn store_names(&self) -> Vec<DnsLabel>;

    /// # Errors
    /// When the settings have no such store, or it cannot be opened.
    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure>;

    /// `None` for a value that no target checks.
    ///
    /// # Errors
    /// When the target's configuration cannot be used.
    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure>;

    /// # Errors
    /// When the consumer's configuration cannot be used.
    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure>;

    /// Who signs certificates. Blocks for a few disk accesses.
    ///
    /// # Errors
    /// When the settings have none of that name, or its files cannot be used.
    fn authority(&self, name: &DnsLabel) -> Result<Arc<Authority>, Failure> {
        let doing = format!("use authority {name}");
        Err(Failure::new(FailureClass::Invalid, doing, "there is none of that name"))
    }

    /// # Errors
    /// When it cannot be opened.
    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure>;

    /// A rotation of the policy may be about to open: whoever restarts its readers for another one waits a while
    /// to hear of that, until it opens or this is dropped. `None` where that makes no difference.
    fn expect(&self, _policy: &Policy) -> Option<Expected> {
        None
    }
}

/// Opens and drives rotations.
pub struct Engine {
    pub(super) adapters: Arc<dyn Adapters>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) limits: Limits,
}

/// How a sitting ended.
#[derive(Debug)]
pub enum Ended {
    Closed(Box<Record>),
    /// Left open, to be taken up later.
    Parked {
        step: Step,
        failure: Failure,
    },
    /// Frozen until a person decides.
    InDoubt {
        step: Step,
        doubt: Doubt,
        known: Verdicts,
    },
    /// The process is stopping.
    Stopped {
        step: Step,
    },
    /// Somebody else has the policy now.
    Lost {
        step: Step,
    },
    /// This very request was answered before.
    Answered(Answered),
}

impl Engine {
    #[must_use]
    pub fn new(
        adapters: Arc<dyn Adapters>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        limits: LimitSettings,
    ) -> Self {
        Self { adapters, clock, observer, limits: Limits::new(limits) }
    }

    /// Reads what the store holds for a policy.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look(&self, policy: &PolicyName, store: &StoreSpec) -> Result<Slots, Failure> {
        look(&*self.adapters.store(&store.name)?, policy, store).await
    }

    /// Records the last closed rotation of a policy again if the ledger has lost it.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub async fn make_up_record(&self, marker: &Marker, current: Option<&Current>) -> Result<(), Failure> {
        if marker.record.is_none() {
            return Ok(());
        }
        let values: Vec<_> = current.iter().flat_map(|current| current.credential.secrets()).collect();
        steps::make_up(&*self.adapters.ledger()?, marker, &values).await
    }

    /// Opens a rotation and drives it. Where one is frozen, that is the answer.
    ///
    /// # Errors
    /// When nothing was opened: another rotation is open, or the store fails.
    pub async fn rotate(
        &self,
        policy: &Policy,
        trigger: &Trigger,
        patience: Patience,
        stop: &CancellationToken,
    ) -> Result<Ended, Failure> {
        match during!("open", self.open(policy, trigger)).await? {
            Opening::Opened(sitting) => Ok(self.drive(sitting, patience, stop).await),
            Opening::Answered(answered) => Ok(Ended::Answered(answered)),
            Opening::Closed(record) => Ok(Ended::Closed(record)),
            Opening::Busy(sitting) => match sitting.run.course.doubt {
                Some(doubt) => {
                    let known = sitting.run.course.known.unwrap_or_default();
                    Ok(Ended::InDoubt { step: sitting.next_step(self.clock.now()), doubt, known })
                }
                None => Err(busy(&sitting)),
            },
        }
    }

    /// Contains a leak: ends with a value in force that no reader had before the request, and every
    /// earlier one refused. An open rotation is finished under containment's rules first.
    ///
    /// Dying between that one and the next: the document says that the containment is owed. So it does when the
    /// containment itself comes to nothing.
    ///
    /// # Errors
    /// When the store fails before anything was opened or taken over.
    pub async fn contain(
        &self,
        policy: &Policy,
        trigger: &Trigger,
        patience: Patience,
        stop: &CancellationToken,
    ) -> Result<Ended, Failure> {
        let patience = patience.at_least(policy.spec().retire.containment_deadline.as_duration() * 2);
        loop {
            let mut sitting = match during!("open", self.open(policy, trigger)).await? {
                Opening::Opened(sitting) => return Ok(self.drive(sitting, patience, stop).await),
                Opening::Answered(answered) => return Ok(Ended::Answered(answered)),
                Opening::Closed(record) => return Ok(Ended::Closed(record)),
                Opening::Busy(sitting) => sitting,
            };
            match during!("turn", take_over(&mut sitting, trigger)).await {
                Ok(()) | Err(Amendment::ClaimLost) => {}
                Err(Amendment::Failed(failure)) => return Err(failure),
            }
            match self.drive(sitting, patience, stop).await {
                Ended::Closed(record) if record.request == trigger.request => {
                    return Ok(Ended::Closed(record));
                }
                Ended::Closed(_) | Ended::Lost { .. } => {}
                ended => return Ok(ended),
            }
        }
    }

    /// The seeded bug: a rotation that is under way follows the policy as it is now.
    ///
    /// # Errors
    /// When an adapter that the policy names cannot be built.
    #[cfg(feature = "proving")]
    pub fn follow(&self, sitting: &mut Sitting, policy: &Policy) -> Result<(), Failure> {
        let plan = super::plan::Plan::for_principal(policy, sitting.run.plan.candidate.clone());
        let consumers = &policy.spec().consumers;
        sitting.consumers =
            consumers.iter().map(|spec| self.adapters.consumer(spec)).collect::<Result<_, _>>()?;
        sitting.run.plan = plan;
        Ok(())
    }

    /// Drives a rotation until it is closed, frozen, or nothing more can be done in this sitting.
    /// `patience` bounds how long failing steps are tried again; `stop` ends it after the running step.
    pub async fn drive(&self, mut sitting: Sitting, patience: Patience, stop: &CancellationToken) -> Ended {
        let clock = Steady::new(&*self.clock);
        let label = target_label(&sitting.run.plan.spec.target);
        let (mut walk, mut toward, mut alone) = (Walk::default(), sitting.run.to, sitting.alone);
        let mut tries = [0_u32; Step::ALL.len()];
        let mut backoff = Backoff::new();
        let mut failing_since: Option<Duration> = None;
        let mut awaiting = Awaiting::default();
        let mut permit: Option<Permit> = None;
        // A containment's cut does not wait for a pause to end.
        let left =
            |sitting: &Sitting| sitting.run.containment_left(clock.now()).filter(|left| !left.is_zero());
        loop {
            // Another process may have let the values change places: what was done is not done for these.
            if sitting.run.to != toward {
                (walk, toward) = (Walk::default(), sitting.run.to);
                (tries, failing_since) = ([0; Step::ALL.len()], None);
            }
            // Or it came upon a rotation on its way back: the promotion that nobody could have sent is barred before
            // this one is closed, or it might come while the next one is under way.
            if alone && !sitting.alone && sitting.run.course.direction == Direction::Back {
                walk = Walk::default();
            }
            alone = sitting.alone;
            let standing = sitting.standing(clock.now());
            let Some(step) = walk.step(&standing) else {
                let record = sitting.record.take().unwrap_or_else(|| sitting.record(clock.now()));
                let record = Box::new(record);
                let owed = sitting.marker((*record).clone()).owes.is_some();
                self.tell(&sitting, What::Closed { record: record.clone(), owed });
                return Ended::Closed(record);
            };
            if let Some(doubt) = sitting.run.course.doubt {
                self.tell_doubt(&sitting, step, doubt);
                return Ended::InDoubt { step, doubt, known: sitting.run.course.known.unwrap_or_default() };
            }
            let target = step.works_on_target().then_some(label.as_str());
            match &mut permit {
                // Who waits for readers to move holds nobody up.
                _ if step == Step::Converge || (step == Step::Publish && tries[step as usize] > 0) => {
                    permit = None;
                }
                Some(permit) if target.is_none() => permit.leave_target(),
                Some(permit) if permit.reaches_target() => {}
                _ => {
                    // None is kept while another is waited for.
                    drop(permit.take());
                    permit = tokio::select! {
                        biased;
                        () = stop.cancelled() => return self.stopped(&sitting, step),
                        permit = self.limits.enter(target, urgency(&standing)) => Some(permit),
                    };
                }
            }
            if stop.is_cancelled() {
                return self.stopped(&sitting, step);
            }
            self.tell(&sitting, What::Started { step });
            let began = self.clock.monotonic();
            let limit = sitting.time_for(step, clock.now());
            let performed =
                during!(step.as_str(), steps::perform(&mut sitting, step, &clock, &*self.adapters));
            let report = match limit {
                // Readers may take their time to move: whoever stops this one, as a containment does that takes it
                // over, does not wait for that. Broken off is as safe as a death there.
                None if step == Step::Converge => tokio::select! {
                    biased;
                    report = performed => report,
                    () = stop.cancelled() => return self.stopped(&sitting, step),
                },
                None => performed.await,
                Some(limit) => {
                    tokio::time::timeout(limit, performed).await.unwrap_or_else(|_| Report::late(step))
                }
            };
            let now = self.clock.monotonic();
            let elapsed = now.saturating_sub(began);
            tries[step as usize] += 1;
            let since = match report.result {
                StepResult::Done | StepResult::NotYet => {
                    failing_since = None;
                    now
                }
                _ => *failing_since.get_or_insert(began),
            };
            let tries = Tries {
                made: tries[step as usize],
                exhausted: now.saturating_sub(since) >= patience.failing,
            };
            // The step may have changed where the rotation stands.
            let standing = sitting.standing(clock.now());
            let failure = report.failure;
            let next = match walk.take(&standing, step, report.result, tries) {
                Ok(next) => next,
                Err(illegal) => {
                    let failure = Failure::new(FailureClass::Invalid, format!("finish step {step}"), illegal)
                        .with_remedy("report it: this is a defect of rekeyd");
                    return self.park(&sitting, step, failure);
                }
            };
            match next {
                Next::On => {
                    backoff = Backoff::new();
                    self.tell(&sitting, What::Done { step, elapsed, detail: report.detail });
                }
                Next::Again => {
                    permit = None;
                    let delay = backoff.next().min(left(&sitting).unwrap_or(Duration::MAX));
                    let (class, failure) = words(failure.as_ref());
                    self.tell(&sitting, What::Retrying { step, class, failure, delay });
                    if self.pause(delay, stop).await {
                        return self.stopped(&sitting, step);
                    }
                }
                Next::Wait => {
                    permit = None;
                    let detail = report.detail.unwrap_or_default();
                    if let Some(awaited) = report.awaits
                        && awaiting.lasts(step, awaited, now) >= patience.person
                    {
                        return self.park(&sitting, step, awaited.left(step, detail));
                    }
                    self.tell(&sitting, What::Waiting { step, detail });
                    let grace = sitting.run.plan.spec.retire.grace.as_duration();
                    let pause = report.pause.unwrap_or_else(|| (grace / 20).clamp(POLL.0, POLL.1));
                    let pause = pause.min(left(&sitting).unwrap_or(Duration::MAX));
                    if self.pause(pause, stop).await {
                        return self.stopped(&sitting, step);
                    }
                }
                Next::TurnBack => {
                    let (_, why) = words(failure.as_ref());
                    let remedy = failure.as_ref().and_then(Failure::remedy).map(ToOwned::to_owned);
                    self.tell(&sitting, What::TurnedBack { step, failure: why.clone(), remedy });
                    match during!("turn", self.turn(&mut sitting, &why, false)).await {
                        Ok(()) => walk = Walk::default(),
                        Err(Amendment::ClaimLost) => return self.lost(&sitting, step),
                        Err(Amendment::Failed(failure)) => return self.park(&sitting, step, failure),
                    }
                }
                Next::Revert => {
                    let (_, why) = words(failure.as_ref());
                    let remedy = failure.as_ref().and_then(Failure::remedy).map(ToOwned::to_owned);
                    self.tell(&sitting, What::TurnedBack { step, failure: why.clone(), remedy });
                    match during!("turn", sitting.revert(&why)).await {
                        Ok(()) => {}
                        Err(Amendment::ClaimLost) => return self.lost(&sitting, step),
                        Err(Amendment::Failed(failure)) => return self.park(&sitting, step, failure),
                    }
                }
                Next::TurnForward => {
                    let forward = |course: &mut Course| {
                        course.forward();
                    };
                    match during!("turn", sitting.amend(forward)).await {
                        Ok(()) => walk = Walk::default(),
                        Err(Amendment::ClaimLost) => return self.lost(&sitting, step),
                        Err(Amendment::Failed(failure)) => return self.park(&sitting, step, failure),
                    }
                }
                Next::Freeze(doubt) => {
                    let (direction, fence) = (sitting.run.course.direction, sitting.run.course.fence);
                    let known = during!("turn", sitting.verdicts()).await;
                    let frozen = sitting.amend(|course| {
                        if (course.direction, course.fence) == (direction, fence) {
                            (course.doubt, course.known) = (Some(doubt), Some(known));
                        }
                    });
                    match during!("turn", frozen).await {
                        Err(Amendment::ClaimLost) => return self.lost(&sitting, step),
                        // Another process turned the rotation, which is what was met here.
                        Ok(()) if sitting.run.course.doubt.is_none() => {
                            walk = Walk::default();
                            continue;
                        }
                        // Not durable: the next sitting comes to the same doubt by itself.
                        Ok(()) | Err(Amendment::Failed(_)) => {}
                    }
                    self.tell_doubt(&sitting, step, doubt);
                    return Ended::InDoubt { step, doubt, known };
                }
                Next::Park => {
                    let failure = failure.unwrap_or_else(|| unexplained(step));
                    return self.park(&sitting, step, failure);
                }
                Next::Leave => return self.lost(&sitting, step),
            }
        }
    }

    /// Turning back raises the fence where the outgoing value is installed again, so that a late
    /// install of the candidate finds a later marker.
    pub(super) async fn turn(
        &self,
        sitting: &mut Sitting,
        why: &str,
        given_up: bool,
    ) -> Result<(), Amendment> {
        let raises = !sitting.standing(self.clock.now()).overlaps();
        let outgoing = sitting.run.outgoing.is_some();
        let strategy = sitting.run.plan.strategy;
        let trigger = sitting.run.trigger.clone();
        sitting
            .amend_knowing(|course, touched| {
                let minted = strategy.mints() && course.may_have_minted();
                // Read again since it was decided, another sitting may be creating the value, or have had one made
                // that took the place of the one in force.
                let replaced = minted && strategy == Strategy::Reissued;
                if course.direction == Direction::Forward
                    && course.creating == 0
                    && !course.reverts
                    && !replaced
                {
                    course.direction = Direction::Back;
                    course.untouched = if strategy.mints() { !minted } else { !touched };
                    if given_up {
                        course.give_up(&trigger, why);
                    } else {
                        course.failure = Some(why.to_owned());
                    }
                    course.doubt = None;
                    if raises && outgoing {
                        course.fence = course.fence.next();
                    }
                }
            })
            .await
    }

    fn tell_doubt(&self, sitting: &Sitting, step: Step, doubt: Doubt) {
        let known = sitting.run.course.known.unwrap_or_default();
        self.tell(sitting, What::InDoubt { step, doubt, known, remedy: known.remedy(doubt) });
    }

    fn stopped(&self, sitting: &Sitting, step: Step) -> Ended {
        self.tell(sitting, What::Stopped { step });
        Ended::Stopped { step }
    }

    fn lost(&self, sitting: &Sitting, step: Step) -> Ended {
        self.tell(sitting, What::Lost { step });
        Ended::Lost { step }
    }

    fn park(&self, sitting: &Sitting, step: Step, failure: Failure) -> Ended {
        let remedy = failure.remedy().map(ToOwned::to_owned);
        self.tell(sitting, What::Parked { step, failure: failure.to_string(), remedy });
        Ended::Parked { step, failure }
    }

    /// Waits; true when told to stop.
    async fn pause(&self, delay: Duration, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => true,
            () = self.clock.sleep(delay) => false,
        }
    }

    pub(super) fn tell(&self, sitting: &Sitting, what: What) {
        self.observer.observe(&Event {
            at: self.clock.now(),
            policy: sitting.run.plan.policy.clone(),
            rotation: sitting.run.rotation,
            version: sitting.run.to,
            trigger: sitting.run.effective_trigger().kind,
            what,
        });
    }
}

/// Puts an open rotation under a containment's rules. A candidate that nobody but the store and the target
/// has seen answers the containment itself. One that was published may be what leaked, and an adopted
/// one was in use all along: that rotation is finished, and another has to follow.
async fn take_over(sitting: &mut Sitting, trigger: &Trigger) -> Result<(), Amendment> {
    let run = &sitting.run;
    let adopts = run.trigger.kind == TriggerKind::Adopt;
    // In a ring the outgoing value is a part of the candidate.
    let keeps_outgoing = run
        .candidate
        .iter()
        .zip(&run.outgoing)
        .any(|(candidate, outgoing)| candidate.parts.values().any(|part| *part == outgoing.value));
    let answers =
        !sitting.is_promoted() && run.course.direction == Direction::Forward && !adopts && !keeps_outgoing;
    let own = run.trigger.request.clone();
    sitting
        .amend(|course| {
            match &course.taken_over {
                // This very containment was here before.
                Some(other) if other.request == trigger.request => return,
                None if answers && !course.reverts => {
                    course.taken_over = Some(trigger.clone());
                    return;
                }
                None if !adopts => {
                    course.taken_over = Some(Trigger { request: own.clone(), ..trigger.clone() });
                }
                Some(_) | None => {}
            }
            course.owes.get_or_insert_with(|| trigger.clone());
        })
        .await
}

/// Who is let through first.
const fn urgency(standing: &Standing) -> Urgency {
    if standing.contains {
        Urgency::Containment
    } else if standing.touched || standing.promoted {
        Urgency::Begun
    } else {
        Urgency::New
    }
}

/// Says that another rotation is open.
fn busy(sitting: &Sitting) -> Failure {
    let run = sitting.run();
    let failure = Failure::new(
        FailureClass::Conflict,
        format!("rotate {}", run.plan.policy),
        format_args!(
            "rotation {} to {} is open since {:.0} ({})",
            run.rotation, run.to, run.opened_at, run.trigger.kind
        ),
    );
    failure.with_remedy("wait for it, or finish it with `rekeyd resume` if the process that ran it is gone")
}

fn words(failure: Option<&Failure>) -> (FailureClass, String) {
    failure.map_or((FailureClass::Ambiguous, String::new()), |failure| (failure.class(), failure.to_string()))
}

fn unexplained(step: Step) -> Failure {
    Failure::new(FailureClass::Unavailable, format!("finish step {step}"), "it did not take effect in time")
}

/// Pauses between tries: doubling, with jitter.
struct Backoff(backon::ExponentialBackoff);

impl Backoff {
    fn new() -> Self {
        let builder = backon::ExponentialBuilder::default();
        Self(
            builder
                .with_min_delay(BACKOFF.0)
                .with_max_delay(BACKOFF.1)
                .with_jitter()
                .without_max_times()
                .build(),
        )
    }

    fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(BACKOFF.1)
    }
}
