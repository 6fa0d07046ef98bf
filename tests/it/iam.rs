//! The access keys of AWS IAM, on services that are strict.

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::Principal;
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::aws_iam::AwsIamTarget;
use rekeyd::target::{
    Extent, LastUse, MintRequest, PreflightRequest, Probe, ProbeDepth, RetireRequest, Target as _,
};

use crate::iam_service::{Fate, INMOST, Iam, USER};
use crate::keys_contract::{self as contract, KeysBench, Step, Ways, keys_contract};

keys_contract!(Bench::new().await);

struct Bench {
    iam: Iam,
    target: AwsIamTarget,
}

impl Bench {
    async fn new() -> Self {
        let iam = Iam::start().await;
        let target = iam.target();
        Self { iam, target }
    }

    async fn mint_failing(&self, request: MintRequest<'_>, fate: Fate) -> Failure {
        self.iam.next("CreateAccessKey", fate);
        let failure = self.target.mint(request).await.expect_err("it fails");
        assert!(!failure.to_string().contains(INMOST), "{failure}");
        failure
    }
}

#[async_trait]
impl KeysBench for Bench {
    type Target = AwsIamTarget;

    fn target(&self) -> &AwsIamTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        USER.parse().expect("a user")
    }

    fn ways(&self) -> Ways {
        Ways { quota: Some(2), tags: false, disables: true, refuses_disabled: true }
    }

    async fn by_hand(&self) -> Credential {
        self.iam.by_hand()
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        self.mint_failing(request, Fate::LoseReply).await
    }
}

#[tokio::test]
async fn only_what_may_have_been_done_is_in_doubt() {
    use FailureClass::{Ambiguous, Denied, Invalid, Unavailable};
    let bench = Bench::new().await;
    let (owner, step) = (bench.owner(), Step::new(1));
    for (fate, class) in [
        (Fate::LoseRequest, Ambiguous),
        (Fate::DoneAndFailed, Ambiguous),
        (Fate::Code("ServiceUnavailable", 503, INMOST), Ambiguous),
        (Fate::Code("Throttling", 400, INMOST), Unavailable),
        (Fate::Code("EntityTemporarilyUnmodifiable", 409, INMOST), Unavailable),
        (Fate::Code("SignatureDoesNotMatch", 403, "Signature expired: it is now earlier"), Unavailable),
        (Fate::Code("RequestExpired", 400, INMOST), Unavailable),
        (Fate::Html(404), Unavailable),
        (Fate::Html(200), Ambiguous),
        (Fate::Code("AccessDenied", 403, INMOST), Denied),
        (Fate::Code("InvalidClientTokenId", 403, INMOST), Denied),
        (Fate::Code("NoSuchEntity", 404, INMOST), Invalid),
        (Fate::DoneAndCut, Ambiguous),
    ] {
        let failure = bench.mint_failing(contract::request(&step, &owner, None), fate).await;
        assert_eq!(failure.class(), class, "{fate:?}: {failure}");
    }
    // Two of them were done.
    assert_eq!(contract::list(&bench).await.len(), 2);
    bench.iam.deny("DeleteAccessKey");
    let id = contract::list(&bench).await.remove(0).id;
    let request = RetireRequest {
        attempt: step.attempt(),
        principal: &id,
        extent: Extent::Principal,
        outgoing: None,
        beside: None,
    };
    let failure = bench.target.retire(request).await.expect_err("it is not allowed");
    assert_eq!(failure.class(), Denied);
    assert!(failure.to_string().contains("`iam:DeleteAccessKey` is not allowed"), "{failure}");
}

#[tokio::test]
async fn only_the_service_s_word_on_the_key_is_a_refusal() {
    let bench = Bench::new().await;
    let key = contract::mint(&bench, &Step::new(1), None).await;
    for fate in [
        Fate::LoseRequest,
        Fate::LoseReply,
        Fate::DoneAndFailed,
        Fate::DoneAndCut,
        Fate::Html(200),
        Fate::Html(403),
        Fate::Code("Throttling", 400, INMOST),
        Fate::Code("SignatureDoesNotMatch", 403, "Signature expired: 20260101T000000Z is now earlier than"),
        Fate::Code("SignatureDoesNotMatch", 403, "Signature not yet current: 20260101T000000Z"),
        Fate::Code("RequestExpired", 400, INMOST),
        Fate::Code("RegionDisabledException", 403, INMOST),
        Fate::Code("AccessDenied", 403, INMOST),
    ] {
        bench.iam.next("GetCallerIdentity", fate);
        let probe = bench.target.probe(&key, ProbeDepth::Login).await;
        assert!(
            matches!(&probe, Probe::Unknown(failure) if !failure.to_string().contains(INMOST)),
            "{fate:?}: {probe:?}"
        );
    }
    for code in ["InvalidClientTokenId", "SignatureDoesNotMatch"] {
        bench.iam.next("GetCallerIdentity", Fate::Code(code, 403, INMOST));
        assert_eq!(bench.target.probe(&key, ProbeDepth::Login).await, Probe::Refused, "{code}");
    }
    assert_eq!(bench.target.probe(&key, ProbeDepth::Login).await, Probe::Accepted);
    // What no key can be is not even sent.
    bench.iam.actions();
    for (id, value) in [("AKIA/1", "x"), ("ключ", "x")] {
        let value = rekeyd::secret::SecretValue::new(value.as_bytes().to_vec());
        let odd = Credential::new(id.parse().expect("a principal"), value);
        assert_eq!(bench.target.probe(&odd, ProbeDepth::Login).await, Probe::Refused);
    }
    assert_eq!(bench.iam.actions(), Vec::<String>::new());
}

/// Whoever is asked to wait has done nothing, and whoever was cut off may have: either way the next try gets there.
#[tokio::test]
async fn who_asks_too_often_gets_there_in_the_end() {
    let bench = Bench::new().await;
    let (owner, step) = (bench.owner(), Step::new(1));
    for (fate, class, made) in [
        (Fate::Code("Throttling", 400, INMOST), FailureClass::Unavailable, 0),
        (Fate::Code("RequestLimitExceeded", 503, INMOST), FailureClass::Ambiguous, 0),
        (Fate::LoseReply, FailureClass::Ambiguous, 1),
    ] {
        let failure = bench.mint_failing(contract::request(&step, &owner, None), fate).await;
        assert_eq!(failure.class(), class, "{fate:?}: {failure}");
        assert_eq!(contract::list(&bench).await.len(), made, "{fate:?}");
    }
    let id = contract::list(&bench).await.remove(0).id;
    for (action, extent) in [("UpdateAccessKey", Extent::Disabled), ("DeleteAccessKey", Extent::Principal)] {
        let request = || RetireRequest {
            attempt: step.attempt(),
            principal: &id,
            extent,
            outgoing: None,
            beside: None,
        };
        for (fate, class) in [
            (Fate::Code("Throttling", 400, INMOST), FailureClass::Unavailable),
            (Fate::LoseReply, FailureClass::Ambiguous),
        ] {
            bench.iam.next(action, fate);
            let failure = bench.target.retire(request()).await.expect_err("it fails");
            assert_eq!(failure.class(), class, "{action}: {fate:?}: {failure}");
        }
        bench.target.retire(request()).await.expect("it is so already");
    }
    assert_eq!(contract::list(&bench).await, []);
}

#[tokio::test]
async fn what_a_list_does_not_show_yet_is_not_somebody_elses() {
    let bench = Bench::new().await;
    let outgoing = contract::mint(&bench, &Step::new(1), None).await;
    contract::accepted(&bench, &outgoing).await;
    let (owner, step) = (bench.owner(), Step::new(2));
    let request = contract::request(&step, &owner, Some(&outgoing));
    bench.iam.lag(1);
    bench.mint_failing(request, Fate::LoseReply).await;
    assert_eq!(contract::list(&bench).await.len(), 1, "the list is not stale");
    // An earlier request of this rotation may have made it: it is looked for again.
    let repeated = MintRequest { repeated: true, ..request };
    let failure = bench.target.mint(repeated).await.expect_err("there is no room");
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    // Whoever asks for the first time has made none.
    let failure = bench.target.mint(request).await.expect_err("there is no room");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
}

#[tokio::test]
async fn the_last_use_is_told() {
    let bench = Bench::new().await;
    let key = contract::mint(&bench, &Step::new(1), None).await;
    let usage = bench.target.usage(&key.principal).await.expect("usage");
    assert_eq!(usage.last, LastUse::Never);
    contract::accepted(&bench, &key).await;
    let usage = bench.target.usage(&key.principal).await.expect("usage");
    assert!(matches!(usage.last, LastUse::At(_)), "{usage:?}");
    assert_eq!(contract::list(&bench).await[0].used, Some(true));
}

#[tokio::test]
async fn what_rekeyd_logs_in_with_is_read_again_when_it_is_refused() {
    let bench = Bench::new().await;
    bench.iam.write_keys(["AKIDNOBODY", "wrong"]);
    let target = bench.iam.target();
    let failure = target.keys(&bench.owner()).await.expect_err("nobody logs in with it");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    bench.iam.write_keys(["AKIDREKEYDTEST", "secret-key-of-the-test"]);
    assert_eq!(target.keys(&bench.owner()).await.expect("the keys"), []);
}

#[tokio::test]
async fn a_preflight_tells_what_is_in_the_way() {
    let bench = Bench::new().await;
    let (policy, step) = (Step::new(1).policy, Step::new(1));
    let request = PreflightRequest { policy: &policy, current: None };
    for _ in 0..2 {
        contract::mint(&bench, &step, None).await;
    }
    let findings = bench.target.preflight(request).await;
    let keys = findings.iter().find(|finding| finding.subject == "keys").expect("a finding");
    assert!(keys.verdict == Verdict::Warn && keys.detail.contains("no room"), "{findings:?}");
    // Something that takes every key.
    let wrong =
        Credential::new("AKIATEST000000000001".parse().expect("an id"), ValueSpec::default().generate());
    let request = PreflightRequest { policy: &policy, current: Some(&wrong) };
    let findings = bench.target.preflight(request).await;
    let current = findings.iter().find(|finding| finding.subject == "current credential");
    assert_eq!(current.expect("a finding").verdict, Verdict::Fail, "{findings:?}");
    bench.iam.remove_user();
    let findings = bench.target.preflight(request).await;
    assert!(findings.iter().any(|finding| finding.subject == "keys" && finding.verdict == Verdict::Fail));
}
