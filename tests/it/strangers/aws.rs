//! In the place of AWS: Secrets Manager for the store, IAM and STS for the target.

use rekeyd::policy::spec::{AwsIamSpec, FieldNames, Interval};
use rekeyd::settings::AwsSettings;
use rekeyd::store::aws::AwsStore;
use rekeyd::store::{Place, Store as _};
use rekeyd::target::aws_iam::AwsIamTarget;

use super::*;
use crate::keys_contract::request;
use crate::stranger::Stranger;

/// rekeyd's settings for whoever listens there, and the file with its keys.
struct Way(AwsSettings, #[expect(dead_code, reason = "it is there as long as this")] tempfile::NamedTempFile);

fn way(url: String, timeout: Duration) -> Way {
    let keys = tempfile::NamedTempFile::new().expect("a file");
    let text = "[default]\naws_access_key_id = AKIDREKEYD\naws_secret_access_key = hunter2\n";
    std::fs::write(keys.path(), text).expect("written");
    let settings = AwsSettings {
        region: "eu-central-1".into(),
        account: None,
        kms_key: None,
        profile: None,
        credentials_file: Some(keys.path().to_owned()),
        endpoint: Some(url.clone()),
        iam_endpoint: Some(url.clone()),
        sts_endpoint: Some(url),
        ca_file: None,
        control_path: "rekeyd/control".parse().expect("a path"),
        timeout: Interval::from_duration(timeout),
    };
    Way(settings, keys)
}

fn target(way: &Way) -> AwsIamTarget {
    let spec = AwsIamSpec { store: "aws".parse().expect("a name"), user: name("orders-app") };
    AwsIamTarget::open(spec, &way.0).expect("a target")
}

fn key() -> Credential {
    Credential::new(name("AKIAORDERS"), SecretValue::new(b"hunter2".to_vec()))
}

/// What becomes of readings and of a writing at the store.
async fn stored(way: &Way) -> [Option<Failure>; 2] {
    let store = AwsStore::open(&way.0).expect("a store");
    let (path, fields) = ("apps/a".parse().expect("a path"), FieldNames::default());
    let read = store.current(Place { path: &path, fields: &fields }).await.err();
    assert!(store.policies().await.map_err(untold).is_err());
    let value = SecretValue::new(b"hunter2".to_vec());
    let written = store.save(&"orders/db".parse().expect("a policy"), &value, None).await.err();
    [read, written].map(|failure| failure.map(untold))
}

/// What becomes of a reading and of the making of a key.
async fn minted(way: &Way) -> [Option<Failure>; 2] {
    let target = target(way);
    let (owner, step) = (name("orders-app"), Step::new(1));
    let listed = target.keys(&owner).await.err();
    let made = target.mint(request(&step, &owner, None)).await.err();
    [listed, made].map(|failure| failure.map(untold))
}

#[tokio::test]
async fn no_answer_of_something_else_is_taken_for_one() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = Stranger::start(manner.clone()).await;
        let way = way(stranger.url(), patience);
        no_verdict(&target(&way), &key(), &manner).await;
        for (at, [read, written]) in [("store", stored(&way).await), ("IAM", minted(&way).await)] {
            let read = read.unwrap_or_else(|| panic!("{at}: {manner:?} is taken for an answer"));
            assert_ne!(read.class(), FailureClass::Ambiguous, "{at}: {manner:?}: {read}");
            let written = written.unwrap_or_else(|| panic!("{at}: {manner:?} is taken for done"));
            let is_doubt = written.class() == FailureClass::Ambiguous;
            assert_eq!(is_doubt, leaves_a_doubt(&manner), "{at}: {manner:?}: {written}");
        }
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    let stranger = Stranger::start(Manner::Endless).await;
    let way = way(stranger.url(), PATIENT);
    for [read, written] in [stored(&way).await, minted(&way).await] {
        for (failure, class) in [(read, FailureClass::Unavailable), (written, FailureClass::Ambiguous)] {
            let failure = failure.expect("it has no end");
            assert_eq!(failure.class(), class, "{failure}");
            assert!(failure.to_string().contains("too long"), "{failure}");
        }
    }
}

#[tokio::test]
async fn who_cannot_show_who_it_is_is_told_nothing() {
    let reasons = ["certificate is not accepted", "certificate is not accepted", "does not speak TLS"];
    for ((stranger, authority), reason) in impostors().await.into_iter().zip(reasons) {
        let mut way = way(format!("https://localhost:{}", stranger.port()), PATIENT);
        way.0.ca_file = Some(authority.path().to_owned());
        let probed = no_verdict(&target(&way), &key(), &reason).await;
        let [read, written] = stored(&way).await;
        let [listed, made] = minted(&way).await;
        let failures = [read, written, listed, made].map(|failure| failure.expect("nobody vouches for it"));
        for failure in failures.into_iter().chain([probed]) {
            assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
            assert!(failure.to_string().contains(reason), "{reason}: {failure}");
        }
    }
}
