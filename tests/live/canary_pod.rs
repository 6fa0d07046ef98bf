//! One pod that meets a new value before any other does.

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::{SECRET, delivered, told, version_of};
use crate::cluster_search::Search;
use crate::kubernetes::{Namespace, idle};
use crate::processes::{Daemon, until};
use crate::rollback::{MENDED, aged, created, known, latest_record, uids};
use crate::site::*;

/// Those that are there, by name.
async fn canary_pods(space: &Namespace) -> Vec<Value> {
    let mut pods = space.pods("app=app").await;
    pods.retain(|pod| pod["metadata"]["annotations"]["rekeyd.dev/canary-of"] == SECRET);
    pods
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("a name")
}

/// One pod meets the new value, and nobody restarts for it that would fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_pod_comes_first_and_takes_what_it_fails_with_along() {
    let (cluster, space, site) = delivered().await;
    let mut search = Search::begin(&cluster, &[&space]);
    let first = space.credential(SECRET).await;
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    let mut app = idle("Deployment", "app", 2, SECRET);
    app["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", format!("[ \"$username\" != {spare} ] || exit 3; sleep 2147483647")]);
    known(&space).await;
    space.create(&app).await;
    space.rolled_out("deployment/app").await;
    let before = space.pods("app=app").await;
    aged(&space, "app=app").await;
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["canaryPod"] = json!({"kind": "Deployment", "name": "app"});
        workloads["settle"] = json!("3s");
    });

    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;

    let (candidate, answer) = site.rotate_seen().await;
    assert_ne!(candidate, first);
    search.also("what it said", answer.ended(1).to_string());
    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("canary pod app-canary-") && why.contains("exit code 3"), "{why}");
    assert_eq!(space.credential(SECRET).await, first);
    // Nobody else restarted, and it is gone.
    assert_eq!(told(&space, "deployment/app").await, (None, 1));
    assert_eq!(uids(&space.pods("app=app").await), uids(&before));

    // Mended, it comes, is well, and goes when the others follow.
    space.kubectl(&["patch", "deployment/app", "--type=json", "-p", MENDED]).await;
    space.rolled_out("deployment/app").await;
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "kubernetes.canary.made#1=killBefore");
    site.at.spawn(command).end().await;
    let canary = canary_pods(&space).await.pop().expect("a canary pod");
    assert_eq!(version_of(&canary), Some("4"));
    assert_eq!(told(&space, "deployment/app").await, (None, 2), "restarted before the canary was well");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("4".into()), 3));
    let pods = space.pods("app=app").await;
    assert_eq!(pods.len(), 2, "{pods:#?}");
    assert!(pods.iter().all(|pod| created(pod) > created(&canary)), "{pods:#?}");
    assert!(!site.accepts(&first).await);
    let next = space.credential(SECRET).await;
    search.nothing_gives_away(&[&first, &next, &candidate]).await;
}

/// It runs and never gets ready with the spare user; and neither its node's death nor what it was made from keeps
/// another one from being made.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_pod_that_says_nothing_is_late_and_made_anew() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    let mut app = idle("Deployment", "app", 1, SECRET);
    app["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": {"command": ["sh", "-c", format!("[ \"$username\" != {spare} ]")]}, "periodSeconds": 1,
    });
    known(&space).await;
    space.create(&app).await;
    space.create(&idle("Deployment", "web", 1, SECRET)).await;
    for deployment in ["deployment/app", "deployment/web"] {
        space.rolled_out(deployment).await;
    }
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["canaryPod"] = json!({"kind": "Deployment", "name": "app"});
        workloads["onFailure"] = json!("hold");
        workloads["deadline"] = json!("5s");
    });
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "kubernetes.canary.made#1=killBefore");
    site.at.spawn(command).end().await;
    let dead = canary_pods(&space).await.pop().expect("a canary pod");

    // It never goes, like one whose node is dead.
    let pod = format!("pod/{}", name(&dead));
    space.kubectl(&["patch", &pod, "-p", r#"{"metadata": {"finalizers": ["example.org/stays"]}}"#]).await;
    space.kubectl(&["delete", &pod, "--wait=false"]).await;
    let answer = site.at.run(&["resume", POLICY, "--patience", "2s"]).await.ended(1);
    assert!(answer.stdout.contains("container app runs and is not ready"), "{answer}");
    assert!(site.accepts(&first).await);
    let mut pods = canary_pods(&space).await;
    pods.retain(|pod| name(pod) != name(&dead));
    assert_eq!(pods.len(), 1, "{pods:#?}");
    for deployment in ["deployment/app", "deployment/web"] {
        assert_eq!(told(&space, deployment).await, (None, 1), "restarted before the canary was well");
    }

    // What it was made from is mended, and its pods start anew for that: another canary shows it to the others.
    let mended = r#"[{"op": "remove", "path": "/spec/template/spec/containers/0/readinessProbe"}]"#;
    space.kubectl(&["patch", "deployment/app", "--type=json", "-p", mended]).await;
    space.rolled_out("deployment/app").await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (None, 2));
    assert_eq!(told(&space, "deployment/web").await, (Some("2".into()), 2));
    assert!(!site.accepts(&first).await);
    space.kubectl(&["patch", &pod, "-p", r#"{"metadata": {"finalizers": null}}"#]).await;
    assert!(canary_pods(&space).await.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null()));

    // Where there is to be no pod, none tries anything.
    space.kubectl(&["scale", "deployment/app", "--replicas=0"]).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/web").await, (Some("3".into()), 3));
    let events = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].involvedObject.name}"]).await;
    let made: Vec<&str> = events.split(' ').filter(|name| name.contains("-canary-")).collect();
    assert!(made.iter().any(|name| name.contains("-2-")), "{made:?}");
    assert!(!made.iter().any(|name| name.contains("-3-")), "{made:?}");
}

/// Whoever may have found something else while the Secret was away restarts; the value is in force, and nobody has to
/// try it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_mended_between_rotations_is_tried_by_nobody() {
    let (_, space, site) = delivered().await;
    for name in ["app", "web"] {
        space.create(&idle("Deployment", name, 1, SECRET)).await;
        space.rolled_out(&format!("deployment/{name}")).await;
    }
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["canaryPod"] = json!({"kind": "Deployment", "name": "app"});
    });
    // It dies when the Secret is there again, and before it has told anybody.
    let mut command = site.at.command(&["run", "--log-format", "json"]);
    command.env("REKEYD_DISTURB", "kubernetes.secret.written#1=killBefore");
    let mut dies = Daemon::new(command.spawn().expect("rekeyd starts"));
    dies.says("ready").await;
    space.kubectl(&["delete", "secret", SECRET]).await;
    let is_back = async || space.kubectl(&["get", "secrets", "-o", "name"]).await.contains(SECRET);
    until("the Secret is back", is_back).await;
    dies.kill().await;
    assert_eq!(told(&space, "deployment/app").await, (None, 1), "it lived on");

    let daemon = site.at.daemon().await;
    for name in ["app", "web"] {
        let deployment = format!("deployment/{name}");
        until(&deployment, async || told(&space, &deployment).await.0.as_deref() == Some("1")).await;
        assert_eq!(told(&space, &deployment).await.1, 2);
    }
    daemon.stop().await;
    let events = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].involvedObject.name}"]).await;
    assert!(!events.contains("-canary-"), "{events}");
}
