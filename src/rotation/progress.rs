//! Every rule of the protocol: from where a rotation stands and how a step went to what comes next.
//!
//! Pure: no I/O, no clock, no randomness. The engine performs what this module decides and nothing
//! else, and a resumed rotation takes the same path as one that never stopped: it walks its [`line`]
//! from the start, and each step finds its effect already there.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::plan::Strategy;
use crate::failure::FailureClass;
use crate::ident::Fence;
use crate::ledger::Outcome;

/// One step of a rotation. Opening comes before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The target has made the candidate, and the run document has it.
    Mint,
    /// The target accepts the candidate.
    Install,
    /// A login with the candidate works.
    Verify,
    /// The candidate is current in the store.
    Promote,
    /// Each consumer holds the new version.
    Publish,
    /// Each reader was told to take it.
    Restart,
    /// No session of the outgoing value is left, or the grace is over.
    Converge,
    /// The target refuses the outgoing value, and its sessions are closed.
    Retire,
    /// A login with the outgoing value is refused.
    Prove,
    /// Going back: the candidate cannot become current in the store any more.
    Hold,
    /// Going back with an overlap: the target refuses the candidate.
    Withdraw,
    /// Going back in place: the target accepts the outgoing value again.
    Restore,
    /// The ledger has the record.
    Record,
    /// The run document is a closed marker.
    Close,
}

impl Step {
    /// All steps, in the order of their definition.
    pub const ALL: [Self; 14] = [
        Self::Mint,
        Self::Install,
        Self::Verify,
        Self::Promote,
        Self::Publish,
        Self::Restart,
        Self::Converge,
        Self::Retire,
        Self::Prove,
        Self::Hold,
        Self::Withdraw,
        Self::Restore,
        Self::Record,
        Self::Close,
    ];

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Whether the step works on the target. Converge waits, and looks at most.
    #[must_use]
    pub const fn works_on_target(self) -> bool {
        matches!(
            self,
            Self::Mint
                | Self::Install
                | Self::Verify
                | Self::Retire
                | Self::Prove
                | Self::Withdraw
                | Self::Restore
        )
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Install => "install",
            Self::Verify => "verify",
            Self::Promote => "promote",
            Self::Publish => "publish",
            Self::Restart => "restart",
            Self::Converge => "converge",
            Self::Retire => "retire",
            Self::Prove => "prove",
            Self::Hold => "hold",
            Self::Withdraw => "withdraw",
            Self::Restore => "restore",
            Self::Record => "record",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a rotation stands: all that the rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    pub strategy: Strategy,
    /// An adoption installs nothing and takes nothing out.
    pub adopts: bool,
    pub direction: Direction,
    /// There is an outgoing value.
    pub has_outgoing: bool,
    /// The candidate is current in the store: the way is forward.
    pub promoted: bool,
    /// The target may have seen the candidate: an install was sent and not surely refused, or an
    /// earlier sitting is unknown.
    pub touched: bool,
    /// A promotion to an empty path may be under way: nothing can bar it.
    pub creating: bool,
    /// Containment's rules hold.
    pub contains: bool,
    /// The outgoing value is retired before consumers are told: the policy says so, or the
    /// containment's deadline has passed.
    pub cuts: bool,
    /// The values have changed places: what was going out is being brought back, since readers failed with
    /// what was to replace it.
    pub reverts: bool,
    /// Readers that fail with the candidate get back what they had.
    pub may_revert: bool,
}

/// Which way a rotation goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    #[default]
    Forward,
    /// The candidate is being taken back; the outgoing value stays in force.
    Back,
}

impl Standing {
    /// The steps of this rotation, in order. Walking it twice is the same as once.
    #[must_use]
    pub fn line(&self) -> &'static [Step] {
        use Step::{
            Close, Converge, Hold, Install, Mint, Promote, Prove, Publish, Record, Restart, Restore, Retire,
            Verify, Withdraw,
        };
        if self.direction == Direction::Back {
            return match (self.has_touched(), self.strategy) {
                // Nobody turns back from a value that was made in the place of the one before.
                (false, _) | (_, Strategy::Generated | Strategy::Reissued) => &[Hold, Record, Close],
                (true, Strategy::Alternating | Strategy::DualPassword | Strategy::DualKey) => {
                    &[Hold, Withdraw, Record, Close]
                }
                (true, Strategy::InPlace) => &[Hold, Restore, Record, Close],
            };
        }
        if self.adopts {
            return match self.strategy {
                Strategy::Generated => &[Promote, Record, Close],
                _ => &[Verify, Promote, Record, Close],
            };
        }
        match (self.strategy, self.has_outgoing, self.cuts) {
            (Strategy::Generated, _, _) => &[Promote, Publish, Restart, Converge, Record, Close],
            // What is brought back was not taken out yet.
            (Strategy::DualKey, _, cuts) if self.reverts => {
                if cuts {
                    &[Verify, Promote, Retire, Prove, Publish, Restart, Converge, Record, Close]
                } else {
                    &[Verify, Promote, Publish, Restart, Converge, Retire, Prove, Record, Close]
                }
            }
            (Strategy::DualKey | Strategy::Reissued, false, _) => {
                &[Mint, Verify, Promote, Publish, Restart, Converge, Record, Close]
            }
            (Strategy::DualKey | Strategy::Reissued, true, false) => {
                &[Mint, Verify, Promote, Publish, Restart, Converge, Retire, Prove, Record, Close]
            }
            (Strategy::DualKey | Strategy::Reissued, true, true) => {
                &[Mint, Verify, Promote, Retire, Prove, Publish, Restart, Converge, Record, Close]
            }
            (_, false, _) => &[Install, Verify, Promote, Publish, Restart, Converge, Record, Close],
            (_, true, _) if mutated!(ClosedBeforePromote) => {
                &[Install, Verify, Record, Close, Promote, Publish, Restart, Converge, Retire, Prove]
            }
            (_, true, false) if !mutated!(RetireBeforeConvergence) => {
                &[Install, Verify, Promote, Publish, Restart, Converge, Retire, Prove, Record, Close]
            }
            (_, true, _) => {
                &[Install, Verify, Promote, Retire, Prove, Publish, Restart, Converge, Record, Close]
            }
        }
    }

    /// Whether an overlap exists: both values work between install and retire.
    #[must_use]
    pub const fn overlaps(&self) -> bool {
        self.strategy.overlaps()
    }

    /// How this rotation ends when its line is walked to the end.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match (self.direction, self.has_touched()) {
            (Direction::Forward, _) if self.reverts => Outcome::RolledBack,
            (Direction::Forward, _) => Outcome::Rotated,
            (Direction::Back, true) => Outcome::RolledBack,
            (Direction::Back, false) => Outcome::Abandoned,
        }
    }

    /// Whether an operator may still ask for the candidate to be given up: before the promotion, while
    /// the outgoing value is in force or can be put back.
    #[must_use]
    pub const fn may_turn_back(&self) -> bool {
        let has_a_way_back = match self.strategy {
            Strategy::Alternating | Strategy::DualPassword | Strategy::DualKey | Strategy::Generated => true,
            // What was in force may be dead.
            Strategy::Reissued => !self.has_touched(),
            // In place the pivot is the install: going back needs the value to go back to.
            Strategy::InPlace => self.has_outgoing || !self.has_touched(),
        };
        matches!(self.direction, Direction::Forward)
            && !self.promoted
            && !self.creating
            && !self.reverts
            && has_a_way_back
    }

    /// Whether a step only tells readers or waits for them, and a containment's cut still comes after it.
    #[must_use]
    pub fn waits_for_cut(&self, step: Step) -> bool {
        let tells = matches!(step, Step::Publish | Step::Restart | Step::Converge);
        tells && self.contains && !self.cuts && self.line().contains(&Step::Retire)
    }

    /// Whether the target may accept the candidate because of this rotation. An adoption changes nothing
    /// there, whoever takes it up again.
    const fn has_touched(&self) -> bool {
        self.touched && !self.adopts
    }
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepResult {
    /// Its effect is there, now or already before.
    Done,
    /// Its time has not come: readers move, or sessions live on within their grace.
    NotYet,
    /// Verify: the target refuses the candidate, or the policy's check fails with it.
    CandidateRefused,
    /// Publish, restart, converge: readers fail with the candidate, and did not before.
    ReadersFail,
    /// Prove: the target still accepts the outgoing value, or sessions of it are left.
    OutgoingAlive,
    /// Install: the target's marker shows a later attempt.
    Superseded {
        by: Fence,
    },
    /// Promote, hold: the store holds a value that is neither the one we began with nor the candidate.
    ForeignWriter,
    /// Hold: the candidate became current before it could be held back.
    InForce,
    /// Close, and every amendment: the control document is no longer this rotation's.
    ClaimLost,
    Failed(FailureClass),
}

impl StepResult {
    /// Whether a step can end so.
    #[must_use]
    pub const fn may_end(self, step: Step) -> bool {
        match self {
            Self::Done | Self::Failed(_) | Self::ClaimLost => true,
            Self::NotYet => matches!(
                step,
                Step::Mint
                    | Step::Verify
                    | Step::Publish
                    | Step::Converge
                    | Step::Retire
                    | Step::Prove
                    | Step::Withdraw
            ),
            Self::ReadersFail => matches!(step, Step::Publish | Step::Restart | Step::Converge),
            Self::CandidateRefused => matches!(step, Step::Verify),
            Self::OutgoingAlive => matches!(step, Step::Prove),
            Self::Superseded { .. } => matches!(step, Step::Install | Step::Retire | Step::Restore),
            Self::ForeignWriter => matches!(step, Step::Promote | Step::Hold),
            Self::InForce => matches!(step, Step::Hold),
        }
    }
}

/// A step is said to have ended as it cannot end: a defect of whoever performed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("step {step} cannot end with {result:?}")]
pub struct Illegal {
    pub step: Step,
    pub result: StepResult,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    /// Perform the next undone step.
    On,
    /// Back off, then perform the next undone step.
    Again,
    /// Perform the next undone step when its time may have come.
    Wait,
    /// Turn back: amend the run document, then begin a new [`Walk`].
    TurnBack,
    /// Let the values change places and bring back what was in force: amend the run document, then begin a
    /// new [`Walk`].
    Revert,
    /// Go forward after all: amend the run document, then begin a new [`Walk`].
    TurnForward,
    /// Freeze: touch nothing more, keep every value, ask a person.
    Freeze(Doubt),
    /// Leave it open and try again later: what is in the way is outside and may pass.
    Park,
    /// Somebody else has this policy now. Touch nothing.
    Leave,
}

/// Why a rotation is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Doubt {
    /// The store's value was written by somebody else while the rotation ran. A person who resumes it
    /// says that it may be replaced.
    ForeignWriter,
    /// The target has seen a later attempt than the store knows of: the store may have been restored
    /// from a backup, or two stores serve one target. A person who resumes it says that this store is
    /// the right one: the rotation then goes on above that attempt.
    Superseded { by: Fence },
    /// The target refuses the candidate, and there is no earlier value to put back.
    NoWayBack,
}

impl Doubt {
    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::ForeignWriter => {
                "find out who writes the store's path; `rekeyd resume` replaces what is there, `rekeyd resume --abandon` keeps it"
            }
            Self::Superseded { .. } => {
                "find out whether the store was restored or another rekeyd serves this target; if this store is the right one, `rekeyd resume` goes on"
            }
            Self::NoWayBack => "make the target accept logins again, then run `rekeyd resume`",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignWriter => "the store's value was changed by somebody else during the rotation",
            Self::Superseded { .. } => "the target has seen a later attempt than the store knows of",
            Self::NoWayBack => "the target refuses the candidate and there is no earlier value to put back",
        })
    }
}

/// How often one step was tried in this sitting, and whether it may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tries {
    /// Times this step was performed, this one included.
    pub made: u32,
    /// The sitting's patience has run out.
    pub exhausted: bool,
}

/// Times a candidate may be refused before that is believed: some targets settle late.
pub const VERIFY_TRIES: u32 = 3;

/// Times a reader may say that it fails before that is believed.
pub const RESTART_TRIES: u32 = 3;

/// Times a retire may be repeated because the outgoing value still worked after it.
pub const PROVE_TRIES: u32 = 3;

/// One sitting's walk along the line: which steps are known to be done.
///
/// The next step is always the first of the line that is not done. So when the line changes under a
/// walk (a containment takes over, its deadline passes), nothing of the new line can be skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Walk {
    /// One bit for each step, by its place in [`Step::ALL`].
    done: u16,
}

impl Walk {
    /// The step to perform; `None` when the rotation is closed.
    #[must_use]
    pub fn step(&self, standing: &Standing) -> Option<Step> {
        standing.line().iter().copied().find(|step| self.done & step.bit() == 0)
    }

    /// Takes in how a step went.
    ///
    /// # Errors
    /// When the step cannot end so. Nothing follows from it.
    pub fn take(
        &mut self,
        standing: &Standing,
        step: Step,
        result: StepResult,
        tries: Tries,
    ) -> Result<Next, Illegal> {
        if result.may_end(step) {
            Ok(self.follow(standing, step, result, tries))
        } else {
            Err(Illegal { step, result })
        }
    }

    fn follow(&mut self, standing: &Standing, step: Step, result: StepResult, tries: Tries) -> Next {
        let again = if tries.exhausted { Next::Park } else { Next::Again };
        match (step, result) {
            (_, StepResult::Done) => {
                self.done |= step.bit();
                Next::On
            }
            (_, StepResult::ClaimLost) => Next::Leave,
            (_, StepResult::NotYet) => Next::Wait,
            (_, StepResult::Superseded { by }) => Next::Freeze(Doubt::Superseded { by }),
            (_, StepResult::ForeignWriter) => Next::Freeze(Doubt::ForeignWriter),
            (_, StepResult::InForce) => Next::TurnForward,

            // A candidate that the target does not take is given up, unless it is in force already.
            (Step::Verify, StepResult::CandidateRefused) if tries.made < VERIFY_TRIES => Next::Again,
            (_, StepResult::CandidateRefused) if standing.promoted => Next::Park,
            (_, StepResult::CandidateRefused) if standing.may_turn_back() => Next::TurnBack,
            (_, StepResult::CandidateRefused) => Next::Freeze(Doubt::NoWayBack),

            // A containment's cut comes, whoever fails.
            (step, StepResult::ReadersFail) if standing.waits_for_cut(step) => Next::Again,
            (Step::Restart, StepResult::ReadersFail) if tries.made < RESTART_TRIES => Next::Again,
            // What readers had works until it is retired.
            (_, StepResult::ReadersFail) if standing.may_revert => Next::Revert,
            (_, StepResult::ReadersFail) => again,

            // Retiring did not take: do it again. Never close on a living outgoing value.
            (_, StepResult::OutgoingAlive) => {
                self.done &= !Step::Retire.bit();
                if tries.made < PROVE_TRIES { Next::Again } else { Next::Park }
            }

            (Step::Install, StepResult::Failed(FailureClass::Ambiguous))
                if mutated!(TimeoutAsRefusal) && standing.may_turn_back() =>
            {
                Next::TurnBack
            }
            (Step::Publish | Step::Restart, StepResult::Failed(_))
                if mutated!(RetireByTimer) && tries.exhausted =>
            {
                self.done |= step.bit();
                Next::On
            }
            // A reader that cannot be told does not put a containment's cut off: the deadline for it comes.
            (step, StepResult::Failed(_)) if standing.waits_for_cut(step) => Next::Again,
            (_, StepResult::Failed(FailureClass::Ambiguous | FailureClass::Unavailable)) => again,
            // Repeating cannot help. Before the promotion the candidate is given up; after it, a
            // person has to change something and the way is still forward.
            (Step::Mint | Step::Install | Step::Verify | Step::Promote, StepResult::Failed(_))
                if standing.may_turn_back() =>
            {
                Next::TurnBack
            }
            (_, StepResult::Failed(_)) => Next::Park,
        }
    }
}

#[cfg(test)]
mod tests;
