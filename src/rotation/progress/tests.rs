//! The rules, held against every standing there is.

use super::*;

const FRESH: Tries = Tries { made: 1, exhausted: false };
const WORN: Tries = Tries { made: 9, exhausted: true };

fn standings() -> Vec<Standing> {
    let mut all = Vec::new();
    let flags = [false, true];
    for strategy in [Strategy::Alternating, Strategy::DualPassword, Strategy::InPlace, Strategy::Generated] {
        for direction in [Direction::Forward, Direction::Back] {
            for bits in 0..512_u16 {
                let flag = |n: u8| flags[usize::from(bits >> n & 1)];
                all.push(Standing {
                    strategy,
                    adopts: flag(0),
                    direction,
                    has_outgoing: flag(1),
                    promoted: flag(2),
                    touched: flag(3),
                    contains: flag(4),
                    cuts: flag(4) && flag(5),
                    creating: flag(6),
                    reverts: flag(7) && direction == Direction::Forward,
                    may_revert: flag(8) && flag(2) && !flag(4) && !flag(7) && direction == Direction::Forward,
                });
            }
        }
    }
    all
}

fn at(line: &[Step], step: Step) -> Option<usize> {
    line.iter().position(|each| *each == step)
}

#[test]
fn every_line_ends_recorded_and_closed_and_repeats_no_step() {
    for standing in standings() {
        let line = standing.line();
        assert_eq!(line[line.len() - 2..], [Step::Record, Step::Close], "{standing:?}");
        let mut seen = line.to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), line.len(), "{standing:?}");
    }
}

#[test]
fn no_line_retires_before_the_new_value_is_verified_and_in_the_store() {
    for standing in standings() {
        let line = standing.line();
        if let Some(retire) = at(line, Step::Retire) {
            assert!(at(line, Step::Install) < at(line, Step::Verify));
            assert!(at(line, Step::Verify) < at(line, Step::Promote));
            assert!(at(line, Step::Promote) < Some(retire));
            assert_eq!(at(line, Step::Prove), Some(retire + 1), "a retire is proven at once");
        }
    }
}

#[test]
fn only_a_containment_retires_before_consumers_have_moved() {
    for standing in standings() {
        let line = standing.line();
        if let (Some(converge), Some(retire)) = (at(line, Step::Converge), at(line, Step::Retire)) {
            assert_eq!(retire < converge, standing.cuts, "{standing:?}");
            assert!(!standing.cuts || standing.contains);
        }
    }
}

#[test]
fn nothing_is_taken_back_before_its_promotion_is_barred() {
    for standing in standings().into_iter().filter(|s| s.direction == Direction::Back) {
        assert_eq!(at(standing.line(), Step::Hold), Some(0), "{standing:?}");
    }
}

#[test]
fn an_adoption_never_changes_the_target() {
    let changes = [Step::Install, Step::Retire, Step::Withdraw, Step::Restore];
    for standing in standings().into_iter().filter(|s| s.adopts) {
        assert!(standing.line().iter().all(|step| !changes.contains(step)), "{standing:?}");
        assert!(standing.reverts || standing.outcome() != Outcome::RolledBack, "{standing:?}");
        let forward = standing.direction == Direction::Forward;
        let may = forward && !standing.promoted && !standing.creating && !standing.reverts;
        assert_eq!(standing.may_turn_back(), may, "{standing:?}");
    }
}

#[test]
fn every_forward_rotation_with_an_outgoing_value_proves_it_dead() {
    for standing in standings() {
        let takes_out = standing.direction == Direction::Forward
            && standing.has_outgoing
            && !standing.adopts
            && standing.strategy != Strategy::Generated;
        assert_eq!(at(standing.line(), Step::Prove).is_some(), takes_out, "{standing:?}");
    }
}

fn take(standing: &Standing, step: Step, result: StepResult, tries: Tries) -> Next {
    Walk::default().take(standing, step, result, tries).expect("it can end so")
}

#[test]
fn nothing_turns_back_after_the_promotion() {
    let results = [
        StepResult::CandidateRefused,
        StepResult::Failed(FailureClass::Refused),
        StepResult::Failed(FailureClass::Denied),
        StepResult::Failed(FailureClass::Conflict),
        StepResult::Failed(FailureClass::Invalid),
    ];
    for standing in standings().into_iter().filter(|s| s.promoted) {
        for step in Step::ALL {
            for result in results.into_iter().filter(|result| result.may_end(step)) {
                for tries in [FRESH, WORN] {
                    assert_ne!(take(&standing, step, result, tries), Next::TurnBack, "{standing:?} {step}");
                }
            }
        }
    }
}

#[test]
fn readers_that_fail_get_back_what_they_had_or_are_waited_for() {
    for standing in standings() {
        for (step, tries) in
            [(Step::Publish, FRESH), (Step::Publish, WORN), (Step::Converge, FRESH), (Step::Converge, WORN)]
        {
            let next = take(&standing, step, StepResult::ReadersFail, tries);
            let waits =
                if tries.exhausted && !standing.waits_for_cut(step) { Next::Park } else { Next::Again };
            assert_eq!(next, if standing.may_revert { Next::Revert } else { waits }, "{standing:?}");
        }
        // One that says so by itself is asked more often than once.
        assert_eq!(take(&standing, Step::Restart, StepResult::ReadersFail, FRESH), Next::Again);
    }
}

#[test]
fn what_is_brought_back_is_not_given_up() {
    for standing in standings().into_iter().filter(|standing| standing.reverts) {
        assert!(!standing.may_turn_back(), "{standing:?}");
        assert_eq!(standing.outcome(), Outcome::RolledBack);
    }
}

#[test]
fn an_unknown_outcome_never_decides_anything() {
    for standing in standings() {
        for step in Step::ALL {
            for class in [FailureClass::Ambiguous, FailureClass::Unavailable] {
                assert_eq!(take(&standing, step, StepResult::Failed(class), FRESH), Next::Again);
                // A containment's cut comes whatever a reader says.
                let worn = if standing.waits_for_cut(step) { Next::Again } else { Next::Park };
                assert_eq!(take(&standing, step, StepResult::Failed(class), WORN), worn);
            }
        }
    }
}

#[test]
fn a_living_outgoing_value_is_retired_again_and_never_closes_a_rotation() {
    for standing in standings().into_iter().filter(|s| s.line().contains(&Step::Prove)) {
        let mut walk = Walk::default();
        let mut retired = 0;
        for made in 1..20 {
            while let Some(step) = walk.step(&standing).filter(|step| *step != Step::Prove) {
                assert!(!matches!(step, Step::Record | Step::Close), "{standing:?} closes");
                retired += u32::from(step == Step::Retire);
                assert_eq!(walk.take(&standing, step, StepResult::Done, FRESH), Ok(Next::On));
            }
            let tries = Tries { made, exhausted: false };
            let next =
                walk.take(&standing, Step::Prove, StepResult::OutgoingAlive, tries).expect("it can end so");
            assert_eq!(next, if made < PROVE_TRIES { Next::Again } else { Next::Park });
        }
        assert_eq!(retired, 19);
    }
}

#[test]
fn a_walk_of_done_steps_is_the_line_and_ends() {
    for standing in standings() {
        let mut walk = Walk::default();
        let mut walked = Vec::new();
        while let Some(step) = walk.step(&standing) {
            walked.push(step);
            assert_eq!(walk.take(&standing, step, StepResult::Done, FRESH), Ok(Next::On));
        }
        assert_eq!(walked, standing.line());
    }
}

#[test]
fn a_line_that_changes_under_a_walk_skips_nothing() {
    for standing in standings() {
        for changed in standings() {
            let (mut walk, mut done) = (Walk::default(), Vec::new());
            for step in standing.line().iter().take(5) {
                walk.take(&standing, *step, StepResult::Done, FRESH).expect("it can end so");
                done.push(*step);
            }
            while let Some(step) = walk.step(&changed) {
                walk.take(&changed, step, StepResult::Done, FRESH).expect("it can end so");
                done.push(step);
            }
            assert!(changed.line().iter().all(|step| done.contains(step)), "{standing:?} {changed:?}");
        }
    }
}

#[test]
fn a_refused_candidate_is_tried_again_then_given_up_or_frozen() {
    let base = Standing {
        strategy: Strategy::Alternating,
        adopts: false,
        direction: Direction::Forward,
        has_outgoing: true,
        promoted: false,
        touched: true,
        contains: false,
        cuts: false,
        creating: false,
        reverts: false,
        may_revert: false,
    };
    let refused = |standing: &Standing, made| {
        take(standing, Step::Verify, StepResult::CandidateRefused, Tries { made, exhausted: false })
    };
    assert_eq!(refused(&base, 1), Next::Again);
    assert_eq!(refused(&base, VERIFY_TRIES), Next::TurnBack);
    let in_place = Standing { strategy: Strategy::InPlace, ..base };
    assert_eq!(refused(&in_place, VERIFY_TRIES), Next::TurnBack);
    let first = Standing { has_outgoing: false, ..in_place };
    assert_eq!(refused(&first, VERIFY_TRIES), Next::Freeze(Doubt::NoWayBack));
    assert_eq!(refused(&Standing { promoted: true, ..base }, VERIFY_TRIES), Next::Park);
}

#[test]
fn a_containment_waits_for_no_reader_beyond_its_deadline() {
    let classes = [
        FailureClass::Unavailable,
        FailureClass::Ambiguous,
        FailureClass::Denied,
        FailureClass::Invalid,
        FailureClass::Conflict,
    ];
    for standing in standings().into_iter().filter(|standing| standing.contains) {
        let retires = at(standing.line(), Step::Retire);
        for step in [Step::Publish, Step::Restart, Step::Converge] {
            let waits = !standing.cuts && retires.is_some();
            assert_eq!(standing.waits_for_cut(step), waits, "{standing:?}");
            for class in classes {
                let next = take(&standing, step, StepResult::Failed(class), WORN);
                assert_eq!(next == Next::Again, waits, "{standing:?}: {next:?}");
            }
        }
    }
}

#[test]
fn an_end_that_a_step_cannot_have_is_an_error() {
    let standing = standings()[0];
    let mut walk = Walk::default();
    let illegal = Illegal { step: Step::Install, result: StepResult::OutgoingAlive };
    assert_eq!(walk.take(&standing, illegal.step, illegal.result, FRESH), Err(illegal));
    assert_eq!(walk, Walk::default());
}
