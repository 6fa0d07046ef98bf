//! Tokens without a parent.

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::Principal;
use rekeyd::policy::spec::{Interval, VaultStrategy};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::target::vault::VaultTarget;
use rekeyd::target::{Extent, MintRequest, PreflightRequest, Probe, ProbeDepth, Target as _};
use serde_json::json;

use super::{broken, mint_in_vain};
use crate::keys_contract::{self as contract, KeysBench, Step, Ways};
use crate::openbao::PrivateServer;
use crate::proxy::Fault;
use crate::vault_support::{World, rights};

/// One after the other, on a server of their own where nobody else makes tokens: what is listed is looked at without
/// a delay.
#[tokio::test(flavor = "multi_thread")]
async fn every_promise_of_keys_is_kept() {
    let server = PrivateServer::start();
    macro_rules! promises {
        ($($promise:ident)+) => {$(
            contract::$promise(&Bench::alone(&server)).await;
        )+};
    }
    promises! {
        a_key_is_accepted_and_listed
        both_keys_work_until_one_is_retired
        retiring_again_or_what_is_not_there_is_right
        only_the_very_value_is_accepted
        a_key_whose_answer_was_lost_is_found
        a_disabled_key_can_still_be_deleted
        a_full_owner_keeps_its_keys
        a_key_of_somebody_elses_is_none_of_rekeyds
        a_key_goes_as_a_whole
        nobody_uses_a_new_key
        a_preflight_changes_nothing
    }
}

struct Bench {
    world: World,
    target: VaultTarget,
}

impl Bench {
    fn new() -> Self {
        let world = World::of_tokens();
        let target = world.target(world.tokens());
        Self { world, target }
    }

    fn alone(server: &PrivateServer) -> Self {
        let world = World::of_tokens_on(&server.server);
        let target = world.target(world.tokens()).alone();
        Self { world, target }
    }

    /// A token that somebody makes.
    fn token(&self, options: serde_json::Value) -> Credential {
        let made = self.world.server.make("POST", "auth/token/create-orphan", options);
        let text = |field: &str| made["auth"][field].as_str().expect("a text").to_owned();
        let value = SecretValue::new(text("client_token").into_bytes());
        Credential::new(text("accessor").parse().expect("an accessor"), value)
    }
}

#[async_trait]
impl KeysBench for Bench {
    type Target = VaultTarget;

    fn target(&self) -> &VaultTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        self.world.tokens().owner().clone()
    }

    fn ways(&self) -> Ways {
        Ways { quota: None, tags: true, disables: false, refuses_disabled: false }
    }

    async fn by_hand(&self) -> Credential {
        self.token(json!({"ttl": "10m", "policies": ["default"], "display_name": self.owner()}))
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        mint_in_vain(&self.world, self.world.tokens(), request, Fault::LoseReply).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_on_when_rekeyd_s_own_ends() {
    let bench = Bench::new();
    let own = bench.world.token();
    bench.world.write_token(&own);
    let target = bench.world.target(bench.world.tokens());
    let (owner, step) = (bench.owner(), Step::new(1));
    let made = target.mint(contract::request(&step, &owner, None)).await.expect("a token");
    let rekeyd::target::Minted::Made(key) = made else { panic!("{made:?}") };
    bench.world.server.revoke(&own);
    contract::accepted(&bench, &key).await;
}

/// The server answers 403 to it as to a dead one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_look_at_itself_is_not_taken_for_dead() {
    let bench = Bench::new();
    let server = &bench.world.server;
    let nothing = server.policy("path \"nothing\" {\n  capabilities = [\"read\"]\n}\n");
    let role = format!("auth/token/roles/{}", bench.world.name);
    server.make(
        "POST",
        &role,
        json!({
            "orphan": true, "token_no_default_policy": true, "allowed_policies": [nothing.name],
        }),
    );
    let target = bench.world.target(bench.world.tokens_with(vec![nothing.name.clone()]));
    let (owner, step) = (bench.owner(), Step::new(1));
    let made = target.mint(contract::request(&step, &owner, None)).await.expect("a token");
    let rekeyd::target::Minted::Made(key) = made else { panic!("{made:?}") };
    assert_eq!(target.probe(&key, ProbeDepth::Login).await, Probe::Accepted);
    contract::retire(&bench, &step, &key, Extent::Principal, None).await.expect("revoked");
    assert_eq!(target.probe(&key, ProbeDepth::Login).await, Probe::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_accessor_does_not_fit() {
    let bench = Bench::new();
    let step = Step::new(1);
    let (first, second) =
        (contract::mint(&bench, &step, None).await, contract::mint(&bench, &step, None).await);
    let mixed = Credential::new(first.principal, second.value);
    let probe = bench.target.probe(&mixed, ProbeDepth::Login).await;
    assert!(matches!(probe, Probe::Unfit(_)), "{probe:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_verdict_on_the_value_is_unknown() {
    let bench = Bench::new();
    let key = contract::mint(&bench, &Step::new(1), None).await;
    for fault in [Fault::LoseRequest, Fault::Silence] {
        let (settings, proxy) = broken(&bench.world, "/auth/token/lookup-self", fault).await;
        let lossy = VaultTarget::open(bench.world.tokens(), &settings).expect("a target");
        let probe = lossy.probe(&key, ProbeDepth::Login).await;
        assert!(matches!(probe, Probe::Unknown(_)) && proxy.faults() > 0, "{fault:?}: {probe:?}");
    }
    // A dead one, where rekeyd may not ask about it.
    contract::retire(&bench, &Step::new(1), &key, Extent::Principal, None).await.expect("revoked");
    let text = rights("tokens", &bench.world.name, &bench.world.name);
    let less =
        text.replace("token/lookup-accessor", "token/other").replace("token/accessors", "token/others");
    let less = bench.world.server.policy(&less);
    bench.world.write_token(&bench.world.server.token(&less, json!({})));
    let powerless = bench.world.target(bench.world.tokens());
    let probe = powerless.probe(&key, ProbeDepth::Login).await;
    assert_eq!(probe.failure_class(), Some(FailureClass::Denied), "{probe:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_makes_no_orphans_or_gives_the_rights_of_rekeyd_is_not_used() {
    let bench = Bench::new();
    let (owner, step) = (bench.owner(), Step::new(1));
    let role = format!("auth/token/roles/{}", bench.world.name);
    // The policy leaves it to the role what the token may do.
    let target = bench.world.target(bench.world.tokens_with(Vec::new()));
    let batch = json!({"orphan": true, "token_type": "batch", "renewable": false});
    let of_rekeyd = json!({"orphan": true, "token_type": "service", "allowed_policies": []});
    for change in [json!({"orphan": false}), batch, of_rekeyd] {
        bench.world.server.make("POST", &role, change.clone());
        let failure = target.mint(contract::request(&step, &owner, None)).await;
        let failure = failure.expect_err("it cannot be rotated");
        assert_eq!(failure.class(), FailureClass::Invalid, "{change}: {failure}");
        let request = PreflightRequest { policy: &step.policy, current: None };
        let findings = target.preflight(request).await;
        assert!(findings.iter().any(|f| f.verdict == Verdict::Fail && f.detail == failure.reason()));
    }
    assert_eq!(contract::list(&bench).await, []);
    // The last one is right where the policy says what its token may do.
    let findings = bench.target.preflight(PreflightRequest { policy: &step.policy, current: None }).await;
    let role =
        findings.iter().find(|finding| finding.subject.starts_with("token role")).expect("it is looked at");
    assert_eq!(role.verdict, Verdict::Pass, "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_are_all_needed() {
    let bench = Bench::new();
    let world = &bench.world;
    let key = contract::mint(&bench, &Step::new(1), None).await;
    let text = rights("tokens", &world.name, &world.name);
    let blocks: Vec<_> = text.match_indices("path \"").map(|(start, _)| start).collect();
    for start in blocks {
        let end = start + text[start..].find("}\n").expect("a block ends") + 2;
        // Renewing is tried when the token grows old, and a lookup of it when it is refused.
        if ["renew-self", "lookup-self"].iter().any(|path| text[start..end].contains(path)) {
            continue;
        }
        let less = world.server.policy(&format!("{}{}", &text[..start], &text[end..]));
        world.write_token(&world.server.token(&less, json!({})));
        let target = world.target(world.tokens());
        let policy = Step::new(2).policy;
        let request = PreflightRequest { policy: &policy, current: Some(&key) };
        let findings = target.preflight(request).await;
        let all = findings.iter().all(|finding| finding.verdict == Verdict::Pass);
        assert!(!all, "nothing misses {}", &text[start..end]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_of_the_policys_own_needs_sudo() {
    let world = World::of_tokens();
    let mut spec = world.tokens();
    let VaultStrategy::Token(token) = &mut spec.strategy else { panic!("they are tokens") };
    (token.ttl, token.period) = (None, Some(Interval::from_duration(std::time::Duration::from_secs(600))));
    let (owner, step) = (spec.owner().clone(), Step::new(1));
    let path = format!("auth/token/create/{}", world.name);
    let lacks = format!("rekeyd's token lacks update and sudo on `{path}`");
    let lacking = async |target: &VaultTarget| {
        let findings = target.preflight(PreflightRequest { policy: &step.policy, current: None }).await;
        findings.iter().any(|finding| finding.verdict == Verdict::Fail && finding.detail == lacks)
    };
    let target = world.target(spec.clone());
    assert!(lacking(&target).await);
    let failure = target.mint(contract::request(&step, &owner, None)).await.expect_err("it may not");
    assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    assert!(failure.remedy().is_some_and(|remedy| remedy.contains("`token_period`")), "{failure:?}");

    let text = rights("tokens", &world.name, &world.name);
    let (few, many) = ("capabilities = [\"update\"]", "capabilities = [\"update\", \"sudo\"]");
    let block = |rights: &str| format!("path \"{path}\" {{\n  {rights}");
    assert!(text.contains(&block(few)), "{text}");
    let policy = world.server.policy(&text.replace(&block(few), &block(many)));
    world.write_token(&world.server.token(&policy, json!({})));
    let target = world.target(spec);
    assert!(!lacking(&target).await);
    target.mint(contract::request(&step, &owner, None)).await.expect("a token");
}
