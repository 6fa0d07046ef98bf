//! A key that a person made and hands over, where the target leaves that to people.
//!
//! The rotation is open and waits, in this process or in another one. The key is tried first; then it becomes the
//! candidate by one compare-and-set on the run document, which whoever waits reads again and again. Dying before the
//! write, nothing has happened; dying after it, the rotation goes on all the same.

use super::engine::Engine;
use super::progress::Direction;
use super::sitting::{Amendment, Sitting};
use crate::failure::{Failure, FailureClass};
use crate::secret::Credential;
use crate::target::{Probe, ProbeDepth};

impl Engine {
    /// Makes the key the candidate of an open rotation. The same one twice is right.
    ///
    /// # Errors
    /// When the rotation waits for none, or the key is not one that it can use: the target refuses it, or it is the
    /// one in force.
    pub async fn supply(&self, sitting: &mut Sitting, made: Credential) -> Result<(), Failure> {
        let doing = format!("take key {} for {}", made.principal, sitting.run.plan.policy);
        let failed = |class, reason: &str, remedy: &'static str| {
            Failure::new(class, &*doing, reason).with_remedy(remedy)
        };
        let target = sitting.target.clone().filter(|target| target.is_by_hand()).ok_or_else(|| {
            failed(
                FailureClass::Invalid,
                "its target makes the keys itself",
                "rotate it: nobody has to hand one over",
            )
        })?;
        if let Some(outgoing) = &sitting.run.outgoing
            && (outgoing.principal == made.principal || outgoing.value == made.value)
        {
            let reason = "that is the key in force, under its id or its value";
            return Err(failed(FailureClass::Invalid, reason, "hand over the new one"));
        }
        // An id stands in records and logs.
        if made.value.occurs_in(made.principal.as_str()) {
            let doing = format!("take a key for {}", sitting.run.plan.policy);
            let failure = Failure::new(FailureClass::Invalid, doing, "its id holds its value");
            return Err(failure
                .with_remedy("say with --principal what the provider calls it, and no part of its value"));
        }
        match target.probe(&made, ProbeDepth::Check).await {
            Probe::Accepted => {}
            Probe::Refused => {
                let reason = "the provider refuses it";
                return Err(failed(
                    FailureClass::Refused,
                    reason,
                    "see that the whole key was given, and no other",
                ));
            }
            Probe::Unfit(failure) | Probe::Unknown(failure) => return Err(failure),
        }
        if let Some(outgoing) = &sitting.run.outgoing {
            target.akin(&made, outgoing).await?;
        }
        let mut made = Some(made);
        loop {
            if sitting.run.candidate.is_some() {
                if sitting.run.candidate == made {
                    return Ok(());
                }
                let reason = "another key was handed over before";
                return Err(failed(
                    FailureClass::Conflict,
                    reason,
                    "revoke the one of the two that is not in force then",
                ));
            }
            if sitting.run.course.direction == Direction::Back {
                let reason = "the rotation is being taken back";
                return Err(failed(FailureClass::Conflict, reason, "rotate again, then hand it over"));
            }
            std::mem::swap(&mut sitting.run.candidate, &mut made);
            let before = sitting.run.course.minted_at.replace(self.clock.now());
            // Who asks later takes no number: there is a candidate.
            let asked = sitting.run.course.asked;
            sitting.run.course.asked = asked.max(1);
            let (policy, wire) = (sitting.run.plan.policy.clone(), sitting.run.to_wire());
            match sitting.store.save(&policy, &wire, Some(&sitting.revision)).await {
                Ok(revision) => {
                    sitting.revision = revision;
                    return Ok(());
                }
                Err(failure) if failure.class() == FailureClass::Conflict => {
                    std::mem::swap(&mut sitting.run.candidate, &mut made);
                    (sitting.run.course.minted_at, sitting.run.course.asked) = (before, asked);
                    sitting.refresh().await.map_err(|amendment| match amendment {
                        Amendment::Failed(failure) => failure,
                        Amendment::ClaimLost => {
                            failed(FailureClass::Conflict, "the rotation has ended", "see `rekeyd status`")
                        }
                    })?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}
