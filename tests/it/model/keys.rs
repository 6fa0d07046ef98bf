//! Targets that make the value themselves, in the model: the keys that there are, and how a process has one made, keeps
//! it, and has deleted what was made in vain (`rotation::steps::mint`, call by call).
//!
//! The keys have names, so whose each is can be told. There is one of somebody else's, and room for one more than the two
//! of a rotation.

use std::ops::ControlFlow;

use rekeyd::failure::FailureClass;
use rekeyd::proving::Mutant;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::{Step, StepResult};

use super::process::{Process, Turn};
use super::world::{BY_HAND, Document, Effect, Outcome, Run, World};

/// So many numbers are taken in a rotation at most while nobody is alone with it: two processes that ask by turns, each
/// before the other one is through, could go on for ever.
const NUMBERS: u8 = 3;

/// Stands for the candidate that there is none of yet.
pub(super) const NONE: u8 = u8::MAX - 1;

/// So many keys there may be.
const QUOTA: usize = 4;

/// The keys of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Keys {
    /// Those that there are.
    made: Vec<Key>,
    /// Which rotation each was made for, by its id; those that are gone, too.
    made_for: Vec<u8>,
    /// The candidate that each rotation kept, by its number.
    kept: Vec<Option<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    id: u8,
    /// Somebody logged in with it.
    is_used: bool,
    /// It came when nobody was to look for it any more.
    is_late: bool,
}

/// How far a process is that has a key made, or keys deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Asking {
    /// The number that it took last.
    number: u8,
    /// A key may have come of it.
    perhaps: bool,
    /// The key that it has and the document may not.
    made: Option<u8>,
    kept_perhaps: bool,
    /// Keys that were listed, and are to be deleted.
    listed: Vec<u8>,
    stage: Stage,
    /// The step that lists and deletes, whatever the document has become since.
    at: Option<Step>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Begins,
    /// Keys are listed: the document has to say that the claim holds.
    Listed,
    /// It does.
    Claimed,
    /// The seeded bug: it does, and they are listed only then.
    ListsLate,
    /// What was made in vain is gone.
    Cleared,
    /// A key is to be given back.
    Spare,
    /// There is no room for another, and the document is to say that none was made.
    Full,
}

impl Keys {
    pub(super) fn of(strategy: Strategy) -> Self {
        if !strategy.mints() {
            return Self::default();
        }
        let made = [0, BY_HAND].map(|id| Key { id, is_used: true, is_late: false });
        Self { made: made.into(), made_for: vec![0], kept: vec![Some(0)] }
    }

    pub(super) fn holds(&self, id: u8) -> bool {
        self.made.iter().any(|key| key.id == id)
    }

    /// The rotation whose value this is.
    pub(super) fn made_for(&self, id: u8) -> Option<u8> {
        self.made_for.get(usize::from(id)).copied()
    }

    pub(super) fn delete(&mut self, id: u8) {
        self.made.retain(|key| key.id != id);
    }

    pub(super) fn make(&mut self, rotation: u8, is_late: bool) -> Outcome {
        if self.made.len() >= QUOTA {
            return Outcome::Conflict;
        }
        let id = u8::try_from(self.made_for.len()).expect("few keys");
        self.made_for.push(rotation);
        self.made.push(Key { id, is_used: false, is_late });
        Outcome::Made(id)
    }

    pub(super) fn log_in(&mut self, id: u8) {
        self.made.iter_mut().filter(|key| key.id == id).for_each(|key| key.is_used = true);
    }

    /// A run document has this candidate from now on; false when it had another.
    pub(super) fn keep(&mut self, run: &Run) -> bool {
        let rotation = usize::from(run.rotation);
        if self.kept.len() <= rotation {
            self.kept.resize(rotation + 1, None);
        }
        if run.candidate.value == NONE || run.reverts {
            return true;
        }
        *self.kept[rotation].get_or_insert(run.candidate.value) == run.candidate.value
    }

    /// Those that nobody has the value of, but for some that came late.
    pub(super) fn left_beside(&self, current: u8, with_late: bool) -> bool {
        let is_known = |key: &Key| key.id == current || key.id == BY_HAND;
        self.made.iter().any(|key| !is_known(key) && (with_late || !key.is_late))
    }

    /// Whether a rotation may delete a key that is not its candidate.
    fn is_orphan(&self, key: &Key, run: &Run) -> bool {
        let Some(rotation) = self.made_for(key.id) else { return false };
        let before = self.kept.get(usize::from(run.before.in_force)).copied().flatten();
        let is_in_force = key.id == run.outgoing.value || before == Some(key.id);
        let is_own = rotation == run.rotation;
        !is_in_force && (is_own || (rotation < run.rotation && !key.is_used))
    }

    fn to_delete(&self, run: &Run, step: Step) -> Vec<u8> {
        let is_candidate = |key: &&Key| key.id == run.candidate.value;
        let goes = |key: &&Key| {
            if is_candidate(key) { step == Step::Withdraw } else { self.is_orphan(key, run) }
        };
        self.made.iter().filter(goes).map(|key| key.id).collect()
    }
}

impl Run {
    /// Which number was the last one counts until there is a candidate. From then on there was one of which something
    /// came, whatever those who took the others still say of theirs.
    pub(super) fn forget_numbers(&mut self) {
        if self.candidate.value != NONE && self.asked > 0 {
            (self.asked, self.in_vain) = (NUMBERS + 1, 0);
        }
    }
}

impl World {
    /// What is left when a rotation is through that nothing came late for.
    pub(super) fn keys_at_rest(&self) -> Result<(), String> {
        if self.strategy.mints() && self.keys.left_beside(self.current.value, true) {
            return Err("I5: a key that came late is left".into());
        }
        Ok(())
    }

    /// Nobody is to look for a key that comes now.
    pub(super) fn comes_late(&self, rotation: u8) -> bool {
        match &self.document {
            Document::Open(run) => run.rotation != rotation || run.candidate.value != NONE || run.is_back,
            Document::Closed(_) => true,
        }
    }
}

impl Process {
    /// The step that it is bound to, whatever the document has become.
    pub(super) const fn bound(&self) -> Option<Step> {
        self.asking.at
    }

    /// Whether it waits, rather than take a number again.
    pub(super) fn waits_to_ask(&self) -> bool {
        let asks = self.asking.stage == Stage::Listed && self.asking.at.is_none();
        asks && self.run.asked >= NUMBERS && self.run.candidate.value == NONE
    }

    pub(super) fn mint(&mut self, world: &World) -> Turn {
        let has_candidate = self.run.candidate.value != NONE;
        match self.asking.stage {
            Stage::Begins if has_candidate && self.asking.made.is_none() => Turn::Ends(StepResult::Done),
            Stage::Begins if self.asking.made.is_some() => self.keep(),
            Stage::Begins => {
                let asked_last = self.asking.number > 0 && self.asking.number == self.run.asked;
                if asked_last && !self.asking.perhaps {
                    return Turn::Calls(Effect::Mint { rotation: self.run.rotation });
                }
                self.list(world, Step::Mint);
                Turn::Looks
            }
            Stage::Listed => {
                let run = Run { asked: self.run.asked + 1, ..self.run };
                Turn::Calls(Effect::Save { run, expected: self.revision })
            }
            Stage::ListsLate => {
                self.list(world, Step::Mint);
                self.asking.stage = Stage::Claimed;
                Turn::Looks
            }
            Stage::Claimed if has_candidate => {
                self.asking.stage = Stage::Begins;
                Turn::Ends(StepResult::Done)
            }
            Stage::Claimed => match self.asking.listed.first() {
                Some(key) => Turn::Calls(Effect::Delete { key: *key }),
                None => Turn::Calls(Effect::Mint { rotation: self.run.rotation }),
            },
            Stage::Cleared => unreachable!("nothing is deleted but what is on the list"),
            Stage::Spare => Turn::Calls(Effect::Delete { key: self.asking.made.expect("a spare key") }),
            Stage::Full => {
                let run = Run { in_vain: self.run.in_vain + 1, ..self.run };
                Turn::Calls(Effect::Save { run, expected: self.revision })
            }
        }
    }

    /// The key becomes the candidate, or is given back.
    fn keep(&mut self) -> Turn {
        let made = self.asking.made.expect("it has one");
        if self.run.candidate.value == made {
            self.asking.made = None;
            return Turn::Ends(StepResult::Done);
        }
        let was_last = self.run.asked == self.asking.number || Mutant::KeptWhoeverAsked.is_on();
        if self.run.candidate.value != NONE || self.run.is_back || !was_last {
            self.asking.stage = Stage::Spare;
            return Turn::Calls(Effect::Delete { key: made });
        }
        let mut run = self.run;
        run.candidate.value = made;
        if Mutant::KeptInMemory.is_on() {
            (self.run, self.asking.made) = (run, None);
            return Turn::Ends(StepResult::Done);
        }
        Turn::Calls(Effect::Save { run, expected: self.revision })
    }

    fn list(&mut self, world: &World, step: Step) {
        self.asking.listed = world.keys.to_delete(&self.run, step);
        self.asking.stage = Stage::Listed;
    }

    /// Deletes what was made in vain, and the key of the step.
    pub(super) fn clear(&mut self, world: &World, step: Step) -> Turn {
        let own = if step == Step::Retire { self.run.outgoing.value } else { self.run.candidate.value };
        match self.asking.stage {
            Stage::Begins => {
                self.list(world, step);
                self.asking.at = Some(step);
                Turn::Looks
            }
            Stage::Listed => Turn::Refreshes,
            Stage::ListsLate => {
                self.list(world, step);
                self.asking.stage = Stage::Claimed;
                Turn::Looks
            }
            Stage::Claimed => match self.asking.listed.first() {
                Some(key) => Turn::Calls(Effect::Delete { key: *key }),
                None => {
                    self.asking.stage = Stage::Cleared;
                    Turn::Looks
                }
            },
            Stage::Cleared if own != NONE && world.keys.holds(own) => {
                Turn::Calls(Effect::Delete { key: own })
            }
            Stage::Cleared => {
                self.leave_keys();
                Turn::Ends(StepResult::Done)
            }
            Stage::Spare | Stage::Full => unreachable!("it makes no key"),
        }
    }

    /// The document says so: what is listed may be deleted.
    pub(super) fn claimed(&mut self, world: &World) {
        self.asking.stage = Stage::Claimed;
        let step = self.asking.at.unwrap_or(Step::Mint);
        if Mutant::ListedLate.is_on() {
            self.asking.stage = Stage::ListsLate;
        }
        // What has become of the document meanwhile counts, but for the list.
        let goes = world.keys.to_delete(&self.run, step);
        self.asking.listed.retain(|key| goes.contains(key) && !Mutant::OrphansStay.is_on());
    }

    pub(super) fn leave_keys(&mut self) {
        (self.asking.stage, self.asking.at) = (Stage::Begins, None);
        self.asking.listed.clear();
    }

    /// Takes the answer to a call about keys in. It goes on when it is not one.
    pub(super) fn answered_of_keys(
        mut self,
        world: &World,
        step: Step,
        effect: Effect,
        outcome: Option<Outcome>,
    ) -> ControlFlow<Option<Self>, Self> {
        let ambiguous = StepResult::Failed(FailureClass::Ambiguous);
        match (effect, outcome) {
            (Effect::Mint { .. }, None) => {
                (self.asking.perhaps, self.touched) = (true, true);
                self.leave_keys();
                ControlFlow::Break(self.take(world, step, ambiguous, false))
            }
            (Effect::Mint { .. }, Some(Outcome::Made(id))) => {
                (self.asking.perhaps, self.asking.made) = (true, Some(id));
                self.leave_keys();
                ControlFlow::Break(Some(self))
            }
            (Effect::Mint { .. }, Some(_)) if self.asking.perhaps => {
                self.leave_keys();
                ControlFlow::Break(self.take(world, step, StepResult::Failed(FailureClass::Conflict), false))
            }
            (Effect::Mint { .. }, Some(_)) => {
                (self.asking.number, self.asking.stage) = (0, Stage::Full);
                ControlFlow::Break(Some(self))
            }
            (Effect::Delete { .. }, None) => {
                if self.asking.stage == Stage::Spare {
                    self.asking.made = None;
                }
                self.leave_keys();
                ControlFlow::Break(self.take(world, step, ambiguous, false))
            }
            (Effect::Delete { key }, Some(_)) => ControlFlow::Break(self.deleted(world, step, key)),
            (Effect::Save { run, .. }, outcome) if step == Step::Mint => {
                ControlFlow::Break(self.saved(world, run, outcome))
            }
            _ => ControlFlow::Continue(self),
        }
    }

    fn deleted(mut self, world: &World, step: Step, key: u8) -> Option<Self> {
        match self.asking.stage {
            Stage::Claimed => {
                self.asking.listed.retain(|listed| *listed != key);
                Some(self)
            }
            Stage::Spare => {
                self.asking.made = None;
                self.leave_keys();
                let has_candidate = self.run.candidate.value != NONE;
                let unavailable = StepResult::Failed(FailureClass::Unavailable);
                self.take(world, step, if has_candidate { StepResult::Done } else { unavailable }, false)
            }
            _ if step == Step::Retire => {
                self.leave_keys();
                self.take(world, step, StepResult::Done, false)
            }
            // Withdrawn: whether it works all the same is asked next.
            _ => {
                self.leave_keys();
                self.at = 1;
                Some(self)
            }
        }
    }

    /// The document was written for one of three reasons: a number is taken, a key is kept, none was made.
    fn saved(mut self, world: &World, run: Run, outcome: Option<Outcome>) -> Option<Self> {
        let keeps = self.asking.made;
        match outcome {
            None => {
                self.asking.kept_perhaps |= keeps.is_some();
                self.leave_keys();
                self.take(world, Step::Mint, StepResult::Failed(FailureClass::Ambiguous), false)
            }
            Some(Outcome::Done) => {
                (self.run, self.revision) = (run, world.revision);
                match self.asking.stage {
                    Stage::Listed => {
                        (self.asking.number, self.asking.perhaps, self.touched) = (run.asked, false, true);
                        self.claimed(world);
                        Some(self)
                    }
                    Stage::Full => {
                        self.leave_keys();
                        self.take(world, Step::Mint, StepResult::Failed(FailureClass::Conflict), false)
                    }
                    _ => {
                        self.asking.made = None;
                        self.take(world, Step::Mint, StepResult::Done, false)
                    }
                }
            }
            // Somebody else changed it: the same change again, with what was listed before.
            Some(_) => {
                let asking = self.asking.clone();
                let mut refreshed = self.refresh(world)?;
                refreshed.asking = asking;
                if refreshed.run.is_back {
                    refreshed.leave_keys();
                }
                Some(refreshed)
            }
        }
    }

    /// What makes no difference any more once there is a candidate.
    pub(super) fn forget_asking(&mut self) {
        if self.run.candidate.value != NONE
            && self.asking.made.is_none()
            && self.asking.stage == Stage::Begins
        {
            self.asking = Asking::default();
        }
    }

    /// The key that a process has which has lost the rotation, and gives back.
    pub(super) fn spare(&self) -> Option<u8> {
        self.asking.made.filter(|_| !self.asking.kept_perhaps)
    }
}
