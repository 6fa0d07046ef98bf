//! What comes of a rotation that meets something: the ending it is told with, and that the world is right
//! afterwards and again when what was in the way is gone.

use rekeyd::failure::FailureClass;
use rekeyd::ledger::Outcome;
use rekeyd::rotation::plan::Strategy;
use rekeyd::service::EndingKind;
use rekeyd::status::State;
use rekeyd::target::{Attempt, Extent, RetireRequest, Target as _};

use crate::world::faults::Fault;
use crate::world::{Shape, Subject, World, credential};

const ALTERNATING: Shape = Shape::new(Strategy::Alternating);
const IN_PLACE: Shape = Shape::new(Strategy::InPlace);

const ALL: [FailureClass; 6] = [
    FailureClass::Refused,
    FailureClass::Ambiguous,
    FailureClass::Unavailable,
    FailureClass::Denied,
    FailureClass::Conflict,
    FailureClass::Invalid,
];

pub(super) async fn managed(world: &World, shape: Shape) -> Subject {
    let subject = world.subject(shape);
    world.begin(&subject).await;
    subject
}

/// How a rotation ends whose calls of one name fail so.
fn expected(call: &str, class: FailureClass) -> EndingKind {
    use EndingKind::{Abandoned, InDoubt, Open, RolledBack, Rotated};
    match (call, class) {
        (_, FailureClass::Ambiguous | FailureClass::Unavailable) => Open,
        ("target.install", _) => Abandoned,
        ("target.probe", _) => RolledBack,
        ("store.promote", FailureClass::Conflict) => InDoubt,
        ("store.promote", _) => RolledBack,
        // A reader that says once that it fails is asked again.
        ("consumer.reload", FailureClass::Refused) => Rotated,
        _ => Open,
    }
}

#[tokio::test]
async fn every_failure_at_every_step_of_a_pair_ends_as_the_rules_say() {
    fail_everywhere(ALTERNATING).await;
}

#[tokio::test]
async fn every_failure_at_every_step_in_place_ends_as_the_rules_say() {
    fail_everywhere(IN_PLACE).await;
}

async fn fail_everywhere(shape: Shape) {
    let world = World::new();
    let calls = [
        "target.install",
        "target.probe",
        "store.promote",
        "consumer.publish",
        "consumer.reload",
        "target.usage",
        "target.retire",
        "ledger.append",
    ];
    for call in calls {
        for class in ALL {
            let subject = managed(&world, shape).await;
            let process = world.process(&[&subject]);
            // What is sure is said once; what is not, for as long as it is asked.
            let uncertain = matches!(class, FailureClass::Ambiguous | FailureClass::Unavailable);
            process.script.next(call, if uncertain { usize::MAX } else { 1 }, Fault::Fail(class));
            let ending = process.rotate(&subject, "asked").await;
            let expected = expected(call, class);
            assert_eq!(ending.ending, expected, "{shape:?}: {call} fails as {class}: {ending:?}");
            assert!(ending.remedy.is_some() || ending.record.is_some(), "{ending:?}");

            if expected == EndingKind::InDoubt {
                let ending = world.process(&[&subject]).resume(&subject).await;
                assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            }
            world.settle(&subject).await;
            let records = subject.checker.at_rest().await;
            let gone = matches!(expected, EndingKind::Abandoned | EndingKind::RolledBack);
            assert_eq!(records[1].outcome == Outcome::Rotated, !gone, "{call} {class}: {records:?}");
            let ending = world.process(&[&subject]).rotate(&subject, "again").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            subject.checker.at_rest().await;
        }
    }
}

/// Each write in a store has a price: what came before the value in force is that for its own readers.
#[tokio::test]
async fn the_value_in_force_is_written_again_only_where_a_promotion_may_be_under_way() {
    let world = World::new();
    let promotions = |process: &crate::world::Process| {
        process.script.calls().into_iter().filter(|call| *call == "store.promote").count()
    };
    let subject = managed(&world, ALTERNATING).await;
    // Whoever opened it and was alone with it knows that none is.
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::Fail(FailureClass::Refused));
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert_eq!(promotions(&process), 0, "it is written again");
    // Somebody was there before: what became of it is not known.
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let process = world.process(&[&subject]);
    process.script.next("target.install", 1, Fault::Fail(FailureClass::Refused));
    let ending = process.resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
    assert_eq!(promotions(&process), 1, "a promotion that comes late would be in force");
    // Nor is it of a promotion of its own whose answer did not come.
    let process = world.process(&[&subject]);
    process.script.next("store.promote", 1, Fault::Fail(FailureClass::Ambiguous));
    process.script.next("store.promote", 1, Fault::Fail(FailureClass::Denied));
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
    assert_eq!(promotions(&process), 3);
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_candidate_that_the_server_garbled_is_taken_back_and_the_old_value_works() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        let subject = managed(&world, shape).await;
        let old = world.in_force(&subject).await;
        world.database.turn(|knobs| knobs.garbles = 1);
        let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert_eq!(ending.ending.exit_code(), 1);
        assert!(world.database.accepts(&old));
        assert_eq!(world.in_force(&subject).await, old);
        let records = subject.checker.at_rest().await;
        assert_eq!((records[1].from, records[1].to), (records[0].to, records[0].to));
        assert_eq!(records[1].principal, old.principal);

        let ending = world.process(&[&subject]).rotate(&subject, "again").await;
        assert_eq!(
            ending.ending,
            EndingKind::Rotated,
            "what held the candidate back is no drift: {ending:?}"
        );
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_check_that_fails_keeps_the_candidate_out() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        let subject = managed(&world, shape).await;
        let old = world.in_force(&subject).await;
        world.database.turn(|knobs| knobs.unfit = true);
        let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert!(ending.message.contains("the check statement fails"), "{ending:?}");
        assert_eq!(world.in_force(&subject).await, old);
        subject.checker.at_rest().await;
        world.database.turn(|knobs| knobs.unfit = false);
    }
}

/// Readers of one in place have no working value until the new one is published.
#[tokio::test]
async fn a_check_that_fails_after_the_promotion_keeps_nobody_waiting() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        let subject = managed(&world, shape).await;
        let process = world.process(&[&subject]);
        process.script.next("store.promote", 1, Fault::DieAfter);
        assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
        world.database.turn(|knobs| knobs.unfit = true);
        world.settle(&subject).await;
        let records = subject.checker.at_rest().await;
        assert_eq!(records.len(), 2);
        world.database.turn(|knobs| knobs.unfit = false);
    }
}

#[tokio::test]
async fn a_reader_that_fails_gets_back_what_it_had_where_that_still_works() {
    let world = World::new();
    for strategy in [Strategy::Alternating, Strategy::DualKey, Strategy::Generated] {
        let subject = managed(&world, Shape { rolls_back: true, ..Shape::new(strategy) }).await;
        let old = world.in_force(&subject).await;
        let process = world.process(&[&subject]);
        process.script.next("consumer.reload", 3, Fault::Fail(FailureClass::Refused));
        let ending = process.rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert_eq!(world.in_force(&subject).await, old, "another value is in force");
        let records = subject.checker.at_rest().await;
        let number = |at: usize| (records[at].from.number(), records[at].to.number());
        assert_eq!((number(0), number(1)), ((0, 1), (1, 3)), "{records:?}");
        assert_eq!(records[1].outcome, Outcome::RolledBack);
        assert_eq!(records[1].principal, old.principal);

        // The request restarted a reader: it is not made again.
        let ending = process.rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
        assert_eq!(subject.checker.at_rest().await.len(), 2);
        // The next one begins above both.
        let ending = process.rotate(&subject, "again").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        let records = subject.checker.at_rest().await;
        assert_eq!((records[2].from.number(), records[2].to.number()), (3, 4));
    }
}

#[tokio::test]
async fn a_reader_that_fails_is_waited_for_where_its_earlier_value_is_dead_or_has_to_die() {
    let world = World::new();
    let in_place = managed(&world, Shape { rolls_back: true, ..IN_PLACE }).await;
    let process = world.process(&[&in_place]);
    process.script.next("consumer.reload", usize::MAX, Fault::Fail(FailureClass::Refused));
    let ending = process.rotate(&in_place, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    world.settle(&in_place).await;
    assert_eq!(in_place.checker.at_rest().await[1].outcome, Outcome::Rotated);

    let contained = managed(&world, Shape { rolls_back: true, ..ALTERNATING }).await;
    let old = world.in_force(&contained).await;
    let process = world.process(&[&contained]);
    process.script.next("consumer.reload", 3, Fault::Fail(FailureClass::Refused));
    let ending = process.contain(&contained, "leaked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(!world.database.accepts(&old), "a leaked value came back");
    contained.checker.at_rest().await;
}

#[tokio::test]
async fn a_first_value_that_is_refused_in_place_is_in_doubt() {
    let world = World::new();
    let subject = world.subject(IN_PLACE);
    world.database.make(subject.policy.principals()[0]);
    world.database.turn(|knobs| knobs.garbles = 1);
    let process = world.process(&[&subject]);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    assert_eq!(ending.ending.exit_code(), 3);
    assert!(ending.remedy.is_some());
    let status = world.status(&subject).await;
    assert_eq!(status.state, State::InDoubt);
    assert!(status.problem.is_some_and(|problem| problem.remedy.is_some()));
    assert!(!status.open.expect("an open rotation").may_abandon);

    let refused = process.abandon(&subject).await;
    assert_eq!(refused.ending, EndingKind::Failed, "there is nothing to go back to: {refused:?}");
    assert_eq!(world.status(&subject).await.state, State::InDoubt, "asking in vain let it go on");
    // The candidate is installed again first, and this time it comes out right.
    let ending = process.resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_foreign_writer_is_not_overwritten_until_a_person_says_so() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        for deleted in [false, true] {
            let (subject, foreign) = meet_foreign_writer(&world, shape, deleted).await;
            let found = world.current(&subject).await.map(|(credential, _)| credential);
            assert_eq!(found, (!deleted).then_some(foreign));
            let ending = world.process(&[&subject]).resume(&subject).await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            subject.checker.store_is_foreign(false);
            subject.checker.at_rest().await;
        }
    }
}

#[tokio::test]
async fn a_foreign_value_stays_when_the_rotation_is_given_up() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        for deleted in [false, true] {
            let (subject, foreign) = meet_foreign_writer(&world, shape, deleted).await;
            let ending = world.process(&[&subject]).abandon(&subject).await;
            assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
            let found = world.current(&subject).await.map(|(credential, _)| credential);
            assert_eq!(found, (!deleted).then_some(foreign));
            let status = world.status(&subject).await;
            let problem = status.problem.expect("a problem");
            assert!(problem.what.contains(if deleted { "was deleted" } else { "changed by" }), "{problem:?}");
            assert!(problem.remedy.is_some_and(|remedy| remedy.contains("adopt --replace")));
        }
    }
}

/// A rotation in doubt because somebody else wrote to the store, or deleted the value.
pub(super) async fn meet_foreign_writer(
    world: &World,
    shape: Shape,
    deleted: bool,
) -> (Subject, rekeyd::secret::Credential) {
    let subject = managed(world, shape).await;
    let process = world.process(&[&subject]);
    let foreign = credential(&subject, 0, "written-by-somebody-else");
    process.script.next("target.probe", 1, Fault::Pause);
    let meddle = async {
        process.script.paused().await;
        subject.checker.store_is_foreign(true);
        if deleted {
            world.delete(&subject);
        } else {
            world.overwrite(&subject, &foreign).await;
        }
        process.script.let_go();
    };
    let (ending, ()) = tokio::join!(process.rotate(&subject, "asked"), meddle);
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    assert!(ending.message.contains("changed by somebody else"), "{ending:?}");
    assert_eq!(world.status(&subject).await.state, State::InDoubt);
    (subject, foreign)
}

/// Whoever gave a candidate up that readers have would lock them out.
#[tokio::test]
async fn what_readers_have_is_not_taken_back_because_the_store_was_overwritten() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.next("consumer.reload", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let candidate = world.in_force(&subject).await;
    subject.checker.store_is_foreign(true);
    world.overwrite(&subject, &credential(&subject, 0, "written-by-somebody-else")).await;

    let ending = world.process(&[&subject]).abandon(&subject).await;
    assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
    assert!(world.database.accepts(&candidate), "readers are locked out");
    let control = world.store.control(subject.policy.name()).await.expect("the store is read");
    let ending = world.process(&[&subject]).resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_eq!(world.in_force(&subject).await, candidate);

    // Another process had begun to take the candidate back, and is late.
    let control = control.expect("it is open");
    let document: serde_json::Value = serde_json::from_slice(control.document.expose()).expect("JSON");
    let open = &document["open"];
    let attempt = Attempt {
        policy: subject.policy.name(),
        rotation: serde_json::from_value(open["rotation"].clone()).expect("a rotation"),
        version: serde_json::from_value(open["to"].clone()).expect("a version"),
        fence: serde_json::from_value(open["course"]["fence"].clone()).expect("a fence"),
    };
    let request = RetireRequest {
        attempt,
        principal: &candidate.principal,
        extent: Extent::Attempt,
        outgoing: None,
        beside: None,
    };
    world.database.retire(request).await.expect("the database answers");
    assert!(world.database.accepts(&candidate), "I8: a late withdrawal killed what is in force");
    subject.checker.store_is_foreign(false);
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_marker_ahead_of_the_store_is_a_doubt_that_a_person_settles() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE] {
        let subject = managed(&world, shape).await;
        let next = subject.policy.principals().last().map(|principal| (*principal).clone());
        let next = next.expect("a user");
        world.database.raise_fence(&next, subject.policy.name(), rekeyd::ident::Fence::new(40));
        let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::InDoubt, "{ending:?}");
        assert_eq!(ending.ending.exit_code(), 3);
        let before = world.in_force(&subject).await;
        world.process(&[&subject]).attend(&subject).await;
        assert_eq!(world.in_force(&subject).await, before, "a daemon went on by itself");
        assert_eq!(world.status(&subject).await.state, State::InDoubt);

        let busy = world.process(&[&subject]).rotate(&subject, "another").await;
        assert_eq!(busy.ending, EndingKind::InDoubt, "{busy:?}");

        let ending = world.process(&[&subject]).resume(&subject).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        subject.checker.at_rest().await;
        let ending = world.process(&[&subject]).rotate(&subject, "again").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        subject.checker.at_rest().await;
    }
}

/// Another store serves the same user, or this one was restored: what is to be retired may be in force there.
#[tokio::test]
async fn a_later_marker_at_what_is_to_be_retired_is_a_doubt_that_a_person_settles() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let old = world.in_force(&subject).await;
    let process = world.process(&[&subject]);
    process.script.next("target.retire", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    world.database.raise_fence(&old.principal, subject.policy.name(), rekeyd::ident::Fence::new(40));
    world.process(&[&subject]).attend(&subject).await;
    let status = world.status(&subject).await;
    assert_eq!(status.state, State::InDoubt, "{status:?}");
    assert!(world.database.accepts(&old), "what a later attempt holds was retired");

    let ending = world.process(&[&subject]).resume(&subject).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(!world.database.accepts(&old));
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn an_old_value_that_lives_on_is_retired_again_and_never_recorded_as_dead() {
    let world = World::new();
    for contains in [false, true] {
        for (idle, expected) in [(1, EndingKind::Rotated), (usize::MAX, EndingKind::Open)] {
            let subject = managed(&world, ALTERNATING).await;
            let old = world.in_force(&subject).await;
            world.database.turn(|knobs| knobs.idle_retires = idle);
            let process = world.process(&[&subject]);
            let ending = match contains {
                false => process.rotate(&subject, "asked").await,
                true => process.contain(&subject, "asked").await,
            };
            assert_eq!(ending.ending, expected, "{ending:?}");
            if expected == EndingKind::Open {
                assert!(ending.message.contains("still accepts the outgoing value"), "{ending:?}");
                assert!(world.database.accepts(&old));
                assert_eq!(subject.checker.records().await.len(), 1);
            }
            world.database.turn(|knobs| knobs.idle_retires = 0);
            world.settle(&subject).await;
            let records = subject.checker.at_rest().await;
            assert_eq!(records[1].proof.old_refused, Some(true));
        }
    }
}

/// The process lives, so it finds out by itself.
#[tokio::test]
async fn an_effect_whose_answer_is_lost_is_found() {
    let world = World::new();
    for shape in [ALTERNATING, IN_PLACE, Shape::new(Strategy::Generated)] {
        let subject = managed(&world, shape).await;
        let process = world.process(&[&subject]);
        process.rotate(&subject, "asked").await;
        let reads = ["store.control", "store.current", "target.probe", "target.usage"];
        for (index, call) in process.script.calls().into_iter().enumerate() {
            if reads.contains(&call) {
                continue;
            }
            let subject = managed(&world, shape).await;
            let process = world.process(&[&subject]);
            process.script.at(index, Fault::AnswerLost);
            let ending = process.rotate(&subject, "asked").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{shape:?}: call {index}, {call}: {ending:?}");
            assert_eq!(subject.checker.at_rest().await.len(), 2);
        }
    }
}

#[tokio::test]
async fn what_was_given_up_uses_no_version_and_raises_the_fence() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    world.database.turn(|knobs| knobs.picky = true);
    for request in ["one", "two"] {
        let ending = world.process(&[&subject]).rotate(&subject, request).await;
        assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    }
    world.database.turn(|knobs| knobs.picky = false);
    let process = world.process(&[&subject]);
    process.script.next("target.probe", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "three")).await.is_none());
    let run = world.run(&subject).await;
    assert_eq!((run.to.number(), run.course.fence.number()), (2, 4));
    world.settle(&subject).await;
    let records = subject.checker.at_rest().await;
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn a_request_is_answered_once() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    assert_eq!(process.rotate(&subject, "asked").await.ending, EndingKind::Rotated);
    for _ in 0..2 {
        let again = process.rotate(&subject, "asked").await;
        assert_eq!((again.ending, again.ending.exit_code()), (EndingKind::Repeated, 0), "{again:?}");
    }
    assert_eq!(subject.checker.at_rest().await.len(), 2);
}

/// What was given up may be asked for again under the same name.
#[tokio::test]
async fn a_request_that_came_to_nothing_may_be_made_again() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    world.database.turn(|knobs| knobs.powerless = true);
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    world.database.turn(|knobs| knobs.powerless = false);
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_spare_that_is_in_use_is_left_alone() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let stranger = credential(&subject, 1, "somebody uses the spare");
    subject.checker.by_hand(&stranger);
    world.database.set(&stranger);
    let session = world.database.log_in(&stranger, "a stranger").expect("a session");
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert!(world.database.lives(session));
    assert!(world.database.accepts(&stranger));
    subject.checker.at_rest().await;

    let ending = world.process(&[&subject]).contain(&subject, "leak").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(!world.database.lives(session), "a containment seizes the spare");
    assert!(!world.database.accepts(&stranger));
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn what_cannot_be_driven_is_not_begun() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let process = world.process(&[&subject]);
    process.script.break_adapters(true);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
    let other = world.subject(ALTERNATING);
    let ending = process.adopt(&other, &credential(&other, 0, "chosen-by-hand"), false).await;
    assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
    assert_eq!(subject.checker.at_rest().await.len(), 1, "something was opened");
    assert!(world.slots(&other).await.document.is_none());
}

#[tokio::test]
async fn a_ledger_that_cannot_write_delays_the_end_and_loses_nothing() {
    let world = World::new();
    for class in [FailureClass::Unavailable, FailureClass::Ambiguous, FailureClass::Denied] {
        let subject = managed(&world, ALTERNATING).await;
        let process = world.process(&[&subject]);
        process.script.next("ledger.append", usize::MAX, Fault::Fail(class));
        let ending = process.rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
        assert!(ending.message.contains("at step record"), "{ending:?}");
        let status = world.status(&subject).await;
        assert_eq!((status.state, status.version.number()), (State::Rotating, 2));
        world.settle(&subject).await;
        assert_eq!(subject.checker.at_rest().await.len(), 2);
    }
}

#[tokio::test]
async fn a_policy_that_is_edited_or_gone_changes_no_rotation_that_is_open() {
    let world = World::new();
    let subject = managed(&world, ALTERNATING).await;
    let hash = subject.policy.spec_hash();
    let process = world.process(&[&subject]);
    process.script.next("target.probe", 1, Fault::DieBefore);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let candidate = world.run(&subject).await.candidate.expect("a candidate");

    let name = subject.policy.name().name().to_owned();
    let edited =
        world.named_subject(&name, Shape { strategy: Strategy::InPlace, grace: "1h", ..ALTERNATING });
    assert_ne!(edited.policy.spec_hash(), hash);
    let process = world.process(&[&edited]);
    process.attend(&edited).await;
    assert_eq!(world.in_force(&subject).await, candidate);
    let records = subject.checker.at_rest().await;
    assert_eq!(records[1].policy_hash, hash);

    let process = world.process(&[&subject]);
    process.script.next("store.promote", 1, Fault::DieAfter);
    assert!(process.run(process.rotate(&subject, "asked-again")).await.is_none());
    let process = world.process(&[]);
    assert_eq!(process.service.orphans().await, [subject.policy.name().clone()]);
    process.attend(&subject).await;
    assert_eq!(subject.checker.at_rest().await.len(), 3);
}
