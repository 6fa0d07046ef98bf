//! Two processes on one policy, without knowing of each other. One stands still before a call while the
//! other works, and then goes on with what it knew: a daemon that lost its claim and does not know it.

use std::sync::Arc;

use rekeyd::failure::FailureClass;
use rekeyd::ledger::Outcome;
use rekeyd::rotation::plan::Strategy;
use rekeyd::service::EndingKind;

use crate::world::faults::Fault;
use crate::world::{Shape, Subject, World};

/// What the other process does in the meantime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// Finishes the rotation.
    Finish,
    /// Finishes it, and rotates twice more, so that every user was changed again.
    GoOn,
    /// Gives it up, if that is still possible, and finishes it otherwise.
    GiveUp,
    /// Contains a leak.
    Contain,
}

async fn managed(world: &World, strategy: Strategy) -> Subject {
    let subject = world.subject(Shape { grace: "1s", ..Shape::new(strategy) });
    world.begin(&subject).await;
    subject
}

/// A process stands still before each of its calls in turn.
async fn stand_still(strategy: Strategy, meanwhile: Meanwhile) {
    let world = World::new();
    let subject = managed(&world, strategy).await;
    let process = world.process(&[&subject]);
    assert_eq!(process.rotate(&subject, "asked").await.ending, EndingKind::Rotated);
    let calls = process.script.calls();
    for (index, call) in calls.iter().enumerate() {
        let at = format!("{strategy:?}, {meanwhile:?} before call {index}, {call} of {calls:?}");
        let subject = managed(&world, strategy).await;
        let sleeper = world.process(&[&subject]);
        sleeper.script.at(index, Fault::Pause);
        let other = async {
            sleeper.script.paused().await;
            work(&world, &subject, meanwhile).await;
            sleeper.script.let_go();
        };
        let (ending, ()) = tokio::join!(sleeper.rotate(&subject, "asked"), other);
        world.settle(&subject).await;
        let records = subject.checker.at_rest().await;
        let rotated = records.iter().filter(|record| record.outcome == Outcome::Rotated).count();
        let expected = match meanwhile {
            Meanwhile::GoOn => 4..=4,
            Meanwhile::Finish => 2..=2,
            // Given up before the rotation was opened: nothing was there to give up.
            Meanwhile::GiveUp => 1..=2,
            Meanwhile::Contain => 2..=3,
        };
        assert!(expected.contains(&rotated), "{at}: {ending:?} {records:?}");
        if meanwhile == Meanwhile::Contain {
            assert!(records.iter().any(|record| record.request.to_string() == "leak"), "{at}: {records:?}");
        }
    }
    subject.checker.ledger_is_whole().await;
}

async fn work(world: &World, subject: &Subject, meanwhile: Meanwhile) {
    let process = world.process(&[subject]);
    match meanwhile {
        Meanwhile::Finish => {
            process.attend(subject).await;
        }
        Meanwhile::GoOn => {
            process.attend(subject).await;
            for request in ["second", "third"] {
                let ending = process.rotate(subject, request).await;
                assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            }
        }
        Meanwhile::GiveUp => {
            let ending = process.abandon(subject).await;
            if ending.ending == EndingKind::Failed {
                process.attend(subject).await;
            }
        }
        Meanwhile::Contain => {
            let ending = process.contain(subject, "leak").await;
            assert!(
                matches!(ending.ending, EndingKind::Rotated | EndingKind::Repeated),
                "a containment failed: {ending:?}"
            );
        }
    }
}

macro_rules! stand_stills {
    ($($test:ident: $strategy:ident $meanwhile:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            stand_still(Strategy::$strategy, Meanwhile::$meanwhile).await;
        }
    )+};
}

stand_stills! {
    a_sleeper_on_a_pair_that_was_finished: Alternating Finish;
    a_sleeper_on_a_pair_that_went_on: Alternating GoOn;
    a_sleeper_on_a_pair_that_was_given_up: Alternating GiveUp;
    a_sleeper_on_a_pair_that_was_contained: Alternating Contain;
    a_sleeper_in_place_that_was_finished: InPlace Finish;
    a_sleeper_in_place_that_went_on: InPlace GoOn;
    a_sleeper_in_place_that_was_given_up: InPlace GiveUp;
    a_sleeper_in_place_that_was_contained: InPlace Contain;
    a_sleeper_on_two_values_that_were_finished: DualPassword Finish;
    a_sleeper_on_two_values_that_went_on: DualPassword GoOn;
    a_sleeper_on_two_values_that_were_given_up: DualPassword GiveUp;
    a_sleeper_on_two_values_that_were_contained: DualPassword Contain;
    a_sleeper_on_a_key_that_was_finished: DualKey Finish;
    a_sleeper_on_a_key_that_went_on: DualKey GoOn;
    a_sleeper_on_a_key_that_was_given_up: DualKey GiveUp;
    a_sleeper_on_a_key_that_was_contained: DualKey Contain;
    a_sleeper_on_a_generated_that_was_finished: Generated Finish;
    a_sleeper_on_a_generated_that_went_on: Generated GoOn;
    a_sleeper_on_a_generated_that_was_given_up: Generated GiveUp;
    a_sleeper_on_a_generated_that_was_contained: Generated Contain;
}

/// The one who gives up stands still, and the other promotes: whoever took the candidate back then would
/// lock its readers out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_came_into_force_is_not_given_up() {
    let world = World::new();
    for strategy in [Strategy::Alternating, Strategy::InPlace, Strategy::DualKey, Strategy::Generated] {
        for index in 0..12 {
            let subject = managed(&world, strategy).await;
            let first = world.process(&[&subject]);
            let before = if strategy == Strategy::Generated { "store.promote" } else { "target.probe" };
            first.script.next(before, 1, Fault::DieBefore);
            assert!(first.run(first.rotate(&subject, "asked")).await.is_none());

            let quitter = world.process(&[&subject]);
            quitter.script.at(index, Fault::Pause);
            let mut quit = std::pin::pin!(quitter.abandon(&subject));
            tokio::select! {
                // It may end without coming so far.
                _ = &mut quit => {}
                () = quitter.script.paused() => {
                    world.process(&[&subject]).attend(&subject).await;
                    quitter.script.let_go();
                    quit.await;
                }
            }
            world.settle(&subject).await;
            subject.checker.at_rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_rotate_at_once_rotate_once_or_one_after_the_other() {
    let world = Arc::new(World::new());
    for strategy in [Strategy::Alternating, Strategy::InPlace, Strategy::Generated] {
        for _ in 0..8 {
            let subject = Arc::new(managed(&world, strategy).await);
            let racers = ["one", "two", "one"].map(|request| {
                let (process, subject) = (world.process(&[&subject]), Arc::clone(&subject));
                world.look_away();
                tokio::spawn(async move { process.rotate(&subject, request).await })
            });
            for racer in racers {
                let ending = racer.await.expect("no panic");
                let fine = match ending.ending {
                    EndingKind::Rotated | EndingKind::Repeated | EndingKind::Open => true,
                    EndingKind::Failed => ending.message.contains("is open since"),
                    _ => false,
                };
                assert!(fine, "{ending:?}");
            }
            world.settle(&subject).await;
            let records = subject.checker.at_rest().await;
            assert!((2..=3).contains(&records.len()), "{records:?}");
        }
    }
}

/// A first value: its promotion fails, the word that nobody creates it any more arrives and its answer does not.
/// Whoever reads that word may go back, and whoever sent it must not go on as if it had not.
#[tokio::test]
async fn a_first_value_is_not_created_once_others_may_go_back() {
    let promotion = {
        let world = World::new();
        let subject = world.subject(Shape::new(Strategy::Alternating));
        let process = world.process(&[&subject]);
        process.rotate(&subject, "dry-run").await;
        process.script.calls().iter().position(|call| *call == "store.promote").expect("it is promoted")
    };
    let world = World::new();
    let subject = world.subject(Shape::new(Strategy::Alternating));
    let process = world.process(&[&subject]);
    process.script.at(promotion, Fault::Fail(FailureClass::Unavailable));
    process.script.at(promotion + 1, Fault::AnswerLost);
    process.script.at(promotion + 2, Fault::Pause);
    let other = async {
        process.script.paused().await;
        world.look_away();
        let ending = world.process(&[&subject]).abandon(&subject).await;
        process.script.let_go();
        ending
    };
    let (first, abandoned) = tokio::join!(process.rotate(&subject, "first"), other);
    assert_ne!(first.ending, EndingKind::Rotated, "{first:?}");
    assert!(abandoned.message.contains("abandoned"), "{abandoned:?}");
    assert!(world.current(&subject).await.is_none(), "a value is in force that the target refuses");
    world.settle(&subject).await;
    subject.checker.at_rest().await;
}
