//! A fault at every call that a rotation makes, on the real servers behind its adapters: the process dies after it, its
//! answer is lost, it fails. Whatever comes, the next process brings the rotation to its end, once.
//!
//! The engine runs in this process with the adapters that the daemon has; what is between them is the test's
//! ([`crate::faults`]). Waits of the engine are cut short: what they wait for is not time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rekeyd::adapters::Wiring;
use rekeyd::clock::{Clock, SystemClock};
use rekeyd::ident::Principal;
use rekeyd::policy::Policy;
use rekeyd::policy::load::{Loaded, load_policies};
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
use crate::installation::Installation;

/// What happens to a call. Dying before one is dying after the one before it.
const FAULTS: [Fault; 3] =
    [Fault::DieAfter, Fault::AnswerLost, Fault::Fail(rekeyd::failure::FailureClass::Unavailable)];

/// The longest that the engine waits for anything.
const PATIENCE: Duration = Duration::from_millis(20);

/// One policy of an installation, on its way through everything.
struct Walk {
    settings: Settings,
    policy: Policy,
    plain: Arc<Wiring>,
    wire: Arc<Wire>,
}

/// One process of rekeyd.
struct Process {
    service: Service,
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

/// Walks faults over the calls of a rotation, and over those of a containment. The policy has a value in force.
pub(crate) async fn walk(at: &Installation, policy: &str) {
    walk_over(at, policy, &FAULTS, &["store.", "target."]).await;
}

/// The same for a target whose calls take long: deaths after them.
pub(crate) async fn walk_in_short(at: &Installation, policy: &str) {
    walk_over(at, policy, &FAULTS[..1], &["target."]).await;
}

/// The same for a target that takes many seconds for each rotation, since it has to settle: deaths after what changes it.
pub(crate) async fn walk_past_changes(at: &Installation, policy: &str) {
    walk_over(at, policy, &FAULTS[..1], &["target.mint", "target.retire"]).await;
}

/// Calls to what is the same for every target and store are disturbed elsewhere.
async fn walk_over(at: &Installation, policy: &str, faults: &[Fault], over: &[&str]) {
    let settings = rekeyd::settings::load(&at.path("rekeyd.yaml")).expect("settings");
    let loaded = load_policies(settings.policies.directory.as_deref(), &[], &settings, SystemClock.now());
    let policy = loaded.policies.into_iter().find(|one| one.name().to_string() == policy).expect("a policy");
    let plain = Arc::new(Wiring::new(&settings));
    let walk = Walk { settings, policy, plain, wire: Arc::default() };
    for action in [Action::Rotate, Action::Contain] {
        let first = walk.process();
        let ending = first.perform(&walk, &action, &format!("undisturbed-{action:?}")).await;
        assert_eq!(ending.ending, EndingKind::Rotated, "{action:?}: {ending:?}");
        let calls = first.script.calls();
        assert!(calls.len() >= 6, "{calls:?}");
        // What is different in a containment is the order, and that readers are not waited for.
        let faults = if action == Action::Rotate { faults } else { &faults[..1] };
        let is_meant = |call: &str| over.iter().any(|of| call.starts_with(of));
        for (index, call) in calls.iter().enumerate().filter(|(_, call)| is_meant(call)) {
            for fault in faults {
                let _at = At(format!(
                    "{}: {action:?}: {fault:?} at call {index}, {call} of {calls:?}",
                    walk.policy.name()
                ));
                walk.disturb(&action, index, *fault).await;
            }
        }
    }
    let report = walk.plain.git_ledger().expect("a ledger").verify().await.expect("a report");
    assert!(report.is_clean(), "{report:?}");
}

impl Walk {
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
        tokio::select! {
            biased;
            _ = process.perform(self, action, &request) => {}
            () = process.script.died() => {}
        }
        self.settle().await;
        self.wire.deliver_all().await;
        self.settle().await;
        let ending = self.process().perform(self, action, &request).await;
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
            match process.service.attend(self.policy.name(), looking).await {
                Attention::Later => Hurried.sleep(PATIENCE).await,
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
