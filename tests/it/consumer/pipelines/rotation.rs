//! Whole rotations with pipelines among the readers.

use std::sync::Arc;

use rekeyd::ident::Version;
use rekeyd::recipe::shipped::PLACES;
use rekeyd::rotation::plan::Strategy;
use rekeyd::service::EndingKind;
use serde_json::{Value, json};

use crate::providers_support::github_actions::{GitHubActions, REPOSITORY, Sites};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};
use crate::providers_support::{Fate, Stub};
use crate::world::checker::Checker;
use crate::world::{Shape, Subject, World};

/// The settings of the world know the admin by this name, which is its value, too.
const ADMIN: &str = "pipelines";
const CONTENT: &str = "{{ principal }}:{{ value }}";

/// A GitHub and a GitLab whose jobs log in with what a policy gives them.
struct Pipelines {
    github: Stub,
    secrets: Sites,
    gitlab: Stub,
    variables: Variables,
}

impl Pipelines {
    async fn new() -> Self {
        let (provider, secrets) = GitHubActions::new(ADMIN);
        let variables = Variables::default();
        let gitlab = GitLabVariables { admin: ADMIN.into(), variables: Arc::clone(&variables) };
        Self { github: Stub::start(provider).await, secrets, gitlab: Stub::start(gitlab).await, variables }
    }

    /// A policy whose value both have, beside a file.
    fn subject(&self, world: &World) -> Subject {
        let mut subject = world.subject(Shape::new(Strategy::Alternating));
        let mut document: Value = serde_json::from_str(&subject.document).expect("JSON");
        let place = |recipe: &str, stub: &Stub, parameters: Value| {
            json!({"http": {"recipe": recipe, "base": format!("http://{}", stub.address), "admin": ADMIN,
                            "parameters": parameters, "content": CONTENT}})
        };
        let readers = document["spec"]["consumers"].as_array_mut().expect("a list");
        let parameters = json!({"owner": "acme", "repository": "orders", "name": "DB"});
        readers.insert(0, place("github-secret", &self.github, parameters));
        readers.insert(0, place("gitlab-variable", &self.gitlab, json!({"project": 17, "key": "DB"})));
        subject.document = document.to_string();
        // Without the pace of what comes along, which would take seconds of each test.
        let recipe = PLACES.iter().find(|(name, _)| *name == "github-secret").expect("a recipe").1;
        let recipe = recipe.replace("limits: {requestsPerSecond: 5}", "limits: {}");
        let mut loaded = world.parse(&format!("{}\n---\n{recipe}", subject.document));
        assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
        subject.policy = loaded.policies.remove(0);
        subject
    }

    /// What jobs of GitHub log in with.
    fn of_github(&self) -> String {
        let sites = self.secrets.lock().expect("no panic");
        String::from_utf8(sites[REPOSITORY].secrets["DB"].value.clone()).expect("text")
    }

    /// What those of GitLab do.
    fn of_gitlab(&self) -> String {
        let variables = self.variables.lock().expect("no panic");
        variables[&("DB".to_owned(), "*".to_owned())]["value"].as_str().expect("text").to_owned()
    }
}

fn both(credential: &rekeyd::secret::Credential) -> String {
    format!("{}:{}", credential.principal, credential.value.expose_str().expect("text"))
}

#[tokio::test]
async fn pipelines_that_are_down_hold_up_nobody_else_and_keep_the_outgoing_value_alive() {
    let pipelines = Pipelines::new().await;
    let world = World::new();
    let subject = pipelines.subject(&world);
    world.begin(&subject).await;
    let outgoing = world.in_force(&subject).await;
    assert_eq!([pipelines.of_github(), pipelines.of_gitlab()], [both(&outgoing), both(&outgoing)]);

    pipelines.github.go_away(true);
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    let said = format!("{ending:?}");
    assert!(said.contains("GitHub secret DB of acme/orders"), "{said}");
    // The others have the new value, and the one that cannot be told its old one, which works.
    let candidate = world.in_force(&subject).await;
    assert_ne!(both(&candidate), both(&outgoing));
    assert_eq!([pipelines.of_github(), pipelines.of_gitlab()], [both(&outgoing), both(&candidate)]);
    let file = std::fs::read_to_string(&subject.file).expect("the file");
    assert_eq!(file, Checker::content(&candidate, 2));
    assert!(world.database.accepts(&outgoing) && world.database.accepts(&candidate));

    // Nor does it hold up another policy.
    let other = world.subject(Shape::new(Strategy::Alternating));
    world.begin(&other).await;
    let ending = world.process(&[&other]).rotate(&other, "asked").await;
    assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");

    pipelines.github.go_away(false);
    world.settle(&subject).await;
    assert_eq!([pipelines.of_github(), pipelines.of_gitlab()], [both(&candidate), both(&candidate)]);
    assert!(!world.database.accepts(&outgoing), "the outgoing value lives");
    assert_eq!(world.status(&subject).await.version, Version::new(2));
}

/// Nothing that a system answers, or does not, makes the engine believe in a reader that it does not have.
#[tokio::test]
async fn a_write_that_is_forgotten_is_not_taken_for_done() {
    let pipelines = Pipelines::new().await;
    let world = World::new();
    let subject = pipelines.subject(&world);
    world.begin(&subject).await;
    let outgoing = world.in_force(&subject).await;
    for _ in 0..200 {
        pipelines.gitlab.next(("PUT", ""), Fate::Ignored);
    }
    let ending = world.process(&[&subject]).rotate(&subject, "asked").await;
    assert_eq!(ending.ending, EndingKind::Open, "{ending:?}");
    assert!(format!("{ending:?}").contains("it has not changed"), "{ending:?}");
    assert!(world.database.accepts(&outgoing), "jobs still log in with it");
    pipelines.gitlab.forgive();
    world.settle(&subject).await;
    let candidate = both(&world.in_force(&subject).await);
    assert_eq!([pipelines.of_github(), pipelines.of_gitlab()], [candidate.clone(), candidate]);
    assert!(!world.database.accepts(&outgoing));
}
