//! Keys of HTTP APIs, by the recipes that rekeyd brings along, at stubs of their providers.
//!
//! A recipe is as it comes along, but for the provider's host, and for what it says of how long to wait: for the pace of
//! requests, and until the provider knows of what it did.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::ident::{PolicyName, RotationId};
use rekeyd::policy::spec::Interval;
use rekeyd::recipe::{Recipe, shipped};
use rekeyd::rotation::progress::Step;
use rekeyd::secret::{Credential, SecretValue};
use serde_json::{Value, json};

use super::Ground;
use crate::faults_walk::{Around, Process, Walk};
use crate::providers_support::anthropic::Anthropic;
use crate::providers_support::azure::Azure;
use crate::providers_support::cloudflare::Cloudflare;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::datadog::Datadog;
use crate::providers_support::docker_hub::DockerHub;
use crate::providers_support::gitea::Gitea;
use crate::providers_support::github::{DeployKeys, GitHub};
use crate::providers_support::gitlab::GitLab;
use crate::providers_support::google::Google;
use crate::providers_support::grafana::Grafana;
use crate::providers_support::openai::OpenAi;
use crate::providers_support::sendgrid::SendGrid;
use crate::providers_support::slack::Slack;
use crate::providers_support::twilio::Twilio;
use crate::providers_support::{Made, Provider, Stub, jwt};
use crate::world::faults::Fault;

/// The admin's value, in every one of these tests.
const ADMIN: &str = "admin-key-of-the-test";

/// Each line is a test: a walk over the keys of a recipe, `more` of the target's fields as a policy says them.
macro_rules! walks {
    ($($name:ident: $recipe:literal, $provider:expr, $more:expr;)+) => {$(
        #[tokio::test]
        async fn $name() {
            let site = Site::new($recipe, $provider, ADMIN, $more).await;
            let walk = site.walk().among(OneKey(Arc::clone(&site.stub)));
            walk.begin().await;
            walk.briefly_over(&["target."]).await;
        }
    )+};
}

walks! {
    openai: "openai-service-account", OpenAi { admin: ADMIN.into() },
        json!({"parameters": {"project": "proj_1", "serviceAccount": "svc_acct_1"}});
    sendgrid: "sendgrid", SendGrid { admin: ADMIN.into() }, json!({"parameters": {"scopes": ["mail.send"]}});
    datadog: "datadog-api-key", Datadog { admin: ADMIN.into(), api: "api".into() },
        json!({"credentials": {"api": "api"}});
    cloudflare: "cloudflare-token", Cloudflare { admin: ADMIN.into() },
        json!({"parameters": {"account": "acc1", "policies": [
            {"effect": "allow", "resources": {"com.cloudflare.api.account.acc1": "*"}, "permission_groups": [{"id": "p1"}]},
        ]}});
    gitlab: "gitlab-project-token", GitLab { admin: ADMIN.into() },
        json!({"parameters": {"project": 17, "scopes": ["read_repository"]}});
    grafana: "grafana-service-account", Grafana { admin: ADMIN.into() }, json!({"parameters": {"serviceAccount": 2}});
    twilio: "twilio-api-key", Twilio { admin: ADMIN.into() }, json!({"parameters": {"account": "AC1"}});
    docker_hub: "docker-hub", DockerHub { admin: ADMIN.into() }, json!({});
    gitea: "gitea-token", Gitea { admin: ADMIN.into() }, json!({});
    deploy_key: "github-deploy-key", DeployKeys { admin: ADMIN.into() },
        json!({"parameters": {"account": "acme", "repository": "orders"}});
    azure: "azure-application-secret", Azure { admin: ADMIN.into() },
        json!({"parameters": {"tenant": "tenant-1", "application": "object-1", "client": "client-1"}});
}

/// A key of Google's has no name, and nothing tells whether it is used: one whose answer was lost is left to a person.
#[tokio::test]
async fn google() {
    let site = Site::new("google-service-account-key", Google, jwt::KEY, json!({})).await;
    let walk = site.walk().among(OneKey(Arc::clone(&site.stub)));
    walk.begin().await;
    let is_lost =
        |call: &str, fault| call == "target.mint" && matches!(fault, Fault::DieAfter | Fault::AnswerLost);
    walk.briefly_over_all_but(&["target."], is_lost).await;
}

/// Tokens that nobody has die by themselves within the hour.
#[tokio::test]
async fn an_app_of_github() {
    let parameters = json!({"parameters": {"installation": 5}});
    let site = Site::new("github-app-installation", GitHub, jwt::KEY, parameters).await;
    let walk = site.walk();
    walk.begin().await;
    walk.briefly_over(&["target."]).await;
}

/// The next token is asked for with a part of the one before, once: an answer that is lost is a person's business, and
/// has its own tests.
#[tokio::test]
async fn a_chain_of_slack() {
    let slack = Slack::new("admin", ADMIN);
    let site = Site::new("slack-token", slack.clone(), ADMIN, json!({})).await;
    let walk = site.walk().among(OneKey(Arc::clone(&site.stub)));
    let (token, refresh) = site.stub.with(|keys| slack.install(keys));
    let secret = |text: String| SecretValue::new(text.into_bytes());
    let parts = [("refreshToken".parse().expect("a name"), secret(refresh))].into();
    let owner = "orders-bot".parse().expect("a principal");
    walk.adopt(Credential::new(owner, secret(token)).with_parts(parts)).await;
    let is_lost =
        |call: &str, fault| call == "target.mint" && matches!(fault, Fault::DieAfter | Fault::AnswerLost);
    walk.briefly_over_all_but(&["store.", "target."], is_lost).await;
}

/// Keys that a person makes, and deletes where there is no call for that.
#[tokio::test]
async fn cohere() {
    by_a_person("cohere", Cohere, true).await;
}

#[tokio::test]
async fn anthropic() {
    by_a_person("anthropic", Anthropic { admin: ADMIN.into() }, false).await;
}

#[tokio::test]
async fn personal_tokens_of_github() {
    by_a_person("github-token", GitHub, false).await;
}

async fn by_a_person(recipe: &str, provider: impl Provider, deletes: bool) {
    let site = Site::new(recipe, provider, ADMIN, json!({})).await;
    let person = Person {
        stub: Arc::clone(&site.stub),
        reader: site.ground.at("reader"),
        deletes,
        keyring: Mutex::default(),
    };
    let walk = site.walk().among(person);
    walk.begin().await;
    walk.briefly_over(&["store.", "target."]).await;
}

/// A policy with a recipe, and a stub of its provider.
struct Site {
    stub: Arc<Stub>,
    ground: Ground,
    target: Value,
    recipe: String,
}

impl Site {
    async fn new(recipe: &str, provider: impl Provider, admin: &str, more: Value) -> Self {
        let stub = Arc::new(Stub::start(provider).await);
        let definition = shipped::find(&recipe.parse().expect("a label")).expect("a recipe");
        let mut text = serde_json::to_string(&**definition).expect("a recipe");
        for host in definition.hosts(None, &Default::default()) {
            text = text.replace(&format!("\"https://{host}"), &format!("\"http://{}", stub.address));
        }
        let mut definition: Recipe = serde_json::from_str(&text).expect("a recipe");
        definition.limits.requests_per_second = None;
        definition.limits.settling = Interval::from_duration(Duration::ZERO);
        let mut target = json!({"recipe": recipe, "owner": "orders-bot"});
        if definition.base.is_none() {
            target["base"] = json!(format!("http://{}", stub.address));
        }
        if definition.admin.is_some() {
            target["admin"] = json!("admin");
        }
        target.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let document = json!({
            "apiVersion": "rekeyd.dev/v1alpha1", "kind": "Recipe",
            "metadata": {"name": recipe}, "spec": definition,
        });
        let host = "127.0.0.1";
        let ground =
            Ground::new().with_admin("admin", ("admin", admin), host).with_admin("api", ("api", "api"), host);
        Self { stub, ground, target: json!({"http": target}), recipe: document.to_string() }
    }

    fn walk(&self) -> Walk {
        self.ground.walk(&self.target, &[], std::slice::from_ref(&self.recipe))
    }
}

/// The provider has one key, whatever its list tells.
struct OneKey(Arc<Stub>);

#[async_trait]
impl Around for OneKey {
    async fn look(&self, in_force: &Credential) {
        let ids: Vec<_> = self.0.with(|keys| keys.made.iter().map(|key| key.id.clone()).collect());
        assert_eq!(ids.len(), 1, "{ids:?} are there, and {} is in force", in_force.principal);
    }
}

/// A person makes each key and hands it over, and deletes the one before when its readers have the next.
struct Person {
    stub: Arc<Stub>,
    reader: PathBuf,
    deletes: bool,
    keyring: Mutex<Keyring>,
}

/// What a person remembers.
#[derive(Default)]
struct Keyring {
    last: Option<Made>,
    /// The rotation that asked for it.
    asked: Option<RotationId>,
}

impl Person {
    /// Whether the reader has a key.
    fn is_through(&self, key: &Made) -> bool {
        std::fs::read_to_string(&self.reader).is_ok_and(|told| told.contains(&key.value))
    }

    /// The key for a rotation: the same one again until its reader has it.
    fn key_for(&self, rotation: RotationId) -> Made {
        let mut keyring = self.keyring.lock().expect("no panic");
        let is_new = keyring.asked.replace(rotation) != Some(rotation);
        let last = keyring.last.take().filter(|last| !is_new || !self.is_through(last));
        let make = || self.stub.with(|keys| keys.make("apikey_", "sk-", "by hand", Value::Null));
        keyring.last.insert(last.unwrap_or_else(make)).clone()
    }

    fn clear_away(&self) {
        let keyring = self.keyring.lock().expect("no panic");
        if self.deletes
            && let Some(last) = keyring.last.as_ref().filter(|last| self.is_through(last))
        {
            self.stub.with(|keys| keys.made.retain(|key| key.id == last.id));
        }
    }
}

#[async_trait]
impl Around for Person {
    async fn look(&self, in_force: &Credential) {
        let live = self.stub.with(|keys| {
            keys.made.iter().filter(|key| !key.disabled).map(|key| key.value.clone()).collect::<Vec<_>>()
        });
        let is_one = live.len() == 1 && live[0].as_bytes() == in_force.value.expose();
        assert!(is_one, "{} keys are there, and {} is in force", live.len(), in_force.principal);
    }

    async fn help(&self, own: &Process, policy: &PolicyName) {
        loop {
            SystemClock.sleep(Duration::from_millis(2)).await;
            self.clear_away();
            let status = own.service.status(Some(policy)).await.expect("a status");
            let Some(open) = status[0].open.as_ref().filter(|open| open.step == Step::Mint) else { continue };
            let key = self.key_for(open.rotation);
            let value = SecretValue::new(key.value.into_bytes());
            // The rotation may have gone on meanwhile.
            let key = Credential::new(key.id.parse().expect("a principal"), value);
            let _ = own.service.supply(policy, key).await;
        }
    }
}
