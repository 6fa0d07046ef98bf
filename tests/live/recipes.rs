//! Recipes on real servers: OpenBao's userpass method, RabbitMQ's users and Gitea's tokens, by their HTTP APIs.

mod gitea;
mod trial;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::clock::SystemClock;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::http::outbound::Outbound;
use rekeyd::http::pace::Paces;
use rekeyd::ident::Principal;
use rekeyd::policy::spec::HttpSpec;
use rekeyd::recipe::shipped;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::http::HttpTarget;
use rekeyd::target::{MintRequest, Probe, ProbeDepth, Target as _};
use serde_json::{Value, json};

use crate::installation::{Installation, read};
use crate::keys_contract::{KeysBench, Ways, keys_contract};
use crate::openbao::{Policy, Server, unique};
use crate::postgres_support::{credential_of, known, text};
use crate::providers_support::Stub;
use crate::providers_support::cohere::Cohere;
use crate::providers_support::docker_hub::DockerHub;
use crate::proxy::{Fault, Proxy};
use crate::rabbitmq_support;
use crate::site::{credential_in, write_secret};

const POLICY: &str = "orders/orders-api";

keys_contract!(Bao::new());

/// A userpass mount of the test's own, and a token that may do with it what the recipe says.
struct Bao {
    server: Server,
    mount: String,
    _policy: Policy,
    token: Credential,
    target: HttpTarget,
}

impl Bao {
    fn new() -> Self {
        let server = Server::shared();
        let mount = unique("users");
        server.make("POST", &format!("sys/auth/{mount}"), json!({"type": "userpass"}));
        let rights = format!(
            "path \"auth/{mount}/users\" {{ capabilities = [\"list\"] }}\n\
             path \"auth/{mount}/users/rekeyd-*\" {{ capabilities = [\"create\", \"update\", \"delete\"] }}\n\
             path \"auth/{mount}/users/by-hand\" {{ capabilities = [\"delete\"] }}\n"
        );
        let policy = server.policy(&rights);
        let token = server.token(&policy, json!({}));
        let token = Credential::new("token".parse().expect("a name"), SecretValue::new(token.into_bytes()));
        let target = target(&spec(&mount, &server.address), &token);
        Self { server, mount, _policy: policy, token, target }
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("sys/auth/{}", self.mount), json!({}));
    }
}

fn spec(mount: &str, base: &str) -> HttpSpec {
    of_recipe("openbao-userpass", base, json!({"mount": mount, "policies": [], "tokenTtl": "5m"}))
}

fn of_recipe(name: &str, base: &str, parameters: Value) -> HttpSpec {
    of_recipe_for(name, "orders", base, parameters)
}

/// A target as a policy says it, with what the recipe says where the policy does not.
fn of_recipe_for(name: &str, owner: &str, base: &str, parameters: Value) -> HttpSpec {
    let recipe = shipped::find(&name.parse().expect("a label")).expect("a recipe");
    let mut spec: HttpSpec = serde_json::from_value(json!({
        "recipe": name, "owner": owner, "base": base, "admin": "bao", "parameters": parameters,
    }))
    .expect("a target");
    for (name, parameter) in &recipe.parameters {
        if let Some(default) = &parameter.default {
            spec.parameters.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
    spec.definition = Some(Box::new(recipe.as_ref().clone()));
    spec
}

fn target(spec: &HttpSpec, admin: &Credential) -> HttpTarget {
    let (clock, paces) = (Arc::new(SystemClock), Arc::new(Paces::new(Arc::new(SystemClock))));
    HttpTarget::new(
        spec.clone(),
        Some(known(admin)),
        BTreeMap::new(),
        Outbound::new(&["127.0.0.1".to_owned()]),
        paces,
        clock,
    )
    .expect("a target")
}

#[async_trait]
impl KeysBench for Bao {
    type Target = HttpTarget;

    fn target(&self) -> &HttpTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        "orders".parse().expect("a principal")
    }

    fn ways(&self) -> Ways {
        Ways { quota: None, tags: true, disables: false, refuses_disabled: false }
    }

    async fn by_hand(&self) -> Credential {
        self.server.make(
            "POST",
            &format!("auth/{}/users/by-hand", self.mount),
            json!({"password": "made-by-hand"}),
        );
        credential_of(&"by-hand".parse().expect("a principal"), "made-by-hand")
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        let port = self.server.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        let proxy = Proxy::start(("127.0.0.1", port), "users/rekeyd-", Fault::LoseReply).await;
        let broken = spec(&self.mount, &format!("http://127.0.0.1:{}", proxy.port));
        let failure = target(&broken, &self.token).mint(request).await.expect_err("no answer came");
        assert!(proxy.faults() > 0);
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
        failure
    }
}

/// An installation whose policy has a recipe, with one file as its reader and no grace.
async fn installation(target: Value, admin: &Credential) -> Installation {
    let at = Installation::new().await;
    write_secret(&at.path("admin.value"), text(admin));
    at.change_settings(|settings| {
        settings["outbound"] = json!({"privateHosts": ["127.0.0.1"]});
        settings["credentials"]["bao"] =
            json!({"file": {"username": admin.principal.as_str(), "path": "admin.value", "hosts": ["127.0.0.1"]}});
    });
    at.write_policy(&json!({
        "apiVersion": "rekeyd.dev/v1alpha1",
        "kind": "RotationPolicy",
        "metadata": {"name": "orders-api", "namespace": "orders"},
        "spec": {
            "target": {"http": target},
            "store": {"name": "main", "path": "orders/api"},
            "consumers": [{"file": {"path": at.path("api.env"), "content": "{{ principal }}\n{{ value }}\n"}}],
            "retire": {"grace": "0s"},
        },
    }));
    at
}

/// Rotates twice and contains: the reader has the one that lets in, and earlier ones do not.
async fn rotates_and_is_contained(at: &Installation, target: &HttpTarget) {
    let mut earlier: Vec<Credential> = Vec::new();
    for command in ["rotate", "rotate", "contain"] {
        at.run(&["preflight", POLICY]).await.ended(0);
        at.run(&[command, POLICY]).await.ended(0);
        let delivered = credential_in(&read(&at.path("api.env")));
        assert_eq!(target.probe(&delivered, ProbeDepth::Login).await, Probe::Accepted);
        for outgoing in &earlier {
            assert_eq!(target.probe(outgoing, ProbeDepth::Login).await, Probe::Refused);
        }
        earlier.push(delivered);
    }
    at.run(&["audit", "verify"]).await.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_openbao_rotates_is_contained_and_survives_deaths() {
    let bao = Bao::new();
    let fields = json!({
        "recipe": "openbao-userpass", "owner": "orders", "base": bao.server.address, "admin": "bao",
        "parameters": {"mount": bao.mount},
    });
    let at = installation(fields, &bao.token).await;
    rotates_and_is_contained(&at, &bao.target).await;
    for point in ["mint.made", "http.revoked"] {
        let outgoing = credential_in(&read(&at.path("api.env")));
        let mut command = at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let killed = at.spawn(command).end().await;
        assert_eq!(killed.code, None, "{point}: it is not killed: {killed}");
        at.run(&["resume", POLICY]).await.ended(0);
        let delivered = credential_in(&read(&at.path("api.env")));
        let keys = bao.target.keys(&delivered.principal).await.expect("the keys");
        let ids: Vec<_> = keys.into_iter().map(|key| key.id).collect();
        assert_eq!(ids, std::slice::from_ref(&delivered.principal), "{point}: there are others");
        assert_eq!(bao.target.probe(&outgoing, ProbeDepth::Login).await, Probe::Refused, "{point}");
    }
    at.run(&["recipe", "try", POLICY]).await.ended(0).says(&["found in the list by its tag", "refused when"]);
}

/// One that is disabled before it is deleted, by a process that dies as soon as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_disabled_when_the_process_dies_is_deleted_by_the_next() {
    let admin = credential_of(&"acme".parse().expect("a principal"), "password-of-acme");
    let stub = Stub::start(DockerHub { admin: text(&admin).to_owned() }).await;
    let base = format!("http://{}", stub.address);
    let fields = json!({"recipe": "docker-hub", "owner": "acme", "base": base, "admin": "bao"});
    let at = installation(fields, &admin).await;
    at.change_policy("orders-api", |policy| policy["spec"]["retire"]["soak"] = json!("1s"));
    at.run(&["rotate", POLICY]).await.ended(0);
    let outgoing = credential_in(&read(&at.path("api.env")));
    let mut command = at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "http.disabled#1=killBefore");
    let killed = at.spawn(command).end().await;
    assert_eq!(killed.code, None, "it is not killed: {killed}");
    let keys =
        || stub.with(|keys| keys.made.iter().map(|key| (key.id.clone(), key.disabled)).collect::<Vec<_>>());
    let delivered = credential_in(&read(&at.path("api.env")));
    let id = |credential: &Credential| credential.principal.as_str().to_owned();
    assert_eq!(keys(), [(id(&outgoing), true), (id(&delivered), false)]);
    at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(keys(), [(id(&delivered), false)]);
    let log = at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
    assert_eq!(log.as_array().map(Vec::len), Some(2), "{log:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_rabbitmq_for_each_version_rotates_and_is_contained() {
    let world = rabbitmq_support::World::shared().await;
    let base = format!("http://{}:{}", world.server.host, world.server.port);
    let target = target(&of_recipe("rabbitmq-user", &base, json!({"tags": "management"})), world.admin());
    let fields = json!({"recipe": "rabbitmq-user", "owner": "orders", "base": base, "admin": "bao"});
    let at = installation(fields, world.admin()).await;
    rotates_and_is_contained(&at, &target).await;
    let last = credential_in(&read(&at.path("api.env")));
    world.server.ask("DELETE", &format!("users/{}", last.principal), None).await;
    at.run(&["preflight", POLICY]).await.ended(1).says(&["is refused"]);
}

#[tokio::test]
async fn recipes_are_listed_shown_and_tested_and_mistakes_told_with_their_place() {
    let at = Installation::new().await;
    at.run(&["recipe", "list"]).await.ended(0).says(&[
        "cohere",
        "a stub written from the documentation",
        "RabbitMQ 3.10",
    ]);
    let shown = at.run(&["recipe", "show", "sendgrid"]).await.ended(0);
    let mine = at.path("mine.yaml").display().to_string();
    std::fs::write(&mine, &shown.stdout).expect("written");
    at.run(&["recipe", "test", &mine]).await.ended(0).says(&["right", "1 recipe, 10 examples"]);
    let changes: [(&str, &str, &[&str]); 5] = [
        (
            "refusedWhen: [{status: [401]",
            "refusedWhen: [{status: [402]",
            &["example 6", "is to mean Refused"],
        ),
        ("bearer: \"{{ value }}\"", "bearer: \"{{ admin.value }}\"", &["the key is tried without its value"]),
        (
            "/v3/api_keys/{{ id }}",
            "/v3/api_keys/{{ key }}",
            &["`key` is not known in this call", "mine.yaml:"],
        ),
        ("  revoke:", "  revoek:", &["unknown field `revoek`", "did you mean `revoke`"]),
        ("base: https://", "base: http://", &["is not where requests can go"]),
    ];
    for (right, wrong, told) in changes {
        assert!(shown.stdout.contains(right), "{right}");
        std::fs::write(&mine, shown.stdout.replace(right, wrong)).expect("written");
        at.run(&["recipe", "test", &mine]).await.ended(1).says(told);
    }
    // What proves less than it could is right, and said to.
    let bare = shown.stdout.replace(", at: /errors/0/message, has: \"invalid, expired, or revoked\"}", "}");
    let (bare, _) = bare.split_once("  examples:").expect("examples");
    std::fs::write(&mine, bare).expect("written");
    let doubtful =
        ["doubtful", "a proxy may answer so as well", "it has no examples", "1 recipe, 0 examples"];
    at.run(&["recipe", "test", &mine]).await.ended(0).says(&doubtful);
    at.run(&["recipe", "show", "nobody"]).await.ended(1);
    at.run(&["recipe", "test", "nowhere.yaml"]).await.ended(1);
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/recipes");
    let mut arguments = vec!["recipe".to_owned(), "test".to_owned()];
    arguments.extend(
        std::fs::read_dir(recipes)
            .expect("recipes")
            .map(|file| file.expect("a file").path().display().to_string()),
    );
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    at.run(&arguments).await.ended(0);
}

/// A key that no API makes: a person is told what to do, hands the new one over, and deletes the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_makes_a_key_hands_it_over_and_deletes_the_earlier_one() {
    let stub = Stub::start(Cohere).await;
    let by_hand = || {
        let key = stub.with(|keys| keys.make("key-", "co-", "by hand", Value::Null));
        credential_of(&key.id.parse().expect("a principal"), &key.value)
    };
    let fields = json!({"recipe": "cohere", "owner": "search", "base": format!("http://{}", stub.address)});
    let nobody = credential_of(&"nobody".parse().expect("a principal"), "nothing");
    let at = installation(fields, &nobody).await;
    at.change_policy("orders-api", |policy| {
        policy["spec"]["byHand"] = json!({"deadline": "2h", "remindEvery": "30m"});
    });
    let first = by_hand();
    let adopt = ["adopt", POLICY, "--principal", first.principal.as_str()];
    at.run_with(&adopt, text(&first).as_bytes()).await.ended(0);
    let supply = async |key: &Credential, value: &str| {
        at.run_with(&["supply", POLICY, "--principal", key.principal.as_str()], value.as_bytes()).await
    };
    let second = by_hand();
    supply(&second, text(&second)).await.ended(1).says(&["no rotation waits for one"]);

    // A command that somebody waits for does not wait for people: it says what is left, and the rotation stays open.
    let left = at.run(&["rotate", POLICY, "--patience", "0s"]).await.ended(1);
    left.says(&["nobody has done it yet", "`rekeyd supply`"]);
    at.run(&["status", POLICY]).await.ended(0).says(&["hand the key over with `rekeyd supply`"]);
    supply(&second, text(&second)).await.ended(0).says(&["is the candidate"]);
    let left = at.run(&["resume", POLICY, "--patience", "0s"]).await.ended(1);
    left.says(&["is still accepted: delete the key", "do it, and then run `rekeyd resume`"]);
    stub.with(|keys| keys.delete(first.principal.as_str()));
    at.run(&["resume", POLICY]).await.ended(0);

    let mut outgoing = second;
    for command in ["rotate", "contain"] {
        let mut rotation = at.start(&[command, POLICY, "--patience", "5m", "-o", "json"]);
        rotation.until_told("rekeyd supply orders/orders-api").await;
        let urgent = rotation.seen.iter().any(|line| line.to_string().contains("URGENT"));
        assert_eq!(urgent, command == "contain", "{:?}", rotation.seen);
        // A containment has no time, and nothing waters its first word down.
        let has_time = rotation.seen.iter().any(|line| line.to_string().contains("by 20"));
        assert_eq!(has_time, command == "rotate", "{:?}", rotation.seen);
        let status = at.run(&["status", POLICY]).await.ended(0);
        let status = status.says(&["waits for a person, who has until "]);
        assert_eq!(status.stdout.contains("which has passed"), command == "contain", "{status}");
        supply(&outgoing, text(&outgoing)).await.ended(1).says(&["the key in force"]);
        let made = by_hand();
        supply(&made, "not-the-value-of-it").await.ended(1).says(&["the provider refuses it"]);
        supply(&made, text(&made)).await.ended(0).says(&["is the candidate"]);
        rotation.until_told("is still accepted: delete the key").await;
        assert_eq!(credential_in(&read(&at.path("api.env"))), made, "its readers have the new one");
        stub.with(|keys| keys.delete(outgoing.principal.as_str()));
        rotation.end().await.ended(0);
        outgoing = made;
    }
    at.run(&["audit", "verify"]).await.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let bao = Bao::new();
    let fields = json!({
        "recipe": "openbao-userpass", "owner": "orders", "base": bao.server.address, "admin": "bao",
        "parameters": {"mount": bao.mount},
    });
    let at = installation(fields, &bao.token).await;
    at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk(&at, POLICY).await;
}
