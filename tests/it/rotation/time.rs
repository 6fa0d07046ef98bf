//! Time: graces that end, clocks that are set, patience that runs out, processes that are told to stop.

use std::time::Duration;

use jiff::SignedDuration;
use rekeyd::failure::FailureClass;
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::service::{Attention, EndingKind};

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World};

/// A tenth of the grace.
const TENTH: Duration = Duration::from_secs(10);
const STRATEGIES: [Strategy; 2] = [Strategy::Alternating, Strategy::InPlace];

/// A policy with a grace of 100 seconds, and a reader's session that began with the value in force.
async fn read(world: &World, strategy: Strategy) -> (Subject, u64) {
    let subject = world.subject(Shape { grace: "100s", ..Shape::new(strategy) });
    world.begin(&subject).await;
    let session = world.database.log_in(&world.in_force(&subject).await, "a reader").expect("a session");
    (subject, session)
}

/// How many tenths of the grace have passed.
fn tenths_since(world: &World, before: Duration) -> u64 {
    (monotonic(world) - before).as_secs() / TENTH.as_secs()
}

fn monotonic(world: &World) -> Duration {
    use rekeyd::clock::Clock as _;
    world.clock.monotonic()
}

async fn rotate(process: &Process, subject: &Subject) {
    let ending = process.rotate(subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
}

#[tokio::test]
async fn sessions_live_for_the_grace_and_no_longer() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, session) = read(&world, strategy).await;
        let before = monotonic(&world);
        let process = world.process(&[&subject]);
        rotate(&process, &subject).await;
        assert_eq!(tenths_since(&world, before), 10);
        assert!(!world.database.lives(session));
        let records = subject.checker.at_rest().await;
        assert_eq!(records[1].proof.sessions_closed, 1);
    }
}

#[tokio::test]
async fn readers_that_leave_end_the_grace() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, session) = read(&world, strategy).await;
        let database = std::sync::Arc::clone(&world.database);
        world.clock.after(2 * TENTH, async move { database.log_out(session) });
        let before = monotonic(&world);
        rotate(&world.process(&[&subject]), &subject).await;
        assert_eq!(tenths_since(&world, before), 2);
        let records = subject.checker.at_rest().await;
        assert_eq!(records[1].proof.sessions_closed, 0);
    }
}

/// A process of rekeyd hangs in the middle of a probe.
#[tokio::test]
async fn no_grace_waits_for_a_session_of_rekeyds_own() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, session) = read(&world, strategy).await;
        world.database.log_out(session);
        let probe = world.database.log_in(&world.in_force(&subject).await, "rekeyd").expect("a session");
        let before = monotonic(&world);
        rotate(&world.process(&[&subject]), &subject).await;
        assert_eq!(tenths_since(&world, before), 0);
        assert!(!world.database.lives(probe));
        assert_eq!(subject.checker.at_rest().await[1].proof.sessions_closed, 1);
    }
}

/// Processes that die again and again in a grace must not make it longer.
#[tokio::test]
async fn a_grace_goes_on_over_restarts() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, session) = read(&world, strategy).await;
        let before = monotonic(&world);
        let process = world.process(&[&subject]);
        let script = std::sync::Arc::clone(&process.script);
        world.clock.after(3 * TENTH, async move { script.next("target.usage", 1, Fault::DieBefore) });
        assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
        world.clock.advance(3 * TENTH);
        assert!(world.database.lives(session));
        world.settle(&subject).await;
        assert_eq!(tenths_since(&world, before), 10);
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_wall_clock_that_is_set_changes_no_grace() {
    let world = World::new();
    for strategy in STRATEGIES {
        for hours in [-1, 1, -24, 24] {
            let (subject, session) = read(&world, strategy).await;
            let before = monotonic(&world);
            let clock = std::sync::Arc::clone(&world.clock);
            let set = async move { clock.set_wall(SignedDuration::from_hours(hours)) };
            world.clock.after(5 * TENTH, set);
            rotate(&world.process(&[&subject]), &subject).await;
            assert_eq!(tenths_since(&world, before), 10, "the clock was set by {hours} hours");
            assert!(!world.database.lives(session));
            world.clock.set_wall(SignedDuration::from_hours(-hours));
        }
    }
}

/// Nothing tells a new process how long the other waited: a value must not live on for that.
#[tokio::test]
async fn a_wall_clock_that_was_set_back_between_processes_ends_the_grace() {
    let world = World::new();
    let (subject, session) = read(&world, Strategy::Alternating).await;
    let process = world.process(&[&subject]);
    process.script.next("target.usage", 1, Fault::Pause);
    let script = std::sync::Arc::clone(&process.script);
    world.clock.after(3 * TENTH, async move { script.next("target.usage", 1, Fault::DieBefore) });
    let dying = async { tokio::join!(process.rotate(&subject, "asked"), async { process.script.let_go() }) };
    assert!(process.run(dying).await.is_none());
    world.clock.set_wall(SignedDuration::from_hours(-24));
    let before = monotonic(&world);
    world.settle(&subject).await;
    assert_eq!(tenths_since(&world, before), 0);
    assert!(!world.database.lives(session));
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_puts_no_cut_off() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, _) = read(&world, strategy).await;
        let leaked = world.in_force(&subject).await;
        let clock = std::sync::Arc::clone(&world.clock);
        let set = async move { clock.set_wall(SignedDuration::from_hours(-24)) };
        world.clock.after(Duration::from_secs(30), set);
        let before = monotonic(&world);
        let process = world.process(&[&subject]);
        process.script.next("consumer.publish", usize::MAX, Fault::Fail(FailureClass::Unavailable));
        // Long enough for the cut, and over long before the clock shows the deadline again.
        let ending = process.contain(&subject, "leak").await;
        assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
        assert!(!world.database.accepts(&leaked));
        assert!(tenths_since(&world, before) < 60);
        world.clock.set_wall(SignedDuration::from_hours(24));
        world.settle(&subject).await;
        subject.checker.at_rest().await;
    }
}

/// The grace may be long: whoever lost the new value meanwhile gets it back before the old one dies.
#[tokio::test]
async fn a_reader_that_lost_the_new_value_gets_it_back_before_the_old_one_dies() {
    let world = World::new();
    let reload = Some("echo told >> FOLDER/told");
    let subject = world.subject(Shape { grace: "100s", reload, ..Shape::new(Strategy::Alternating) });
    world.begin(&subject).await;
    let old = std::fs::read_to_string(&subject.file).expect("the reader's file");
    world.database.log_in(&world.in_force(&subject).await, "a reader").expect("a session");
    let file = subject.file.clone();
    world.clock.after(5 * TENTH, async move { std::fs::write(file, old).expect("the reader's file") });
    let process = world.process(&[&subject]);
    rotate(&process, &subject).await;
    // The checker saw that the file held the new value when the old one was retired.
    subject.checker.at_rest().await;
    let told = std::fs::read_to_string(world.path("told")).expect("the command ran");
    assert_eq!(told.lines().count(), 3, "once for each version, and once because the file was changed");
}

#[tokio::test]
async fn a_reader_that_is_down_holds_back_the_end_and_no_other_reader() {
    let world = World::new();
    let subject = world.subject(Shape::new(Strategy::Alternating));
    world.begin(&subject).await;
    let old = world.in_force(&subject).await;
    let process = world.process(&[&subject]);
    process.script.next("consumer.publish", usize::MAX, Fault::Fail(FailureClass::Unavailable));
    let before = monotonic(&world);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    let waited = monotonic(&world) - before;
    assert!((30..40).contains(&waited.as_secs()), "patience of 30 seconds took {waited:?}");
    assert!(world.database.accepts(&old), "the reader is locked out");
    let retried = process.events().iter().filter(|event| matches!(event.what, What::Retrying { .. })).count();
    assert!((5..30).contains(&retried), "{retried} tries");

    assert_eq!(world.process(&[&subject]).attend(&subject).await, Attention::At(world.now()));
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_process_that_stops_leaves_off_after_the_running_step() {
    let world = World::new();
    for strategy in STRATEGIES {
        for call in ["target.install", "store.promote", "consumer.publish", "target.retire", "ledger.append"]
        {
            let subject = world.subject(Shape::new(strategy));
            world.begin(&subject).await;
            let process = world.process(&[&subject]);
            process.script.next(call, 1, Fault::Pause);
            let stopping = async {
                process.script.paused().await;
                process.stop.cancel();
                process.script.let_go();
            };
            let (ending, ()) = tokio::join!(process.rotate(&subject, "asked"), stopping);
            assert_eq!(ending.ending, EndingKind::Open, "{call}: {ending:?}");
            assert!(ending.remedy.is_some_and(|remedy| remedy.contains("rekeyd resume")));
            process.service.landed().await;
            let ending = world.process(&[&subject]).resume(&subject).await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{call}: {ending:?}");
            assert_eq!(subject.checker.at_rest().await.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_grace_that_is_stopped_is_left_at_once() {
    let world = World::new();
    let (subject, session) = read(&world, Strategy::Alternating).await;
    let process = world.process(&[&subject]);
    let stop = process.stop.clone();
    world.clock.after(2 * TENTH, async move { stop.cancel() });
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    assert!(world.database.lives(session));
    let status = world.status(&subject).await;
    assert_eq!(status.open.map(|open| open.step), Some(Step::Converge));
    world.settle(&subject).await;
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn the_window_in_place_is_measured_from_the_first_install() {
    let world = World::new();
    let (subject, _) = read(&world, Strategy::InPlace).await;
    let process = world.process(&[&subject]);
    process.script.next("target.probe", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    world.clock.advance(30 * TENTH);
    world.settle(&subject).await;
    let records = subject.checker.at_rest().await;
    let window = records[1].window_ms.expect("a window");
    assert!((299_000..330_000).contains(&window), "a window of {window} ms");
}
