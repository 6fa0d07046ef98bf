//! What a promotion does at the service, and what becomes of it when it is repeated, raced or forestalled.

use rekeyd::ident::{RotationId, Version};
use rekeyd::policy::spec::{Extra, ExtraValue};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::{Promotion, Revision};
use serde_json::{Value, json};

use super::*;
use crate::aws_service::{Account, Fate};
use crate::store::contract::{control, current, policy, promote, save};

const PATH: &str = "apps/a";

fn someone(value: &str) -> Credential {
    Credential::new("app_b".parse().expect("a principal"), SecretValue::new(value.as_bytes().to_vec()))
}

/// One rotation's promotion, which may be repeated.
struct Attempt {
    credential: Credential,
    rotation: RotationId,
    version: Version,
    extra: Extra,
}

impl Attempt {
    fn new(value: &str) -> Self {
        let (rotation, version) = (RotationId::generate(), Version::new(2));
        Self { credential: someone(value), rotation, version, extra: Extra::new() }
    }

    async fn run(&self, store: &dyn Store, expected: Option<&Revision>) -> Result<Revision, Failure> {
        let (path, fields) = (PATH.parse().expect("a path"), FieldNames::default());
        let Self { credential, rotation, version, extra } = self;
        let (rotation, version) = (*rotation, *version);
        let promotion = Promotion { credential, expected, rotation, version, extra };
        store.promote(Place { path: &path, fields: &fields }, promotion).await
    }
}

async fn rehearse(store: &dyn Store) -> Result<(), Failure> {
    let (path, fields) = (PATH.parse().expect("a path"), FieldNames::default());
    store.rehearse(Place { path: &path, fields: &fields }).await
}

fn value(account: &Account, label: &str) -> Value {
    let version = account.secret(PATH).with(label).unwrap_or_else(|| panic!("nothing has {label}"));
    serde_json::from_str(&version.text).expect("JSON")
}

#[tokio::test]
async fn clients_of_aws_find_what_they_expect() {
    let bench = Bench::new().await;
    let store = bench.store();
    let old = json!({"username": "app_a", "password": "old", "note": "of a person", "port": "1"});
    bench.0.with(|account| account.overwrite(PATH, &old.to_string()));
    let (_, _, revision) = current(&store, PATH).await.expect("a value");
    let mut attempt = Attempt::new("new");
    attempt.extra = Extra::from([
        ("engine".into(), ExtraValue::Text("postgres".into())),
        ("port".into(), ExtraValue::Number(5432)),
    ]);
    bench.0.calls();
    attempt.run(&store, Some(&revision)).await.expect("a promotion");
    assert_eq!(
        bench.0.actions(),
        [
            "GetSecretValue",
            "PutSecretValue",
            "UpdateSecretVersionStage",
            "DescribeSecret",
            "UpdateSecretVersionStage"
        ]
    );
    bench.0.with(|account| {
        let new = json!({
            "username": "app_b", "password": "new", "note": "of a person", "engine": "postgres", "port": 5432,
        });
        assert_eq!(value(account, "AWSCURRENT"), new);
        assert_eq!(value(account, "AWSPREVIOUS"), old);
        assert!(account.secret(PATH).own_labels().is_empty(), "labels are left");
    });
}

#[tokio::test]
async fn a_version_is_put_aside_under_a_label_that_no_other_has() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    bench.0.calls();
    for value in ["two", "three"] {
        // Both lose their move, so that both labels would meet.
        bench.0.next("UpdateSecretVersionStage", Fate::LoseRequest);
        let failure = Attempt::new(value).run(&store, Some(&first)).await.expect_err("it is lost");
        assert_failed(&failure, FailureClass::Ambiguous, "the connection broke");
    }
    let puts: Vec<Value> = bench
        .0
        .calls()
        .into_iter()
        .filter(|call| call.action == "PutSecretValue")
        .map(|call| call.body)
        .collect();
    assert_eq!(puts.len(), 2);
    assert_ne!(puts[0]["VersionStages"], puts[1]["VersionStages"]);
    bench.0.with(|account| {
        assert_eq!(account.secret(PATH).own_labels().len(), 2);
        assert_eq!(account.secret(PATH).with("AWSCURRENT").expect("one").id, first.as_str());
    });
}

#[tokio::test]
async fn a_promotion_that_is_repeated_is_the_same_version() {
    let bench = Bench::new().await;
    let attempt = Attempt::new("one");
    for (action, fate, class) in [
        ("CreateSecret", Fate::LoseReply, FailureClass::Ambiguous),
        ("CreateSecret", Fate::DoneAndFailed, FailureClass::Ambiguous),
    ] {
        bench.0.next(action, fate);
        let failure = attempt.run(&bench.store(), None).await.expect_err("the answer is lost");
        assert_eq!(failure.class(), class, "{failure}");
    }
    let first = attempt.run(&bench.store(), None).await.expect("a promotion");
    let next = Attempt::new("two");
    for (action, fate, class) in [
        // Nobody looks at a version that is aside: it is as good as not there.
        ("PutSecretValue", Fate::LoseReply, FailureClass::Unavailable),
        ("PutSecretValue", Fate::LoseRequest, FailureClass::Unavailable),
        ("UpdateSecretVersionStage", Fate::LoseRequest, FailureClass::Ambiguous),
        ("UpdateSecretVersionStage", Fate::DoneAndFailed, FailureClass::Ambiguous),
        ("UpdateSecretVersionStage", Fate::LoseReply, FailureClass::Ambiguous),
    ] {
        bench.0.next(action, fate);
        match next.run(&bench.store(), Some(&first)).await {
            Err(failure) => assert_eq!(failure.class(), class, "{action} {fate:?}: {failure}"),
            // It was done by then: the label is where it should be, and nothing is moved again.
            Ok(_) => assert_eq!((action, fate), ("UpdateSecretVersionStage", Fate::LoseReply)),
        }
    }
    let second = next.run(&bench.store(), Some(&first)).await.expect("a promotion");
    assert_eq!(next.run(&bench.store(), Some(&first)).await, Ok(second.clone()));
    assert_eq!(current(&bench.store(), PATH).await, Some(("app_b".into(), "two".into(), second)));
    bench.0.with(|account| {
        assert_eq!(account.secret(PATH).versions.len(), 2, "a repetition made another version");
        assert_eq!(account.secret(PATH).with("AWSPREVIOUS").expect("one").id, first.as_str());
    });
}

#[tokio::test]
async fn another_expectation_is_another_version() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    let attempt = Attempt::new("two");
    let second = attempt.run(&store, Some(&first)).await.expect("a promotion");
    bench.0.with(|account| account.overwrite(PATH, r#"{"username": "x", "password": "foreign"}"#));
    let (_, _, foreign) = current(&store, PATH).await.expect("a value");
    let third = attempt.run(&store, Some(&foreign)).await.expect("a promotion");
    assert!(third != second && third != first, "a revision came back");
    let hold = Attempt { version: Version::new(1), ..attempt };
    let held = hold.run(&store, Some(&third)).await.expect("a promotion");
    assert!(![first, second, third].contains(&held), "a revision came back");
}

#[tokio::test]
async fn a_foreign_write_is_a_conflict_and_stays() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    bench.0.with(|account| account.overwrite(PATH, r#"{"username": "x", "password": "foreign"}"#));
    let failure = Attempt::new("two").run(&store, Some(&first)).await.expect_err("it was forestalled");
    assert_failed(&failure, FailureClass::Conflict, "somebody else wrote it");
    bench.0.with(|account| {
        assert_eq!(value(account, "AWSCURRENT")["password"], "foreign");
        assert_eq!(value(account, "AWSPREVIOUS")["password"], "one");
        assert!(account.secret(PATH).own_labels().is_empty(), "labels are left");
    });
}

#[tokio::test]
async fn labels_of_the_dead_do_not_stand_in_the_way() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    bench.0.with(|account| {
        account.change(PATH, |secret| {
            for number in 0..19 {
                secret.versions[0].labels.insert(format!("rekeyd-{number}"));
            }
        });
    });
    Attempt::new("two").run(&store, Some(&first)).await.expect("a promotion");
    bench.0.with(|account| assert!(account.secret(PATH).own_labels().is_empty(), "labels are left"));
}

#[tokio::test]
async fn a_secret_that_was_made_without_a_value_is_filled_once() {
    let bench = Bench::new().await;
    let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:apps/a-tagged";
    bench.0.with(|account| account.change(PATH, |secret| secret.arn = arn.into()));
    assert!(current(&bench.store(), PATH).await.is_none());
    let (one, two) = (Attempt::new("one"), Attempt::new("two"));
    let (a, b) = (bench.store(), bench.store());
    let results = tokio::join!(one.run(&a, None), two.run(&b, None));
    let (won, lost) = match &results {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("{other:?}"),
    };
    assert_eq!(lost.class(), FailureClass::Conflict, "{lost}");
    assert_eq!(current(&bench.store(), PATH).await.map(|(_, _, revision)| revision).as_ref(), Some(won));
    bench.0.with(|account| {
        assert_eq!(account.secret(PATH).arn, arn, "it was made anew");
        assert!(account.secret(PATH).own_labels().is_empty(), "labels are left");
    });
}

#[tokio::test]
async fn a_first_version_that_may_be_in_force_is_a_doubt() {
    let bench = Bench::new().await;
    bench.0.with(|account| account.change(PATH, |_| {}));
    bench.0.next("PutSecretValue", Fate::LoseReply);
    let attempt = Attempt::new("one");
    let failure = attempt.run(&bench.store(), None).await.expect_err("the answer is lost");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    let revision = attempt.run(&bench.store(), None).await.expect("a promotion");
    assert_eq!(current(&bench.store(), PATH).await, Some(("app_b".into(), "one".into(), revision)));
}

#[tokio::test]
async fn what_another_release_wrote_for_this_promotion_counts() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    let attempt = Attempt::new("two");
    bench.0.next("UpdateSecretVersionStage", Fate::LoseRequest);
    attempt.run(&store, Some(&first)).await.expect_err("it is lost");
    let written = |text: &'static str| {
        bench.0.with(|account| account.change(PATH, |secret| secret.versions[1].text = text.into()));
    };
    written(r#"{ "password": "other", "username": "app_b" }"#);
    let failure = attempt.run(&store, Some(&first)).await.expect_err("it is another credential");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    written(r#"{ "password": "two", "username": "app_b" }"#);
    attempt.run(&store, Some(&first)).await.expect("a promotion");
}

#[tokio::test]
async fn secrets_that_others_rotate_are_refused_before_and_not_in_the_middle() {
    let bench = Bench::new().await;
    let store = bench.store();
    let mut revision = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    rehearse(&store).await.expect("nobody else is at it");
    let pending = |account: &mut Account| {
        account.change(PATH, |secret| {
            let mut version = secret.versions[0].clone();
            version.id = "pending-0000-0000-0000-000000000000".into();
            version.labels = ["AWSPENDING".to_owned()].into();
            secret.versions.push(version);
        });
    };
    let native = |account: &mut Account| account.change(PATH, |secret| secret.rotates = true);
    for (disturb, reason, remedy) in [
        (&pending as &dyn Fn(&mut Account), "has the label AWSPENDING", "update-secret-version-stage"),
        (&native, "the service rotates it itself", "cancel-rotate-secret --secret-id apps/a"),
    ] {
        bench.0.with(disturb);
        let failure = rehearse(&store).await.expect_err("somebody else is at it");
        assert_failed(&failure, FailureClass::Invalid, reason);
        assert!(failure.remedy().is_some_and(|text| text.contains(remedy)), "{:?}", failure.remedy());
        // What has begun goes on: the target has the new value already.
        revision = Attempt::new("more").run(&store, Some(&revision)).await.expect("a promotion");
    }
    bench.0.with(|account| {
        account.change(PATH, |secret| {
            secret.rotates = false;
            secret.versions.retain(|version| !version.labels.contains("AWSPENDING"));
            secret.versions[0].labels.insert("rekeyd-left-by-the-dead".into());
        });
    });
    rehearse(&store).await.expect("a label of its own is nobody else's");
}

#[tokio::test]
async fn what_is_to_be_deleted_can_be_brought_back() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    save(&store, "orders/db", "document", None).await.expect("a saving");
    let set = |deleted| {
        bench.0.with(|account| {
            for name in [PATH, "rekeyd/control/orders/db"] {
                account.change(name, |secret| secret.deleted = deleted);
            }
        });
    };
    set(true);
    let document = SecretValue::new(b"two".to_vec());
    let attempt = Attempt::new("two");
    let failures = [
        (try_current(&store, PATH).await.expect_err("it was deleted"), PATH),
        (attempt.run(&store, Some(&first)).await.expect_err("it was deleted"), PATH),
        (attempt.run(&store, None).await.expect_err("it was deleted"), PATH),
        (store.control(&policy("orders/db")).await.expect_err("it was deleted"), "rekeyd/control/orders/db"),
        (
            store.save(&policy("orders/db"), &document, None).await.expect_err("deleted"),
            "rekeyd/control/orders/db",
        ),
    ];
    for (failure, name) in failures {
        assert_failed(&failure, FailureClass::Invalid, "somebody deleted it");
        let remedy = format!("restore-secret --secret-id {name}");
        assert!(failure.remedy().is_some_and(|text| text.contains(&remedy)), "{:?}", failure.remedy());
    }
    // It is still found by whoever looks for open rotations.
    assert_eq!(store.policies().await.expect("a listing"), [policy("orders/db")]);
    set(false);
    attempt.run(&store, Some(&first)).await.expect("a promotion");
}

#[tokio::test]
async fn a_process_reads_what_it_wrote_although_the_service_lags() {
    let bench = Bench::new().await;
    let store = bench.store();
    bench.0.with(|account| account.lag = 3);
    let mut last = None;
    for text in ["one", "two", "three"] {
        let revision = promote(&store, PATH, "app_a", text, last.as_ref()).await.expect("a promotion");
        assert_eq!(current(&store, PATH).await, Some(("app_a".into(), text.into(), revision.clone())));
        last = Some(revision);
    }
    let mut last = None;
    for text in ["one", "two", "three"] {
        let revision = save(&store, "orders/db", text, last.as_ref()).await.expect("a saving");
        assert_eq!(control(&store, "orders/db").await, Some((text.into(), revision.clone())));
        last = Some(revision);
    }
    // Another process may read what was. Its write meets what is.
    save(&store, "orders/db", "four", last.as_ref()).await.expect("a saving");
    let other = bench.store();
    let (text, stale) = control(&other, "orders/db").await.expect("a document");
    assert_eq!(text, "three", "it was to lag");
    assert_eq!(save(&other, "orders/db", "stale", Some(&stale)).await, Err(FailureClass::Conflict));
    assert_eq!(control(&other, "orders/db").await.map(|(text, _)| text).as_deref(), Some("four"));
}

#[tokio::test]
async fn a_label_that_a_person_put_back_is_believed_after_a_moment() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    promote(&store, PATH, "app_a", "two", Some(&first)).await.expect("a promotion");
    bench.0.with(|account| {
        account.change(PATH, |secret| {
            for version in &mut secret.versions {
                let label = if version.id == first.as_str() { "AWSCURRENT" } else { "AWSPREVIOUS" };
                version.labels = [label.to_owned()].into();
            }
        });
    });
    assert_eq!(current(&store, PATH).await, Some(("app_a".into(), "one".into(), first)));
}

#[tokio::test]
async fn a_secret_without_room_is_said_to_have_none() {
    let bench = Bench::new().await;
    let store = bench.store();
    let mut last = promote(&store, PATH, "app_a", "0", None).await.expect("a promotion");
    for number in 1..100 {
        last = promote(&store, PATH, "app_a", &number.to_string(), Some(&last)).await.expect("a promotion");
    }
    let attempt = Attempt::new("more");
    let failure = attempt.run(&store, Some(&last)).await.expect_err("there is no room");
    assert_failed(&failure, FailureClass::Unavailable, "as many versions or labels as the service allows");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("a day old")), "{failure:?}");
    assert_eq!(current(&store, PATH).await.map(|(_, value, _)| value).as_deref(), Some("99"));
    bench.0.with(|account| account.pass(25 * 3_600));
    attempt.run(&store, Some(&last)).await.expect("a promotion");
    bench.0.with(|account| assert_eq!(account.secret(PATH).versions.len(), 100));
}

#[tokio::test]
async fn earlier_control_documents_lose_their_labels() {
    let bench = Bench::new().await;
    let store = bench.store();
    let mut last = None;
    for text in ["one", "two", "three", "four"] {
        last = Some(save(&store, "orders/db", text, last.as_ref()).await.expect("a saving"));
    }
    bench.0.with(|account| {
        let secret = account.secret("rekeyd/control/orders/db");
        let labels: Vec<usize> = secret.versions.iter().map(|version| version.labels.len()).collect();
        assert_eq!(labels, [0, 0, 1, 1], "one in force and one before it");
    });
}

#[tokio::test]
async fn what_is_too_long_or_no_text_is_refused_before_it_is_sent() {
    let bench = Bench::new().await;
    let store = bench.store();
    for (value, reason) in [(vec![b'x'; 65_536], "a secret has at most 65536"), (vec![0xff], "not UTF-8")] {
        let value = SecretValue::new(value);
        let failure = store.save(&policy("orders/db"), &value, None).await.expect_err("it is unfit");
        assert_failed(&failure, FailureClass::Invalid, reason);
        let attempt =
            Attempt { credential: Credential::new("a".parse().expect("a name"), value), ..Attempt::new("") };
        let failure = attempt.run(&store, None).await.expect_err("it is unfit");
        assert_failed(&failure, FailureClass::Invalid, reason);
    }
    assert!(bench.0.calls().is_empty(), "it was sent");
}

#[tokio::test]
async fn no_policy_can_keep_its_value_among_the_control_documents() {
    let bench = Bench::new().await;
    let store = bench.store();
    for path in ["rekeyd/control", "rekeyd/control/orders/db"] {
        let failure = try_current(&store, path).await.expect_err("it is rekeyd's own");
        assert_failed(&failure, FailureClass::Invalid, "rekeyd's own folder");
        assert_eq!(promote(&store, path, "app_a", "one", None).await, Err(FailureClass::Invalid));
    }
    assert!(bench.0.calls().is_empty(), "it was sent");
}

#[tokio::test]
async fn a_control_document_of_somebody_else_is_not_read_as_one() {
    let bench = Bench::new().await;
    bench.0.with(|account| account.overwrite("rekeyd/control/orders/db", r#"{"hunter2": 1}"#));
    let failure = bench.store().control(&policy("orders/db")).await.expect_err("it is none");
    assert_failed(&failure, FailureClass::Invalid, "somebody else wrote it");
}
