//! A copy at OpenBao: the contract, with a token that may do nothing but read and write it.

use std::sync::Arc;

use rekeyd::consumer::copy::CopyConsumer;
use rekeyd::consumer::{Consumer, Published, Reach};
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::policy::spec::{Interval, VaultCopySpec};
use rekeyd::settings::{TokenAuth, VaultAuth, VaultSettings};
use rekeyd::store::Store as _;
use rekeyd::store::vault::VaultStore;
use serde_json::{Value, json};

use super::contract::{Fixture, Publication, consumer_contract, policy, publish, value};
use crate::openbao::{Mount, Policy, Server};

consumer_contract!(Bench::new());

const PATH: &str = "orders/db";

/// Two mounts: the store's own, and another team's.
struct Bench {
    server: Server,
    store: VaultStore,
    theirs: Mount,
    spec: Value,
    _own: Mount,
    _policy: Policy,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(json!({}))
    }

    /// Says more than where the copy is.
    fn with(more: Value) -> Self {
        let server = Server::shared();
        let (own, theirs) = (server.mount(2), server.mount(2));
        let policy = server.policy(&format!(
            "path \"{}/data/{PATH}\" {{ capabilities = [\"create\", \"read\", \"update\"] }}\n\
             path \"sys/capabilities-self\" {{ capabilities = [\"update\"] }}\n\
             path \"auth/token/lookup-self\" {{ capabilities = [\"read\"] }}",
            theirs.name
        ));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, server.token(&policy, json!({}))).expect("a token");
        let store = VaultStore::open(&VaultSettings {
            address: server.address.clone(),
            ca_file: server.ca_file.clone(),
            namespace: None,
            mount: own.name.clone(),
            control_path: "rekeyd".parse().expect("a path"),
            auth: VaultAuth::Token(TokenAuth { file }),
            timeout: Interval::from_duration(std::time::Duration::from_secs(10)),
        });
        let mut spec = json!({"store": "bao", "mount": theirs.name, "path": PATH});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let store = store.expect("a store");
        Self { server, store, theirs, spec, _own: own, _policy: policy, _folder: folder }
    }

    fn consumer(&self) -> CopyConsumer {
        let spec: VaultCopySpec = serde_json::from_value(self.spec.clone()).expect("a specification");
        let place = self.store.copy_at(spec.mount.as_ref(), &spec.path).expect("it keeps copies");
        CopyConsumer::new(spec.content(), place).expect("a consumer")
    }

    /// What another team reads; null where there is nothing.
    fn data(&self) -> Value {
        let (_, body) = self.server.call("GET", &format!("{}/data/{PATH}", self.theirs.name), json!({}));
        body["data"]["data"].clone()
    }

    fn put(&self, data: Value) {
        self.server.make("POST", &format!("{}/data/{PATH}", self.theirs.name), json!({"data": data}));
    }
}

impl Fixture for Bench {
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.consumer())
    }

    fn shown(&self) -> Option<String> {
        self.data()["password"].as_str().map(ToOwned::to_owned)
    }

    fn told(&self) -> Option<usize> {
        None
    }

    /// Somebody writes another value, and leaves the mark.
    fn tamper(&self) {
        let mut data = self.data();
        data["password"] = "something else".into();
        self.put(data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_the_fields_that_its_readers_want() {
    let data = json!({"dsn": "pg://{{ principal }}:{{ value }}@db", "generation": "{{ version }}"});
    let bench = Bench::with(json!({"data": data, "mark": "managed-by"}));
    assert_eq!(publish(&bench.consumer(), 7).await, Ok(Published::Now));
    let expected = json!({
        "dsn": format!("pg://app:{}@db", value(7)), "generation": "7",
        "managed-by": "[rekeyd policy=contract/consumer version=7]",
    });
    assert_eq!(bench.data(), expected);
    assert_eq!(publish(&bench.consumer(), 7).await, Ok(Published::Already(None)));
    assert!(bench.consumer().label().ends_with(&format!("/{}/{PATH}", bench.theirs.name)));

    // Deleted: written again, over the version that is gone.
    bench.server.make("DELETE", &format!("{}/data/{PATH}", bench.theirs.name), json!({}));
    let at = Publication::new("contract/consumer", 7);
    let reach = bench.consumer().reach(at.request()).await.expect("looked at");
    assert!(matches!(reach, Reach::Moving(_)), "{reach:?}");
    assert_eq!(publish(&bench.consumer(), 7).await, Ok(Published::Now));
    assert_eq!(bench.data(), expected);
    assert_eq!(bench.consumer().reach(at.request()).await, Ok(Reach::Moved));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_is_left_alone() {
    let theirs = json!({"username": "a", "password": "b"});
    for (data, adopt, class, reason) in [
        (theirs.clone(), false, FailureClass::Conflict, "rekeyd did not write it"),
        (json!({"username": "a", "other": "b"}), true, FailureClass::Invalid, "other fields"),
        (json!({"username": "a", "password": 7}), true, FailureClass::Invalid, "other fields"),
        (json!({"password": "a", "rekeyd": "theirs"}), true, FailureClass::Conflict, "is not rekeyd's mark"),
    ] {
        let bench = Bench::with(json!({"adopt": adopt}));
        bench.put(data.clone());
        let failure = publish(&bench.consumer(), 1).await.expect_err("it was written over");
        assert_eq!(failure.class(), class, "{failure}");
        assert!(failure.reason().contains(reason) && failure.remedy().is_some(), "{failure}");
        let findings = bench.consumer().preflight(&policy()).await;
        assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
        assert_eq!(bench.data(), data);
    }
    let bench = Bench::with(json!({"adopt": true}));
    bench.put(theirs);
    assert_eq!(publish(&bench.consumer(), 1).await, Ok(Published::Now));
    assert_eq!(bench.data()["password"], value(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_named() {
    let bench = Bench::with(json!({"path": "orders/other"}));
    let failure = publish(&bench.consumer(), 1).await.expect_err("it was written");
    assert_eq!(failure.class(), FailureClass::Denied);
    let path = format!("{}/data/orders/other", bench.theirs.name);
    assert!(failure.reason().contains(&path) && failure.remedy().is_some(), "{failure}");
    let findings = bench.consumer().preflight(&policy()).await;
    assert!(findings.iter().any(|it| it.verdict == Verdict::Fail && it.subject == path), "{findings:?}");
    let bench = Bench::with(json!({"mount": "no-such-mount"}));
    let failure = publish(&bench.consumer(), 1).await.expect_err("it was written");
    assert!(failure.remedy().is_some(), "{failure}");
}
