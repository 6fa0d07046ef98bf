//! What a person decides about an open rotation, and what is known for the decision.
//!
//! A frozen rotation touches nothing. Before it freezes, one login each tells which of the two values the
//! target accepts, and that is kept with the doubt. Each decision is one write of the run document; dying
//! after it, the rotation goes the way that was decided.

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::plan::Strategy;
use super::progress::{Direction, Doubt};
use super::run::{Course, Over};
use super::sitting::{Amendment, Sitting};
use super::steps::is_published;
use crate::failure::{Failure, FailureClass};
use crate::secret::Credential;
use crate::store::{Current, Place};
use crate::target::{Probe, ProbeDepth};

/// What a person decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// The rotation goes on from where it stands. What froze it may be overwritten.
    #[default]
    GoOn,
    /// Its candidate is given up.
    Abandon,
    /// In doubt: what the store holds is right, and stays in force. The target has to accept it.
    KeepCurrent,
    /// In doubt: the candidate is right, and comes into force. The target has to accept it.
    UseCandidate,
    /// In doubt: the candidate is set once more, at the target and in the store.
    SetBoth,
}

/// What a login says of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Accepted,
    Refused,
    #[default]
    Unknown,
}

impl Verdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of the values of a rotation in doubt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdicts {
    pub candidate: Verdict,
    /// Of what the store holds.
    pub current: Verdict,
}

impl Verdicts {
    /// What a person can do about a doubt, the safe choices first.
    #[must_use]
    pub fn remedy(self, doubt: Doubt) -> String {
        let mut choices = Vec::new();
        if self.current == Verdict::Accepted {
            choices.push("`rekeyd resume --keep-current` keeps the store's value, which the target accepts");
        }
        if self.candidate == Verdict::Accepted {
            choices
                .push("`rekeyd resume --use-candidate` goes on with the candidate, which the target accepts");
        }
        choices.push("`rekeyd resume --set-both` sets the candidate at the target and in the store");
        format!("{}; {}", doubt.remedy(), choices.join("; "))
    }
}

impl Sitting {
    /// One login each. Anything but a verdict is unknown, and so is what has no target.
    pub(super) async fn verdicts(&self) -> Verdicts {
        let current = self.store.current(Place::from(&self.run.plan.spec.store)).await.ok().flatten();
        let candidate = match &self.run.candidate {
            Some(candidate) => self.verdict(candidate).await,
            None => Verdict::Unknown,
        };
        let current = match current {
            Some(Current { credential, .. }) if Some(&credential) == self.run.candidate.as_ref() => candidate,
            Some(Current { credential, .. }) => self.verdict(&credential).await,
            None => Verdict::Unknown,
        };
        Verdicts { candidate, current }
    }

    async fn verdict(&self, credential: &Credential) -> Verdict {
        let Some(target) = &self.target else { return Verdict::Unknown };
        match target.probe(credential, ProbeDepth::Login).await {
            Probe::Accepted | Probe::Unfit(_) => Verdict::Accepted,
            Probe::Refused => Verdict::Refused,
            Probe::Unknown(_) => Verdict::Unknown,
        }
    }

    fn undecided(&self, class: FailureClass, reason: impl std::fmt::Display) -> Failure {
        Failure::new(class, format!("resume the rotation of {}", self.run.plan.policy), reason)
    }

    /// Whether it may be gone on with a value: the target accepts it, or there is no target.
    async fn must_accept(
        &self,
        credential: &Credential,
        whose: &str,
        instead: &'static str,
    ) -> Result<(), Failure> {
        let Some(target) = &self.target else { return Ok(()) };
        match target.probe(credential, ProbeDepth::Login).await {
            Probe::Accepted | Probe::Unfit(_) => Ok(()),
            Probe::Refused => {
                let reason = format!("the target refuses {whose}");
                Err(self.undecided(FailureClass::Refused, reason).with_remedy(instead))
            }
            Probe::Unknown(failure) => Err(failure),
        }
    }
}

impl Engine {
    /// Takes a decision about an open rotation in.
    ///
    /// # Errors
    /// When it cannot be followed: the rotation stays as it is.
    pub async fn decide(&self, sitting: &mut Sitting, decision: Decision, who: &str) -> Result<(), Failure> {
        let is_frozen = sitting.run.course.doubt.is_some();
        match decision {
            Decision::GoOn => return self.thaw(sitting).await,
            Decision::Abandon => {
                self.turn_back(sitting, &format!("abandoned by {who}")).await?;
                self.tell_given_up(sitting, who);
                return Ok(());
            }
            _ if !is_frozen => {
                let failure = sitting.undecided(FailureClass::Invalid, "it is not in doubt");
                return Err(failure.with_remedy("run `rekeyd resume` without a choice"));
            }
            Decision::SetBoth => {}
            Decision::UseCandidate => {
                let instead = "`rekeyd resume --set-both` sets it once more";
                let accepts = sitting.must_accept(sitting.candidate()?, "the candidate", instead);
                during!("turn", accepts).await?;
            }
            Decision::KeepCurrent => {
                let kept = during!("turn", self.keep_current(sitting, who)).await?;
                if kept {
                    self.tell_given_up(sitting, who);
                    return Ok(());
                }
            }
        }
        self.thaw(sitting).await
    }

    /// Gives the candidate of a sitting up, if that is still possible.
    async fn turn_back(&self, sitting: &mut Sitting, why: &str) -> Result<(), Failure> {
        let policy = sitting.run.plan.policy.clone();
        let lost = |amendment| match amendment {
            Amendment::Failed(failure) => failure,
            Amendment::ClaimLost => Failure::new(
                FailureClass::Conflict,
                format!("abandon the rotation of {policy}"),
                "it is closed already",
            ),
        };
        // Another process may have brought it further since it was read.
        during!("turn", sitting.refresh()).await.map_err(lost)?;
        if self.may_give_up_reissuing(sitting).await {
            // Whoever asks in this moment learns of it by the document, and takes another number then.
            let asked = sitting.run.course.asked;
            let gave_up = sitting
                .amend(|course| {
                    if course.asked == asked {
                        course.in_vain = asked;
                    }
                })
                .await;
            gave_up.map_err(lost)?;
        }
        if sitting.standing(self.clock.now()).may_turn_back() {
            during!("turn", self.turn(sitting, why, true)).await.map_err(lost)?;
        }
        if sitting.run.course.direction == Direction::Back {
            // It was on its way back already, and the containment would be owed.
            if sitting.run.containment().is_some() && !sitting.run.course.given_up {
                let trigger = sitting.run.trigger.clone();
                let gives_up = |course: &mut Course| {
                    if course.direction == Direction::Back && !course.given_up {
                        let failure = course.failure.take().map(|failure| format!("{failure}; "));
                        course.give_up(&trigger, &format!("{}{why}", failure.unwrap_or_default()));
                    }
                };
                during!("turn", sitting.amend(gives_up)).await.map_err(lost)?;
            }
            return Ok(());
        }
        Err(Failure::new(
            FailureClass::Invalid,
            format!("abandon the rotation of {policy}"),
            "it is past the point of no return",
        )
        .with_remedy("finish it with `rekeyd resume`"))
    }

    /// Whether a value that was to be put in the place of the outgoing one never will be: its answer was lost, it cannot
    /// be asked for again, and the outgoing one works. So it is with a refresh token, which works once.
    async fn may_give_up_reissuing(&self, sitting: &Sitting) -> bool {
        let run = &sitting.run;
        let waits = run.plan.strategy == Strategy::Reissued && run.course.may_have_minted();
        match (&run.outgoing, &run.candidate) {
            (Some(outgoing), None) if waits && run.course.direction == Direction::Forward => {
                during!("turn", sitting.verdict(outgoing)).await == Verdict::Accepted
            }
            _ => false,
        }
    }

    /// Lets a frozen rotation go on. The fence is raised above everything that was seen, so that nobody who is
    /// late undoes what comes now.
    async fn thaw(&self, sitting: &mut Sitting) -> Result<(), Failure> {
        if sitting.run.course.doubt.is_none() {
            return Ok(());
        }
        let current = sitting.store.current(Place::from(&sitting.run.plan.spec.store)).await?;
        // What took the place of the outgoing value is not to be had twice: it is tried again.
        let may_ask_again = sitting.run.plan.strategy == Strategy::DualKey;
        if sitting.run.course.doubt == Some(Doubt::NoWayBack) && may_ask_again {
            // The target refuses what it made. Dying before the doubt is gone: it is frozen without a candidate,
            // and whoever resumes it has another one made.
            match during!("turn", sitting.drop_minted()).await {
                Ok(()) | Err(Amendment::ClaimLost) => {}
                Err(Amendment::Failed(failure)) => return Err(failure),
            }
        }
        let over = current.map_or(Over::Nothing, |current| Over::Revision(current.revision));
        let thawed = sitting.amend(|course| {
            course.known = None;
            match course.doubt.take() {
                Some(Doubt::Superseded { by }) => course.fence = course.fence.max(by).next(),
                Some(Doubt::ForeignWriter) => {
                    course.over = Some(over.clone());
                    // Another process may still be on its way to take the candidate back.
                    if course.direction == Direction::Back {
                        course.fence = course.fence.next();
                    }
                    course.forward();
                }
                Some(Doubt::NoWayBack) | None => {}
            }
        });
        match during!("turn", thawed).await {
            Ok(()) | Err(Amendment::ClaimLost) => Ok(()),
            Err(Amendment::Failed(failure)) => Err(failure),
        }
    }

    /// Turns back to what the store holds, whoever wrote it: from then on that is the value in force before
    /// this rotation. `false` when the candidate is in force already, so that there is nothing to keep.
    async fn keep_current(&self, sitting: &mut Sitting, who: &str) -> Result<bool, Failure> {
        let place = Place::from(&sitting.run.plan.spec.store);
        let Some(current) = sitting.store.current(place).await? else {
            let failure = sitting.undecided(FailureClass::Invalid, "the store holds no value to keep");
            return Err(failure.with_remedy("`rekeyd resume --set-both` sets the candidate"));
        };
        if Some(&current.credential) == sitting.run.candidate.as_ref() {
            return Ok(false);
        }
        let candidate = sitting.run.candidate.as_ref();
        let takes_turns = sitting.run.plan.strategy.takes_turns();
        if sitting.run.course.reverts
            || is_published(sitting).await?
            || (takes_turns && candidate.is_some_and(|one| one.principal == current.credential.principal))
        {
            let reason = "its readers have the candidate, or the store's value is for the candidate's user";
            let failure = sitting.undecided(FailureClass::Invalid, reason);
            return Err(failure.with_remedy("`rekeyd resume --set-both` sets the candidate"));
        }
        if sitting.run.course.creating > 0 {
            let reason = "a write to the empty path may be under way";
            return Err(sitting.undecided(FailureClass::Invalid, reason).with_remedy("run `rekeyd resume`"));
        }
        let instead = "`rekeyd resume --set-both` sets the candidate at the target and in the store";
        sitting.must_accept(&current.credential, "the store's value", instead).await?;
        sitting.keep(current, who).await?;
        Ok(true)
    }
}

/// Follows on what a record says of a value that somebody else wrote.
const NOT_TOLD: &str = "; its readers were not told: `rekeyd rotate` brings them a new one";

impl Sitting {
    /// Makes a value the one that this rotation began with, and turns back to it.
    async fn keep(&mut self, current: Current, who: &str) -> Result<(), Failure> {
        let course = self.run.course.clone();
        let seen = match course.doubt {
            Some(Doubt::Superseded { by }) => by,
            _ => course.fence,
        };
        let Current { credential, revision } = current;
        let is_foreign = self.run.outgoing.as_ref() != Some(&credential);
        let in_force = self.run.before.current.clone();
        if let Some(in_force) = &mut self.run.before.current {
            (in_force.revision, in_force.principal) = (revision.clone(), credential.principal.clone());
        }
        let outgoing = self.run.outgoing.replace(credential);
        let base = self.run.base.replace(revision);
        let fence_before = self.run.before.fence;
        let back = &mut self.run.course;
        (back.direction, back.over, back.doubt, back.known) = (Direction::Back, None, None, None);
        if self.run.plan.strategy.overlaps() {
            // The candidate is withdrawn as what its install was; the next rotation comes after all that was seen.
            self.run.before.fence = fence_before.max(seen);
        } else {
            back.fence = course.fence.max(seen).next();
        }
        let told = if is_foreign { NOT_TOLD } else { "" };
        back.give_up(&self.run.trigger, &format!("{who} kept the store's value{told}"));
        let policy = &self.run.plan.policy;
        match self.store.save(policy, &self.run.to_wire(), Some(&self.revision)).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(failure) => {
                (self.run.course, self.run.before.current) = (course, in_force);
                self.run.before.fence = fence_before;
                (self.run.outgoing, self.run.base) = (outgoing, base);
                Err(failure)
            }
        }
    }
}
