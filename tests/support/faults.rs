//! What can happen to a call between rekeyd and the systems around it. Every adapter is wrapped in the
//! same way, so whoever adds one adds its calls here and every crash test walks over them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use rekeyd::consumer::{Consumer, Observed, PublishRequest};
use rekeyd::failure::{Failure, FailureClass, Finding};
use rekeyd::ident::{DnsLabel, Fence, PolicyName, Principal, RotationId, StorePath, Version};
use rekeyd::ledger::{Ledger, Record};
use rekeyd::policy::spec::{ConsumerSpec, FieldNames, TargetSpec};
use rekeyd::rotation::engine::Adapters;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::{Control, Current, Place, Revision, Store};
use rekeyd::target::{
    Attempt, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target,
    Usage,
};
use tokio::sync::Notify;

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies before the call goes out.
    DieBefore,
    /// The process dies when the call has taken effect and before it hears so.
    DieAfter,
    /// The call fails so and had no effect.
    Fail(FailureClass),
    /// The call took effect and its answer is lost.
    AnswerLost,
    /// The answer is lost, and the call takes effect after so many further calls.
    Late(usize),
    /// The process stands still before the call goes out, until it is let go.
    Pause,
}

/// Looks at the world between two calls.
#[async_trait]
pub(crate) trait Witness: Send + Sync {
    async fn look(&self, after: &str);
}

/// The way to the systems around: shared by every process of a test.
#[derive(Default)]
pub(crate) struct Wire {
    late: Mutex<Vec<(usize, BoxFuture<'static, ()>)>>,
    witness: Mutex<Option<Arc<dyn Witness>>>,
    /// Effects that began, and that ended.
    began: AtomicU64,
    ended: AtomicU64,
}

/// What happens to the calls of one process.
pub(crate) struct Script {
    wire: Arc<Wire>,
    state: Mutex<State>,
    died: Notify,
    paused: Notify,
    let_go: Notify,
    /// Whether adapters can be built.
    broken: AtomicBool,
}

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    faults: BTreeMap<usize, Fault>,
    rules: Vec<(&'static str, Fault, usize)>,
    broken_store: Option<DnsLabel>,
}

impl Wire {
    pub(crate) fn set_witness(&self, witness: Arc<dyn Witness>) {
        *self.witness.lock().expect("no panic") = Some(witness);
    }

    pub(crate) fn forget_witness(&self) {
        *self.witness.lock().expect("no panic") = None;
    }

    /// A number that stays the same while nothing happens; `None` while something does.
    pub(crate) fn quiet(&self) -> Option<u64> {
        let (began, ended) = (self.began.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst));
        (began == ended).then_some(began)
    }

    async fn happen<T>(&self, effect: impl Future<Output = T>) -> T {
        struct Happening<'a>(&'a Wire);
        impl Drop for Happening<'_> {
            fn drop(&mut self) {
                self.0.ended.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.began.fetch_add(1, Ordering::SeqCst);
        let _happening = Happening(self);
        effect.await
    }

    fn delay(&self, calls: usize, effect: BoxFuture<'static, ()>) {
        self.late.lock().expect("no panic").push((calls, effect));
    }

    /// What is on its way arrives when its time has come.
    async fn deliver(&self) {
        let due: Vec<_> = {
            let mut late = self.late.lock().expect("no panic");
            late.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(1));
            late.extract_if(.., |(left, _)| *left == 0).collect()
        };
        for (_, effect) in due {
            self.happen(effect).await;
        }
    }

    /// All that is still on its way arrives.
    pub(crate) async fn deliver_all(&self) {
        let all = std::mem::take(&mut *self.late.lock().expect("no panic"));
        for (_, effect) in all {
            self.happen(effect).await;
        }
    }
}

impl Script {
    pub(crate) fn new(wire: Arc<Wire>) -> Arc<Self> {
        Arc::new(Self {
            wire,
            state: Mutex::default(),
            died: Notify::new(),
            paused: Notify::new(),
            let_go: Notify::new(),
            broken: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Something happens to the call of this number, counted from 0.
    pub(crate) fn at(&self, call: usize, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// Something happens to the next calls of this name.
    pub(crate) fn next(&self, call: &'static str, times: usize, fault: Fault) {
        self.state().rules.push((call, fault, times));
    }

    /// The names of the calls that went out so far.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// Returns when the process died.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Returns when the process stands still.
    pub(crate) async fn paused(&self) {
        self.paused.notified().await;
    }

    pub(crate) fn let_go(&self) {
        self.let_go.notify_one();
    }

    /// From now on no target and no consumer can be built, or they can again.
    pub(crate) fn break_adapters(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    /// From now on this store cannot be opened.
    pub(crate) fn break_store(&self, name: DnsLabel) {
        self.state().broken_store = Some(name);
    }

    fn check_adapters(&self) -> Result<(), Failure> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureClass::Invalid, "build the adapter", "its settings are gone"));
        }
        Ok(())
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }

    fn fault(&self, name: &'static str) -> Option<Fault> {
        let mut state = self.state();
        let index = state.calls.len();
        state.calls.push(name);
        if let Some(fault) = state.faults.remove(&index) {
            return Some(fault);
        }
        let rule = state.rules.iter_mut().find(|(call, _, times)| *call == name && *times > 0)?;
        rule.2 -= 1;
        Some(rule.1)
    }

    /// One call: the effect is complete in itself, so that it can outlive the process.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        effect: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.wire.deliver().await;
        let fault = self.fault(name);
        let wire = &self.wire;
        let failed = |class| Err(Failure::new(class, format!("reach {name}"), "a fault of the test's"));
        let answer = match fault {
            None => wire.happen(effect).await,
            Some(Fault::Pause) => {
                self.paused.notify_one();
                self.let_go.notified().await;
                wire.happen(effect).await
            }
            Some(Fault::DieBefore) => self.die().await,
            Some(Fault::DieAfter) => {
                let _ = wire.happen(effect).await;
                self.look(name).await;
                self.die().await
            }
            Some(Fault::Fail(class)) => failed(class),
            Some(Fault::AnswerLost) => {
                let _ = wire.happen(effect).await;
                failed(FailureClass::Ambiguous)
            }
            Some(Fault::Late(calls)) => {
                let effect = async move {
                    let _ = effect.await;
                };
                self.wire.delay(calls + 1, Box::pin(effect));
                failed(FailureClass::Ambiguous)
            }
        };
        self.look(name).await;
        answer
    }

    async fn look(&self, after: &str) {
        let witness = self.wire.witness.lock().expect("no panic").clone();
        if let Some(witness) = witness {
            witness.look(after).await;
        }
    }
}

/// Adapters whose every call goes through a script.
pub(crate) struct Scripted {
    pub(crate) inner: Arc<dyn Adapters>,
    pub(crate) script: Arc<Script>,
}

struct Behind<T: ?Sized> {
    inner: Arc<T>,
    script: Arc<Script>,
}

impl Scripted {
    fn behind<T: ?Sized>(&self, inner: Arc<T>) -> Behind<T> {
        Behind { inner, script: Arc::clone(&self.script) }
    }
}

impl Adapters for Scripted {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.inner.store_names()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        if self.script.state().broken_store.as_ref() == Some(name) {
            return Err(Failure::new(FailureClass::Unavailable, format!("use store {name}"), "it is down"));
        }
        Ok(Arc::new(self.behind(self.inner.store(name)?)))
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        self.script.check_adapters()?;
        let target = self.inner.target(spec)?;
        Ok(target.map(|target| Arc::new(self.behind(target)) as Arc<dyn Target>))
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        self.script.check_adapters()?;
        Ok(Arc::new(self.behind(self.inner.consumer(spec)?)))
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        Ok(Arc::new(self.behind(self.inner.ledger()?)))
    }
}

#[async_trait]
impl Store for Behind<dyn Store> {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        let (inner, place) = (Arc::clone(&self.inner), OwnedPlace::of(place));
        self.script.call("store.current", async move { inner.current(place.borrow()).await }).await
    }

    async fn promote(
        &self,
        place: Place<'_>,
        credential: &Credential,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let (inner, place) = (Arc::clone(&self.inner), OwnedPlace::of(place));
        let (credential, expected) = (credential.duplicate(), expected.cloned());
        self.script
            .call("store.promote", async move {
                inner.promote(place.borrow(), &credential, expected.as_ref()).await
            })
            .await
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        let (inner, policy) = (Arc::clone(&self.inner), policy.clone());
        self.script.call("store.control", async move { inner.control(&policy).await }).await
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let (inner, policy) = (Arc::clone(&self.inner), policy.clone());
        let (document, expected) = (document.duplicate(), expected.cloned());
        self.script
            .call("store.save", async move { inner.save(&policy, &document, expected.as_ref()).await })
            .await
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        let inner = Arc::clone(&self.inner);
        self.script.call("store.policies", async move { inner.policies().await }).await
    }

    async fn preflight(&self, place: Place<'_>, policy: &PolicyName) -> Vec<Finding> {
        self.inner.preflight(place, policy).await
    }
}

#[async_trait]
impl Target for Behind<dyn Target> {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let (inner, attempt) = (Arc::clone(&self.inner), OwnedAttempt::of(request.attempt));
        let (candidate, peer) = (request.candidate.duplicate(), request.peer.cloned());
        let occupancy = request.occupancy;
        self.script
            .call("target.install", async move {
                let attempt = attempt.borrow();
                let request =
                    InstallRequest { attempt, candidate: &candidate, peer: peer.as_ref(), occupancy };
                inner.install(request).await
            })
            .await
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        let (inner, credential) = (Arc::clone(&self.inner), credential.duplicate());
        let probe = async move { Ok(inner.probe(&credential, depth).await) };
        self.script.call("target.probe", probe).await.unwrap_or_else(Probe::Unknown)
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let (inner, principal) = (Arc::clone(&self.inner), principal.clone());
        self.script.call("target.usage", async move { inner.usage(&principal).await }).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        let (inner, attempt) = (Arc::clone(&self.inner), OwnedAttempt::of(request.attempt));
        let (principal, extent) = (request.principal.clone(), request.extent);
        self.script
            .call("target.retire", async move {
                let request = RetireRequest { attempt: attempt.borrow(), principal: &principal, extent };
                inner.retire(request).await
            })
            .await
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        self.inner.preflight(request).await
    }
}

#[async_trait]
impl Consumer for Behind<dyn Consumer> {
    fn label(&self) -> String {
        self.inner.label()
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let (inner, publication) = (Arc::clone(&self.inner), OwnedPublication::of(request));
        self.script.call("consumer.publish", async move { inner.publish(publication.borrow()).await }).await
    }

    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let (inner, publication) = (Arc::clone(&self.inner), OwnedPublication::of(request));
        self.script.call("consumer.reload", async move { inner.reload(publication.borrow()).await }).await
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        let (inner, policy) = (Arc::clone(&self.inner), policy.clone());
        self.script.call("consumer.observe", async move { inner.observe(&policy).await }).await
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        self.inner.preflight(policy).await
    }
}

#[async_trait]
impl Ledger for Behind<dyn Ledger> {
    async fn append(&self, record: &Record, forbidden: &[&SecretValue]) -> Result<(), Failure> {
        let (inner, record) = (Arc::clone(&self.inner), record.clone());
        let forbidden: Vec<SecretValue> = forbidden.iter().map(|value| value.duplicate()).collect();
        self.script
            .call("ledger.append", async move {
                let forbidden: Vec<&SecretValue> = forbidden.iter().collect();
                inner.append(&record, &forbidden).await
            })
            .await
    }

    async fn holds(&self, rotation: RotationId) -> Result<bool, Failure> {
        let inner = Arc::clone(&self.inner);
        self.script.call("ledger.holds", async move { inner.holds(rotation).await }).await
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
}

impl OwnedPublication {
    fn of(request: PublishRequest<'_>) -> Self {
        let PublishRequest { policy, version, credential } = request;
        Self { policy: policy.clone(), version, credential: credential.duplicate() }
    }

    fn borrow(&self) -> PublishRequest<'_> {
        PublishRequest { policy: &self.policy, version: self.version, credential: &self.credential }
    }
}
