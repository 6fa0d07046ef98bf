//! Readers that fail with a new value get back what they had, and nobody restarts for that who never saw it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use rekeyd::clock::{Clock as _, SystemClock};

use crate::account::Account;
use crate::cluster::{SECRET, application, counted, delivered, told, version_of};
use crate::cluster_search::Search;
use crate::kubernetes::{Namespace, PATIENCE, idle};
use crate::site::*;

/// Waits until a pod that is created is known to find what the Secret holds, however far clocks differ.
pub(crate) async fn known(space: &Namespace) {
    let secret = space.read(&format!("secret/{SECRET}")).await;
    let since = secret["metadata"]["annotations"]["rekeyd.dev/version-since"].as_str().expect("a moment");
    let left = since.parse::<Timestamp>().expect("a moment").duration_since(SystemClock.now());
    SystemClock.sleep(left.try_into().unwrap_or_default()).await;
}

/// Waits until pods are known to have started before anything that happens from now on.
pub(crate) async fn aged(space: &Namespace, label: &str) {
    let pods = space.pods(label).await;
    let youngest = pods.iter().map(started).max().expect("a pod");
    let left = (youngest + SKEW).duration_since(SystemClock.now());
    SystemClock.sleep(left.try_into().unwrap_or_default()).await;
}

/// What clocks may differ by, and what a moment in whole seconds hides.
const SKEW: SignedDuration = SignedDuration::from_secs(6);

fn started(pod: &Value) -> Timestamp {
    let running = &pod["status"]["containerStatuses"][0]["state"]["running"];
    running["startedAt"].as_str().expect("a moment").parse().expect("a moment")
}

/// Which pods they are.
pub(crate) fn uids(pods: &[Value]) -> BTreeSet<&str> {
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().expect("a uid")).collect()
}

pub(crate) fn created(pod: &Value) -> Timestamp {
    pod["metadata"]["creationTimestamp"].as_str().expect("a moment").parse().expect("a moment")
}

/// A rotation's latest record in the ledger.
pub(crate) async fn latest_record(site: &Site) -> Value {
    let log = site.at.run(&["audit", "log", "--limit", "1", "-o", "json"]).await.ended(0);
    let entries: Value = serde_json::from_str(&log.stdout).expect("JSON");
    entries[0]["record"].clone()
}

/// The application cannot live with the spare user: a permission is missing that rekeyd does not know of.
#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_with_a_new_value_gets_back_the_one_before() {
    let (cluster, space, site) = delivered().await;
    let mut search = Search::begin(&cluster, &[&space]);
    let first = space.credential(SECRET).await;
    let world = &site.world;
    let user = first.principal.as_str();
    world.sql(&format!("CREATE TABLE admitted (name text); INSERT INTO admitted VALUES ('{user}'); GRANT SELECT ON admitted TO {{p}}_group")).await;
    let mut object = application(&site, 3).await;
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array_mut().expect("a list");
    variables.push(json!({
        "name": "STARTUP",
        "value": "SELECT 1 / count(*) FROM admitted WHERE name = session_user",
    }));
    known(&space).await;
    space.create(&object).await;
    space.rolled_out("deployment/app").await;
    let before = space.pods("app=app").await;
    assert_eq!(before.len(), 3);
    aged(&space, "app=app").await;

    let (candidate, answer) = site.rotate_seen().await;
    let answer = answer.ended(1);
    assert_ne!(candidate, first);
    search.also("what it said", answer.to_string());
    assert!(answer.stderr.contains("rolled back") || answer.stdout.contains("rolledBack"), "{answer}");

    // The same value, two versions later; what was to replace it is dead.
    let back = space.credential(SECRET).await;
    assert_eq!(back, first);
    assert_eq!(site.stored().await.as_ref(), Some(&first));
    assert!(site.accepts(&first).await);
    let secret = space.read(&format!("secret/{SECRET}")).await;
    assert_eq!(secret["metadata"]["annotations"]["rekeyd.dev/version"], "3");
    // Its template is as it was, and those that never saw the other value are still the same.
    assert_eq!(told(&space, "deployment/app").await, (None, 3));
    assert_eq!(uids(&space.pods("app=app").await), uids(&before));
    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    assert_eq!((record["from"].as_u64(), record["to"].as_u64()), (Some(1), Some(3)), "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("Deployment") && why.contains("exit code 3"), "{why}");
    assert_eq!(record["proof"]["oldRefused"], true, "{record:#}");
    site.at.run(&["audit", "verify"]).await.ended(0);

    // Those that never saw it answered all along.
    let (pods, queries, failed) = counted(&site.world).await;
    assert_eq!(failed, 0, "{queries} queries by {pods} pods");

    // Mended, the next one goes through, with the same spare user.
    world.sql("INSERT INTO admitted SELECT rolname FROM pg_roles WHERE rolname LIKE '{p}_%'").await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let next = space.credential(SECRET).await;
    assert_ne!(next.principal, first.principal);
    assert!(site.accepts(&next).await && !site.accepts(&first).await);
    assert_eq!(told(&space, "deployment/app").await, (Some("4".into()), 4));
    assert!(search.heard("app-") > 0, "the pod that crashed is not searched");
    search.nothing_gives_away(&[&first, &next, &candidate]).await;
}

/// What fails with a new value fails in one workload, and the others never see that value.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_restarted_first_and_the_others_never_see_what_it_fails_with() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let mut canary = idle("Deployment", "canary", 1, SECRET);
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    canary["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", format!("[ \"$username\" != {spare} ] || exit 3; sleep 2147483647")]);
    // A container without a probe is ready as soon as it runs, also one that has ended and whose kubelet is late to
    // say so: the pod that it is to replace stays until it has been for longer, and so does the turn of the others.
    canary["spec"]["minReadySeconds"] = json!(5);
    known(&space).await;
    space.create(&canary).await;
    space.create(&idle("Deployment", "web", 2, SECRET)).await;
    space.rolled_out("deployment/canary").await;
    space.rolled_out("deployment/web").await;
    let web = space.pods("app=web").await;
    aged(&space, "app in (canary,web)").await;
    site.at.change_policy(NAME, |policy| {
        let workloads = &mut policy["spec"]["consumers"][0]["kubernetes"]["workloads"];
        workloads["canary"] = json!({"kind": "Deployment", "name": "canary"});
        workloads["settle"] = json!("8s");
    });

    site.at.run(&["rotate", POLICY]).await.ended(1);
    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("/canary: pod canary-") && why.contains("exit code 3"), "{why}");
    assert_eq!(space.credential(SECRET).await, first);
    assert_eq!(told(&space, "deployment/canary").await, (None, 3));
    // No pod of the others was ever made for another version: nothing touched their template.
    assert_eq!(told(&space, "deployment/web").await, (None, 1));
    assert_eq!(uids(&space.pods("app=web").await), uids(&web));

    // Mended, the canary goes first and the others follow.
    space.kubectl(&["patch", "deployment/canary", "--type=json", "-p", MENDED]).await;
    space.rolled_out("deployment/canary").await;
    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until("waiting", "converge").await;
    let detail = rotating.seen.last().expect("a line")["event"]["detail"].clone();
    let detail = detail.as_str().expect("a detail");
    assert!(detail.contains("Deployment web: waits until Deployment canary has moved"), "{detail}");
    rotating.end().await.ended(0);
    let moved = async |name| {
        let pods = space.pods(&format!("app={name}")).await;
        assert!(pods.iter().all(|pod| version_of(pod) == Some("4")), "{pods:#?}");
        pods.iter().map(created).collect::<Vec<_>>()
    };
    let (canary, web) = (moved("canary").await, moved("web").await);
    assert!(canary.iter().max() < web.iter().min(), "{canary:?} {web:?}");
}

/// Takes the check out of a container's command.
pub(crate) const MENDED: &str = r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["sleep", "2147483647"]}]"#;

/// A StatefulSet replaces no pod while one is not ready, and a pod that names the Secret of its version keeps a value
/// that was taken back: it would bar the way back of its StatefulSet for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_gets_back_what_was_before_although_its_pod_is_never_ready() {
    let (cluster, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    let lives = format!("[ \"$username\" != {spare} ]");
    for (name, field, value) in [
        ("mute", "readinessProbe", json!({"exec": {"command": ["sh", "-c", lives]}, "periodSeconds": 1})),
        ("crash", "command", json!(["sh", "-c", format!("{lives} || exit 3; sleep 2147483647")])),
    ] {
        let mut set = idle("StatefulSet", name, 2, SECRET);
        set["spec"]["template"]["spec"]["containers"][0][field] = value;
        set["spec"]["minReadySeconds"] = json!(5);
        space.create(&set).await;
        for name in [format!("pod/{name}-0"), format!("pod/{name}-1")] {
            space.kubectl(&["wait", &name, "--for=create", PATIENCE]).await;
            space.kubectl(&["wait", &name, "--for=condition=Ready", PATIENCE]).await;
        }
    }
    site.at.change_policy(NAME, |policy| {
        let kubernetes = &mut policy["spec"]["consumers"][0]["kubernetes"];
        kubernetes["immutable"] = json!(true);
        kubernetes["workloads"]["deadline"] = json!("20s");
    });
    // With the rights that rekeyd asks for, and no others.
    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "mute"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "mute"}}},
    });
    space.create(&budget).await;
    space.kubectl(&["wait", "pdb/mute", "--for=jsonpath={.status.currentHealthy}=2", PATIENCE]).await;

    // Killed after it evicted one: whoever goes on evicts what is left.
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "kubernetes.pod.evicted#1=killBefore");
    site.at.spawn(command).end().await;
    assert_eq!(site.candidate().await.map(drop), Some(()), "nothing was evicted");
    let mut resuming = site.at.spawn(site.at.command(&["resume", POLICY]));
    resuming.until_told("a StatefulSet keeps a pod that is not ready: delete it if it is not evicted").await;
    let bars = space.pods("app=mute").await;
    assert!(bars.iter().any(|pod| version_of(pod) == Some("2")), "the budget was not asked");
    space.kubectl(&["delete", "pdb/mute"]).await;
    resuming.end().await;

    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    assert_eq!(space.credential(SECRET).await, first);
    assert!(site.accepts(&first).await);
    for name in ["mute", "crash"] {
        space.rolled_out(&format!("statefulset/{name}")).await;
        let pods = space.pods(&format!("app={name}")).await;
        assert_eq!(pods.iter().map(version_of).collect::<Vec<_>>(), [Some("3"); 2], "{name}");
        assert_eq!(told(&space, &format!("statefulset/{name}")).await, (Some("3".into()), 3));
    }
}

/// Whoever was not well before says nothing about a new value.
#[tokio::test(flavor = "multi_thread")]
async fn what_crashed_before_holds_the_end_back_and_takes_nothing_back() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let mut crashing = idle("Deployment", "app", 1, SECRET);
    let container = &mut crashing["spec"]["template"]["spec"]["containers"][0];
    container["command"] = json!(["sh", "-c", "exit 7"]);
    // A container that runs is ready without, be it for a moment.
    container["readinessProbe"] = json!({"exec": {"command": ["true"]}, "initialDelaySeconds": 2});
    space.create(&crashing).await;
    space.create(&idle("Deployment", "well", 1, SECRET)).await;
    space.rolled_out("deployment/well").await;

    let daemon = site.at.daemon().await;
    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    let detail = loop {
        rotating.until("waiting", "converge").await;
        let detail =
            rotating.seen.last().expect("a line")["event"]["detail"].as_str().expect("a detail").to_owned();
        if detail.contains("exit code 7") {
            break detail;
        }
    };
    assert!(detail.contains("Deployment app: pod app-"), "{detail}");
    assert!(site.accepts(&first).await, "retired although a reader may need it");
    assert!(site.accepts(&space.credential(SECRET).await).await);
    assert_eq!(told(&space, "deployment/well").await, (Some("2".into()), 2));
    let status = site.at.run(&["status", POLICY, "-o", "json"]).await.ended(0);
    let open = &status.json()[0]["open"];
    let detail = open["detail"].as_str().unwrap_or_else(|| panic!("nobody is named: {status}"));
    assert!(detail.contains("Deployment app: pod app-"), "{detail}");

    // Somebody mends it.
    space
        .kubectl(&[
            "patch", "deployment/app", "--type=json",
            "-p", r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["sleep", "1000000"]}]"#,
        ])
        .await;
    rotating.end().await.ended(0);
    assert!(!site.accepts(&first).await);
    daemon.stop().await;
}
