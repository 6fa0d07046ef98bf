//! The shipped binary rotates access keys of IAM, with moto in its place, which checks keys and rights here.
//!
//! moto is laxer than the service (a key that was disabled works), so the rules that matter are held to in
//! `tests/it/iam.rs`, on services that are strict.

use std::path::{Path, PathBuf};
use std::process::Command;

use rekeyd::policy::spec::{AwsIamSpec, Interval};
use rekeyd::secret::Credential;
use rekeyd::settings::AwsSettings;
use rekeyd::target::aws_iam::AwsIamTarget;
use rekeyd::target::{Probe, ProbeDepth, Target as _};
use serde_json::{Value, json};

use crate::installation::{Installation, read};
use crate::openbao::{client, servers, unique};
use crate::site::credential_in;

const POLICY: &str = "orders/exports-key";
const USER: &str = "exports";

/// A moto of the test's own: whether it checks anybody is one for a whole server.
pub(crate) struct Moto {
    run: PathBuf,
    pub(crate) address: String,
    client: &'static reqwest::blocking::Client,
}

impl Moto {
    pub(crate) fn start() -> Self {
        // In the run's folder, so that whoever ends the run finds what a killed test left.
        let run = servers().join(unique("moto"));
        let output = script().arg("start").arg(&run).output().expect("deploy/dev/moto");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(run.join("moto.json")).expect("moto.json");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let address = json["address"].as_str().expect("an address").to_owned();
        Self { run, address, client: Box::leak(Box::new(client(None))) }
    }

    fn post(&self, path: &str, kind: &str, body: String) -> String {
        let scope = "AKIATEST/20260101/us-east-1/iam/aws4_request";
        let sign = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        let request = self.client.post(format!("{}{path}", self.address)).header("Content-Type", kind);
        let request = request.header("Authorization", sign).body(body);
        // The blocking client must not run on a thread of an asynchronous runtime.
        let call = move || request.send().expect("an answer").text().expect("a text");
        std::thread::spawn(call).join().expect("a call")
    }

    /// Before it checks anybody.
    pub(crate) fn iam(&self, action: &str, fields: &[(&str, &str)]) -> String {
        let fixed = [("Action", action), ("Version", "2010-05-08")];
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fixed.iter().chain(fields))
            .finish();
        let answer = self.post("/", "application/x-www-form-urlencoded", body);
        assert!(!answer.contains("<Error>"), "{action}: {answer}");
        answer
    }

    /// A user with the actions of a policy, on everything: moto knows no resources of IAM. Its key, as a file of keys has it.
    pub(crate) fn user_with(&self, rights: &str) -> String {
        let mut rights: Value = serde_json::from_str(rights).expect("a policy");
        for statement in rights["Statement"].as_array_mut().expect("statements") {
            statement["Resource"] = "*".into();
        }
        let rights = rights.to_string();
        self.iam("CreateUser", &[("UserName", "rekeyd")]);
        let document =
            [("UserName", "rekeyd"), ("PolicyName", "rekeyd"), ("PolicyDocument", rights.as_str())];
        self.iam("PutUserPolicy", &document);
        let made = self.iam("CreateAccessKey", &[("UserName", "rekeyd")]);
        let (id, secret) = (element(&made, "AccessKeyId"), element(&made, "SecretAccessKey"));
        format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    }

    /// From here on it checks whoever comes.
    pub(crate) fn check(&self) {
        self.post("/moto-api/reset-auth", "text/plain", "0".into());
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let stopped = script().arg("stop").arg(&self.run).status();
        let _ = std::fs::remove_dir(&self.run);
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "moto was not stopped");
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/moto"))
}

fn element(answer: &str, name: &str) -> String {
    let rest = answer.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split_once('<')).map(|(text, _)| text.trim().to_owned()).expect("an element")
}

struct Site {
    _moto: Moto,
    at: Installation,
    target: AwsIamTarget,
}

impl Site {
    async fn new() -> Self {
        let (moto, at) = (Moto::start(), Installation::new().await);
        at.change_settings(|settings| {
            settings["stores"]["aws"] = json!({"awsSecretsManager": {
                "region": "eu-central-1", "account": "123456789012", "credentialsFile": at.path("aws.keys"),
                "endpoint": moto.address, "iamEndpoint": moto.address, "stsEndpoint": moto.address,
            }});
        });
        at.write_policy(&json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": {"name": "exports-key", "namespace": "orders"},
            "spec": {
                "target": {"awsIam": {"store": "aws", "user": USER}},
                "store": {"name": "main", "path": "orders/exports-key"},
                "consumers": [{"file": {
                    "path": at.path("key.env"), "content": "{{ principal }}\n{{ value }}\n",
                }}],
                "retire": {"grace": "0s"},
            },
        }));
        // With the actions that are printed, and no others.
        let rights = at.run(&["iam-policy", "--store", "aws"]).await.ended(0);
        moto.iam("CreateUser", &[("UserName", USER)]);
        std::fs::write(at.path("aws.keys"), moto.user_with(&rights.stdout)).expect("a file of keys");
        moto.check();
        let endpoint = Some(moto.address.clone());
        let settings = AwsSettings {
            region: "eu-central-1".into(),
            account: None,
            kms_key: None,
            profile: None,
            credentials_file: Some(at.path("aws.keys")),
            endpoint: endpoint.clone(),
            iam_endpoint: endpoint.clone(),
            sts_endpoint: endpoint,
            ca_file: None,
            control_path: "rekeyd/control".parse().expect("a path"),
            timeout: Interval::from_duration(std::time::Duration::from_secs(10)),
        };
        let spec = AwsIamSpec { store: "aws".parse().expect("a name"), user: USER.parse().expect("a user") };
        let target = AwsIamTarget::open(spec, &settings).expect("a target");
        Self { _moto: moto, at, target }
    }

    /// There is one key, the reader has it, and it lets in. The outgoing one does not.
    async fn in_order(&self, outgoing: Option<&Credential>) -> Credential {
        let delivered = credential_in(&read(&self.at.path("key.env")));
        let keys = self.target.keys(&USER.parse().expect("a user")).await.expect("the keys");
        let ids: Vec<_> = keys.iter().map(|key| &key.id).collect();
        assert_eq!(ids, [&delivered.principal], "there are other keys");
        assert_eq!(self.target.probe(&delivered, ProbeDepth::Login).await, Probe::Accepted);
        if let Some(outgoing) = outgoing {
            assert_eq!(self.target.probe(outgoing, ProbeDepth::Login).await, Probe::Refused);
        }
        delivered
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_key_rotates_and_is_contained() {
    let site = Site::new().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let mut outgoing = site.in_order(None).await;
    site.at.run(&["preflight", POLICY]).await.ended(0).says(&["a wrong value is refused"]);
    for command in ["rotate", "contain"] {
        site.at.run(&[command, POLICY]).await.ended(0).says(&["old value refused"]);
        outgoing = site.in_order(Some(&outgoing)).await;
    }
    // A process that dies before it keeps what it had made.
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "mint.made#1=killBefore");
    let killed = site.at.spawn(command).end().await;
    assert_eq!(killed.code, None, "it is not killed: {killed}");
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.in_order(Some(&outgoing)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let site = Site::new().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    crate::walk::walk(&site.at, POLICY).await;
    site.in_order(None).await;
}
