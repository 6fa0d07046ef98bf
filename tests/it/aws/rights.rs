//! The policy of IAM that is printed: what rekeyd asks for, and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use rekeyd::policy::load::load_policies;
use rekeyd::settings::{Settings, StoreSettings};
use rekeyd::store::aws::rights;
use serde_json::{Value, json};

use super::*;
use crate::store::contract::{policy, promote, save};

fn sample() -> (Settings, rekeyd::policy::load::Loaded) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = rekeyd::settings::load(&root.join("deploy/rekeyd.yaml")).expect("settings");
    let now = "2026-03-01T00:00:00Z".parse().expect("a moment");
    let loaded = load_policies(Some(&root.join("policies")), &[], &settings, now);
    (settings, loaded)
}

fn named(name: &str) -> rekeyd::ident::DnsLabel {
    name.parse().expect("a name")
}

/// Whether IAM allows an action on a secret.
fn allows(policy: &Value, action: &str, arn: &str) -> bool {
    let action = format!("secretsmanager:{action}");
    let lists = |value: &Value, wanted: &dyn Fn(&str) -> bool| {
        value.as_array().is_some_and(|list| list.iter().filter_map(Value::as_str).any(wanted))
    };
    let matches = |pattern: &str| {
        let is_any = |wanted: char, found: char| wanted == '?' || wanted == found;
        pattern == "*"
            || (pattern.chars().count() == arn.chars().count()
                && pattern.chars().zip(arn.chars()).all(|(wanted, found)| is_any(wanted, found)))
    };
    policy["Statement"].as_array().expect("statements").iter().any(|statement| {
        lists(&statement["Action"], &|one| one == action) && lists(&statement["Resource"], &matches)
    })
}

#[test]
fn the_sample_is_what_is_printed() {
    let (settings, loaded) = sample();
    assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
    let printed = rights::policy(&settings, &loaded.policies, &named("aws")).expect("a policy");
    let text = serde_json::to_string_pretty(&printed).expect("JSON") + "\n";
    crate::schema::is_committed("deploy/aws/iam-policy.json", &text);
    // Each secret by its name, and only what has none is for all.
    for statement in printed["Statement"].as_array().expect("statements") {
        let all = statement["Resource"] == json!(["*"]);
        assert_eq!(all, statement["Action"] == json!(["secretsmanager:ListSecrets"]), "{statement}");
    }
    assert!(rights::length(&printed) < rights::LONGEST);
}

#[test]
fn what_the_settings_do_not_say_is_asked_for() {
    let (mut settings, loaded) = sample();
    for name in ["bao", "absent"] {
        assert_eq!(
            rights::policy(&settings, &loaded.policies, &named(name)),
            Err(rights::NoRights::NotThere)
        );
    }
    let Some(StoreSettings::AwsSecretsManager(aws)) = settings.stores.get_mut(&named("aws")) else {
        panic!()
    };
    aws.account = None;
    let refused = rights::policy(&settings, &loaded.policies, &named("aws"));
    assert_eq!(refused, Err(rights::NoRights::NoAccount));
}

/// All that a store does is done, and each request is one that the policy allows; what no request needs is not there.
#[tokio::test]
async fn the_rights_are_what_is_needed_and_nothing_more() {
    let bench = Bench::new().await;
    let store = bench.store();
    let (path, name) = ("accounts/accounts-db", "accounts/accounts-db");
    let first = promote(&store, path, "app_a", "one", None).await.expect("a promotion");
    promote(&store, path, "app_b", "two", Some(&first)).await.expect("a promotion");
    promote(&store, path, "app_b", "two", Some(&first)).await.expect_err("it is stale");
    let document = save(&store, name, "one", None).await.expect("a saving");
    save(&store, name, "two", Some(&document)).await.expect("a saving");
    store.control(&policy(name)).await.expect("a reading");
    store.policies().await.expect("a listing");
    try_current(&store, path).await.expect("a reading");
    let place = (path.parse().expect("a path"), FieldNames::default());
    let place = Place { path: &place.0, fields: &place.1 };
    store.rehearse(place).await.expect("nobody else is at it");
    store.preflight(place, &policy(name)).await;

    let (settings, loaded) = sample();
    let granted = rights::policy(&settings, &loaded.policies, &named("aws")).expect("a policy");
    let arn = |name: &str| format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:{name}-a1B2c3");
    let mut needed = BTreeSet::new();
    for call in bench.0.calls() {
        let name = call.body["SecretId"].as_str().or(call.body["Name"].as_str()).unwrap_or("*").to_owned();
        assert!(allows(&granted, &call.action, &arn(&name)), "{} on {name}", call.action);
        assert!(!allows(&granted, &call.action, &arn("other")) || call.action == "ListSecrets", "{call:?}");
        needed.insert(format!("secretsmanager:{}", call.action));
    }
    // Of one that is not there the service looks at its name alone, and says only by that that it is missing.
    let bare = format!("arn:aws:secretsmanager:eu-central-1:123456789012:secret:{path}");
    for (action, is_allowed) in
        [("GetSecretValue", true), ("DescribeSecret", true), ("PutSecretValue", false)]
    {
        assert_eq!(allows(&granted, action, &bare), is_allowed, "{action}");
    }
    let actions = granted["Statement"].as_array().expect("statements").iter().flat_map(|statement| {
        statement["Action"].as_array().expect("actions").iter().filter_map(Value::as_str)
    });
    let granted: BTreeSet<String> =
        actions.filter(|action| action.starts_with("secretsmanager:")).map(Into::into).collect();
    assert_eq!(granted, needed);
}
