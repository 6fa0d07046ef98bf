//! The store at AWS Secrets Manager with moto in its place: the real driver over real HTTP, and the shipped binary.
//!
//! moto is laxer than the service, so the rules that matter are held to in `tests/it/aws`, on a service that is
//! strict. Left out here is what moto does not do: it makes several changes at once of which one has to win (its threads
//! look and write without a lock in between), so the contract's three races. It also takes a value that is too long,
//! any signature, and a write to a secret that is to be deleted, none of which is asked of it.

use std::sync::Arc;

use async_trait::async_trait;
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::StorePath;
use rekeyd::policy::spec::FieldNames;
use rekeyd::store::aws::AwsStore;
use rekeyd::store::{Place, Store};
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::moto::{Account, REGION};
use crate::store::contract::{Fixture, control, current, policy, promote, save};

const PATH: &str = "shop/session-key";
const POLICY: &str = "shop/session-key";

#[async_trait]
impl Fixture for Account {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(AwsStore::open(&self.settings()).expect("a store"))
    }

    async fn delete(&self, path: &StorePath) {
        let body = json!({"SecretId": path.as_str(), "ForceDeleteWithoutRecovery": true});
        self.call("DeleteSecret", &body);
    }
}

mod moto {
    use super::Account;

    crate::store::contract::store_contract! { Account::new();
        an_empty_path_holds_nothing
        a_path_is_created_once
        a_promotion_needs_the_revision_it_read
        a_conflict_leaves_the_value_in_force
        a_revision_never_comes_back
        what_was_written_is_read_by_every_handle
        every_text_comes_back_as_it_was
        long_values_come_back_as_they_were
        a_control_document_is_opened_once
        a_control_document_needs_the_revision_it_read
        paths_and_policies_are_apart
        policies_lists_every_policy_with_a_document
        a_revision_of_another_store_is_refused
        preflight_passes_and_changes_nothing
    }
}

#[tokio::test]
async fn a_deleted_path_can_be_filled_and_one_that_can_be_restored_is_told_of() {
    let account = Account::new();
    let store = account.open();
    let first = promote(&*store, PATH, "app_a", "one", None).await.expect("a promotion");
    account.delete(&PATH.parse().expect("a path")).await;
    assert!(current(&*store, PATH).await.is_none());
    let second = promote(&*store, PATH, "app_a", "two", None).await.expect("a promotion");
    assert_ne!(first, second);
    account.call("DeleteSecret", &json!({"SecretId": PATH}));
    let (path, fields) = (PATH.parse().expect("a path"), FieldNames::default());
    let failure = store.current(Place { path: &path, fields: &fields }).await.expect_err("it was deleted");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    let findings = store.preflight(Place { path: &path, fields: &fields }, &policy("a/b")).await;
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Fail), "{findings:?}");
    account.call("RestoreSecret", &json!({"SecretId": PATH}));
    assert_eq!(current(&*store, PATH).await, Some(("app_a".into(), "two".into(), second)));
}

#[tokio::test]
async fn earlier_documents_lose_their_labels() {
    let account = Account::new();
    let store = account.open();
    let mut last = None;
    for text in ["one", "two", "three"] {
        last = Some(save(&*store, "orders/db", text, last.as_ref()).await.expect("a saving"));
    }
    assert_eq!(control(&*store, "orders/db").await.map(|(text, _)| text).as_deref(), Some("three"));
    let view = account.call("DescribeSecret", &json!({"SecretId": "rekeyd/control/orders/db"}));
    let labels: Vec<&Value> = view["VersionIdsToStages"].as_object().expect("versions").values().collect();
    let all: Vec<&str> =
        labels.iter().flat_map(|list| list.as_array().expect("labels")).filter_map(Value::as_str).collect();
    assert!(all.iter().all(|label| label.starts_with("AWS")) && all.len() == 2, "{view}");
}

/// An installation that keeps a generated value at AWS.
async fn installation(account: &Account) -> Installation {
    let at = Installation::new().await;
    at.change_settings(|settings| {
        settings["stores"]["aws"] = json!({"awsSecretsManager": {
            "region": REGION, "endpoint": account.address, "credentialsFile": account.keys(),
            "account": account.number,
        }});
    });
    at.write_policy(&json!({
        "apiVersion": "rekeyd.dev/v1alpha1",
        "kind": "RotationPolicy",
        "metadata": {"name": "session-key", "namespace": "shop"},
        "spec": {
            "target": {"generated": {}},
            "store": {"name": "aws", "path": PATH, "extra": {"engine": "none", "port": 5432}},
        },
    }));
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_binary_rotates_and_contains_there() {
    let account = Account::new();
    let at = installation(&account).await;
    at.run(&["preflight", POLICY]).await.ended(0).says(&["not there: the first rotation makes it"]);
    at.run(&["rotate", POLICY]).await.ended(0);
    let first = account.value(PATH, "AWSCURRENT");
    assert_eq!((&first["engine"], &first["port"]), (&json!("none"), &json!(5432)));
    at.run(&["contain", POLICY, "--reason", "leak"]).await.ended(0);
    let second = account.value(PATH, "AWSCURRENT");
    assert_ne!(first["password"], second["password"]);
    assert_eq!(account.value(PATH, "AWSPREVIOUS"), first);
    let status = at.run(&["status", POLICY, "-o", "json"]).await.ended(0);
    assert!(!status.stdout.contains(second["password"].as_str().expect("a value")));
    at.run(&["preflight", POLICY]).await.ended(0).says(&["of 100 in the last day"]);
    let rights = at.run(&["iam-policy"]).await.ended(0).json();
    let arn = format!("arn:aws:secretsmanager:{REGION}:{}:secret:{PATH}-??????", account.number);
    assert_eq!(rights["Statement"][0]["Resource"], json!([arn]));

    // How much a rotation writes to its own secret is what `check` and `plan` count with.
    let versions = |name: &str| {
        let body = json!({"SecretId": name, "IncludeDeprecated": true});
        account.call("ListSecretVersionIds", &body)["Versions"].as_array().expect("versions").len()
    };
    let before = versions("rekeyd/control/shop/session-key");
    let told = at.run(&["rotate", POLICY, "--log", "trace"]).await.ended(0);
    let third = account.value(PATH, "AWSCURRENT");
    let values = [&first, &second, &third].map(|value| value["password"].as_str().expect("a value"));
    for secret in values.into_iter().chain([account.secret.as_str(), account.session.as_str()]) {
        assert!(!told.stdout.contains(secret) && !told.stderr.contains(secret), "the log tells a value");
    }
    let written = versions("rekeyd/control/shop/session-key") - before;
    assert!((1..=6).contains(&written), "a rotation writes {written} versions of its control document");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rotations_than_there_is_room_for_are_told_of() {
    let account = Account::new();
    let at = installation(&account).await;
    let every = |cron: &str| {
        at.change_policy("session-key", |policy| policy["spec"]["schedule"] = json!({"cron": cron}));
    };
    at.run(&["rotate", POLICY]).await.ended(0);
    every("0 */2 * * *");
    let valid = at.run(&["check"]).await.ended(0);
    assert!(!valid.stderr.contains("versions"), "{valid}");
    at.run(&["plan", "--days", "2"]).await.ended(0).says(&["short of versions", "12 rotations within a day"]);
    every("0 * * * *");
    at.run(&["check"]).await.ended(0).says(&["cron starts 24 rotations within a day", "are enough for 16"]);
    every("0 0 * * *");
    let plan = at.run(&["plan", "--days", "2", "-o", "json"]).await.ended(0).json();
    assert_eq!(plan["budgets"], json!([]));
}

/// A server that gives keys to who has the token, as an agent of EKS and of ECS does.
async fn agent(token: &'static str, keys: Value) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            let length = stream.read(&mut request).await.unwrap_or_default();
            let asked = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let body = if asked.contains(&format!("authorization: {token}\r\n")) {
                keys.to_string()
            } else {
                "{}".into()
            };
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/v1/credentials")
}

/// The account that the keys are of has the secret, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_log_in_leads_to_its_own_account() {
    let account = Account::new();
    let at = installation(&account).await;
    at.run(&["rotate", POLICY]).await.ended(0);
    let file = |name: &str, text: &str| {
        std::fs::write(at.path(name), text).expect("a file");
        at.path(name).display().to_string()
    };
    let keys = json!({
        "AccessKeyId": account.key, "SecretAccessKey": account.secret, "Token": account.session,
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let environment = vec![
        ("AWS_ACCESS_KEY_ID", account.key.clone()),
        ("AWS_SECRET_ACCESS_KEY", account.secret.clone()),
        ("AWS_SESSION_TOKEN", account.session.clone()),
    ];
    let profile = vec![("AWS_SHARED_CREDENTIALS_FILE", account.keys().display().to_string())];
    let web_identity = vec![
        ("AWS_ROLE_ARN", format!("arn:aws:iam::{}:role/rekeyd", account.number)),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file("web.token", "a.b.c")),
        ("AWS_ENDPOINT_URL_STS", account.address.clone()),
    ];
    let pod_identity = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent("a-pod", keys).await),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file("pod.token", "a-pod")),
    ];
    let nothing = vec![("AWS_EC2_METADATA_DISABLED", "true".to_owned())];
    account.write_keys("shop");
    for (way, variables, named) in [
        ("environment", environment, None),
        ("profile", profile, Some("shop")),
        ("web identity", web_identity, None),
        ("pod identity", pod_identity, None),
        ("nothing", nothing, None),
    ] {
        at.change_settings(|settings| {
            let store = settings["stores"]["aws"]["awsSecretsManager"].as_object_mut().expect("settings");
            store.remove("credentialsFile");
            store.remove("profile");
            store.extend(named.map(|name| ("profile".to_owned(), json!(name))));
        });
        let mut command = at.command(&["preflight", POLICY]);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
            command.env_remove(name);
        }
        command.env("HOME", at.path("nobody")).envs(variables);
        let answer = crate::processes::answer(command).await;
        if way == "nothing" {
            answer.ended(1).says(&["there is nothing to log in with"]);
        } else {
            answer.ended(0).says(&["there is a current credential"]);
        }
    }
}

/// What is there after a death is what the next process goes on with: nothing is lost and nothing done twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_between_two_requests_is_made_good() {
    for point in ["aws.save.put", "aws.promote.put", "aws.promote.moved"] {
        let account = Account::new();
        let at = installation(&account).await;
        at.run(&["rotate", POLICY]).await.ended(0);
        let before = account.value(PATH, "AWSCURRENT");
        let mut command = at.command(&["rotate", POLICY, "--request", "the-one"]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        let died = crate::processes::answer(command).await;
        assert_eq!(died.code, None, "it did not die at {point}: {died}");
        // The same request again is the same rotation.
        at.run(&["rotate", POLICY, "--request", "the-one"]).await.ended(0);
        assert_eq!(account.value(PATH, "AWSPREVIOUS"), before, "{point}");
        let body = json!({"SecretId": PATH, "IncludeDeprecated": true});
        let versions = account.call("ListSecretVersionIds", &body);
        assert_eq!(
            versions["Versions"].as_array().expect("versions").len(),
            2,
            "{point} made another version"
        );
        // A label that was left goes with the next write.
        at.run(&["rotate", POLICY]).await.ended(0);
        for name in [PATH, "rekeyd/control/shop/session-key"] {
            let view = account.call("DescribeSecret", &json!({"SecretId": name}));
            assert!(!view.to_string().contains("rekeyd-"), "{point} leaves a label: {view}");
        }
    }
}

/// Where somebody made the secret and gave it no value, the first one is put and then moved, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_the_middle_of_filling_a_secret_is_made_good() {
    let account = Account::new();
    let at = installation(&account).await;
    let arn = account.call("CreateSecret", &json!({"Name": PATH}))["ARN"].clone();
    let mut command = at.command(&["rotate", POLICY, "--request", "the-one"]);
    command.env("REKEYD_DISTURB", "aws.fill.put#1=killBefore");
    let died = crate::processes::answer(command).await;
    assert_eq!(died.code, None, "it did not die: {died}");
    at.run(&["rotate", POLICY, "--request", "the-one"]).await.ended(0);
    assert!(account.value(PATH, "AWSCURRENT").is_object());
    let view = account.call("DescribeSecret", &json!({"SecretId": PATH}));
    assert_eq!(view["ARN"], arn, "it was made anew");
    let versions = view["VersionIdsToStages"].as_object().expect("versions");
    assert_eq!(versions.len(), 1, "another version was made: {view}");
    // A label that was left goes with the next write.
    at.run(&["rotate", POLICY]).await.ended(0);
    let view = account.call("DescribeSecret", &json!({"SecretId": PATH}));
    assert!(!view.to_string().contains("rekeyd-"), "a label is left: {view}");
    let log = at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
    assert_eq!(log.as_array().map(Vec::len), Some(2), "{log:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_every_call_breaks_nothing() {
    let account = Account::new();
    let at = installation(&account).await;
    at.run(&["rotate", POLICY]).await.ended(0);
    // Nothing checks a value of this policy, so there are no calls to a target.
    crate::walk::of(&at, POLICY).over(&crate::faults_walk::FAULTS, &["store."]).await;
}
