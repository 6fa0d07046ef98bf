//! The rules of the protocol under any history at all: results by chance, deaths, containments that take
//! over. Whatever came before, a rotation can be brought to its end, and no step has a harmful effect.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rekeyd::failure::FailureClass;
use rekeyd::ident::Fence;
use rekeyd::rotation::plan::Strategy as Kind;
use rekeyd::rotation::progress::{Direction, Illegal, Next, Standing, Step, StepResult, Tries, Walk};
use serde_json::json;

use crate::figures;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The step that is due goes so.
    Goes(StepResult, Tries),
    /// The process dies, and another one takes the rotation up.
    Death,
    /// A containment takes over.
    Containment,
    /// Its deadline passes.
    Deadline,
}

/// A rotation, and what was done in the world because of it.
struct World {
    standing: Standing,
    walk: Walk,
    effects: BTreeSet<Step>,
    closed: bool,
    /// Its readers may get back what they had, until they are known to be well with the candidate.
    rolls_back: bool,
}

impl World {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Death => self.wake(),
            Happening::Containment => self.standing.contains = true,
            Happening::Deadline => self.standing.cuts = self.standing.contains,
            Happening::Goes(result, tries) => self.go(result, tries),
        }
    }

    /// Another process, or another sitting of this one.
    fn wake(&mut self) {
        self.walk = Walk::default();
        // Whether a target that makes values was asked stands in the document.
        self.standing.touched |= !self.standing.strategy.mints();
    }

    fn go(&mut self, result: StepResult, tries: Tries) {
        let Some(step) = self.walk.step(&self.standing) else {
            self.closed = true;
            return;
        };
        let Standing { has_outgoing, promoted, contains, reverts, direction, .. } = self.standing;
        let forward = direction == Direction::Forward;
        self.standing.may_revert =
            self.rolls_back && has_outgoing && promoted && forward && !contains && !reverts;
        if !result.may_end(step) {
            // It is an error, and nothing follows from it.
            let before = self.walk;
            assert_eq!(self.walk.take(&self.standing, step, result, tries), Err(Illegal { step, result }));
            assert_eq!(self.walk, before);
            return;
        }
        // An install that was not surely refused may have had its effect.
        let certain = matches!(result, StepResult::Failed(class) if class.is_certain());
        self.standing.touched |= matches!(step, Step::Mint | Step::Install) && !certain;
        match result {
            StepResult::Done => self.take_effect(step),
            StepResult::OutgoingAlive => {
                self.effects.remove(&Step::Retire);
            }
            StepResult::InForce => self.standing.promoted = true,
            _ => {}
        }
        match self.walk.take(&self.standing, step, result, tries).expect("it can end so") {
            Next::On | Next::Again | Next::Wait => {}
            Next::TurnBack => {
                assert!(self.standing.may_turn_back(), "turned back past the point of no return");
                self.standing.direction = Direction::Back;
                self.walk = Walk::default();
            }
            Next::Revert => {
                assert!(!self.effects.contains(&Step::Retire), "a dead value is brought back");
                let Standing { contains, cuts, .. } = self.standing;
                assert!(!contains && !cuts, "what may have leaked is brought back");
                (self.standing.reverts, self.standing.promoted) = (true, false);
                // Nothing of it is done for the other value.
                self.effects.clear();
                self.walk = Walk::default();
            }
            Next::TurnForward => {
                self.standing.direction = Direction::Forward;
                self.walk = Walk::default();
            }
            // Later, or when a person has decided.
            Next::Freeze(_) | Next::Park | Next::Leave => self.wake(),
        }
    }

    fn take_effect(&mut self, step: Step) {
        let standing = self.standing;
        let has = |steps: &[Step]| steps.iter().all(|step| self.effects.contains(step));
        let asks_target = standing.strategy != Kind::Generated;
        let takes_out = standing.has_outgoing && asks_target && !standing.adopts;
        let is_back = standing.direction == Direction::Back;
        match step {
            Step::Mint | Step::Install => {
                assert!(!is_back && asks_target && !standing.adopts);
                assert_eq!(standing.strategy.mints(), step == Step::Mint, "made by the wrong one");
            }
            Step::Promote => {
                assert!(!is_back && (!asks_target || has(&[Step::Verify])), "unverified in force")
            }
            Step::Publish | Step::Restart => assert!(has(&[Step::Promote]), "readers before the store"),
            Step::Retire => {
                assert!(takes_out && has(&[Step::Promote]), "retired without another value in force");
                let moved = has(&[Step::Publish, Step::Restart, Step::Converge]);
                assert!(moved || standing.cuts, "I4: retired before its readers have moved");
            }
            Step::Withdraw | Step::Restore => {
                assert!(is_back && has(&[Step::Hold]) && !standing.promoted, "taken back while in force");
            }
            Step::Record if is_back => {
                let undone = has(&[Step::Withdraw]) || has(&[Step::Restore]);
                let touched = standing.touched && asks_target && !standing.adopts;
                assert!(has(&[Step::Hold]) && (undone || !touched), "I1: closed with a value at large");
            }
            Step::Record => {
                let told = standing.adopts || has(&[Step::Publish, Step::Restart]);
                assert!(has(&[Step::Promote]) && told, "recorded before it is done");
                assert!(!takes_out || has(&[Step::Retire, Step::Prove]), "I5: recorded unproven");
            }
            Step::Close => assert!(has(&[Step::Record]), "I6: closed unrecorded"),
            Step::Converge => self.rolls_back = false,
            Step::Verify | Step::Prove | Step::Hold => {}
        }
        self.standing.promoted |= step == Step::Promote;
        self.effects.insert(step);
    }
}

fn standings() -> impl Strategy<Value = Standing> {
    let kind = prop_oneof![
        Just(Kind::Alternating),
        Just(Kind::DualPassword),
        Just(Kind::DualKey),
        Just(Kind::Reissued),
        Just(Kind::InPlace),
        Just(Kind::Generated)
    ];
    (kind, any::<[bool; 3]>()).prop_map(|(strategy, [adopts, has_outgoing, contains])| Standing {
        strategy,
        adopts,
        direction: Direction::Forward,
        has_outgoing: has_outgoing && !adopts,
        promoted: false,
        touched: false,
        creating: false,
        contains: contains && !adopts,
        cuts: false,
        reverts: false,
        may_revert: false,
    })
}

fn results() -> impl Strategy<Value = StepResult> {
    let class = prop_oneof![
        Just(FailureClass::Unavailable),
        Just(FailureClass::Ambiguous),
        Just(FailureClass::Denied),
        Just(FailureClass::Invalid),
        Just(FailureClass::Conflict),
        Just(FailureClass::Refused),
    ];
    prop_oneof![
        6 => Just(StepResult::Done),
        2 => class.prop_map(StepResult::Failed),
        1 => Just(StepResult::NotYet),
        1 => Just(StepResult::CandidateRefused),
        1 => Just(StepResult::OutgoingAlive),
        1 => Just(StepResult::ReadersFail),
        1 => Just(StepResult::Superseded { by: Fence::new(9) }),
        1 => Just(StepResult::ForeignWriter),
        1 => Just(StepResult::InForce),
        1 => Just(StepResult::ClaimLost),
    ]
}

fn happenings() -> impl Strategy<Value = Happening> {
    let tries = (1..6_u32, any::<bool>()).prop_map(|(made, exhausted)| Tries { made, exhausted });
    prop_oneof![
        12 => (results(), tries).prop_map(|(result, tries)| Happening::Goes(result, tries)),
        2 => Just(Happening::Death),
        1 => Just(Happening::Containment),
        1 => Just(Happening::Deadline),
    ]
}

/// So many histories.
const CASES: u32 = 20_000;

#[test]
fn any_history_does_no_harm_and_comes_to_an_end() {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new(config);
    let histories = (standings(), any::<bool>(), prop::collection::vec(happenings(), 0..80));
    let held = runner.run(&histories, |(standing, rolls_back, history)| {
        let rolls_back =
            rolls_back && !standing.adopts && !matches!(standing.strategy, Kind::InPlace | Kind::Reissued);
        let mut world =
            World { standing, walk: Walk::default(), effects: BTreeSet::new(), closed: false, rolls_back };
        for happening in history {
            world.happen(happening);
            if world.closed {
                break;
            }
        }
        // From wherever it came to, nothing goes wrong any more.
        world.wake();
        for _ in 0..2 * Step::ALL.len() {
            world.happen(Happening::Goes(StepResult::Done, Tries { made: 1, exhausted: false }));
        }
        prop_assert!(world.closed, "I7: it does not come to its end: {:?}", world.standing);
        prop_assert!(world.effects.contains(&Step::Close));
        Ok(())
    });
    figures::write("properties", &json!({"cases": CASES, "violations": u8::from(held.is_err())}));
    held.unwrap_or_else(|error| panic!("{error}"));
}
