//! What an API server keeps. Each change has a revision of its own, and the last ones are remembered: whoever
//! watches is told of them, and whoever reads late may be shown an earlier state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::apply::{Managers, apply, merge};

/// So many changes are remembered.
const REMEMBERED: usize = 600;

/// An object's place: its resource, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// An object.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    /// Without its managed fields.
    pub(super) object: Value,
    pub(super) managers: Managers,
    /// As clients see it.
    shown: Arc<Value>,
}

/// What became of an object.
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    at: Duration,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// A moment: as it is written, and since the server began.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    at: Timestamp,
    pub(super) text: String,
    pub(super) passed: Duration,
}

impl Moment {
    pub(super) fn new(at: Timestamp, passed: Duration) -> Self {
        Self { at, text: format!("{at:.0}"), passed }
    }

    /// The same moment for whoever waits only.
    pub(super) fn after(&self, passed: Duration) -> Self {
        Self { passed: self.passed + passed, ..self.clone() }
    }

    /// So many seconds later, as it is written.
    pub(super) fn later(&self, seconds: i64) -> String {
        format!("{:.0}", self.at + SignedDuration::from_secs(seconds))
    }
}

/// Why a request is not done, in an API server's words.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
}

#[derive(Default)]
pub(super) struct Objects {
    pub(super) revision: u64,
    objects: BTreeMap<Key, Stored>,
    changes: VecDeque<Change>,
    /// Of the last change that was forgotten.
    forgotten: u64,
    made: u64,
    /// How often each Deployment's template was raised to a version of a Secret.
    pub(super) raised: BTreeMap<(String, String, u64), usize>,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }

    fn missing(key: &Key) -> Self {
        Self::new(404, "NotFound", format!("{} \"{}\" not found", key.resource, key.name))
    }

    fn conflict(key: &Key) -> Self {
        Self::new(409, "Conflict", format!("{} \"{}\": the object has been modified", key.resource, key.name))
    }
}

impl Key {
    pub(super) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl Objects {
    pub(super) fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        self.objects.get(key).map(|stored| Arc::clone(&stored.shown)).ok_or_else(|| Refusal::missing(key))
    }

    /// As it is, without managed fields.
    pub(super) fn peek(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key).map(|stored| &stored.object)
    }

    pub(super) fn all<'a>(
        &'a self,
        resource: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Stored)> {
        let from = Key::new(resource, namespace, "");
        let within = move |(key, _): &(&Key, &Stored)| key.resource == resource && key.namespace == namespace;
        self.objects.range(from..).take_while(within)
    }

    pub(super) fn every_of<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a Key> {
        let within = move |key: &&Key| key.resource == resource;
        self.objects.range(Key::new(resource, "", "")..).map(|(key, _)| key).take_while(within)
    }

    pub(super) fn every(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter().map(|(key, stored)| (key, &*stored.shown))
    }

    /// The objects of a resource, and the revision that this is the state of. `behind`: as it was that long ago.
    pub(super) fn list(
        &self,
        resource: &str,
        namespace: &str,
        behind: Option<Duration>,
    ) -> (u64, Vec<Arc<Value>>) {
        let mut found: BTreeMap<&Key, Arc<Value>> =
            self.all(resource, namespace).map(|(key, stored)| (key, Arc::clone(&stored.shown))).collect();
        let mut revision = self.revision;
        for change in self.since(behind) {
            revision = change.revision - 1;
            if change.key.resource == resource && change.key.namespace == namespace {
                match &change.before {
                    Some(before) => drop(found.insert(&change.key, Arc::clone(before))),
                    None => drop(found.remove(&change.key)),
                }
            }
        }
        (revision, found.into_values().collect())
    }

    /// An object as it was some time ago.
    pub(super) fn earlier(&self, key: &Key, behind: Option<Duration>) -> Result<Arc<Value>, Refusal> {
        match self.since(behind).filter(|change| change.key == *key).last() {
            None => self.get(key),
            Some(change) => change.before.clone().ok_or_else(|| Refusal::missing(key)),
        }
    }

    /// What changed since a moment, the last first.
    fn since(&self, moment: Option<Duration>) -> impl Iterator<Item = &Change> {
        let moment = moment.unwrap_or(Duration::MAX);
        self.changes.iter().rev().take_while(move |change| change.at > moment)
    }

    /// What happened after a revision; refused where that is not remembered.
    pub(super) fn after(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Refusal> {
        if revision < self.forgotten {
            return Err(Refusal::new(410, "Expired", format!("too old resource version: {revision}")));
        }
        let from = self.changes.partition_point(|change| change.revision <= revision);
        Ok(self.changes.range(from..))
    }

    /// Forgets all changes, as a server does that begins anew.
    pub(super) fn forget(&mut self) {
        self.changes.clear();
        self.forgotten = self.revision;
    }

    pub(super) fn create(
        &mut self,
        key: &Key,
        manager: &str,
        body: &Value,
        now: &Moment,
        dry: bool,
    ) -> Result<Arc<Value>, Refusal> {
        if self.objects.contains_key(key) {
            let message = format!("{} \"{}\" already exists", key.resource, key.name);
            return Err(Refusal::new(409, "AlreadyExists", message));
        }
        let mut next = Stored { object: body.clone(), ..Stored::default() };
        next.managers.updated(manager, &Value::Null, body);
        Ok(self.commit(key, next, now, dry))
    }

    pub(super) fn apply(
        &mut self,
        key: &Key,
        (manager, force): (&str, bool),
        body: &Value,
        now: &Moment,
        dry: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.objects.get(key);
        // A revision keeps nobody from making what is not there, a UID does.
        let differs = |field: &str, live: &Stored| {
            body["metadata"][field].as_str().is_some_and(|asked| live.object["metadata"][field] != asked)
        };
        match live {
            Some(live) if differs("resourceVersion", live) => return Err(Refusal::conflict(key)),
            Some(live) if differs("uid", live) => {
                return Err(Refusal::new(422, "Invalid", "metadata.uid: field is immutable"));
            }
            None if body["metadata"]["uid"].is_string() => {
                return Err(Refusal::new(409, "Conflict", "uid mismatch: no existing object was found"));
            }
            _ => {}
        }
        let bare = Stored {
            object: json!({"apiVersion": body["apiVersion"], "kind": body["kind"]}),
            ..Stored::default()
        };
        let next = apply(live.unwrap_or(&bare), manager, force, body)?;
        self.check(key, live, &next)?;
        Ok(self.commit(key, next, now, dry))
    }

    pub(super) fn merge(
        &mut self,
        key: &Key,
        manager: &str,
        patch: &Value,
        now: &Moment,
        dry: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.objects.get(key).ok_or_else(|| Refusal::missing(key))?;
        let asked = patch["metadata"].get("resourceVersion").unwrap_or(&Value::Null);
        if !asked.is_null() && *asked != live.object["metadata"]["resourceVersion"] {
            return Err(Refusal::conflict(key));
        }
        let mut next = live.clone();
        merge(&mut next.object, patch);
        next.managers.updated(manager, &live.object, &next.object);
        self.check(key, Some(live), &next)?;
        Ok(self.commit(key, next, now, dry))
    }

    /// A controller writes what it saw.
    pub(super) fn set(&mut self, key: &Key, now: &Moment, change: impl FnOnce(&mut Value)) {
        let Some(live) = self.objects.get(key) else { return };
        let mut next = live.clone();
        change(&mut next.object);
        self.commit(key, next, now, false);
    }

    /// `grace`: it is only marked, and goes when somebody sees to it.
    pub(super) fn delete(
        &mut self,
        key: &Key,
        uid: Option<&str>,
        until: Option<String>,
        now: &Moment,
        dry: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let live = self.objects.get(key).ok_or_else(|| Refusal::missing(key))?;
        if uid.is_some_and(|uid| live.object["metadata"]["uid"] != uid) {
            return Err(Refusal::new(409, "Conflict", "the UID in the precondition does not match"));
        }
        let shown = Arc::clone(&live.shown);
        match until {
            _ if dry => {}
            None => self.remove(key, now),
            Some(_) if live.object["metadata"].get("deletionTimestamp").is_some() => {}
            Some(until) => {
                self.set(key, now, |object| object["metadata"]["deletionTimestamp"] = until.into())
            }
        }
        Ok(shown)
    }

    pub(super) fn remove(&mut self, key: &Key, now: &Moment) {
        let Some(gone) = self.objects.remove(key) else { return };
        self.revision += 1;
        self.remember(key, now, Some(gone.shown), None);
    }

    /// What no client may change.
    fn check(&self, key: &Key, live: Option<&Stored>, next: &Stored) -> Result<(), Refusal> {
        let Some(live) = live.filter(|_| key.resource == "secrets") else { return Ok(()) };
        let changed = |field: &str| live.object.get(field) != next.object.get(field);
        if changed("type") || (live.object["immutable"] == true && (changed("data") || changed("immutable")))
        {
            return Err(Refusal::new(422, "Invalid", format!("Secret \"{}\" is invalid", key.name)));
        }
        Ok(())
    }

    fn commit(&mut self, key: &Key, mut next: Stored, now: &Moment, dry: bool) -> Arc<Value> {
        let before = self.objects.get(key);
        if let Some(before) = before
            && before.object == next.object
            && before.managers == next.managers
        {
            return Arc::clone(&before.shown);
        }
        let generation = match before {
            Some(before) if before.object.get("spec") == next.object.get("spec") => {
                before.object["metadata"]["generation"].clone()
            }
            Some(before) => (before.object["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into(),
            None => 1.into(),
        };
        let metadata = &mut next.object["metadata"];
        metadata["name"] = key.name.as_str().into();
        metadata["namespace"] = key.namespace.as_str().into();
        metadata["resourceVersion"] = (self.revision + 1).to_string().into();
        if key.resource != "secrets" && key.resource != "events" {
            metadata["generation"] = generation;
        }
        if before.is_none() {
            metadata["uid"] = format!("uid-{}", self.made + 1).into();
            metadata["creationTimestamp"] = now.text.as_str().into();
        }
        let mut shown = next.object.clone();
        // Of the others nobody looks at them, and they are most of an object.
        if key.resource == "secrets" {
            shown["metadata"]["managedFields"] = next.managers.shown(&now.text);
        }
        next.shown = Arc::new(shown);
        let (before, shown) = (before.map(|before| Arc::clone(&before.shown)), Arc::clone(&next.shown));
        if dry {
            return shown;
        }
        if key.resource == "deployments" {
            self.note_restarts(key, before.as_deref(), &shown);
        }
        self.made += u64::from(before.is_none());
        self.revision += 1;
        self.objects.insert(key.clone(), next);
        self.remember(key, now, before, Some(Arc::clone(&shown)));
        shown
    }

    fn remember(&mut self, key: &Key, now: &Moment, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        let change = Change { revision: self.revision, key: key.clone(), at: now.passed, before, after };
        self.changes.push_back(change);
        if self.changes.len() > REMEMBERED {
            self.forgotten = self.changes.pop_front().map_or(0, |change| change.revision);
        }
    }

    fn note_restarts(&mut self, key: &Key, before: Option<&Value>, after: &Value) {
        const VERSION: &str = "rekeyd.dev/version.";
        let versions = |object: &Value| -> BTreeMap<String, u64> {
            let all = object.pointer("/spec/template/metadata/annotations").and_then(Value::as_object);
            let ours = all.into_iter().flatten().filter(|(name, _)| name.starts_with(VERSION));
            ours.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?))).collect()
        };
        let before = before.map(versions).unwrap_or_default();
        for (name, version) in versions(after) {
            if before.get(&name).is_none_or(|before| *before < version) {
                *self.raised.entry((key.name.clone(), name, version)).or_default() += 1;
            }
        }
    }
}
