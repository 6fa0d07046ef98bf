//! Holds a world to the protocol's invariants, with eyes of its own: it reads the control document as
//! JSON, asks the database and reads files, and knows nothing of the engine's types for any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rekeyd::ident::{PolicyName, Principal, RotationId};
use rekeyd::ledger::{GitLedger, LogFilter, Outcome, Record};
use rekeyd::policy::Policy;
use rekeyd::policy::spec::TargetSpec;
use rekeyd::rotation::plan::Strategy;
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::store::{Place, Store};
use serde_json::Value;

use super::database::Database;
use super::faults::{Wire, Witness};

/// Where records are read.
#[async_trait]
pub(crate) trait Chain: Send + Sync {
    /// A policy's records since a moment, the oldest first.
    async fn records(&self, policy: &PolicyName, since: Timestamp) -> Vec<Record>;

    /// Holds the chain as a whole to its own rules.
    async fn is_whole(&self);
}

/// Where a reader looks.
pub(crate) trait Shown: Send + Sync {
    /// By the template that tests use: principal, value and version, a line each.
    fn text(&self) -> Option<String>;

    /// What each of the reader's processes uses, which may be what it found before; `None` for one that has nothing.
    fn used(&self) -> Vec<Option<Credential>> {
        vec![Checker::held(&self.text())]
    }

    /// How often the reader was told of one version, at most, if that is counted.
    fn told(&self) -> usize {
        0
    }
}

/// One who reads a policy's value.
pub(crate) struct Reader {
    /// As the policy names its place.
    pub(crate) path: PathBuf,
    pub(crate) place: Arc<dyn Shown>,
}

#[async_trait]
impl Chain for GitLedger {
    async fn records(&self, policy: &PolicyName, since: Timestamp) -> Vec<Record> {
        let filter = LogFilter { policy: Some(policy.clone()), since: Some(since), limit: None };
        let entries = self.log(filter).await.expect("the ledger is read");
        entries.into_iter().rev().map(|entry| entry.record).collect()
    }

    async fn is_whole(&self) {
        let report = self.verify().await.expect("the ledger is read");
        assert!(report.is_clean(), "I6: {report:?}");
    }
}

impl Shown for PathBuf {
    fn text(&self) -> Option<String> {
        std::fs::read_to_string(self).ok()
    }
}

/// Watches one policy.
pub(crate) struct Checker {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) database: Arc<Database>,
    pub(crate) ledger: Arc<dyn Chain>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) policy: Policy,
    pub(crate) readers: Vec<Reader>,
    /// When it came into the world.
    pub(crate) since: Timestamp,
    pub(crate) memory: Mutex<Memory>,
}

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Memory {
    /// The candidate of each rotation; of one whose values changed places, what was in force before.
    candidates: BTreeMap<(RotationId, bool), Credential>,
    /// The readers that each rotation was opened for.
    registered: BTreeMap<RotationId, BTreeSet<PathBuf>>,
    /// Every value that was ever in the store or a document.
    values: Vec<Credential>,
    fence: u64,
    /// Values that a hand other than rekeyd's put on the database.
    by_hand: Vec<Credential>,
    /// Values that such a hand put beside one of rekeyd's.
    beside: Vec<Credential>,
    /// A hand other than rekeyd's wrote to the store: what is in there need not work.
    store_is_foreign: bool,
}

/// A control document, as far as the invariants need it.
struct Seen {
    current: Option<Credential>,
    /// By the path of the reader.
    shown: BTreeMap<PathBuf, Option<String>>,
    /// What each reader uses.
    used: BTreeMap<PathBuf, Vec<Option<Credential>>>,
    open: Option<Open>,
    closed: Option<Value>,
    /// The rotation that brought the value in force.
    last: Option<RotationId>,
}

struct Open {
    rotation: RotationId,
    readers: BTreeSet<PathBuf>,
    /// `None` while the target that makes it was not heard of.
    candidate: Option<Credential>,
    outgoing: Option<Credential>,
    fence: u64,
    is_back: bool,
    is_contained: bool,
    is_adoption: bool,
    reverts: bool,
}

impl Checker {
    /// Whether a value that was ever in the store or a document is in a text.
    pub(crate) fn is_told_in(&self, text: &str) -> bool {
        // Whoever found something wrong before may have had it.
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values =
            memory.values.iter().map(|value| value.value.expose_str().expect("values in tests are text"));
        values.any(|value| text.contains(value))
    }

    /// A value that somebody else put on the database, and that rekeyd therefore need not know.
    pub(crate) fn by_hand(&self, credential: &Credential) {
        self.memory.lock().expect("no panic").by_hand.push(credential.duplicate());
    }

    /// A value that somebody else put on the database beside rekeyd's own.
    pub(crate) fn beside(&self, credential: &Credential) {
        self.memory.lock().expect("no panic").beside.push(credential.duplicate());
    }

    /// From now on the store may hold what somebody else wrote.
    pub(crate) fn store_is_foreign(&self, foreign: bool) {
        self.memory.lock().expect("no panic").store_is_foreign = foreign;
    }

    async fn read(&self) -> Seen {
        let spec = self.policy.spec();
        let current = self.store.current(Place::from(&spec.store)).await.expect("the store is read");
        let control = self.store.control(self.policy.name()).await.expect("the store is read");
        let document: Option<Value> = control
            .map(|control| serde_json::from_slice(control.document.expose()).expect("the document is JSON"));
        let open = document.as_ref().and_then(|document| document.get("open")).map(Open::read);
        let closed = document.as_ref().and_then(|document| document.get("closed")).cloned();
        let before = document.as_ref().map(|document| match document.get("open") {
            Some(open) => &open["before"],
            None => &document["closed"],
        });
        let last = before.and_then(|before| before["current"]["rotation"].as_str()?.parse().ok());
        let current = current.map(|current| current.credential);
        let shown = self.readers.iter().map(|reader| (reader.path.clone(), reader.place.text())).collect();
        let used = self.readers.iter().map(|reader| (reader.path.clone(), reader.place.used())).collect();
        Seen { current, shown, used, open, closed, last }
    }

    fn is_in_place(&self) -> bool {
        Strategy::of(&self.policy.spec().target) == Strategy::InPlace
    }

    /// The target makes the values: one that was made in vain is known to nobody.
    fn mints(&self) -> bool {
        Strategy::of(&self.policy.spec().target).mints()
    }

    fn is_generated(&self) -> bool {
        matches!(self.policy.spec().target, TargetSpec::Generated(_))
    }

    /// What a reader finds.
    pub(crate) fn content(credential: &Credential, version: u64) -> String {
        let value = credential.value.expose_str().expect("values in tests are text");
        format!("{}\n{value}\n{version}\n", credential.principal)
    }

    fn held(shown: &Option<String>) -> Option<Credential> {
        let mut lines = shown.as_deref()?.lines();
        let principal = lines.next()?.parse().ok()?;
        Some(Credential::new(principal, SecretValue::new(lines.next()?.as_bytes().to_vec())))
    }

    fn check_between(&self, seen: &Seen, after: &str) {
        let mut memory = self.memory.lock().expect("no panic");
        memory.remember(seen);
        if let Some(open) = &seen.open {
            assert!(open.fence >= memory.fence, "I8: the fence went back after {after}");
            memory.fence = open.fence;
            if let Some(candidate) = &open.candidate {
                let first = memory.candidates.entry((open.rotation, open.reverts));
                let first = first.or_insert_with(|| candidate.duplicate());
                assert_eq!(first, candidate, "I3: a second candidate after {after}");
            }
            memory.registered.entry(open.rotation).or_insert_with(|| open.readers.clone());
        }
        for reader in &self.readers {
            assert!(reader.place.told() <= 1, "I9: a reader was told twice of one version after {after}");
        }
        if self.is_generated() {
            return;
        }

        // I1. What the database accepts is durable in the store.
        let open = seen.open.as_ref();
        let durable = [
            seen.current.as_ref(),
            open.and_then(|open| open.candidate.as_ref()),
            open.and_then(|open| open.outgoing.as_ref()),
        ];
        for accepted in self.database.accepted(&self.policy.principals()) {
            let known = durable.iter().flatten().any(|known| **known == accepted);
            let by_hand = memory.by_hand.contains(&accepted) || memory.beside.contains(&accepted);
            // A key that was made in vain: nobody has its value, and it was never used.
            let orphan = self.mints() && !self.database.was_used(&accepted);
            let foreign = by_hand || orphan || memory.store_is_foreign;
            assert!(known || foreign, "I1: a value of {} is lost after {after}", accepted.principal);
        }

        // I2. What readers are told to use works, unless somebody else put another value in its place.
        let replaced = |value: &Credential| {
            let mut by_hand = memory.by_hand.iter().filter(|other| other.principal == value.principal);
            by_hand.any(|other| self.database.accepts(other))
        };
        let window = self.is_in_place() && open.is_some();
        let adopts = open.is_some_and(|open| open.is_adoption);
        if let Some(current) = &seen.current
            && !window
            && !adopts
            && !memory.store_is_foreign
            && !replaced(current)
        {
            assert!(self.database.accepts(current), "I2: the store's value is refused after {after}");
        }
        let contained = open.is_some_and(|open| open.is_contained);
        let used = memory.served(seen, &seen.used).flatten().flatten().map(Credential::duplicate);
        for held in memory.served(seen, &seen.shown).filter_map(Self::held).chain(used) {
            let by_hand = memory.by_hand.iter().any(|value| value.principal == held.principal);
            if !window && !contained && !memory.store_is_foreign && !by_hand {
                assert!(self.database.accepts(&held), "I2: a reader's value is refused after {after}");
            }
        }

        // I4. The outgoing value dies when every reader has the new one.
        if let Some(open) = open
            && let Some(outgoing) = &open.outgoing
            && !open.is_back
            && !open.is_contained
            && !self.is_in_place()
            && !memory.store_is_foreign
            && !replaced(outgoing)
            && !self.database.accepts(outgoing)
        {
            for (path, shown) in &seen.shown {
                let held = Self::held(shown);
                let candidate = open.candidate.as_ref();
                // Where somebody took it away, who uses something finds nothing else.
                let moved = (held.is_none() || held.as_ref() == candidate)
                    && seen.used[path].iter().all(|used| used.as_ref() == candidate);
                let concerned = memory.registered[&open.rotation].contains(path);
                assert!(moved || !concerned, "I4: retired too early after {after}");
            }
        }
    }

    /// Holds the world to what is true once nothing is under way.
    pub(crate) async fn at_rest(&self) -> Vec<Record> {
        let seen = self.read().await;
        self.memory.lock().expect("no panic").remember(&seen);
        assert!(seen.open.is_none(), "I7: a rotation is open");
        let records = self.records().await;
        let Some(closed) = &seen.closed else {
            assert_eq!(records, [], "I6: records without a rotation");
            return records;
        };
        let version = closed["version"].as_u64().expect("a version");

        self.check_values(&seen, version, &records);
        self.check_records(&records, version, closed);
        records
    }

    /// Holds the ledger as a whole to its own rules.
    pub(crate) async fn ledger_is_whole(&self) {
        self.ledger.is_whole().await;
    }

    /// This policy's records, the oldest first.
    pub(crate) async fn records(&self) -> Vec<Record> {
        self.ledger.records(self.policy.name(), self.since).await
    }

    fn check_values(&self, seen: &Seen, version: u64, records: &[Record]) {
        let memory = self.memory.lock().expect("no panic");
        if memory.store_is_foreign {
            return;
        }
        let Some(current) = &seen.current else {
            assert_eq!(version, 0, "I2: there is a version and no value");
            return;
        };
        if !self.is_generated() {
            assert!(self.database.accepts(current), "I2: the value in force is refused");
            for value in memory.values.iter().filter(|value| *value != current) {
                assert!(!self.database.accepts(value), "I5: an old value of {} works", value.principal);
            }
        }
        // An adoption tells nobody: its readers have the value already.
        let told = records.iter().rfind(|record| record.from != record.to);
        if told.is_some_and(|record| record.trigger != rekeyd::ledger::TriggerKind::Adopt) {
            let expected = Self::content(current, version);
            for text in memory.served(seen, &seen.shown) {
                assert_eq!(text.as_ref(), Some(&expected), "I7: a reader has something else at {version}");
            }
        }
    }

    fn check_records(&self, records: &[Record], version: u64, closed: &Value) {
        let memory = self.memory.lock().expect("no panic");
        let recorded: BTreeSet<RotationId> = records.iter().map(|record| record.rotation).collect();
        assert_eq!(recorded.len(), records.len(), "I6: a rotation is recorded twice");
        for (rotation, _) in memory.candidates.keys() {
            assert!(recorded.contains(rotation), "I6: rotation {rotation} is not recorded");
        }
        let mut at = 0;
        let mut requests = BTreeSet::new();
        for record in records {
            assert_eq!(record.from.number(), at, "I6: the chain has a gap");
            match record.outcome {
                Outcome::Rotated => {
                    at += 1;
                    assert!(requests.insert(record.request.to_string()), "I9: {} ran twice", record.request);
                    assert_ne!(record.proof.old_refused, Some(false), "I5: not proven");
                }
                // Readers failed, and got back what they had.
                Outcome::RolledBack if record.to != record.from => {
                    at += 2;
                    assert!(requests.insert(record.request.to_string()), "I9: {} ran twice", record.request);
                    assert_ne!(record.proof.old_refused, Some(false), "I5: not proven");
                    assert!(record.failure.is_some(), "I6: a record does not say why it failed");
                }
                Outcome::RolledBack | Outcome::Abandoned => {
                    assert!(record.failure.is_some(), "I6: a record does not say why it failed");
                }
            }
            assert_eq!(record.to.number(), at, "I6: the chain has a gap");
        }
        assert_eq!(version, at, "I6: the marker and the ledger differ");
        if let Some(last) = records.last() {
            assert_eq!(closed["record"]["rotation"], last.rotation.to_string(), "I6: another last record");
            assert_eq!(closed["record"]["outcome"], last.outcome.to_string(), "I6: another last outcome");
        }
        let text = serde_json::to_string(records).expect("records are JSON");
        for value in &memory.values {
            let value = value.value.expose_str().expect("values in tests are text");
            assert!(!text.contains(value), "I6: a value is in the ledger");
        }
    }
}

#[async_trait]
impl Witness for Checker {
    /// What another process does meanwhile cannot be read at one moment; it is looked at afterwards.
    async fn look(&self, after: &str) {
        let Some(before) = self.wire.quiet() else { return };
        let seen = self.read().await;
        if self.wire.quiet() == Some(before) {
            self.check_between(&seen, after);
        }
    }
}

impl Memory {
    /// What those find who were served with the value in force and will be with the next one. A policy may
    /// have been edited in between: who is no longer named, or was not yet, is on his own.
    fn served<'a, T>(&'a self, seen: &'a Seen, all: &'a BTreeMap<PathBuf, T>) -> impl Iterator<Item = &'a T> {
        let last = seen.last.map(|last| self.registered.get(&last));
        let open = seen.open.as_ref().map(|open| self.registered.get(&open.rotation));
        // One that was not seen open may have been for anybody.
        let named = move |path: &PathBuf| {
            last.is_some_and(|readers| readers.is_none_or(|readers| readers.contains(path)))
                && open.flatten().is_none_or(|readers| readers.contains(path))
        };
        all.iter().filter(move |(path, _)| named(path)).map(|(_, one)| one)
    }

    fn remember(&mut self, seen: &Seen) {
        let open = seen.open.as_ref();
        let known = [
            seen.current.as_ref(),
            open.and_then(|open| open.candidate.as_ref()),
            open.and_then(|open| open.outgoing.as_ref()),
        ];
        for value in known.into_iter().flatten() {
            if !self.values.contains(value) {
                self.values.push(value.duplicate());
            }
        }
    }
}

impl Open {
    fn read(open: &Value) -> Self {
        let course = &open["course"];
        let kind = |trigger: &Value| trigger["kind"].as_str().map(ToOwned::to_owned);
        let contained = [&open["trigger"], &course["takenOver"], &course["owes"]]
            .into_iter()
            .any(|trigger| kind(trigger).as_deref() == Some("contain"));
        Self {
            readers: open["plan"]["spec"]["consumers"]
                .as_array()
                .expect("consumers")
                .iter()
                .map(|consumer| {
                    let places = [
                        &consumer["file"]["path"],
                        &consumer["kubernetes"]["secret"],
                        &consumer["jenkins"]["id"],
                        &consumer["http"]["recipe"],
                    ];
                    places.into_iter().find_map(Value::as_str).expect("a place").into()
                })
                .collect(),
            rotation: open["rotation"].as_str().and_then(|id| id.parse().ok()).expect("a rotation"),
            candidate: credential(&open["candidate"]),
            outgoing: credential(&open["outgoing"]),
            fence: course["fence"].as_u64().expect("a fence"),
            is_back: course["direction"] == "back",
            is_contained: contained,
            reverts: course["reverts"] == true,
            is_adoption: kind(&open["trigger"]).as_deref() == Some("adopt"),
        }
    }
}

fn credential(form: &Value) -> Option<Credential> {
    let principal: Principal = form["principal"].as_str()?.parse().expect("a principal");
    let value = STANDARD.decode(form["value"].as_str()?).expect("base64");
    Some(Credential::new(principal, SecretValue::new(value)))
}
