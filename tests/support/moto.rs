//! moto, which plays AWS, with an account of the test's own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rekeyd::policy::spec::Interval;
use rekeyd::settings::AwsSettings;
use serde_json::{Value, json};

use crate::openbao::{client, servers};

pub(crate) const REGION: &str = "eu-central-1";

/// An account that no other test has.
pub(crate) struct Account {
    pub(crate) address: String,
    pub(crate) number: String,
    /// Keys of a role of the account: who signs with them is taken for somebody of it.
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) session: String,
    folder: tempfile::TempDir,
    client: &'static reqwest::blocking::Client,
}

impl Account {
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let path = servers().join("moto.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("there is no moto at {}: {error}. Run `make test`", path.display())
        });
        let json: Value = serde_json::from_str(&text).expect("moto.json is JSON");
        let (process, test) = (u64::from(std::process::id()), LAST.fetch_add(1, Ordering::Relaxed));
        let mut account = Self {
            address: json["address"].as_str().expect("an address").into(),
            number: format!("{:012}", (process * 1_000 + test) % 1_000_000_000_000),
            key: "AKIATEST".into(),
            secret: String::new(),
            session: String::new(),
            folder: tempfile::tempdir().expect("a folder"),
            client: Box::leak(Box::new(client(None))),
        };
        account.log_in();
        account
    }

    /// A role of the account: its keys are the account's from then on.
    fn log_in(&mut self) {
        let role = format!("arn:aws:iam::{}:role/rekeyd", self.number);
        let form = format!("Action=AssumeRole&Version=2011-06-15&RoleArn={role}&RoleSessionName=rekeyd");
        let answer = self.send("sts", "application/x-www-form-urlencoded", None, form);
        let field = |name: &str| {
            let rest = answer.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.split_once('<'))
                .map(|(value, _)| value.trim().to_owned())
                .expect("a field")
        };
        (self.key, self.secret, self.session) =
            (field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken"));
        self.write_keys("default");
    }

    /// Writes the file of keys, with one profile.
    pub(crate) fn write_keys(&self, profile: &str) {
        let Self { key, secret, session, .. } = self;
        let text = format!(
            "[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\naws_session_token = {session}\n"
        );
        std::fs::write(self.keys(), text).expect("a file of keys");
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    pub(crate) fn settings(&self) -> AwsSettings {
        AwsSettings {
            region: REGION.into(),
            account: Some(self.number.clone()),
            kms_key: None,
            profile: None,
            credentials_file: Some(self.keys()),
            endpoint: Some(self.address.clone()),
            iam_endpoint: None,
            sts_endpoint: None,
            ca_file: None,
            control_path: "rekeyd/control".parse().expect("a path"),
            timeout: Interval::from_duration(std::time::Duration::from_secs(10)),
        }
    }

    /// Calls Secrets Manager as a person would; the answer is a success.
    #[track_caller]
    pub(crate) fn call(&self, action: &str, body: &Value) -> Value {
        let text = self.send("secretsmanager", "application/x-amz-json-1.1", Some(action), body.to_string());
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        assert!(answer.is_object() && answer["__type"].is_null(), "{action}: {text}");
        answer
    }

    /// What a client of AWS reads.
    pub(crate) fn value(&self, name: &str, label: &str) -> Value {
        let answer = self.call("GetSecretValue", &json!({"SecretId": name, "VersionStage": label}));
        serde_json::from_str(answer["SecretString"].as_str().expect("text")).expect("JSON")
    }

    fn send(&self, service: &str, kind: &str, action: Option<&str>, body: String) -> String {
        let scope = format!("{}/20260101/{REGION}/{service}/aws4_request", self.key);
        let mut request = self
            .client
            .post(&self.address)
            .header("Content-Type", kind)
            .header(
                "Authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
            )
            .body(body);
        if let Some(action) = action {
            request = request.header("X-Amz-Target", format!("secretsmanager.{action}"));
        }
        // The blocking client must not run on a thread of an asynchronous runtime.
        let call = move || request.send().expect("an answer").text().expect("a text");
        std::thread::spawn(call).join().expect("a call")
    }
}
