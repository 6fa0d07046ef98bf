//! Taking over a credential that is live.

use rekeyd::ledger::{Outcome, TriggerKind};
use rekeyd::rotation::plan::Strategy;
use rekeyd::secret::Credential;
use rekeyd::service::EndingKind;
use rekeyd::status::State;

use crate::world::faults::Fault;
use crate::world::{Shape, Subject, World, credential};

const STRATEGIES: [Strategy; 2] = [Strategy::Alternating, Strategy::InPlace];

/// A policy that nothing was done for, and a value that somebody gave its first user.
fn live(world: &World, strategy: Strategy) -> (Subject, Credential) {
    let subject = world.subject(Shape::new(strategy));
    let live = credential(&subject, 0, "chosen-by-hand-long-ago");
    subject.checker.by_hand(&live);
    world.database.set(&live);
    (subject, live)
}

#[tokio::test]
async fn the_right_value_becomes_the_first_version_and_is_not_touched() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, live) = live(&world, strategy);
        let session = world.database.log_in(&live, "a reader").expect("a session");
        let process = world.process(&[&subject]);
        let ending = process.adopt(&subject, &live, false).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        assert!(world.database.accepts(&live) && world.database.lives(session));
        assert_eq!(world.in_force(&subject).await, live);
        assert!(!subject.file.exists(), "the reader's own file was touched");
        let records = subject.checker.at_rest().await;
        assert_eq!((records[0].trigger, records[0].to.number()), (TriggerKind::Adopt, 1));
        assert!(!process.script.calls().contains(&"target.install"));

        let again = process.adopt(&subject, &live, false).await;
        assert_eq!(again.ending, EndingKind::Failed, "{again:?}");
        assert!(again.remedy.is_some_and(|remedy| remedy.contains("--replace")));
        let ending = process.rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        assert!(!world.database.accepts(&live));
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_wrong_value_is_refused_and_nothing_is_changed() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, live) = live(&world, strategy);
        let wrong = credential(&subject, 0, "mistyped-by-somebody");
        let process = world.process(&[&subject]);
        let ending = process.adopt(&subject, &wrong, false).await;
        assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
        assert!(world.database.accepts(&live));
        assert!(world.current(&subject).await.is_none());
        assert_eq!(world.status(&subject).await.state, State::Empty);
        let ending = process.adopt(&subject, &live, false).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        subject.checker.at_rest().await;
    }
}

/// An adoption changes nothing at the target, so there is nothing to take back there.
#[tokio::test]
async fn an_adoption_that_is_given_up_after_a_death_leaves_the_live_value_alone() {
    let world = World::new();
    for strategy in STRATEGIES {
        for by_a_person in [false, true] {
            let (subject, live) = live(&world, strategy);
            let session = world.database.log_in(&live, "a reader").expect("a session");
            let process = world.process(&[&subject]);
            process.script.next("target.probe", 1, Fault::DieBefore);
            assert!(process.run(process.adopt(&subject, &live, false)).await.is_none());
            if by_a_person {
                let ending = world.process(&[&subject]).abandon(&subject).await;
                assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
            } else {
                world.database.turn(|knobs| knobs.unfit = true);
                world.settle(&subject).await;
                world.database.turn(|knobs| knobs.unfit = false);
            }
            assert!(world.database.accepts(&live) && world.database.lives(session));
            let records = subject.checker.at_rest().await;
            assert_eq!(records[0].outcome, Outcome::Abandoned);
        }
    }
}

#[tokio::test]
async fn a_value_changed_by_hand_is_taken_over_in_place_of_the_old_one() {
    let world = World::new();
    for in_store_too in [false, true] {
        for strategy in STRATEGIES {
            let (subject, first) = live(&world, strategy);
            let process = world.process(&[&subject]);
            process.adopt(&subject, &first, false).await;
            let second = credential(&subject, 0, "changed-by-hand-last-night");
            subject.checker.by_hand(&second);
            // Somebody changes values by hand, which no invariant allows for.
            world.look_away();
            world.database.set(&second);
            if in_store_too {
                world.overwrite(&subject, &second).await;
            }
            let ending = process.adopt(&subject, &second, true).await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            let records = subject.checker.at_rest().await;
            assert_eq!((records[1].from.number(), records[1].to.number()), (1, 2));
            let ending = process.rotate(&subject, "asked").await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
            subject.checker.at_rest().await;
        }
    }
}

/// The value is in the store and is not what the target accepts: a death must not make it version 1.
#[tokio::test]
async fn a_wrong_value_that_is_in_the_store_already_is_not_adopted_after_a_death() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, _) = live(&world, strategy);
        let wrong = credential(&subject, 0, "mistyped-by-somebody");
        subject.checker.store_is_foreign(true);
        world.overwrite(&subject, &wrong).await;
        let process = world.process(&[&subject]);
        process.script.next("target.probe", 1, Fault::DieAfter);
        assert!(process.run(process.adopt(&subject, &wrong, false)).await.is_none());
        world.settle(&subject).await;
        let records = subject.checker.at_rest().await;
        assert_eq!(records[0].outcome, Outcome::Abandoned, "{records:?}");
    }
}

/// The ledger takes no record that holds a value, and this one would always hold it.
#[tokio::test]
async fn a_value_that_is_a_name_in_the_record_is_refused_before_anything_is_opened() {
    let world = World::new();
    for strategy in STRATEGIES {
        let (subject, _) = live(&world, strategy);
        let guessable = credential(&subject, 0, subject.policy.principals()[0].as_str());
        subject.checker.by_hand(&guessable);
        world.database.set(&guessable);
        let ending = world.process(&[&subject]).adopt(&subject, &guessable, false).await;
        assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
        assert!(ending.remedy.is_some());
        assert!(world.slots(&subject).await.document.is_none());
    }
}

#[tokio::test]
async fn what_cannot_be_adopted_is_said() {
    let world = World::new();
    let (subject, live) = live(&world, Strategy::Alternating);
    let stranger = Credential::new("stranger".parse().expect("a principal"), live.value.duplicate());
    let process = world.process(&[&subject]);
    let ending = process.adopt(&subject, &stranger, false).await;
    assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
    process.script.next("target.probe", 1, Fault::DieBefore);
    assert!(process.run(process.adopt(&subject, &live, false)).await.is_none());
    let ending = world.process(&[&subject]).adopt(&subject, &live, true).await;
    assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
    assert!(ending.message.contains("a rotation of it is open"), "{ending:?}");
}
