//! Many policies and many workloads at once: no more restart at a time than may, each once.

use std::collections::BTreeMap;

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::cluster::prepared;
use crate::kubernetes::{Namespace, idle};
use crate::site::*;

const POLICIES: usize = 50;
const WORKLOADS: usize = 30;

/// So many restart at once.
const ROLLOUTS: usize = 3;

fn policy(number: usize, space: &Namespace) -> Value {
    json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
        "metadata": {"name": format!("key-{number}"), "namespace": "fleet"},
        "spec": {
            "target": {"generated": {}},
            "store": {"name": "main", "path": format!("fleet/key-{number}")},
            "consumers": [{"kubernetes": {
                "namespace": space.name, "secret": format!("key-{number}"),
                "data": {"username": "app", "password": "{{ value }}"},
                "workloads": {"settle": "0s"},
            }}],
        },
    })
}

/// A workload that reads one Secret, or two.
fn workload(number: usize) -> Value {
    let mut object = idle("Deployment", &format!("app-{number}"), 2, &format!("key-{number}"));
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    if number + WORKLOADS < POLICIES {
        let second =
            json!({"prefix": "second_", "secretRef": {"name": format!("key-{}", number + WORKLOADS)}});
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        container["envFrom"].as_array_mut().expect("a list").push(second);
    }
    object
}

fn budget(number: usize) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": format!("app-{number}")},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": format!("app-{number}")}}},
    })
}

/// Whether all pods that a workload is to have are made from its template and ready, and no others are left.
fn has_moved(workload: &Value, pods: &[Value]) -> bool {
    let name = &workload["metadata"]["name"];
    let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
    let is_new = |pod: &&Value| {
        let mut said = annotations.as_object().expect("annotations").iter();
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|one| one["type"] == "Ready" && one["status"] == "True");
        said.all(|(key, version)| pod["metadata"]["annotations"][key] == *version) && ready.next().is_some()
    };
    let own: Vec<&Value> = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == *name).collect();
    own.len() == 2 && own.iter().all(is_new)
}

/// The first whole minute before which a daemon has surely read the policies.
fn soon() -> Timestamp {
    let now = SystemClock.now();
    let minute =
        now.round(TimestampRound::new().smallest(Unit::Minute).mode(RoundMode::Ceil)).expect("a minute");
    if minute.duration_since(now) < SignedDuration::from_secs(20) {
        minute + SignedDuration::from_mins(1)
    } else {
        minute
    }
}

async fn all(space: &Namespace, kind: &str) -> Vec<Value> {
    let text = space.kubectl(&["get", kind, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list["items"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_are_due_at_once_restart_three_at_a_time_and_each_once() {
    let (_, space, site) = prepared().await;
    site.at.change_settings(|settings| settings["limits"] = json!({"rollouts": ROLLOUTS}));
    std::fs::remove_file(site.at.path(&format!("policies/{NAME}.yaml"))).expect("its policy");
    for number in 0..POLICIES {
        let path = site.at.path(&format!("policies/key-{number}.yaml"));
        std::fs::write(path, policy(number, &space).to_string()).expect("a policy");
    }
    let daemon = site.at.daemon().await;
    let commands = (0..POLICIES).map(|number| site.at.command(&["rotate", &format!("fleet/key-{number}")]));
    let running: Vec<_> = commands.map(|command| site.at.spawn(command)).collect();
    for one in running {
        one.end().await.ended(0);
    }
    let objects: Vec<Value> = (0..WORKLOADS).flat_map(|number| [workload(number), budget(number)]).collect();
    space.create(&json!({"apiVersion": "v1", "kind": "List", "items": objects})).await;
    for number in 0..WORKLOADS {
        space.rolled_out(&format!("deployment/app-{number}")).await;
    }

    let due = soon().strftime("%-M %-H %-d %-m *").to_string();
    for number in 0..POLICIES {
        site.at.change_policy(&format!("key-{number}"), |policy| {
            policy["spec"]["schedule"] = json!({"cron": due, "timeZone": "UTC"});
        });
    }
    let watched = async {
        let (mut most, mut looks) = (0, 0);
        loop {
            // Whoever was told by then and has not moved by now is restarting all the while.
            let told: Vec<Value> = all(&space, "deployments")
                .await
                .into_iter()
                .filter(|one| one["metadata"]["generation"].as_i64() > Some(1))
                .collect();
            let pods = all(&space, "pods").await;
            let rolling = told.iter().filter(|one| !has_moved(one, &pods)).count();
            (most, looks) = (most.max(rolling), looks + 1);
            for budget in all(&space, "poddisruptionbudgets").await {
                let healthy = budget["status"]["currentHealthy"].as_i64();
                assert!(healthy >= Some(2), "{healthy:?} pods of {} are left", budget["metadata"]["name"]);
            }
            if rolling == 0 && told.len() == WORKLOADS {
                return (most, looks);
            }
        }
    };
    let (most, looks) = watched.await;
    assert!((1..=ROLLOUTS).contains(&most), "{most} restarted at once, in {looks} looks");

    let annotations: BTreeMap<String, Value> = all(&space, "deployments")
        .await
        .into_iter()
        .map(|one| {
            let name = one["metadata"]["name"].as_str().expect("a name").to_owned();
            assert_eq!(one["metadata"]["generation"], 2, "{name} was restarted more than once");
            (name, one["spec"]["template"]["metadata"]["annotations"].clone())
        })
        .collect();
    for number in 0..POLICIES {
        let said =
            &annotations[&format!("app-{}", number % WORKLOADS)][format!("rekeyd.dev/version.key-{number}")];
        assert_eq!(said, "2", "key-{number}");
    }
    daemon.stop().await;
}
