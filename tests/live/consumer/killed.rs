//! The shipped binary with readers that are elsewhere, killed right after each change that it makes there.

use async_trait::async_trait;
use futures_util::future::join_all;
use rekeyd::recipe::shipped::PLACES;
use rekeyd::secret::Credential;
use rekeyd::settings::StoreSettings;
use serde_json::{Value, json};

use crate::faults_walk::Around;
use crate::installation::Installation;
use crate::jenkins::{Jenkins, TOKEN, USER};
use crate::moto::Account;
use crate::openbao::Server;
use crate::providers_support::Stub;
use crate::providers_support::github_actions::{GitHubActions, REPOSITORY, Sites};
use crate::providers_support::gitlab_variables::{GitLabVariables, Variables};

const POLICY: &str = "shop/session-key";
const ID: &str = "session-key";
const DOMAIN: &str = "job/team/job/orders/credentials/store/folder/domain/_";
const COPY: &str = "team/session-key";
/// A secret of GitHub, and a variable of GitLab.
const NAME: &str = "SESSION_KEY";

/// A reader of each kind, and what it shows.
struct Readers {
    at: Installation,
    jenkins: Jenkins,
    secrets: Sites,
    variables: Variables,
    _pipelines: [Stub; 2],
    account: Account,
    server: Server,
    mount: crate::openbao::Mount,
    _policy: crate::openbao::Policy,
}

impl Readers {
    async fn new() -> Self {
        let (at, jenkins, account) = (Installation::new().await, Jenkins::start().await, Account::new());
        let (github, secrets) = GitHubActions::new(TOKEN);
        let variables = Variables::default();
        let gitlab = GitLabVariables { admin: TOKEN.into(), variables: variables.clone() };
        let pipelines = [Stub::start(github).await, Stub::start(gitlab).await];
        let server = Server::shared();
        let mount = server.mount(2);
        let rights = format!(
            "path \"{}/data/{COPY}\" {{ capabilities = [\"create\", \"read\", \"update\"] }}",
            mount.name
        );
        let policy = server.policy(&rights);
        let private = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::write(at.path(name), text).expect("a file");
            std::fs::set_permissions(at.path(name), std::fs::Permissions::from_mode(0o600)).expect("a mode");
        };
        private("jenkins", TOKEN);
        private("token", &server.token(&policy, json!({})));
        at.change_settings(|settings| {
            settings["credentials"]["jenkins"] =
                json!({"file": {"username": USER, "path": "jenkins", "hosts": ["127.0.0.1"]}});
            settings["outbound"] = json!({"privateHosts": ["127.0.0.1"]});
            settings["stores"]["aws"] =
                serde_json::to_value(StoreSettings::AwsSecretsManager(account.settings())).expect("JSON");
            settings["stores"]["bao"] = json!({"vault": {
                "address": server.address, "caFile": server.ca_file, "mount": mount.name,
                "auth": {"token": {"file": "token"}},
            }});
            if server.ca_file.is_none() {
                settings["stores"]["bao"]["vault"].as_object_mut().expect("an object").remove("caFile");
            }
        });
        // Without the pace of what comes along, which would take seconds.
        let recipe = PLACES.iter().find(|(name, _)| *name == "github-secret").expect("a recipe").1;
        let recipe = recipe.replace("limits: {requestsPerSecond: 5}", "limits: {}");
        std::fs::write(at.path("policies/github-secret.yaml"), recipe).expect("a recipe");
        let base = |stub: &Stub| format!("http://{}", stub.address);
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": "session-key", "namespace": "shop"},
            "spec": {
                "target": {"generated": {}},
                "store": {"name": "main", "path": "shop/session-key"},
                "consumers": [
                    {"jenkins": {
                        "url": jenkins.url(), "admin": "jenkins", "folder": "team/orders", "id": ID,
                        "credential": {"secretText": {}},
                    }},
                    {"http": {
                        "recipe": "github-secret", "base": base(&pipelines[0]), "admin": "jenkins",
                        "parameters": {"owner": "acme", "repository": "orders", "name": NAME},
                    }},
                    {"http": {
                        "recipe": "gitlab-variable", "base": base(&pipelines[1]), "admin": "jenkins",
                        "parameters": {"project": 17, "key": NAME},
                    }},
                    {"vault": {"store": "bao", "path": COPY}},
                    {"awsSecretsManager": {"store": "aws", "name": COPY}},
                ],
                "retire": {"grace": "0s"},
            },
        }));
        Self {
            at,
            jenkins,
            secrets,
            variables,
            _pipelines: pipelines,
            account,
            server,
            mount,
            _policy: policy,
        }
    }

    /// The mark of GitHub's secret.
    fn beside(&self) -> String {
        let sites = self.secrets.lock().expect("no panic");
        sites[REPOSITORY].variables["SESSION_KEY_REKEYD"]["value"].as_str().expect("text").to_owned()
    }

    fn changed_at(&self) -> jiff::Timestamp {
        self.secrets.lock().expect("no panic")[REPOSITORY].secrets[NAME].updated_at
    }

    /// What the copies show.
    fn copies(&self) -> [String; 2] {
        let text = |data: &Value| data["password"].as_str().expect("a value").to_owned();
        let path = format!("{}/data/{COPY}", self.mount.name);
        let copy = self.server.make("GET", &path, json!({}));
        [text(&copy["data"]["data"]), text(&self.account.value(COPY, "AWSCURRENT"))]
    }

    /// What all of them show.
    fn shown(&self) -> [String; 5] {
        let kept = self.jenkins.kept(DOMAIN, ID).expect("a credential");
        let [at_openbao, at_aws] = self.copies();
        let secret = self.secrets.lock().expect("no panic")[REPOSITORY].secrets[NAME].value.clone();
        let variable = self.variables.lock().expect("no panic")[&(NAME.to_owned(), "*".to_owned())].clone();
        [
            String::from_utf8(secret).expect("text"),
            variable["value"].as_str().expect("text").to_owned(),
            kept.field("secret").expect("a secret").to_owned(),
            at_openbao,
            at_aws,
        ]
    }
}

/// What is there after a death is what the next process goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_a_change_elsewhere_is_made_good() {
    let points = [
        "jenkins.credential.created",
        "jenkins.credential.updated",
        "http.place.marked",
        "http.place.written",
        "http.place.settled",
        "copy.write.written",
        "aws.copy.put",
        "aws.copy.moved",
    ];
    join_all(points.map(async |point| {
        let readers = Readers::new().await;
        let is_first = point == "jenkins.credential.created";
        let mut earlier = None;
        if !is_first {
            readers.at.run(&["rotate", POLICY]).await.ended(0);
            let shown = readers.shown();
            assert!(shown.iter().all(|each| *each == shown[0]), "they differ");
            earlier = Some(shown);
        }
        let mut command = readers.at.command(&["rotate", POLICY, "--request", "the-one", "--log", "trace"]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let died = crate::processes::answer(command).await;
        assert_eq!(died.code, None, "it did not die at {point}: {died}");
        // The same request again is the same rotation.
        let done =
            readers.at.run(&["rotate", POLICY, "--request", "the-one", "--log", "trace"]).await.ended(0);
        let shown = readers.shown();
        assert!(shown.iter().all(|each| *each == shown[0]), "{point}: they differ");
        assert_ne!(Some(&shown), earlier.as_ref(), "{point}: nothing has changed");
        for said in [&died, &done] {
            let all = format!("{}{}", said.stdout, said.stderr);
            assert!(!all.contains(&shown[0]), "{point}: the value is told");
        }
        let log = readers.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
        let records = log.as_array().expect("a list").len();
        assert_eq!(records, if is_first { 1 } else { 2 }, "{point}: {log:#}");
        let mark = format!("[rekeyd policy={POLICY} version={records}]");
        let kept = readers.jenkins.kept(DOMAIN, ID).expect("a credential");
        assert_eq!(kept.field("description"), Some(&*mark), "{point}");
        assert_eq!(readers.beside(), format!("{} {mark}", readers.changed_at()), "{point}");
        readers.at.run(&["preflight", POLICY]).await.ended(0);
    }))
    .await;
}

/// Copies at real stores; what a test plays is walked over in `tests/it/walks`.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_to_a_copy_breaks_nothing() {
    let readers = Readers::new().await;
    readers.at.change_policy("session-key", |policy| {
        let all = policy["spec"]["consumers"].as_array_mut().expect("consumers");
        all.retain(|reader| reader["vault"].is_object() || reader["awsSecretsManager"].is_object());
        assert_eq!(all.len(), 2);
    });
    let walk = crate::walk::of(&readers.at, POLICY).among(Copies(readers));
    walk.begin().await;
    walk.briefly_over(&["consumer."]).await;
}

struct Copies(Readers);

#[async_trait]
impl Around for Copies {
    async fn look(&self, in_force: &Credential) {
        let copies = self.0.copies();
        assert!(
            copies.iter().all(|copy| copy.as_bytes() == in_force.value.expose()),
            "a copy is another value"
        );
    }
}
