//! In the place of an OpenBao: for the target, and for the store.

use rekeyd::policy::spec::{
    DerivedTokens, FieldNames, Interval, SecretIdSpec, TokenSpec, VaultSpec, VaultStrategy,
};
use rekeyd::secret::SecretValue;
use rekeyd::settings::{TokenAuth, VaultAuth, VaultSettings};
use rekeyd::store::vault::VaultStore;
use rekeyd::store::{Place, Store as _};
use rekeyd::target::vault::VaultTarget;
use serde_json::{Value, json};

use super::*;
use crate::keys_contract::request;
use crate::stranger::{Asked, Stranger};

/// rekeyd's settings for whoever listens there, and the file with its token.
struct Way(
    VaultSettings,
    #[expect(dead_code, reason = "it is there as long as this")] tempfile::NamedTempFile,
);

fn way(address: String, timeout: Duration) -> Way {
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "s.hunter2").expect("written");
    let settings = VaultSettings {
        address,
        ca_file: None,
        namespace: None,
        mount: "secret".into(),
        control_path: "rekeyd".parse().expect("a path"),
        auth: VaultAuth::Token(TokenAuth { file: token.path().to_owned() }),
        timeout: Interval::from_duration(timeout),
    };
    Way(settings, token)
}

fn target(way: &Way, strategy: VaultStrategy) -> VaultTarget {
    let spec = VaultSpec { store: "bao".parse().expect("a name"), strategy };
    VaultTarget::open(spec, &way.0).expect("a target").alone()
}

fn tokens() -> VaultStrategy {
    let ttl = Some(Interval::from_duration(Duration::from_secs(600)));
    let (name, policies) = (name("orders"), vec!["default".into()]);
    VaultStrategy::Token(TokenSpec { name, role: None, policies, ttl, period: None })
}

fn secret_ids() -> VaultStrategy {
    let (mount, role) = ("approle".parse().expect("a mount"), name("orders"));
    VaultStrategy::SecretId(SecretIdSpec { mount, role, tokens: DerivedTokens::Revoke })
}

/// What a server says that is one.
fn answer(data: &Value) -> Manner {
    Manner::json(
        200,
        &json!({
            "request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
            "wrap_info": null, "warnings": null, "auth": null,
        }),
    )
}

/// A server with a KV mount that answers what holds the trigger in this manner. rekeyd's token may not look at itself.
async fn server(trigger: &'static str, manner: Manner) -> Stranger {
    Stranger::serve(move |asked: &Asked| match asked.line.as_str() {
        line if line.contains(trigger) => manner.clone(),
        "GET /v1/auth/token/lookup-self" => Manner::json(403, &json!({"errors": ["permission denied"]})),
        "GET /v1/sys/internal/ui/mounts/secret" => {
            answer(&json!({"type": "kv", "options": {"version": "2"}}))
        }
        "POST /v1/auth/approle/role/orders/secret-id-accessor/destroy" => {
            Manner::Says(204, "", String::new())
        }
        "LIST /v1/sys/leases/lookup/auth/approle/login/" => answer(&json!({"keys": ["one"]})),
        "LIST /v1/auth/token/accessors" => answer(&json!({"keys": []})),
        other => panic!("what is this: {other}"),
    })
    .await
}

#[tokio::test]
async fn no_answer_of_something_else_is_a_verdict() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = Stranger::start(manner.clone()).await;
        let way = way(stranger.url(), patience);
        for strategy in [tokens(), secret_ids()] {
            let target = target(&way, strategy);
            no_verdict(&target, &new("accessor"), &manner).await;
            assert!(target.keys(&name("orders")).await.map_err(untold).is_err(), "{manner:?}");
            let gone = retire(&target, &name("accessor"), Extent::Principal).await;
            assert!(gone.is_some(), "{manner:?} is taken for a revocation");
        }
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

#[tokio::test]
async fn only_what_may_have_been_done_is_in_doubt() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let check = |what: &str, failure: Option<Failure>| {
            let failure = failure.unwrap_or_else(|| panic!("{what}: {manner:?} is taken for done"));
            let is_doubt = failure.class() == FailureClass::Ambiguous;
            assert_eq!(is_doubt, leaves_a_doubt(&manner), "{what}: {manner:?}: {failure}");
        };
        let stranger = server("create-orphan", manner.clone()).await;
        let way_there = way(stranger.url(), patience);
        let (owner, step) = (name("orders"), Step::new(1));
        let made = target(&way_there, tokens()).mint(request(&step, &owner, None)).await;
        check("mint", made.err().map(untold));

        let stranger = server("revoke-accessor", manner.clone()).await;
        let way_there = way(stranger.url(), patience);
        check("revoke", retire(&target(&way_there, tokens()), &name("accessor"), Extent::Principal).await);

        let stranger = server("POST /v1/secret/data/", manner.clone()).await;
        let way_there = way(stranger.url(), patience);
        let store = VaultStore::open(&way_there.0).expect("a store");
        let saved = store.save(&step.policy, &SecretValue::new(b"hunter2".to_vec()), None).await;
        check("save", saved.err().map(untold));
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

/// Whoever believed it would open a rotation of something that has one.
#[tokio::test]
async fn nothing_of_something_else_is_an_empty_place() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = server("secret/", manner.clone()).await;
        let way = way(stranger.url(), patience);
        let store = VaultStore::open(&way.0).expect("a store");
        let (path, fields) = ("apps/a".parse().expect("a path"), FieldNames::default());
        let failures = [
            store.current(Place { path: &path, fields: &fields }).await.err(),
            store.control(&"orders/db".parse().expect("a policy")).await.err(),
            store.policies().await.err(),
        ];
        for failure in failures {
            let failure = untold(failure.unwrap_or_else(|| panic!("{manner:?} is taken for an empty place")));
            assert_ne!(failure.class(), FailureClass::Ambiguous, "{manner:?}: {failure}");
        }
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

/// A role whose secret ids are not known has living ones for all that anybody can say.
#[tokio::test]
async fn tokens_are_revoked_only_where_the_living_secret_ids_are_known() {
    let meet = async |(manner, patience): (Manner, Duration)| {
        let stranger = server("LIST /v1/auth/approle/role/orders/secret-id", manner.clone()).await;
        let way = way(stranger.url(), patience);
        let failure = retire(&target(&way, secret_ids()), &name("accessor"), Extent::Principal).await;
        assert!(failure.is_some(), "{manner:?} is taken for a list");
    };
    futures_util::future::join_all(manners().map(meet)).await;
}

#[tokio::test]
async fn an_answer_without_an_end_is_left() {
    for (trigger, class) in
        [("lookup-self", FailureClass::Unavailable), ("create-orphan", FailureClass::Ambiguous)]
    {
        let stranger = server(trigger, Manner::Endless).await;
        let way = way(stranger.url(), PATIENT);
        let (owner, step) = (name("orders"), Step::new(1));
        let failure =
            target(&way, tokens()).mint(request(&step, &owner, None)).await.expect_err("it has no end");
        assert_eq!(failure.class(), class, "{failure}");
        assert!(failure.to_string().contains("longer than"), "{failure}");
    }
}

#[tokio::test]
async fn who_cannot_show_who_it_is_is_told_nothing() {
    let reasons = ["certificate is not accepted", "certificate is not accepted", "does not speak TLS"];
    for ((stranger, authority), reason) in impostors().await.into_iter().zip(reasons) {
        let mut way = way(format!("https://localhost:{}", stranger.port()), PATIENT);
        way.0.ca_file = Some(authority.path().to_owned());
        let failure = no_verdict(&target(&way, tokens()), &new("accessor"), &reason).await;
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.to_string().contains(reason), "{reason}: {failure}");
        let store = VaultStore::open(&way.0).expect("a store");
        let value = SecretValue::new(b"hunter2".to_vec());
        let saved = store.save(&"orders/db".parse().expect("a policy"), &value, None).await;
        let failure = untold(saved.expect_err("nobody vouches for it"));
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    }
}
