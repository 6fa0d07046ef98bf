//! A fault at every call that a rotation makes to the systems behind its adapters: the process dies after it, its
//! answer is lost, it fails. Whatever comes, the next process brings the rotation to its end, once.
//!
//! The engine runs in this process with the adapters that the daemon has; what is between them is the test's
//! ([`crate::faults`]). Waits of the engine are cut short: what they wait for is not time.
//!
//! `tests/live` walks on real servers, `tests/it` on those that a test plays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rekeyd::adapters::Wiring;
use rekeyd::clock::{Clock, SystemClock};
use rekeyd::ident::{PolicyName, Principal};
use rekeyd::policy::Policy;
use rekeyd::policy::load::Loaded;
use rekeyd::proving::calls::OnTheWay;
use rekeyd::rotation::engine::Adapters as _;
use rekeyd::rotation::plan::Strategy;
use rekeyd::secret::Credential;
use rekeyd::service::{Action, Attention, Catalog, Ending, EndingKind, Hub, Request, Service};
use rekeyd::settings::Settings;
use rekeyd::status::State;
use rekeyd::store::Place;
use rekeyd::target::{Probe, ProbeDepth};
use tokio_util::sync::CancellationToken;

use crate::faults::{Fault, Script, Wire};

/// What happens to a call. Dying before one is dying after the one before it.
pub(crate) const FAULTS: [Fault; 3] =
    [Fault::DieAfter, Fault::AnswerLost, Fault::Fail(rekeyd::failure::FailureClass::Unavailable)];

/// Deaths alone.
pub(crate) const DEATHS: [Fault; 1] = [Fault::DieAfter];

/// Calls that change nothing.
const LOOKS: [&str; 8] = [
    "store.current",
    "store.control",
    "target.keys",
    "target.probe",
    "target.usage",
    "consumer.rehearse",
    "consumer.reach",
    "consumer.observe",
];

/// The longest that the engine waits for anything.
const PATIENCE: Duration = Duration::from_millis(20);

/// One policy, on its way through everything.
pub(crate) struct Walk {
    settings: Settings,
    policy: Policy,
    plain: Arc<Wiring>,
    wire: Arc<Wire>,
    around: Box<dyn Around>,
}

/// What is of one walk alone.
#[async_trait]
pub(crate) trait Around: Send + Sync {
    /// Looks at what no adapter tells, when all is at rest.
    async fn look(&self, _in_force: &Credential) {}

    /// What people do while processes are at work, by one of their own.
    async fn help(&self, _own: &Process, _policy: &PolicyName) {
        std::future::pending().await
    }
}

/// Nobody helps, and there is nothing to look at.
impl Around for () {}

/// One process of rekeyd.
pub(crate) struct Process {
    pub(crate) service: Service,
    script: Arc<Script>,
}

/// Says where a walk was when it fails.
struct At(String);

impl Drop for At {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Time as it is, and nobody who waits long.
struct Hurried;

#[async_trait]
impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration.min(PATIENCE)).await;
    }
}

impl Walk {
    pub(crate) fn new(settings: Settings, policy: Policy) -> Self {
        let plain = Arc::new(Wiring::new(&settings));
        Self { settings, policy, plain, wire: Arc::default(), around: Box::new(()) }
    }

    pub(crate) fn among(self, around: impl Around + 'static) -> Self {
        Self { around: Box::new(around), ..self }
    }

    /// The first value of the policy.
    pub(crate) async fn begin(&self) {
        let ending = self.helped(self.process().perform(self, &Action::Rotate, "begin")).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    }

    /// Takes a value over that was made by hand.
    pub(crate) async fn adopt(&self, live: Credential) {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let process = self.process();
        let ending = process.service.adopt(self.policy.name(), live, false, "a test", events).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{ending:?}");
    }

    /// Walks faults over the calls of a rotation, and deaths over those of a containment: what is different there is
    /// the order, and that readers are not waited for. The policy has a value in force; a call is disturbed if it
    /// begins with one of these names, since what is the same for every target and store is disturbed elsewhere.
    pub(crate) async fn over(&self, faults: &[Fault], names: &[&str]) {
        self.over_all_but(faults, names, |_, _| false).await;
    }

    /// All that can happen to calls that change something, and a failure of those that look.
    pub(crate) async fn briefly_over(&self, names: &[&str]) {
        self.briefly_over_all_but(names, |_, _| false).await;
    }

    /// The same without some faults of some calls.
    pub(crate) async fn briefly_over_all_but(&self, names: &[&str], without: impl Fn(&str, Fault) -> bool) {
        let is_brief = |call: &str, fault| !LOOKS.contains(&call) || matches!(fault, Fault::Fail(_));
        self.over_all_but(&FAULTS, names, |call, fault| !is_brief(call, fault) || without(call, fault)).await;
    }

    async fn over_all_but(&self, faults: &[Fault], names: &[&str], without: impl Fn(&str, Fault) -> bool) {
        let mut disturbed = BTreeSet::new();
        for action in [Action::Rotate, Action::Contain] {
            let first = self.process();
            let ending = self.helped(first.perform(self, &action, &format!("undisturbed-{action:?}"))).await;
            assert_eq!(ending.ending, EndingKind::Rotated, "{action:?}: {ending:?}");
            let calls = first.script.calls();
            assert!(calls.len() >= 6, "{calls:?}");
            let faults = if action == Action::Rotate { faults } else { &DEATHS };
            for (index, call) in calls.iter().enumerate() {
                let Some(name) = names.iter().find(|name| call.starts_with(**name)) else { continue };
                disturbed.insert(*name);
                for fault in faults.iter().filter(|fault| !without(call, **fault)) {
                    let _at = At(format!(
                        "{}: {action:?}: {fault:?} at call {index}, {call} of {calls:?}",
                        self.policy.name()
                    ));
                    self.disturb(&action, index, *fault).await;
                }
            }
        }
        assert_eq!(disturbed.len(), names.len(), "calls of {disturbed:?} alone were made, of {names:?}");
        let report = self.plain.git_ledger().expect("a ledger").verify().await.expect("a report");
        assert!(report.is_clean(), "{report:?}");
    }

    /// Work, while people do their part.
    async fn helped<T>(&self, work: impl Future<Output = T>) -> T {
        let own = self.process();
        tokio::select! {
            biased;
            done = work => done,
            () = self.around.help(&own, self.policy.name()) => panic!("people go home"),
        }
    }

    fn process(&self) -> Process {
        let script = Script::new(Arc::clone(&self.wire));
        let adapters = OnTheWay { inner: Arc::clone(&self.plain) as _, way: Arc::clone(&script) };
        let service = Service::new(
            &self.settings,
            Catalog::new(Loaded { policies: vec![self.policy.clone()], ..Loaded::default() }),
            Arc::new(adapters),
            Arc::new(Hurried),
            Arc::new(Hub::new(Vec::new())),
            CancellationToken::new(),
        );
        Process { service, script }
    }

    async fn disturb(&self, action: &Action, index: usize, fault: Fault) {
        let (before, version) = (self.in_force().await, self.version().await);
        let keys = self.keys().await;
        let request = format!("{action:?}-{index}-{fault:?}").replace([' ', '{', '}', '(', ')'], "");
        let process = self.process();
        process.script.at(index, fault);
        self.helped(async {
            tokio::select! {
                biased;
                _ = process.perform(self, action, &request) => {}
                () = process.script.died() => {}
            }
        })
        .await;
        self.settle().await;
        self.wire.deliver_all().await;
        self.settle().await;
        let ending = self.helped(self.process().perform(self, action, &request)).await;
        assert!(
            matches!(ending.ending, EndingKind::Rotated | EndingKind::Repeated),
            "asked again: {ending:?}"
        );
        self.settle().await;

        let after = self.in_force().await;
        assert_eq!(self.version().await, version + 1, "one request is one version");
        assert!(after.value != before.value, "the value is the same");
        if let Some(target) = self.plain.target(&self.policy.spec().target).expect("a target") {
            self.is(&*target, &after, &Probe::Accepted).await;
            self.is(&*target, &before, &Probe::Refused).await;
        }
        assert_eq!(self.keys().await.len(), keys.len(), "a key was made in vain and left");
        self.around.look(&after).await;
    }

    /// What a target says of a credential; one that is settling may say something else for a moment.
    async fn is(&self, target: &dyn rekeyd::target::Target, credential: &Credential, wanted: &Probe) {
        let mut said = None;
        for _ in 0..200 {
            let probe = target.probe(credential, ProbeDepth::Check).await;
            if probe == *wanted {
                return;
            }
            said = Some(probe);
            Hurried.sleep(PATIENCE).await;
        }
        panic!("{} is {said:?}, not {wanted:?}", credential.principal);
    }

    /// What a daemon that starts now comes to.
    async fn settle(&self) {
        for _ in 0..200 {
            let process = self.process();
            let looking = CancellationToken::new().drop_guard();
            match self.helped(process.service.attend(self.policy.name(), looking)).await {
                Attention::Later(_) => Hurried.sleep(PATIENCE).await,
                Attention::At(at) if at <= SystemClock.now() => {}
                Attention::At(_) | Attention::Idle => {
                    let status = process.service.status(Some(self.policy.name())).await.expect("a status");
                    if status[0].state == State::Ready {
                        return;
                    }
                    Hurried.sleep(PATIENCE).await;
                }
            }
        }
        panic!("it does not come to rest");
    }

    async fn in_force(&self) -> Credential {
        let spec = &self.policy.spec().store;
        let store = self.plain.store(&spec.name).expect("a store");
        store.current(Place::from(spec)).await.expect("the store is read").expect("a value").credential
    }

    async fn version(&self) -> u64 {
        let status = self.process().service.status(Some(self.policy.name())).await.expect("a status");
        status[0].version.number()
    }

    /// The keys that there are, where the target makes them and tells.
    async fn keys(&self) -> Vec<Principal> {
        let spec = &self.policy.spec().target;
        if !Strategy::of(spec).mints() {
            return Vec::new();
        }
        let target = self.plain.target(spec).expect("a target").expect("one that makes keys");
        let keys = target.keys(self.policy.principals()[0]).await.expect("keys");
        keys.into_iter().map(|key| key.id).collect()
    }
}

impl Process {
    async fn perform(&self, walk: &Walk, action: &Action, request: &str) -> Ending {
        let request = Request {
            policy: walk.policy.name().clone(),
            action: *action,
            request: Some(request.parse().expect("a request id")),
            reason: None,
            patience_seconds: 30,
        };
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        self.service.perform(&request, "a test", events).await
    }
}
