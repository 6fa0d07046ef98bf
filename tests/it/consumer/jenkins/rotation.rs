//! A whole rotation with a Jenkins among its readers.

use rekeyd::ident::Version;
use rekeyd::rotation::plan::Strategy;
use rekeyd::secret::Credential;
use rekeyd::service::EndingKind;
use serde_json::{Value, json};

use super::{ID, SYSTEM};
use crate::jenkins::{Fate, Jenkins};
use crate::world::checker::Checker;
use crate::world::{Shape, Subject, World};

/// A policy whose value a Jenkins has, beside a file.
fn subject(world: &World, jenkins: &Jenkins) -> Subject {
    let mut subject = world.subject(Shape::new(Strategy::Alternating));
    let mut document: Value = serde_json::from_str(&subject.document).expect("JSON");
    let reader = json!({"jenkins": {
        "url": jenkins.url(), "admin": "jenkins", "id": ID, "credential": {"usernamePassword": {}},
    }});
    document["spec"]["consumers"].as_array_mut().expect("a list").insert(0, reader);
    subject.document = document.to_string();
    let mut loaded = world.parse(&subject.document);
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    subject.policy = loaded.policies.remove(0);
    subject
}

/// What builds log in with.
fn builds(jenkins: &Jenkins) -> (String, String) {
    let kept = jenkins.kept(SYSTEM, ID).expect("a credential");
    let field = |name| kept.field(name).expect("a field").to_owned();
    (field("username"), field("password"))
}

fn both(credential: &Credential) -> (String, String) {
    (credential.principal.to_string(), credential.value.expose_str().expect("text").to_owned())
}

#[tokio::test]
async fn a_jenkins_that_is_down_holds_up_nobody_else_and_keeps_the_outgoing_value_alive() {
    let mut jenkins = Jenkins::start().await;
    let world = World::new();
    let subject = subject(&world, &jenkins);
    world.begin(&subject).await;
    let outgoing = world.in_force(&subject).await;
    assert_eq!(builds(&jenkins), both(&outgoing));

    jenkins.stop().await;
    let process = world.process(&[&subject]);
    let ending = process.rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    let said = format!("{ending:?}");
    assert!(said.contains("Jenkins credential") && said.contains("cannot be reached"), "{said}");
    // The other reader has the new value, and the one that cannot be told its old one, which works.
    let candidate = world.in_force(&subject).await;
    assert_ne!(both(&candidate), both(&outgoing));
    let file = std::fs::read_to_string(&subject.file).expect("the file");
    assert_eq!(file, Checker::content(&candidate, 2));
    assert!(world.database.accepts(&outgoing) && world.database.accepts(&candidate));
    assert_eq!(builds(&jenkins), both(&outgoing));

    // Nor does it hold up another policy.
    let other = world.subject(Shape::new(Strategy::Alternating));
    world.begin(&other).await;
    let ending = world.process(&[&other]).rotate(&other, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");

    jenkins.resume().await;
    world.settle(&subject).await;
    assert_eq!(builds(&jenkins), both(&candidate));
    assert!(!world.database.accepts(&outgoing), "the outgoing value lives");
    assert_eq!(world.status(&subject).await.version, Version::new(2));
}

/// Nothing that Jenkins answers, or does not, makes the engine believe in a reader that it does not have.
#[tokio::test]
async fn an_update_that_jenkins_forgets_is_not_taken_for_done() {
    let jenkins = Jenkins::start().await;
    let world = World::new();
    let subject = subject(&world, &jenkins);
    world.begin(&subject).await;
    let outgoing = world.in_force(&subject).await;
    for _ in 0..200 {
        jenkins.next("update", Fate::Ignored);
    }
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    assert!(format!("{ending:?}").contains("has not changed it"), "{ending:?}");
    assert!(world.database.accepts(&outgoing), "builds still log in with it");
    jenkins.contents().forgive();
    world.settle(&subject).await;
    assert_eq!(builds(&jenkins), both(&world.in_force(&subject).await));
    assert!(!world.database.accepts(&outgoing));
}
