//! A process at a rotation: what each step asks of the systems, and the real rules for what follows.

use std::ops::ControlFlow;

use rekeyd::failure::FailureClass;
use rekeyd::ident::Fence;
use rekeyd::proving::Mutant;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::{Direction, Doubt, Next, Standing, Step, StepResult, Tries, Walk};

use super::amend::Amendment;
use super::fate::Fate;
use super::keys::{Asking, NONE};
use super::ledgers::Record;
use super::world::{Credential, Document, Effect, Marker, Outcome, READERS, Run, World};
use super::{Budget, Event};

/// One process's turn at a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) run: Run,
    pub(super) revision: u8,
    pub(super) walk: Walk,
    pub(super) promoted: bool,
    pub(super) touched: bool,
    /// No promotion can be under way but what it knows of.
    pub(super) alone: bool,
    /// How far the step is.
    pub(super) at: usize,
    /// Where the target makes the value.
    pub(super) asking: Asking,
    /// What the run document is to become first.
    pub(super) amending: Option<Amendment>,
}

/// What a step does next.
pub(super) enum Turn {
    Calls(Effect),
    /// Each of them, whatever becomes of the others.
    CallsAll(Vec<Effect>),
    /// Nothing more: it went so.
    Ends(StepResult),
    /// It reads what the target says.
    Looks,
    /// It reads the run document again.
    Refreshes,
}

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Call { process, fate } => self.call(process, fate),
            Event::Begin { process, fate } => self.begin(process, fate),
            Event::Arrive { message } => self.arrive(message),
            Event::Edit => self.edited = true,
        }
        self.normalise();
    }

    /// What may become of the next call of a process.
    pub(super) fn fates(&self, process: usize) -> Vec<Fate> {
        let Budget { deaths, late, refusals, beside, rotations } = self.budget;
        let is_idle = self.processes[process].is_none();
        if is_idle && matches!(self.document, Document::Closed(_)) && rotations == 0 {
            return Vec::new();
        }
        if self.processes[process].as_ref().is_some_and(Process::waits_to_ask) {
            return Vec::new();
        }
        let mut fates = vec![Fate::Heard];
        fates.extend((deaths > 0).then_some(Fate::Dies));
        fates.extend((late > 0).then_some(Fate::Late));
        fates.extend((deaths > 0 && late > 0).then_some(Fate::DiesSending));
        let tells = self.processes[process].as_ref().is_some_and(|process| process.tells(self));
        fates.extend((deaths > 0 && tells).then_some(Fate::DiesBetween));
        let refusable = self.processes[process].as_ref().is_some_and(|process| process.may_be_refused(self));
        fates.extend((refusals > 0 && refusable).then_some(Fate::Refused));
        let fails = self.processes[process].as_ref().is_some_and(|process| process.may_fail_beside(self));
        fates.extend((beside > 0 && refusals > 0 && fails).then_some(Fate::RefusedAndFails));
        fates.extend((beside > 0 && late > 0 && fails).then_some(Fate::LateAndFails));
        fates
    }

    /// A process looks at the policy, and takes the open rotation up or opens one.
    pub(super) fn begin(&mut self, process: usize, fate: Fate) {
        let (run, opens) = match &self.document {
            Document::Open(run) => (*run, false),
            Document::Closed(marker) => {
                self.budget.rotations -= 1;
                (self.opened(*marker), true)
            }
        };
        let mut run = run;
        if opens {
            if Mutant::SetBeforeDurable.is_on() || Mutant::IntentInTransaction.is_on() {
                let Run { candidate, rotation, fence, .. } = run;
                let beside = Some(self.current.value);
                self.take_effect(Effect::Install { credential: candidate, beside, rotation, fence });
                self.check();
            }
        } else {
            if Mutant::FreshValueOnRetry.is_on() {
                run.candidate.value = self.next_rotation();
            }
            if Mutant::ResumeWithEditedPolicy.is_on() {
                run.readers = self.named();
            }
            // A person has looked at what is in doubt.
            match run.doubt.take() {
                Some(Doubt::ForeignWriter) => {
                    run.fence += u8::from(run.is_back);
                    (run.base, run.is_back) = (self.current_revision, false);
                }
                Some(Doubt::Superseded { by }) => run.fence = run.fence.max(number(by)) + 1,
                Some(Doubt::NoWayBack) | None => {}
            }
        }
        let effect = Effect::Save { run, expected: self.revision };
        if let Some(Outcome::Done) = self.send(process, effect, fate) {
            let promoted = self.is_promoted(&run);
            let revision = self.revision;
            self.processes[process] = Some(Process {
                run,
                revision,
                walk: Walk::default(),
                promoted,
                touched: !opens,
                alone: opens,
                at: 0,
                asking: Asking::default(),
                amending: None,
            });
        }
    }

    fn opened(&self, before: Marker) -> Run {
        let rotation = self.next_rotation();
        let role = match self.strategy {
            Strategy::Alternating => 1 - self.current.role,
            _ => self.current.role,
        };
        let value = if self.strategy.mints() { NONE } else { rotation };
        Run {
            rotation,
            candidate: Credential { role, value },
            outgoing: self.current,
            base: self.current_revision,
            fence: before.fence + 1,
            is_back: false,
            is_installed: false,
            doubt: None,
            before,
            readers: self.named(),
            reverts: false,
            is_settled: false,
            asked: 0,
            in_vain: 0,
        }
    }

    pub(super) fn is_promoted(&self, run: &Run) -> bool {
        self.current == run.candidate && self.current_revision != run.base
    }

    /// A call goes out; `None` when whoever sent it does not hear of it, or is dead.
    pub(super) fn send(&mut self, process: usize, effect: Effect, fate: Fate) -> Option<Outcome> {
        let outcome = match fate {
            Fate::Heard => Some(self.take_effect(effect)),
            Fate::Dies => {
                self.budget.deaths -= 1;
                self.take_effect(effect);
                self.processes[process] = None;
                None
            }
            Fate::Late | Fate::DiesSending => {
                self.budget.late -= 1;
                self.on_the_way.push(effect);
                if fate == Fate::DiesSending {
                    self.budget.deaths -= 1;
                    self.processes[process] = None;
                }
                None
            }
            Fate::Refused | Fate::RefusedAndFails | Fate::LateAndFails | Fate::DiesBetween => {
                unreachable!("it is not one that is sent so")
            }
        };
        self.check();
        outcome
    }

    /// A process makes its next call.
    pub(super) fn call(&mut self, index: usize, fate: Fate) {
        let mut process = self.processes[index].take().expect("it is at work");
        if let Some(amendment) = process.amending {
            self.processes[index] = Some(process.clone());
            return self.amend(index, process, amendment, fate);
        }
        let Some(step) = process.step(self) else { return };
        let refused = match step {
            Step::Install => Some(StepResult::Failed(FailureClass::Refused)),
            Step::Verify => Some(StepResult::CandidateRefused),
            Step::Converge => Some(StepResult::ReadersFail),
            _ => None,
        };
        if fate == Fate::Refused
            && let Some(result) = refused
        {
            self.budget.refusals -= 1;
            self.processes[index] = process.take(self, step, result, true);
            return;
        }
        if step == Step::Verify {
            self.keys.log_in(process.run.candidate.value);
        }
        match process.turn(self, index, step) {
            Turn::Looks => self.processes[index] = Some(process),
            Turn::Refreshes => {
                let asking = process.asking.clone();
                self.processes[index] = process.refresh(self).map(|process| Process { asking, ..process });
                if let Some(mut process) = self.processes[index].take() {
                    process.claimed(self);
                    self.processes[index] = Some(process);
                }
            }
            Turn::Ends(result) => self.processes[index] = process.take(self, step, result, false),
            Turn::CallsAll(effects) => {
                let result = self.send_all(effects, fate);
                if matches!(fate, Fate::Dies | Fate::DiesSending | Fate::DiesBetween) {
                    return;
                }
                self.processes[index] = match result {
                    // The readers have it again: the outgoing value may die.
                    StepResult::Done if step == Step::Retire => {
                        process.at = 1;
                        Some(process)
                    }
                    _ if fate.fails() => process.take(self, step, StepResult::ReadersFail, true),
                    result => {
                        let exhausted = fate == Fate::Refused || Mutant::RetireByTimer.is_on();
                        process.take(self, step, result, exhausted)
                    }
                };
            }
            Turn::Calls(effect) => {
                self.processes[index] = Some(process.clone());
                let outcome = self.send(index, effect, fate);
                if matches!(fate, Fate::Dies | Fate::DiesSending) {
                    return;
                }
                let spare = process.spare();
                self.processes[index] = process.answered(self, step, effect, outcome);
                // Whoever has lost the rotation gives back what it has.
                if let Some(spare) = spare
                    && self.processes[index].is_none()
                    && outcome == Some(Outcome::Conflict)
                {
                    self.keys.delete(spare);
                    self.check();
                }
            }
        }
        // A step that has nothing more to ask is over at once.
        while let Some(process) = self.processes[index].take() {
            let Some(step) = process.step(self) else { return };
            let quiet = match (process.amending, step) {
                (None, Step::Converge) => !process.may_revert(self),
                (None, Step::Retire) if self.strategy == Strategy::InPlace => process.at == 1,
                _ => false,
            };
            if !quiet {
                self.processes[index] = Some(process);
                return;
            }
            self.processes[index] = process.take(self, step, StepResult::Done, false);
        }
    }

    /// Tells several readers. The first is the one that something happens to.
    fn send_all(&mut self, effects: Vec<Effect>, fate: Fate) -> StepResult {
        let mut result = StepResult::Done;
        for (at, effect) in effects.into_iter().enumerate() {
            let outcome = match (fate, at) {
                (Fate::DiesBetween, 1..) | (Fate::DiesSending, 1..) => break,
                (Fate::Late | Fate::LateAndFails | Fate::DiesSending, 0) => {
                    self.budget.late -= 1;
                    self.on_the_way.push(effect);
                    None
                }
                (Fate::Refused | Fate::RefusedAndFails, 0) => {
                    self.budget.refusals -= 1;
                    None
                }
                _ => Some(self.take_effect(effect)),
            };
            if outcome != Some(Outcome::Done) {
                result = StepResult::Failed(FailureClass::Unavailable);
            }
            self.check();
        }
        self.budget.deaths -= u8::from(matches!(fate, Fate::Dies | Fate::DiesSending | Fate::DiesBetween));
        self.budget.beside -= u8::from(fate.fails());
        result
    }
}

impl Process {
    fn standing(&self, world: &World) -> Standing {
        Standing {
            strategy: world.strategy,
            adopts: false,
            direction: if self.run.is_back { Direction::Back } else { Direction::Forward },
            has_outgoing: true,
            promoted: self.promoted,
            touched: self.touched && (!world.strategy.mints() || self.run.asked > self.run.in_vain),
            creating: false,
            contains: world.contains,
            cuts: world.contains,
            reverts: self.run.reverts,
            may_revert: self.may_revert(world),
        }
    }

    pub(super) fn may_revert(&self, world: &World) -> bool {
        let keeps_earlier = world.strategy.overlaps() || world.strategy == Strategy::Generated;
        let Run { is_back, reverts, is_settled, .. } = self.run;
        keeps_earlier && self.promoted && !world.contains && !is_back && !reverts && !is_settled
    }

    fn step(&self, world: &World) -> Option<Step> {
        if let Some(step) = self.bound() {
            return Some(step);
        }
        self.walk.step(&self.standing(world))
    }

    /// Whether its next call is one that somebody may refuse.
    fn may_be_refused(&self, world: &World) -> bool {
        self.amending.is_none()
            && match self.step(world) {
                Some(Step::Install) => self.at == 0,
                Some(Step::Verify | Step::Publish | Step::Restart) => true,
                Some(Step::Converge) => self.may_revert(world),
                _ => false,
            }
    }

    /// Whether one reader may fail while another cannot be told.
    fn may_fail_beside(&self, world: &World) -> bool {
        let has_another = self.readers().count() > 1;
        self.amending.is_none()
            && self.step(world) == Some(Step::Publish)
            && self.may_revert(world)
            && has_another
    }

    /// Whether it tells readers next.
    fn tells(&self, world: &World) -> bool {
        self.amending.is_none()
            && match self.step(world) {
                Some(Step::Publish | Step::Restart) => true,
                Some(Step::Retire) => self.at == 0 && tells_before_retiring(world),
                _ => false,
            }
    }

    /// What [`World::normalise`] replaces.
    pub(super) fn revisions(&mut self) -> (&mut u8, &mut u8) {
        (&mut self.revision, &mut self.run.base)
    }

    fn readers(&self) -> impl Iterator<Item = usize> {
        let named = self.run.readers;
        (0..READERS).filter(move |reader| named >> reader & 1 == 1)
    }

    /// What the step does next.
    fn turn(&mut self, world: &World, index: usize, step: Step) -> Turn {
        let Run { rotation, candidate, outgoing, fence, base, .. } = self.run;
        let version = self.run.version();
        let publish = |reader| Effect::Publish { reader, version, credential: candidate };
        let reload = |reader| Effect::Reload { reader, version };
        match step {
            Step::Mint => self.mint(world),
            Step::Install if self.at == 0 => Turn::Calls(Effect::Install {
                credential: candidate,
                beside: Some(outgoing.value),
                rotation,
                fence,
            }),
            Step::Install => {
                let run = Run { is_installed: true, ..self.run };
                Turn::Calls(Effect::Save { run, expected: self.revision })
            }
            Step::Verify if world.probe(candidate) => Turn::Ends(StepResult::Done),
            Step::Verify => Turn::Ends(StepResult::CandidateRefused),
            Step::Promote if self.promoted => Turn::Ends(StepResult::Done),
            Step::Promote => Turn::Calls(Effect::Promote { credential: candidate, expected: base }),
            Step::Publish => Turn::CallsAll(self.readers().map(publish).collect()),
            Step::Restart => Turn::CallsAll(self.readers().map(reload).collect()),
            Step::Converge if self.may_revert(world) && !Mutant::RevertUnbarred.is_on() => {
                let run = Run { is_settled: true, ..self.run };
                Turn::Calls(Effect::Save { run, expected: self.revision })
            }
            Step::Converge => Turn::Ends(StepResult::Done),
            Step::Retire if self.at == 0 && tells_before_retiring(world) => {
                Turn::CallsAll(self.readers().map(publish).chain(self.readers().map(reload)).collect())
            }
            Step::Retire if world.strategy.mints() => self.clear(world, step),
            // Only sessions are closed.
            Step::Retire if world.strategy == Strategy::InPlace => Turn::Ends(StepResult::Done),
            Step::Retire => {
                let beside = Some(candidate.value).filter(|_| world.strategy == Strategy::DualPassword);
                Turn::Calls(Effect::Retire { role: outgoing.role, beside, rotation, fence })
            }
            Step::Prove if world.probe(outgoing) => Turn::Ends(StepResult::OutgoingAlive),
            Step::Prove => Turn::Ends(StepResult::Done),
            Step::Hold => self.hold(world),
            Step::Withdraw if self.at == 0 && world.strategy.mints() => self.clear(world, step),
            Step::Withdraw if self.at == 0 => {
                let beside = Some(outgoing.value).filter(|_| world.strategy == Strategy::DualPassword);
                Turn::Calls(Effect::Withdraw { role: candidate.role, beside, rotation, fence })
            }
            Step::Withdraw if world.probe(candidate) => {
                Turn::Ends(StepResult::Failed(FailureClass::Unavailable))
            }
            Step::Withdraw => Turn::Ends(StepResult::Done),
            Step::Restore if self.at == 0 => {
                Turn::Calls(Effect::Install { credential: outgoing, beside: None, rotation, fence })
            }
            Step::Restore if world.probe(outgoing) => Turn::Ends(StepResult::Done),
            Step::Restore => Turn::Ends(StepResult::Failed(FailureClass::Unavailable)),
            Step::Record => {
                let record = Record { rotation, reverts: self.run.reverts };
                Turn::Calls(Effect::Append { process: index, record })
            }
            Step::Close => Turn::Calls(Effect::Close { marker: self.marker(), expected: self.revision }),
        }
    }

    fn hold(&self, world: &World) -> Turn {
        let Run { outgoing, base, .. } = self.run;
        if world.is_promoted(&self.run) {
            return Turn::Ends(StepResult::InForce);
        }
        if world.current_revision == base {
            if self.alone {
                return Turn::Ends(StepResult::Done);
            }
            return Turn::Calls(Effect::Promote { credential: outgoing, expected: base });
        }
        let is_published = self.readers().any(|reader| world.readers[reader].version >= self.run.version());
        Turn::Ends(if is_published { StepResult::ForeignWriter } else { StepResult::Done })
    }

    /// What closes the rotation.
    fn marker(&self) -> Marker {
        let Run { rotation, fence, before, is_back, .. } = self.run;
        if self.run.reverts {
            let version = self.run.version();
            Marker { version, fence, in_force: before.in_force, last: rotation, reverts: true }
        } else if is_back || !self.promoted {
            Marker { fence, last: rotation, reverts: false, ..before }
        } else {
            let version = before.version + 1;
            Marker { version, fence, in_force: rotation, last: rotation, reverts: false }
        }
    }

    /// Takes the answer to a call in; `None` for the answer when there was none.
    fn answered(
        mut self,
        world: &World,
        step: Step,
        effect: Effect,
        outcome: Option<Outcome>,
    ) -> Option<Self> {
        if world.strategy.mints() {
            self = match self.answered_of_keys(world, step, effect, outcome) {
                ControlFlow::Break(next) => return next,
                ControlFlow::Continue(process) => process,
            };
        }
        let Some(outcome) = outcome else {
            self.touched |= matches!(effect, Effect::Install { .. }) && !Mutant::TimeoutAsRefusal.is_on();
            self.alone &= !matches!(effect, Effect::Promote { .. });
            return self.take(world, step, StepResult::Failed(FailureClass::Ambiguous), false);
        };
        let result = match (effect, outcome) {
            (Effect::Install { .. }, Outcome::Done) => {
                self.touched = true;
                let keeps =
                    step == Step::Install && world.strategy.shares_principal() && !self.run.is_installed;
                if keeps || step == Step::Restore {
                    self.at = 1;
                    return Some(self);
                }
                StepResult::Done
            }
            (Effect::Mint { .. } | Effect::Delete { .. }, _) | (_, Outcome::Made(_)) => {
                unreachable!("it was taken in before")
            }
            (_, Outcome::Superseded(by)) => StepResult::Superseded { by: Fence::new(by.into()) },
            (Effect::Save { run, .. }, Outcome::Done) => {
                self.alone &= run.reverts == self.run.reverts;
                (self.run, self.revision) = (run, world.revision);
                StepResult::Done
            }
            (Effect::Save { .. }, _) => return self.refresh(world),
            (Effect::Promote { .. }, Outcome::Done) => {
                self.promoted |= step == Step::Promote;
                StepResult::Done
            }
            (Effect::Promote { .. }, _) if step == Step::Hold => {
                StepResult::Failed(FailureClass::Unavailable)
            }
            (Effect::Promote { .. }, _) if world.is_promoted(&self.run) => {
                self.promoted = true;
                StepResult::Done
            }
            (Effect::Promote { .. }, _) => StepResult::ForeignWriter,
            (Effect::Withdraw { .. }, _) => {
                self.at = 1;
                return Some(self);
            }
            (Effect::Publish { .. } | Effect::Reload { .. }, _) => unreachable!("readers are told together"),
            (Effect::Install { .. } | Effect::Retire { .. } | Effect::Append { .. }, _)
            | (Effect::Close { .. }, Outcome::Done) => StepResult::Done,
            (Effect::Close { .. }, _) => match &world.document {
                Document::Closed(marker) if marker.last == self.run.rotation => StepResult::Done,
                _ => return self.refresh(world),
            },
        };
        self.take(world, step, result, false)
    }

    /// Somebody else changed the run document: it is taken as it is now, if it is still this rotation's.
    pub(super) fn refresh(mut self, world: &World) -> Option<Self> {
        match &world.document {
            Document::Open(run) if run.rotation == self.run.rotation => {
                // Nothing of what was done is done for these values; or somebody else may have a promotion under way.
                let others = world.revision != self.revision;
                if run.reverts != self.run.reverts || others && self.alone && run.is_back {
                    self.walk = Walk::default();
                }
                (self.run, self.revision) = (*run, world.revision);
                self.promoted = world.is_promoted(run);
                if others {
                    (self.touched, self.alone) = (true, false);
                }
                self.at = 0;
                Some(self)
            }
            _ => None,
        }
    }

    /// The rules: what follows from how a step went. `None` when the process leaves the rotation.
    pub(super) fn take(
        mut self,
        world: &World,
        step: Step,
        result: StepResult,
        exhausted: bool,
    ) -> Option<Self> {
        if result == StepResult::InForce {
            self.promoted = true;
        }
        // Everything is tried often enough to be believed.
        let tries = Tries { made: 9, exhausted };
        let standing = self.standing(world);
        let next = self.walk.take(&standing, step, result, tries).expect("the step can end so");
        self.at = 0;
        match next {
            Next::On => self.step(world).is_some().then_some(self),
            Next::Again | Next::Wait => Some(self),
            Next::TurnBack => Some(Self { amending: Some(Amendment::Back), ..self }),
            Next::Revert => Some(Self { amending: Some(Amendment::Revert), ..self }),
            Next::TurnForward => Some(Self { amending: Some(Amendment::Forward), ..self }),
            Next::Freeze(doubt) => {
                let Run { is_back, fence, .. } = self.run;
                Some(Self { amending: Some(Amendment::Frozen { doubt, is_back, fence }), ..self })
            }
            Next::Park | Next::Leave => None,
        }
    }
}

/// Whoever lost the new version gets it back before the outgoing value dies.
fn tells_before_retiring(world: &World) -> bool {
    !world.contains && !Mutant::RetireBeforeConvergence.is_on() && !Mutant::RetireByTimer.is_on()
}

fn number(fence: Fence) -> u8 {
    fence.to_string().parse().expect("a small number")
}
