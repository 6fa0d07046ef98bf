//! A service that is down, slow, overloaded, somebody else's, or has other ideas of who asks.

use std::time::Duration;

use jiff::SignedDuration;
use rekeyd::policy::spec::Interval;
use rekeyd::settings::AwsSettings;

use super::*;
use crate::aws_service::{Fate, KEY_ID};
use crate::store::contract::{control, current, policy, promote, save};

const PATH: &str = "apps/a";

async fn write_failure(store: &dyn Store, path: &str) -> Failure {
    let value = rekeyd::secret::SecretValue::new(b"hunter2".to_vec());
    store.save(&policy(path), &value, None).await.expect_err("the writing fails")
}

async fn read_failure(store: &dyn Store) -> Failure {
    try_current(store, PATH).await.expect_err("the reading fails")
}

#[tokio::test]
async fn what_the_service_says_decides_what_may_be_done_next() {
    use FailureClass::{Ambiguous, Denied, Invalid, Unavailable};
    let bench = Bench::new().await;
    let store = bench.store();
    for (fate, reads, writes, reason) in [
        (Fate::Code("ThrottlingException", 400), Unavailable, Unavailable, "rate limit"),
        (Fate::Code("TooManyRequestsException", 429), Unavailable, Unavailable, "rate limit"),
        (Fate::Code("InternalServiceError", 500), Unavailable, Ambiguous, "failed (status 500)"),
        (Fate::Code("ServiceUnavailable", 503), Unavailable, Ambiguous, "failed (status 503)"),
        (Fate::Code("AccessDeniedException", 400), Denied, Denied, "is not allowed"),
        (Fate::Code("ExpiredTokenException", 400), Denied, Denied, "does not take the login"),
        (Fate::Code("UnrecognizedClientException", 400), Denied, Denied, "does not take the login"),
        (Fate::Code("InvalidSignatureException", 400), Denied, Denied, "signature is not accepted"),
        (Fate::Code("DecryptionFailure", 400), Invalid, Invalid, "key of KMS cannot be used"),
        (Fate::Code("EncryptionFailure", 400), Invalid, Invalid, "key of KMS cannot be used"),
        (Fate::Code("InvalidParameterException", 400), Invalid, Invalid, "does not take the request"),
        (Fate::Code("SomethingNew", 400), Unavailable, Unavailable, "status 400"),
        (Fate::Html(403), Unavailable, Unavailable, "status 403"),
        (Fate::Html(502), Unavailable, Ambiguous, "failed (status 502)"),
        (Fate::Html(200), Unavailable, Ambiguous, "not one of Secrets Manager"),
        (Fate::Huge, Unavailable, Ambiguous, "too long"),
        (Fate::LoseRequest, Unavailable, Ambiguous, "connection broke"),
    ] {
        bench.0.next("GetSecretValue", fate);
        let failure = read_failure(&store).await;
        assert_failed(&failure, reads, reason);
        bench.0.next("CreateSecret", fate);
        let failure = write_failure(&store, &format!("orders/p{}", reason.len())).await;
        assert_failed(&failure, writes, reason);
    }
}

#[tokio::test]
async fn nothing_of_an_answer_is_told() {
    let bench = Bench::new().await;
    let store = bench.store();
    for status in [200, 400, 500] {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"__type": "K9xW2vInmostValue", "message": "K9xW2vInmostValue"}"#,
            r#"{"__type": 7}"#,
            r#"{"SecretString": "K9xW2vInmostValue"}"#,
            r#"{"SecretString": "K9xW2vInmostValue", "VersionId": "x"}"#,
            r#"{"SecretBinary": "SzkA", "VersionId": "x"}"#,
            r#"{"SecretString": {"K9xW2vInmostValue": 1}, "VersionId": 5}"#,
            r#"{"SecretString": "{\"username\": \"K9xW2vInmostValue\", \"password\": 1}", "VersionId": "x"}"#,
            "{\"SecretString\": \"K9xW2vInmostValue",
        ] {
            bench.0.next("GetSecretValue", Fate::Said(status, text));
            if let Err(failure) = try_current(&store, PATH).await {
                assert_failed(&failure, failure.class(), "cannot read apps/a");
            }
            bench.0.next("GetSecretValue", Fate::Said(status, text));
            if let Err(failure) = store.control(&policy("orders/db")).await {
                assert_failed(&failure, failure.class(), "cannot read the control document");
            }
            bench.0.next("ListSecrets", Fate::Said(status, text));
            if let Err(failure) = store.policies().await {
                assert_failed(&failure, failure.class(), "cannot list");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_so_long_and_no_longer() {
    let bench = Bench::new().await;
    let timeout = Interval::from_duration(Duration::from_secs(1));
    let store = AwsStore::open(&AwsSettings { timeout, ..bench.0.settings() }).expect("a store");
    bench.0.next("CreateSecret", Fate::Silence);
    let begun = std::time::Instant::now();
    let failure = write_failure(&store, "orders/db").await;
    assert_failed(&failure, FailureClass::Ambiguous, "does not answer in time");
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
    // It was done.
    assert_eq!(control(&store, "orders/db").await.map(|(text, _)| text).as_deref(), Some("hunter2"));
}

#[tokio::test]
async fn a_service_that_is_down_has_certainly_done_nothing() {
    let bench = Bench::new().await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = Some(format!("http://{}", socket.local_addr().expect("an address")));
    drop(socket);
    let store = AwsStore::open(&AwsSettings { endpoint, ..bench.0.settings() }).expect("a store");
    for failure in [read_failure(&store).await, write_failure(&store, "orders/db").await] {
        assert_failed(&failure, FailureClass::Unavailable, "connection refused");
    }
}

#[tokio::test]
async fn a_request_is_made_once() {
    let bench = Bench::new().await;
    let store = bench.store();
    for fate in
        [Fate::Code("ThrottlingException", 400), Fate::Code("InternalServiceError", 500), Fate::LoseReply]
    {
        bench.0.next("CreateSecret", fate);
        write_failure(&store, "orders/db").await;
        assert_eq!(bench.0.actions(), ["CreateSecret"], "{fate:?}");
    }
}

#[tokio::test]
async fn who_lacks_a_right_is_told_which() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    let document = save(&store, "orders/db", "one", None).await.expect("a saving");
    for action in ["PutSecretValue", "UpdateSecretVersionStage"] {
        bench.0.deny(action);
        let value = rekeyd::secret::SecretValue::new(b"hunter2".to_vec());
        let failure =
            store.save(&policy("orders/db"), &value, Some(&document)).await.expect_err("it is denied");
        assert_failed(&failure, FailureClass::Denied, &format!("`secretsmanager:{action}` is not allowed"));
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("rekeyd iam-policy")));
        bench.0.allow(action);
    }
    bench.0.deny("ListSecrets");
    let failure = store.policies().await.expect_err("it is denied");
    assert_failed(&failure, FailureClass::Denied, "`secretsmanager:ListSecrets` is not allowed");
    assert_eq!(current(&store, PATH).await.map(|(_, _, revision)| revision), Some(first));
}

#[tokio::test]
async fn a_lost_right_to_take_a_label_away_loses_nothing() {
    let bench = Bench::new().await;
    let store = bench.store();
    let first = promote(&store, PATH, "app_a", "one", None).await.expect("a promotion");
    bench.0.next("UpdateSecretVersionStage", Fate::Pass);
    bench.0.next("UpdateSecretVersionStage", Fate::Code("AccessDeniedException", 400));
    let second = promote(&store, PATH, "app_b", "two", Some(&first)).await.expect("a promotion");
    bench.0.with(|account| assert_eq!(account.secret(PATH).own_labels().len(), 1));
    promote(&store, PATH, "app_a", "three", Some(&second)).await.expect("a promotion");
    bench.0.with(|account| assert!(account.secret(PATH).own_labels().is_empty(), "labels are left"));
}

/// The service says of it what it says of a wrong key, but for the text.
#[tokio::test]
async fn a_clock_that_is_off_is_told_from_a_wrong_key() {
    let bench = Bench::new().await;
    let store = bench.store();
    let minutes = SignedDuration::from_mins;
    for (ahead, is_off) in
        [(minutes(6), true), (minutes(-6), true), (minutes(4), false), (minutes(-4), false)]
    {
        bench.0.set_ahead(ahead);
        if !is_off {
            assert!(try_current(&store, PATH).await.is_ok(), "{ahead:?}");
            continue;
        }
        for failure in [read_failure(&store).await, write_failure(&store, "orders/db").await] {
            assert_failed(&failure, FailureClass::Unavailable, "the clocks differ too much");
            assert!(failure.remedy().is_some_and(|remedy| remedy.contains("clock of this machine")));
        }
    }
    bench.0.set_ahead(minutes(6));
    bench.0.write_keys(KEY_ID, "another key");
    assert_failed(&read_failure(&bench.store()).await, FailureClass::Denied, "the signature is not accepted");
}

#[tokio::test]
async fn a_login_that_is_missing_or_wrong_is_told_from_a_service_that_is_down() {
    let bench = Bench::new().await;
    bench.0.write_keys(KEY_ID, "another key");
    assert_failed(&read_failure(&bench.store()).await, FailureClass::Denied, "the signature is not accepted");
    bench.0.write_keys("AKIDUNKNOWN", "another key");
    assert_failed(&read_failure(&bench.store()).await, FailureClass::Denied, "does not take the login");
    let credentials_file = Some("/nonexistent/credentials".into());
    let store = AwsStore::open(&AwsSettings { credentials_file, ..bench.0.settings() }).expect("a store");
    for failure in [read_failure(&store).await, write_failure(&store, "orders/db").await] {
        assert_failed(&failure, FailureClass::Denied, "there is nothing to log in with");
    }
    let profile = Some("absent".into());
    let store = AwsStore::open(&AwsSettings { profile, ..bench.0.settings() }).expect("a store");
    assert_failed(&read_failure(&store).await, FailureClass::Denied, "there is nothing to log in with");
}
