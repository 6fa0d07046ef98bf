//! The systems and policies of one history, and who lives there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rekeyd::clock::Clock;
use rekeyd::consumer::Consumer;
use rekeyd::failure::Failure;
use rekeyd::ident::{DnsLabel, PolicyName};
use rekeyd::ledger::{Ledger, Outcome, Record, TriggerKind};
use rekeyd::policy::Policy;
use rekeyd::policy::load::{Loaded, parse_policies};
use rekeyd::policy::spec::{ConsumerSpec, TargetSpec};
use rekeyd::rotation::engine::Adapters;
use rekeyd::rotation::event::{Event, Observer};
use rekeyd::rotation::verification::Verification;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::service::{Catalog, Hub, Service};
use rekeyd::settings::Settings;
use rekeyd::store::{Place, Store};
use rekeyd::target::Target;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::History;
use super::cluster::{self, Cables, Reach, SecretReaders};
use super::network::{Network, Node, pass};
use super::people;
use super::readership::{Readership, place};
use crate::world::apiserver::ApiServer;
use crate::world::checker::{Chain, Checker, Reader};
use crate::world::database::{Database, DualDatabase};
use crate::world::memory::{MemoryLedger, MemoryReader, MemoryRemote, MemoryStore};
use crate::world::provider::Provider;
use crate::world::{keys_of, two_values};
use rekeyd::proving::calls::OnTheWay;

pub(super) struct Town {
    pub(super) network: Arc<Network>,
    pub(super) clock: Arc<TownClock>,
    pub(super) systems: Arc<Systems>,
    pub(super) inhabitants: Vec<Inhabitant>,
    /// Counts the times that somebody edited the policies.
    edited: AtomicUsize,
    /// Counts the processes: they take turns on the machines.
    started: AtomicUsize,
    /// A policy's last record is what its marker can give back, so no more than one is ever lost.
    lost: AtomicBool,
    /// The policies that somebody changed a value of by hand.
    changed: Arc<Mutex<BTreeSet<PolicyName>>>,
    settings: Settings,
    /// Time in a cluster, which is not set: a pod counts as new by when it was made, to a few seconds.
    cluster_clock: Arc<TownClock>,
}

/// What a town's policies give their values to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    Files,
    /// Secrets, and files beside them.
    Cluster,
}

/// A policy, and what it is held to.
pub(super) struct Inhabitant {
    pub(super) policy: Policy,
    /// The same policy, before and after somebody edits it.
    editions: [Policy; 2],
    pub(super) checker: Arc<Checker>,
    pub(super) readers: Vec<Arc<Readership>>,
}

/// What rekeyd's processes reach.
pub(super) struct Systems {
    pub(super) database: Arc<Database>,
    store: Arc<MemoryStore>,
    /// Of each machine, and what they push to.
    ledgers: [Arc<MemoryLedger>; 2],
    remote: Arc<MemoryRemote>,
    readers: BTreeMap<PathBuf, Arc<Readership>>,
    pub(super) cluster: Option<Arc<ApiServer>>,
}

/// What a process reaches from its machine.
struct Machine {
    systems: Arc<Systems>,
    ledger: Arc<MemoryLedger>,
}

/// Simulated time, and a wall clock that somebody may set.
pub(super) struct TownClock {
    began: Instant,
    wall: Timestamp,
    set_by: Mutex<SignedDuration>,
}

impl Clock for TownClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.began.elapsed()).expect("a short time");
        self.wall + passed + *self.set_by.lock().expect("no panic")
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep<'a, 'b>(&'a self, duration: Duration) -> futures_util::future::BoxFuture<'b, ()>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(pass(duration))
    }
}

impl TownClock {
    /// The same time on a clock that is off by so much.
    fn beside(&self, by: SignedDuration) -> Arc<Self> {
        Arc::new(Self { began: self.began, wall: self.wall + by, set_by: Mutex::default() })
    }

    pub(super) fn set(&self, by: SignedDuration) {
        *self.set_by.lock().expect("no panic") += by;
    }
}

impl Ground {
    /// How long things go wrong there.
    pub(super) const fn trouble(self) -> Duration {
        match self {
            Self::Files => Duration::from_secs(600),
            Self::Cluster => Duration::from_secs(300),
        }
    }
}

impl Town {
    pub(super) fn new(seed: u64, told: bool, ground: Ground) -> Arc<Self> {
        let network = Arc::new(Network::new(seed, told));
        let clock = Arc::new(TownClock {
            began: Instant::now(),
            wall: "2026-03-02T06:30:00Z".parse().expect("a moment"),
            set_by: Mutex::default(),
        });
        let settings: Settings = serde_json::from_value(json!({
            "policies": { "directory": "/simulated/policies" },
            "stores": { "main": { "embedded": { "path": "/simulated/db", "key": { "file": "/simulated/key" } } } },
            "credentials": { "admin": { "file": { "username": "rekeyd", "path": "/simulated/admin" } } },
            "ledger": { "path": "/simulated/ledger" },
            "clusters": { "main": { "inCluster": {} } },
        }))
        .expect("settings");
        let remote: Arc<MemoryRemote> = Arc::default();
        let mut systems = Systems {
            database: Arc::new(Database::new(Arc::clone(&clock) as _)),
            store: Arc::default(),
            ledgers: [(); 2].map(|()| Arc::new(MemoryLedger::new(Arc::clone(&remote)))),
            remote,
            readers: BTreeMap::new(),
            cluster: None,
        };
        if ground == Ground::Cluster {
            let database = Arc::clone(&systems.database);
            let works =
                Arc::new(move |held: &Credential| database.accepts(held) || !database.knows(&held.principal));
            // Two machines' clocks differ by some seconds, and not more.
            let time = clock.beside(SignedDuration::from_millis(network.dice(6_000) as i64 - 3_000));
            let cables = Arc::new(Cables(Arc::clone(&network)));
            let server = ApiServer::new(network.dice(u64::MAX), time as _, cables, works);
            tokio::spawn(Arc::clone(&server).live());
            systems.cluster = Some(server);
        }
        let policies: Vec<[Policy; 2]> =
            (0..=network.dice(2)).map(|number| settle_in(&network, &settings, number, ground)).collect();
        for spec in policies.iter().flat_map(|[policy, _]| &policy.spec().consumers) {
            let readership = match (spec, &systems.cluster) {
                (ConsumerSpec::Kubernetes(spec), Some(server)) => {
                    Readership::Secret(SecretReaders::settle_in(server, &network, spec.secret.as_str()))
                }
                _ => {
                    let reader = MemoryReader::default();
                    reader.rolls_back(spec.rolls_back());
                    Readership::File(Arc::new(reader))
                }
            };
            systems.readers.insert(place(spec), Arc::new(readership));
        }
        let inhabitants: Vec<_> =
            policies.into_iter().map(|editions| Inhabitant::new(editions, &systems, &clock)).collect();
        for inhabitant in &inhabitants {
            network.watch(Arc::clone(&inhabitant.checker));
        }
        let (edited, started, lost) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self {
            network,
            systems: Arc::new(systems),
            inhabitants,
            edited,
            started,
            lost,
            changed: Arc::default(),
            cluster_clock: clock.beside(SignedDuration::ZERO),
            clock,
            settings,
        })
    }

    /// Everybody who lives here. They go when this is dropped.
    pub(super) fn populate(self: &Arc<Self>) -> JoinSet<()> {
        let mut lives = JoinSet::new();
        for _ in 0..=self.network.dice(2) {
            lives.spawn(people::daemons(Arc::clone(self)));
        }
        lives.spawn(people::operators(Arc::clone(self)));
        lives.spawn(people::mishaps(Arc::clone(self)));
        lives.spawn(cluster::mishaps(Arc::clone(self)));
        for index in 0..self.inhabitants.len() {
            for reader in &self.inhabitants[index].readers {
                lives.spawn(people::application(Arc::clone(self), Arc::clone(reader)));
            }
        }
        lives
    }

    /// A process of rekeyd.
    pub(super) fn process(&self) -> Service {
        let way = Arc::new(Node { network: Arc::clone(&self.network) });
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let ledger = Arc::clone(&self.systems.ledgers[number % self.systems.ledgers.len()]);
        let machine = Machine { systems: Arc::clone(&self.systems), ledger };
        let others = OnTheWay { inner: Arc::new(machine) as _, way };
        let clusters = cluster::clusters(self.systems.cluster.as_ref(), Arc::clone(&self.cluster_clock) as _);
        let adapters = Arc::new(Reach { others, clusters });
        let edition = self.edited.load(Ordering::Relaxed) % 2;
        let policies =
            self.inhabitants.iter().map(|inhabitant| inhabitant.editions[edition].clone()).collect();
        Service::new(
            &self.settings,
            Catalog::new(Loaded { policies, ..Loaded::default() }),
            adapters,
            Arc::clone(&self.clock) as _,
            Arc::new(Hub::new(vec![
                Arc::new(Teller(Arc::clone(&self.network), Arc::clone(&self.changed))) as _
            ])),
            CancellationToken::new(),
        )
    }

    /// Somebody edits the policies: processes that start from now on know them so.
    pub(super) fn edit(&self) {
        self.network.count("edits");
        self.edited.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody gives a user that takes two values a second one.
    pub(super) fn add_by_hand(&self) {
        let takes_two =
            |inhabitant: &&Inhabitant| matches!(inhabitant.policy.spec().target, TargetSpec::Simulated(_));
        for inhabitant in self.inhabitants.iter().filter(takes_two) {
            let number = self.network.dice(u64::MAX);
            let value = SecretValue::new(format!("added by hand {number}").into_bytes());
            let added = Credential::new(inhabitant.policy.principals()[0].clone(), value);
            inhabitant.checker.beside(&added);
            if self.systems.database.add(&added) {
                self.network.count("values added");
                self.network.tell(|| format!("somebody adds a value to {}", added.principal));
            }
        }
    }

    /// Somebody sets another value for the user in force, once for each policy: rekeyd has to notice.
    pub(super) async fn change_by_hand(&self) {
        let number = self.network.dice(self.inhabitants.len() as u64) as usize;
        let inhabitant = &self.inhabitants[number];
        let name = inhabitant.policy.name();
        if !matches!(inhabitant.policy.spec().target, TargetSpec::Postgres(_)) {
            return;
        }
        let place = Place::from(&inhabitant.policy.spec().store);
        let Some(current) = self.systems.store.current(place).await.expect("memory") else { return };
        if !self.changed.lock().expect("no panic").insert(name.clone()) {
            return;
        }
        let value = SecretValue::new(format!("set by hand for {name}").into_bytes());
        let other = Credential::new(current.credential.principal, value);
        inhabitant.checker.by_hand(&other);
        self.systems.database.set(&other);
        self.network.count("values changed by hand");
        self.network.tell(|| format!("somebody sets another value for {}", other.principal));
    }

    /// A reader fails with new values for a while.
    pub(super) fn break_reader(self: &Arc<Self>, time: Duration) {
        let inhabitant = &self.inhabitants[self.network.dice(self.inhabitants.len() as u64) as usize];
        let reader = &inhabitant.readers[self.network.dice(inhabitant.readers.len() as u64) as usize];
        self.network.count("readers broken");
        self.network.tell(|| format!("a reader of {} fails with new values", inhabitant.policy.name()));
        reader.fail(true);
        let reader = Arc::clone(reader);
        tokio::spawn(async move {
            pass(time).await;
            reader.fail(false);
        });
    }

    /// Somebody deletes a Secret that its policy names, whoever edits that.
    pub(super) fn delete_secret(&self) {
        let inhabitant = &self.inhabitants[self.network.dice(self.inhabitants.len() as u64) as usize];
        let readers = inhabitant.lasting();
        let reader = &readers[self.network.dice(readers.len() as u64) as usize];
        if let Readership::Secret(readers) = &**reader {
            self.network.count("Secrets deleted");
            self.network.tell(|| format!("somebody deletes a Secret of {}", inhabitant.policy.name()));
            readers.delete();
        }
    }

    /// Whether the target refuses the value in force of a policy.
    pub(super) async fn is_refused(&self, inhabitant: &Inhabitant) -> bool {
        if matches!(inhabitant.policy.spec().target, TargetSpec::Generated(_)) {
            return false;
        }
        let place = Place::from(&inhabitant.policy.spec().store);
        let current = self.systems.store.current(place).await.expect("memory");
        current.is_some_and(|current| !self.systems.database.accepts(&current.credential))
    }

    /// The ledger's folder is lost, and given back as it was before the last record.
    pub(super) fn lose_record(&self) {
        let ledgers = &self.systems.ledgers;
        let machine = &ledgers[self.network.dice(ledgers.len() as u64) as usize];
        if !self.lost.load(Ordering::Relaxed) && machine.lose_last(ledgers) {
            self.lost.store(true, Ordering::Relaxed);
            self.network.count("records lost");
            self.network.tell(|| "the ledger loses its last record".into());
        }
    }

    /// A daemon runs, and nothing goes wrong any more.
    pub(super) async fn settle(self: &Arc<Self>, patience: Duration) {
        let mut daemon = JoinSet::new();
        daemon.spawn(people::daemon(Arc::clone(self)));
        let end = Instant::now() + patience;
        while let Some(unrest) = self.unrest().await {
            if Instant::now() >= end {
                self.network.violated(format!("I7: it does not come to rest: {unrest}"));
                return;
            }
            pass(Duration::from_secs(60)).await;
            people::decide(self).await;
        }
        self.hold_to_secrecy();
        for inhabitant in &self.inhabitants {
            let checked = tokio::spawn({
                let checker = Arc::clone(&inhabitant.checker);
                async move { checker.at_rest().await }
            });
            match checked.await {
                Ok(records) => {
                    (0..records.len()).for_each(|_| self.network.count("rotations"));
                    let mends = |record: &&Record| record.trigger == TriggerKind::Drift;
                    records.iter().filter(mends).for_each(|_| self.network.count("drifts mended"));
                    let reverted =
                        |record: &&Record| record.outcome == Outcome::RolledBack && record.to != record.from;
                    records.iter().filter(reverted).for_each(|_| self.network.count("values brought back"));
                }
                Err(error) => {
                    let panic = error.into_panic();
                    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    self.network.violated(format!("{} at rest: {text}", inhabitant.policy.name()));
                }
            }
        }
    }

    /// No object of the cluster holds a value outside of a Secret's data.
    fn hold_to_secrecy(&self) {
        for (object, text) in self.systems.cluster.iter().flat_map(|server| server.public()) {
            if self.inhabitants.iter().any(|inhabitant| inhabitant.checker.is_told_in(&text)) {
                self.network.violated(format!("a value is in {object}"));
            }
        }
    }

    /// What is still under way.
    async fn unrest(&self) -> Option<String> {
        if !self.network.is_empty() {
            return Some("something is on the way".into());
        }
        let records = self.systems.remote.all();
        for inhabitant in &self.inhabitants {
            let name = inhabitant.policy.name();
            let control = self.systems.store.control(name).await.expect("memory");
            let text = control.map(|control| control.document.expose().to_vec()).unwrap_or_default();
            let document: Value = serde_json::from_slice(&text).unwrap_or_default();
            if document.get("open").is_some() || document["closed"].get("owes").is_some() {
                return Some(format!("{name} is open"));
            }
            let last = document["closed"]["record"]["rotation"].as_str();
            let is_recorded =
                |last: &str| records.iter().any(|record: &Record| record.rotation.to_string() == last);
            if last.is_some_and(|last| !is_recorded(last)) {
                return Some(format!("{name} has lost its last record"));
            }
            if self.is_refused(inhabitant).await {
                return Some(format!("the value in force of {name} is refused"));
            }
            let current = self.systems.store.current(Place::from(&inhabitant.policy.spec().store)).await;
            if let Some(current) = current.expect("memory") {
                let mut readers = inhabitant.lasting().iter();
                if let Some(unrest) = readers.find_map(|reader| reader.unrest(&current.credential)) {
                    return Some(format!("{name}: {unrest}"));
                }
            }
        }
        None
    }

    pub(super) fn history(&self) -> History {
        let (trace, log) = self.network.close();
        History { trace, counts: log.counts, violations: log.violations, points: log.points }
    }
}

/// A policy by chance, and how somebody edits it.
fn settle_in(network: &Network, settings: &Settings, number: u64, ground: Ground) -> [Policy; 2] {
    let name = format!("p{number}");
    let user = |letter: &str| format!("{name}_{letter}");
    let postgres = |strategy: Value| {
        json!({ "postgres": {
            "endpoint": { "host": "localhost", "database": "orders" }, "admin": "admin", "strategy": strategy,
        } })
    };
    // Those of a cluster get no keys: what is asked there is how readers move.
    let kind = network.dice(if ground == Ground::Cluster { 6 } else { 7 });
    let target = match kind {
        0 | 1 => postgres(json!({ "alternating": { "users": [user("a"), user("b")] } })),
        2 | 3 => postgres(json!({ "inPlace": { "user": user("a") } })),
        _ => json!({ "generated": {} }),
    };
    let consumers: Vec<Value> = (0..=network.dice(2))
        .map(|number| {
            let on_failure = if network.dice(3) == 0 { "hold" } else { "rollBack" };
            if ground == Ground::Cluster && (number == 0 || network.dice(2) == 0) {
                let is_in_place = matches!(kind, 2 | 3);
                return cluster::consumer(network, &format!("{name}-{number}"), on_failure, is_in_place);
            }
            json!({ "file": {
                "path": format!("/run/{name}-{number}.env"), "content": "{{ value }}", "onFailure": on_failure,
            } })
        })
        .collect();
    let is_scheduled = network.dice(2) == 0;
    let kept = 1 + network.dice(consumers.len() as u64) as usize;
    [consumers.len(), kept].map(|named| {
        let grace = ["0s", "20s", "2m"][network.dice(3) as usize];
        let soak = if kind == 6 && network.dice(2) == 0 { "1m" } else { "0s" };
        let mut spec = json!({
            "target": target,
            "store": { "name": "main", "path": format!("apps/{name}") },
            "consumers": consumers[..named],
            "retire": { "grace": grace, "soak": soak, "containmentDeadline": "30s" },
            "containment": if network.dice(3) == 0 { "cutNow" } else { "keepServing" },
            "verify": { "every": "1m", "onRefusal": "rotate" },
        });
        if is_scheduled {
            spec["schedule"] = json!({ "cron": "*/5 * * * *", "catchUp": "once" });
        }
        let document = json!({
            "apiVersion": "rekeyd.dev/v1alpha1",
            "kind": "RotationPolicy",
            "metadata": { "name": name, "namespace": "town" },
            "spec": spec,
        });
        let now = "2026-03-02T06:30:00Z".parse().expect("a moment");
        let mut loaded = parse_policies("town.yaml", &document.to_string(), settings, now);
        assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
        let policy = loaded.policies.remove(0);
        match kind {
            5 => policy.with_target(two_values(&name)),
            6 => policy.with_target(keys_of(&name)),
            _ => policy,
        }
    })
}

impl Inhabitant {
    fn new(editions: [Policy; 2], systems: &Systems, clock: &TownClock) -> Self {
        let policy = editions[0].clone();
        let readers: Vec<_> =
            policy.spec().consumers.iter().map(|spec| Arc::clone(&systems.readers[&place(spec)])).collect();
        let checker = Arc::new(Checker {
            store: Arc::clone(&systems.store) as _,
            database: Arc::clone(&systems.database),
            ledger: Arc::clone(&systems.remote) as _,
            wire: Arc::default(),
            policy: policy.clone(),
            readers: policy
                .spec()
                .consumers
                .iter()
                .zip(&readers)
                .map(|(spec, reader)| Reader { path: place(spec), place: Arc::clone(reader) as _ })
                .collect(),
            since: clock.now(),
            memory: Mutex::default(),
        });
        if policy.principals().len() == 1 && matches!(policy.spec().target, TargetSpec::Postgres(_)) {
            systems.database.make(policy.principals()[0]);
        }
        Self { policy, editions, checker, readers }
    }

    /// The readers that it has whoever edits it.
    fn lasting(&self) -> &[Arc<Readership>] {
        &self.readers[..self.editions[1].spec().consumers.len()]
    }
}

/// Tells what happens to rotations.
/// Tells what happens. It knows which policies somebody changed a value of by hand.
struct Teller(Arc<Network>, Arc<Mutex<BTreeSet<PolicyName>>>);

impl Observer for Teller {
    fn observe(&self, event: &Event) {
        self.0.tell(|| format!("{} {} to {}: {:?}", event.policy, event.rotation, event.version, event.what));
    }

    /// Whoever says that a value is refused that nobody changed by hand is wrong.
    fn verified(&self, policy: &PolicyName, verification: &Verification) {
        self.0.count("verifications");
        if verification.finding.is_drift() && !self.1.lock().expect("no panic").contains(policy) {
            self.0.violated(format!("{policy}: drift where there is none: {verification:?}"));
        }
    }
}

impl Adapters for Machine {
    fn store_names(&self) -> Vec<DnsLabel> {
        vec!["main".parse().expect("a name")]
    }

    fn store(&self, _: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        Ok(Arc::clone(&self.systems.store) as _)
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        match spec {
            TargetSpec::Postgres(_) | TargetSpec::Mysql(_) => {
                Ok(Some(Arc::clone(&self.systems.database) as _))
            }
            TargetSpec::Redis(_)
            | TargetSpec::Rabbitmq(_)
            | TargetSpec::Clickhouse(_)
            | TargetSpec::Http(_)
            | TargetSpec::Vault(_)
            | TargetSpec::AwsIam(_)
            | TargetSpec::KubernetesServiceAccount(_)
            | TargetSpec::Exec(_)
            | TargetSpec::Generated(_) => Ok(None),
            TargetSpec::Simulated(_) => Ok(Some(Arc::new(DualDatabase(Arc::clone(&self.systems.database))))),
            TargetSpec::SimulatedKeys(_) => Ok(Some(Arc::new(Provider(Arc::clone(&self.systems.database))))),
        }
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        match &*self.systems.readers[&place(spec)] {
            Readership::File(reader) => Ok(Arc::clone(reader) as _),
            Readership::Secret(_) => unreachable!("a Secret is reached over the cluster"),
        }
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        Ok(Arc::clone(&self.ledger) as _)
    }
}

#[async_trait]
impl Chain for MemoryRemote {
    async fn records(&self, policy: &PolicyName, _: Timestamp) -> Vec<Record> {
        self.all().into_iter().filter(|record| record.policy == *policy).collect()
    }

    async fn is_whole(&self) {}
}
