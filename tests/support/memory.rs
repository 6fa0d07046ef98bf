//! Systems around rekeyd that live in memory. Each call is over at once and happens as a whole, so that a
//! simulation may look at all of them between any two. They are held to the contracts of the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use rekeyd::consumer::{Ailment, Consumer, Observed, PublishRequest, Published, Reach};
use rekeyd::failure::{Failure, FailureClass, Finding};
use rekeyd::ident::{PolicyName, RotationId, StorePath, Version};
use rekeyd::ledger::{Ledger, Record};
use rekeyd::proving::Mutant;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::{Control, Current, Place, Promotion, Revision, Store};

/// A store.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    /// Counts every write, so that no revision comes back.
    writes: u64,
    credentials: BTreeMap<StorePath, (Credential, u64)>,
    documents: BTreeMap<PolicyName, (SecretValue, u64)>,
}

impl MemoryStore {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().expect("no panic")
    }

    /// Somebody deletes a value.
    pub(crate) fn delete(&self, path: &StorePath) {
        self.shelves().credentials.remove(path);
    }
}

impl Shelves {
    fn next(&mut self, found: Option<u64>, expected: Option<&Revision>) -> Result<u64, Failure> {
        if found.map(Revision::new).as_ref() != expected {
            return Err(Failure::new(
                FailureClass::Conflict,
                "write to the store",
                "it was changed meanwhile",
            ));
        }
        self.writes += 1;
        Ok(self.writes)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn current(&self, place: Place<'_>) -> Result<Option<Current>, Failure> {
        let shelves = self.shelves();
        Ok(shelves.credentials.get(place.path).map(|(credential, revision)| Current {
            credential: credential.duplicate(),
            revision: Revision::new(revision),
        }))
    }

    async fn promote(
        &self,
        place: Place<'_>,
        Promotion { credential, expected, .. }: Promotion<'_>,
    ) -> Result<Revision, Failure> {
        let mut shelves = self.shelves();
        let found = shelves.credentials.get(place.path).map(|(_, revision)| *revision);
        let next = shelves.next(found, expected)?;
        shelves.credentials.insert(place.path.clone(), (credential.duplicate(), next));
        Ok(Revision::new(next))
    }

    async fn control(&self, policy: &PolicyName) -> Result<Option<Control>, Failure> {
        let shelves = self.shelves();
        Ok(shelves.documents.get(policy).map(|(document, revision)| Control {
            document: document.duplicate(),
            revision: Revision::new(revision),
        }))
    }

    async fn save(
        &self,
        policy: &PolicyName,
        document: &SecretValue,
        expected: Option<&Revision>,
    ) -> Result<Revision, Failure> {
        let mut shelves = self.shelves();
        let found = shelves.documents.get(policy).map(|(_, revision)| *revision);
        let next = shelves.next(found, expected)?;
        shelves.documents.insert(policy.clone(), (document.duplicate(), next));
        Ok(Revision::new(next))
    }

    async fn policies(&self) -> Result<Vec<PolicyName>, Failure> {
        Ok(self.shelves().documents.keys().cloned().collect())
    }

    async fn preflight(&self, _: Place<'_>, _: &PolicyName) -> Vec<Finding> {
        vec![Finding::pass("store", "it is in memory")]
    }
}

/// A consumer, and how often its reader was told.
#[derive(Default)]
pub(crate) struct MemoryReader(Mutex<Held>);

#[derive(Default)]
struct Held {
    note: Option<(PolicyName, Observed)>,
    shown: Option<Credential>,
    /// How often the reader was told of each version.
    told: BTreeMap<Version, usize>,
    /// What the reader uses: what it was told of last, once it has moved.
    used: Option<Credential>,
    /// So often it will say that it is still moving.
    moving: u64,
    /// It fails with values that are made from now on.
    fails: bool,
    rolls_back: bool,
    /// The value that it fails with.
    failing: Option<Credential>,
}

impl MemoryReader {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("no panic")
    }

    /// What a reader finds, and the version that it is.
    pub(crate) fn shown(&self) -> Option<(Credential, Version)> {
        let held = self.held();
        let version = held.note.as_ref()?.1.published;
        held.shown.as_ref().map(|credential| (credential.duplicate(), version))
    }

    /// What the reader uses.
    pub(crate) fn used(&self) -> Option<Credential> {
        self.held().used.as_ref().map(Credential::duplicate)
    }

    /// Whether the policy asks for the earlier value when it fails.
    pub(crate) fn rolls_back(&self, rolls_back: bool) {
        self.held().rolls_back = rolls_back;
    }

    /// Whether it fails, with what it has and with the next value that it is told of and has not used before.
    pub(crate) fn fail(&self, fails: bool) {
        let mut held = self.held();
        held.fails = fails;
        held.failing = held.shown.as_ref().filter(|_| fails).map(Credential::duplicate);
    }

    pub(crate) fn told(&self) -> BTreeMap<Version, usize> {
        self.held().told.clone()
    }

    /// Somebody changes what readers find.
    pub(crate) fn tamper(&self, credential: Credential) {
        self.held().shown = Some(credential);
    }
}

impl Held {
    fn fails_with_what_it_has(&self) -> bool {
        self.failing.is_some() && self.failing == self.shown
    }

    fn own(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        match &self.note {
            Some((owner, observed)) if owner == policy => Ok(*observed),
            Some((owner, _)) => {
                let reason = format!("policy {owner} writes it already");
                Err(Failure::new(FailureClass::Conflict, "use the reader", reason)
                    .with_remedy("give each policy its own reader"))
            }
            None => Ok(Observed::default()),
        }
    }

    fn writable(&self, policy: &PolicyName, version: Version) -> Result<Observed, Failure> {
        let observed = self.own(policy)?;
        if observed.published <= version {
            return Ok(observed);
        }
        let reason = format!("it holds {} already", observed.published);
        Err(Failure::new(FailureClass::Conflict, "write to the reader", reason)
            .with_remedy("empty it if the store is right"))
    }
}

#[async_trait]
impl Consumer for MemoryReader {
    fn label(&self) -> String {
        "a reader in memory".into()
    }

    async fn rehearse(&self, request: PublishRequest<'_>) -> Result<Vec<String>, Failure> {
        let held = self.held();
        held.writable(request.policy, request.version)?;
        Ok(if held.fails_with_what_it_has() { vec![self.label()] } else { Vec::new() })
    }

    async fn publish(&self, request: PublishRequest<'_>) -> Result<Published, Failure> {
        let PublishRequest { policy, version, credential, .. } = request;
        let mut held = self.held();
        let mut observed = held.writable(policy, version)?;
        let is_shown = held.shown.as_ref() == Some(credential);
        if observed.published == version {
            if is_shown {
                return Ok(Published::Already(None));
            }
            observed.reloaded = Version::NONE;
        }
        observed.published = version;
        held.note = Some((policy.clone(), observed));
        held.shown = Some(credential.duplicate());
        Ok(Published::Now)
    }

    async fn reload(&self, request: PublishRequest<'_>) -> Result<(), Failure> {
        let PublishRequest { policy, version, .. } = request;
        let mut held = self.held();
        let mut observed = held.own(policy)?;
        if observed.published < version {
            let reason = format!("it holds {}, not {version}", observed.published);
            return Err(Failure::new(FailureClass::Unavailable, "tell the reader", reason));
        }
        if observed.reloaded < version || Mutant::TimestampRestart.is_on() {
            *held.told.entry(version).or_default() += 1;
            let is_new = held.used.is_some() && held.used != held.shown;
            held.failing = held.shown.as_ref().filter(|_| held.fails && is_new).map(Credential::duplicate);
            // Slow at some versions, and at some quick. Who has nothing to use is quick.
            held.moving = if held.used.is_some() { version.number() % 3 } else { 0 };
            if held.moving == 0 && held.failing.is_none() {
                held.used = held.shown.as_ref().map(Credential::duplicate);
            }
            observed.reloaded = observed.published;
            held.note = Some((policy.clone(), observed));
        }
        Ok(())
    }

    async fn reach(&self, request: PublishRequest<'_>) -> Result<Reach, Failure> {
        let mut held = self.held();
        if held.own(request.policy)?.reloaded < request.version {
            return Ok(Reach::Moving("it was not told yet".into()));
        }
        if held.fails_with_what_it_has() {
            if !held.rolls_back {
                return Ok(Reach::Moving("it crashes".into()));
            }
            let ailment = Ailment { reader: self.label(), why: "it crashes".into(), is_late: false };
            return Ok(Reach::Failing(vec![ailment]));
        }
        if held.moving > 0 {
            held.moving -= 1;
            return Ok(Reach::Moving("it is slow".into()));
        }
        held.used = held.shown.as_ref().map(Credential::duplicate);
        Ok(Reach::Moved)
    }

    async fn observe(&self, policy: &PolicyName) -> Result<Observed, Failure> {
        self.held().own(policy)
    }

    async fn preflight(&self, policy: &PolicyName) -> Vec<Finding> {
        match self.held().own(policy) {
            Ok(_) => vec![Finding::pass("reader", "it is in memory")],
            Err(failure) => vec![Finding::from_failure("reader", &failure)],
        }
    }
}

/// The records that machines push to one place, the oldest first.
#[derive(Default)]
pub(crate) struct MemoryRemote(Mutex<Vec<Record>>);

impl MemoryRemote {
    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().expect("no panic").clone()
    }
}

/// One machine's ledger: a chain that is pushed at once.
pub(crate) struct MemoryLedger {
    folder: Mutex<Vec<Record>>,
    remote: Arc<MemoryRemote>,
}

impl MemoryLedger {
    pub(crate) fn new(remote: Arc<MemoryRemote>) -> Self {
        Self { folder: Mutex::default(), remote }
    }

    fn folder(&self) -> MutexGuard<'_, Vec<Record>> {
        self.folder.lock().expect("no panic")
    }

    pub(crate) fn has(&self, rotation: RotationId) -> bool {
        find(&self.folder(), rotation).is_some()
    }

    /// Loses its last record: its disk was lost before a push. Whether there was one that nobody else has.
    pub(crate) fn lose_last(&self, others: &[Arc<Self>]) -> bool {
        let mut remote = self.remote.0.lock().expect("no panic");
        let Some(last) = remote.last().map(|last| last.rotation) else { return false };
        let is_elsewhere = others.iter().any(|other| !std::ptr::eq(&**other, self) && other.has(last));
        let mut folder = self.folder();
        if is_elsewhere || folder.last().is_none_or(|own| own.rotation != last) {
            return false;
        }
        folder.pop();
        remote.pop();
        true
    }

    /// What the remote lacks goes on top of what it has.
    fn push(&self, folder: &mut Vec<Record>) {
        let mut remote = self.remote.0.lock().expect("no panic");
        if !folder.starts_with(&remote) && !Mutant::ForcePush.is_on() {
            let own = folder.iter().filter(|record| find(&remote, record.rotation).is_none());
            let own: Vec<Record> = own.cloned().collect();
            *folder = [remote.clone(), own].concat();
        }
        remote.clone_from(folder);
    }
}

fn find(records: &[Record], rotation: RotationId) -> Option<Record> {
    records.iter().find(|known| known.rotation == rotation).cloned()
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn append(
        &self,
        record: &Record,
        after: Option<&Record>,
        forbidden: &[&SecretValue],
    ) -> Result<Record, Failure> {
        let holds_value = |record: &Record| {
            let text = serde_json::to_string(record).expect("a record is JSON");
            forbidden.iter().any(|value| value.occurs_in(&text))
        };
        if holds_value(record) {
            return Err(Failure::new(FailureClass::Invalid, "record a rotation", "it holds a value"));
        }
        let mut folder = self.folder();
        if let Some(known) = find(&folder, record.rotation) {
            return Ok(known);
        }
        if let Some(after) = after.filter(|after| !holds_value(after))
            && find(&folder, after.rotation).is_none()
        {
            folder.push(after.clone());
        }
        folder.push(record.clone());
        self.push(&mut folder);
        Ok(find(&folder, record.rotation).expect("it was just put there"))
    }

    async fn holds(&self, record: &Record) -> Result<bool, Failure> {
        Ok(self.has(record.rotation))
    }
}
