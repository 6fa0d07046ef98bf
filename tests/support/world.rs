//! A whole world for the engine: a database that behaves, and the real embedded store, file consumer and
//! Git ledger in a folder. Processes come and go in it; each has its own faults.

pub(crate) mod apiserver;
pub(crate) mod checker;
pub(crate) mod clock;
pub(crate) mod database;
pub(crate) mod faults;
pub(crate) mod memory;
pub(crate) mod provider;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::consumer::{self, Consumer};
use rekeyd::copies::CopyPlace;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::{DnsLabel, RequestId, StorePath};
use rekeyd::kubernetes::Clusters;
use rekeyd::ledger::{GitLedger, Ledger, TriggerKind};
use rekeyd::policy::Policy;
use rekeyd::policy::load::{Loaded, parse_policies};
use rekeyd::policy::spec::{ConsumerSpec, InPlaceSpec, TargetSpec};
use rekeyd::rotation::decision::Decision;
use rekeyd::rotation::engine::Adapters;
use rekeyd::rotation::event::{Event, Observer};
use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::run::Document;
use rekeyd::rotation::sitting::{Slots, look};
use rekeyd::secret::{AdminCredential, Credential, SecretValue};
use rekeyd::service::{Action, Attention, Catalog, Ending, Hub, Request, Service};
use rekeyd::settings::{LimitSettings, Settings};
use rekeyd::status::Status;
use rekeyd::store::embedded::EmbeddedStore;
use rekeyd::store::{Place, Revision, Store};
use rekeyd::target::Target;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use self::checker::{Checker, Reader};
use self::clock::TestClock;
use self::database::{Database, DualDatabase};
use self::faults::{Script, Wire};
use self::provider::Provider;
use rekeyd::proving::calls::OnTheWay;

pub(crate) struct World {
    folder: TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) database: Arc<Database>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) other_store: Arc<dyn Store>,
    pub(crate) ledger: Arc<GitLedger>,
    /// What processes record in: the ledger, unless a test says otherwise.
    pub(crate) records: Arc<dyn Ledger>,
    pub(crate) wire: Arc<Wire>,
    /// What the policies' keys of HTTP APIs are; none without.
    pub(crate) api: Mutex<Option<Arc<dyn Target>>>,
    settings: Settings,
    subjects: AtomicU64,
}

/// How a policy of a test is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) strategy: Strategy,
    pub(crate) grace: &'static str,
    /// How long an outgoing key is disabled before it is deleted.
    pub(crate) soak: &'static str,
    /// A containment's.
    pub(crate) deadline: &'static str,
    pub(crate) cuts: bool,
    /// Cron, or the whole of it in JSON.
    pub(crate) schedule: Option<&'static str>,
    /// `every` and `onRefusal`; the value in force is not verified without.
    pub(crate) verify: Option<(&'static str, &'static str)>,
    /// A shell's line; `FOLDER` in it is the world's.
    pub(crate) reload: Option<&'static str>,
    /// A reader that fails gets back what it had.
    pub(crate) rolls_back: bool,
    pub(crate) store: &'static str,
}

/// A policy in the world, and what watches it.
pub(crate) struct Subject {
    pub(crate) policy: Policy,
    /// As it is written.
    pub(crate) document: String,
    pub(crate) checker: Arc<Checker>,
    /// What its consumer writes.
    pub(crate) file: PathBuf,
}

/// One process of rekeyd: its services, and what happens to its calls.
pub(crate) struct Process {
    pub(crate) service: Arc<Service>,
    pub(crate) script: Arc<Script>,
    pub(crate) stop: CancellationToken,
    pub(crate) hub: Arc<Hub>,
    events: Arc<Events>,
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

struct Plain {
    stores: BTreeMap<DnsLabel, Arc<dyn Store>>,
    database: Arc<Database>,
    api: Option<Arc<dyn Target>>,
    ledger: Arc<dyn Ledger>,
}

impl Shape {
    pub(crate) const fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            grace: "10m",
            soak: "0s",
            deadline: "60s",
            cuts: false,
            schedule: None,
            verify: None,
            reload: None,
            rolls_back: false,
            store: "main",
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        // In memory where that is possible: nothing here asks what a power cut leaves.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let at = |name: &str| folder.path().join(name);
        EmbeddedStore::generate_key_file(&at("key")).expect("a key");
        let store = |name: &str| json!({ "embedded": { "path": at(name), "key": { "file": at("key") } } });
        let settings: Settings = serde_json::from_value(json!({
            "policies": { "directory": at("policies") },
            "stores": { "main": store("main.db"), "other": store("other.db") },
            "credentials": {
                "admin": { "file": { "username": "rekeyd", "path": at("admin") } },
                "jenkins": { "file": { "username": "jenkins", "path": at("jenkins"), "hosts": ["127.0.0.1"] } },
                "pipelines": { "file": { "username": "pipelines", "path": at("pipelines"), "hosts": ["127.0.0.1"] } },
            },
            "ledger": { "path": at("ledger") },
        }))
        .expect("settings");
        let open = |name: &str| {
            let name: DnsLabel = name.parse().expect("a name");
            rekeyd::store::build(&name, &settings.stores[&name]).expect("a store")
        };
        let clock = Arc::new(TestClock::new());
        let ledger = Arc::new(GitLedger::open(&settings.ledger).expect("a ledger"));
        Self {
            database: Arc::new(Database::new(Arc::clone(&clock) as _)),
            store: open("main"),
            other_store: open("other"),
            records: Arc::clone(&ledger) as _,
            ledger,
            wire: Arc::default(),
            api: Mutex::default(),
            clock,
            settings,
            folder,
            subjects: AtomicU64::new(0),
        }
    }

    /// A policy that nothing was done for yet.
    pub(crate) fn subject(&self, shape: Shape) -> Subject {
        let number = self.subjects.fetch_add(1, Ordering::Relaxed);
        self.named_subject(&format!("p{number}"), shape)
    }

    pub(crate) fn named_subject(&self, name: &str, shape: Shape) -> Subject {
        // So that each policy's records begin after those of the one before.
        self.clock.advance(Duration::from_secs(2));
        let file = self.folder.path().join(format!("{name}.env"));
        let document = document(name, shape, &file);
        let mut policy = self.policy(&document);
        match shape.strategy {
            Strategy::DualPassword => policy = policy.with_target(two_values(name)),
            Strategy::DualKey => policy = policy.with_target(keys_of(name)),
            _ => {}
        }
        let store = Arc::clone(if shape.store == "main" { &self.store } else { &self.other_store });
        let checker = Arc::new(Checker {
            store,
            database: Arc::clone(&self.database),
            ledger: Arc::clone(&self.ledger) as _,
            wire: Arc::clone(&self.wire),
            policy: policy.clone(),
            readers: vec![Reader { path: file.clone(), place: Arc::new(file.clone()) }],
            since: self.now(),
            memory: Mutex::default(),
        });
        Subject { policy, document, checker, file }
    }

    pub(crate) fn parse(&self, documents: &str) -> Loaded {
        parse_policies("test.yaml", documents, &self.settings, self.now())
    }

    pub(crate) fn policy(&self, document: &str) -> Policy {
        let mut loaded = self.parse(document);
        assert!(!loaded.has_errors(), "{:?}\n{document}", loaded.diagnostics);
        loaded.policies.remove(0)
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        use rekeyd::clock::Clock as _;
        self.clock.now()
    }

    /// A new process of rekeyd with these policies. Whatever it calls is watched for the first of them.
    pub(crate) fn process(&self, subjects: &[&Subject]) -> Process {
        if let Some(subject) = subjects.first() {
            self.wire.set_witness(Arc::clone(&subject.checker) as _);
        }
        let policies = subjects.iter().map(|subject| subject.policy.clone()).collect();
        self.process_with(Loaded { policies, ..Loaded::default() })
    }

    pub(crate) fn process_with(&self, loaded: Loaded) -> Process {
        let script = Script::new(Arc::clone(&self.wire));
        let stores = [("main", &self.store), ("other", &self.other_store)];
        let stores = stores.map(|(name, store)| (name.parse().expect("a name"), Arc::clone(store)));
        let plain = Plain {
            stores: stores.into(),
            database: Arc::clone(&self.database),
            api: self.api.lock().expect("no panic").clone(),
            ledger: Arc::clone(&self.records),
        };
        let adapters = Arc::new(OnTheWay { inner: Arc::new(plain), way: Arc::clone(&script) });
        let events = Arc::new(Events::default());
        let hub = Arc::new(Hub::new(vec![Arc::clone(&events) as _]));
        let stop = CancellationToken::new();
        let service = Service::new(
            &self.settings,
            Catalog::new(loaded),
            adapters,
            Arc::clone(&self.clock) as _,
            Arc::clone(&hub),
            stop.clone(),
        );
        Process { service: Arc::new(service), script, stop, hub, events }
    }

    /// Nobody watches until the next process starts: what two processes do at the same time cannot be read
    /// at one moment.
    pub(crate) fn look_away(&self) {
        self.wire.forget_witness();
    }

    /// What a daemon that starts now comes to: everything that is open is finished, what is due is done.
    pub(crate) async fn settle(&self, subject: &Subject) {
        for _ in 0..40 {
            let process = self.process(&[subject]);
            match process.attend(subject).await {
                Attention::Later(_) => self.clock.advance(Duration::from_secs(60)),
                Attention::At(at) if at <= self.now() => {}
                Attention::At(_) | Attention::Idle => return,
            }
        }
        panic!("I7: it does not settle: {:?}", self.status(subject).await);
    }

    /// Brings a policy to its first version.
    pub(crate) async fn begin(&self, subject: &Subject) {
        if subject.policy.principals().len() == 1 && !subject.mints() {
            self.database.make(subject.policy.principals()[0]);
        }
        let ending = self.process(&[subject]).rotate(subject, "first").await;
        assert_eq!(ending.ending, rekeyd::service::EndingKind::Rotated, "{ending:?}");
    }

    pub(crate) async fn current(&self, subject: &Subject) -> Option<(Credential, Revision)> {
        let place = Place::from(&subject.policy.spec().store);
        let current = subject.checker.store.current(place).await.expect("the store is read");
        current.map(|current| (current.credential, current.revision))
    }

    /// The credential in force.
    pub(crate) async fn in_force(&self, subject: &Subject) -> Credential {
        self.current(subject).await.expect("a value in force").0
    }

    /// Somebody else writes to the store.
    pub(crate) async fn overwrite(&self, subject: &Subject, credential: &Credential) {
        let revision = self.current(subject).await.map(|(_, revision)| revision);
        let place = Place::from(&subject.policy.spec().store);
        let promotion = rekeyd::store::Promotion {
            credential,
            expected: revision.as_ref(),
            rotation: rekeyd::ident::RotationId::generate(),
            version: rekeyd::ident::Version::new(1),
            extra: &Default::default(),
        };
        let written = subject.checker.store.promote(place, promotion).await;
        written.expect("the store is written");
    }

    /// Somebody else deletes the value from the store.
    pub(crate) fn delete(&self, subject: &Subject) {
        let name = if subject.policy.spec().store.name.as_str() == "main" { "main.db" } else { "other.db" };
        let database = rusqlite::Connection::open(self.folder.path().join(name)).expect("a connection");
        let path = subject.policy.spec().store.path.as_str();
        let deleted = database
            .execute("DELETE FROM entry WHERE kind = 'credential' AND name = ?1", (path,))
            .expect("a deletion");
        assert_eq!(deleted, 1);
    }

    pub(crate) async fn slots(&self, subject: &Subject) -> Slots {
        let name = subject.policy.name();
        look(&*subject.checker.store, name, &subject.policy.spec().store).await.expect("the store is read")
    }

    /// The open rotation's document.
    pub(crate) async fn run(&self, subject: &Subject) -> rekeyd::rotation::run::Run {
        match self.slots(subject).await.document {
            Some(Document::Open(run)) => *run,
            other => panic!("no rotation is open: {other:?}"),
        }
    }

    pub(crate) async fn status(&self, subject: &Subject) -> Status {
        let process = self.process(&[subject]);
        let mut status = process.service.status(Some(subject.policy.name())).await.expect("a status");
        status.remove(0)
    }

    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Subject {
    /// Whether its target makes the values.
    pub(crate) fn mints(&self) -> bool {
        Strategy::of(&self.policy.spec().target).mints()
    }
}

impl Process {
    /// Runs it until it is done; `None` when the process died before.
    pub(crate) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.script.died() => None,
        }
    }

    /// From now on a store does not answer.
    pub(crate) fn break_store(&self, name: &str) {
        self.script.break_store(name.parse().expect("a name"));
    }

    pub(crate) async fn rotate(&self, subject: &Subject, request: &str) -> Ending {
        self.perform(subject, Action::Rotate, request).await
    }

    pub(crate) async fn contain(&self, subject: &Subject, request: &str) -> Ending {
        self.perform(subject, Action::Contain, request).await
    }

    pub(crate) async fn resume(&self, subject: &Subject) -> Ending {
        self.perform(subject, Action::Resume { decision: Decision::GoOn }, "resume").await
    }

    pub(crate) async fn abandon(&self, subject: &Subject) -> Ending {
        self.decide(subject, Decision::Abandon).await
    }

    pub(crate) async fn decide(&self, subject: &Subject, decision: Decision) -> Ending {
        self.perform(subject, Action::Resume { decision }, "resume").await
    }

    pub(crate) async fn contain_because(&self, subject: &Subject, request: &str, reason: &str) -> Ending {
        self.perform_because(subject, Action::Contain, request, Some(reason.to_owned())).await
    }

    pub(crate) async fn perform(&self, subject: &Subject, action: Action, request: &str) -> Ending {
        self.perform_because(subject, action, request, None).await
    }

    async fn perform_because(
        &self,
        subject: &Subject,
        action: Action,
        request: &str,
        reason: Option<String>,
    ) -> Ending {
        let request = Request {
            policy: subject.policy.name().clone(),
            action,
            request: Some(request_id(request)),
            reason,
            patience_seconds: 30,
        };
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        self.service.perform(&request, "a test", events).await
    }

    pub(crate) async fn adopt(&self, subject: &Subject, live: &Credential, replace: bool) -> Ending {
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let (name, live) = (subject.policy.name(), live.duplicate());
        self.service.adopt(name, live, replace, "a test", events).await
    }

    pub(crate) async fn attend(&self, subject: &Subject) -> Attention {
        let looking = CancellationToken::new().drop_guard();
        self.service.attend(subject.policy.name(), looking).await
    }

    /// What happened, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.0.lock().expect("no panic").clone()
    }
}

impl Observer for Events {
    fn observe(&self, event: &Event) {
        self.0.lock().expect("no panic").push(event.clone());
    }
}

impl Adapters for Plain {
    fn store_names(&self) -> Vec<DnsLabel> {
        self.stores.keys().cloned().collect()
    }

    fn store(&self, name: &DnsLabel) -> Result<Arc<dyn Store>, Failure> {
        let unknown =
            || Failure::new(FailureClass::Invalid, format!("use store {name}"), "there is no such store");
        self.stores.get(name).cloned().ok_or_else(unknown)
    }

    fn target(&self, spec: &TargetSpec) -> Result<Option<Arc<dyn Target>>, Failure> {
        match spec {
            TargetSpec::Postgres(_) | TargetSpec::Mysql(_) => Ok(Some(Arc::clone(&self.database) as _)),
            TargetSpec::Redis(_)
            | TargetSpec::Rabbitmq(_)
            | TargetSpec::Clickhouse(_)
            | TargetSpec::Vault(_)
            | TargetSpec::AwsIam(_)
            | TargetSpec::KubernetesServiceAccount(_)
            | TargetSpec::Exec(_)
            | TargetSpec::Generated(_) => Ok(None),
            TargetSpec::Http(_) => Ok(self.api.clone()),
            TargetSpec::Simulated(_) => Ok(Some(Arc::new(DualDatabase(Arc::clone(&self.database))))),
            TargetSpec::SimulatedKeys(_) => Ok(Some(Arc::new(Provider(Arc::clone(&self.database))))),
        }
    }

    fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<dyn Consumer>, Failure> {
        let clusters = Clusters::new(&BTreeMap::new(), LimitSettings::default());
        consumer::build(spec, &OnlyClusters(Arc::new(clusters)))
    }

    fn ledger(&self) -> Result<Arc<dyn Ledger>, Failure> {
        Ok(Arc::clone(&self.ledger))
    }
}

/// Means of consumers whose systems know a user by the name that the settings call it, which is its value, too.
pub(crate) struct OnlyClusters(pub(crate) Arc<Clusters>);

impl consumer::Means for OnlyClusters {
    fn clusters(&self) -> &Arc<Clusters> {
        &self.0
    }

    fn admin(&self, name: &DnsLabel) -> Result<Arc<dyn AdminCredential>, Failure> {
        Ok(Arc::new(Named(name.clone())))
    }

    fn requests(&self, _: &[&DnsLabel]) -> consumer::Requests {
        let clock = Arc::new(rekeyd::clock::SystemClock);
        consumer::Requests {
            outbound: rekeyd::http::outbound::Outbound::new(&["127.0.0.1".to_owned()]),
            paces: Arc::new(rekeyd::http::pace::Paces::new(Arc::clone(&clock) as _)),
            clock,
            is_for: Box::new(|_| true),
        }
    }

    fn copy(
        &self,
        store: &DnsLabel,
        _: Option<&StorePath>,
        path: &StorePath,
    ) -> Result<Arc<dyn CopyPlace>, Failure> {
        let doing = format!("copy to {path} in store {store}");
        Err(Failure::new(FailureClass::Invalid, doing, "no store of this world keeps copies"))
    }
}

/// A credential whose value is its name in the settings.
struct Named(DnsLabel);

#[async_trait]
impl AdminCredential for Named {
    async fn credential(&self) -> Result<Credential, Failure> {
        let principal = self.0.as_str().parse().expect("a label is a principal");
        Ok(Credential::new(principal, SecretValue::new(self.0.as_str().into())))
    }
}

/// A credential of the policy's first or second user.
pub(crate) fn credential(subject: &Subject, user: usize, value: &str) -> Credential {
    let principal = subject.policy.principals()[user].clone();
    Credential::new(principal, SecretValue::new(value.as_bytes().to_vec()))
}

pub(crate) fn request_id(request: &str) -> RequestId {
    request.parse().expect("a request id")
}

/// Whether a record was made by a containment.
pub(crate) fn is_contained(record: &rekeyd::ledger::Record) -> bool {
    record.trigger == TriggerKind::Contain
}

/// A user that takes two values at a time.
pub(crate) fn two_values(policy: &str) -> TargetSpec {
    let user = format!("{}_a", policy.replace('-', "_")).parse().expect("a principal");
    TargetSpec::Simulated(InPlaceSpec { user })
}

/// An owner of keys.
pub(crate) fn keys_of(policy: &str) -> TargetSpec {
    let user = format!("{}_a", policy.replace('-', "_")).parse().expect("a principal");
    TargetSpec::SimulatedKeys(InPlaceSpec { user })
}

fn document(name: &str, shape: Shape, file: &std::path::Path) -> String {
    let users = [format!("{}_a", name.replace('-', "_")), format!("{}_b", name.replace('-', "_"))];
    let strategy = match shape.strategy {
        Strategy::Alternating => json!({ "alternating": { "users": users } }),
        Strategy::InPlace => json!({ "inPlace": { "user": users[0] } }),
        _ => json!(null),
    };
    let target = match shape.strategy {
        Strategy::DualPassword | Strategy::DualKey | Strategy::Reissued | Strategy::Generated => {
            json!({ "generated": {} })
        }
        Strategy::Alternating | Strategy::InPlace => json!({ "postgres": {
            "endpoint": { "host": "localhost", "database": "orders" },
            "admin": "admin",
            "strategy": strategy,
        } }),
    };
    let folder = file.parent().expect("a folder").display().to_string();
    let reload = shape
        .reload
        .map_or_else(|| json!([]), |script| json!(["/bin/sh", "-c", script.replace("FOLDER", &folder)]));
    let mut spec = json!({
        "owner": "team@example.com",
        "target": target,
        "store": { "name": shape.store, "path": format!("apps/{name}") },
        "consumers": [{ "file": {
            "path": file,
            "content": "{{ principal }}\n{{ value }}\n{{ version }}\n",
            "reload": reload,
            "onFailure": if shape.rolls_back { "rollBack" } else { "hold" },
        } }],
        "retire": { "grace": shape.grace, "soak": shape.soak, "containmentDeadline": shape.deadline },
        "containment": if shape.cuts { "cutNow" } else { "keepServing" },
    });
    if let Some(cron) = shape.schedule {
        spec["schedule"] = serde_json::from_str(cron).unwrap_or_else(|_| json!({ "cron": cron }));
    }
    let (every, on_refusal) = shape.verify.unwrap_or(("0s", "report"));
    spec["verify"] = json!({ "every": every, "onRefusal": on_refusal });
    let document = json!({
        "apiVersion": "rekeyd.dev/v1alpha1",
        "kind": "RotationPolicy",
        "metadata": { "name": name, "namespace": "test" },
        "spec": spec,
    });
    document.to_string()
}
