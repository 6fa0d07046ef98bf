//! A copy at AWS Secrets Manager, on a strict service in this process: the contract, and each promise.

use std::sync::Arc;

use rekeyd::consumer::copy::CopyConsumer;
use rekeyd::consumer::{Consumer, Published};
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::policy::spec::AwsCopySpec;
use rekeyd::store::Store as _;
use rekeyd::store::aws::AwsStore;
use serde_json::{Value, json};

use super::assert_refused;
use super::contract::{Fixture, consumer_contract, policy, publish, value};
use crate::aws_service::{Fate, INMOST, Service};

consumer_contract!(Bench::new().await);

const NAME: &str = "team/orders/db";

struct Bench {
    service: Service,
    store: AwsStore,
    spec: Value,
}

impl Bench {
    async fn new() -> Self {
        Self::with(json!({})).await
    }

    async fn with(more: Value) -> Self {
        let service = Service::start().await;
        let mut spec = json!({"store": "aws", "name": NAME});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Self { store: service.store(), service, spec }
    }

    fn consumer(&self) -> CopyConsumer {
        self.consumer_of(&self.store)
    }

    fn consumer_of(&self, store: &AwsStore) -> CopyConsumer {
        let spec: AwsCopySpec = serde_json::from_value(self.spec.clone()).expect("a specification");
        let place = store.copy_at(None, &spec.name).expect("it keeps copies");
        CopyConsumer::new(spec.content(), place).expect("a consumer")
    }

    /// What another team reads.
    fn data(&self) -> Option<Value> {
        self.service.with(|account| {
            let version = account.known(NAME)?.with("AWSCURRENT")?;
            serde_json::from_str(&version.text).ok()
        })
    }

    fn put(&self, text: &str) {
        self.service.with(|account| account.overwrite(NAME, text));
    }
}

impl Fixture for Bench {
    /// A process of its own each time: it remembers nothing.
    fn open(&self) -> Arc<dyn Consumer> {
        Arc::new(self.consumer_of(&self.service.store()))
    }

    fn shown(&self) -> Option<String> {
        self.data()?["password"].as_str().map(ToOwned::to_owned)
    }

    fn told(&self) -> Option<usize> {
        None
    }

    fn tamper(&self) {
        let mut data = self.data().expect("a copy");
        data["password"] = "something else".into();
        self.put(&data.to_string());
    }
}

#[tokio::test]
async fn a_copy_is_put_aside_and_then_the_label_moves_from_what_was_read() {
    let bench = Bench::with(json!({"data": {"dsn": "pg://{{ principal }}:{{ value }}@db"}})).await;
    assert_eq!(publish(&bench.consumer(), 1).await, Ok(Published::Now));
    bench.service.calls();
    assert_eq!(publish(&bench.consumer(), 2).await, Ok(Published::Now));
    let mark = "[rekeyd policy=contract/consumer version=2]";
    let expected = json!({"dsn": format!("pg://app:{}@db", value(2)), "rekeyd": mark});
    assert_eq!(bench.data(), Some(expected));
    let calls = bench.service.calls();
    let moved = calls
        .iter()
        .filter(|call| call.action == "UpdateSecretVersionStage")
        .find(|call| call.body["VersionStage"] == "AWSCURRENT")
        .expect("the label moved");
    assert!(moved.body["RemoveFromVersionId"].is_string(), "{moved:?}");
    let put = calls.iter().find(|call| call.action == "PutSecretValue").expect("a version was put");
    assert_ne!(put.body["VersionStages"], json!(["AWSCURRENT"]));
    bench.service.with(|account| assert_eq!(account.secret(NAME).own_labels(), Vec::<&str>::new()));
    assert_eq!(publish(&bench.consumer(), 2).await, Ok(Published::Already(None)));
}

/// Whoever repeats a write repeats the version: there is one for each that readers know.
#[tokio::test]
async fn a_lost_answer_makes_no_second_version() {
    for action in ["CreateSecret", "PutSecretValue", "UpdateSecretVersionStage"] {
        let bench = Bench::new().await;
        if action != "CreateSecret" {
            publish(&bench.consumer(), 1).await.expect("published");
        }
        let versions = || bench.service.with(|account| account.known(NAME).map_or(0, |it| it.versions.len()));
        let before = versions();
        bench.service.next(action, Fate::LoseReply);
        let failure = publish(&bench.consumer(), 2).await.expect_err("no answer came");
        let fine = matches!(failure.class(), FailureClass::Ambiguous | FailureClass::Unavailable);
        assert!(fine && !failure.to_string().contains(INMOST), "{action}: {failure}");
        publish(&*bench.open(), 2).await.expect("published by another process");
        assert_eq!((bench.shown(), versions()), (Some(value(2)), before + 1), "{action}");
    }
}

#[tokio::test]
async fn what_others_wrote_is_left_alone() {
    let theirs = json!({"username": "a", "password": "b"}).to_string();
    for (text, adopt, class, reason) in [
        (&*theirs, false, FailureClass::Conflict, "rekeyd did not write it"),
        ("hunter2", true, FailureClass::Invalid, "other fields"),
        (r#"{"username": "a", "note": "b"}"#, true, FailureClass::Invalid, "other fields"),
        (r#"{"password": "a", "rekeyd": "theirs"}"#, true, FailureClass::Conflict, "is not rekeyd's mark"),
    ] {
        let bench = Bench::with(json!({"adopt": adopt})).await;
        bench.put(text);
        assert_refused(publish(&bench.consumer(), 1).await, class, reason);
        let findings = bench.consumer().preflight(&policy()).await;
        assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
        bench.service.with(|account| {
            assert_eq!(account.secret(NAME).with("AWSCURRENT").expect("theirs").text, text);
        });
    }
    let bench = Bench::with(json!({"adopt": true})).await;
    bench.put(&theirs);
    bench.service.with(|account| account.change(NAME, |secret| secret.rotates = true));
    assert_refused(publish(&bench.consumer(), 1).await, FailureClass::Invalid, "rotates it itself");
    bench.service.with(|account| account.change(NAME, |secret| secret.rotates = false));
    assert_eq!(publish(&bench.consumer(), 1).await, Ok(Published::Now));
}

/// Nothing of a secret that is younger than a day makes room, and neither does anything of a copy.
#[tokio::test]
async fn versions_of_a_copy_are_counted_before_there_are_too_many() {
    let bench = Bench::new().await;
    publish(&bench.consumer(), 1).await.expect("published");
    let told = async |wanted: Verdict| {
        let findings = bench.consumer().preflight(&policy()).await;
        let worst = findings.iter().find(|finding| finding.subject == format!("versions of {NAME}"));
        let worst = worst.unwrap_or_else(|| panic!("they are not counted: {findings:?}"));
        assert_eq!(worst.verdict, wanted, "{findings:?}");
        worst.detail.clone()
    };
    told(Verdict::Pass).await;
    let fill = |to: usize| {
        bench.service.with(|account| {
            account.change(NAME, |secret| {
                for number in secret.versions.len()..to {
                    let mut version = secret.versions[0].clone();
                    version.id = format!("{number:032}");
                    version.labels.clear();
                    secret.versions.push(version);
                }
            });
        });
    };
    fill(60);
    assert_eq!(told(Verdict::Warn).await, "60 of 100 in the last day");
    fill(99);
    assert_eq!(told(Verdict::Fail).await, "99 of 100 in the last day: a rotation may need 2");
    bench.service.with(|account| account.pass(25 * 3_600));
    told(Verdict::Pass).await;
    bench.service.deny("ListSecretVersionIds");
    told(Verdict::Warn).await;
}
