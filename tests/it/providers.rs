//! The recipes that rekeyd brings along, each against a stub of its provider, and the engine behind all of them against
//! whatever may come back.

mod by_hand;
mod chain;
mod contract;
mod handshake;
mod limits;
mod pages;
mod rotation;
mod signed;
mod trials;
mod troubles;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::clock::{Clock, SystemClock};
use rekeyd::failure::Failure;
use rekeyd::http::outbound::Outbound;
use rekeyd::http::pace::Paces;
use rekeyd::ident::{Fence, PolicyName, RotationId, Version};
use rekeyd::policy::spec::HttpSpec;
use rekeyd::recipe::{Recipe, doubts, shipped};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::http::HttpTarget;
use rekeyd::target::{AdminCredential, Attempt, Extent, MintRequest, Minted, RetireRequest, Target as _};
use serde_json::{Value, json};

use self::contract::provider_contract;
use crate::providers_support::azure::Azure;
use crate::providers_support::cloudflare::Cloudflare;
use crate::providers_support::datadog::Datadog;
use crate::providers_support::docker_hub::DockerHub;
use crate::providers_support::gitea::Gitea;
use crate::providers_support::github::DeployKeys;
use crate::providers_support::gitlab::GitLab;
use crate::providers_support::grafana::Grafana;
use crate::providers_support::openai::OpenAi;
use crate::providers_support::sendgrid::SendGrid;
use crate::providers_support::twilio::Twilio;
use crate::providers_support::{Provider, Stub};

/// The admin's value, in every one of these tests.
const ADMIN: &str = "admin-key-of-the-test";

provider_contract!(openai: case("openai-service-account", OpenAi { admin: ADMIN.into() },
    json!({"parameters": {"project": "proj_1", "serviceAccount": "svc_acct_1"}})).await.told_of_use());
provider_contract!(sendgrid: case("sendgrid", SendGrid { admin: ADMIN.into() },
    json!({"parameters": {"scopes": ["mail.send"]}})).await.full_at(100));
provider_contract!(datadog: case("datadog-api-key", Datadog { admin: ADMIN.into(), api: "api-of-the-test".into() },
    json!({"credentials": {"api": "datadog-api"}})).await);
provider_contract!(cloudflare: case("cloudflare-token", Cloudflare { admin: ADMIN.into() },
    json!({"parameters": {"account": "acc1", "policies": [
        {"effect": "allow", "resources": {"com.cloudflare.api.account.acc1": "*"}, "permission_groups": [{"id": "p1"}]},
    ]}})).await.told_of_use());
provider_contract!(gitlab: case("gitlab-project-token", GitLab { admin: ADMIN.into() },
    json!({"parameters": {"project": 17, "scopes": ["read_repository"]}})).await.told_of_use());
provider_contract!(grafana: case("grafana-service-account", Grafana { admin: ADMIN.into() },
    json!({"parameters": {"serviceAccount": 2}})).await.told_of_use());
provider_contract!(twilio: case("twilio-api-key", Twilio { admin: ADMIN.into() },
    json!({"parameters": {"account": "AC1"}})).await.full_at(8));
provider_contract!(docker_hub: case("docker-hub", DockerHub { admin: ADMIN.into() }, json!({})).await.told_of_use());
provider_contract!(gitea: case("gitea-token", Gitea { admin: ADMIN.into() }, json!({})).await);
provider_contract!(github_deploy_key: case("github-deploy-key", DeployKeys { admin: ADMIN.into() },
    json!({"parameters": {"account": "acme", "repository": "orders"}})).await.tried_by_list());
provider_contract!(azure: case("azure-application-secret", Azure { admin: ADMIN.into() },
    json!({"parameters": {"tenant": "tenant-1", "application": "object-1", "client": "client-1"}})).await.full_at(8));

#[test]
fn every_recipe_that_rekeyd_brings_along_is_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        files += 1;
        if let Some(recipe) = shipped::find_place(&name.parse().expect("a label")) {
            for (number, example) in recipe.examples.iter().enumerate() {
                assert_eq!(example.outcome(recipe), Some(example.means), "{name}: example {number}");
            }
            continue;
        }
        let recipe = shipped::find(&name.parse().expect("a label"));
        let recipe = recipe.unwrap_or_else(|| panic!("{name} is not brought along, or cannot be read"));
        assert_eq!(doubts(recipe), Vec::<&str>::new(), "{name}");
        for (number, example) in recipe.examples.iter().enumerate() {
            let outcome = example.outcome(recipe).expect("a call of the recipe");
            assert_eq!(
                (outcome.means, &outcome.shows),
                (example.means, &example.shows),
                "{name}: example {number}"
            );
        }
    }
    assert_eq!(files, shipped::all().count() + shipped::places().count());
}

#[test]
fn what_a_recipe_proves_less_by_is_said() {
    let recipe = shipped::find(&"sendgrid".parse().expect("a label")).expect("a recipe");
    let mut recipe = recipe.as_ref().clone();
    recipe.verify.refused_when[0].at = None;
    let told = doubts(&recipe);
    assert!(told.len() == 1 && told[0].contains("a proxy may answer so"), "{told:?}");
    recipe.examples.clear();
    let told = doubts(&recipe);
    assert!(told.len() == 2 && told[1].contains("no examples"), "{told:?}");
}

/// A provider, the target that a recipe makes of it, and what the provider can do.
pub(crate) struct Case {
    pub(crate) stub: Stub,
    pub(crate) target: HttpTarget,
    spec: HttpSpec,
    /// The admin's value, where there is an admin.
    admin: Option<&'static str>,
    told_of_use: bool,
    tried_by_list: bool,
    full_at: Option<usize>,
}

/// The case of a recipe that rekeyd brings along; `more` of the target's fields as a policy says them.
async fn case(recipe: &str, provider: impl Provider, more: Value) -> Case {
    let stub = Stub::start(provider).await;
    let definition = shipped::find(&recipe.parse().expect("a label")).expect("a recipe").as_ref().clone();
    // Whatever hosts a provider has, here it is one.
    let mut text = serde_json::to_string(&definition).expect("a recipe");
    let said = serde_json::from_value(more["parameters"].clone()).unwrap_or_default();
    for host in definition.hosts(None, &said) {
        text = text.replace(&format!("\"https://{host}/"), &format!("\"http://{}/", stub.address));
    }
    let mut definition: Recipe = serde_json::from_str(&text).expect("a recipe");
    let admin = definition.admin.is_some();
    let mut fields =
        json!({"recipe": recipe, "owner": "orders-bot", "base": format!("http://{}", stub.address)});
    fields.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    let mut spec: HttpSpec = serde_json::from_value(fields).expect("a target");
    for (name, parameter) in &definition.parameters {
        if let Some(default) = &parameter.default {
            spec.parameters.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
    // How requests are kept apart is tried elsewhere.
    definition.limits.requests_per_second = None;
    spec.definition = Some(Box::new(definition));
    let admin = admin.then_some(ADMIN);
    let target = target_of(&spec, admin);
    Case { stub, target, spec, admin, told_of_use: false, tried_by_list: false, full_at: None }
}

pub(crate) fn target_of(spec: &HttpSpec, admin: Option<&str>) -> HttpTarget {
    target_by(spec, admin, Arc::new(SystemClock))
}

/// The same by another clock.
fn target_by(spec: &HttpSpec, admin: Option<&str>, clock: Arc<dyn Clock>) -> HttpTarget {
    target_paced(spec, admin, clock, Arc::new(SystemClock))
}

/// The same, whose requests wait for each other by yet another one.
fn target_paced(
    spec: &HttpSpec,
    admin: Option<&str>,
    clock: Arc<dyn Clock>,
    pace: Arc<dyn Clock>,
) -> HttpTarget {
    let known = |value: &str| Arc::new(Known(value.to_owned())) as Arc<dyn AdminCredential>;
    let others = spec.credentials.keys().map(|name| (name.clone(), known(&format!("{name}-of-the-test"))));
    let paces = Arc::new(Paces::new(pace));
    HttpTarget::new(
        spec.clone(),
        admin.map(known),
        others.collect::<BTreeMap<_, _>>(),
        Outbound::new(&["127.0.0.1".to_owned(), "localhost".to_owned()]),
        paces,
        clock,
    )
    .expect("a target")
}

struct Known(String);

#[async_trait]
impl AdminCredential for Known {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(Credential::new(
            "admin".parse().expect("a principal"),
            SecretValue::new(self.0.clone().into_bytes()),
        ))
    }
}

impl Case {
    const fn told_of_use(mut self) -> Self {
        self.told_of_use = true;
        self
    }

    /// Trying a key is no use of it.
    const fn tried_by_list(mut self) -> Self {
        self.tried_by_list = true;
        self
    }

    /// How many keys there may be.
    fn full_at(mut self, most: usize) -> Self {
        self.full_at = Some(most);
        self.stub.with(|keys| keys.most = Some(most));
        self
    }

    /// The same recipe with a change.
    fn changed(&self, change: impl FnOnce(&mut Recipe)) -> HttpTarget {
        let mut spec = self.spec.clone();
        change(spec.definition.as_mut().expect("a recipe"));
        target_of(&spec, self.admin)
    }

    /// The same, with another value for the admin.
    fn of_admin(&self, value: &str) -> HttpTarget {
        target_of(&self.spec, Some(value))
    }

    async fn mint(&self, turn: &Turn) -> Result<Credential, Failure> {
        self.mint_after(turn, None).await
    }

    /// One that takes the place of another, or comes beside it.
    async fn mint_after(&self, turn: &Turn, outgoing: Option<&Credential>) -> Result<Credential, Failure> {
        match self.target.mint(MintRequest { outgoing, ..turn.request(&self.spec) }).await? {
            Minted::Made(made) | Minted::Short(made, _) => Ok(made),
            Minted::Awaited(what) => panic!("a person is to make it: {what}"),
        }
    }

    async fn retire(&self, turn: &Turn, key: &Credential, extent: Extent) -> Result<(), Failure> {
        let (attempt, principal, outgoing) = (turn.attempt(), &key.principal, Some(key));
        self.target
            .retire(RetireRequest { attempt, principal, extent, outgoing, beside: None })
            .await
            .map(drop)
    }
}

/// An attempt of a rotation.
pub(crate) struct Turn {
    policy: PolicyName,
    pub(crate) rotation: RotationId,
}

impl Turn {
    pub(crate) fn new() -> Self {
        Self { policy: "orders/orders-api".parse().expect("a name"), rotation: RotationId::generate() }
    }

    pub(crate) fn attempt(&self) -> Attempt<'_> {
        Attempt {
            policy: &self.policy,
            rotation: self.rotation,
            version: Version::new(1),
            fence: Fence::new(1),
        }
    }

    pub(crate) fn request<'a>(&'a self, spec: &'a HttpSpec) -> MintRequest<'a> {
        MintRequest {
            attempt: self.attempt(),
            owner: &spec.owner,
            outgoing: None,
            repeated: false,
            contains: false,
            life: None,
        }
    }
}
