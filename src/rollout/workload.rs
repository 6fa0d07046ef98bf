//! One workload: what its object says, and whether its pods have moved.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::core::{DynamicObject, Selector, SelectorExt as _};
use serde_json::{Map, Value, json};

use super::edition::Edition;
use super::hold::Hold;
use super::pods::Pod;
use super::reference::{Names, Reference, Referred};
use super::shape::Template;
use crate::failure::{Failure, FailureClass};
use crate::ident::{ObjectName, Version};
use crate::kubernetes::gitops::{Tool, keeper};
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
    /// The Rollout that makes pods from its template.
    pub(super) conductor: Option<ObjectName>,
    uid: String,
    selector: Option<Selector>,
    pub(super) generation: i64,
    /// The generation that its controller has seen.
    observed: i64,
    /// So many pods there should be.
    desired: i64,
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
        let mut workload = Self {
            name,
            revision: String::new(),
            told: Version::NONE,
            reloads_itself: false,
            refers: Referred::default(),
            keeper: serde_json::to_value(&object.metadata).ok().as_ref().and_then(keeper),
            conductor: None,
            uid: String::new(),
            selector: None,
            generation: 0,
            observed: 0,
            desired: 0,
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
        let new = pods.iter().filter(|pod| pod.leaves.is_none() && pod.has(edition));
        let failing: Vec<&&Pod> = new.filter(|pod| pod.fails(is_late(pod))).collect();
        failing.first().map(|pod| format!("{}{}", pod.why(), and_more(failing.len())))
    }

    /// Whether a version may be why pods of it fail: none of an earlier one does.
    pub(super) fn blames(&self, pods: &[&Pod], edition: Edition) -> bool {
        let mut old = pods.iter().filter(|pod| pod.leaves.is_none() && !pod.has(edition));
        old.all(|pod| pod.ready_since.is_some())
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
        if self.reloads_itself {
            let refreshed = edition.since.saturating_add(VOLUME_REFRESH).unwrap_or(Timestamp::MAX);
            let waits = refreshed > now && pods.iter().any(|pod| !pod.has(edition));
            return waits.then(|| "its volumes are being refreshed".to_owned());
        }
        if !self.has_seen_itself() {
            return Some("its controller has not seen the change yet".into());
        }
        let (new, mut old): (Vec<&Pod>, Vec<&Pod>) = pods.iter().copied().partition(|pod| pod.has(edition));
        let new: Vec<&Pod> = new.into_iter().filter(|pod| pod.leaves.is_none()).collect();
        // Who is on the way out may still answer requests, with what it has.
        old.retain(|pod| pod.may_work(now));
        if let Some(why) = self.barred {
            return Some(format!("its controller cannot make pods: {why}"));
        }
        if let Some(pod) = new.iter().find(|pod| pod.ready_since.is_none()) {
            return Some(pod.why());
        }
        let (leaving, staying): (Vec<&Pod>, Vec<&Pod>) =
            old.iter().copied().partition(|pod| pod.leaves.is_some());
        if let Some(pod) = staying.first() {
            let others = and_more(staying.len());
            let why = self.held(edition).unwrap_or_default();
            return Some(format!("pod {}{others} has an earlier version{why}", pod.name));
        }
        if let Some(pod) = leaving.first() {
            return Some(format!(
                "pod {}{} of an earlier version is about to end",
                pod.name,
                and_more(leaving.len())
            ));
        }
        let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
        if count < self.desired {
            return Some(format!("{count} of {} pods are there", self.desired));
        }
        let settled = |pod: &&Pod| {
            let since = pod.ready_since.unwrap_or(Timestamp::MAX);
            since.saturating_add(settle.as_signed()).is_ok_and(|at| at <= now)
        };
        let waiting = new.iter().filter(|pod| !settled(pod)).count();
        (waiting > 0).then(|| format!("{waiting} of {count} pods are ready for less than {settle}"))
    }

    /// Whether its controller has seen its template as it is.
    const fn has_seen_itself(&self) -> bool {
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

fn and_more(count: usize) -> String {
    if count < 2 { String::new() } else { format!(" and {} more", count - 1) }
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
mod tests {
    use super::super::edition::Span;
    use super::*;

    const V2: Version = Version::new(2);
    const ANNOTATION: &str = "rekeyd.dev/version.db";

    fn names() -> Names {
        Names::new(&"db".parse().expect("a name"), false)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a moment")
    }

    /// A Deployment of two pods, changed as told.
    fn workload(change: &Value) -> Workload {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "app", "generation": 4, "resourceVersion": "7", "uid": "u"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "app"}},
                "template": {
                    "metadata": {"annotations": {ANNOTATION: "2"}},
                    "spec": {"containers": [{"name": "app", "envFrom": [{"secretRef": {"name": "db"}}]}]},
                },
            },
            "status": {"observedGeneration": 4},
        });
        json_patch(&mut object, change);
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        Workload::read(WorkloadKind::Deployment, object, "orders", &names())
            .expect("read")
            .expect("a template")
    }

    fn json_patch(object: &mut Value, change: &Value) {
        match (object, change) {
            (Value::Object(object), Value::Object(change)) => {
                for (key, change) in change {
                    json_patch(object.entry(key.clone()).or_insert(Value::Null), change);
                }
            }
            (object, change) => *object = change.clone(),
        }
    }

    /// A pod of a version, ready since a second, if it is.
    fn pod(name: &str, version: u64, ready: Option<i64>) -> Pod {
        let ready = ready.map(|at| {
            let at = Timestamp::from_second(at).expect("a moment").to_string();
            json!({"type": "Ready", "status": "True", "lastTransitionTime": at})
        });
        let object = json!({
            "metadata": {
                "name": name, "labels": {"app": "app"}, "annotations": {ANNOTATION: version.to_string()},
                "creationTimestamp": "1970-01-01T00:00:10Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-1", "uid": "r", "controller": true}],
            },
            "spec": {}, "status": {"phase": "Running", "conditions": ready.into_iter().collect::<Vec<_>>()},
        });
        Pod::read(&serde_json::from_value(object).expect("a pod"), &names())
    }

    /// With the version in the Secret since second 20, ten seconds to settle, at second 100.
    fn unsettled(workload: &Workload, pods: &[Pod]) -> Option<String> {
        let own: Vec<&Pod> = pods.iter().filter(|pod| workload.owns(pod)).collect();
        let settle = "10s".parse().expect("an interval");
        workload.unsettled(&own, Edition { version: V2, since: at(20), restores: None }, settle, at(100))
    }

    #[test]
    fn a_workload_has_moved_when_every_pod_is_new_and_ready_for_long_enough() {
        let workload = workload(&json!({}));
        let new = |name, ready| pod(name, 2, ready);
        assert_eq!(unsettled(&workload, &[new("a", Some(80)), new("b", Some(90))]), None);
        assert_eq!(
            unsettled(&workload, &[new("a", Some(80)), new("b", Some(91))]).as_deref(),
            Some("1 of 2 pods are ready for less than 10s")
        );
        assert_eq!(unsettled(&workload, &[new("a", Some(80))]).as_deref(), Some("1 of 2 pods are there"));
        assert_eq!(
            unsettled(&workload, &[new("a", Some(80)), new("b", None)]).as_deref(),
            Some("pod b: not ready yet")
        );
        assert_eq!(
            unsettled(&workload, &[new("a", Some(80)), new("b", Some(80)), pod("c", 1, Some(1))]).as_deref(),
            Some("pod c has an earlier version")
        );
    }

    /// Right after a change the earlier rollout's status is still there, and says that all is well.
    #[test]
    fn a_status_of_before_the_change_is_not_believed() {
        let workload = workload(&json!({"status": {"observedGeneration": 3}}));
        let pods = [pod("a", 2, Some(80)), pod("b", 2, Some(80))];
        assert_eq!(
            unsettled(&workload, &pods).as_deref(),
            Some("its controller has not seen the change yet")
        );
    }

    #[test]
    fn what_holds_pods_back_is_named() {
        let old = [pod("a", 1, Some(1)), pod("b", 1, Some(1))];
        for (change, why) in [
            (json!({"spec": {"paused": true}}), "it is paused, resume it"),
            (
                json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
                "it replaces a pod when somebody deletes it (OnDelete)",
            ),
            (
                json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}}),
                "its partition holds them back",
            ),
        ] {
            let said = unsettled(&workload(&change), &old).expect("unsettled");
            assert_eq!(said, format!("pod a and 1 more has an earlier version: {why}"));
        }
    }

    /// The same with a Rollout that makes its pods, and has so many beside none of the Deployment's.
    fn conducted(told: &str, status: Value) -> Workload {
        let mut workload = workload(&json!({
            "spec": {"replicas": 0, "template": {"metadata": {"annotations": {ANNOTATION: told}}}},
        }));
        let mut object = json!({
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": "conductor", "generation": 3},
            "spec": {
                "replicas": 2, "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"},
                "strategy": {"canary": {"steps": [{"pause": {}}]}},
            },
            "status": {
                "observedGeneration": "3", "workloadObservedGeneration": "4",
                "stableRS": "b", "currentPodHash": "b",
            },
        });
        json_patch(&mut object, &json!({"status": status}));
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        assert_eq!(conducts(&object), Some("app"));
        workload.take_conductor(Some(&object));
        workload
    }

    #[test]
    fn a_rollout_that_makes_the_pods_of_a_deployment_says_where_they_are() {
        let new = |name| pod(name, 2, Some(80));
        let well = || conducted("2", json!({}));
        assert_eq!(unsettled(&well(), &[new("a"), new("b")]), None);
        assert_eq!(unsettled(&well(), &[new("a")]).as_deref(), Some("1 of 2 pods are there"));
        for behind in [json!({"observedGeneration": "2"}), json!({"workloadObservedGeneration": "3"})] {
            assert_eq!(
                unsettled(&conducted("2", behind), &[new("a"), new("b")]).as_deref(),
                Some("its controller has not seen the change yet")
            );
        }
        let paused = json!({"pauseConditions": [{"reason": "CanaryPauseStep"}]});
        let said = |told, status: &Value, pods: &[Pod]| unsettled(&conducted(told, status.clone()), pods);
        let mixed = [new("a"), pod("c", 1, Some(1))];
        assert_eq!(
            said("2", &paused, &mixed).as_deref(),
            Some(
                "pod c has an earlier version: Rollout conductor makes them, and its canary step waits for a promotion"
            )
        );
        assert_eq!(
            said("2", &json!({}), &mixed).as_deref(),
            Some(
                "pod c has an earlier version: Rollout conductor makes them, and it keeps them for a while after its update (scaleDownDelaySeconds)"
            )
        );
        assert_eq!(
            said("1", &json!({}), &mixed).as_deref(),
            Some("pod c has an earlier version"),
            "its template has not changed"
        );
    }

    #[test]
    fn an_update_that_was_aborted_fails_with_the_version_that_it_was_for() {
        let edition = Edition { version: V2, since: at(20), restores: None };
        let fails = |workload: &Workload, pods: &[Pod]| {
            workload.fails(&pods.iter().collect::<Vec<_>>(), edition, |_| false)
        };
        let aborted = || json!({"abort": true});
        let (well, broken) = (pod("a", 1, Some(1)), pod("b", 1, None));
        assert_eq!(
            fails(&conducted("2", aborted()), &[well.clone()]).as_deref(),
            Some("its update was aborted")
        );
        assert_eq!(fails(&conducted("1", aborted()), &[well.clone()]), None, "that was an earlier update");
        assert_eq!(fails(&conducted("2", aborted()), &[well, broken]), None, "it was not well before");
        let unseen = json!({"abort": true, "workloadObservedGeneration": "3"});
        assert_eq!(fails(&conducted("2", unseen), &[pod("a", 1, Some(1))]), None, "an earlier one's status");
    }

    #[test]
    fn what_keeps_pods_from_being_made_is_named_without_its_message() {
        for (message, why) in [
            (
                "pods \"app-1\" is forbidden: exceeded quota: all, requested: pods=1",
                "the namespace's quota is used up",
            ),
            (
                "admission webhook \"hunter2\" denied the request: hunter2",
                "an admission webhook refuses them",
            ),
            ("hunter2", "see `kubectl describe`"),
        ] {
            let condition = json!({"type": "ReplicaFailure", "status": "True", "message": message});
            let workload = workload(&json!({"status": {"conditions": [condition]}}));
            let said = unsettled(&workload, &[pod("a", 1, Some(1))]).expect("unsettled");
            assert_eq!(said, format!("its controller cannot make pods: {why}"));
        }
    }

    #[test]
    fn a_workload_of_no_pods_has_moved() {
        assert_eq!(unsettled(&workload(&json!({"spec": {"replicas": 0}})), &[]), None);
    }

    #[test]
    fn a_pod_on_its_way_out_is_waited_for_until_it_is_killed() {
        let workload = workload(&json!({}));
        let leaving = |version, second| {
            let mut pod = pod("c", version, Some(1));
            pod.leaves = Some(at(second));
            pod
        };
        let new = [pod("a", 2, Some(80)), pod("b", 2, Some(80))];
        let with = |gone: Pod| new.iter().cloned().chain([gone]).collect::<Vec<_>>();
        let said = unsettled(&workload, &with(leaving(1, 95)));
        assert_eq!(said.as_deref(), Some("pod c of an earlier version is about to end"));
        assert_eq!(unsettled(&workload, &with(leaving(1, 90))), None, "its node is gone: nobody sees it end");
        assert_eq!(unsettled(&workload, &with(leaving(2, 95))), None);
    }

    #[test]
    fn pods_of_others_do_not_count() {
        let workload = workload(&json!({"spec": {"selector": {"matchLabels": {"app": "another"}}}}));
        assert_eq!(unsettled(&workload, &[pod("a", 1, None)]).as_deref(), Some("0 of 2 pods are there"));
    }

    #[test]
    fn what_was_taken_back_leaves_a_template_as_the_pods_that_stayed_were_made_for() {
        let told = |version: &str| json!({"spec": {"template": {"metadata": {"annotations": {ANNOTATION: version}}}}});
        let (failing, next) = (workload(&told("2")), Version::new(3));
        let earlier = Span { version: Version::new(1), since: at(5), until: at(20) };
        let edition = Edition { version: next, since: at(60), restores: Some(earlier) };
        let aim = |workload: &Workload, pods: &[Pod]| {
            let pods: Vec<&Pod> = pods.iter().collect();
            workload.aim(&pods, workload.edition(edition))
        };
        let (kept, crashed) = (pod("a", 1, Some(15)), pod("c", 2, None));
        assert_eq!(aim(&failing, &[kept.clone(), kept.clone(), crashed.clone()]), Version::new(1));
        // Those of before the first annotation found the version when they were made.
        let bare = pod("b", 0, Some(15));
        assert_eq!(aim(&failing, &[bare.clone(), bare.clone(), crashed.clone()]), Version::NONE);
        assert_eq!(aim(&failing, &[kept.clone(), bare, crashed.clone()]), next, "they were made for two");
        assert_eq!(aim(&failing, &[kept.clone(), crashed]), next, "one has been replaced already");
        assert_eq!(aim(&workload(&told("1")), &[kept.clone(), kept.clone()]), next, "it was not told");
        let volume = json!({"spec": {"template": {
            "metadata": {"annotations": {ANNOTATION: "2"}},
            "spec": {"volumes": [{"name": "v", "secret": {"secretName": "db"}}]},
        }}});
        assert_eq!(aim(&workload(&volume), &[kept.clone(), kept]), next, "it may have looked meanwhile");
        let patch = failing.patch(&[(names(), Version::NONE)], &Value::Null, "7");
        assert_eq!(patch["spec"]["template"]["metadata"]["annotations"], json!({ANNOTATION: null}));
    }

    #[test]
    fn a_restart_is_a_change_at_a_revision() {
        let workload = workload(&json!({}));
        assert_eq!(workload.told, V2);
        assert_eq!(
            workload.patch(&[(names(), Version::new(3))], &Value::Null, &workload.revision),
            json!({
                "metadata": {"resourceVersion": "7"},
                "spec": {"template": {"metadata": {"annotations": {ANNOTATION: "3"}}}},
            })
        );
    }
}
