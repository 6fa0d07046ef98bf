//! What the users of a pair may do, and how much of it at once.

use rekeyd::failure::{Finding, Verdict};
use rekeyd::ident::Principal;
use rekeyd::secret::Credential;
use rekeyd::target::rabbitmq::RabbitmqTarget;
use rekeyd::target::{Extent, PreflightRequest, Target as _};
use serde_json::{Value, json};

use super::{install, retire};
use crate::postgres_support::{Try, credential};
use crate::rabbitmq_support::World;

async fn preflight(target: &RabbitmqTarget, current: Option<&Credential>) -> Vec<Finding> {
    target.preflight(PreflightRequest { policy: &Try::new(9).policy, current }).await
}

async fn limit(world: &World, user: &Principal, limit: &str, most: i64) {
    let path = format!("user-limits/{user}/{limit}");
    world.server.ask("PUT", &path, Some(&json!({"value": most}))).await;
}

async fn limits(world: &World, user: &Principal) -> Value {
    // Of a user that has none it tells nothing.
    let mut told = world.server.ask("GET", &format!("user-limits/{user}"), None).await;
    told.get_mut(0).map_or(Value::Null, |limits| limits["value"].take())
}

/// Readers who are all on the spare, and of whom only some get a connection, are locked out.
#[tokio::test(flavor = "multi_thread")]
async fn the_candidate_gets_the_limits_of_its_peer() {
    let world = World::shared().await;
    let target = world.target();
    let [a, b] = world.pair();
    let (first, second) = (credential(a.as_str()), credential(b.as_str()));
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    world.permit(&a, ".*").await;
    limit(&world, &a, "max-connections", 5).await;
    install(&target, &Try::new(2), &second, Some(&a)).await.expect("installed");
    assert_eq!(limits(&world, &b).await, json!({"max-connections": 5}));
    limit(&world, &b, "max-connections", 0).await;
    limit(&world, &b, "max-channels", 1).await;
    assert!(world.connect(&second).await.is_none(), "the server keeps to no limits");

    let pair = |findings: Vec<Finding>| {
        let pair = findings.into_iter().find(|finding| finding.subject == "pair");
        pair.expect("the pair is compared").detail
    };
    assert_eq!(
        pair(preflight(&target, Some(&first)).await),
        format!("{b} will be given the limit max-connections of 5, no limit max-channels")
    );
    let second = credential(b.as_str());
    install(&target, &Try::new(3), &second, Some(&a)).await.expect("installed");
    assert_eq!(limits(&world, &b).await, json!({"max-connections": 5}));
    let mut connection = world.connect(&second).await.expect("it is let in");
    assert!(connection.answers().await && connection.answers().await, "it has one channel alone");
    assert_eq!(
        pair(preflight(&target, Some(&first)).await),
        format!("{b} has the permissions and limits of {a}")
    );

    // A limit that was taken away since goes from the other one, too, and what is retired has those that it had.
    retire(&target, &Try::new(3), &a, Extent::Principal).await.expect("retired");
    assert_eq!(limits(&world, &a).await, json!({"max-connections": 5}));
    world.server.ask("DELETE", &format!("user-limits/{b}/max-connections"), None).await;
    install(&target, &Try::new(4), &credential(a.as_str()), Some(&b)).await.expect("installed");
    assert_eq!(limits(&world, &a).await, Value::Null);
}

/// The first of a pair may do nothing unless somebody says what, and nobody would hear of it but its readers.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_enter_nowhere_is_told_of_before_readers_have_its_value() {
    let world = World::shared().await;
    let target = world.target();
    let [a, b] = world.pair();
    let warned = async |current: Option<&Credential>| {
        let findings = preflight(&target, current).await;
        let failed: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
        assert!(failed.is_empty(), "{failed:?}");
        findings.into_iter().find(|finding| finding.subject == "permissions")
    };
    let warning = warned(None).await.expect("nobody warns of a first rotation");
    assert_eq!(warning.verdict, Verdict::Warn, "{warning:?}");
    assert!(warning.detail.starts_with(&format!("{a} has no permission")), "{warning:?}");
    let remedy = warning.remedy.expect("a remedy");
    assert!(remedy.contains("rabbitmqctl set_permissions -p <vhost>"), "{remedy}");

    // As it says: without a password, and with permissions.
    let made = json!({"password_hash": "", "tags": ""});
    world.server.ask("PUT", &format!("users/{a}"), Some(&made)).await;
    assert!(warned(None).await.is_some(), "it may enter nowhere");
    world.permit(&a, ".*").await;
    assert_eq!(warned(None).await, None);
    let first = credential(a.as_str());
    install(&target, &Try::new(1), &first, None).await.expect("installed");
    assert!(world.connect(&first).await.is_some(), "it has lost its permissions");
    // The other one is given those.
    assert_eq!(warned(Some(&first)).await, None);

    world.server.ask("DELETE", &format!("permissions/%2F/{a}"), None).await;
    let warning = warned(Some(&first)).await.expect("nobody says that both may do nothing");
    assert!(warning.detail.starts_with(&format!("{a} has no permission")), "{warning:?} of {b}");
}
