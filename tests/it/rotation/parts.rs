//! Values that have further parts: they are one version with it, whatever happens on the way.

use rekeyd::policy::load::Loaded;
use rekeyd::rotation::plan::Strategy;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::service::EndingKind;

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World};

/// A policy whose value is generated, with another specification of some of its fields.
fn generated(world: &World, change: impl FnOnce(&mut serde_json::Value)) -> Subject {
    let mut subject = world.subject(Shape::new(Strategy::Generated));
    let mut document = serde_json::from_str(&subject.document).expect("JSON");
    change(&mut document);
    subject.document = document.to_string();
    subject.policy = world.policy(&subject.document);
    subject
}

fn ring(world: &World) -> Subject {
    generated(world, |document| document["spec"]["target"] = serde_json::json!({"generated": {"ring": true}}))
}

fn ssh_key(world: &World) -> Subject {
    generated(world, |document| {
        document["spec"]["value"] = serde_json::json!({"sshKey": {"comment": "orders"}});
        document["spec"]["consumers"][0]["file"]["content"] = "{{ value }}{{ parts.publicKey }}\n".into();
    })
}

/// A process that nobody watches: readers here show other things than a name and a value.
fn process(world: &World, subject: &Subject) -> Process {
    world.process_with(Loaded { policies: vec![subject.policy.clone()], ..Loaded::default() })
}

fn part<'a>(credential: &'a Credential, name: &str) -> &'a SecretValue {
    &credential.parts[&name.parse().expect("a name")]
}

#[tokio::test]
async fn a_ring_holds_the_key_before() {
    let world = World::new();
    let subject = ring(&world);
    let rekeyd = process(&world, &subject);
    let mut before: Option<Credential> = None;
    for round in 0..3 {
        let ending = rekeyd.rotate(&subject, &format!("round-{round}")).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
        let now = world.in_force(&subject).await;
        // The first has none before it: readers find two keys all the same.
        assert_eq!(part(&now, "previous"), before.as_ref().map_or(&now.value, |before| &before.value));
        assert!(before.is_none_or(|before| before.value != now.value));
        before = Some(now);
    }
}

#[tokio::test]
async fn a_containment_drops_the_key_that_leaked_from_the_ring() {
    let world = World::new();
    let subject = ring(&world);
    let rekeyd = process(&world, &subject);
    rekeyd.rotate(&subject, "first").await;
    let leaked = world.in_force(&subject).await;
    let ending = rekeyd.contain(&subject, "leaked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    let now = world.in_force(&subject).await;
    assert!(now.value != leaked.value && *part(&now, "previous") == now.value);
    rekeyd.rotate(&subject, "next").await;
    let next = world.in_force(&subject).await;
    assert!(*part(&next, "previous") == now.value && next.value != now.value);
}

/// The value, its parts, and what readers have, are those that the rotation was opened with, wherever it dies.
#[tokio::test]
async fn no_death_parts_a_value_from_its_parts() {
    for call in ["store.save", "store.promote", "consumer.publish", "ledger.append"] {
        for fault in [Fault::DieBefore, Fault::DieAfter, Fault::AnswerLost] {
            let world = World::new();
            let subject = ssh_key(&world);
            process(&world, &subject).rotate(&subject, "first").await;
            let first = world.in_force(&subject).await;
            let dying = process(&world, &subject);
            dying.script.next(call, 1, fault);
            let _ = dying.run(dying.rotate(&subject, "asked")).await;
            let ending = process(&world, &subject).rotate(&subject, "asked").await;
            assert!(
                matches!(ending.ending, EndingKind::Rotated | EndingKind::Repeated),
                "{call} {fault:?}: {ending:?}"
            );
            let now = world.in_force(&subject).await;
            assert!(now.value != first.value, "{call} {fault:?}");
            let own = subject.policy.spec().value.parts_of(&now.value).expect("an SSH key");
            assert_eq!(now.parts, own, "{call} {fault:?}: another key's public one");
            let shown = std::fs::read_to_string(&subject.file).expect("the reader's file");
            let public = part(&now, "publicKey").expose_str().expect("text");
            let expected = format!("{}{public}\n", now.value.expose_str().expect("text"));
            assert_eq!(shown, expected, "{call} {fault:?}");
        }
    }
}

#[tokio::test]
async fn what_is_taken_over_is_whole() {
    let world = World::new();
    let subject = ssh_key(&world);
    let rekeyd = process(&world, &subject);
    let made = subject.policy.spec().value.make(None, world.now()).expect("a key");
    let principal = subject.policy.principals()[0].clone();
    let wrong = Credential::new(principal.clone(), SecretValue::new(b"hunter2".to_vec()));
    let ending = rekeyd.adopt(&subject, &wrong, false).await;
    assert_eq!(ending.ending, EndingKind::Failed, "{ending:?}");
    assert!(ending.message.contains("not an SSH key") && !format!("{ending:?}").contains("hunter2"));
    // The public key is known by the private one.
    let live = Credential::new(principal, made.value.duplicate());
    let ending = rekeyd.adopt(&subject, &live, false).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    assert_eq!(world.in_force(&subject).await.parts, made.parts);

    let certified = generated(&world, |document| {
        document["spec"]["value"] =
            serde_json::json!({"certificate": {"dnsNames": ["orders"], "validFor": "30d"}});
    });
    let other = process(&world, &certified);
    let made = certified.policy.spec().value.make(None, world.now()).expect("a certificate");
    let live = Credential::new(certified.policy.principals()[0].clone(), made.value.duplicate());
    let ending = other.adopt(&certified, &live, false).await;
    assert!(ending.message.contains("its part `certificate` is not given"), "{ending:?}");
    assert!(ending.remedy.is_some_and(|remedy| remedy.contains("--part certificate=FILE")));
    let ending = other.adopt(&certified, &live.with_parts(made.parts), false).await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
}

/// A containment that finds a rotation open may go on with its candidate, but for one that has the leaked key in it.
#[tokio::test]
async fn a_containment_takes_over_no_ring_with_the_key_that_leaked() {
    let world = World::new();
    let subject = ring(&world);
    process(&world, &subject).rotate(&subject, "first").await;
    let leaked = world.in_force(&subject).await;
    let dying = process(&world, &subject);
    dying.script.next("store.promote", 1, Fault::DieBefore);
    assert!(dying.run(dying.rotate(&subject, "asked")).await.is_none(), "it is to die");
    let ending = process(&world, &subject).contain(&subject, "leaked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    for _ in 0..3 {
        process(&world, &subject).attend(&subject).await;
    }
    let now = world.in_force(&subject).await;
    assert!(now.secrets().all(|secret| *secret != leaked.value), "the leaked key is still in the ring");
}

#[tokio::test]
async fn parts_of_another_value_are_not_taken_over() {
    let world = World::new();
    let subject = ssh_key(&world);
    let value = &subject.policy.spec().value;
    let (one, other) =
        (value.make(None, world.now()).expect("a key"), value.make(None, world.now()).expect("a key"));
    let principal = || subject.policy.principals()[0].clone();
    let mixed = Credential::new(principal(), one.value.duplicate()).with_parts(other.parts);
    let ending = process(&world, &subject).adopt(&subject, &mixed, false).await;
    assert!(ending.message.contains("its part `publicKey` is another value's"), "{ending:?}");

    let certified = generated(&world, |document| {
        document["spec"]["value"] =
            serde_json::json!({"certificate": {"dnsNames": ["orders"], "validFor": "30d"}});
    });
    let value = &certified.policy.spec().value;
    let (one, other) = (
        value.make(None, world.now()).expect("a certificate"),
        value.make(None, world.now()).expect("a certificate"),
    );
    let principal = certified.policy.principals()[0].clone();
    let mixed = Credential::new(principal, one.value).with_parts(other.parts);
    let ending = process(&world, &certified).adopt(&certified, &mixed, false).await;
    assert!(ending.message.contains("another key's"), "{ending:?}");
}
