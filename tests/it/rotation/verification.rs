//! Between rotations: the value in force is tried, and a refusal is told of or mended.

use std::time::Duration;

use jiff::Timestamp;
use rekeyd::failure::FailureClass;
use rekeyd::ledger::TriggerKind;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::verification::Finding;
use rekeyd::service::Attention;
use rekeyd::status::{State, Status};
use rekeyd::store::Current;

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World, credential};

const REPORTED: Shape = Shape { verify: Some(("1h", "report")), ..Shape::new(Strategy::Alternating) };
const MENDED: Shape = Shape { verify: Some(("1h", "rotate")), ..Shape::new(Strategy::Alternating) };

async fn managed(world: &World, shape: Shape) -> Subject {
    let subject = world.subject(shape);
    world.begin(&subject).await;
    subject
}

/// Lets time pass until the value's turn has come.
async fn turn(world: &World, process: &Process, subject: &Subject) {
    let Attention::At(at) = process.attend(subject).await else { panic!("it has a turn") };
    let wait = at.duration_since(world.now());
    assert!(!wait.is_negative() && wait.as_secs() <= 7_200, "{wait}");
    world.clock.advance(Duration::try_from(wait).expect("not in the past"));
}

async fn status(process: &Process, subject: &Subject) -> Status {
    process.service.status(Some(subject.policy.name())).await.expect("a status").remove(0)
}

/// Somebody with rights sets another value at the target.
async fn change_by_hand(world: &World, subject: &Subject) {
    let mut other = credential(subject, 0, "set by hand");
    other.principal = world.in_force(subject).await.principal;
    subject.checker.by_hand(&other);
    world.database.set(&other);
}

#[tokio::test]
async fn a_refusal_is_reported_and_nothing_is_changed() {
    let world = World::new();
    for strategy in [Strategy::Alternating, Strategy::InPlace] {
        let subject = managed(&world, Shape { strategy, ..REPORTED }).await;
        let process = world.process(&[&subject]);
        assert_eq!(status(&process, &subject).await.verified, None);
        turn(&world, &process, &subject).await;
        assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
        let found = status(&process, &subject).await;
        assert_eq!(found.state, State::Ready, "{found:?}");
        let verified = found.verified.expect("it was tried");
        assert_eq!((verified.finding, verified.version.number()), (Finding::Accepted, 1));

        world.look_away();
        change_by_hand(&world, &subject).await;
        let before = world.slots(&subject).await;
        turn(&world, &process, &subject).await;
        assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
        let found = status(&process, &subject).await;
        assert_eq!(found.state, State::Drifted, "{found:?}");
        let problem = found.problem.expect("it is told");
        assert!(problem.what.contains("refuses the value in force"), "{problem:?}");
        assert!(problem.remedy.is_some_and(|remedy| remedy.contains("rekeyd rotate")));
        let after = world.slots(&subject).await;
        let value = |current: Option<Current>| current.map(|current| current.revision);
        assert_eq!((after.revision, value(after.current)), (before.revision, value(before.current)));
        assert_eq!(subject.checker.records().await.len(), 1);

        // What is told to do does it.
        process.rotate(&subject, "mend").await;
        let found = status(&process, &subject).await;
        assert_eq!((found.state, found.verified), (State::Ready, None), "{found:?}");
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_refusal_is_mended_where_the_policy_says_so() {
    let world = World::new();
    for strategy in [Strategy::Alternating, Strategy::InPlace] {
        let subject = managed(&world, Shape { strategy, ..MENDED }).await;
        let process = world.process(&[&subject]);
        world.look_away();
        change_by_hand(&world, &subject).await;
        turn(&world, &process, &subject).await;
        assert_eq!(process.attend(&subject).await, Attention::At(world.now()), "{strategy:?}");
        let records = subject.checker.at_rest().await;
        let last = records.last().expect("a record");
        assert_eq!((last.trigger, last.to.number()), (TriggerKind::Drift, 2), "{last:?}");
        assert_eq!(last.requested_by, "verification");
        let found = status(&process, &subject).await;
        assert_eq!((found.state, found.version.number()), (State::Ready, 2), "{found:?}");
        assert!(world.database.accepts(&world.in_force(&subject).await));
    }
}

#[tokio::test]
async fn a_freeze_holds_the_mending_back_and_not_the_report() {
    let world = World::new();
    let frozen = r#"{"cron": "0 3 1 1 *", "freezes": [{"from": "2026-03-01", "to": "2026-03-03"}]}"#;
    let subject = managed(&world, Shape { schedule: Some(frozen), ..MENDED }).await;
    let process = world.process(&[&subject]);
    world.look_away();
    change_by_hand(&world, &subject).await;
    let thaw: Timestamp = "2026-03-03T00:00:00Z".parse().expect("a moment");
    while world.now() < thaw {
        assert_eq!(subject.checker.records().await.len(), 1, "{}", world.now());
        turn(&world, &process, &subject).await;
        process.attend(&subject).await;
    }
    let records = subject.checker.records().await;
    assert_eq!((records.len(), records[1].trigger), (2, TriggerKind::Drift));
}

#[tokio::test]
async fn a_login_that_gives_no_verdict_is_no_drift() {
    let world = World::new();
    for class in [FailureClass::Unavailable, FailureClass::Ambiguous, FailureClass::Denied] {
        let subject = managed(&world, MENDED).await;
        let process = world.process(&[&subject]);
        turn(&world, &process, &subject).await;
        process.script.next("target.probe", 2, Fault::Fail(class));
        for pause in [5, 10] {
            assert_eq!(process.attend(&subject).await, Attention::At(world.now()), "{class:?}");
            assert_eq!(status(&process, &subject).await.state, State::Ready);
            let pause = Duration::from_secs(pause);
            assert_eq!(process.attend(&subject).await, Attention::At(world.now() + pause), "{class:?}");
            world.clock.advance(pause);
        }
        // Its turn is not over.
        assert_eq!(process.attend(&subject).await, Attention::At(world.now()));
        let verified = status(&process, &subject).await.verified.expect("it was tried");
        assert_eq!(verified.finding, Finding::Accepted);
        assert_eq!(subject.checker.at_rest().await.len(), 1);
    }
}

#[tokio::test]
async fn what_the_policy_checks_besides_is_reported_and_never_mended() {
    let world = World::new();
    let subject = managed(&world, MENDED).await;
    let process = world.process(&[&subject]);
    world.database.turn(|knobs| knobs.unfit = true);
    turn(&world, &process, &subject).await;
    process.attend(&subject).await;
    let found = status(&process, &subject).await;
    assert_eq!(found.state, State::Drifted, "{found:?}");
    assert_eq!(found.verified.map(|verified| verified.finding), Some(Finding::Unfit));
    assert_eq!(subject.checker.at_rest().await.len(), 1);
}

/// The value was in force when it was read, and is not any more when the target refuses it.
#[tokio::test]
async fn a_rotation_that_passes_meanwhile_is_no_drift() {
    let world = World::new();
    let subject = managed(&world, Shape { strategy: Strategy::InPlace, ..MENDED }).await;
    let process = world.process(&[&subject]);
    turn(&world, &process, &subject).await;
    process.script.next("target.probe", 1, Fault::Pause);
    let other = async {
        process.script.paused().await;
        let ending = world.process(&[&subject]).rotate(&subject, "meanwhile").await;
        process.script.let_go();
        ending
    };
    let (attention, _) = tokio::join!(process.attend(&subject), other);
    assert_eq!(attention, Attention::At(world.now()));
    let records = subject.checker.at_rest().await;
    assert_eq!((records.len(), records[1].trigger), (2, TriggerKind::Manual));
    let found = status(&process, &subject).await;
    assert_eq!((found.state, found.verified), (State::Ready, None), "{found:?}");
}

#[tokio::test]
async fn turns_that_were_missed_together_are_had_one_after_the_other() {
    let world = World::new();
    let subjects = [managed(&world, REPORTED).await, managed(&world, REPORTED).await];
    let process = world.process(&[&subjects[0], &subjects[1]]);
    // The machine slept.
    world.clock.advance(Duration::from_secs(3 * 3_600));
    let (first, second) = (process.attend(&subjects[0]).await, process.attend(&subjects[1]).await);
    assert_eq!(first, Attention::At(world.now()));
    let Attention::At(at) = second else { panic!("{second:?}") };
    // 300 a minute.
    assert_eq!(at.duration_since(world.now()).as_millis(), 200);
    assert_eq!(process.attend(&subjects[1]).await, second);
    world.clock.advance(Duration::from_millis(200));
    assert_eq!(process.attend(&subjects[1]).await, Attention::At(world.now()));
    assert!(status(&process, &subjects[1]).await.verified.is_some());
}

#[tokio::test]
async fn nothing_is_tried_at_a_start_or_without_a_value() {
    let world = World::new();
    let (subject, empty) = (managed(&world, REPORTED).await, world.subject(REPORTED));
    for _ in 0..5 {
        let process = world.process(&[&subject, &empty]);
        assert!(matches!(process.attend(&subject).await, Attention::At(at) if at > world.now()));
        assert_eq!(process.attend(&empty).await, Attention::Idle);
        let calls = process.script.calls();
        assert!(!calls.contains(&"target.probe"), "{calls:?}");
        world.clock.advance(Duration::from_secs(3_600));
    }
    let never = managed(&world, Shape::new(Strategy::Alternating)).await;
    assert_eq!(world.process(&[&never]).attend(&never).await, Attention::Idle);
}

/// Whether the clock goes back or forth, the next turn is not far.
#[tokio::test]
async fn a_clock_that_is_set_starves_no_turn() {
    let world = World::new();
    let subject = managed(&world, REPORTED).await;
    let process = world.process(&[&subject]);
    for by in [-48, 96, -96] {
        turn(&world, &process, &subject).await;
        process.attend(&subject).await;
        world.clock.set_wall(jiff::SignedDuration::from_hours(by));
    }
    turn(&world, &process, &subject).await;
    process.attend(&subject).await;
    assert_eq!(status(&process, &subject).await.verified.map(|found| found.at), Some(world.now()));
}

/// A target that gives no verdict holds back nothing else of its policy.
#[tokio::test]
async fn a_rotation_that_is_due_does_not_wait_for_a_verdict() {
    let world = World::new();
    let subject = managed(&world, Shape { schedule: Some("0 * * * *"), ..REPORTED }).await;
    let process = world.process(&[&subject]);
    for _ in 0..40 {
        process.script.next("target.probe", 1, Fault::Fail(FailureClass::Unavailable));
        let Attention::At(at) = process.attend(&subject).await else { panic!("it has a turn") };
        if at <= world.now() && subject.checker.records().await.len() > 1 {
            break;
        }
        world.clock.advance(Duration::try_from(at.duration_since(world.now())).unwrap_or_default());
    }
    let last = subject.checker.records().await.pop().expect("a record");
    assert_eq!(last.trigger, TriggerKind::Scheduled, "{last:?}");
    let late = last.opened_at.duration_since("2026-03-02T07:00:00Z".parse().expect("a moment"));
    assert!(late.as_secs() < 60, "{late}");
}

/// Somebody undoes the mending each time: they have to be found, and are not to be fought.
#[tokio::test]
async fn a_value_is_mended_once_a_day() {
    let world = World::new();
    let subject = managed(&world, Shape { strategy: Strategy::InPlace, ..MENDED }).await;
    let process = world.process(&[&subject]);
    world.look_away();
    let mut mended = Vec::new();
    for _ in 0..60 {
        change_by_hand(&world, &subject).await;
        turn(&world, &process, &subject).await;
        process.attend(&subject).await;
        mended.push(subject.checker.records().await.len());
    }
    let records = subject.checker.records().await;
    assert!((3..=4).contains(&records.len()), "{mended:?}");
    for pair in records[1..].windows(2) {
        let apart = pair[1].opened_at.duration_since(pair[0].closed_at);
        assert!(apart.as_hours() >= 24, "{apart}");
    }
    assert_eq!(status(&process, &subject).await.state, State::Drifted);
}

/// Two daemons find the same, at the same time.
#[tokio::test]
async fn two_daemons_mend_a_value_once() {
    let world = World::new();
    let subject = managed(&world, MENDED).await;
    let daemons = [world.process(&[&subject]), world.process(&[&subject])];
    world.look_away();
    change_by_hand(&world, &subject).await;
    turn(&world, &daemons[0], &subject).await;
    daemons[1].script.next("target.probe", 1, Fault::Pause);
    let second = async {
        daemons[1].script.paused().await;
        let first = daemons[0].attend(&subject).await;
        daemons[1].script.let_go();
        first
    };
    tokio::join!(daemons[1].attend(&subject), second);
    for daemon in &daemons {
        daemon.attend(&subject).await;
        assert_eq!(status(daemon, &subject).await.state, State::Ready);
    }
    let records = subject.checker.at_rest().await;
    assert_eq!((records.len(), records[1].request.to_string().as_str()), (2, "drift:v1"));
}

/// What somebody else wrote to the store was never in force.
#[tokio::test]
async fn a_foreign_value_in_the_store_is_told_of_and_not_tried() {
    let world = World::new();
    let subject = managed(&world, MENDED).await;
    let process = world.process(&[&subject]);
    world.look_away();
    world.overwrite(&subject, &credential(&subject, 0, "from another tool")).await;
    turn(&world, &process, &subject).await;
    process.attend(&subject).await;
    let found = status(&process, &subject).await;
    assert_eq!((found.state, found.verified), (State::Ready, None), "{found:?}");
    assert!(found.problem.is_some_and(|problem| problem.what.contains("changed by somebody else")));
    assert_eq!(subject.checker.records().await.len(), 1);
}

/// However many there are, and however often each is to be tried, so many logins in a minute and no more.
#[tokio::test]
async fn no_more_than_so_many_are_tried_in_a_minute() {
    let world = World::new();
    let often = Shape { verify: Some(("1s", "report")), ..Shape::new(Strategy::InPlace) };
    let mut subjects = Vec::new();
    for _ in 0..12 {
        subjects.push(managed(&world, often).await);
    }
    let policies: Vec<&Subject> = subjects.iter().collect();
    let process = world.process(&policies);
    let tried = || process.script.calls().iter().filter(|call| **call == "target.probe").count();
    let (began, mut now) = (tried(), Duration::ZERO);
    while now < Duration::from_secs(60) {
        for subject in &subjects {
            process.attend(subject).await;
        }
        world.clock.advance(Duration::from_millis(100));
        now += Duration::from_millis(100);
    }
    let tried = tried() - began;
    // 300 by the settings, of the 720 that twelve policies ask for.
    assert!((250..=301).contains(&tried), "{tried}");
}
