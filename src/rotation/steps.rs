//! What each step does: the only place where a step meets an adapter.
//!
//! Every function here ensures an effect and says how that went. None retries, none decides what comes
//! next, and each may be repeated at any time, by this process or another.

mod back;
mod hand;
mod mint;
mod readers;
mod retire;

pub(super) use self::back::is_published;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub(super) use self::hand::Awaiting;
use self::hand::{awaits, by_hand};
use self::readers::{converge, publish, restart};
use super::engine::Adapters;
use super::plan::Strategy;
use super::progress::{Direction, Step, StepResult};
use super::run::{Course, Marker};
use super::sitting::{Amendment, Creating, Sitting};
use crate::clock::Clock;
use crate::failure::{Failure, FailureClass};
use crate::ident::Fence;
use crate::ledger::Ledger;
use crate::secret::{Credential, SecretValue};
use crate::store::{Place, Promotion};
use crate::target::{InstallRequest, Installed, Occupancy, Probe, ProbeDepth, Target};

/// How a step went, and what to tell people about it.
pub(super) struct Report {
    pub(super) result: StepResult,
    pub(super) failure: Option<Failure>,
    /// What there is to say of a step that is done or waits.
    pub(super) detail: Option<String>,
    /// When to look again at the earliest, where its time has not come and that is known.
    pub(super) pause: Option<Duration>,
    /// What it waits for, where nobody here can hasten it.
    pub(super) awaits: Option<Awaited>,
}

/// What a step may wait for that takes hours or days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Person,
    /// The end of the outgoing value's own life.
    Lapse,
}

impl Awaited {
    /// Told to somebody who asked and does not wait for it.
    pub(super) fn left(self, step: Step, detail: String) -> Failure {
        let (reason, remedy) = match (self, step) {
            (Self::Lapse, _) => {
                ("it is not at its end yet", "run `rekeyd resume` then; a daemon does it by itself")
            }
            (Self::Person, Step::Mint) => (
                "nobody has done it yet",
                "`rekeyd supply` hands the key over; `rekeyd resume --abandon` gives the rotation up",
            ),
            (Self::Person, _) => ("nobody has done it yet", "do it, and then run `rekeyd resume`"),
        };
        Failure::new(FailureClass::Unavailable, detail, reason).with_remedy(remedy)
    }
}

/// How long to wait before a target that may still settle is asked again.
const SETTLING: Duration = Duration::from_secs(1);

/// Performs one step.
pub(super) async fn perform(
    sitting: &mut Sitting,
    step: Step,
    clock: &dyn Clock,
    adapters: &dyn Adapters,
) -> Report {
    match step {
        Step::Mint => mint::mint(sitting, clock).await,
        Step::Install => install(sitting, clock).await,
        Step::Verify => verify(sitting, clock).await,
        Step::Promote => promote(sitting).await,
        Step::Publish => publish(sitting).await,
        Step::Restart => restart(sitting).await,
        Step::Converge => converge(sitting, clock).await,
        Step::Retire => retire::retire(sitting, clock).await,
        Step::Prove => retire::prove(sitting, clock).await,
        Step::Hold => back::hold(sitting).await,
        Step::Withdraw => back::withdraw(sitting).await,
        Step::Restore => back::restore(sitting).await,
        Step::Record => record(sitting, clock, adapters).await,
        Step::Close => close(sitting, clock).await,
    }
}

/// Dying after the target's change and before its answer: the run document has the candidate, the next
/// sitting installs the same one again.
async fn install(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let target = match target(sitting) {
        Ok(target) => target,
        Err(failure) => return failure.into(),
    };
    let (run, candidate) = match sitting.candidate() {
        Ok(candidate) => (&sitting.run, candidate),
        Err(failure) => return failure.into(),
    };
    let occupancy = match (run.plan.strategy, &run.outgoing) {
        // Its sessions are the readers'; they are closed when they have the new value.
        (Strategy::InPlace, Some(_)) => Occupancy::Keep,
        // Who never moved is still there.
        _ if run.course.reverts => Occupancy::Keep,
        // Readers may have moved to it by now, and strangers were seen to at the first install.
        _ if sitting.promoted.is_some() => Occupancy::Keep,
        _ if run.contains() => Occupancy::Close,
        _ => Occupancy::Refuse,
    };
    let peer = run.outgoing.as_ref().map(|outgoing| &outgoing.principal);
    // What readers failed with is no model for what they were well with.
    let peer = peer.filter(|_| !run.course.reverts);
    let request = InstallRequest {
        attempt: sitting.attempt(),
        candidate,
        peer: peer.filter(|peer| **peer != candidate.principal),
        beside: run.outgoing.as_ref().filter(|_| run.plan.strategy == Strategy::DualPassword),
        occupancy,
    };
    let shared = run.plan.strategy.shares_principal();
    match target.install(request).await {
        Ok(Installed::Done { at }) => {
            sitting.touched = true;
            if shared && sitting.run.course.installed_at.is_none() {
                // Not kept before a crash: a later one is taken then, and newer sessions are closed too.
                let fence = sitting.run.course.fence;
                let cut_at = (sitting.run.plan.strategy == Strategy::InPlace).then(|| clock.now());
                let kept = sitting.amend(|course| {
                    if course.fence == fence {
                        course.installed_at.get_or_insert(at);
                        course.cut_at = course.cut_at.or(cut_at);
                    }
                });
                if let Err(amendment) = kept.await {
                    return amendment.into();
                }
            }
            Report::done()
        }
        Ok(Installed::Superseded { by }) => Report::superseded(by),
        Err(failure) => {
            sitting.touched |= !failure.class().is_certain() && !mutated!(TimeoutAsRefusal);
            failure.into()
        }
    }
}

async fn verify(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let (target, candidate) = match (target(sitting), sitting.candidate()) {
        (Ok(target), Ok(candidate)) => (target, candidate),
        (Err(failure), _) => return failure.into(),
        (_, Err(failure)) => return failure.into(),
    };
    // The check decides whether to promote. Once that is done its failure must not keep the value from
    // its readers, who have no other in place.
    let depth = if sitting.promoted.is_some() { ProbeDepth::Login } else { ProbeDepth::Check };
    match target.probe(candidate, depth).await {
        Probe::Accepted => {
            let outgoing = sitting.run.outgoing.as_ref().filter(|_| sitting.promoted.is_none());
            if let Some(outgoing) = outgoing
                && let Err(failure) = target.akin(candidate, outgoing).await
            {
                return failure.into();
            }
            sitting.seen.new_accepted = true;
            Report::done()
        }
        Probe::Refused => {
            if let Some(waiting) = settling(&*target, sitting.run.course.minted_at, clock) {
                return waiting;
            }
            let doing = format!("verify {} on {}", candidate.principal, sitting.run.plan.target_label());
            let reason = "the target refuses a login with the candidate";
            let failure = Failure::new(FailureClass::Refused, doing, reason);
            Report { result: StepResult::CandidateRefused, ..Report::failed(failure) }
        }
        Probe::Unfit(failure) => Report { result: StepResult::CandidateRefused, ..Report::failed(failure) },
        Probe::Unknown(failure) => failure.into(),
    }
}

/// That a target may still settle, if it may: what it says of a value that it made or took out just now says
/// nothing.
fn settling(target: &dyn Target, since: Option<Timestamp>, clock: &dyn Clock) -> Option<Report> {
    let settling = SignedDuration::try_from(target.settling()).unwrap_or(SignedDuration::MAX);
    let elapsed = clock.now().duration_since(since?).abs();
    (elapsed < settling).then(|| {
        let detail = format!("the target may take {settling:#} to know of it");
        Report { result: StepResult::NotYet, detail: Some(detail), pause: Some(SETTLING), ..Report::done() }
    })
}

/// Dying after the store's write: the next sitting reads the candidate as current.
async fn promote(sitting: &mut Sitting) -> Report {
    if sitting.promoted.is_some() {
        return Report::done();
    }
    let creates = sitting.run.replaces().is_none();
    if creates && sitting.creating == Creating::No {
        // From here on nobody goes back: where there is no value yet, there is no revision to take away from
        // a promotion that is on its way.
        let count = |course: &mut Course| {
            if course.direction == Direction::Forward {
                course.creating += 1;
            }
        };
        if let Err(amendment) = sitting.amend(count).await {
            return amendment.into();
        }
        if sitting.run.course.direction == Direction::Back {
            let doing = format!("promote {} in {}", sitting.run.to, sitting.run.plan.store_label());
            let reason = "the rotation was turned back meanwhile";
            return Report::failed(Failure::new(FailureClass::Unavailable, doing, reason));
        }
        sitting.creating = Creating::InVain;
    }
    let (run, candidate) = match sitting.candidate() {
        Ok(candidate) => (&sitting.run, candidate),
        Err(failure) => return failure.into(),
    };
    let place = Place::from(&run.plan.spec.store);
    let mut replaces = run.replaces().cloned();
    if mutated!(PromoteWithoutCompare)
        && let Ok(Some(current)) = sitting.store.current(place).await
    {
        replaces = Some(current.revision);
    }
    let promotion = Promotion {
        credential: candidate,
        expected: replaces.as_ref(),
        rotation: run.rotation,
        version: run.to,
        extra: &run.plan.spec.store.extra,
    };
    let failure = match sitting.store.promote(place, promotion).await {
        Ok(revision) => {
            sitting.promoted = Some(revision);
            return Report::done();
        }
        Err(failure) => failure,
    };
    if failure.class() == FailureClass::Conflict {
        // Our own earlier write, whose answer was lost, or a foreign one.
        let current = match sitting.store.current(place).await {
            Ok(current) => current,
            Err(failure) => return failure.into(),
        };
        let is_taken = current.is_some();
        let ours = current.filter(|current| current.credential == *candidate);
        sitting.promoted = ours.map(|current| current.revision);
        if sitting.promoted.is_some() {
            return Report::done();
        }
        // Whatever is under way to an empty path will not find it empty.
        if creates
            && is_taken
            && let Err(amendment) = sitting.amend(|course| course.creating = 0).await
        {
            return amendment.into();
        }
        return Report::foreign(sitting);
    }
    if !failure.class().is_certain() {
        (sitting.alone, sitting.creating) = (false, Creating::Perhaps);
    } else if sitting.creating == Creating::InVain {
        // Whatever comes of the write: once it may have taken effect, this sitting does not count any more and
        // others may go back. One that was counted twice keeps them from it, which loses nothing.
        sitting.creating = Creating::No;
        let amended = sitting.amend(|course| course.creating = course.creating.saturating_sub(1)).await;
        if let Err(amendment) = amended {
            return amendment.into();
        }
    }
    failure.into()
}

/// Dying after the commit: the next sitting finds the record by its rotation id.
async fn record(sitting: &mut Sitting, clock: &dyn Clock, adapters: &dyn Adapters) -> Report {
    let ledger = match adapters.ledger() {
        Ok(ledger) => ledger,
        Err(failure) => return failure.into(),
    };
    let mut record = sitting.record(clock.now());
    let mut forbidden: Vec<&SecretValue> = Vec::new();
    forbidden.extend(sitting.run.candidate.iter().flat_map(Credential::secrets));
    forbidden.extend(sitting.run.outgoing.iter().flat_map(Credential::secrets));
    let after = sitting.run.before.record.as_ref();
    let mut appended = ledger.append(&record, after, &forbidden).await;
    if let Err(failure) = &appended
        && failure.class() == FailureClass::Invalid
        && (record.reason.is_some() || record.failure.is_some())
    {
        // Whoever reports a leak may quote what leaked. That must not keep the record from being written.
        record.reason = record.reason.map(|_| WITHHELD.to_owned());
        record.failure = record.failure.map(|_| WITHHELD.to_owned());
        appended = ledger.append(&record, after, &forbidden).await;
    }
    match appended {
        // Another process may have recorded it first, under its own view of the rotation: that one counts.
        Ok(recorded) => {
            sitting.record = Some(recorded);
            Report::done()
        }
        Err(failure) => failure.into(),
    }
}

/// Records a closed rotation again if the ledger has lost it: its folder was lost before a push.
pub(super) async fn make_up(
    ledger: &dyn Ledger,
    marker: &Marker,
    forbidden: &[&SecretValue],
) -> Result<(), Failure> {
    let Some(record) = &marker.record else { return Ok(()) };
    if !ledger.holds(record).await? {
        ledger.append(record, None, forbidden).await?;
        let (policy, rotation) = (&record.policy, record.rotation);
        tracing::warn!(%policy, %rotation, "rotation recorded again: the ledger had lost it");
    }
    Ok(())
}

/// Stands in a record in place of a text that the ledger refused.
const WITHHELD: &str = "withheld: the text held a value";

/// Dying after the write: the next sitting finds no open rotation.
async fn close(sitting: &mut Sitting, clock: &dyn Clock) -> Report {
    let record = sitting.record.clone().unwrap_or_else(|| sitting.record(clock.now()));
    let marker = sitting.marker(record);
    if mutated!(BlindDocument) {
        sitting.overlook().await;
    }
    let policy = &sitting.run.plan.policy;
    match sitting.store.save(policy, &marker.to_wire(), Some(&sitting.revision)).await {
        Ok(_) => Report::done(),
        Err(failure) if failure.class() == FailureClass::Conflict => {
            // Closed by our own write whose answer was lost, or by another process: either way it is
            // closed. Amended by a containment: that one's rules must be walked first.
            match sitting.closing().await {
                Ok(Some(record)) => {
                    sitting.record = Some(record);
                    Report::done()
                }
                Ok(None) => Report::failed(failure.reclassified(FailureClass::Unavailable)),
                Err(amendment) => amendment.into(),
            }
        }
        Err(failure) => failure.into(),
    }
}

fn target(sitting: &Sitting) -> Result<std::sync::Arc<dyn Target>, Failure> {
    sitting.target.clone().ok_or_else(|| {
        let doing = format!("rotate {}", sitting.run.plan.policy);
        Failure::new(FailureClass::Invalid, doing, "a generated value has no target to ask")
    })
}

impl Report {
    const fn done() -> Self {
        Self { result: StepResult::Done, failure: None, detail: None, pause: None, awaits: None }
    }

    /// A step that was broken off.
    pub(super) fn late(step: Step) -> Self {
        let doing = format!("{step} before the containment's deadline");
        Self::failed(Failure::new(FailureClass::Unavailable, doing, "it took too long"))
    }

    /// Readers fail with the candidate.
    fn readers_fail(failure: Failure) -> Self {
        Self { result: StepResult::ReadersFail, ..Self::failed(failure) }
    }

    /// Where nothing is brought back any more, readers that fail or move are waited for.
    fn forward_only(self, doing: &str) -> Self {
        let unavailable = |reason: String| Failure::new(FailureClass::Unavailable, doing, reason).into();
        match (self.result, self.failure) {
            (StepResult::ReadersFail, Some(failure)) => {
                Self::failed(failure.reclassified(FailureClass::Unavailable))
            }
            (StepResult::NotYet, _) => unavailable(self.detail.unwrap_or_default()),
            (result, failure) => Self { result, failure, ..self },
        }
    }

    fn failed(failure: Failure) -> Self {
        Self { result: StepResult::Failed(failure.class()), failure: Some(failure), ..Self::done() }
    }

    fn foreign(sitting: &Sitting) -> Self {
        let failure = Failure::new(
            FailureClass::Conflict,
            format!("promote {} in {}", sitting.run.to, sitting.run.plan.store_label()),
            "the value there is neither the one the rotation began with nor the candidate",
        );
        Self { result: StepResult::ForeignWriter, ..Self::failed(failure) }
    }

    fn in_force() -> Self {
        Self { result: StepResult::InForce, ..Self::done() }
    }

    fn superseded(by: Fence) -> Self {
        let failure = Failure::new(
            FailureClass::Conflict,
            "install the candidate",
            format_args!("the target's marker shows attempt {by}, later than this one"),
        );
        Self { result: StepResult::Superseded { by }, ..Self::failed(failure) }
    }

    /// Done when all are; otherwise the failure that may pass, if one may, and else the first.
    fn all(results: Vec<Result<(), Failure>>) -> Self {
        let failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
        let passing = |f: &&Failure| matches!(f.class(), FailureClass::Unavailable | FailureClass::Ambiguous);
        match failures.iter().find(passing).or(failures.first()) {
            None => Self::done(),
            Some(failure) => failure.clone().into(),
        }
    }
}

impl From<Failure> for Report {
    fn from(failure: Failure) -> Self {
        Self::failed(failure)
    }
}

impl From<Amendment> for Report {
    fn from(amendment: Amendment) -> Self {
        match amendment {
            Amendment::ClaimLost => Self { result: StepResult::ClaimLost, ..Self::done() },
            Amendment::Failed(failure) => failure.into(),
        }
    }
}
