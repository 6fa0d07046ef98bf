//! Workloads that take a new version by themselves: waited for, never restarted, and judged as all others.

use serde_json::{Value, json};

use crate::cluster::{SECRET, delivered, told};
use crate::kubernetes::{Namespace, idle};
use crate::site::*;

/// A Deployment that reads the Secret from a volume.
fn mounts(name: &str, part: Option<&str>) -> Value {
    let mut object = idle("Deployment", name, 1, SECRET);
    let pod = &mut object["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "db", "secret": {"secretName": SECRET}}]);
    let container = &mut pod["containers"][0];
    container.as_object_mut().expect("an object").remove("envFrom");
    container["volumeMounts"] = json!([{"name": "db", "mountPath": "/db"}]);
    if let Some(part) = part {
        container["volumeMounts"] = json!([{"name": "db", "mountPath": "/password", "subPath": part}]);
    }
    object
}

fn reload(site: &Site, names: &[&str]) {
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        let named = names.iter().map(|name| json!({"kind": "Deployment", "name": name}));
        workloads["reloadThemselves"] = named.collect();
    });
}

async fn pod_of(space: &Namespace, app: &str) -> Value {
    let mut pods = space.pods(&format!("app={app}")).await;
    assert_eq!(pods.len(), 1, "{pods:#?}");
    pods.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_see_a_new_value_is_not_taken_for_one_that_reloads() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    space.create(&idle("Deployment", "environment", 1, SECRET)).await;
    space.create(&mounts("part", Some("password"))).await;
    space.rolled_out("deployment/environment").await;
    space.rolled_out("deployment/part").await;
    for (name, why) in [
        ("environment", "Deployment environment is said to reload it, and has it in its environment"),
        (
            "part",
            "Deployment part is said to reload it, and has it in its environment or mounts it by `subPath`",
        ),
        ("nobody", "there is no Deployment nobody that reads it"),
    ] {
        reload(&site, &[name]);
        let answer = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1);
        assert!(answer.to_string().contains(why), "{answer}");
        let answer = site.at.run(&["preflight", POLICY]).await;
        assert!(answer.to_string().contains(why), "{answer}");
        assert!(site.candidate().await.is_none(), "it was begun");
    }
    assert_eq!(space.credential(SECRET).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_waited_for_and_nobody_restarts() {
    let (_, space, site) = delivered().await;
    space.create(&mounts("app", None)).await;
    space.rolled_out("deployment/app").await;
    reload(&site, &["app"]);
    let (first, before) = (space.credential(SECRET).await, pod_of(&space, "app").await);

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until("waiting", "converge").await;
    let detail = rotating.seen.last().expect("a line")["event"]["detail"].to_string();
    assert!(detail.contains("Deployment app: its volumes are being refreshed"), "{detail}");
    assert!(site.accepts(&first).await, "retired although the volume still shows it");
    rotating.end().await.ended(0);

    let second = space.credential(SECRET).await;
    let shown = space.kubectl(&["exec", "deploy/app", "--", "cat", "/db/username"]).await;
    assert_eq!(shown.trim(), second.principal.as_str(), "retired while the volume shows the value before");
    assert!(!site.accepts(&first).await);
    assert_eq!(pod_of(&space, "app").await["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(told(&space, "deployment/app").await, (None, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_reloads_and_crashes_gets_the_value_back_that_it_had() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    let mut app = mounts("app", None);
    app["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", format!("while ! grep -q {spare} /db/username; do sleep 1; done; exit 3")]);
    space.create(&app).await;
    space.rolled_out("deployment/app").await;
    reload(&site, &["app"]);
    let before = pod_of(&space, "app").await;

    site.at.run(&["rotate", POLICY]).await.ended(1);
    let record = site.records().await.swap_remove(0);
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("/app: pod app-") && why.contains("exit code 3"), "{why}");
    assert_eq!(space.credential(SECRET).await, first);
    assert!(site.accepts(&first).await);
    let now = pod_of(&space, "app").await;
    assert_eq!(now["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(now["status"]["containerStatuses"][0]["ready"], true, "closed before it was well: {now:#}");
    assert_eq!(told(&space, "deployment/app").await, (None, 1));
}
