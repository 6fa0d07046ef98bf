//! What every target promises that makes keys itself.
//!
//! [`keys_contract!`] makes one test of each promise; `$bench` is an expression that makes a [`KeysBench`] whose owner
//! has no key.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::{
    Attempt, Extent, Key, LastUse, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest,
    Retired, Tag, Target,
};

/// How long a target may take to settle, beyond what it says itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// A target that makes keys, and the means to do what others do there.
#[async_trait]
pub(crate) trait KeysBench: Sync {
    type Target: Target;

    fn target(&self) -> &Self::Target;

    fn owner(&self) -> Principal;

    fn ways(&self) -> Ways;

    /// Somebody makes a key by hand.
    async fn by_hand(&self) -> Credential;

    /// A key is made, and the answer does not arrive.
    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure;

    /// One look later, where a target takes its time.
    async fn wait(&self) {
        tokio::task::yield_now().await;
    }
}

/// How targets differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    /// How many keys an owner may have.
    pub(crate) quota: Option<usize>,
    /// Keys carry the rotation that they were made for.
    pub(crate) tags: bool,
    /// A key can be disabled.
    pub(crate) disables: bool,
    /// A disabled key is refused there. A server of tests may not do what the real one does.
    pub(crate) refuses_disabled: bool,
}

macro_rules! keys_contract {
    ($bench:expr) => {
        keys_contract! { $bench;
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
    };
    ($bench:expr; $($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            crate::keys_contract::$promise(&$bench).await;
        }
    )+};
}
pub(crate) use keys_contract;

pub(crate) async fn a_key_is_accepted_and_listed(bench: &impl KeysBench) {
    assert_eq!(list(bench).await, []);
    let step = Step::new(1);
    let key = mint(bench, &step, None).await;
    let listed = list(bench).await;
    assert_eq!(ids(&listed), [&key.principal]);
    assert_tag(bench, &listed[0], &step);
    accepted(bench, &key).await;
}

pub(crate) async fn both_keys_work_until_one_is_retired(bench: &impl KeysBench) {
    let first = mint(bench, &Step::new(1), None).await;
    let step = Step::new(2);
    let second = mint(bench, &step, Some(&first)).await;
    assert_ne!(first.principal, second.principal);
    assert_ne!(first.value, second.value);
    for key in [&first, &second] {
        accepted(bench, key).await;
    }
    retire(bench, &step, &first, Extent::Principal, Some(&second)).await.expect("retired");
    refused(bench, &first).await;
    // Whoever proves it dead asks who uses it.
    let usage = bench.target().usage(&first.principal).await.expect("usage of what is gone");
    assert_eq!(usage.sessions, []);
    accepted(bench, &second).await;
    assert_eq!(ids(&list(bench).await), [&second.principal]);
}

pub(crate) async fn retiring_again_or_what_is_not_there_is_right(bench: &impl KeysBench) {
    let step = Step::new(1);
    let (first, second) = (mint(bench, &step, None).await, mint(bench, &step, None).await);
    for _ in 0..2 {
        let retired = retire(bench, &step, &first, Extent::Principal, Some(&second)).await;
        assert!(matches!(retired, Ok(Retired::Done { .. })), "{retired:?}");
    }
    refused(bench, &first).await;
    accepted(bench, &second).await;
}

pub(crate) async fn only_the_very_value_is_accepted(bench: &impl KeysBench) {
    let key = mint(bench, &Step::new(1), None).await;
    accepted(bench, &key).await;
    let other = Credential::new(key.principal.clone(), ValueSpec::default().generate());
    assert_eq!(bench.target().probe(&other, ProbeDepth::Login).await, Probe::Refused);
}

pub(crate) async fn a_key_whose_answer_was_lost_is_found(bench: &impl KeysBench) {
    let first = mint(bench, &Step::new(1), None).await;
    let step = Step::new(2);
    let failure = bench.lose_the_answer(request(&step, &bench.owner(), Some(&first))).await;
    assert_eq!(failure.class(), FailureClass::Ambiguous, "{failure}");
    let listed = list(bench).await;
    let orphans: Vec<&Key> = listed.iter().filter(|key| key.id != first.principal).collect();
    let [orphan] = orphans[..] else { panic!("{listed:?}") };
    assert_tag(bench, orphan, &step);
    // What nobody has the value of is deleted by its id alone.
    let bare = RetireRequest {
        attempt: step.attempt(),
        principal: &orphan.id,
        extent: Extent::Principal,
        outgoing: None,
        beside: Some(&first),
    };
    bench.target().retire(bare).await.expect("deleted");
    assert_eq!(ids(&list(bench).await), [&first.principal]);
    accepted(bench, &first).await;
}

pub(crate) async fn a_disabled_key_can_still_be_deleted(bench: &impl KeysBench) {
    let step = Step::new(1);
    let (first, second) = (mint(bench, &step, None).await, mint(bench, &step, None).await);
    for _ in 0..2 {
        retire(bench, &step, &first, Extent::Disabled, Some(&second)).await.expect("disabled");
    }
    match bench.ways() {
        Ways { disables: true, refuses_disabled: true, .. } => refused(bench, &first).await,
        Ways { disables: true, .. } => {}
        Ways { disables: false, .. } => accepted(bench, &first).await,
    }
    accepted(bench, &second).await;
    assert_eq!(list(bench).await.len(), 2, "a disabled key is there");
    retire(bench, &step, &first, Extent::Principal, Some(&second)).await.expect("deleted");
    refused(bench, &first).await;
    accepted(bench, &second).await;
    // A late repetition of a disabling finds nothing.
    retire(bench, &step, &first, Extent::Disabled, Some(&second)).await.expect("nothing to disable");
    assert_eq!(ids(&list(bench).await), [&second.principal]);
}

pub(crate) async fn a_full_owner_keeps_its_keys(bench: &impl KeysBench) {
    let Some(quota) = bench.ways().quota else {
        // There is always room for another.
        for number in 1..=3 {
            mint(bench, &Step::new(number), None).await;
        }
        return assert_eq!(list(bench).await.len(), 3);
    };
    let mut keys = Vec::new();
    for number in 1..=quota {
        keys.push(mint(bench, &Step::new(number as u64), None).await);
    }
    let step = Step::new(9);
    let failure = bench.target().mint(request(&step, &bench.owner(), Some(&keys[0]))).await;
    let failure = failure.expect_err("there is no room");
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    for key in &keys {
        assert!(failure.to_string().contains(key.principal.as_str()), "{failure}");
        assert!(!key.value.occurs_in(&failure.to_string()));
        accepted(bench, key).await;
    }
    assert_eq!(list(bench).await.len(), quota);
}

pub(crate) async fn a_key_of_somebody_elses_is_none_of_rekeyds(bench: &impl KeysBench) {
    let foreign = bench.by_hand().await;
    let listed = list(bench).await;
    assert!(listed.iter().all(|key| key.tag.is_none()), "{listed:?}");
    let step = Step::new(1);
    let key = mint(bench, &step, None).await;
    retire(bench, &step, &key, Extent::Principal, None).await.expect("retired");
    refused(bench, &key).await;
    accepted(bench, &foreign).await;
}

pub(crate) async fn a_key_goes_as_a_whole(bench: &impl KeysBench) {
    let step = Step::new(1);
    let (first, second) = (mint(bench, &step, None).await, mint(bench, &step, None).await);
    for extent in [Extent::OtherValues, Extent::Attempt] {
        let failure = retire(bench, &step, &first, extent, Some(&second)).await.expect_err("it is one value");
        assert_eq!(failure.class(), FailureClass::Invalid, "{failure}");
    }
    for key in [&first, &second] {
        accepted(bench, key).await;
    }
}

pub(crate) async fn nobody_uses_a_new_key(bench: &impl KeysBench) {
    let key = mint(bench, &Step::new(1), None).await;
    let usage = bench.target().usage(&key.principal).await.expect("usage");
    assert_eq!(usage.sessions, []);
    assert!(!matches!(usage.last, LastUse::At(_)), "{usage:?}");
}

pub(crate) async fn a_preflight_changes_nothing(bench: &impl KeysBench) {
    let key = mint(bench, &Step::new(1), None).await;
    accepted(bench, &key).await;
    let before = list(bench).await;
    let policy = Step::new(2).policy;
    let request = PreflightRequest { policy: &policy, current: Some(&key) };
    let findings = bench.target().preflight(request).await;
    let failed: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    assert!(failed.is_empty() && !findings.is_empty(), "{findings:?}");
    let after = list(bench).await;
    assert_eq!(ids(&after), ids(&before));
    accepted(bench, &key).await;
    // Of one that is dead it tells.
    let step = Step::new(2);
    retire(bench, &step, &key, Extent::Principal, None).await.expect("retired");
    refused(bench, &key).await;
    let findings = bench.target().preflight(request).await;
    let of_current = findings.iter().find(|finding| finding.subject == "current credential");
    assert_eq!(of_current.expect("a finding").verdict, Verdict::Fail, "{findings:?}");
}

/// One attempt of a rotation.
pub(crate) struct Step {
    pub(crate) policy: PolicyName,
    pub(crate) rotation: RotationId,
    pub(crate) fence: u64,
}

impl Step {
    pub(crate) fn new(fence: u64) -> Self {
        let policy = "contract/keys".parse().expect("a policy name");
        Self { policy, rotation: RotationId::generate(), fence }
    }

    pub(crate) fn attempt(&self) -> Attempt<'_> {
        let (version, fence) = (Version::new(self.fence), Fence::new(self.fence));
        Attempt { policy: &self.policy, rotation: self.rotation, version, fence }
    }
}

pub(crate) fn request<'a>(
    step: &'a Step,
    owner: &'a Principal,
    outgoing: Option<&'a Credential>,
) -> MintRequest<'a> {
    MintRequest { attempt: step.attempt(), owner, outgoing, repeated: false, contains: false, life: None }
}

pub(crate) async fn mint(bench: &impl KeysBench, step: &Step, outgoing: Option<&Credential>) -> Credential {
    let owner = bench.owner();
    match bench.target().mint(request(step, &owner, outgoing)).await {
        Ok(Minted::Made(key)) => key,
        other => panic!("no key was made: {other:?}"),
    }
}

pub(crate) async fn retire(
    bench: &impl KeysBench,
    step: &Step,
    key: &Credential,
    extent: Extent,
    beside: Option<&Credential>,
) -> Result<Retired, Failure> {
    let (attempt, principal) = (step.attempt(), &key.principal);
    bench.target().retire(RetireRequest { attempt, principal, extent, outgoing: Some(key), beside }).await
}

/// The keys that there are, in the order of their ids.
pub(crate) async fn list(bench: &impl KeysBench) -> Vec<Key> {
    let mut keys = bench.target().keys(&bench.owner()).await.expect("the keys");
    keys.sort_by(|one, other| one.id.cmp(&other.id));
    keys
}

fn ids(keys: &[Key]) -> Vec<&Principal> {
    let ids: BTreeSet<_> = keys.iter().map(|key| &key.id).collect();
    assert_eq!(ids.len(), keys.len(), "a key is listed twice");
    ids.into_iter().collect()
}

fn assert_tag(bench: &impl KeysBench, key: &Key, step: &Step) {
    if bench.ways().tags {
        // Short names have no place for the policy.
        let Tag { policy, rotation } = key.tag.as_ref().expect("a tag");
        assert!(policy.as_ref().is_none_or(|policy| *policy == step.policy), "{key:?}");
        assert_eq!(*rotation, step.rotation);
    } else {
        assert!(key.made_at.is_some(), "when it was made is not known");
        assert_eq!((&key.tag, key.used), (&None, Some(false)), "nothing tells what was made in vain");
    }
}

pub(crate) async fn accepted(bench: &impl KeysBench, key: &Credential) {
    becomes(bench, key, &Probe::Accepted).await;
}

pub(crate) async fn refused(bench: &impl KeysBench, key: &Credential) {
    becomes(bench, key, &Probe::Refused).await;
}

/// Looks again for as long as the target may take to know.
async fn becomes(bench: &impl KeysBench, key: &Credential, expected: &Probe) {
    let began = std::time::Instant::now();
    let patience = match bench.target().settling() {
        Duration::ZERO => Duration::ZERO,
        settling => settling + PATIENCE,
    };
    loop {
        let probe = bench.target().probe(key, ProbeDepth::Check).await;
        if probe == *expected {
            return;
        }
        assert!(
            matches!(probe, Probe::Accepted | Probe::Refused) && began.elapsed() < patience,
            "{} after {:?}: {probe:?}",
            key.principal,
            began.elapsed()
        );
        bench.wait().await;
    }
}
