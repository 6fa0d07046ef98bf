//! Leaks: every value that somebody may hold is refused, whatever else is under way and whoever dies.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::ledger::{Outcome, Record, TriggerKind};
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::service::EndingKind;
use rekeyd::status::State;

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World, credential, is_contained};

const ALTERNATING: Shape = Shape::new(Strategy::Alternating);
const IN_PLACE: Shape = Shape::new(Strategy::InPlace);
const GENERATED: Shape = Shape::new(Strategy::Generated);

async fn managed(world: &World, shape: Shape) -> Subject {
    let subject = world.subject(shape);
    world.begin(&subject).await;
    subject
}

/// The steps that were done, in order.
fn done(process: &Process) -> Vec<Step> {
    let steps = process.events().into_iter().filter_map(|event| match event.what {
        What::Done { step, .. } => Some(step),
        _ => None,
    });
    steps.collect()
}

fn answers(record: &Record, request: &str) -> bool {
    record.request.to_string() == request && is_contained(record) && record.outcome == Outcome::Rotated
}

#[tokio::test]
async fn sessions_are_closed_at_once_and_the_time_is_on_record() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        for cuts in [false, true] {
            let subject = managed(&world, Shape { cuts, grace: "1h", ..shape }).await;
            let leaked = world.in_force(&subject).await;
            let thief = world.database.log_in(&leaked, "a thief").expect("a session");
            let before = world.now();
            let process = world.process(&[&subject]);
            let ending = process.contain(&subject, "leak").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            assert!(!world.database.lives(thief));
            assert!(!world.database.accepts(&leaked));
            assert!(world.now().duration_since(before).as_secs() < 5, "it waited for a grace");
            let records = subject.checker.at_rest().await;
            let record = records.last().expect("a record");
            assert!(answers(record, "leak"));
            assert!(record.contained_ms.is_some());
            assert_eq!((record.proof.sessions_closed, record.proof.old_refused), (1, Some(true)));
            let steps = done(&process);
            let at = |step| steps.iter().position(|each| *each == step).expect("the step was done");
            assert_eq!(at(Step::Prove) < at(Step::Publish), cuts, "{steps:?}");
        }
    }
}

#[tokio::test]
async fn a_reader_that_fails_puts_the_cut_off_to_the_deadline_and_no_further() {
    use FailureClass::{Conflict, Denied, Invalid, Unavailable};
    let world = World::new();
    let faults =
        [Unavailable, Denied, Invalid, Conflict].map(|class| [(ALTERNATING, class), (IN_PLACE, class)]);
    for (shape, class) in faults.into_iter().flatten() {
        let subject = managed(&world, shape).await;
        let leaked = world.in_force(&subject).await;
        let asked = world.now();
        let process = world.process(&[&subject]);
        process.script.next("consumer.publish", usize::MAX, Fault::Fail(class));
        let ending = process.contain(&subject, "leak").await;
        assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
        assert!(!world.database.accepts(&leaked));
        let cut = cut_after(&process, asked);
        assert!(cut.is_some_and(|seconds| (60..=61).contains(&seconds)), "cut after {cut:?} seconds");
        assert!(!done(&process).contains(&Step::Close));

        world.settle(&subject).await;
        let records = subject.checker.at_rest().await;
        assert!(answers(records.last().expect("a record"), "leak"));
    }
}

/// Seconds from a moment to the proof that the old value is dead.
fn cut_after(process: &Process, asked: jiff::Timestamp) -> Option<i64> {
    process.events().into_iter().find_map(|event| match event.what {
        What::Done { step: Step::Prove, .. } => Some(event.at.duration_since(asked).as_secs()),
        _ => None,
    })
}

#[tokio::test]
async fn asking_again_does_not_put_the_cut_off() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        for step in ["store.promote", "consumer.publish"] {
            let subject = managed(&world, shape).await;
            let leaked = world.in_force(&subject).await;
            let asked = world.now();
            let process = world.process(&[&subject]);
            process.script.next(step, 1, Fault::DieBefore);
            assert!(process.run(process.contain(&subject, "leak")).await.is_none());
            world.clock.advance(Duration::from_secs(45));
            let process = world.process(&[&subject]);
            process.script.next("consumer.publish", usize::MAX, Fault::Fail(FailureClass::Unavailable));
            process.contain(&subject, "again").await;
            assert!(!world.database.accepts(&leaked));
            let cut = cut_after(&process, asked);
            assert!(
                cut.is_some_and(|seconds| (60..=61).contains(&seconds)),
                "{step}: cut after {cut:?} seconds"
            );
            world.settle(&subject).await;
            subject.checker.at_rest().await;
        }
    }
}

/// The command hangs for longer than the deadline; it must not take the cut with it.
#[tokio::test]
async fn a_reader_that_hangs_is_left_at_the_deadline() {
    let world = World::new();
    let reload = Some("if test -e FOLDER/hang; then sleep 20; fi");
    let subject = managed(&world, Shape { reload, deadline: "1s", ..ALTERNATING }).await;
    std::fs::write(world.path("hang"), "").expect("a file");
    let leaked = world.in_force(&subject).await;
    let process = world.process(&[&subject]);
    let began = std::time::Instant::now();
    let cut = async {
        while world.database.accepts(&leaked) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ending = process.contain(&subject, "leak") => panic!("it ended: {ending:?}"),
        () = cut => {}
    }
    assert!(began.elapsed() < Duration::from_secs(10), "the cut waited for the command");
    std::fs::remove_file(world.path("hang")).expect("a file");
    world.settle(&subject).await;
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn what_is_open_and_unpublished_becomes_the_containment() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, GENERATED] {
        let shape = Shape { schedule: Some("0 * * * *"), ..shape };
        let subject = managed(&world, shape).await;
        world.clock.advance(Duration::from_secs(3600));
        let process = world.process(&[&subject]);
        process.script.next("store.promote", 1, Fault::DieBefore);
        assert!(process.run(process.attend(&subject)).await.is_none());
        let candidate = world.run(&subject).await.candidate.expect("a candidate");

        let ending = world.process(&[&subject]).contain(&subject, "leak").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        assert_eq!(world.in_force(&subject).await, candidate);
        let records = subject.checker.at_rest().await;
        assert_eq!(records.len(), 2);
        assert!(answers(&records[1], "leak"));
        // The time of the schedule is handled as well.
        let process = world.process(&[&subject]);
        process.attend(&subject).await;
        assert_eq!(subject.checker.at_rest().await.len(), 2);
        let again = process.contain(&subject, "leak").await;
        assert_eq!(again.ending, EndingKind::Repeated, "{again:?}");
    }
}

#[tokio::test]
async fn what_was_published_is_finished_and_replaced() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, GENERATED] {
        let subject = managed(&world, shape).await;
        publish_and_die(&world, &subject).await;
        let maybe_leaked = world.in_force(&subject).await;
        let process = world.process(&[&subject]);
        let ending = process.contain(&subject, "leak").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        assert!(!world.database.accepts(&maybe_leaked));
        let records = subject.checker.at_rest().await;
        assert_eq!(records.len(), 3);
        assert!(answers(&records[2], "leak"));
        assert_eq!(records[1].request.to_string(), "asked");
    }
}

/// A rotation that is published, and nobody drives.
async fn publish_and_die(world: &World, subject: &Subject) {
    let process = world.process(&[subject]);
    process.script.next("consumer.reload", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(subject, "asked")).await.is_none());
}

/// Whoever contains may die between the rotation it finishes and its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_of_what_was_published_survives_deaths() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, GENERATED] {
        let subject = managed(&world, shape).await;
        publish_and_die(&world, &subject).await;
        let process = world.process(&[&subject]);
        process.contain(&subject, "leak").await;
        let calls = process.script.calls();
        // From the call on that makes the request durable.
        let durable = calls.iter().position(|call| *call == "store.save").expect("an amendment");
        for (index, call) in calls.iter().enumerate().skip(durable) {
            for fault in [Fault::DieBefore, Fault::DieAfter] {
                // To die before a call is to die after the one before; once round is enough.
                let skipped = fault == Fault::DieBefore && (shape.strategy != Strategy::Alternating);
                if skipped || (index, fault) == (durable, Fault::DieBefore) {
                    continue;
                }
                let subject = managed(&world, shape).await;
                publish_and_die(&world, &subject).await;
                let process = world.process(&[&subject]);
                process.script.at(index, fault);
                process.run(process.contain(&subject, "leak")).await;
                world.settle(&subject).await;
                let records = subject.checker.at_rest().await;
                let answer = records.iter().filter(|record| answers(record, "leak")).count();
                assert_eq!(answer, 1, "{shape:?}: {fault:?} at call {index}, {call}: {records:?}");
                let again = world.process(&[&subject]).contain(&subject, "leak").await;
                assert_eq!(again.ending, EndingKind::Repeated, "{again:?}");
            }
        }
    }
}

/// A reader is down, so the rotation that was open cannot be finished: the containment is not forgotten.
#[tokio::test]
async fn a_containment_that_is_stuck_behind_a_rotation_follows_it() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    publish_and_die(&world, &subject).await;
    let maybe_leaked = world.in_force(&subject).await;
    let process = world.process(&[&subject]);
    process.script.next("consumer.reload", usize::MAX, Fault::Fail(FailureClass::Unavailable));
    let ending = process.contain(&subject, "leak").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    let ending = world.process(&[&subject]).resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(answers(ending.record.as_ref().expect("a record"), "leak"), "{ending:?}");
    assert!(!world.database.accepts(&maybe_leaked));
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn whoever_rotates_next_does_the_containment_that_is_owed() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    owe(&world, &subject).await;
    let status = world.status(&subject).await;
    let problem = status.problem.expect("a problem");
    assert!(problem.what.contains("containment") && problem.remedy.is_some(), "{problem:?}");

    let maybe_leaked = world.in_force(&subject).await;
    world.database.log_in(&maybe_leaked, "a thief").expect("a session");
    let ending = world.process(&[&subject]).rotate(&subject, "another").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    let records = subject.checker.at_rest().await;
    assert_eq!(records.len(), 3);
    assert!(answers(&records[2], "leak"), "{records:?}");
    assert_eq!(world.status(&subject).await.problem, None);
    for request in ["leak", "another"] {
        let again = world.process(&[&subject]).contain(&subject, request).await;
        assert_eq!(again.ending, EndingKind::Repeated, "{again:?}");
    }
}

/// What cannot be done now is not forgotten: who asked for it believes that what leaked is dead.
#[tokio::test]
async fn a_containment_that_comes_to_nothing_is_owed_until_it_is_done() {
    for (strategy, call) in [(Strategy::Alternating, "target.install"), (Strategy::DualKey, "target.mint")] {
        let world = World::new();
        let subject = managed(&world, Shape::new(strategy)).await;
        let leaked = world.in_force(&subject).await;
        let process = world.process(&[&subject]);
        process.script.next(call, 1, Fault::Fail(FailureClass::Conflict));
        let ending = process.contain(&subject, "leak").await;
        assert!(
            ending.record.as_ref().is_some_and(|record| record.outcome != Outcome::Rotated),
            "{ending:?}"
        );
        assert!(ending.remedy.is_some_and(|remedy| remedy.contains("is owed")));
        assert_eq!(world.status(&subject).await.state, State::Owing);

        // Whoever attends to it next finds it owed, again and again.
        process.script.next(call, 1, Fault::Fail(FailureClass::Conflict));
        process.attend(&subject).await;
        assert_eq!(world.status(&subject).await.state, State::Owing);
        assert!(world.database.accepts(&leaked));
        process.attend(&subject).await;
        assert_eq!(world.status(&subject).await.state, State::Ready);
        assert!(!world.database.accepts(&leaked));
        let records = subject.checker.at_rest().await;
        assert!(answers(records.last().expect("a record"), "leak"), "{records:?}");
        let again = process.contain(&subject, "leak").await;
        assert_eq!(again.ending, EndingKind::Repeated, "{again:?}");
    }
}

#[tokio::test]
async fn a_containment_that_is_owed_can_be_given_up() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::Fail(FailureClass::Denied));
    process.contain(&subject, "leak").await;
    let ending = process.abandon(&subject).await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert!(ending.message.contains("given up by a test"), "{ending:?}");
    assert_eq!(world.status(&subject).await.state, State::Ready);
    assert_eq!(process.abandon(&subject).await.ending, EndingKind::Failed, "there is nothing to give up");

    // So can one that is under way, whether it was owed before or not.
    for owed in [false, true] {
        if owed {
            process.script.next("target.install", 1, Fault::Fail(FailureClass::Denied));
            process.contain(&subject, "leak").await;
        }
        let dying = world.process(&[&subject]);
        dying.script.next("target.install", 1, Fault::DieBefore);
        assert!(dying.run(dying.contain(&subject, "leak")).await.is_none());
        let ending = process.abandon(&subject).await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert_eq!(world.status(&subject).await.state, State::Ready, "owed: {owed}");
    }
    let records = subject.checker.at_rest().await;
    assert!(records.iter().skip(1).all(|record| record.outcome != Outcome::Rotated), "{records:?}");
}

/// A containment whose process died when it had finished what was open.
async fn owe(world: &World, subject: &Subject) {
    publish_and_die(world, subject).await;
    let process = world.process(&[subject]);
    let closing = async {
        let ending = process.contain(subject, "leak").await;
        panic!("it did not die: {ending:?}");
    };
    process.script.next("ledger.append", 1, Fault::Pause);
    let dying = async {
        process.script.paused().await;
        process.script.next("store.save", 1, Fault::DieAfter);
        process.script.let_go();
        std::future::pending::<()>().await;
    };
    let both = async { tokio::join!(closing, dying) };
    assert!(process.run(both).await.is_none());
}

/// Finishing what an adoption began does not answer a leak of the very value.
#[tokio::test]
async fn an_adoption_does_not_answer_a_containment() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, GENERATED] {
        let subject = world.subject(shape);
        let live = credential(&subject, 0, "chosen-by-hand-long-ago");
        subject.checker.by_hand(&live);
        world.database.set(&live);
        let process = world.process(&[&subject]);
        process.script.next("store.promote", 1, Fault::DieBefore);
        assert!(process.run(process.adopt(&subject, &live, false)).await.is_none());
        let ending = world.process(&[&subject]).contain(&subject, "leak").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        if shape.strategy != Strategy::Generated {
            assert!(!world.database.accepts(&live), "{shape:?}: the leaked value works");
        }
        let records = subject.checker.at_rest().await;
        let kinds: Vec<TriggerKind> = records.iter().map(|record| record.trigger).collect();
        assert_eq!(kinds, [TriggerKind::Adopt, TriggerKind::Contain]);
    }
}

#[tokio::test]
async fn a_grace_ends_when_a_containment_comes() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        let subject = managed(&world, Shape { grace: "600s", ..shape }).await;
        let old = world.in_force(&subject).await;
        let reader = world.database.log_in(&old, "a reader").expect("a session");
        let waiting = world.process(&[&subject]);
        let containing = world.process(&[&subject]);
        world.look_away();
        let asked = world.now();
        // Another process contains while this one waits out the grace.
        let contained = async {
            while !waiting.events().iter().any(|event| matches!(event.what, What::Waiting { .. })) {
                tokio::task::yield_now().await;
            }
            containing.contain(&subject, "leak").await
        };
        let (waited, contained) = tokio::join!(waiting.rotate(&subject, "asked"), contained);
        assert!(matches!(contained.ending, EndingKind::Rotated), "{contained:?}");
        assert!(matches!(waited.ending, EndingKind::Rotated | EndingKind::Open), "{waited:?}");
        assert!(!world.database.lives(reader));
        assert!(world.now().duration_since(asked).as_secs() < 300, "the grace went on");
        world.settle(&subject).await;
        let records = subject.checker.at_rest().await;
        assert_eq!(records.len(), 3);
        assert!(answers(&records[2], "leak"));
    }
}

#[tokio::test]
async fn two_containments_at_once_are_both_answered() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, GENERATED] {
        for _ in 0..5 {
            let subject = managed(&world, shape).await;
            let (one, two) = (world.process(&[&subject]), world.process(&[&subject]));
            world.look_away();
            let endings = tokio::join!(one.contain(&subject, "one"), two.contain(&subject, "two"));
            for ending in [&endings.0, &endings.1] {
                // Left open: the other one held the reader's file for all of this one's patience, which
                // passes at once here.
                let fine = [EndingKind::Rotated, EndingKind::Repeated, EndingKind::Open];
                assert!(fine.contains(&ending.ending), "{endings:?}");
            }
            world.settle(&subject).await;
            let records = subject.checker.at_rest().await;
            assert!(records[1..].iter().all(is_contained), "{records:?}");
            for request in ["one", "two"] {
                let again = world.process(&[&subject]).contain(&subject, request).await;
                assert_eq!(again.ending, EndingKind::Repeated, "{again:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_frozen_rotation_is_not_forced_and_the_containment_follows_its_resumption() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let spare = subject.policy.principals()[1].clone();
    world.database.raise_fence(&spare, subject.policy.name(), rekeyd::ident::Fence::new(9));
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    let ending = world.process(&[&subject]).contain(&subject, "leak").await;
    assert_eq!((ending.ending, ending.ending.exit_code()), (EndingKind::InDoubt, 3), "{ending:?}");
    let ending = world.process(&[&subject]).resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    let records = subject.checker.at_rest().await;
    assert!(answers(records.last().expect("a record"), "leak"), "{records:?}");
}

#[tokio::test]
async fn drift_stops_a_rotation_and_no_containment() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        for deleted in [false, true] {
            let subject = managed(&world, shape).await;
            let leaked = world.in_force(&subject).await;
            let thief = world.database.log_in(&leaked, "a thief").expect("a session");
            subject.checker.store_is_foreign(true);
            if deleted {
                world.delete(&subject);
            } else {
                world.overwrite(&subject, &credential(&subject, 0, "written-by-somebody-else")).await;
            }
            let process = world.process(&[&subject]);
            let ending = process.rotate(&subject, "asked").await;
            assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
            assert!(ending.remedy.is_some_and(|remedy| remedy.contains("adopt --replace")));
            assert!(world.database.accepts(&leaked), "something was changed");
            assert!(world.status(&subject).await.problem.is_some());

            let ending = process.contain(&subject, "leak").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            assert!(!world.database.accepts(&leaked), "{shape:?} {deleted}: the leaked value works");
            assert!(!world.database.lives(thief));
            subject.checker.store_is_foreign(false);
            subject.checker.at_rest().await;
            let ending = process.rotate(&subject, "again").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            subject.checker.at_rest().await;
        }
    }
}

/// Whoever reports a leak may quote what leaked.
#[tokio::test]
async fn a_reason_that_quotes_the_value_is_withheld_and_holds_nothing_up() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let leaked = world.in_force(&subject).await;
    let reason = format!("found {} in a log", leaked.value.expose_str().expect("text"));
    let ending = world.process(&[&subject]).contain_because(&subject, "leak", &reason).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    let records = subject.checker.at_rest().await;
    assert!(records[1].reason.as_ref().is_some_and(|reason| reason.contains("withheld")));
}
