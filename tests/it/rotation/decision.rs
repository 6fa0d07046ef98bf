//! A rotation in doubt: what is known of its values is told, and each decision of a person does what it says
//! or nothing.

use rekeyd::ident::Fence;
use rekeyd::rotation::decision::{Decision, Verdict, Verdicts};
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::service::EndingKind;
use rekeyd::status::State;

use super::outcomes::{managed, meet_foreign_writer};
use crate::world::faults::Fault;
use crate::world::{Shape, Subject, World};

const ALTERNATING: Shape = Shape::new(Strategy::Alternating);
const DUAL: Shape = Shape::new(Strategy::DualPassword);
const IN_PLACE: Shape = Shape::new(Strategy::InPlace);

const ACCEPTED_AND_REFUSED: Verdicts = Verdicts { candidate: Verdict::Accepted, current: Verdict::Refused };

/// In doubt, and the target's marker ahead: the store still has the value that the rotation began with.
async fn superseded(world: &World, shape: Shape) -> Subject {
    let subject = managed(world, shape).await;
    let next = (*subject.policy.principals().last().expect("a user")).clone();
    world.database.raise_fence(&next, subject.policy.name(), Fence::new(40));
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    subject
}

async fn known(world: &World, subject: &Subject) -> Verdicts {
    let status = world.status(subject).await;
    assert_eq!(status.state, State::InDoubt, "{status:?}");
    status.open.expect("it is open").known.expect("it is in doubt")
}

#[tokio::test]
async fn what_is_known_of_each_value_is_told() {
    let world = World::new();
    for shape in [ALTERNATING, DUAL, IN_PLACE] {
        let (subject, foreign) = meet_foreign_writer(&world, shape, false).await;
        assert_eq!(known(&world, &subject).await, ACCEPTED_AND_REFUSED);
        let remedy =
            world.status(&subject).await.problem.and_then(|problem| problem.remedy).expect("a remedy");
        assert!(remedy.contains("--use-candidate") && remedy.contains("--set-both"), "{remedy}");
        assert!(!remedy.contains("--keep-current"), "it offers what is not safe: {remedy}");
        assert!(!world.database.accepts(&foreign));

        let subject = superseded(&world, shape).await;
        let expected = Verdicts { candidate: Verdict::Refused, current: Verdict::Accepted };
        assert_eq!(known(&world, &subject).await, expected);
        let process = world.process(&[&subject]);
        let ending = process.rotate(&subject, "another").await;
        let remedy = ending.remedy.expect("a remedy");
        assert!(remedy.contains("--keep-current") && !remedy.contains("--use-candidate"), "{remedy}");
        process.attend(&subject).await;
        let told = process.events().into_iter().find_map(|event| match event.what {
            What::InDoubt { known, .. } => Some(known),
            _ => None,
        });
        assert_eq!(told, Some(expected), "the event does not say what is known");
    }
}

#[tokio::test]
async fn the_target_does_not_answer_and_nothing_is_known() {
    let world = World::new();
    let subject = managed(&world, IN_PLACE).await;
    let next = (*subject.policy.principals().last().expect("a user")).clone();
    world.database.raise_fence(&next, subject.policy.name(), Fence::new(40));
    let process = world.process(&[&subject]);
    let down = Fault::Fail(rekeyd::failure::FailureClass::Unavailable);
    process.script.next("target.probe", usize::MAX, down);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    assert_eq!(known(&world, &subject).await, Verdicts::default());

    // No decision that rests on an answer is followed without one.
    for decision in [Decision::KeepCurrent, Decision::UseCandidate] {
        let process = world.process(&[&subject]);
        process.script.next("target.probe", usize::MAX, down);
        let ending = process.decide(&subject, decision).await;
        assert_eq!(ending.ending, EndingKind::Failed, "{decision:?}: {ending:?}");
        assert_eq!(world.status(&subject).await.state, State::InDoubt);
    }
    let ending = world.process(&[&subject]).decide(&subject, Decision::SetBoth).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn the_candidate_is_used() {
    let world = World::new();
    for shape in [ALTERNATING, DUAL, IN_PLACE] {
        let (subject, foreign) = meet_foreign_writer(&world, shape, false).await;
        let candidate = world.run(&subject).await.candidate.expect("a candidate");
        let ending = world.process(&[&subject]).decide(&subject, Decision::UseCandidate).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        assert_eq!(world.in_force(&subject).await, candidate);
        assert!(!world.database.accepts(&foreign));
        subject.checker.store_is_foreign(false);
        subject.checker.at_rest().await;

        // One that the target refuses is not.
        let subject = superseded(&world, shape).await;
        let before = world.in_force(&subject).await;
        let ending = world.process(&[&subject]).decide(&subject, Decision::UseCandidate).await;
        assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
        assert!(ending.remedy.is_some_and(|remedy| remedy.contains("--set-both")));
        assert_eq!(world.in_force(&subject).await, before);
        assert_eq!(world.status(&subject).await.state, State::InDoubt);
    }
}

#[tokio::test]
async fn both_are_set() {
    let world = World::new();
    for shape in [ALTERNATING, DUAL, IN_PLACE] {
        let (one, _) = meet_foreign_writer(&world, shape, false).await;
        let two = superseded(&world, shape).await;
        for subject in [one, two] {
            let candidate = world.run(&subject).await.candidate.expect("a candidate");
            let ending = world.process(&[&subject]).decide(&subject, Decision::SetBoth).await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            assert_eq!(world.in_force(&subject).await, candidate);
            assert!(world.database.accepts(&candidate));
            subject.checker.store_is_foreign(false);
            subject.checker.at_rest().await;
        }
    }
}

#[tokio::test]
async fn what_the_store_holds_is_kept() {
    let world = World::new();
    for shape in [ALTERNATING, DUAL, IN_PLACE] {
        // The value that the rotation began with.
        let subject = superseded(&world, shape).await;
        let (before, candidate) =
            (world.in_force(&subject).await, world.run(&subject).await.candidate.expect("a candidate"));
        let ending = world.process(&[&subject]).decide(&subject, Decision::KeepCurrent).await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert_eq!(world.in_force(&subject).await, before);
        assert!(world.database.accepts(&before) && !world.database.accepts(&candidate));
        subject.checker.at_rest().await;
        let ending = world.process(&[&subject]).rotate(&subject, "next").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        subject.checker.at_rest().await;

        // One that somebody else wrote: only if the target accepts it.
        let (subject, foreign) = meet_foreign_writer(&world, shape, false).await;
        let candidate = world.run(&subject).await.candidate.expect("a candidate");
        let ending = world.process(&[&subject]).decide(&subject, Decision::KeepCurrent).await;
        assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
        assert_eq!(world.status(&subject).await.state, State::InDoubt);
        subject.checker.by_hand(&foreign);
        world.database.set(&foreign);
        let ending = world.process(&[&subject]).decide(&subject, Decision::KeepCurrent).await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert!(ending.message.contains("its readers were not told"), "{ending:?}");
        let found = world.current(&subject).await.map(|(credential, _)| credential);
        assert_eq!(found.as_ref(), Some(&foreign));
        assert!(world.database.accepts(&foreign) && !world.database.accepts(&candidate));
        assert_eq!(world.status(&subject).await.problem, None, "it counts as somebody else's still");
        let ending = world.process(&[&subject]).rotate(&subject, "next").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        subject.checker.store_is_foreign(false);
        assert!(!world.database.accepts(&foreign));
        subject.checker.at_rest().await;
    }
}

/// A decision is one write: dying at any call, the rotation is still frozen or goes the way that was decided.
#[tokio::test]
async fn a_death_while_a_decision_is_taken_loses_nothing() {
    let world = World::new();
    for shape in [ALTERNATING, DUAL, IN_PLACE] {
        for decision in [Decision::KeepCurrent, Decision::SetBoth] {
            for fault in [Fault::DieBefore, Fault::DieAfter] {
                for call in 0..12 {
                    let subject = superseded(&world, shape).await;
                    let process = world.process(&[&subject]);
                    process.script.at(call, fault);
                    process.run(process.decide(&subject, decision)).await;
                    if world.status(&subject).await.state == State::InDoubt {
                        world.process(&[&subject]).decide(&subject, decision).await;
                    }
                    world.settle(&subject).await;
                    subject.checker.at_rest().await;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_in_doubt_is_not_decided() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    for decision in [Decision::KeepCurrent, Decision::UseCandidate, Decision::SetBoth] {
        let ending = world.process(&[&subject]).decide(&subject, decision).await;
        assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
        assert!(ending.message.contains("it is not in doubt"), "{ending:?}");
    }
    world.settle(&subject).await;
    subject.checker.at_rest().await;
}
