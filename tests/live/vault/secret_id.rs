//! The secret ids of an AppRole.

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::Principal;
use rekeyd::policy::spec::DerivedTokens;
use rekeyd::secret::Credential;
use rekeyd::target::vault::VaultTarget;
use rekeyd::target::{
    Extent, LastUse, MintRequest, PreflightRequest, Probe, ProbeDepth, Retired, Target as _,
};
use serde_json::json;

use super::{broken, mint_in_vain};
use crate::keys_contract::{self as contract, KeysBench, Step, Ways, keys_contract};
use crate::proxy::Fault;
use crate::vault_support::{World, rights};

keys_contract!(Bench::new(DerivedTokens::Revoke));

struct Bench {
    world: World,
    tokens: DerivedTokens,
    target: VaultTarget,
}

impl Bench {
    fn new(tokens: DerivedTokens) -> Self {
        let world = World::of_secret_ids();
        let target = world.target(world.secret_ids(tokens));
        Self { world, tokens, target }
    }
}

#[async_trait]
impl KeysBench for Bench {
    type Target = VaultTarget;

    fn target(&self) -> &VaultTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        "app".parse().expect("a role")
    }

    fn ways(&self) -> Ways {
        Ways { quota: None, tags: true, disables: false, refuses_disabled: false }
    }

    async fn by_hand(&self) -> Credential {
        self.world.secret_id_by_hand()
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        mint_in_vain(&self.world, self.world.secret_ids(self.tokens), request, Fault::LoseReply).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_leaves_no_token_behind() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let key = contract::mint(&bench, &Step::new(1), None).await;
    // Neither where a token may end itself, nor where it may do nothing at all.
    for policies in [json!({}), json!({"token_policies": [], "token_no_default_policy": true})] {
        bench.world.make("POST", "", policies);
        for _ in 0..2 {
            contract::accepted(&bench, &key).await;
        }
        assert_eq!(bench.world.logins(), 0, "a token is left");
    }
    bench.world.log_in(&key);
    assert_eq!(bench.world.logins(), 1, "the test does not see tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_seen_and_go_with_their_secret_id() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let (world, step) = (&bench.world, Step::new(1));
    let (first, second) =
        (contract::mint(&bench, &step, None).await, contract::mint(&bench, &step, None).await);
    let foreign = world.secret_id_by_hand();
    let (old, new, other) = (world.log_in(&first), world.log_in(&second), world.log_in(&foreign));
    let usage = bench.target.usage(&first.principal).await.expect("usage");
    assert_eq!(usage.last, LastUse::BySessions);
    assert_eq!(usage.sessions.len(), 1, "{usage:?}");
    assert_eq!(usage.sessions[0].application, format!("token {old}"));
    let usage = bench.target.usage(&foreign.principal).await.expect("usage");
    assert_eq!((usage.sessions.len(), usage.last), (0, LastUse::Untold), "nothing tells its tokens");

    let retired = contract::retire(&bench, &step, &first, Extent::Principal, Some(&second)).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 1 }));
    assert!(!world.lives(&old), "a token of a dead secret id lives");
    assert!(world.lives(&new) && world.lives(&other), "a token of another secret id was revoked");
    let usage = bench.target.usage(&first.principal).await.expect("usage");
    assert_eq!((usage.sessions.len(), usage.last), (0, LastUse::BySessions));

    // One of a secret id that people made is left to its end, whoever destroys that.
    world.make("POST", "/secret-id-accessor/destroy", json!({"secret_id_accessor": foreign.principal}));
    contract::retire(&bench, &step, &first, Extent::Principal, Some(&second)).await.expect("retired");
    assert!(world.lives(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_died_after_the_secret_id_was_destroyed_is_followed() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let (world, step) = (&bench.world, Step::new(1));
    let key = contract::mint(&bench, &step, None).await;
    let token = world.log_in(&key);
    world.make("POST", "/secret-id-accessor/destroy", json!({"secret_id_accessor": key.principal}));
    // The policy may have another name by now.
    let step = Step { policy: "contract/renamed".parse().expect("a policy name"), ..Step::new(2) };
    let usage = bench.target.usage(&key.principal).await.expect("usage");
    assert_eq!(usage.sessions.len(), 1, "a token without a secret id is overlooked");
    let retired = contract::retire(&bench, &step, &key, Extent::Principal, None).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 1 }));
    assert!(!world.lives(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_left_where_the_policy_says_so() {
    let bench = Bench::new(DerivedTokens::Expire);
    let step = Step::new(1);
    let key = contract::mint(&bench, &step, None).await;
    let token = bench.world.log_in(&key);
    let usage = bench.target.usage(&key.principal).await.expect("usage");
    assert_eq!((usage.sessions.len(), usage.last), (0, LastUse::Untold));
    let retired = contract::retire(&bench, &step, &key, Extent::Principal, None).await;
    assert_eq!(retired, Ok(Retired::Done { sessions_closed: 0 }));
    assert!(bench.world.lives(&token));
    contract::refused(&bench, &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_whose_values_cannot_be_rotated_gets_none() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let (owner, step) = (bench.owner(), Step::new(1));
    for (change, back) in [
        (json!({"secret_id_num_uses": 3}), json!({"secret_id_num_uses": 0})),
        (json!({"token_type": "batch"}), json!({"token_type": "service"})),
        (
            json!({"bind_secret_id": false, "token_bound_cidrs": ["127.0.0.0/8"]}),
            json!({"bind_secret_id": true}),
        ),
    ] {
        bench.world.make("POST", "", change.clone());
        let failure = bench.target.mint(contract::request(&step, &owner, None)).await;
        let failure = failure.expect_err("it cannot be rotated");
        assert_eq!(failure.class(), FailureClass::Invalid, "{change}: {failure}");
        assert!(failure.remedy().is_some());
        let request = PreflightRequest { policy: &step.policy, current: None };
        let findings = bench.target.preflight(request).await;
        let told =
            findings.iter().find(|finding| finding.subject == "role app" && finding.verdict == Verdict::Fail);
        assert!(told.is_some_and(|finding| finding.detail == failure.reason()), "{change}: {findings:?}");
        bench.world.make("POST", "", back);
    }
    assert_eq!(contract::list(&bench).await, []);
    contract::mint(&bench, &step, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_verdict_on_the_value_is_unknown() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let world = &bench.world;
    let key = contract::mint(&bench, &Step::new(1), None).await;
    for fault in [Fault::LoseRequest, Fault::LoseReply, Fault::Silence] {
        let (settings, proxy) = broken(world, "/login", fault).await;
        let lossy = VaultTarget::open(world.secret_ids(bench.tokens), &settings).expect("a target");
        let probe = lossy.probe(&key, ProbeDepth::Login).await;
        assert_eq!(probe.failure_class(), Some(FailureClass::Unavailable), "{fault:?}: {probe:?}");
        assert!(matches!(probe, Probe::Unknown(_)) && proxy.faults() > 0);
    }
    // An address that the secret id is not for.
    world.make("POST", "", json!({"secret_id_bound_cidrs": ["192.0.2.0/24"]}));
    let probe = bench.target.probe(&key, ProbeDepth::Login).await;
    assert!(matches!(probe, Probe::Unknown(_)), "{probe:?}");
    world.make("POST", "", json!({"secret_id_bound_cidrs": []}));
    contract::accepted(&bench, &key).await;
    // A role that somebody removed, and a mount.
    world.make("DELETE", "", json!({}));
    let probe = bench.target.probe(&key, ProbeDepth::Login).await;
    assert_eq!(probe.failure_class(), Some(FailureClass::Invalid), "{probe:?}");
    let failure = bench.target.keys(&bench.owner()).await.expect_err("there is no role");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    world.server.make("DELETE", &format!("sys/auth/{}", world.name), json!({}));
    let probe = bench.target.probe(&key, ProbeDepth::Login).await;
    assert!(matches!(probe, Probe::Unknown(_)), "{probe:?}");
}

/// After several refusals in a row the server refuses whoever comes, for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_role_is_no_verdict() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let lockout = json!({"user_lockout_config": {
        "lockout_threshold": "2", "lockout_duration": "1m", "lockout_counter_reset_duration": "1m",
    }});
    bench.world.server.make("POST", &format!("sys/auth/{}/tune", bench.world.name), lockout);
    let key = contract::mint(&bench, &Step::new(1), None).await;
    let wrong = Credential::new(key.principal.clone(), rekeyd::secret::ValueSpec::default().generate());
    for _ in 0..2 {
        assert_eq!(bench.target.probe(&wrong, ProbeDepth::Login).await, Probe::Refused);
    }
    let probe = bench.target.probe(&key, ProbeDepth::Login).await;
    assert_eq!(probe.failure_class(), Some(FailureClass::Unavailable), "{probe:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_is_lost_is_ambiguous() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let (world, step) = (&bench.world, Step::new(1));
    for fault in [Fault::LoseRequest, Fault::Silence] {
        let owner = bench.owner();
        let request = contract::request(&step, &owner, None);
        let failure = mint_in_vain(world, world.secret_ids(bench.tokens), request, fault).await;
        assert_eq!(failure.class(), FailureClass::Ambiguous, "{fault:?}: {failure}");
    }
    let key = contract::mint(&bench, &step, None).await;
    let (settings, proxy) = broken(world, "secret-id-accessor/destroy", Fault::LoseReply).await;
    let lossy = VaultTarget::open(world.secret_ids(bench.tokens), &settings).expect("a target");
    let request = rekeyd::target::RetireRequest {
        attempt: step.attempt(),
        principal: &key.principal,
        extent: Extent::Principal,
        outgoing: Some(&key),
        beside: None,
    };
    let failure = lossy.retire(request).await.expect_err("no answer came");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    assert!(proxy.faults() > 0);
    bench.target.retire(request).await.expect("repeating it is right");
    contract::refused(&bench, &key).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_all_needed() {
    let bench = Bench::new(DerivedTokens::Revoke);
    let world = &bench.world;
    let key = contract::mint(&bench, &Step::new(1), None).await;
    let text = rights("secret-ids", &world.name, "app");
    let blocks: Vec<_> = text.match_indices("path \"").map(|(start, _)| start).collect();
    for start in blocks {
        let end = start + text[start..].find("}\n").expect("a block ends") + 2;
        // Renewing is tried when the token grows old, and a lookup of it when it is refused.
        if ["renew-self", "lookup-self"].iter().any(|path| text[start..end].contains(path)) {
            continue;
        }
        let less = world.server.policy(&format!("{}{}", &text[..start], &text[end..]));
        world.write_token(&world.server.token(&less, json!({})));
        let target = world.target(world.secret_ids(bench.tokens));
        let policy = Step::new(2).policy;
        let request = PreflightRequest { policy: &policy, current: Some(&key) };
        let findings = target.preflight(request).await;
        let all = findings.iter().all(|finding| finding.verdict == Verdict::Pass);
        assert!(!all, "nothing misses {}", &text[start..end]);
    }
}
