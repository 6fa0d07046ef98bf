//! Pods that do not come, and room that there is not: named as the real kubelets, scheduler and controllers see it.

use serde_json::{Value, json};

use rekeyd::secret::Credential;

use crate::cluster::{SECRET, delivered, told};
use crate::kubernetes::{Namespace, PATIENCE, idle};
use crate::site::*;

/// A Deployment that makes a new pod before it takes an old one away.
fn careful(name: &str) -> Value {
    let mut object = idle("Deployment", name, 1, SECRET);
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    object
}

async fn create(space: &Namespace, names: &[&str]) {
    for name in names {
        space.create(&careful(name)).await;
    }
    for name in names {
        space.rolled_out(&format!("deployment/{name}")).await;
    }
}

async fn patch(space: &Namespace, name: &str, change: Value) {
    space
        .kubectl(&["patch", &format!("deployment/{name}"), "--type=strategic", "-p", &change.to_string()])
        .await;
}

/// What a rotation that runs says it waits for, once that has all of these words.
async fn waits(rotating: &mut crate::processes::Running, words: &[&str]) -> String {
    loop {
        rotating.until("waiting", "converge").await;
        let event = &rotating.seen.last().expect("a line")["event"];
        let detail = event["detail"].as_str().expect("a detail");
        if words.iter().all(|word| detail.contains(word)) {
            return detail.to_owned();
        }
    }
}

async fn is_retired(site: &Site, first: &Credential) -> bool {
    !site.accepts(first).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pod_that_does_not_come_is_named_with_the_reason() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    create(&space, &["pulls", "nowhere", "unready"]).await;
    let container = |change: Value| {
        let mut container = json!({"name": "app"});
        container.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        json!({"spec": {"paused": true, "template": {"spec": {"containers": [container]}}}})
    };
    // Changed in each while its update is held, so that only what comes with the version meets it.
    patch(&space, "pulls", container(json!({"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"})))
        .await;
    let selected = json!({"spec": {"paused": true, "template": {"spec": {"nodeSelector": {"no": "node"}}}}});
    patch(&space, "nowhere", selected).await;
    let probe = json!({"readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1}});
    patch(&space, "unready", container(probe)).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    waits(&mut rotating, &["Deployment pulls", "Deployment nowhere", "Deployment unready", "it is paused"])
        .await;
    let released = json!({"spec": {"paused": false}});
    for name in ["pulls", "nowhere", "unready"] {
        patch(&space, name, released.clone()).await;
    }
    let detail = waits(&mut rotating, &["Pull", "Unschedulable", "is not ready"]).await;
    let of = |name: &str| {
        let parts: Vec<&str> = detail.split("Deployment ").collect();
        (*parts.iter().find(|part| part.starts_with(name)).expect("it is named")).to_owned()
    };
    assert!(of("pulls").starts_with("pulls: pod pulls-"), "{detail}");
    assert!(
        of("pulls").contains("container app ErrImagePull") || of("pulls").contains("ImagePullBackOff"),
        "{detail}"
    );
    assert!(of("nowhere").contains("not scheduled (Unschedulable)"), "{detail}");
    assert!(of("unready").contains("container app runs and is not ready"), "{detail}");
    assert!(!is_retired(&site, &first).await, "retired while a pod has it");

    let mended = json!({"image": "localhost/busybox:1", "imagePullPolicy": "Never"});
    patch(&space, "pulls", container(mended)).await;
    patch(&space, "unready", container(json!({"readinessProbe": null}))).await;
    patch(&space, "nowhere", json!({"spec": {"template": {"spec": {"nodeSelector": null}}}})).await;
    for name in ["pulls", "unready"] {
        patch(&space, name, released.clone()).await;
    }
    rotating.end().await.ended(0);
    assert!(is_retired(&site, &first).await);
    for name in ["pulls", "nowhere", "unready"] {
        assert_eq!(told(&space, &format!("deployment/{name}")).await.0, Some("2".into()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_a_quota_has_no_room_for_is_not_begun() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    create(&space, &["app"]).await;
    limit(&space, 1, 1).await;
    let preflight = site.at.run(&["preflight", POLICY, "-o", "text"]).await.to_string();
    assert!(preflight.contains("ResourceQuota all"), "{preflight}");

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    let detail = waits(&mut rotating, &["ResourceQuota"]).await;
    let why = "waits for ResourceQuota all: its update makes 1 more pod first, and 1 of 1 pods are used";
    assert!(detail.contains(why), "{detail}");
    assert_eq!(told(&space, "deployment/app").await, (None, 1), "it was begun");
    assert!(!is_retired(&site, &first).await, "retired while a pod has it");

    space.kubectl(&["patch", "resourcequota/all", "-p", r#"{"spec":{"hard":{"pods":"2"}}}"#]).await;
    rotating.end().await.ended(0);
    assert!(is_retired(&site, &first).await);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
}

/// What a namespace may have, counted by the API server.
async fn limit(space: &Namespace, pods: u32, used: u32) {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"},
        "spec": {"hard": {"pods": pods.to_string()}},
    });
    space.create(&quota).await;
    let counted = format!("--for=jsonpath={{.status.used.pods}}={used}");
    space.kubectl(&["wait", "resourcequota/all", &counted, PATIENCE]).await;
}

/// Whether a controller tried to make a pod that a quota had no room for.
async fn was_refused(space: &Namespace) -> bool {
    let refusals = ["get", "events", "--field-selector=reason=FailedCreate", "-o", "name"];
    !space.kubectl(&refusals).await.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_that_share_the_last_place_of_a_quota_begin_one_after_the_other() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    create(&space, &["a", "b"]).await;
    limit(&space, 3, 2).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    waits(&mut rotating, &["waits for ResourceQuota all: its update makes 1 more pod first"]).await;
    rotating.end().await.ended(0);
    assert!(is_retired(&site, &first).await);
    for name in ["a", "b"] {
        assert_eq!(told(&space, &format!("deployment/{name}")).await, (Some("2".into()), 2), "{name}");
    }
    assert!(!was_refused(&space).await, "an update stood still");
}

/// The canary has the last place until it has shown what it is for.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_pod_gives_its_place_to_the_update_that_follows() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    create(&space, &["app"]).await;
    limit(&space, 2, 1).await;
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["canaryPod"] = json!({"kind": "Deployment", "name": "app"});
    });
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert!(is_retired(&site, &first).await);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
}

/// Which pods a quota with a scope counts is the API server's to say: the workload's own words are passed on then.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_the_api_server_refuses_by_a_quota_are_told_of() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    create(&space, &["app"]).await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "running"},
        "spec": {"hard": {"pods": "1"}, "scopes": ["NotTerminating"]},
    });
    space.create(&quota).await;
    let counted = ["wait", "resourcequota/running", "--for=jsonpath={.status.used.pods}=1", PATIENCE];
    space.kubectl(&counted).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    waits(&mut rotating, &["its controller cannot make pods: the namespace's quota is used up"]).await;
    assert!(!is_retired(&site, &first).await, "retired while a pod has it");

    space.kubectl(&["delete", "resourcequota/running"]).await;
    rotating.end().await.ended(0);
    assert!(is_retired(&site, &first).await);
}
