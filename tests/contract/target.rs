//! What every target promises, whatever it is.
//!
//! [`target_contract!`] makes one test of each promise; `$bench` is an expression that makes a
//! [`Bench`] with nothing installed.

use async_trait::async_trait;
use rekeyd::failure::{FailureClass, Finding, Verdict};
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::{
    Attempt, Extent, InstallRequest, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth,
    RetireRequest, Retired, Target,
};

/// A target, and the means to use it as an application does.
#[async_trait]
pub(crate) trait Bench: Sync {
    type Target: Target;

    fn target(&self) -> &Self::Target;

    /// Two principals that take turns. Nothing is installed for either.
    fn pair(&self) -> [Principal; 2];

    /// Logs in and stays.
    async fn open(&self, credential: &Credential) -> Box<dyn Open>;

    /// Somebody makes a principal, which was not there, and gives it a value.
    async fn by_hand(&self, credential: &Credential);

    /// Whether failures are in words of rekeyd's; a plug-in tells a code.
    fn explains(&self) -> bool {
        true
    }
}

/// An application's session.
#[async_trait]
pub(crate) trait Open: Send {
    /// Whether the target still answers it.
    async fn lives(&mut self) -> bool;
}

macro_rules! target_contract {
    ($bench:expr) => {
        target_contract! { $bench;
            a_value_is_refused_before_its_install_and_accepted_after
            installing_the_same_candidate_again_is_right
            only_the_very_value_of_the_very_principal_is_accepted
            an_older_attempt_changes_nothing
            a_fence_belongs_to_one_rotation
            one_policy_does_not_take_anothers_principal
            usage_lists_the_open_sessions
            a_first_value_does_not_replace_one_that_nobody_took_over
            a_spare_with_a_value_that_nobody_took_over_is_not_taken
            a_spare_in_use_is_not_taken
            a_seized_spare_loses_its_sessions
            a_retired_principal_is_refused_and_has_no_session
            retiring_again_or_what_is_not_there_is_right
            an_older_attempt_retires_nothing
            only_sessions_before_the_moment_are_ended
            undoing_takes_back_what_was_installed
            undoing_what_never_arrived_bars_its_arrival
            undoing_bars_the_arrival_at_a_principal_that_is_not_there
            undoing_leaves_a_later_attempt_alone
            a_later_attempt_follows_an_undone_one
            a_retired_principal_serves_again
            a_preflight_changes_nothing
        }
    };
    ($bench:expr; $($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::target_contract::$promise(&$bench).await;
        }
    )+};
}
pub(crate) use target_contract;

pub(crate) async fn a_value_is_refused_before_its_install_and_accepted_after(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second) = (new(&a), new(&b));
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Refused);
    install(bench, &Step::new(1), &first, None).await;
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Check).await, Probe::Refused);
    install(bench, &Step::new(2), &second, Some(&a)).await;
    for credential in [&first, &second] {
        assert_eq!(bench.target().probe(credential, ProbeDepth::Check).await, Probe::Accepted);
    }
}

pub(crate) async fn installing_the_same_candidate_again_is_right(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second) = (new(&a), new(&b));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&a)).await;
    // Its readers may have moved by now: their sessions are no reason to refuse.
    let mut reader = bench.open(&second).await;
    install(bench, &step, &second, Some(&a)).await;
    assert!(reader.lives().await);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn only_the_very_value_of_the_very_principal_is_accepted(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let first = new(&a);
    install(bench, &Step::new(1), &first, None).await;
    assert_eq!(bench.target().probe(&new(&a), ProbeDepth::Login).await, Probe::Refused);
    let elsewhere = Credential::new(b, first.value.duplicate());
    assert_eq!(bench.target().probe(&elsewhere, ProbeDepth::Login).await, Probe::Refused);
}

pub(crate) async fn an_older_attempt_changes_nothing(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (old, new) = (new(&a), new(&a));
    install(bench, &Step::new(7), &new, None).await;
    let late = try_install(bench, &Step::new(6), &old, None, Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(7) }));
    assert_eq!(bench.target().probe(&old, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&new, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn a_fence_belongs_to_one_rotation(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (first, second) = (new(&a), new(&a));
    install(bench, &Step::new(3), &first, None).await;
    let other = try_install(bench, &Step::new(3), &second, None, Occupancy::Close).await;
    assert_eq!(other, Ok(Installed::Superseded { by: Fence::new(3) }));
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn one_policy_does_not_take_anothers_principal(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (first, second) = (new(&a), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    let foreign = Step { policy: policy("billing/db"), ..Step::new(9) };
    let failure =
        try_install(bench, &foreign, &second, None, Occupancy::Close).await.expect_err("it was taken");
    assert_eq!(failure.class(), FailureClass::Conflict);
    assert!(failure.reason().contains("contract/target"), "{failure}");
    let failure = try_retire(bench, &foreign, &a, Extent::Principal).await.expect_err("it was retired");
    assert_eq!(failure.class(), FailureClass::Conflict);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn usage_lists_the_open_sessions(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let first = new(&a);
    install(bench, &Step::new(1), &first, None).await;
    // A probe's own session is not somebody's use.
    for _ in 0..5 {
        assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
        assert_eq!(bench.target().usage(&a).await.expect("usage").sessions, []);
    }
    let _one = bench.open(&first).await;
    let _two = bench.open(&first).await;
    let usage = bench.target().usage(&a).await.expect("usage");
    assert_eq!(usage.sessions.len(), 2);
    assert!(usage.sessions[0].since <= usage.sessions[1].since);
    assert_eq!(bench.target().usage(&b).await.expect("usage").sessions, []);
}

/// Rotation that is switched on must lock nobody out, and its readers need not be connected.
pub(crate) async fn a_first_value_does_not_replace_one_that_nobody_took_over(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (live, first, second) = (new(&a), new(&a), new(&b));
    bench.by_hand(&live).await;
    let step = Step::new(1);
    let remedy = refused(bench, &step, &first, None).await;
    assert!(!bench.explains() || remedy.contains("`rekeyd adopt`"), "{remedy}");
    // Whoever takes it up does not know that nothing was installed. What it leaves there vouches for nothing.
    assert_eq!(retire(bench, &step, &a, Extent::Attempt).await, 0);
    refused(bench, &Step::new(2), &first, None).await;
    assert_eq!(bench.target().probe(&live, ProbeDepth::Login).await, Probe::Accepted);

    // Taken over, it is one like another.
    assert_eq!(failed(bench, &step, Some(&live)).await, []);
    install(bench, &Step::new(3), &second, Some(&a)).await;
    for credential in [&live, &second] {
        assert_eq!(bench.target().probe(credential, ProbeDepth::Login).await, Probe::Accepted);
    }
}

/// A containment takes it: what leaked is dead before anybody is asked.
pub(crate) async fn a_spare_with_a_value_that_nobody_took_over_is_not_taken(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, theirs, second) = (new(&a), new(&b), new(&b));
    install(bench, &Step::new(1), &first, None).await;
    bench.by_hand(&theirs).await;
    let step = Step::new(2);
    refused(bench, &step, &second, Some(&first)).await;
    assert_eq!(retire(bench, &step, &b, Extent::Attempt).await, 0);
    refused(bench, &Step::new(3), &second, Some(&first)).await;
    assert_eq!(bench.target().probe(&theirs, ProbeDepth::Login).await, Probe::Accepted);

    let seized = try_install(bench, &Step::new(4), &second, Some(&a), Occupancy::Close).await;
    assert!(matches!(seized, Ok(Installed::Done { .. })), "{seized:?}");
    assert_eq!(bench.target().probe(&theirs, ProbeDepth::Login).await, Probe::Refused);
    for credential in [&first, &second] {
        assert_eq!(bench.target().probe(credential, ProbeDepth::Check).await, Probe::Accepted);
    }
}

/// What an install fails with, its preflight says beforehand: the remedy.
async fn refused(
    bench: &impl Bench,
    step: &Step,
    candidate: &Credential,
    outgoing: Option<&Credential>,
) -> String {
    let found = failed(bench, step, outgoing).await;
    let peer = outgoing.map(|outgoing| &outgoing.principal);
    let installed = try_install(bench, step, candidate, peer, Occupancy::Refuse).await;
    let failure = installed.expect_err("it was replaced");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    let told = Finding::from_failure("", &failure);
    let same = |finding: &Finding| (&finding.detail, &finding.remedy) == (&told.detail, &told.remedy);
    assert!(found.iter().any(|finding| same(finding) || !bench.explains()), "{told:?}: {found:?}");
    told.remedy.unwrap_or_default()
}

async fn failed(bench: &impl Bench, step: &Step, current: Option<&Credential>) -> Vec<Finding> {
    let request = PreflightRequest { policy: &step.policy, current };
    let findings = bench.target().preflight(request).await;
    findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail).collect()
}

pub(crate) async fn a_spare_in_use_is_not_taken(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second, third) = (new(&a), new(&b), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    install(bench, &Step::new(2), &second, Some(&a)).await;
    let mut straggler = bench.open(&first).await;
    let failure = try_install(bench, &Step::new(3), &third, Some(&b), Occupancy::Refuse)
        .await
        .expect_err("it was taken");
    assert_eq!(failure.class(), FailureClass::Conflict);
    assert!(straggler.lives().await);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn a_seized_spare_loses_its_sessions(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second, third) = (new(&a), new(&b), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    install(bench, &Step::new(2), &second, Some(&a)).await;
    let (mut thief, mut reader) = (bench.open(&first).await, bench.open(&second).await);
    let seized = try_install(bench, &Step::new(3), &third, Some(&b), Occupancy::Close).await;
    assert!(matches!(seized, Ok(Installed::Done { .. })), "{seized:?}");
    assert!(!thief.lives().await);
    assert!(reader.lives().await, "the peer is in use and left alone");
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&third, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn a_retired_principal_is_refused_and_has_no_session(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second) = (new(&a), new(&b));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&a)).await;
    let (mut old, mut new) = (bench.open(&first).await, bench.open(&second).await);
    assert_eq!(retire(bench, &step, &a, Extent::Principal).await, 1);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Refused);
    assert!(!old.lives().await);
    assert!(new.lives().await);
    assert_eq!(bench.target().usage(&a).await.expect("usage").sessions, []);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn retiring_again_or_what_is_not_there_is_right(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let first = new(&a);
    let step = Step::new(1);
    install(bench, &step, &first, None).await;
    for _ in 0..2 {
        assert_eq!(retire(bench, &step, &a, Extent::Principal).await, 0);
        assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Refused);
    }
    assert_eq!(retire(bench, &step, &b, Extent::Principal).await, 0);
    assert_eq!(retire(bench, &step, &b, Extent::Attempt).await, 0);
}

pub(crate) async fn an_older_attempt_retires_nothing(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let first = new(&a);
    install(bench, &Step::new(5), &first, None).await;
    let late = try_retire(bench, &Step::new(4), &a, Extent::Principal).await;
    assert_eq!(late, Ok(Retired::Superseded { by: Fence::new(5) }));
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn only_sessions_before_the_moment_are_ended(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (first, second) = (new(&a), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, None).await;
    let mut before = bench.open(&second).await;
    // The moment is the target's own: that of an install.
    let moment = install(bench, &step, &second, None).await;
    let mut after = bench.open(&second).await;
    let extent = Extent::SessionsBefore(moment);
    assert_eq!(retire(bench, &step, &a, extent).await, 1);
    assert!(!before.lives().await);
    assert!(after.lives().await);
    assert_eq!(retire(bench, &step, &a, extent).await, 0);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Login).await, Probe::Accepted);
}

pub(crate) async fn undoing_takes_back_what_was_installed(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second) = (new(&a), new(&b));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&a)).await;
    let mut reader = bench.open(&second).await;
    assert_eq!(retire(bench, &step, &b, Extent::Attempt).await, 1);
    assert!(!reader.lives().await);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(retire(bench, &step, &b, Extent::Attempt).await, 0);
    let late = try_install(bench, &step, &second, Some(&a), Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(2) }));
    assert_eq!(bench.target().probe(&second, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn undoing_what_never_arrived_bars_its_arrival(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (first, second) = (new(&a), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    let mut reader = bench.open(&first).await;
    let step = Step::new(2);
    assert_eq!(retire(bench, &step, &a, Extent::Attempt).await, 0);
    assert!(reader.lives().await);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
    let late = try_install(bench, &step, &second, None, Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(2) }));
    assert!(reader.lives().await);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn undoing_bars_the_arrival_at_a_principal_that_is_not_there(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second, third) = (new(&a), new(&b), new(&b));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    assert_eq!(retire(bench, &step, &b, Extent::Attempt).await, 0);
    let late = try_install(bench, &step, &second, Some(&a), Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(2) }));
    assert_eq!(bench.target().probe(&second, ProbeDepth::Login).await, Probe::Refused);
    install(bench, &Step::new(3), &third, Some(&a)).await;
    assert_eq!(bench.target().probe(&third, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn undoing_leaves_a_later_attempt_alone(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let first = new(&a);
    install(bench, &Step::new(4), &first, None).await;
    assert_eq!(retire(bench, &Step::new(3), &a, Extent::Attempt).await, 0);
    let foreign = Step { policy: policy("billing/db"), ..Step::new(9) };
    assert_eq!(retire(bench, &foreign, &a, Extent::Attempt).await, 0);
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Accepted);
    let older = try_install(bench, &Step::new(3), &new(&a), None, Occupancy::Close).await;
    assert_eq!(older, Ok(Installed::Superseded { by: Fence::new(4) }));
}

pub(crate) async fn a_later_attempt_follows_an_undone_one(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let (first, second) = (new(&a), new(&a));
    let step = Step::new(1);
    install(bench, &step, &first, None).await;
    assert_eq!(retire(bench, &step, &a, Extent::Attempt).await, 0);
    install(bench, &Step::new(2), &second, None).await;
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&second, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn a_retired_principal_serves_again(bench: &impl Bench) {
    let [a, b] = bench.pair();
    let (first, second, third) = (new(&a), new(&b), new(&a));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&a)).await;
    assert_eq!(retire(bench, &step, &a, Extent::Principal).await, 0);
    install(bench, &Step::new(3), &third, Some(&b)).await;
    assert_eq!(bench.target().probe(&first, ProbeDepth::Login).await, Probe::Refused);
    assert_eq!(bench.target().probe(&third, ProbeDepth::Check).await, Probe::Accepted);
}

pub(crate) async fn a_preflight_changes_nothing(bench: &impl Bench) {
    let [a, _] = bench.pair();
    let first = new(&a);
    let step = Step::new(1);
    for current in [None, Some(&first)] {
        if current.is_some() {
            install(bench, &step, &first, None).await;
        }
        let request = PreflightRequest { policy: &step.policy, current };
        for _ in 0..2 {
            let findings = bench.target().preflight(request).await;
            assert!(!findings.is_empty());
            let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
            assert_eq!(failed, None);
        }
    }
    assert_eq!(bench.target().probe(&first, ProbeDepth::Check).await, Probe::Accepted);
    let foreign = policy("billing/db");
    let request = PreflightRequest { policy: &foreign, current: None };
    let findings = bench.target().preflight(request).await;
    let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
    assert!(failed.is_some_and(|finding| finding.detail.contains("contract/target")), "{findings:?}");
}

/// One attempt of one rotation.
struct Step {
    policy: PolicyName,
    rotation: RotationId,
    fence: u64,
}

impl Step {
    fn new(fence: u64) -> Self {
        Self { policy: policy("contract/target"), rotation: RotationId::generate(), fence }
    }

    fn attempt(&self) -> Attempt<'_> {
        let (version, fence) = (Version::new(self.fence), Fence::new(self.fence));
        Attempt { policy: &self.policy, rotation: self.rotation, version, fence }
    }
}

fn policy(name: &str) -> PolicyName {
    name.parse().expect("a policy name")
}

fn new(principal: &Principal) -> Credential {
    Credential::new(principal.clone(), ValueSpec::default().generate())
}

async fn try_install(
    bench: &impl Bench,
    step: &Step,
    candidate: &Credential,
    peer: Option<&Principal>,
    occupancy: Occupancy,
) -> Result<Installed, rekeyd::failure::Failure> {
    let request = InstallRequest { attempt: step.attempt(), candidate, peer, beside: None, occupancy };
    bench.target().install(request).await
}

async fn install(
    bench: &impl Bench,
    step: &Step,
    candidate: &Credential,
    peer: Option<&Principal>,
) -> jiff::Timestamp {
    match try_install(bench, step, candidate, peer, Occupancy::Refuse).await {
        Ok(Installed::Done { at }) => at,
        other => panic!("not installed: {other:?}"),
    }
}

async fn try_retire(
    bench: &impl Bench,
    step: &Step,
    principal: &Principal,
    extent: Extent,
) -> Result<Retired, rekeyd::failure::Failure> {
    let request = RetireRequest { attempt: step.attempt(), principal, extent, outgoing: None, beside: None };
    bench.target().retire(request).await
}

async fn retire(bench: &impl Bench, step: &Step, principal: &Principal, extent: Extent) -> u64 {
    match try_retire(bench, step, principal, extent).await {
        Ok(Retired::Done { sessions_closed }) => sessions_closed,
        other => panic!("not retired: {other:?}"),
    }
}
