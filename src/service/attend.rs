//! What a policy needs without anybody asking: an open rotation finished, a due one done, the value in force
//! tried from time to time.

use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{PATIENCE, Service};
use crate::failure::Failure;
use crate::ident::{PolicyName, RequestId};
use crate::ledger::TriggerKind;
use crate::policy::Policy;
use crate::policy::spec::{OnRefusal, TargetSpec};
use crate::rotation::engine::Ended;
use crate::rotation::run::{Document, Trigger};
use crate::rotation::verification::{Finding, turn_after};
use crate::schedule::{self, Cause, Due};
use crate::status::facts;

/// What the scheduler does with a policy next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Look again at this time.
    At(Timestamp),
    /// Something is in the way: look again after a growing pause.
    Later,
    /// Look again when the policy changes, somebody asks, or all are looked at.
    Idle,
}

impl Service {
    /// Does what a policy needs by itself: finishes an open rotation, or rotates if it is due. `looking` is
    /// dropped when looking is over and work begins.
    pub async fn attend(&self, name: &PolicyName, looking: DropGuard) -> Attention {
        if self.flights.is_running(name) {
            return Attention::Later;
        }
        let policy = self.catalog().policy(name);
        let ended = match self.attend_to(name, policy.as_deref(), looking).await {
            Ok(Attended::Nothing(attention)) => return attention,
            Ok(Attended::Ended(ended)) => *ended,
            Err(failure) => {
                tracing::warn!(policy = %name, %failure, "cannot attend to policy");
                self.hub.lose_sight(name);
                return Attention::Later;
            }
        };
        match ended {
            Ended::Closed(record) if record.failure.is_none() => Attention::At(self.clock.now()),
            Ended::Closed(_)
            | Ended::Answered(_)
            | Ended::Parked { .. }
            | Ended::InDoubt { .. }
            | Ended::Lost { .. } => Attention::Later,
            Ended::Stopped { .. } => Attention::Idle,
        }
    }

    async fn attend_to(
        &self,
        name: &PolicyName,
        policy: Option<&Policy>,
        looking: DropGuard,
    ) -> Result<Attended, Failure> {
        let Some(policy) = policy else {
            let Some(sitting) = self.reopen(name).await? else {
                self.hub.forget(name);
                return Ok(Attended::Nothing(Attention::Idle));
            };
            self.hub.know_open(sitting.run());
            return self
                .work(name, looking, async |stop| Ok(self.engine.drive(sitting, PATIENCE, stop).await))
                .await;
        };
        let slots = self.engine.look(name, &policy.spec().store).await?;
        let marker = match slots.document {
            Some(Document::Closed(marker)) => marker,
            document => {
                if let Some(Document::Open(run)) = &document {
                    self.hub.know_open(run);
                }
                if let Some(sitting) = self.reopen(name).await? {
                    let drive = async |stop: &_| Ok(self.engine.drive(sitting, PATIENCE, stop).await);
                    return self.work(name, looking, drive).await;
                }
                if document.is_some() {
                    return Ok(Attended::Nothing(Attention::Later));
                }
                Box::default()
            }
        };
        let now = self.clock.now();
        self.hub.know_closed(name, &marker);
        if let Err(failure) = self.engine.make_up_record(&marker, slots.current.as_ref()).await {
            tracing::warn!(policy = %name, %failure, "cannot tell whether the last rotation is recorded");
        }
        if let Some(owed) = &marker.owes {
            let contain = async |stop: &_| self.engine.contain(policy, owed, PATIENCE, stop).await;
            return self.work(name, looking, contain).await;
        }
        let rotation = match self.schedule(policy).map(|schedule| schedule.due(&facts(&marker), now)) {
            Some(Due::Now(cause)) => {
                let trigger = scheduled(&cause, now);
                let rotate = async |stop: &_| self.engine.rotate(policy, &trigger, PATIENCE, stop).await;
                return self.work(name, looking, rotate).await;
            }
            Some(Due::At(at, _)) => Some(at),
            Some(Due::Never(_)) | None => None,
        };
        let verification = if marker.current.is_some() { self.verification(policy, now) } else { None };
        if verification.is_some_and(|turn| turn <= now) {
            return self.verify(policy, looking).await;
        }
        let next = [rotation, verification].into_iter().flatten().min();
        Ok(Attended::Nothing(next.map_or(Attention::Idle, Attention::At)))
    }

    /// When the value in force of a policy is to be tried: not later than now if its turn has come.
    fn verification(&self, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
        let every = policy.spec().verify.every.as_duration();
        if every.is_zero() || matches!(policy.spec().target, TargetSpec::Generated(_)) {
            return None;
        }
        let turn = turn_after(policy.name(), every, self.hub.tried(policy.name(), self.started, now));
        if turn > now {
            return Some(turn);
        }
        // Many may have missed their turns, as while a machine slept: each is given one, and may rotate
        // until then.
        let granted = self.hub.granted(policy.name(), || now + self.pace.turn(self.clock.monotonic()));
        Some(if granted > now + every { now } else { granted })
    }

    /// Tries the value in force, and does about a refusal what the policy says.
    async fn verify(&self, policy: &Policy, looking: DropGuard) -> Result<Attended, Failure> {
        drop(looking);
        let name = policy.name();
        let found = match self.engine.verify(policy).await {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!(policy = %name, %failure, "the value in force could not be verified");
                return Ok(Attended::Nothing(Attention::Later));
            }
        };
        let now = self.clock.now();
        self.hub.know_tried(name, now, found);
        let is_refused = found.is_some_and(|found| found.finding == Finding::Refused);
        if !is_refused || policy.spec().verify.on_refusal == OnRefusal::Report || self.is_frozen(policy, now)
        {
            return Ok(Attended::Nothing(Attention::At(now)));
        }
        let trigger = Trigger {
            kind: TriggerKind::Drift,
            request: RequestId::generate(),
            requested_by: "verification".into(),
            reason: Some("the target refused the value in force".into()),
            at: now,
            nominal: None,
        };
        let rotate = async |stop: &_| self.engine.rotate(policy, &trigger, PATIENCE, stop).await;
        self.fly(name, rotate).await
    }

    /// Whether what nobody asked for is held back now.
    fn is_frozen(&self, policy: &Policy, now: Timestamp) -> bool {
        match self.schedule(policy) {
            Some(schedule) => schedule.frozen(now).is_some(),
            None => schedule::is_frozen(&self.freezes, now),
        }
    }

    /// Looking keeps nobody else from the policy; only work does.
    async fn work(
        &self,
        name: &PolicyName,
        looking: DropGuard,
        what: impl AsyncFnOnce(&CancellationToken) -> Result<Ended, Failure>,
    ) -> Result<Attended, Failure> {
        drop(looking);
        self.fly(name, what).await
    }

    async fn fly(
        &self,
        name: &PolicyName,
        what: impl AsyncFnOnce(&CancellationToken) -> Result<Ended, Failure>,
    ) -> Result<Attended, Failure> {
        let Ok(flight) = self.flights.take_off(name, &self.stop) else {
            return Ok(Attended::Nothing(Attention::Later));
        };
        // Boxed: most policies are only looked at, and their tasks should be small.
        let ended = Box::pin(what(flight.stop())).await?;
        Ok(Attended::Ended(Box::new(ended)))
    }
}

enum Attended {
    Nothing(Attention),
    Ended(Box<Ended>),
}

/// The trigger of a scheduled rotation: the same time always makes the same request.
fn scheduled(cause: &Cause, now: Timestamp) -> Trigger {
    let (moment, nominal, kind) = match cause {
        Cause::Cron(fire) => (fire.nominal, Some(fire.nominal), "cron"),
        Cause::MaxAge(at) => (*at, None, "max-age"),
    };
    Trigger {
        kind: TriggerKind::Scheduled,
        request: format!("{kind}:{moment}").parse().expect("a timestamp is printable ASCII"),
        requested_by: "schedule".into(),
        reason: None,
        at: now,
        nominal,
    }
}
