//! What a policy needs without anybody asking: an open rotation finished, a due one done, the value in force
//! tried from time to time.

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Service;
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Version};
use crate::ledger::{Record, TriggerKind};
use crate::policy::Policy;
use crate::policy::spec::{OnRefusal, TargetSpec};
use crate::rotation::engine::Ended;
use crate::rotation::limits::Patience;
use crate::rotation::mending::Mending;
use crate::rotation::run::{Document, Marker, Trigger};
use crate::rotation::verification::{Finding, Verification, turn_after};
use crate::schedule::{self, Cause, Due};
use crate::status::facts;

/// What the scheduler does with a policy next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Look again at this time.
    At(Timestamp),
    /// Look again after a growing pause.
    Later(Hindrance),
    /// Look again when the policy changes, somebody asks, or all are looked at.
    Idle,
}

/// Why a policy is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hindrance {
    /// Something is in the way, which may be over soon.
    InTheWay,
    /// The same, and the policy's control document is at a store that keeps few versions of it in a day.
    Counted,
    /// An attempt came to nothing. Each leaves a record and spends versions, and the next may end like it until somebody
    /// has changed something.
    InVain,
}

/// For so long after a value was replaced because it was refused, that is not done again unasked.
const MENDED_LATELY: SignedDuration = SignedDuration::from_hours(24);

impl Service {
    /// Does what a policy needs by itself: finishes an open rotation, or rotates if it is due. `looking` is
    /// dropped when looking is over and work begins.
    pub async fn attend(&self, name: &PolicyName, looking: DropGuard) -> Attention {
        if self.flights.is_running(name) {
            return Attention::Later(Hindrance::InTheWay);
        }
        let policy = self.catalog().policy(name);
        let is_counted =
            policy.as_ref().is_some_and(|policy| self.counting.contains(&policy.spec().store.name));
        let later = Attention::Later(if is_counted { Hindrance::Counted } else { Hindrance::InTheWay });
        let ended = match self.attend_to(name, policy.as_deref(), looking).await {
            Ok(Attended::Nothing(attention)) => return attention,
            Ok(Attended::Ended(ended)) => *ended,
            Err(failure) => {
                tracing::warn!(policy = %name, %failure, "cannot attend to policy");
                self.hub.lose_sight(name);
                return later;
            }
        };
        match ended {
            Ended::Closed(record) if record.failure.is_none() => Attention::At(self.clock.now()),
            Ended::Closed(_) => Attention::Later(Hindrance::InVain),
            Ended::Answered(_) | Ended::Parked { .. } | Ended::InDoubt { .. } | Ended::Lost { .. } => later,
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
                match self.owing(name).await? {
                    // Nobody knows any more what to do. It is told at each look, until a person decides.
                    Some((store, marker)) => {
                        self.hub.know_closed(name, &marker);
                        tracing::warn!(policy = %name, %store, "a containment is owed, and its policy is gone");
                    }
                    None => self.hub.forget(name),
                }
                return Ok(Attended::Nothing(Attention::Idle));
            };
            self.hub.know_open(sitting.run());
            return self
                .work(name, looking, async |stop| {
                    Ok(self.engine.drive(sitting, Patience::DAEMON, stop).await)
                })
                .await;
        };
        let mut expected = self.adapters.expect(policy);
        let slots = self.engine.look(name, &policy.spec().store).await?;
        let marker = match slots.document {
            Some(Document::Closed(marker)) => marker,
            document => {
                if let Some(Document::Open(run)) = &document {
                    self.hub.know_open(run);
                }
                // What is open already may hang for long.
                drop(expected.take());
                if let Some(sitting) = self.reopen(name).await? {
                    let drive = async |stop: &_| Ok(self.engine.drive(sitting, Patience::DAEMON, stop).await);
                    return self.work(name, looking, drive).await;
                }
                if document.is_some() {
                    return Ok(Attended::Nothing(Attention::Later(Hindrance::InTheWay)));
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
            let contain = async |stop: &_| self.engine.contain(policy, owed, Patience::DAEMON, stop).await;
            return self.work(name, looking, contain).await;
        }
        let rotation = match self.schedule(policy).map(|schedule| schedule.due(&facts(&marker), now)) {
            Some(Due::Now(cause)) => {
                let trigger = scheduled(&cause, now);
                let rotate =
                    async |stop: &_| self.engine.rotate(policy, &trigger, Patience::DAEMON, stop).await;
                return self.work(name, looking, rotate).await;
            }
            Some(Due::At(at, _)) => Some(at),
            Some(Due::Never(_)) | None => None,
        };
        let verification = if marker.current.is_some() { self.verification(policy, now) } else { None };
        drop(expected);
        if verification.is_some_and(|turn| turn <= now) {
            return Ok(self.verify(policy, &marker, looking).await);
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
        // Many may have missed their turns, as while a machine slept: each waits for its own, and may rotate
        // until then.
        let monotonic = self.clock.monotonic();
        let granted = self.hub.granted(policy.name(), monotonic, || self.pace.turn(monotonic));
        Some(now + granted.saturating_sub(monotonic))
    }

    /// Tries the value in force, and does about a refusal what the policy says.
    async fn verify(&self, policy: &Policy, marker: &Marker, looking: DropGuard) -> Attended {
        drop(looking);
        let name = policy.name();
        let found = match self.engine.verify(policy).await {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!(policy = %name, %failure, "the value in force could not be verified");
                self.hub.know_untried(name, self.clock.monotonic());
                return Attended::Nothing(Attention::At(self.clock.now()));
            }
        };
        let now = self.clock.now();
        self.hub.know_tried(name, now, found);
        match found {
            Some(Verification { finding: Finding::Refused, version, .. })
                if self.may_mend(policy, marker, now) =>
            {
                self.mend(policy, version, now).await
            }
            _ => Attended::Nothing(Attention::At(now)),
        }
    }

    /// Whether a value that is refused is replaced unasked. Not when that was done lately: whoever undoes it each
    /// time has to be found, and two that change one value for ever are an outage of their own.
    fn may_mend(&self, policy: &Policy, marker: &Marker, now: Timestamp) -> bool {
        let lately = |record: &Record| {
            record.trigger == TriggerKind::Drift && now.duration_since(record.closed_at).abs() < MENDED_LATELY
        };
        policy.spec().verify.on_refusal == OnRefusal::Rotate
            && !self.is_frozen(policy, now)
            && !marker.record.as_ref().is_some_and(lately)
    }

    /// Brings a new value in. The request is the version's: of several daemons that find it refused, one does.
    async fn mend(&self, policy: &Policy, refused: Version, now: Timestamp) -> Attended {
        let trigger = Trigger {
            kind: TriggerKind::Drift,
            request: format!("drift:{refused}").parse().expect("a version is printable ASCII"),
            requested_by: "verification".into(),
            reason: Some("the target refused the value in force".into()),
            at: now,
            nominal: None,
        };
        let rotate = async |stop: &_| self.engine.rotate(policy, &trigger, Patience::DAEMON, stop).await;
        self.fly(policy.name(), rotate).await.unwrap_or_else(|failure| {
            tracing::warn!(policy = %policy.name(), %failure, "the drift cannot be mended");
            Attended::Nothing(Attention::At(now))
        })
    }

    /// Gives readers of a policy back what they lost, unless a rotation is open: that does the same.
    pub async fn mend_readers(&self, name: &PolicyName) -> Mended {
        let Some(policy) = self.catalog().policy(name) else { return Mended::Nothing };
        // What runs here mends its readers itself, and tells those who look at them when it is over.
        let Some(flight) = self.flights.take_off_lightly(name, &self.end()) else { return Mended::Later };
        let mended = tokio::select! {
            biased;
            mended = self.engine.mend_readers(&policy) => mended,
            // Nobody who rotates waits for readers that hang.
            () = flight.stop().cancelled() => return Mended::Later,
        };
        match mended {
            Ok(Mending { readers, is_whole }) => {
                if readers.is_empty() {
                    return if is_whole { Mended::Nothing } else { Mended::Later };
                }
                self.hub.mended(name, &readers);
                Mended::Readers { is_whole }
            }
            Err(failure) => {
                tracing::warn!(policy = %name, %failure, "readers may hold something else than the value in force");
                // What somebody else has taken is not asked for again before somebody changes it; a right may
                // come back without a sign.
                match failure.class() {
                    FailureClass::Invalid | FailureClass::Conflict => Mended::Nothing,
                    _ => Mended::Later,
                }
            }
        }
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
        let Ok(flight) = self.flights.take_off(name, &self.end()).await else {
            return Ok(Attended::Nothing(Attention::Later(Hindrance::InTheWay)));
        };
        // Boxed: most policies are only looked at, and their tasks should be small.
        let ended = Box::pin(what(flight.stop())).await?;
        Ok(Attended::Ended(Box::new(ended)))
    }
}

/// What came of looking at readers between rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// They hold what they should, or nothing is known that they should hold.
    Nothing,
    /// Some did not, and do now; `is_whole` once whoever has to restart for that was told, too.
    Readers { is_whole: bool },
    /// They could not be looked at, or some still have to be told.
    Later,
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
