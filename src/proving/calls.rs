//! Every call that rekeyd makes to the systems around it, in one place: what a new trait can be asked is added
//! here, and every proof of faults walks over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::consumer::{Consumer, Expected, Observed, PublishRequest, Published, Reach};
use crate::failure::{Failure, Finding};
use crate::ident::{DnsLabel, Fence, PolicyName, Principal, RotationId, StorePath, Version};
use crate::ledger::{Ledger, Record};
use crate::policy::Policy;
use crate::policy::spec::{ConsumerSpec, Extra, FieldNames, Interval, TargetSpec};
use crate::rotation::engine::Adapters;
use crate::secret::{Authority, Credential, SecretValue};
use crate::store::{Control, Current, Place, Promotion, Revision, Store};
use crate::target::{
    Attempt, Extent, InstallRequest, Installed, Key, MintRequest, Minted, Occupancy, PreflightRequest, Probe,
    ProbeDepth, RetireRequest, Retired, Target, Usage,
};
use async_trait::async_trait;

/// The way of a process's calls to the systems around it, and what may happen on it.
pub trait Way: Send + Sync + 'static {
    /// One call. Its effect is complete in itself, so that it can outlive the process, and may happen again.
    fn call<T: Send + 'static, E: Future<Output = Result<T, Failure>> + Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        effect: impl Fn() -> E + Send + Sync + 'static,
    ) -> impl Future<Output = Result<T, Failure>> + Send;

    /// Whether targets and consumers can be built.
    fn check_adapters(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether a store can be opened.
    fn check_store(&self, _: &DnsLabel) -> Result<(), Failure> {
        Ok(())
    }
}

/// Adapters whose every call goes a way.
pub struct OnTheWay<W> {
    pub inner: Arc<dyn Adapters>,
    pub way: Arc<W>,
}

struct Behind<T: ?Sized, W> {
    inner: Arc<T>,
    way: Arc<W>,
}

impl<W: Way> OnTheWay<W> {
    fn behind<T: ?Sized>(&self, inner: Arc<T>) -> Behind<T, W> {
        Behind { inner, way: Arc::clone(&self.way) }
    }
}

impl<W: Way> Adapters for OnTheWay<W> {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.inner.store_names()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        self.way.check_store(name)?;
        Ok(Arc::new(self.behind(self.inner.store(name)?)))
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        self.way.check_adapters()?;
        let target = self.inner.target(spec)?;
        Ok(target.map(|target| Arc::new(self.behind(target)) as Arc<dyn Target>))
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        self.way.check_adapters()?;
        Ok(Arc::new(self.behind(self.inner.consumer(spec)?)))
    }

    fn authority(&self, name: &DnsLabel) -> Result<Arc<Authority>, Failure> {
        self.inner.authority(name)
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        Ok(Arc::new(self.behind(self.inner.ledger()?)))
    }

    fn expect(&self, policy: &Policy) -> Option<Expected> {
        self.inner.expect(policy)
    }
}

/// Sends a method of the system behind the way, with what it is given as one value of its own.
macro_rules! send {
    ($self:ident, $name:literal, $owned:expr, |$inner:ident, $given:ident| $effect:expr) => {{
        let (inner, given) = (Arc::clone(&$self.inner), Arc::new($owned));
        $self
            .way
            .call($name, move || {
                let ($inner, $given) = (Arc::clone(&inner), Arc::clone(&given));
                async move { $effect }
            })
            .await
    }};
}

#[async_trait]
impl<W: Way> Store for Behind<dyn Store, W> {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        send!(self, "store.current", OwnedPlace::of(place), |inner, place| {
            inner.current(place.borrow()).await
        })
    }

    async fn rehearse(&self, place: Place<'_>) -> Result<(), Failure> {
        // It changes nothing, and a rotation opens whether it is answered or not.
        self.inner.rehearse(place).await
    }

    async fn promote(&self, place: Place<'_>, promotion: Promotion<'_>) -> Result<Revision, Failure> {
        let given = (OwnedPlace::of(place), OwnedPromotion::of(promotion));
        send!(self, "store.promote", given, |inner, given| {
            inner.promote(given.0.borrow(), given.1.borrow()).await
        })
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        send!(self, "store.control", policy.clone(), |inner, policy| inner.control(&policy).await)
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let given = (policy.clone(), document.duplicate(), expected.cloned());
        send!(self, "store.save", given, |inner, given| {
            inner.save(&given.0, &given.1, given.2.as_ref()).await
        })
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        send!(self, "store.policies", (), |inner, _given| inner.policies().await)
    }

    async fn preflight(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        self.inner.preflight(place, policy).await
    }
}

#[async_trait]
impl<W: Way> Target for Behind<dyn Target, W> {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        send!(self, "target.install", OwnedInstall::of(request), |inner, request| {
            inner.install(request.borrow()).await
        })
    }

    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        send!(self, "target.keys", owner.clone(), |inner, owner| inner.keys(&owner).await)
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        send!(self, "target.mint", OwnedMint::of(request), |inner, request| {
            inner.mint(request.borrow()).await
        })
    }

    fn is_by_hand(&self) -> bool {
        self.inner.is_by_hand()
    }

    fn settling(&self) -> Duration {
        self.inner.settling()
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        let probed = send!(self, "target.probe", credential.duplicate(), |inner, credential| {
            Ok(inner.probe(&credential, depth).await)
        });
        probed.unwrap_or_else(Probe::Unknown)
    }

    async fn akin(&self, made: &Credential, in_force: &Credential) -> Result<(), Failure> {
        self.inner.akin(made, in_force).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        send!(self, "target.usage", principal.clone(), |inner, principal| inner.usage(&principal).await)
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        send!(self, "target.retire", OwnedRetire::of(request), |inner, request| {
            inner.retire(request.borrow()).await
        })
    }

    fn lapse(&self) -> Option<Interval> {
        self.inner.lapse()
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        self.inner.preflight(request).await
    }

    async fn preflight_life(&self, needed: Option<Duration>) -> Vec<Finding> {
        self.inner.preflight_life(needed).await
    }
}

#[async_trait]
impl<W: Way> Consumer for Behind<dyn Consumer, W> {
    fn label(&self) -> String {
        self.inner.label()
    }

    fn knows_addresses(&self) -> bool {
        self.inner.knows_addresses()
    }

    async fn at_addresses(&self, addresses: &BTreeSet<String>) -> BTreeMap<String, String> {
        self.inner.at_addresses(addresses).await
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        send!(self, "consumer.rehearse", OwnedPublication::of(request), |inner, request| {
            inner.rehearse(request.borrow()).await
        })
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        send!(self, "consumer.publish", OwnedPublication::of(request), |inner, request| {
            inner.publish(request.borrow()).await
        })
    }

    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        send!(self, "consumer.reload", OwnedPublication::of(request), |inner, request| {
            inner.reload(request.borrow()).await
        })
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        send!(self, "consumer.reach", OwnedPublication::of(request), |inner, request| {
            inner.reach(request.borrow()).await
        })
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        send!(self, "consumer.observe", policy.clone(), |inner, policy| inner.observe(&policy).await)
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        self.inner.preflight(policy).await
    }
}

#[async_trait]
impl<W: Way> Ledger for Behind<dyn Ledger, W> {
    async fn append(
        &self,
        record: &Record,
        after: Option<&Record>,
        forbidden: &[&SecretValue],
    ) -> Result<Record, Failure> {
        let forbidden: Vec<SecretValue> = forbidden.iter().map(|value| value.duplicate()).collect();
        send!(self, "ledger.append", (record.clone(), after.cloned(), forbidden), |inner, given| {
            let forbidden: Vec<&SecretValue> = given.2.iter().collect();
            inner.append(&given.0, given.1.as_ref(), &forbidden).await
        })
    }

    async fn holds(&self, record: &Record) -> Result<bool, Failure> {
        send!(self, "ledger.holds", record.clone(), |inner, record| inner.holds(&record).await)
    }
}

struct OwnedPlace {
    path: StorePath,
    fields: FieldNames,
}

impl OwnedPlace {
    fn of(place: Place<'_>) -> Self {
        Self { path: place.path.clone(), fields: place.fields.clone() }
    }

    fn borrow(&self) -> Place<'_> {
        Place { path: &self.path, fields: &self.fields }
    }
}

struct OwnedPromotion {
    credential: Credential,
    expected: Option<Revision>,
    rotation: RotationId,
    version: Version,
    extra: Extra,
}

impl OwnedPromotion {
    fn of(promotion: Promotion<'_>) -> Self {
        let Promotion { credential, expected, rotation, version, extra } = promotion;
        let (credential, expected) = (credential.duplicate(), expected.cloned());
        Self { credential, expected, rotation, version, extra: extra.clone() }
    }

    fn borrow(&self) -> Promotion<'_> {
        Promotion {
            credential: &self.credential,
            expected: self.expected.as_ref(),
            rotation: self.rotation,
            version: self.version,
            extra: &self.extra,
        }
    }
}

struct OwnedAttempt {
    policy: PolicyName,
    rotation: RotationId,
    version: Version,
    fence: Fence,
}

impl OwnedAttempt {
    fn of(attempt: Attempt<'_>) -> Self {
        let Attempt { policy, rotation, version, fence } = attempt;
        Self { policy: policy.clone(), rotation, version, fence }
    }

    fn borrow(&self) -> Attempt<'_> {
        let Self { policy, rotation, version, fence } = self;
        Attempt { policy, rotation: *rotation, version: *version, fence: *fence }
    }
}

struct OwnedPublication {
    policy: PolicyName,
    version: Version,
    credential: Credential,
    restores: Option<Version>,
    is_urgent: bool,
}

impl OwnedPublication {
    fn of(request: PublishRequest<'_>) -> Self {
        let PublishRequest { policy, version, credential, restores, is_urgent } = request;
        Self { policy: policy.clone(), version, credential: credential.duplicate(), restores, is_urgent }
    }

    fn borrow(&self) -> PublishRequest<'_> {
        let Self { policy, version, credential, restores, is_urgent } = self;
        PublishRequest { policy, version: *version, credential, restores: *restores, is_urgent: *is_urgent }
    }
}

struct OwnedInstall {
    attempt: OwnedAttempt,
    candidate: Credential,
    peer: Option<Principal>,
    beside: Option<Credential>,
    occupancy: Occupancy,
}

impl OwnedInstall {
    fn of(request: InstallRequest<'_>) -> Self {
        let InstallRequest { attempt, candidate, peer, beside, occupancy } = request;
        let (attempt, candidate) = (OwnedAttempt::of(attempt), candidate.duplicate());
        let beside = beside.map(Credential::duplicate);
        Self { attempt, candidate, peer: peer.cloned(), beside, occupancy }
    }

    fn borrow(&self) -> InstallRequest<'_> {
        let Self { attempt, candidate, peer, beside, occupancy } = self;
        let (attempt, occupancy) = (attempt.borrow(), *occupancy);
        InstallRequest { attempt, candidate, peer: peer.as_ref(), beside: beside.as_ref(), occupancy }
    }
}

struct OwnedMint {
    attempt: OwnedAttempt,
    owner: Principal,
    outgoing: Option<Credential>,
    repeated: bool,
    contains: bool,
    life: Option<Duration>,
}

impl OwnedMint {
    fn of(request: MintRequest<'_>) -> Self {
        let MintRequest { attempt, owner, outgoing, repeated, contains, life } = request;
        let (attempt, outgoing) = (OwnedAttempt::of(attempt), outgoing.map(Credential::duplicate));
        Self { attempt, owner: owner.clone(), outgoing, repeated, contains, life }
    }

    fn borrow(&self) -> MintRequest<'_> {
        let Self { attempt, owner, outgoing, repeated, contains, life } = self;
        let (attempt, outgoing) = (attempt.borrow(), outgoing.as_ref());
        MintRequest { attempt, owner, outgoing, repeated: *repeated, contains: *contains, life: *life }
    }
}

struct OwnedRetire {
    attempt: OwnedAttempt,
    principal: Principal,
    extent: Extent,
    outgoing: Option<Credential>,
    beside: Option<Credential>,
}

impl OwnedRetire {
    fn of(request: RetireRequest<'_>) -> Self {
        let RetireRequest { attempt, principal, extent, outgoing, beside } = request;
        let [outgoing, beside] = [outgoing, beside].map(|one| one.map(Credential::duplicate));
        Self { attempt: OwnedAttempt::of(attempt), principal: principal.clone(), extent, outgoing, beside }
    }

    fn borrow(&self) -> RetireRequest<'_> {
        let Self { attempt, principal, extent, outgoing, beside } = self;
        let (attempt, extent) = (attempt.borrow(), *extent);
        RetireRequest { attempt, principal, extent, outgoing: outgoing.as_ref(), beside: beside.as_ref() }
    }
}
