//! Keys that a provider makes: what was made in vain is found and deleted, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::ident::Principal;
use rekeyd::ledger::Outcome;
use rekeyd::policy::spec::{InPlaceSpec, TargetSpec};
use rekeyd::rotation::event::What;
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::Step;
use rekeyd::secret::Credential;
use rekeyd::service::{Attention, EndingKind};
use rekeyd::target::{Probe, ProbeDepth, Target as _};

use crate::world::faults::Fault;
use crate::world::provider::Provider;
use crate::world::{Shape, Subject, World};

const KEYS: Shape = Shape { grace: "1s", ..Shape::new(Strategy::DualKey) };

async fn managed(world: &World, shape: Shape) -> Subject {
    let subject = world.subject(shape);
    world.begin(&subject).await;
    subject
}

fn owner(subject: &Subject) -> Principal {
    subject.policy.principals()[0].clone()
}

/// The ids of the keys that there are.
fn ids(world: &World, subject: &Subject) -> Vec<Principal> {
    world.database.key_ids(&owner(subject))
}

async fn only(world: &World, subject: &Subject) -> Credential {
    let current = world.in_force(subject).await;
    assert_eq!(ids(world, subject), std::slice::from_ref(&current.principal), "there are other keys");
    assert!(world.database.accepts(&current));
    current
}

#[tokio::test]
async fn each_rotation_leaves_one_key_and_names_it() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let first = only(&world, &subject).await;
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    let second = only(&world, &subject).await;
    assert_ne!(first.principal, second.principal);
    let records = subject.checker.at_rest().await;
    assert_eq!(records[1].principal, second.principal);
    assert_eq!(records[1].outgoing.as_ref(), Some(&first.principal));
    assert_eq!(records[1].strategy, "dualKey");
}

/// Another provider says of every key of this one that it is none.
#[tokio::test]
async fn no_other_provider_than_the_one_that_made_a_key_is_asked_about_it() {
    let world = World::new();
    let mut subject = managed(&world, KEYS).await;
    let current = only(&world, &subject).await;
    let here = subject.policy.clone();
    let elsewhere = InPlaceSpec { user: "elsewhere".parse().expect("a principal") };
    subject.policy = here.clone().with_target(TargetSpec::SimulatedKeys(elsewhere));
    let process = world.process(&[&subject]);
    for ending in [process.rotate(&subject, "asked").await, process.contain(&subject, "leaked").await] {
        assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
        assert!(ending.message.contains("was made by simulated keys of"), "{ending:?}");
    }
    subject.policy = here;
    let ending = world.process(&[&subject]).rotate(&subject, "again").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(!world.database.accepts(&current));
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_key_whose_answer_was_lost_is_deleted_before_another_is_made() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    // There is room for two: with one that is nobody's, the next could not be made.
    let process = world.process(&[&subject]);
    process.script.next("target.mint", 2, Fault::AnswerLost);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_eq!(process.script.calls().iter().filter(|call| **call == "target.mint").count(), 3);
    only(&world, &subject).await;
    subject.checker.at_rest().await;
}

/// What its schedule needs is what the target is asked for.
#[tokio::test]
async fn a_key_that_would_end_before_the_next_one_is_not_made() {
    let world = World::new();
    let quarterly = r#"{"cron": "0 3 1 */3 *", "window": "2h"}"#;
    let subject = managed(&world, Shape { schedule: Some(quarterly), ..KEYS }).await;
    let first = only(&world, &subject).await;
    let day = Duration::from_secs(86_400);
    world.database.turn(|knobs| knobs.life = Some(92 * day));
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert!(ending.message.contains("it would end too early"), "{ending:?}");
    assert_eq!(only(&world, &subject).await, first);
    for life in [94 * day, day] {
        world.database.turn(|knobs| knobs.life = Some(life));
        let process = world.process(&[&subject]);
        // A leak does not wait for a server's settings.
        let ending = if life > day {
            process.rotate(&subject, "again").await
        } else {
            process.contain(&subject, "leaked").await
        };
        assert_eq!(ending.ending, EndingKind::Rotated, "{life:?}: {ending:?}");
        only(&world, &subject).await;
        // Whoever asked sees it.
        let minted = process.events().into_iter().find_map(|event| match event.what {
            What::Done { step: Step::Mint, detail, .. } => Some(detail),
            _ => None,
        });
        let told = (life == day).then(|| "it would end too early".to_owned());
        assert_eq!(minted, Some(told), "{life:?}");
    }
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_key_that_came_late_is_deleted_by_the_next_rotation() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let process = world.process(&[&subject]);
    process.script.next("target.mint", 1, Fault::Late(1000));
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    world.wire.deliver_all().await;
    assert_eq!(ids(&world, &subject).len(), 2, "nothing came late");
    let ending = world.process(&[&subject]).rotate(&subject, "again").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    only(&world, &subject).await;
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn without_names_what_is_new_and_unused_is_the_orphan() {
    let world = World::new();
    world.database.turn(|knobs| knobs.untagged = true);
    let subject = managed(&world, KEYS).await;
    let process = world.process(&[&subject]);
    process.script.next("target.mint", 1, Fault::DieAfter);
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none(), "it lives");
    assert_eq!(ids(&world, &subject).len(), 2);
    world.settle(&subject).await;
    only(&world, &subject).await;
    assert_eq!(subject.checker.at_rest().await[1].outcome, Outcome::Rotated);
}

#[tokio::test]
async fn a_key_of_somebody_elses_is_never_deleted_to_make_room() {
    let world = World::new();
    for untagged in [false, true] {
        world.database.turn(|knobs| knobs.untagged = untagged);
        let subject = managed(&world, KEYS).await;
        let before = only(&world, &subject).await;
        let foreign = world.database.make_key(&owner(&subject));
        let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
        let said = ending.record.and_then(|record| record.failure).expect("a reason");
        assert!(said.contains(foreign.principal.as_str()), "it is not named: {said}");
        assert_eq!(world.in_force(&subject).await, before);
        assert!(world.database.accepts(&before) && world.database.accepts(&foreign));
        // When there is room again, it goes on.
        world.database.delete_key(&foreign.principal);
        let ending = world.process(&[&subject]).rotate(&subject, "again").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        only(&world, &subject).await;
        subject.checker.at_rest().await;
    }
}

/// Staging and production may have a policy of one name at one owner. A candidate there may not have been used yet.
#[tokio::test]
async fn a_key_of_a_policy_of_the_same_name_elsewhere_is_left_alone() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let before = only(&world, &subject).await;
    let elsewhere = world.database.make_key_elsewhere(&owner(&subject), subject.policy.name());
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "there is no room: {ending:?}");
    assert!(world.database.accepts(&elsewhere), "the other installation's key was deleted");
    assert_eq!(world.in_force(&subject).await, before);
    world.database.delete_key(&elsewhere.principal);
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_key_that_fails_its_check_is_taken_back() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let before = only(&world, &subject).await;
    world.database.turn(|knobs| knobs.unfit = true);
    let process = world.process(&[&subject]);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
    let calls = |name: &str| process.script.calls().into_iter().filter(|call| *call == name).count();
    // Whoever opened it is alone with it: there is no promotion to bar, and nothing is gone over twice.
    assert_eq!((calls("store.promote"), calls("ledger.append")), (0, 1), "{:?}", process.script.calls());
    assert_eq!(only(&world, &subject).await, before);
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_key_that_somebody_revokes_on_its_way_is_made_again_by_the_next() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let before = only(&world, &subject).await;
    let process = world.process(&[&subject]);
    process.script.next("target.probe", 1, Fault::Pause);
    let meddle = async {
        process.script.paused().await;
        let candidate = world.run(&subject).await.candidate.expect("a candidate");
        world.database.delete_key(&candidate.principal);
        process.script.let_go();
    };
    let (ending, ()) = tokio::join!(process.rotate(&subject, "asked"), meddle);
    assert_eq!(ending.ending, EndingKind::RolledBack, "{ending:?}");
    assert_eq!(only(&world, &subject).await, before);
    let ending = world.process(&[&subject]).rotate(&subject, "again").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn an_outgoing_key_is_disabled_for_a_while_before_it_is_deleted() {
    let world = World::new();
    let subject = managed(&world, Shape { soak: "1h", schedule: None, ..KEYS }).await;
    let before = only(&world, &subject).await;
    let process = world.process(&[&subject]);
    process.script.next("target.probe", usize::MAX, Fault::DieBefore);
    // It dies at the first login: the next one makes no other key.
    assert!(process.run(process.rotate(&subject, "asked")).await.is_none());
    let process = world.process(&[&subject]);
    let process_ref = &process;
    let disabled = async {
        while world.run(&subject).await.course.disabled_at.is_none() {
            tokio::task::yield_now().await;
        }
        assert!(!world.database.accepts(&before), "it is not disabled");
        assert_eq!(ids(&world, &subject).len(), 2, "it is deleted already");
        process_ref.stop.cancel();
    };
    tokio::join!(process.attend(&subject), disabled);
    // The time is kept, whoever looks after it.
    world.clock.advance(Duration::from_secs(3600));
    assert!(!matches!(world.process(&[&subject]).attend(&subject).await, Attention::Later(_)));
    only(&world, &subject).await;
    subject.checker.at_rest().await;
}

/// Whoever that is, no policy names it.
#[tokio::test]
async fn who_still_uses_a_key_when_all_have_moved_is_told_of_before_it_is_deleted() {
    for is_used in [false, true] {
        let world = World::new();
        let shape = Shape { soak: "1h", grace: "20m", schedule: None, ..KEYS };
        let subject = managed(&world, shape).await;
        let before = only(&world, &subject).await;
        let process = world.process(&[&subject]);
        if is_used {
            // Long after all were told: who uses it while clocks may differ may have been told a moment ago.
            let (provider, key) = (Provider(Arc::clone(&world.database)), before.duplicate());
            world.clock.after(Duration::from_secs(600), async move {
                assert_eq!(
                    provider.probe(&key, ProbeDepth::Login).await,
                    Probe::Accepted,
                    "it is dead already"
                );
            });
        }
        let ending = process.rotate(&subject, "asked").await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        let told: Vec<(Step, String)> = process
            .events()
            .into_iter()
            .filter_map(|event| match event.what {
                What::Waiting { step, detail } => Some((step, detail)),
                What::Done { step, detail, .. } => Some((step, detail?)),
                _ => None,
            })
            .filter(|(step, detail)| *step == Step::Retire && detail.contains("somebody still used"))
            .collect();
        assert_eq!(
            told.len() >= 2,
            is_used,
            "it is told while the key is disabled, and at the end: {told:?}"
        );
        only(&world, &subject).await;
        subject.checker.at_rest().await;
    }
}

#[tokio::test]
async fn a_containment_deletes_a_key_at_once() {
    let world = World::new();
    let subject = managed(&world, Shape { soak: "1h", ..KEYS }).await;
    let before = only(&world, &subject).await;
    let now = world.now();
    let ending = world.process(&[&subject]).contain(&subject, "leaked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert!(!world.database.accepts(&before));
    assert!(world.now().duration_since(now).as_secs() < 60, "it waited");
    only(&world, &subject).await;
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn a_key_that_was_made_by_hand_is_taken_over_and_replaced() {
    let world = World::new();
    let subject = world.subject(KEYS);
    let live = world.database.make_key(&owner(&subject));
    subject.checker.by_hand(&live);
    let ending = world.process(&[&subject]).adopt(&subject, &live, false).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_eq!(only(&world, &subject).await, live);
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_ne!(only(&world, &subject).await, live);
    subject.checker.at_rest().await;
}

#[tokio::test]
async fn who_may_not_make_keys_changes_nothing() {
    let world = World::new();
    let subject = managed(&world, KEYS).await;
    let before = only(&world, &subject).await;
    let process = world.process(&[&subject]);
    process.script.next("target.mint", 1, Fault::Fail(FailureClass::Denied));
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Abandoned, "{ending:?}");
    assert_eq!(only(&world, &subject).await, before);
    assert!(!process.script.calls().contains(&"target.retire"), "something was deleted");
    subject.checker.at_rest().await;
}
