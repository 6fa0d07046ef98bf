//! The shipped binary with readers that are elsewhere, killed right after each change that it makes there.

use futures_util::future::join_all;
use rekeyd::settings::StoreSettings;
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::jenkins::{Jenkins, TOKEN, USER};
use crate::moto::Account;
use crate::openbao::Server;

const POLICY: &str = "shop/session-key";
const ID: &str = "session-key";
const DOMAIN: &str = "job/team/job/orders/credentials/store/folder/domain/_";
const COPY: &str = "team/session-key";

/// A reader of each kind, and what it shows.
struct Readers {
    at: Installation,
    jenkins: Jenkins,
    account: Account,
    server: Server,
    mount: crate::openbao::Mount,
    _policy: crate::openbao::Policy,
}

impl Readers {
    async fn new() -> Self {
        let (at, jenkins, account) = (Installation::new().await, Jenkins::start().await, Account::new());
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
                    {"vault": {"store": "bao", "path": COPY}},
                    {"awsSecretsManager": {"store": "aws", "name": COPY}},
                ],
                "retire": {"grace": "0s"},
            },
        }));
        Self { at, jenkins, account, server, mount, _policy: policy }
    }

    /// What the three show.
    fn shown(&self) -> [String; 3] {
        let kept = self.jenkins.kept(DOMAIN, ID).expect("a credential");
        let text = |data: &Value| data["password"].as_str().expect("a value").to_owned();
        let path = format!("{}/data/{COPY}", self.mount.name);
        let copy = self.server.make("GET", &path, json!({}));
        [
            kept.field("secret").expect("a secret").to_owned(),
            text(&copy["data"]["data"]),
            text(&self.account.value(COPY, "AWSCURRENT")),
        ]
    }
}

/// What is there after a death is what the next process goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_a_change_elsewhere_is_made_good() {
    let points = [
        "jenkins.credential.created",
        "jenkins.credential.updated",
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
        readers.at.run(&["preflight", POLICY]).await.ended(0);
    }))
    .await;
}
