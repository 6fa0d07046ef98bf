//! One workload: what its object says, and whether its pods have moved.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::{DynamicObject, Selector, SelectorExt as _};
use serde_json::{Map, Value, json};

use super::edition::Edition;
use super::governor::Room;
use super::hold::Hold;
use super::pods::Pod;
use super::reference::{Names, Reference, Referred};
use super::shape::Template;
use crate::failure::{Failure, FailureClass};
use crate::ident::{ObjectName, Version};
use crate::kubernetes::gitops::{Tool, keeper, pins, replaces};
use crate::policy::spec::{Interval, WorkloadKind, WorkloadName};

/// A workload as it is.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    pub(super) name: WorkloadName,
    /// Of the object.
    pub(super) revision: String,
    /// The version in its pod template.
    pub(super) told: Version,
    /// Its pods take a new version without a restart.
    pub(super) reloads_itself: bool,
    pub(super) refers: Referred,
    /// The GitOps tool that keeps it.
    pub(super) keeper: Option<Tool>,
    /// That tool writes the version back which Git says.
    pub(super) is_pinned: bool,
    /// What others write into it is lost at that tool's next sync, as it says itself.
    pub(super) is_replaced: bool,
    /// The Rollout that makes pods from its template.
    pub(super) conductor: Option<ObjectName>,
    uid: String,
    selector: Option<Selector>,
    pub(super) generation: i64,
    /// The generation that its controller has seen.
    observed: i64,
    /// So many pods there should be.
    desired: i64,
    /// So many of its pods an update takes away at once before it makes new ones.
    pub(super) takes: i64,
    /// So many more pods an update must have made before it takes one away.
    pub(super) adds: i64,
    /// Of its pod template.
    labels: BTreeMap<String, String>,
    hold: Option<Hold>,
    /// Why its controller cannot make pods.
    barred: Option<&'static str>,
}

impl Workload {
    /// `None` for one without a pod template of its own.
    pub(super) fn read(
        kind: WorkloadKind,
        object: DynamicObject,
        namespace: &str,
        names: &Names,
    ) -> Result<Option<Self>, Failure> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let strange = || {
            let doing = format!(
                "read {kind} {} in namespace {namespace}",
                object.metadata.name.as_deref().unwrap_or("?")
            );
            Failure::new(FailureClass::Invalid, doing, "it has an unknown form")
        };
        let name = WorkloadName { kind, name: name.parse().map_err(|_| strange())? };
        // A Rollout may leave it to a Deployment, which is what restarts then: see `conducts`.
        let Some(template) = object.data.pointer(template_pointer(kind)).cloned() else { return Ok(None) };
        let template: Template = serde_json::from_value(template).map_err(|_| strange())?;
        let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
        let mut workload = Self {
            name,
            revision: String::new(),
            told: Version::NONE,
            reloads_itself: false,
            refers: Referred::default(),
            keeper: keeper(&metadata),
            is_pinned: pins(&metadata, template_pointer(kind), &names.annotation),
            is_replaced: replaces(&metadata, &Value::Null),
            conductor: None,
            uid: String::new(),
            selector: None,
            generation: 0,
            observed: 0,
            desired: 0,
            takes: 0,
            adds: 0,
            labels: BTreeMap::new(),
            hold: None,
            barred: None,
        };
        workload.take(&object, &template, names);
        Ok(Some(workload))
    }

    /// The same workload, read again.
    pub(super) fn again(
        &self,
        object: DynamicObject,
        namespace: &str,
        names: &Names,
    ) -> Result<Self, Failure> {
        let template = object.data.pointer(template_pointer(self.name.kind)).cloned();
        let template = template.unwrap_or_else(|| json!({}));
        let template: Template = serde_json::from_value(template).map_err(|_| {
            let doing = format!("read {} in namespace {namespace}", self.name);
            Failure::new(FailureClass::Invalid, doing, "it has an unknown form")
        })?;
        let mut workload = self.clone();
        workload.take(&object, &template, names);
        Ok(workload)
    }

    fn take(&mut self, object: &DynamicObject, template: &Template, names: &Names) {
        let (metadata, data) = (&object.metadata, &object.data);
        let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_i64);
        let told =
            template.metadata.as_ref().and_then(|metadata| metadata.annotations.get(&names.annotation));
        let told = told.and_then(|text| text.parse().ok());
        self.refers = template.spec.as_ref().map(|pod| names.in_pod(pod)).unwrap_or_default();
        self.told = told.map_or(Version::NONE, Version::new);
        self.revision = metadata.resource_version.clone().unwrap_or_default();
        self.uid = metadata.uid.clone().unwrap_or_default();
        self.generation = metadata.generation.unwrap_or(0);
        self.observed = data.pointer("/status/observedGeneration").and_then(count).unwrap_or(0);
        self.desired = match self.name.kind {
            WorkloadKind::DaemonSet => number("/status/desiredNumberScheduled").unwrap_or(0),
            WorkloadKind::CronJob => 0,
            WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::Rollout => {
                number("/spec/replicas").unwrap_or(1)
            }
        };
        self.labels = template.metadata.as_ref().map(|own| own.labels.clone()).unwrap_or_default();
        self.takes = taken(self.name.kind, data, self.desired);
        self.adds = if self.takes == 0 { added(self.name.kind, data, self.desired) } else { 0 };
        let selector = data.pointer("/spec/selector").cloned();
        let selector = selector.and_then(|selector| serde_json::from_value::<LabelSelector>(selector).ok());
        self.selector = selector.and_then(|selector| Selector::try_from(selector).ok());
        self.barred = barred(data);
        self.hold = Hold::of(data);
    }

    /// Takes in what the Rollout says that makes pods from its template; `None` when that is gone.
    pub(super) fn take_conductor(&mut self, rollout: Option<&DynamicObject>) {
        self.conductor = rollout.and_then(|rollout| rollout.metadata.name.as_deref()?.parse().ok());
        let Some(DynamicObject { metadata, data, .. }) = rollout else { return };
        let number = |pointer: &str| data.pointer(pointer).and_then(count);
        // Its own pods are there, too, until somebody scales it down.
        self.desired += number("/spec/replicas").unwrap_or(1);
        let seen = number("/status/workloadObservedGeneration").unwrap_or(0);
        let is_current =
            number("/status/observedGeneration").unwrap_or(0) >= metadata.generation.unwrap_or(0);
        self.observed = if is_current { self.observed.min(seen) } else { 0 };
        self.barred = barred(data).or(self.barred);
        self.hold = Hold::of(data).or(self.hold);
    }

    /// Whether its template refers to the Secret in a way that a restart renews.
    pub(super) fn takes_restart(&self) -> bool {
        self.refers.way >= Reference::Environment
    }

    /// What a Secret holds, as this workload's readers find it.
    pub(super) fn edition(&self, edition: Edition) -> Edition {
        edition.seen_by(self.refers.way)
    }

    /// The version that its template is to say. Where what came in between was taken back and every pod that
    /// should be there still is as it was before, the template says again what those were made for: none of
    /// them restarts then.
    pub(super) fn aim(&self, pods: &[&Pod], edition: Edition) -> Version {
        let Some(earlier) = edition.restores.filter(|_| edition.took_back(self.told)) else {
            return edition.version;
        };
        let kept = pods.iter().filter(|pod| {
            pod.leaves.is_none() && pod.ready_since.is_some() && !edition.took_back(pod.version)
        });
        let kept: Vec<&&Pod> = kept.filter(|pod| pod.has(edition)).collect();
        let made_for = kept.first().map_or(earlier.version, |pod| pod.version);
        let whole = kept.iter().filter(|pod| pod.version == made_for).count();
        let is_whole = i64::try_from(whole).unwrap_or(i64::MAX) >= self.desired;
        if is_whole { made_for } else { edition.version }
    }

    /// Names it in an Event.
    pub(super) fn reference_to(&self) -> ObjectReference {
        let (group, version) = api_of(self.name.kind);
        ObjectReference {
            api_version: Some(format!("{group}/{version}")),
            kind: Some(self.name.kind.to_string()),
            name: Some(self.name.name.to_string()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// Makes it the owner of a pod.
    pub(super) fn owner(&self) -> OwnerReference {
        let ObjectReference { api_version, kind, name, uid, .. } = self.reference_to();
        OwnerReference {
            api_version: api_version.unwrap_or_default(),
            kind: kind.unwrap_or_default(),
            name: name.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    /// So many pods it is to have.
    pub(super) fn size(&self) -> usize {
        usize::try_from(self.desired).unwrap_or(0)
    }

    /// What its restart needs room for. What one pod of it needs, the next of the same template needs, too: defaults that
    /// the namespace fills in are in no template.
    pub(super) fn room(&self, pods: &[&Pod]) -> Room {
        let like = pods.iter().find(|pod| pod.leaves.is_none());
        Room {
            pods: self.size(),
            takes: self.takes,
            adds: self.adds,
            needs: like.map(|pod| pod.needs.clone()).unwrap_or_default(),
            labels: self.labels.clone(),
        }
    }

    /// Whether a pod is of it, and has not ended.
    pub(super) fn owns(&self, pod: &Pod) -> bool {
        let Some(owner) = pod.owner.as_ref().filter(|_| !pod.is_over) else { return false };
        match self.name.kind {
            WorkloadKind::Deployment | WorkloadKind::Rollout => {
                owner.kind == "ReplicaSet"
                    && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
            }
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => owner.uid == self.uid,
            WorkloadKind::CronJob => false,
        }
    }

    /// The change that restarts it. Its pod template is looked at where versions have Secrets of their own.
    pub(super) fn patch(&self, versions: &[(Names, Version)], template: &Value, revision: &str) -> Value {
        let said = |version: Version| match version {
            // As it was before the first.
            Version::NONE => Value::Null,
            version => version.number().to_string().into(),
        };
        let annotations: BTreeMap<&str, Value> =
            versions.iter().map(|(names, version)| (names.annotation.as_str(), said(*version))).collect();
        // One after the other: two Secrets may be read by one container.
        let (mut pod, mut pointed) = (template.get("spec").cloned().unwrap_or_default(), Map::new());
        for (names, version) in versions.iter().filter(|(names, _)| names.freezes) {
            for (part, after) in names.point(&pod, *version) {
                pod[&part] = after.clone();
                pointed.insert(part, after);
            }
        }
        let mut template = json!({"template": {"metadata": {"annotations": annotations}}});
        if !pointed.is_empty() {
            template["template"]["spec"] = pointed.into();
        }
        let spec = match self.name.kind {
            WorkloadKind::CronJob => json!({"jobTemplate": {"spec": template}}),
            _ => template,
        };
        json!({"metadata": {"resourceVersion": revision}, "spec": spec})
    }

    /// Whether it is well as it is: every pod that should be there is, and ready.
    pub(super) fn is_well(&self, pods: &[&Pod]) -> bool {
        let staying = pods.iter().filter(|pod| pod.leaves.is_none());
        let (ready, unready): (Vec<&&Pod>, Vec<&&Pod>) = staying.partition(|pod| pod.ready_since.is_some());
        unready.is_empty() && i64::try_from(ready.len()).unwrap_or(i64::MAX) >= self.desired
    }

    /// The pods that fail with a version, in words; `None` when none does. Where pods of an earlier version
    /// fail too, the version is not the cause.
    pub(super) fn fails(
        &self,
        pods: &[&Pod],
        edition: Edition,
        is_late: impl Fn(&Pod) -> bool,
    ) -> Option<String> {
        if !self.blames(pods, edition) {
            return None;
        }
        let is_aborted = self.hold == Some(Hold::Aborted) && self.told >= edition.version;
        // The new pods may be gone by now; those of before are to stay.
        if is_aborted
            && self.has_seen_itself()
            && pods.iter().any(|pod| pod.leaves.is_none() && !pod.has(edition))
        {
            return Some("its update was aborted".to_owned());
        }
        let new = pods.iter().filter(|pod| pod.leaves.is_none() && self.may_have(pod, edition));
        let failing: Vec<&Pod> = new.copied().filter(|pod| pod.fails(is_late(pod))).collect();
        (!failing.is_empty()).then(|| reasons(&failing))
    }

    /// Whether a version may be why pods of it fail: none of an earlier one does.
    pub(super) fn blames(&self, pods: &[&Pod], edition: Edition) -> bool {
        let mut old = pods.iter().filter(|pod| pod.leaves.is_none() && !self.may_have(pod, edition));
        old.all(|pod| pod.ready_since.is_some())
    }

    /// Whether what a pod does may come of a version: one that reloads itself does so whenever its volume is renewed.
    fn may_have(&self, pod: &Pod, edition: Edition) -> bool {
        self.reloads_itself || pod.has(edition)
    }

    /// Why it has not moved to a version; `None` when it has.
    pub(super) fn unsettled(
        &self,
        pods: &[&Pod],
        edition: Edition,
        settle: Interval,
        now: Timestamp,
    ) -> Option<String> {
        if self.name.kind == WorkloadKind::CronJob {
            return None;
        }
        if !self.has_seen_itself() {
            return Some("its controller has not seen the change yet".into());
        }
        // From when on pods have it that were there before.
        let refreshed = edition.since.saturating_add(VOLUME_REFRESH).unwrap_or(Timestamp::MAX);
        let has = |pod: &Pod| pod.has(edition) || (self.reloads_itself && refreshed <= now);
        let (new, mut old): (Vec<&Pod>, Vec<&Pod>) = pods.iter().copied().partition(|pod| has(pod));
        let new: Vec<&Pod> = new.into_iter().filter(|pod| pod.leaves.is_none()).collect();
        // Who is on the way out may still answer requests, with what it has.
        old.retain(|pod| pod.may_work(now));
        if let Some(why) = self.barred {
            return Some(format!("its controller cannot make pods: {why}"));
        }
        let unready: Vec<&Pod> = new.iter().copied().filter(|pod| pod.ready_since.is_none()).collect();
        if !unready.is_empty() {
            return Some(reasons(&unready));
        }
        let (leaving, staying): (Vec<&Pod>, Vec<&Pod>) =
            old.iter().copied().partition(|pod| pod.leaves.is_some());
        if !staying.is_empty() {
            if self.reloads_itself {
                return Some("its volumes are being refreshed".to_owned());
            }
            if self.told > edition.version {
                return Some(format!("its template names {}, which the Secret does not hold", self.told));
            }
            if self.name.kind == WorkloadKind::StatefulSet
                && let Some(pod) = staying.iter().find(|pod| pod.is_stuck(edition))
            {
                return Some(format!(
                    "{}; it was made for {}, which was taken back, and a StatefulSet keeps a pod that is not ready: \
                     delete it if it is not evicted",
                    pod.why(),
                    pod.version
                ));
            }
            let has = if staying.len() == 1 { "has" } else { "have" };
            let why = self.held(edition).unwrap_or_default();
            return Some(format!("{} {has} an earlier version{why}", names(&staying)));
        }
        if !leaving.is_empty() {
            let is = if leaving.len() == 1 { "is" } else { "are" };
            return Some(format!("{} of an earlier version {is} about to end", names(&leaving)));
        }
        let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
        if count < self.desired {
            return Some(format!("{count} of {} pods are there", self.desired));
        }
        let settled = |pod: &&Pod| {
            let since = pod.ready_since.unwrap_or(Timestamp::MAX);
            let since = if pod.has(edition) { since } else { since.max(refreshed) };
            since.saturating_add(settle.as_signed()).is_ok_and(|at| at <= now)
        };
        let waiting: Vec<&Pod> = new.into_iter().filter(|pod| !settled(pod)).collect();
        let is = if waiting.len() == 1 { "is" } else { "are" };
        (!waiting.is_empty()).then(|| format!("{} {is} ready for less than {settle}", names(&waiting)))
    }

    /// Whether its controller replaces pods of an earlier template by itself.
    pub(super) fn replaces_pods(&self) -> bool {
        self.hold != Some(Hold::OnDelete)
    }

    /// Whether its controller has seen its template as it is.
    pub(super) const fn has_seen_itself(&self) -> bool {
        self.observed >= self.generation
    }

    /// What keeps pods of an earlier version, to be said after that they are there.
    fn held(&self, edition: Edition) -> Option<String> {
        // Before its template changes, an update that is done is an earlier one.
        let hold = self.hold.filter(|hold| *hold != Hold::Kept || self.told >= edition.version)?;
        Some(match &self.conductor {
            Some(rollout) => format!(": Rollout {rollout} makes them, and {hold}"),
            None => format!(": {hold}"),
        })
    }
}

/// The Deployment whose template a Rollout makes its pods from, if it has none of its own.
pub(super) fn conducts(rollout: &DynamicObject) -> Option<&str> {
    let refers = rollout.data.pointer("/spec/workloadRef")?;
    let kind = refers["kind"].as_str().filter(|kind| *kind == WorkloadKind::Deployment.as_str());
    kind.and(refers["name"].as_str())
}

/// A number. Argo Rollouts writes some as text.
fn count(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// So many pods an update takes away at once, of so many, by the rules of each controller.
fn taken(kind: WorkloadKind, data: &Value, of: i64) -> i64 {
    let bound = |pointer: &str, default: &str, rounds_up: bool| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let said = data.pointer(pointer).map_or_else(|| default.to_owned(), text);
        match said.strip_suffix('%').map(str::parse::<i64>) {
            Some(Ok(percent)) => (of * percent + if rounds_up { 99 } else { 0 }) / 100,
            Some(Err(_)) => 0,
            None => said.parse().unwrap_or(0),
        }
    };
    let type_of = |pointer: &str| data.pointer(pointer).and_then(Value::as_str);
    match kind {
        WorkloadKind::Deployment if type_of("/spec/strategy/type") == Some("Recreate") => of,
        WorkloadKind::Deployment => {
            let surge = bound("/spec/strategy/rollingUpdate/maxSurge", "25%", true);
            let unavailable = bound("/spec/strategy/rollingUpdate/maxUnavailable", "25%", false);
            unavailable.max(i64::from(surge == 0))
        }
        WorkloadKind::Rollout if data.pointer("/spec/strategy/canary").is_some() => {
            let surge = bound("/spec/strategy/canary/maxSurge", "25%", true);
            let unavailable = bound("/spec/strategy/canary/maxUnavailable", "25%", false);
            unavailable.max(i64::from(surge == 0))
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet
            if type_of("/spec/updateStrategy/type") == Some("OnDelete") =>
        {
            0
        }
        WorkloadKind::StatefulSet => {
            bound("/spec/updateStrategy/rollingUpdate/maxUnavailable", "1", true).max(1)
        }
        WorkloadKind::DaemonSet => bound("/spec/updateStrategy/rollingUpdate/maxUnavailable", "1", true),
        // It makes the new ones first.
        WorkloadKind::Rollout | WorkloadKind::CronJob => 0,
    }
}

/// So many pods an update that takes none away makes first, of so many.
fn added(kind: WorkloadKind, data: &Value, of: i64) -> i64 {
    let is_by_hand = data.pointer("/spec/updateStrategy/type").and_then(Value::as_str) == Some("OnDelete");
    match kind {
        WorkloadKind::CronJob => 0,
        _ if is_by_hand => 0,
        // All of them, or a preview.
        WorkloadKind::Rollout if data.pointer("/spec/strategy/canary").is_none() => {
            data.pointer("/spec/strategy/blueGreen/previewReplicaCount").and_then(count).unwrap_or(of)
        }
        _ => of.min(1),
    }
}

/// What its status says of pods that could not be made. Its message could quote anything.
fn barred(data: &Value) -> Option<&'static str> {
    let conditions = data.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut failures =
        conditions.filter(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True");
    let message = failures.next()?["message"].as_str().unwrap_or_default();
    Some(match message {
        _ if message.contains("exceeded quota") => "the namespace's quota is used up",
        _ if message.contains("violates PodSecurity") => "the namespace's pod security forbids them",
        _ if message.contains("denied the request") => "an admission webhook refuses them",
        _ => "see `kubectl describe`",
    })
}

/// So many pods are named one by one.
const NAMED: usize = 20;

/// Which pods: `pod a`, or `pods a, b and 3 more`.
fn names(pods: &[&Pod]) -> String {
    let pod = if pods.len() == 1 { "pod" } else { "pods" };
    let named: Vec<&str> = pods.iter().take(NAMED).map(|pod| pod.name.as_str()).collect();
    format!("{pod} {}{}", named.join(", "), and_more(pods))
}

/// Why pods are not ready, of each.
fn reasons(pods: &[&Pod]) -> String {
    let reasons: Vec<String> = pods.iter().take(NAMED).map(|pod| pod.why()).collect();
    format!("{}{}", reasons.join(", "), and_more(pods))
}

/// Those that are not named.
fn and_more(pods: &[&Pod]) -> String {
    let count = pods.len().saturating_sub(NAMED);
    if count == 0 { String::new() } else { format!(" and {count} more") }
}

/// So long a kubelet may take to renew the content of a volume: its sync period, and what its cache lags.
const VOLUME_REFRESH: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);

/// Group and version of a kind.
pub(super) const fn api_of(kind: WorkloadKind) -> (&'static str, &'static str) {
    match kind {
        WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => ("apps", "v1"),
        WorkloadKind::Rollout => ("argoproj.io", "v1alpha1"),
        WorkloadKind::CronJob => ("batch", "v1"),
    }
}

pub(super) const fn template_pointer(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::CronJob => "/spec/jobTemplate/spec/template",
        _ => "/spec/template",
    }
}

#[cfg(test)]
mod tests;
