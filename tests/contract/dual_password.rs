//! What every target promises whose users take two values at a time.
//!
//! [`dual_password_contract!`] makes one test of each promise; `$bench` is an expression that makes a
//! [`DualBench`] with nothing installed.

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Finding, Verdict};
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::{
    Attempt, Extent, InstallRequest, Installed, Occupancy, PreflightRequest, Probe, ProbeDepth,
    RetireRequest, Retired, Target,
};

use crate::target_contract::Open;

/// A target with a user who takes two values at a time, and the means to use it as others do.
#[async_trait]
pub(crate) trait DualBench: Sync {
    type Target: Target;

    fn target(&self) -> &Self::Target;

    /// A user that exists, and that no value lets in.
    fn user(&self) -> Principal;

    /// Logs in and stays.
    async fn open(&self, credential: &Credential) -> Box<dyn Open>;

    /// Somebody gives the user, whom no value lets in, one by hand.
    async fn by_hand(&self, credential: &Credential);

    /// Whether failures are in words of rekeyd's; a plug-in tells a code.
    fn explains(&self) -> bool {
        true
    }

    /// Somebody gives the user a second value by hand. There is one, and it goes on working.
    async fn slip(&self, credential: &Credential);
}

macro_rules! dual_password_contract {
    ($bench:expr) => {
        crate::dual_password_contract::dual_password_contract! { $bench;
            a_first_value_is_refused_before_its_install_and_accepted_after
            both_values_work_until_one_is_retired
            installing_the_same_candidate_again_is_right
            installing_again_does_not_revive_what_was_retired
            a_first_value_does_not_replace_one_that_nobody_took_over
            a_value_that_nobody_knows_is_not_pushed_out
            a_containment_pushes_out_what_nobody_knows
            a_value_that_nobody_knows_is_retired_with_the_rest
            retiring_ends_the_sessions_that_began_before
            retiring_again_is_right
            an_older_attempt_changes_nothing
            an_older_attempt_retires_nothing
            a_fence_belongs_to_one_rotation
            one_policy_does_not_take_anothers_user
            undoing_takes_back_the_candidate_alone
            undoing_a_first_value_leaves_none
            undoing_what_never_arrived_bars_its_arrival
            undoing_leaves_a_later_attempt_alone
            a_later_attempt_follows_an_undone_one
            what_was_retired_can_be_brought_back
            usage_lists_the_open_sessions
            a_preflight_changes_nothing
        }
    };
    ($bench:expr; $($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::dual_password_contract::$promise(&$bench).await;
        }
    )+};
}
pub(crate) use dual_password_contract;

pub(crate) async fn a_first_value_is_refused_before_its_install_and_accepted_after(bench: &impl DualBench) {
    let first = new(bench);
    assert_eq!(probe(bench, &first).await, Probe::Refused);
    install(bench, &Step::new(1), &first, None).await;
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
    assert_eq!(bench.target().probe(&new(bench), ProbeDepth::Login).await, Probe::Refused);
}

pub(crate) async fn both_values_work_until_one_is_retired(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let mut reader = bench.open(&first).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    for credential in [&first, &second] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
    assert!(reader.lives().await, "its value works, so it is left alone");
    retire_others(bench, &step, &second).await;
    assert_eq!(probe(bench, &first).await, Probe::Refused);
    assert_eq!(probe(bench, &second).await, Probe::Accepted);
}

pub(crate) async fn installing_the_same_candidate_again_is_right(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    let (mut straggler, mut reader) = (bench.open(&first).await, bench.open(&second).await);
    install(bench, &step, &second, Some(&first)).await;
    assert!(straggler.lives().await);
    assert!(reader.lives().await);
    for credential in [&first, &second] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted, "a repetition pushes nothing out");
    }
}

/// Whoever takes a rotation up walks it from its start.
pub(crate) async fn installing_again_does_not_revive_what_was_retired(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    retire_others(bench, &step, &second).await;
    let mut reader = bench.open(&second).await;
    install(bench, &step, &second, Some(&first)).await;
    assert!(reader.lives().await);
    assert_eq!(probe(bench, &first).await, Probe::Refused);
    assert_eq!(probe(bench, &second).await, Probe::Accepted);
}

/// Rotation that is switched on must lock nobody out, and its readers need not be connected. A preflight says so.
pub(crate) async fn a_first_value_does_not_replace_one_that_nobody_took_over(bench: &impl DualBench) {
    let (live, first) = (new(bench), new(bench));
    bench.by_hand(&live).await;
    for fence in [1, 2] {
        let step = Step::new(fence);
        let found = failed(bench, &step, None).await;
        let installed = try_install(bench, &step, &first, None, Occupancy::Refuse).await;
        let failure = installed.expect_err("it was replaced");
        assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
        let told = Finding::from_failure("", &failure);
        let same = |finding: &Finding| (&finding.detail, &finding.remedy) == (&told.detail, &told.remedy);
        assert!(found.iter().any(|finding| same(finding) || !bench.explains()), "{told:?}: {found:?}");
        let names = |remedy: &String| remedy.contains("`rekeyd adopt`");
        assert!(!bench.explains() || told.remedy.as_ref().is_some_and(names), "{told:?}");
        // Whoever takes it up does not know that nothing was installed. What it leaves there vouches for nothing.
        undo(bench, &step, None).await;
        assert_eq!(probe(bench, &live).await, Probe::Accepted);
    }

    // Taken over, it is one like another.
    assert_eq!(failed(bench, &Step::new(3), Some(&live)).await, []);
    install(bench, &Step::new(3), &first, Some(&live)).await;
    for credential in [&live, &first] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
}

async fn failed(bench: &impl DualBench, step: &Step, current: Option<&Credential>) -> Vec<Finding> {
    let request = PreflightRequest { policy: &step.policy, current };
    let findings = bench.target().preflight(request).await;
    findings.into_iter().filter(|finding| finding.verdict == Verdict::Fail).collect()
}

pub(crate) async fn a_value_that_nobody_knows_is_not_pushed_out(bench: &impl DualBench) {
    let (first, second, stray) = (new(bench), new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    bench.slip(&stray).await;
    let failure = try_install(bench, &Step::new(2), &second, Some(&first), Occupancy::Refuse)
        .await
        .expect_err("it was pushed out");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    for credential in [&first, &stray] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
    assert_eq!(probe(bench, &second).await, Probe::Refused);
}

pub(crate) async fn a_containment_pushes_out_what_nobody_knows(bench: &impl DualBench) {
    let (first, second, stray) = (new(bench), new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    bench.slip(&stray).await;
    let contained = try_install(bench, &Step::new(2), &second, Some(&first), Occupancy::Close).await;
    assert!(matches!(contained, Ok(Installed::Done { .. })), "{contained:?}");
    assert_eq!(probe(bench, &stray).await, Probe::Refused);
    for credential in [&first, &second] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted, "what it keeps serving with works");
    }
}

pub(crate) async fn a_value_that_nobody_knows_is_retired_with_the_rest(bench: &impl DualBench) {
    let (first, stray) = (new(bench), new(bench));
    let step = Step::new(1);
    install(bench, &step, &first, None).await;
    bench.slip(&stray).await;
    retire_others(bench, &step, &first).await;
    assert_eq!(probe(bench, &stray).await, Probe::Refused);
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
}

pub(crate) async fn retiring_ends_the_sessions_that_began_before(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    let (mut straggler, mut another) = (bench.open(&first).await, bench.open(&first).await);
    assert_eq!(retire_others(bench, &step, &second).await, 2);
    assert!(!straggler.lives().await);
    assert!(!another.lives().await);
    assert_eq!(bench.target().usage(&bench.user()).await.expect("usage").sessions, []);
    let mut reader = bench.open(&second).await;
    assert!(reader.lives().await);
}

pub(crate) async fn retiring_again_is_right(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    for _ in 0..2 {
        assert_eq!(retire_others(bench, &step, &second).await, 0);
        assert_eq!(probe(bench, &first).await, Probe::Refused);
        assert_eq!(probe(bench, &second).await, Probe::Accepted);
    }
}

pub(crate) async fn an_older_attempt_changes_nothing(bench: &impl DualBench) {
    let (old, new_one) = (new(bench), new(bench));
    install(bench, &Step::new(7), &new_one, None).await;
    for beside in [None, Some(&new_one)] {
        let late = try_install(bench, &Step::new(6), &old, beside, Occupancy::Close).await;
        assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(7) }));
    }
    assert_eq!(probe(bench, &old).await, Probe::Refused);
    assert_eq!(probe(bench, &new_one).await, Probe::Accepted);
}

pub(crate) async fn an_older_attempt_retires_nothing(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    let step = Step::new(1);
    install(bench, &step, &first, None).await;
    install(bench, &Step::new(2), &second, Some(&first)).await;
    let mut reader = bench.open(&second).await;
    // It would take the later attempt's candidate for a value that nobody knows.
    let late = try_retire(bench, &step, Extent::OtherValues, Some(&first)).await;
    assert_eq!(late, Ok(Retired::Superseded { by: Fence::new(2) }));
    assert!(reader.lives().await);
    for credential in [&first, &second] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
}

pub(crate) async fn a_fence_belongs_to_one_rotation(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(3), &first, None).await;
    let other = try_install(bench, &Step::new(3), &second, Some(&first), Occupancy::Close).await;
    assert_eq!(other, Ok(Installed::Superseded { by: Fence::new(3) }));
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
    assert_eq!(probe(bench, &second).await, Probe::Refused);
}

pub(crate) async fn one_policy_does_not_take_anothers_user(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let foreign = Step { policy: policy("billing/db"), ..Step::new(9) };
    let failure =
        try_install(bench, &foreign, &second, None, Occupancy::Close).await.expect_err("it was taken");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.reason().contains("policy"), "{failure}");
    let failure = try_retire(bench, &foreign, Extent::OtherValues, Some(&second))
        .await
        .expect_err("its value was retired");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
    assert_eq!(probe(bench, &second).await, Probe::Refused);
}

pub(crate) async fn undoing_takes_back_the_candidate_alone(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let mut reader = bench.open(&first).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    for _ in 0..2 {
        undo(bench, &step, Some(&first)).await;
        assert_eq!(probe(bench, &second).await, Probe::Refused);
        assert_eq!(probe(bench, &first).await, Probe::Accepted);
    }
    assert!(reader.lives().await, "nobody was told of the candidate");
    let late = try_install(bench, &step, &second, Some(&first), Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(2) }));
    assert_eq!(probe(bench, &second).await, Probe::Refused);
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
}

pub(crate) async fn undoing_a_first_value_leaves_none(bench: &impl DualBench) {
    let first = new(bench);
    let step = Step::new(1);
    install(bench, &step, &first, None).await;
    undo(bench, &step, None).await;
    assert_eq!(probe(bench, &first).await, Probe::Refused);
}

pub(crate) async fn undoing_what_never_arrived_bars_its_arrival(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    let never = Step::new(1);
    undo(bench, &never, None).await;
    let late = try_install(bench, &never, &first, None, Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(1) }));
    assert_eq!(probe(bench, &first).await, Probe::Refused);

    install(bench, &Step::new(2), &first, None).await;
    let mut reader = bench.open(&first).await;
    let step = Step::new(3);
    undo(bench, &step, Some(&first)).await;
    assert!(reader.lives().await);
    let late = try_install(bench, &step, &second, Some(&first), Occupancy::Close).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(3) }));
    assert!(reader.lives().await);
    assert_eq!(probe(bench, &second).await, Probe::Refused);
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
}

pub(crate) async fn undoing_leaves_a_later_attempt_alone(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(4), &first, None).await;
    undo(bench, &Step::new(3), None).await;
    let foreign = Step { policy: policy("billing/db"), ..Step::new(9) };
    undo(bench, &foreign, None).await;
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
    let older = try_install(bench, &Step::new(3), &second, None, Occupancy::Close).await;
    assert_eq!(older, Ok(Installed::Superseded { by: Fence::new(4) }));
}

pub(crate) async fn a_later_attempt_follows_an_undone_one(bench: &impl DualBench) {
    let (first, second, third) = (new(bench), new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    undo(bench, &step, Some(&first)).await;
    install(bench, &Step::new(3), &third, Some(&first)).await;
    assert_eq!(probe(bench, &second).await, Probe::Refused);
    for credential in [&first, &third] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
}

/// Readers failed with the new value: the two change places, under a higher fence.
pub(crate) async fn what_was_retired_can_be_brought_back(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    let step = Step::new(2);
    install(bench, &step, &second, Some(&first)).await;
    retire_others(bench, &step, &second).await;
    let back = Step { fence: 3, ..step };
    let brought = try_install(bench, &back, &first, Some(&second), Occupancy::Keep).await;
    assert!(matches!(brought, Ok(Installed::Done { .. })), "{brought:?}");
    for credential in [&first, &second] {
        assert_eq!(probe(bench, credential).await, Probe::Accepted);
    }
    let step = Step { fence: 2, ..back.again() };
    let late = try_install(bench, &step, &second, Some(&first), Occupancy::Keep).await;
    assert_eq!(late, Ok(Installed::Superseded { by: Fence::new(3) }));
    retire_others(bench, &back, &first).await;
    assert_eq!(probe(bench, &second).await, Probe::Refused);
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
}

pub(crate) async fn usage_lists_the_open_sessions(bench: &impl DualBench) {
    let (first, second) = (new(bench), new(bench));
    install(bench, &Step::new(1), &first, None).await;
    // A probe's own session is not somebody's use.
    for _ in 0..5 {
        assert_eq!(probe(bench, &first).await, Probe::Accepted);
        assert_eq!(bench.target().usage(&bench.user()).await.expect("usage").sessions, []);
    }
    install(bench, &Step::new(2), &second, Some(&first)).await;
    let _one = bench.open(&first).await;
    let _two = bench.open(&second).await;
    let usage = bench.target().usage(&bench.user()).await.expect("usage");
    assert_eq!(usage.sessions.len(), 2);
    assert!(usage.sessions[0].since <= usage.sessions[1].since);
}

pub(crate) async fn a_preflight_changes_nothing(bench: &impl DualBench) {
    let first = new(bench);
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
    assert_eq!(probe(bench, &first).await, Probe::Accepted);
    let foreign = policy("billing/db");
    let request = PreflightRequest { policy: &foreign, current: None };
    let findings = bench.target().preflight(request).await;
    let failed = findings.iter().find(|finding| finding.verdict == Verdict::Fail);
    assert!(failed.is_some_and(|finding| finding.detail.contains("policy")), "{findings:?}");
}

/// One attempt of one rotation.
struct Step {
    policy: PolicyName,
    rotation: RotationId,
    fence: u64,
}

impl Step {
    fn new(fence: u64) -> Self {
        Self { policy: policy("contract/dual"), rotation: RotationId::generate(), fence }
    }

    fn again(&self) -> Self {
        Self { policy: self.policy.clone(), ..*self }
    }

    fn attempt(&self) -> Attempt<'_> {
        let (version, fence) = (Version::new(self.fence), Fence::new(self.fence));
        Attempt { policy: &self.policy, rotation: self.rotation, version, fence }
    }
}

fn policy(name: &str) -> PolicyName {
    name.parse().expect("a policy name")
}

fn new(bench: &impl DualBench) -> Credential {
    Credential::new(bench.user(), ValueSpec::default().generate())
}

async fn probe(bench: &impl DualBench, credential: &Credential) -> Probe {
    bench.target().probe(credential, ProbeDepth::Check).await
}

async fn try_install(
    bench: &impl DualBench,
    step: &Step,
    candidate: &Credential,
    beside: Option<&Credential>,
    occupancy: Occupancy,
) -> Result<Installed, Failure> {
    let request = InstallRequest { attempt: step.attempt(), candidate, peer: None, beside, occupancy };
    bench.target().install(request).await
}

async fn install(bench: &impl DualBench, step: &Step, candidate: &Credential, beside: Option<&Credential>) {
    let installed = try_install(bench, step, candidate, beside, Occupancy::Refuse).await;
    assert!(matches!(installed, Ok(Installed::Done { .. })), "not installed: {installed:?}");
}

async fn try_retire(
    bench: &impl DualBench,
    step: &Step,
    extent: Extent,
    beside: Option<&Credential>,
) -> Result<Retired, Failure> {
    let user = bench.user();
    bench
        .target()
        .retire(RetireRequest { attempt: step.attempt(), principal: &user, extent, outgoing: None, beside })
        .await
}

/// Retires every value but this one; the number of sessions closed.
async fn retire_others(bench: &impl DualBench, step: &Step, beside: &Credential) -> u64 {
    match try_retire(bench, step, Extent::OtherValues, Some(beside)).await {
        Ok(Retired::Done { sessions_closed }) => sessions_closed,
        other => panic!("not retired: {other:?}"),
    }
}

async fn undo(bench: &impl DualBench, step: &Step, beside: Option<&Credential>) {
    let undone = try_retire(bench, step, Extent::Attempt, beside).await;
    assert_eq!(undone, Ok(Retired::Done { sessions_closed: 0 }));
}
