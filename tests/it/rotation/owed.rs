//! What is told of a containment that came to nothing, until it is done or somebody gives it up by name.

use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::ledger::{Outcome, Record, TriggerKind};
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::service::{Attention, EndingKind};
use rekeyd::status::State;

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World};

const ALTERNATING: Shape = Shape::new(Strategy::Alternating);

/// A policy that owes a containment, and the process that tried it.
async fn owing(world: &World) -> (Subject, Process) {
    let subject = world.subject(ALTERNATING);
    world.begin(&subject).await;
    let process = world.process(&[&subject]);
    fail(&process);
    let ending = process.contain(&subject, "leak").await;
    assert!(ending.remedy.is_some_and(|remedy| remedy.contains("is owed")));
    assert_eq!(world.status(&subject).await.state, State::Owing);
    (subject, process)
}

fn fail(process: &Process) {
    process.script.next("target.install", 1, Fault::Fail(FailureClass::Denied));
}

fn is_owed(process: &Process, subject: &Subject) -> bool {
    process.hub.known().get(subject.policy.name()).is_some_and(|known| known.owed)
}

/// Who asked for what was given up, and who gave it up.
fn given_up(process: &Process) -> Vec<(String, String, String)> {
    let told = process.events().into_iter().filter_map(|event| match event.what {
        What::GivenUp { request, requested_by, by } => Some((request.to_string(), requested_by, by)),
        _ => None,
    });
    told.collect()
}

fn is_given_up(record: &Record) -> bool {
    let is_told = record.failure.as_ref().is_some_and(|failure| {
        failure.contains("the containment that a test asked for is given up") && failure.contains("is alive")
    });
    (record.trigger, record.request.to_string().as_str()) == (TriggerKind::Contain, "leak")
        && record.outcome != Outcome::Rotated
        && is_told
}

#[tokio::test]
async fn dashboards_tell_of_it_until_it_is_done() {
    let world = World::new();
    let (subject, process) = owing(&world).await;
    assert!(is_owed(&process, &subject));
    // So does a daemon that starts now, also while it is tried again.
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::Pause);
    let watching = async {
        process.script.paused().await;
        assert!(is_owed(&process, &subject));
        fail(&process);
        process.script.let_go();
    };
    tokio::join!(process.attend(&subject), watching);
    process.attend(&subject).await;
    assert!(!is_owed(&process, &subject));
    assert_eq!(world.status(&subject).await.state, State::Ready);
}

#[tokio::test]
async fn who_gives_it_up_is_on_record() {
    let faults = [
        None,
        Some(("store.save", Fault::AnswerLost)),
        Some(("store.save", Fault::DieAfter)),
        Some(("ledger.append", Fault::Fail(FailureClass::Unavailable))),
    ];
    for fault in faults {
        let world = World::new();
        let (subject, mut process) = owing(&world).await;
        if let Some((call, fault)) = fault {
            process.script.next(call, 1, fault);
        }
        match process.run(process.abandon(&subject)).await {
            Some(ending) => {
                assert_eq!(ending.ending, EndingKind::Abandoned, "{fault:?}: {ending:?}");
                assert!(ending.message.contains("given up by a test"), "{ending:?}");
                assert!(ending.remedy.is_some_and(|remedy| remedy.contains("rekeyd contain")));
                assert_eq!(given_up(&process), [("leak".into(), "a test".into(), "a test".into())]);
                assert!(!is_owed(&process, &subject));
            }
            None => process = world.process(&[&subject]),
        }
        // Whoever looks next records it, where that is left.
        process.attend(&subject).await;
        let records = subject.checker.at_rest().await;
        assert_eq!(records.len(), 3, "{fault:?}");
        assert!(is_given_up(&records[2]) && records[2].outcome == Outcome::Abandoned, "{records:?}");
        assert_eq!(process.abandon(&subject).await.ending, EndingKind::Failed, "there is nothing to give up");
        // It may be asked for again.
        assert_eq!(process.contain(&subject, "leak").await.ending, EndingKind::Rotated);
    }
}

/// Somebody rotates, which would have done it, and gives that up.
#[tokio::test]
async fn who_gives_up_what_took_it_over_is_told_what_that_is() {
    for call in ["target.install", "ledger.append"] {
        let world = World::new();
        let (subject, _) = owing(&world).await;
        let process = world.process(&[&subject]);
        if call == "ledger.append" {
            // It is on its way back by itself.
            fail(&process);
        }
        process.script.next(call, 1, Fault::DieBefore);
        assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
        let process = world.process(&[&subject]);
        let ending = process.abandon(&subject).await;
        assert!(ending.record.as_deref().is_some_and(is_given_up), "{call}: {ending:?}");
        assert!(ending.message.contains("what leaked is alive"), "{call}: {ending:?}");
        assert!(ending.remedy.is_some_and(|remedy| remedy.contains("rekeyd contain")));
        assert_eq!(given_up(&process).len(), 1);
        assert!(!is_owed(&process, &subject));
        assert_eq!(world.status(&subject).await.state, State::Ready, "{call}");
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_policy_that_is_gone_owes_it_still() {
    let world = World::new();
    let (subject, _) = owing(&world).await;
    let name = subject.policy.name();
    let process = world.process(&[]);
    for only in [None, Some(name)] {
        let statuses = process.service.status(only).await.expect("it is listed");
        assert_eq!((&statuses[0].policy, statuses[0].state), (name, State::Owing));
        let problem = statuses[0].problem.as_ref().expect("a problem");
        assert!(problem.what.contains("its policy is gone"), "{problem:?}");
    }
    assert_eq!(process.service.orphans().await, std::slice::from_ref(name));
    assert_eq!(process.attend(&subject).await, Attention::Idle);
    process.hub.retain(|_| false);
    assert!(is_owed(&process, &subject));

    let ending = process.resume(&subject).await;
    assert!(
        ending.ending == EndingKind::Failed && ending.message.contains("its policy is gone"),
        "{ending:?}"
    );
    assert!(ending.remedy.is_some_and(|remedy| remedy.contains("--abandon")));
    let ending = process.abandon(&subject).await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert_eq!(given_up(&process).len(), 1);
    assert!(subject.checker.at_rest().await.last().is_some_and(is_given_up));
    assert_eq!(process.service.status(None).await.expect("a list"), []);
    process.attend(&subject).await;
    assert!(process.hub.known().is_empty());
}

/// A containment that comes while a key is left to its end does not wait for the next look.
#[tokio::test]
async fn a_key_that_is_left_to_its_end_is_taken_out_at_once() {
    let world = World::new();
    let subject = world.subject(Shape::new(Strategy::DualKey));
    world.begin(&subject).await;
    world.database.turn(|knobs| knobs.lapses = true);
    let leaked = world.in_force(&subject).await;
    let (waiting, dying) = (world.process(&[&subject]), world.process(&[&subject]));
    world.look_away();
    let waits = |process: &Process| {
        process.events().iter().any(|event| matches!(event.what, What::Waiting { step: Step::Retire, .. }))
    };
    let contained = async {
        while !waits(&waiting) {
            tokio::task::yield_now().await;
        }
        // In the middle of its next look.
        waiting.script.next("store.control", 1, Fault::Pause);
        waiting.script.paused().await;
        let asked = world.now();
        dying.script.next("store.save", 1, Fault::DieAfter);
        assert!(dying.run(dying.contain(&subject, "leak")).await.is_none());
        waiting.script.let_go();
        while world.database.accepts(&leaked) {
            tokio::task::yield_now().await;
        }
        world.now().duration_since(asked)
    };
    let (_, took) = tokio::join!(waiting.rotate(&subject, "asked"), contained);
    assert!(Duration::try_from(took).is_ok_and(|took| took < Duration::from_secs(1)), "{took}");
    world.settle(&subject).await;
    subject.checker.at_rest().await;
}
