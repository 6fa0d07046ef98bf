//! Keys that end by themselves: the server gives them a shorter life than they were asked for, and says so in a warning.

use std::time::Duration;

use rekeyd::failure::{Failure, FailureClass, Finding, Verdict};
use rekeyd::policy::spec::{DerivedTokens, Interval, VaultSpec, VaultStrategy};
use rekeyd::target::vault::VaultTarget;
use rekeyd::target::{MintRequest, Minted, Target as _};
use serde_json::json;

use crate::keys_contract::{Step, request};
use crate::openbao::PrivateServer;
use crate::vault_support::World;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// From one quarter's rotation to the next.
const QUARTER: Duration = Duration::from_secs(92 * 86_400);

fn tokens(world: &World, ttl: Option<Duration>, period: Option<Duration>) -> VaultSpec {
    let mut spec = world.tokens();
    let VaultStrategy::Token(token) = &mut spec.strategy else { panic!("they are tokens") };
    (token.ttl, token.period) = (ttl.map(Interval::from_duration), period.map(Interval::from_duration));
    spec
}

async fn mint(target: &VaultTarget, spec: &VaultSpec, life: Duration) -> Result<Minted, Failure> {
    let step = Step::new(1);
    target.mint(MintRequest { life: Some(life), ..request(&step, spec.owner(), None) }).await
}

/// Not made, or not kept: nothing is left at the server.
async fn refused(target: &VaultTarget, spec: &VaultSpec, life: Duration) -> String {
    let failure = mint(target, spec, life).await.expect_err("it ends too early");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("max_lease_ttl")), "{failure:?}");
    assert_eq!(target.keys(spec.owner()).await.expect("the keys"), [], "it lives on");
    failure.reason().to_owned()
}

async fn look(target: &VaultTarget, needed: Option<Duration>) -> Vec<(Verdict, String)> {
    let findings = target.preflight_life(needed).await;
    findings.into_iter().map(|Finding { verdict, detail, .. }| (verdict, detail)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_server_cuts_short_is_not_kept() {
    let server = PrivateServer::start();
    let world = World::of_tokens_on(&server.server);
    let role = |more: serde_json::Value| {
        let mut role = json!({
            "orphan": true, "allowed_policies": ["default"], "token_period": 0, "token_explicit_max_ttl": 0,
        });
        role.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        server.server.make("POST", &format!("auth/token/roles/{}", world.name), role);
    };
    let of = |ttl: Option<Duration>, period: Option<Duration>| {
        let spec = tokens(&world, ttl, period);
        (world.target(spec.clone()).alone(), spec)
    };

    let (target, spec) = of(Some(120 * DAY), None);
    let reason = refused(&target, &spec, QUARTER).await;
    assert_eq!(reason, "the policy says that it lives 120d, and the server gives it 32d");
    // What it would be cut to is not to be read.
    let found = look(&target, Some(QUARTER)).await;
    assert!(found.len() == 1 && found[0].0 == Verdict::Warn && found[0].1.contains("92d"), "{found:?}");

    // Where the policy says nothing, the server does.
    let (target, spec) = of(None, None);
    let reason = refused(&target, &spec, QUARTER).await;
    assert!(reason.contains("after 32d, and has to live 92d"), "{reason}");
    assert_eq!(look(&target, Some(QUARTER)).await[0].0, Verdict::Fail);
    mint(&target, &spec, 31 * DAY).await.expect("it lives long enough");

    // A leak does not wait for a server's settings.
    let step = Step::new(2);
    let leaked = MintRequest { life: Some(QUARTER), contains: true, ..request(&step, spec.owner(), None) };
    let made = target.mint(leaked).await.expect("it is kept");
    assert!(matches!(&made, Minted::Short(_, told) if told.contains("has to live 92d")), "{made:?}");
    for key in target.keys(spec.owner()).await.expect("the keys") {
        server.server.make("POST", "auth/token/revoke-accessor", json!({"accessor": key.id}));
    }

    // A role's period is its readers' to renew, up to the role's end.
    role(json!({"token_period": "10m"}));
    mint(&target, &spec, QUARTER).await.expect("it is renewed");
    assert_eq!(look(&target, Some(QUARTER)).await[0].0, Verdict::Pass);
    for key in target.keys(spec.owner()).await.expect("the keys") {
        server.server.make("POST", "auth/token/revoke-accessor", json!({"accessor": key.id}));
    }
    role(json!({"token_period": "10m", "token_explicit_max_ttl": "240h"}));
    let reason = refused(&target, &spec, QUARTER).await;
    assert!(reason.contains("after 10d, and has to live 92d"), "{reason}");
    assert_eq!(look(&target, Some(QUARTER)).await[0], (Verdict::Fail, reason));

    // What the mount says can be read.
    role(json!({}));
    server.server.make(
        "POST",
        "sys/auth/token/tune",
        json!({"default_lease_ttl": "1h", "max_lease_ttl": "2400h"}),
    );
    let reason = refused(&target, &spec, 2 * HOUR).await;
    assert_eq!(look(&target, Some(2 * HOUR)).await[0], (Verdict::Fail, reason));
    let (target, spec) = of(Some(94 * DAY), None);
    assert_eq!(look(&target, Some(QUARTER)).await[0], (Verdict::Pass, "it lives 94d".into()));
    mint(&target, &spec, QUARTER).await.expect("it lives long enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_id_that_ends_before_the_next_one_is_not_kept() {
    let world = World::of_secret_ids();
    let spec = world.secret_ids(DerivedTokens::Expire);
    let target = world.target(spec.clone()).alone();
    mint(&target, &spec, QUARTER).await.expect("it has no end");
    assert_eq!(look(&target, Some(QUARTER)).await, []);
    for key in target.keys(spec.owner()).await.expect("the keys") {
        world.make("POST", "/secret-id-accessor/destroy", json!({"secret_id_accessor": key.id}));
    }
    world.make("POST", "", json!({"secret_id_ttl": "2400h"}));
    // The role says a hundred days.
    let reason = refused(&target, &spec, QUARTER).await;
    assert!(reason.contains("after 32d, and has to live 92d"), "{reason}");
    assert_eq!(look(&target, Some(QUARTER)).await[0].0, Verdict::Warn);
    assert_eq!(look(&target, Some(120 * DAY)).await[0].0, Verdict::Fail);
    assert_eq!(look(&target, None).await[0].0, Verdict::Warn);
    world.make("POST", "", json!({"secret_id_ttl": "48h"}));
    refused(&target, &spec, 7 * DAY).await;
    assert_eq!(look(&target, Some(7 * DAY)).await[0].0, Verdict::Fail);
    assert_eq!(look(&target, Some(DAY)).await[0].0, Verdict::Pass);
    mint(&target, &spec, DAY).await.expect("it lives long enough");
}
