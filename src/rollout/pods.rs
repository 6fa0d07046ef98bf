//! What a pod says of itself, as far as a rotation wants to know.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use super::edition::Edition;
use super::quota::{self, Amounts};
use super::reference::{Names, Referred};
use super::shape::{ContainerState, ContainerStatus, Pod as Object};
use crate::ident::Version;
use crate::kubernetes::{CANARY, MADE_FROM};

/// So long it may take until a container that is killed has ended.
const KILLED: SignedDuration = SignedDuration::from_secs(10);

/// A pod.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Who made it.
    pub(super) owner: Option<OwnerReference>,
    /// The version that it was started for.
    pub(super) version: Version,
    pub(super) created: Timestamp,
    /// Its own; none where it has those of its node.
    pub(super) addresses: Vec<String>,
    /// How it comes to the Secret.
    pub(super) refers: Referred,
    /// When its containers started that run: each read the Secret then.
    starts: Vec<Timestamp>,
    /// Since when it is ready; `None` while it is not.
    pub(super) ready_since: Option<Timestamp>,
    /// Whether its containers have ended for good.
    pub(super) is_over: bool,
    /// It is on its way out, and killed at this moment at the latest.
    pub(super) leaves: Option<Timestamp>,
    /// The Secret whose next version it tries.
    pub(super) canary_of: Option<String>,
    /// The generation of the workload that such a one was made from.
    pub(super) made_from: Option<i64>,
    /// What it counts for in a quota.
    pub(super) needs: Amounts,
    /// Why it is not ready, where it says so.
    trouble: Option<Trouble>,
}

/// What keeps a pod from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    why: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A container ends again and again.
    Crashes,
    /// A container runs and its probe says that it is not ready.
    Unready,
    /// It ended for once, or never came to run: no node, no image.
    Other,
}

impl Pod {
    pub(super) fn read(pod: &Object, names: &Names) -> Self {
        let metadata = &pod.metadata;
        let status = pod.status.clone().unwrap_or_default();
        let said = |annotation: &str| metadata.annotations.as_ref().and_then(|all| all.get(annotation));
        let version = said(&names.annotation);
        let conditions = status.conditions.iter();
        let ready =
            conditions.clone().find(|condition| condition.kind == "Ready" && condition.status == "True");
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let unscheduled = conditions
            .clone()
            .find(|condition| condition.kind == "PodScheduled" && condition.status == "False")
            .map(|condition| {
                let reason = condition.reason.as_deref().unwrap_or("no reason given");
                Trouble { why: format!("not scheduled ({reason})"), kind: Kind::Other }
            });
        let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
        let troubles = containers.clone().find_map(trouble);
        let starts = containers.filter_map(|container| container.state.as_ref()?.running.as_ref());
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            owner: metadata
                .owner_references
                .iter()
                .flatten()
                .find(|owner| owner.controller == Some(true))
                .cloned(),
            version: version.and_then(|text| text.parse().ok()).map_or(Version::NONE, Version::new),
            created: metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, moment),
            addresses: match pod.spec.host_network {
                Some(true) => Vec::new(),
                _ => status.pod_ips.iter().map(|at| at.ip.clone()).collect(),
            },
            refers: names.in_pod(&pod.spec),
            starts: starts.map(|running| running.started_at.unwrap_or(Timestamp::MAX)).collect(),
            ready_since: ready.map(|ready| ready.last_transition_time.unwrap_or(Timestamp::MIN)),
            is_over,
            leaves: metadata.deletion_timestamp.as_ref().map(moment),
            canary_of: said(CANARY).cloned(),
            made_from: said(MADE_FROM).and_then(|text| text.parse().ok()),
            needs: quota::needs(&pod.spec),
            trouble: unscheduled.or(troubles),
        }
    }

    /// Whether it found what the Secret holds when it started. A later version than that is no evidence: numbers
    /// begin anew where a store was restored, and Git may say any.
    pub(super) fn has(&self, edition: Edition) -> bool {
        let frozen = |version: &Version| {
            *version == edition.version || edition.restores.is_some_and(|earlier| earlier.version == *version)
        };
        let found = || self.version == edition.version || self.created >= edition.since || self.kept(edition);
        let versions = &self.refers.versions;
        // The Secret of a version says which one it is; another one holds what it held as they started.
        versions.iter().filter(|version| **version != Version::NONE).all(frozen)
            && (!(versions.is_empty() || versions.contains(&Version::NONE)) || found())
    }

    /// Whether it found the same values earlier, and never what came in between. A container that ends reads
    /// the Secret anew as it starts again, so its pod's age alone does not say it.
    fn kept(&self, edition: Edition) -> bool {
        let Some(earlier) = edition.restores else { return false };
        let found = self.version == earlier.version
            || (self.version < earlier.version && self.created >= earlier.since);
        let read_the_same = |at: &Timestamp| *at < earlier.until || *at >= edition.since;
        found && self.created < earlier.until && self.starts.iter().all(read_the_same)
    }

    /// Whether it may still work, although it is on its way out: until it is killed, and a little longer. One
    /// whose node is gone is never seen to go.
    pub(super) fn may_work(&self, now: Timestamp) -> bool {
        let killed = self.leaves.map(|at| at.saturating_add(KILLED).unwrap_or(Timestamp::MAX));
        killed.is_none_or(|killed| now < killed)
    }

    /// Whether it cannot live with what was taken back, and its controller may wait for it all the same.
    pub(super) fn is_stuck(&self, edition: Edition) -> bool {
        self.ready_since.is_none() && self.leaves.is_none() && edition.took_back(self.version)
    }

    /// Which one it is.
    pub(super) fn title(&self) -> String {
        match &self.owner {
            Some(owner) => format!("pod {} of {} {}", self.name, owner.kind, owner.name),
            None => format!("pod {}", self.name),
        }
    }

    /// Why it is not ready.
    pub(super) fn why(&self) -> String {
        let why = self.trouble.as_ref().map_or("not ready yet", |trouble| trouble.why.as_str());
        format!("pod {}: {why}", self.name)
    }

    /// Whether its containers came to run and end again and again; once a deadline has passed, also whether
    /// they run without being ready. A pod that has no node or no image says nothing about a credential.
    pub(super) fn fails(&self, is_late: bool) -> bool {
        let kind = self.trouble.as_ref().map(|trouble| trouble.kind);
        self.ready_since.is_none()
            && (kind == Some(Kind::Crashes) || (is_late && kind == Some(Kind::Unready)))
    }
}

/// So often a container ends before that is no accident.
const CRASHES: i32 = 2;

/// What keeps a container from running, in words of Kubernetes' own: a message could quote anything.
fn trouble(container: &ContainerStatus) -> Option<Trouble> {
    let state = container.state.clone().unwrap_or_default();
    let exit = |state: Option<&ContainerState>| {
        let ended = state.and_then(|state| state.terminated.as_ref());
        ended.map(|ended| format!(", exit code {}", ended.exit_code)).unwrap_or_default()
    };
    if let Some(waiting) = state.waiting {
        let reason = waiting
            .reason
            .filter(|reason| !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"))?;
        let why = format!("container {} {reason}{}", container.name, exit(container.last_state.as_ref()));
        let kind = if reason == "CrashLoopBackOff" { Kind::Crashes } else { Kind::Other };
        return Some(Trouble { why, kind });
    }
    let kind = if container.restart_count >= CRASHES { Kind::Crashes } else { Kind::Other };
    if state.terminated.as_ref().is_some_and(|ended| ended.exit_code != 0) {
        let why = format!("container {} ended{}", container.name, exit(container.state.as_ref()));
        return Some(Trouble { why, kind });
    }
    (state.running.is_some() && !container.ready).then(|| Trouble {
        why: format!("container {} runs and is not ready", container.name),
        kind: if kind == Kind::Crashes { kind } else { Kind::Unready },
    })
}

/// As the API server says it, to the second.
pub(crate) fn moment(time: &Time) -> Timestamp {
    Timestamp::from_second(time.0.as_second()).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::edition::Span;
    use super::*;

    fn names() -> Names {
        Names::new(&"db".parse().expect("a name"), true)
    }

    fn pod(status: &Value) -> Pod {
        let metadata = json!({
            "name": "app-1", "creationTimestamp": "2026-01-04T02:00:00Z", "annotations": {"rekeyd.dev/version.db": "17"},
        });
        let object = json!({"metadata": metadata, "spec": {}, "status": status});
        Pod::read(&serde_json::from_value(object).expect("a pod"), &names())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a moment")
    }

    fn edition(version: u64, since: Timestamp) -> Edition {
        Edition { version: Version::new(version), since, restores: None }
    }

    #[test]
    fn a_pod_has_the_version_that_it_was_started_for_or_found() {
        let pod = pod(&json!({}));
        assert!(pod.has(edition(17, Timestamp::MAX)));
        assert!(!pod.has(edition(16, Timestamp::MAX)), "its number is of another store");
        assert!(!pod.has(edition(18, Timestamp::MAX)));
        assert!(pod.has(edition(18, at("2026-01-04T02:00:00Z"))));
        assert!(!pod.has(edition(18, at("2026-01-04T02:00:01Z"))));
    }

    #[test]
    fn a_pod_that_never_saw_what_was_taken_back_has_what_was_restored() {
        let restored = |version, since: &str, until: &str| Edition {
            restores: Some(Span { version: Version::new(version), since: at(since), until: at(until) }),
            ..edition(19, at("2026-01-04T04:00:00Z"))
        };
        let started = |at: &str| {
            let state = json!({"running": {"startedAt": at}});
            let container = json!({"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state});
            pod(&json!({"containerStatuses": [container]}))
        };
        let (early, late) = ("2026-01-04T01:00:00Z", "2026-01-04T03:00:00Z");
        assert!(started("2026-01-04T02:00:01Z").has(restored(17, early, late)));
        assert!(
            !started("2026-01-04T03:30:00Z").has(restored(17, early, late)),
            "it started again meanwhile"
        );
        assert!(started("2026-01-04T04:00:00Z").has(restored(17, early, late)), "it started again since");
        assert!(
            !started("2026-01-04T02:00:01Z").has(restored(16, early, late)),
            "it was started for another"
        );
        assert!(started("2026-01-04T02:00:01Z").has(restored(18, early, late)));
        assert!(!started("2026-01-04T02:00:01Z").has(restored(18, "2026-01-04T02:00:01Z", late)));
        assert!(!started("2026-01-04T02:00:01Z").has(restored(17, early, "2026-01-04T02:00:00Z")));
    }

    #[test]
    fn a_pod_that_names_the_secret_of_a_version_has_that_one_whenever_it_was_made() {
        let named = |names: &[&str]| {
            let all: Vec<Value> = names.iter().map(|name| json!({"secretRef": {"name": name}})).collect();
            let object = json!({
                "metadata": {"name": "app-1", "creationTimestamp": "2026-01-04T02:00:00Z"},
                "spec": {"containers": [{"name": "app", "envFrom": all}]},
            });
            Pod::read(&serde_json::from_value(object).expect("a pod"), &self::names())
        };
        let (early, late) = (at("2026-01-04T01:00:00Z"), at("2026-01-04T03:00:00Z"));
        assert!(named(&["db-v17"]).has(edition(17, Timestamp::MAX)));
        assert!(!named(&["db-v16"]).has(edition(17, early)), "it was made since, and reads an earlier one");
        assert!(named(&["db"]).has(edition(17, early)));
        assert!(!named(&["db", "db-v17"]).has(edition(17, late)), "it may have found an earlier one, too");
        let restores = Some(Span { version: Version::new(17), since: early, until: early });
        assert!(named(&["db-v17"]).has(Edition { restores, ..edition(19, late) }));
        assert!(!named(&["db-v18"]).has(Edition { restores, ..edition(19, late) }), "that was taken back");
    }

    #[test]
    fn what_keeps_a_pod_from_being_ready_is_told_without_its_messages() {
        let container = |state: Value, last: Value| {
            json!({"containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": state, "lastState": last,
            }]})
        };
        let ended = json!({"terminated": {"exitCode": 2, "message": "password=hunter2"}});
        for (status, why) in [
            (
                container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "hunter2"}}),
                    ended.clone(),
                ),
                "pod app-1: container app CrashLoopBackOff, exit code 2",
            ),
            (container(ended, json!({})), "pod app-1: container app ended, exit code 2"),
            (
                container(json!({"waiting": {"reason": "ImagePullBackOff"}}), json!({})),
                "pod app-1: container app ImagePullBackOff",
            ),
            (
                container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({})),
                "pod app-1: not ready yet",
            ),
            (container(json!({"running": {}}), json!({})), "pod app-1: container app runs and is not ready"),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
                "pod app-1: not scheduled (Unschedulable)",
            ),
        ] {
            assert_eq!(pod(&status).why(), why);
        }
    }

    #[test]
    fn a_pod_that_has_ended_is_over() {
        for (phase, is_over) in
            [("Running", false), ("Pending", false), ("Succeeded", true), ("Failed", true)]
        {
            assert_eq!(pod(&json!({"phase": phase})).is_over, is_over, "{phase}");
        }
    }
}
