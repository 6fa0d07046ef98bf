//! The OpenBao store on a real server: the contract with exactly the documented rights, and the faults.

#[path = "../contract/store.rs"]
pub(crate) mod contract;
mod faults;
mod login;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Finding, Verdict};
use rekeyd::ident::StorePath;
use rekeyd::policy::spec::{FieldNames, Interval};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::settings::{TokenAuth, VaultAuth, VaultSettings};
use rekeyd::store::vault::VaultStore;
use rekeyd::store::{Current, Place, Store};
use serde_json::{Value, json};

use self::contract::{Fixture, control, current, policy, promote, save, store_contract};
use crate::openbao::{Mount, Policy, Server};

store_contract!(Bench::new());

/// A mount of its own, and a token with the policy of `deploy/openbao/rekeyd.hcl` alone.
struct Bench {
    server: Server,
    mount: Mount,
    policy: Policy,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::on(Server::shared())
    }

    fn on(server: Server) -> Self {
        let mount = server.mount(2);
        let policy = server.policy(&sample_policy(&mount.name));
        let bench = Self { server, mount, policy, folder: tempfile::tempdir().expect("a folder") };
        bench.write_token(&bench.token(json!({})));
        bench
    }

    fn token(&self, options: Value) -> String {
        self.server.token(&self.policy, options)
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn write_token(&self, token: &str) {
        std::fs::write(self.token_file(), format!("{token}\n")).expect("a token file");
    }

    fn settings(&self) -> VaultSettings {
        VaultSettings {
            address: self.server.address.clone(),
            ca_file: self.server.ca_file.clone(),
            namespace: None,
            mount: self.mount.name.clone(),
            control_path: "rekeyd".parse().expect("a path"),
            auth: VaultAuth::Token(TokenAuth { file: self.token_file() }),
            timeout: seconds(10),
        }
    }

    fn store(&self) -> VaultStore {
        VaultStore::open(&self.settings()).expect("a store")
    }

    /// Calls the API of the mount as root.
    #[track_caller]
    fn make(&self, method: &str, path: &str, body: Value) -> Value {
        self.server.make(method, &format!("{}/{path}", self.mount.name), body)
    }
}

#[async_trait]
impl Fixture for Bench {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    async fn delete(&self, path: &StorePath) {
        // One way after the other.
        let data = self.make("GET", &format!("data/{path}"), json!({}));
        let version = data["data"]["metadata"]["version"].as_u64().expect("a version");
        if version.is_multiple_of(2) {
            self.make("PUT", &format!("destroy/{path}"), json!({"versions": [version]}));
        } else {
            self.make("DELETE", &format!("data/{path}"), json!({}));
        }
    }
}

fn sample_policy(mount: &str) -> String {
    let text = include_str!("../../deploy/openbao/rekeyd.hcl");
    text.replace("path \"secret/", &format!("path \"{mount}/"))
}

fn seconds(number: u64) -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(number))
}

async fn try_current(store: &dyn Store, path: &str) -> Result<Option<Current>, Failure> {
    let (path, fields) = (path.parse().expect("a path"), FieldNames::default());
    store.current(Place { path: &path, fields: &fields }).await
}

async fn read_failure(store: &dyn Store, path: &str) -> Failure {
    try_current(store, path).await.expect_err("the reading fails")
}

async fn write_failure(store: &dyn Store, path: &str) -> Failure {
    let (path, fields) = (path.parse().expect("a path"), FieldNames::default());
    let value = SecretValue::new(b"hunter2".to_vec());
    let credential = Credential::new("app_a".parse().expect("a principal"), value);
    let place = Place { path: &path, fields: &fields };
    store.promote(place, contract::fresh(&credential, None)).await.expect_err("the writing fails")
}

async fn preflight(store: &dyn Store) -> Vec<Finding> {
    let (path, fields) = ("apps/a".parse().expect("a path"), FieldNames::default());
    store.preflight(Place { path: &path, fields: &fields }, &policy("orders/db")).await
}

#[track_caller]
fn assert_failed(failure: &Failure, class: FailureClass, reason: &str) {
    assert!(failure.to_string().contains(reason), "{failure}");
    assert_eq!(failure.class(), class, "{failure}");
    assert!(!failure.to_string().contains("hunter2"), "{failure} shows the value");
}

#[tokio::test]
async fn the_documented_policy_grants_what_is_needed_and_nothing_more() {
    let bench = Bench::new();
    for finding in preflight(&bench.store()).await {
        assert_eq!(finding.verdict, Verdict::Pass, "{finding:?}");
    }

    let text = sample_policy(&bench.mount.name);
    let blocks: Vec<_> = text.match_indices("path \"").map(|(start, _)| start).collect();
    assert_eq!(blocks.len(), 8);
    for start in blocks {
        let end = start + text[start..].find("}\n").expect("a block ends") + 2;
        // Renewing is tried when the token grows old; nothing else needs it. What admin credentials are read by is for
        // targets.
        if ["renew-self", "/data/platform/"].iter().any(|of| text[start..end].contains(of)) {
            continue;
        }
        let less = bench.server.policy(&format!("{}{}", &text[..start], &text[end..]));
        bench.write_token(&bench.server.token(&less, json!({})));
        let findings = preflight(&bench.store()).await;
        let all = findings.iter().all(|finding| finding.verdict == Verdict::Pass) && findings.len() == 10;
        assert!(!all, "nothing misses {}", &text[start..end]);
    }
}

#[tokio::test]
async fn applications_find_the_current_value_alone() {
    let bench = Bench::new();
    let store = bench.store();
    bench.make("POST", "data/apps/a", json!({"data": {"username": "u", "password": "p", "other": "x"}}));
    let (_, _, revision) = current(&store, "apps/a").await.expect("a value");
    promote(&store, "apps/a", "app_b", "new", Some(&revision)).await.expect("a promotion");
    let data = bench.make("GET", "data/apps/a", json!({}));
    assert_eq!(data["data"]["data"], json!({"username": "app_b", "password": "new"}));
}

#[tokio::test]
async fn a_foreign_write_is_a_conflict() {
    let bench = Bench::new();
    let store = bench.store();
    let revision = promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    bench.make("POST", "data/apps/a", json!({"data": {"username": "u", "password": "foreign"}}));
    let refused = promote(&store, "apps/a", "app_b", "two", Some(&revision)).await;
    assert_eq!(refused, Err(FailureClass::Conflict));
    assert_eq!(current(&store, "apps/a").await.map(|(_, value, _)| value).as_deref(), Some("foreign"));
}

#[tokio::test]
async fn a_path_of_another_shape_is_named_without_its_content() {
    let bench = Bench::new();
    let store = bench.store();
    for (data, reason) in [
        (json!({"username": "u", "hunter2": "hunter2"}), "no field `password`"),
        (json!({"username": "u", "password": ["hunter2"]}), "no field `password`"),
        (json!({"user": "u", "password": "hunter2"}), "no field `username`"),
        (
            json!({"username": " hunter2", "password": "hunter2"}),
            "field `username` does not hold a principal",
        ),
    ] {
        bench.make("POST", "data/apps/a", json!({"data": data}));
        assert_failed(&read_failure(&store, "apps/a").await, FailureClass::Invalid, reason);
    }
    let value = SecretValue::new(vec![0xff, 0xfe]);
    let failure = store.save(&policy("orders/db"), &value, None).await.expect_err("it is not text");
    assert_failed(&failure, FailureClass::Invalid, "not UTF-8 text");
}

#[tokio::test]
async fn earlier_control_documents_are_gone() {
    let bench = Bench::new();
    let store = bench.store();
    let mut revision = None;
    for text in ["one", "two", "three"] {
        revision = Some(save(&store, "orders/db", text, revision.as_ref()).await.expect("a saving"));
    }
    // Another process goes on.
    let store = bench.store();
    save(&store, "orders/db", "four", revision.as_ref()).await.expect("a saving");
    let metadata = bench.make("GET", "metadata/rekeyd/orders/db", json!({}));
    let versions = metadata["data"]["versions"].as_object().expect("versions");
    assert_eq!(versions.keys().collect::<Vec<_>>(), ["4"]);
    assert_eq!(metadata["data"]["cas_required"], json!(true));
    for version in 1..=3 {
        let path = format!("{}/data/rekeyd/orders/db?version={version}", bench.mount.name);
        assert_eq!(bench.server.call("GET", &path, json!({})).0, 404, "version {version} can be read");
    }
}

#[tokio::test]
async fn a_deleted_control_document_is_not_taken_for_none() {
    let bench = Bench::new();
    let store = bench.store();
    let revision = save(&store, "orders/db", "one", None).await.expect("a saving");
    bench.make("DELETE", "data/rekeyd/orders/db", json!({}));
    let failure = store.control(&policy("orders/db")).await.expect_err("it was deleted");
    assert_failed(&failure, FailureClass::Invalid, "somebody deleted it");
    let command = format!("bao kv undelete -mount={} -versions=1 rekeyd/orders/db", bench.mount.name);
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains(&command)), "{:?}", failure.remedy());
    assert_eq!(save(&store, "orders/db", "two", None).await, Err(FailureClass::Conflict));
    bench.make("POST", "undelete/rekeyd/orders/db", json!({"versions": [1]}));
    assert_eq!(control(&store, "orders/db").await, Some(("one".into(), revision)));
}

#[tokio::test]
async fn no_policy_can_keep_its_value_among_the_control_documents() {
    let bench = Bench::new();
    let store = bench.store();
    for path in ["rekeyd", "rekeyd/orders/db"] {
        assert_failed(&read_failure(&store, path).await, FailureClass::Invalid, "rekeyd's own folder");
        assert_failed(&write_failure(&store, path).await, FailureClass::Invalid, "rekeyd's own folder");
    }
}

#[tokio::test]
async fn a_mount_that_deletes_by_itself_does_not_pass() {
    let bench = Bench::new();
    bench.make("POST", "config", json!({"delete_version_after": "1h"}));
    let findings = preflight(&bench.store()).await;
    let failed: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    assert_eq!(failed.len(), 1, "{findings:?}");
    assert!(failed[0].detail.contains("deleted after 1h"), "{failed:?}");
}
