//! What the service does around the engine: one rotation of a policy at a time, what is due by itself,
//! what a broken document leaves in force, what dashboards are told.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::service::{Attention, Catalog, EndingKind, Hindrance};
use rekeyd::status::State;

use crate::world::faults::Fault;
use crate::world::{Shape, Subject, World};

const ALTERNATING: Shape = Shape::new(Strategy::Alternating);
const HOURLY: Shape = Shape { schedule: Some("0 * * * *"), ..ALTERNATING };

async fn managed(world: &World, shape: Shape) -> Subject {
    let subject = world.subject(shape);
    world.begin(&subject).await;
    subject
}

#[tokio::test]
async fn a_second_rotation_is_told_that_one_is_running() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::Pause);
    let second = async {
        process.script.paused().await;
        let ending = process.rotate(&subject, "second").await;
        assert_eq!(process.attend(&subject).await, Attention::Later(Hindrance::InTheWay));
        process.script.let_go();
        ending
    };
    let (first, second) = tokio::join!(process.rotate(&subject, "first-of-two"), second);
    assert_eq!(first.ending, EndingKind::Rotated, "{first:?}");
    assert_eq!(second.ending, EndingKind::Failed, "{second:?}");
    assert!(second.message.contains("a rotation of it is running"), "{second:?}");
    assert!(second.remedy.is_some());
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_containment_takes_the_running_rotation_over() {
    let world = World::new();
    for call in ["target.install", "store.promote", "consumer.reload"] {
        let subject = managed(&world, ALTERNATING).await;
        let process = world.process(&[&subject]);
        process.script.next(call, 1, Fault::Pause);
        let contain = async {
            process.script.paused().await;
            let contained = process.contain(&subject, "leak");
            let go_on = async {
                tokio::task::yield_now().await;
                process.script.let_go();
            };
            tokio::join!(contained, go_on).0
        };
        let (rotated, contained) = tokio::join!(process.rotate(&subject, "asked"), contain);
        assert_eq!(rotated.ending, EndingKind::Open, "{call}: {rotated:?}");
        assert_eq!(contained.ending, EndingKind::Rotated, "{call}: {contained:?}");
        let records = subject.checker.at_rest().await;
        assert_eq!(records.last().map(|record| record.request.to_string()).as_deref(), Some("leak"));
        process.service.landed().await;
    }
}

#[tokio::test]
async fn what_is_due_is_done_once_and_the_next_time_is_told() {
    let world = World::new();
    let subject = managed(&world, HOURLY).await;
    let process = world.process(&[&subject]);
    let at = |text: &str| Attention::At(text.parse().expect("a moment"));
    assert_eq!(process.attend(&subject).await, at("2026-03-02T07:00:00Z"));
    world.clock.advance(Duration::from_secs(1800));
    assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
    for _ in 0..3 {
        assert_eq!(process.attend(&subject).await, at("2026-03-02T08:00:00Z"));
        // Another daemon comes to the same.
        assert_eq!(world.process(&[&subject]).attend(&subject).await, at("2026-03-02T08:00:00Z"));
    }
    let records = subject.checker.at_rest().await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].request.to_string(), "cron:2026-03-02T07:00:00Z");
    let status = world.status(&subject).await;
    assert_eq!(status.next_due, Some("2026-03-02T08:00:00Z".parse().expect("a moment")));
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_nothing_due_again() {
    let world = World::new();
    let subject = managed(&world, HOURLY).await;
    world.clock.advance(Duration::from_secs(1800));
    let process = world.process(&[&subject]);
    process.attend(&subject).await;
    world.clock.set_wall(jiff::SignedDuration::from_mins(-40));
    for _ in 0..5 {
        process.attend(&subject).await;
        world.clock.advance(Duration::from_secs(600));
    }
    assert_eq!(subject.checker.records().await.len(), 2);
}

#[tokio::test]
async fn a_scheduled_rotation_that_comes_to_nothing_is_tried_again_later() {
    let world = World::new();
    let subject = managed(&world, HOURLY).await;
    world.clock.advance(Duration::from_secs(1800));
    world.database.turn(|knobs| knobs.powerless = true);
    assert_eq!(world.process(&[&subject]).attend(&subject).await, Attention::Later(Hindrance::InVain));
    world.database.turn(|knobs| knobs.powerless = false);
    assert_eq!(world.process(&[&subject]).attend(&subject).await, Attention::At(world.now()));
    let records = subject.checker.at_rest().await;
    assert_eq!((records.len(), records[2].to.number()), (3, 2));
}

#[tokio::test]
async fn nothing_is_due_without_a_value_and_nothing_without_a_schedule() {
    let world = World::new();
    let (scheduled, plain) = (world.subject(HOURLY), managed(&world, ALTERNATING).await);
    let process = world.process(&[&scheduled, &plain]);
    world.clock.advance(Duration::from_secs(7200));
    assert_eq!(process.attend(&scheduled).await, Attention::Idle);
    assert_eq!(process.attend(&plain).await, Attention::Idle);
    assert_eq!(world.status(&scheduled).await.state, State::Empty);
    assert!(world.slots(&scheduled).await.document.is_none());
}

#[tokio::test]
async fn a_rotation_that_is_open_is_finished() {
    let world = World::new();
    for shape in [ALTERNATING, HOURLY] {
        let subject = managed(&world, shape).await;
        let process = world.process(&[&subject]);
        process.script.next("store.promote", 1, Fault::DieAfter);
        assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
        let process = world.process(&[&subject]);
        assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
        assert!(process.events().iter().any(|event| matches!(event.what, What::Resumed)));
        assert_eq!(subject.checker.at_rest().await.len(), 2);
    }
}

/// One store that does not answer delays no policy of another.
#[tokio::test]
async fn a_dead_store_delays_nobody_elses_rotation() {
    let world = World::new();
    let subject = managed(&world, Shape { store: "other", ..HOURLY }).await;
    let fresh = world.subject(Shape { store: "other", ..HOURLY });
    world.clock.advance(Duration::from_secs(1800));
    let process = world.process(&[&subject, &fresh]);
    process.break_store("main");
    assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
    assert_eq!(process.attend(&fresh).await, Attention::Idle);
    assert_eq!(subject.checker.at_rest().await.len(), 2);

    // Nobody names it any more, and it is open: found in the store that answers.
    let process = world.process(&[&subject]);
    process.script.next("store.promote", 1, Fault::DieAfter);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let process = world.process(&[]);
    process.break_store("main");
    assert_eq!(process.service.orphans().await, [subject.policy.name().clone()]);
    process.attend(&subject).await;
    assert_eq!(subject.checker.at_rest().await.len(), 3);
    // Closed: whether the dead store has one open is not known.
    assert_eq!(process.attend(&subject).await, Attention::Later(Hindrance::InTheWay));
}

#[tokio::test]
async fn a_policy_that_moved_to_another_store_finishes_what_is_open_in_the_first() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.next("store.promote", 1, Fault::DieAfter);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let name = subject.policy.name().name().to_owned();
    let moved = world.named_subject(&name, Shape { store: "other", ..ALTERNATING });
    let process = world.process(&[&subject]);
    process.service.set_catalog(Catalog::new(world.parse(&moved.document)));
    assert_eq!(process.attend(&moved).await, Attention::At(world.now()));
    assert_eq!(subject.checker.at_rest().await.len(), 2);
}

#[tokio::test]
async fn what_stands_in_the_way_is_looked_at_later() {
    let world = World::new();
    let subject = managed(&world, HOURLY).await;
    world.clock.advance(Duration::from_secs(1800));
    for call in ["store.control", "store.current"] {
        let process = world.process(&[&subject]);
        process.script.next(call, 1, Fault::Fail(FailureClass::Unavailable));
        assert_eq!(process.attend(&subject).await, Attention::Later(Hindrance::InTheWay));
    }
    let process = world.process(&[&subject]);
    process.script.next("consumer.publish", usize::MAX, Fault::Fail(FailureClass::Unavailable));
    assert_eq!(process.attend(&subject).await, Attention::Later(Hindrance::InTheWay));
    let process = world.process(&[&subject]);
    process.stop.cancel();
    assert_eq!(process.attend(&subject).await, Attention::Idle);
    world.settle(&subject).await;
    assert_eq!(subject.checker.at_rest().await.len(), 2);
}

#[tokio::test]
async fn dashboards_are_told_what_is_known() {
    let world = World::new();
    let subject = managed(&world, HOURLY).await;
    let process = world.process(&[&subject]);
    process.attend(&subject).await;
    let known = |process: &crate::world::Process| {
        let known = process.hub.known();
        assert_eq!(known.len(), 1);
        known.values().next().expect("the policy").clone()
    };
    let first = known(&process);
    assert_eq!((first.doubt, first.step), (None, None));
    assert!(first.since.is_some());

    process.script.next("target.install", 1, Fault::Pause);
    let watching = async {
        process.script.paused().await;
        assert_eq!(known(&process).step, Some(Step::Install));
        let status = process.service.status(Some(subject.policy.name())).await.expect("a status");
        assert!(status[0].open.as_ref().is_some_and(|open| open.driven && open.step == Step::Install));
        process.script.let_go();
    };
    world.clock.advance(Duration::from_secs(60));
    let (ending, ()) = tokio::join!(process.rotate(&subject, "asked"), watching);
    assert_eq!(ending.ending, EndingKind::Rotated);
    assert_eq!(known(&process).step, None);
    assert!(known(&process).since > first.since);

    let spare = subject.policy.principals()[0].clone();
    world.database.raise_fence(&spare, subject.policy.name(), rekeyd::ident::Fence::new(90));
    process.rotate(&subject, "another").await;
    assert!(known(&process).doubt.is_some());
    // A daemon that starts now knows it as well.
    let process = world.process(&[&subject]);
    process.attend(&subject).await;
    assert!(known(&process).doubt.is_some());
    process.resume(&subject).await;
    assert!(known(&process).doubt.is_none());

    process.hub.retain(|_| false);
    assert!(process.hub.known().is_empty());
}

#[tokio::test]
async fn a_document_that_breaks_leaves_its_policy_in_force() {
    let world = World::new();
    let (one, two) = (world.subject(ALTERNATING), world.subject(ALTERNATING));
    let documents = |texts: &[String]| world.parse(&texts.join("\n---\n"));
    let text = |subject: &Subject| subject.document.clone();
    let catalog = Catalog::new(documents(&[text(&one), text(&two)]));
    assert_eq!(catalog.policies().count(), 2);

    let broken = text(&two).replace("alternating", "alternatign");
    let loaded = documents(&[text(&one), broken.clone()]);
    assert!(loaded.has_errors());
    let kept = catalog.updated(loaded, world.settings());
    assert_eq!(kept.kept(), [two.policy.name().clone()]);
    assert!(kept.policy(two.policy.name()).is_some());
    assert!(!kept.diagnostics().is_empty());
    // Still broken: still in force.
    let kept = kept.updated(documents(&[text(&one), broken]), world.settings());
    assert!(kept.policy(two.policy.name()).is_some());
    // Mended, and gone.
    let mended = kept.updated(documents(&[text(&one), text(&two)]), world.settings());
    assert_eq!((mended.kept().len(), mended.policies().count()), (0, 2));
    let gone = mended.updated(documents(&[text(&one)]), world.settings());
    assert!(gone.policy(two.policy.name()).is_none());

    // A stray copy of a policy claims all that it has, and takes nothing from it.
    let name = format!("\"name\":\"{}\"", one.policy.name().name());
    for stray in [text(&one), text(&one).replace(&name, "\"name\":\"copy\"")] {
        let loaded = documents(&[text(&one), text(&two), stray.clone()]);
        assert!(loaded.has_errors(), "{stray}");
        let kept = mended.updated(loaded, world.settings());
        let names: Vec<_> = kept.policies().map(|policy| policy.name().clone()).collect();
        assert_eq!(names, [one.policy.name().clone(), two.policy.name().clone()]);
        assert_eq!(kept.kept(), [one.policy.name().clone()]);
        // Also where the policy's own document is broken, so that the two were never compared.
        let broken = text(&one).replace("alternating", "alternatign");
        let kept = mended.updated(documents(&[broken, text(&two), stray.clone()]), world.settings());
        assert!(kept.policy(&"test/copy".parse().expect("a name")).is_none(), "{stray}");
        assert!(kept.policy(one.policy.name()).is_some(), "{stray}");
    }

    let process = world.process_with(documents(&[]));
    assert!(process.service.catalog().policies().next().is_none());
    process.service.set_catalog(mended);
    assert_eq!(Arc::clone(&process.service.catalog()).policies().count(), 2);
}
