//! The `RotationPolicy` resources of a cluster: watched, remembered, and told how they stand.
//!
//! What is remembered of each is its text, as the loader of policy files takes it. A change of its status or
//! annotations is no change of it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::select_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::event::Said;
use super::resource::PolicyStatus;
use super::{Clusters, MANAGER, failure, is_stranger, trouble};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::{DnsLabel, PolicyName, RequestId};
use crate::policy::load::Text;
use crate::policy::{API_VERSION, KIND};
use crate::settings::ResourcesSettings;

/// Asks for one rotation, by a request id.
const ROTATE: &str = "rekeyd.dev/rotate";

/// Asks for one containment, by a request id.
const CONTAIN: &str = "rekeyd.dev/contain";

/// Why it is asked for.
const REASON: &str = "rekeyd.dev/reason";

/// How many answered requests a status remembers.
const REMEMBERED: usize = 8;

/// Until a client is asked for again.
const PAUSE: Duration = Duration::from_secs(30);

/// So many policies one answer of the API server holds.
const PAGE: u32 = 100;

/// The policies of a cluster.
pub struct Resources {
    clusters: Arc<Clusters>,
    settings: ResourcesSettings,
    known: Mutex<BTreeMap<PolicyName, Resource>>,
    /// Who writes a status: each policy has one of these, which others may share.
    writers: Vec<tokio::sync::Mutex<()>>,
}

/// So many statuses are written at the same time at most.
const WRITERS: usize = 64;

/// One policy of a cluster, as it was last seen.
#[derive(Debug, Clone)]
struct Resource {
    text: Text,
    uid: Box<str>,
    generation: Option<i64>,
    /// The generation that was read last: what is said of the policy is said of that one.
    considered: Option<i64>,
    status: Told,
    asked: Vec<Asked>,
    /// Annotations that ask for something and do not say under which id.
    misread: Vec<&'static str>,
}

/// A status as it is written. There may be thousands, most of which are only ever compared: as a text they take a
/// fifth of the room.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told(Box<str>);

impl Told {
    fn new(status: &PolicyStatus) -> Self {
        Self(serde_json::to_string(status).expect("a status is JSON").into())
    }

    fn read(&self) -> PolicyStatus {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// A rotation or containment that an annotation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub policy: PolicyName,
    pub contains: bool,
    pub request: RequestId,
    pub reason: Option<String>,
    /// Who put the annotation there, as far as the API server says: the name of a program.
    pub by: String,
}

impl Asked {
    /// What it is met once by, whatever reason is given for it.
    #[must_use]
    pub fn id(&self) -> (PolicyName, String) {
        (self.policy.clone(), self.key())
    }

    /// As a status remembers it.
    fn key(&self) -> String {
        let verb = if self.contains { "contain" } else { "rotate" };
        format!("{verb}:{}", self.request)
    }
}

impl Resources {
    #[must_use]
    pub fn new(clusters: Arc<Clusters>, settings: ResourcesSettings) -> Self {
        Self {
            clusters,
            settings,
            known: Mutex::default(),
            writers: (0..WRITERS).map(|_| tokio::sync::Mutex::default()).collect(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PolicyName, Resource>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self, policy: &PolicyName) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        policy.hash(&mut hasher);
        &self.writers[usize::try_from(hasher.finish() % WRITERS as u64).expect("a small number")]
    }

    /// What the loader takes, by name.
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        self.known().values().map(|resource| resource.text.clone()).collect()
    }

    /// The generations of all, by name.
    #[must_use]
    pub fn generations(&self) -> BTreeMap<PolicyName, Option<i64>> {
        self.known().iter().map(|(name, resource)| (name.clone(), resource.generation)).collect()
    }

    /// Policies of these generations, or of later ones, were read.
    pub fn consider(&self, generations: BTreeMap<PolicyName, Option<i64>>) {
        let mut known = self.known();
        for (name, generation) in generations {
            if let Some(resource) = known.get_mut(&name) {
                resource.considered = generation;
            }
        }
    }

    /// What a policy's annotations ask for in a way that nobody can answer, in words.
    #[must_use]
    pub fn misread(&self, policy: &PolicyName) -> Option<String> {
        let known = self.known();
        let misread = &known.get(policy).filter(|resource| !resource.misread.is_empty())?.misread;
        Some(format!(
            "annotation {} holds no request id and asks for nothing: use 1 to 128 printable characters without blanks, \
             and `{REASON}` for the reason",
            misread.join(" and ")
        ))
    }

    /// The names of all.
    #[must_use]
    pub fn names(&self) -> Vec<PolicyName> {
        self.known().keys().cloned().collect()
    }

    /// What stands for a policy in diagnostics, if it is one of these.
    #[must_use]
    pub fn label(&self, policy: &PolicyName) -> Option<String> {
        self.known().get(policy).map(|resource| resource.text.name.clone())
    }

    /// What annotations ask for and no status says is answered.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        let known = self.known();
        let unanswered = |resource: &Resource| {
            let answered = resource.status.read().answered;
            resource.asked.clone().into_iter().filter(move |asked| !answered.contains(&asked.key()))
        };
        known.values().filter(|resource| !resource.asked.is_empty()).flat_map(unanswered).collect()
    }

    /// Reads all of them once.
    ///
    /// # Errors
    /// When the API server does not show them.
    pub async fn list(&self) -> Result<(), Failure> {
        let client = self.clusters.client(&self.settings.cluster).await?;
        let resource = api_resource();
        let apis: Vec<Api<DynamicObject>> = match self.settings.namespaces.as_slice() {
            [] => vec![Api::all_with(client, &resource)],
            some => some
                .iter()
                .map(|namespace| Api::namespaced_with(client.clone(), namespace.as_str(), &resource))
                .collect(),
        };
        for api in apis {
            let mut params = ListParams::default().limit(PAGE);
            loop {
                let page = api.list(&params).await;
                let page = page.map_err(|error| failure(&error, "list RotationPolicies"))?;
                self.known().extend(page.items.into_iter().filter_map(read));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Watches them until nobody listens. `changed` is told when a text is, `asked` when an annotation is;
    /// `seen` becomes true when all were seen once.
    pub async fn watch(
        self: Arc<Self>,
        changed: mpsc::Sender<()>,
        asked: mpsc::Sender<()>,
        seen: watch::Sender<bool>,
    ) {
        while !changed.is_closed() {
            match self.clusters.watcher(&self.settings.cluster).await {
                Ok(client) => self.watch_with(client, &changed, &asked, &seen).await,
                Err(failure) => tracing::error!(%failure, "cannot watch policies"),
            }
            SystemClock.sleep(PAUSE).await;
        }
    }

    /// Until the server does not know who asks any more: a client's credentials may have come to their end.
    async fn watch_with(
        &self,
        client: kube::Client,
        changed: &mpsc::Sender<()>,
        asked: &mpsc::Sender<()>,
        seen: &watch::Sender<bool>,
    ) {
        let resource = api_resource();
        let namespaces: Vec<Option<&str>> = match self.settings.namespaces.as_slice() {
            [] => vec![None],
            some => some.iter().map(|namespace| Some(namespace.as_str())).collect(),
        };
        let mut unseen = namespaces.len();
        let streams = namespaces.into_iter().map(|namespace| {
            let api: Api<DynamicObject> = match namespace {
                None => Api::all_with(client.clone(), &resource),
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            };
            let namespace = namespace.map(ToOwned::to_owned);
            let stream = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff();
            stream.map(move |event| (namespace.clone(), event)).boxed()
        });
        let mut events = select_all(streams);
        let mut fresh: BTreeMap<Option<String>, BTreeMap<PolicyName, Resource>> = BTreeMap::new();
        while let Some((namespace, event)) = events.next().await {
            let is_changed = match event {
                Err(error) => {
                    let failure = trouble(&error, "watch RotationPolicies");
                    tracing::warn!(%failure, "policies may be out of date");
                    if is_stranger(&error) {
                        return;
                    }
                    false
                }
                Ok(Event::Init) => {
                    fresh.insert(namespace, BTreeMap::new());
                    false
                }
                Ok(Event::InitApply(object)) => {
                    if let Some((name, resource)) = read(object) {
                        fresh.entry(namespace).or_default().insert(name, resource);
                    }
                    false
                }
                Ok(Event::InitDone) => {
                    let listed = fresh.remove(&namespace).unwrap_or_default();
                    let first = unseen > 0;
                    unseen = unseen.saturating_sub(1);
                    let replaced = self.replace(namespace.as_deref(), listed);
                    if unseen == 0 {
                        seen.send_replace(true);
                    }
                    replaced || first
                }
                Ok(Event::Apply(object)) => {
                    read(object).is_some_and(|(name, resource)| self.put(name, resource))
                }
                Ok(Event::Delete(object)) => {
                    read(object).is_some_and(|(name, _)| self.known().remove(&name).is_some())
                }
            };
            if !self.asked().is_empty() {
                let _ = asked.try_send(());
            }
            // A full channel has the news already.
            if is_changed && matches!(changed.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    }

    /// Whether there is something new to be read or told. What is as it was stays where it is in memory: a status of
    /// each of thousands comes back by the watch.
    fn put(&self, name: PolicyName, resource: Resource) -> bool {
        let mut known = self.known();
        let Some(before) = known.get_mut(&name) else {
            known.insert(name, resource);
            return true;
        };
        let is_news = before.text != resource.text
            || before.misread != resource.misread
            || before.generation != resource.generation;
        if is_news || before.uid != resource.uid {
            let considered = before.considered.filter(|_| before.uid == resource.uid);
            *before = Resource { considered, ..resource };
            return is_news;
        }
        before.asked = resource.asked;
        if before.status != resource.status {
            before.status = resource.status;
        }
        false
    }

    fn replace(&self, namespace: Option<&str>, listed: BTreeMap<PolicyName, Resource>) -> bool {
        let mut known = self.known();
        let before = known.len();
        known.retain(|name, _| {
            namespace.is_some_and(|namespace| name.namespace() != namespace) || listed.contains_key(name)
        });
        let gone = known.len() != before;
        drop(known);
        listed.into_iter().fold(gone, |changed, (name, resource)| self.put(name, resource) || changed)
    }

    /// Says how a policy stands and which requests are answered, if that is not what its status says already. Both in
    /// one write: whoever waits for an answer finds what came of it.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn say(
        &self,
        policy: &PolicyName,
        answers: &[Asked],
        make: impl FnOnce(Option<i64>, &PolicyStatus) -> PolicyStatus,
    ) -> Result<(), Failure> {
        // Two that write at a time would make something of the same status, and the slower one would win.
        let _turn = self.writer(policy).lock().await;
        let Some(resource) = self.known().get(policy).cloned() else { return Ok(()) };
        let mut status = make(resource.considered, &resource.status.read());
        remember(&mut status.answered, answers, &resource.asked);
        let told = Told::new(&status);
        if told == resource.status {
            return Ok(());
        }
        let doing = format!("write the status of RotationPolicy {policy}");
        let client = self.clusters.client(&self.settings.cluster).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(client, policy.namespace(), &api_resource());
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": policy.name(), "namespace": policy.namespace(), "uid": resource.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(policy.name(), &params, &Patch::Apply(&body)).await {
            Ok(_) => {
                between!("kubernetes.status.written");
                if !answers.is_empty() {
                    between!("kubernetes.status.answered");
                }
                // The watch says so, too, a little later.
                if let Some(known) = self.known().get_mut(policy).filter(|known| known.uid == resource.uid) {
                    known.status = told;
                }
                Ok(())
            }
            // Deleted, or made anew under the same name: the watch says so.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(failure(&error, &doing)),
        }
    }

    /// An Event on a policy.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn tell(
        &self,
        policy: &PolicyName,
        is_warning: bool,
        reason: &str,
        note: &str,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let Some(uid) = self.known().get(policy).map(|resource| resource.uid.clone()) else { return Ok(()) };
        let regarding = ObjectReference {
            api_version: Some(API_VERSION.into()),
            kind: Some(KIND.into()),
            name: Some(policy.name().to_owned()),
            namespace: Some(policy.namespace().to_owned()),
            uid: Some(uid.into()),
            ..ObjectReference::default()
        };
        let client = self.clusters.client(&self.settings.cluster).await?;
        let instance = self.clusters.identity();
        Said { regarding, is_warning, reason, action: "Rotate", note, instance }.tell(client, now).await
    }
}

/// Adds the answers of now to those of before, of which the oldest are forgotten.
fn remember(answered: &mut Vec<String>, answers: &[Asked], asked_for: &[Asked]) {
    for key in answers.iter().map(Asked::key) {
        if !answered.contains(&key) {
            answered.push(key);
        }
    }
    let mut surplus = answered.len().saturating_sub(REMEMBERED);
    answered.retain(|key| {
        // What is asked for still would be done again.
        let goes = surplus > 0 && !asked_for.iter().any(|asked| asked.key() == *key);
        surplus -= usize::from(goes);
        !goes
    });
}

fn api_resource() -> ApiResource {
    let (group, version) = API_VERSION.split_once('/').expect("a group and a version");
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, KIND), "rotationpolicies")
}

/// `None` for an object whose name is none of a policy: the definition refuses those.
fn read(object: DynamicObject) -> Option<(PolicyName, Resource)> {
    let DynamicObject { metadata, mut data, .. } = object;
    let label = |text: &Option<String>| text.as_deref()?.parse::<DnsLabel>().ok();
    let name = PolicyName::new(label(&metadata.namespace)?, label(&metadata.name)?);
    let status = data.get_mut("status").map(Value::take).unwrap_or_default();
    let document = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name.name(),
            "namespace": name.namespace(),
            "labels": metadata.labels.clone().unwrap_or_default(),
        },
        "spec": data.get_mut("spec").map(Value::take).unwrap_or_default(),
    });
    let since = metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let text = Text {
        name: format!("{KIND} {name}"),
        text: without_nulls(document).to_string().into(),
        since: Timestamp::from_second(since).unwrap_or_default(),
    };
    let (asked, misread) = asked(&name, &metadata);
    let resource = Resource {
        text,
        uid: metadata.uid.unwrap_or_default().into(),
        generation: metadata.generation,
        considered: None,
        // What somebody else wrote there is written anew.
        status: Told::new(&serde_json::from_value(status).unwrap_or_default()),
        asked,
        misread,
    };
    Some((name, resource))
}

/// A field that is null is one that is absent: files are read so that a null is a mistake.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            for field in fields.values_mut() {
                *field = without_nulls(field.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without_nulls(item.take());
            }
        }
        _ => {}
    }
    value
}

/// What annotations ask for, and those that do not say under which id. What they hold is shown to nobody: somebody
/// may have pasted a leaked value there.
fn asked(policy: &PolicyName, metadata: &ObjectMeta) -> (Vec<Asked>, Vec<&'static str>) {
    let mut misread = Vec::new();
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
    let by = |key: &str| {
        let pointer = format!("f:{key}");
        let manager = metadata.managed_fields.iter().flatten().find(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            fields.is_some_and(|fields| !fields["f:metadata"]["f:annotations"][&pointer].is_null())
        });
        let manager = manager.and_then(|entry| entry.manager.as_deref()).unwrap_or("somebody");
        manager.chars().filter(|c| c.is_ascii_graphic()).take(64).collect::<String>()
    };
    let found = [(CONTAIN, true), (ROTATE, false)].into_iter().filter_map(|(key, contains)| {
        let request = annotation(key)?.parse();
        let Ok(request) = request else {
            misread.push(key);
            return None;
        };
        let by = format!("annotation by {}", by(key));
        Some(Asked { policy: policy.clone(), contains, request, reason: annotation(REASON), by })
    });
    let found = found.collect();
    (found, misread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(change: impl FnOnce(&mut Value)) -> DynamicObject {
        let mut object = json!({
            "apiVersion": API_VERSION, "kind": KIND,
            "metadata": {
                "name": "orders-db", "namespace": "orders", "uid": "u", "generation": 3,
                "labels": {"team": "orders"},
            },
            "spec": {"target": {"generated": {}}, "owner": null},
        });
        change(&mut object);
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn the_text_of_a_policy_is_its_specification_and_nothing_that_changes_beside_it() {
        let plain = read(object(|_| {})).expect("a policy").1;
        let touched = object(|object| {
            object["metadata"]["annotations"] = json!({"x": "y"});
            object["metadata"]["resourceVersion"] = json!("9");
            object["status"] = json!({"version": 7});
        });
        let touched = read(touched).expect("a policy").1;
        assert_eq!(plain.text, touched.text);
        assert!(plain.misread.is_empty());
        assert!(!plain.text.text.contains("null"), "{}", plain.text.text);
        assert_eq!(touched.status.read().version.map(|version| version.number()), Some(7));
    }

    #[test]
    fn an_annotation_asks_once_and_says_who_put_it_there() {
        let annotated = object(|object| {
            object["metadata"]["annotations"] = json!({CONTAIN: "leak-17", REASON: "in a log", ROTATE: ""});
            object["metadata"]["managedFields"] = json!([{
                "manager": "kubectl-annotate", "operation": "Update",
                "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{CONTAIN}"): {}}}},
            }]);
        });
        let Resource { asked, misread, .. } = read(annotated).expect("a policy").1;
        let [contain] = asked.as_slice() else { panic!("{asked:?}") };
        assert_eq!(misread, [ROTATE], "an empty one is no id");
        assert_eq!((contain.contains, contain.request.to_string().as_str()), (true, "leak-17"));
        assert_eq!(contain.by, "annotation by kubectl-annotate");
        assert_eq!(contain.key(), "contain:leak-17");
    }
}
