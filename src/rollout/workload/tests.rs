//! Workloads, read and judged as their objects and pods say.

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
    Workload::read(WorkloadKind::Deployment, object, "orders", &names()).expect("read").expect("a template")
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
        Some("pod b is ready for less than 10s")
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

#[test]
fn every_pod_that_has_not_moved_is_named_as_far_as_people_read() {
    let workload = workload(&json!({"spec": {"replicas": 22}}));
    let all = |version, ready| {
        (1..=22).map(|number| pod(&format!("p{number}"), version, ready)).collect::<Vec<_>>()
    };
    let said = unsettled(&workload, &all(1, Some(1))).expect("a reason");
    assert!(said.starts_with("pods p1, p2, p3, "), "{said}");
    assert!(said.ends_with(", p20 and 2 more have an earlier version"), "{said}");
    assert_eq!(
        unsettled(&workload, &all(2, None)[..2]).as_deref(),
        Some("pod p1: not ready yet, pod p2: not ready yet")
    );
}

/// Right after a change the earlier rollout's status is still there, and says that all is well.
#[test]
fn a_status_of_before_the_change_is_not_believed() {
    let workload = workload(&json!({"status": {"observedGeneration": 3}}));
    let pods = [pod("a", 2, Some(80)), pod("b", 2, Some(80))];
    assert_eq!(unsettled(&workload, &pods).as_deref(), Some("its controller has not seen the change yet"));
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
        assert_eq!(said, format!("pods a, b have an earlier version: {why}"));
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
    let well = [pod("a", 1, Some(1))];
    assert_eq!(fails(&conducted("2", aborted()), &well).as_deref(), Some("its update was aborted"));
    assert_eq!(fails(&conducted("1", aborted()), &well), None, "that was an earlier update");
    let ailing = [pod("a", 1, Some(1)), pod("b", 1, None)];
    assert_eq!(fails(&conducted("2", aborted()), &ailing), None, "it was not well before");
    let unseen = json!({"abort": true, "workloadObservedGeneration": "3"});
    assert_eq!(fails(&conducted("2", unseen), &well), None, "an earlier one's status");
}

#[test]
fn what_keeps_pods_from_being_made_is_named_without_its_message() {
    for (message, why) in [
        (
            "pods \"app-1\" is forbidden: exceeded quota: all, requested: pods=1",
            "the namespace's quota is used up",
        ),
        ("admission webhook \"hunter2\" denied the request: hunter2", "an admission webhook refuses them"),
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
    let told =
        |version: &str| json!({"spec": {"template": {"metadata": {"annotations": {ANNOTATION: version}}}}});
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

#[test]
fn one_that_reloads_is_waited_for_until_its_volume_is_renewed_and_then_has_to_be_well() {
    let mut reloading = workload(&json!({}));
    reloading.reloads_itself = true;
    let settle: Interval = "10s".parse().expect("an interval");
    let edition = Edition { version: V2, since: at(20), restores: None };
    let said = |pods: &[Pod], second| {
        let pods: Vec<&Pod> = pods.iter().collect();
        reloading.unsettled(&pods, edition, settle, at(second))
    };
    let well = [pod("app-1", 1, Some(12)), pod("app-2", 1, Some(12))];
    assert_eq!(said(&well, 139).as_deref(), Some("its volumes are being refreshed"));
    assert_eq!(said(&well, 149).as_deref(), Some("pods app-1, app-2 are ready for less than 10s"));
    assert_eq!(said(&well, 150), None);
    let sick = [pod("app-1", 1, Some(12)), pod("app-2", 1, None)];
    assert_eq!(said(&sick, 150).as_deref(), Some("pod app-2: not ready yet"));
    assert_eq!(said(&well[..1], 150).as_deref(), Some("1 of 2 pods are there"));
    // Whatever one does now may come of the new value.
    assert!(reloading.blames(&sick.iter().collect::<Vec<_>>(), edition));
}

#[test]
fn a_pod_that_a_stateful_set_keeps_is_named_with_what_to_do() {
    let object = json!({
        "metadata": {"name": "app", "generation": 4, "uid": "s"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "app"}}, "template": {"spec": {}}},
        "status": {"observedGeneration": 4},
    });
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let read = Workload::read(WorkloadKind::StatefulSet, object, "orders", &names()).expect("read");
    let workload = read.expect("a template");
    let earlier = Span { version: Version::new(1), since: at(5), until: at(20) };
    let edition = Edition { version: Version::new(3), since: at(60), restores: Some(earlier) };
    let stuck = pod("app-0", 2, None);
    let said = workload.unsettled(&[&stuck], edition, "10s".parse().expect("an interval"), at(100));
    let said = said.expect("a reason");
    assert!(
        said.contains("pod app-0: not ready yet; it was made for v2") && said.contains("delete it"),
        "{said}"
    );
}

#[test]
fn what_an_update_takes_away_at_once_is_as_its_controller_reckons() {
    use WorkloadKind::{CronJob, DaemonSet, Deployment, Rollout, StatefulSet};
    let rolling = |unavailable: Value, surge: Value| json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}}});
    for (kind, data, of, takes) in [
        (Deployment, json!({}), 2, 0),
        (Deployment, json!({}), 10, 2),
        (Deployment, rolling(json!(1), json!(0)), 2, 1),
        (Deployment, rolling(json!("50%"), json!(0)), 3, 1),
        (Deployment, rolling(json!(0), json!("0%")), 3, 1),
        (Deployment, json!({"spec": {"strategy": {"type": "Recreate"}}}), 3, 3),
        (StatefulSet, json!({}), 3, 1),
        (StatefulSet, json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}), 3, 0),
        (DaemonSet, json!({}), 3, 1),
        (DaemonSet, json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "40%"}}}}), 3, 2),
        (
            DaemonSet,
            json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}}),
            3,
            0,
        ),
        (Rollout, json!({"spec": {"strategy": {"canary": {}}}}), 4, 1),
        (Rollout, json!({"spec": {"strategy": {"blueGreen": {}}}}), 4, 0),
        (CronJob, json!({}), 0, 0),
    ] {
        assert_eq!(taken(kind, &data, of), takes, "{kind} {data}");
    }
}

#[test]
fn what_an_update_that_takes_nothing_away_makes_first_needs_room() {
    use WorkloadKind::{CronJob, DaemonSet, Deployment, Rollout, StatefulSet};
    let surging =
        json!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}});
    for (kind, data, of, adds) in [
        (Deployment, json!({}), 2, 1),
        (Deployment, json!({}), 0, 0),
        (DaemonSet, surging, 3, 1),
        (StatefulSet, json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}), 3, 0),
        (Rollout, json!({"spec": {"strategy": {"blueGreen": {}}}}), 4, 4),
        (Rollout, json!({"spec": {"strategy": {"blueGreen": {"previewReplicaCount": 1}}}}), 4, 1),
        (CronJob, json!({}), 0, 0),
    ] {
        assert_eq!(added(kind, &data, of), adds, "{kind} {data}");
    }
    let large = workload(&json!({"spec": {"replicas": 10}}));
    assert_eq!((large.takes, large.adds), (2, 0), "it takes some away, and needs no room");
    let small = workload(&json!({"spec": {"replicas": 2}}));
    assert_eq!((small.takes, small.adds), (0, 1));
}
