//! Places outside that a value is written to: pipelines, Jenkins, copies in a store.

use async_trait::async_trait;
use rekeyd::recipe::shipped::PLACES;
use rekeyd::secret::Credential;
use rekeyd::settings::StoreSettings;
use serde_json::{Value, json};

use super::Ground;
use crate::aws_service::Service;
use crate::faults_walk::Around;
use crate::jenkins::{Jenkins, TOKEN, USER};
use crate::providers_support::Stub;
use crate::providers_support::github_actions::{GitHubActions, REPOSITORY, Sites};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};

const NAME: &str = "DB";

/// What whoever reads at the place finds there.
struct Place<F>(F);

#[async_trait]
impl<F: Fn() -> Vec<u8> + Send + Sync> Around for Place<F> {
    async fn look(&self, in_force: &Credential) {
        assert!((self.0)() == in_force.value.expose(), "it is not the value in force");
    }
}

/// Walks over the calls to a reader of a value that no target knows, from its first version on.
async fn walk(
    ground: &Ground,
    reader: Value,
    documents: &[String],
    shown: impl Fn() -> Vec<u8> + Send + Sync + 'static,
) {
    let walk = ground.walk(&json!({"generated": {}}), &[reader], documents).among(Place(shown));
    walk.begin().await;
    walk.briefly_over(&["consumer."]).await;
}

fn base(stub: &Stub) -> String {
    format!("http://{}", stub.address)
}

#[tokio::test]
async fn a_secret_of_github() {
    let ground = Ground::new().with_admin("pipelines", ("admin", TOKEN), "127.0.0.1");
    let (github, sites): (_, Sites) = GitHubActions::new(TOKEN);
    let stub = Stub::start(github).await;
    // Without the pace of what comes along, which would take seconds.
    let recipe = PLACES.iter().find(|(name, _)| *name == "github-secret").expect("a recipe").1;
    let recipe = recipe.replace("limits: {requestsPerSecond: 5}", "limits: {}");
    let reader = json!({"http": {
        "recipe": "github-secret", "base": base(&stub), "admin": "pipelines",
        "parameters": {"owner": "acme", "repository": "orders", "name": NAME},
    }});
    let shown = move || sites.lock().expect("no panic")[REPOSITORY].secrets[NAME].value.clone();
    walk(&ground, reader, &[recipe], shown).await;
}

#[tokio::test]
async fn a_variable_of_gitlab() {
    let ground = Ground::new().with_admin("pipelines", ("admin", TOKEN), "127.0.0.1");
    let variables = Variables::default();
    let gitlab = GitLabVariables { admin: TOKEN.into(), variables: variables.clone() };
    let stub = Stub::start(gitlab).await;
    let reader = json!({"http": {
        "recipe": "gitlab-variable", "base": base(&stub), "admin": "pipelines",
        "parameters": {"project": 17, "key": NAME},
    }});
    let shown = move || {
        let variables = variables.lock().expect("no panic");
        variables[&(NAME.to_owned(), "*".to_owned())]["value"].as_str().expect("text").into()
    };
    walk(&ground, reader, &[], shown).await;
}

#[tokio::test]
async fn a_credential_of_jenkins() {
    let ground = Ground::new().with_admin("jenkins", (USER, TOKEN), "127.0.0.1");
    let jenkins = Jenkins::start().await;
    let reader = json!({"jenkins": {
        "url": jenkins.url(), "admin": "jenkins", "id": NAME, "credential": {"secretText": {}},
    }});
    let shown = move || {
        let kept = jenkins.kept("credentials/store/system/domain/_", NAME).expect("a credential");
        kept.field("secret").expect("a secret").into()
    };
    walk(&ground, reader, &[], shown).await;
}

#[tokio::test]
async fn a_copy_at_aws() {
    let mut ground = Ground::new();
    let service = Service::start().await;
    let settings = StoreSettings::AwsSecretsManager(service.settings());
    ground.settings["stores"]["aws"] = serde_json::to_value(settings).expect("JSON");
    let shown = move || {
        service.with(|account| {
            let version = account.known(NAME).and_then(|secret| secret.with("AWSCURRENT")).expect("a copy");
            let data: Value = serde_json::from_str(&version.text).expect("JSON");
            data["password"].as_str().expect("a value").into()
        })
    };
    walk(&ground, json!({"awsSecretsManager": {"store": "aws", "name": NAME}}), &[], shown).await;
}
