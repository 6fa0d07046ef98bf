//! The last mile in a real cluster: real kubelets, real pods.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::secret::Credential;

use crate::kubernetes::{Cluster, Namespace, idle};
use crate::postgres_support::World;
use crate::site::*;

pub(crate) const SECRET: &str = "orders-db";

/// The annotation of pod templates that says for which version their pods were started.
const ANNOTATION: &str = "rekeyd.dev/version.orders-db";

impl Site {
    /// Its value goes to a Secret from now on.
    pub(crate) fn deliver_to(&self, cluster: &Cluster, space: &Namespace) {
        self.at.change_settings(|settings| {
            settings["clusters"] = json!({"main": {"kubeconfig": {"path": cluster.kubeconfig}}});
        });
        self.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"] = json!([{"kubernetes": {
                "namespace": space.name, "secret": SECRET, "workloads": {"settle": "0s"},
            }}]);
        });
    }
}

/// A site whose value goes to a Secret in a namespace of its own. There is no value yet.
pub(crate) async fn prepared() -> (Cluster, Namespace, Site) {
    let cluster = Cluster::shared();
    let space = cluster.namespace().await;
    let site = Site::alternating().await;
    site.deliver_to(&cluster, &space);
    (cluster, space, site)
}

/// The same, with its first value in the Secret.
pub(crate) async fn delivered() -> (Cluster, Namespace, Site) {
    let made = prepared().await;
    made.2.at.run(&["rotate", POLICY]).await.ended(0);
    made
}

/// A Deployment that asks the site's database all the time, with what the Secret says. The table that it counts
/// in is made here.
pub(crate) async fn application(site: &Site, cluster: &Cluster, replicas: u32) -> Value {
    let world = &site.world;
    world
        .sql(
            "CREATE TABLE calls (pod text PRIMARY KEY, queries bigint, failed bigint);
             GRANT SELECT, INSERT, UPDATE ON calls TO {p}_group",
        )
        .await;
    let mut object = idle("Deployment", "app", replicas, SECRET);
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!("localhost/application:1");
    container.as_object_mut().expect("an object").remove("command");
    container["env"] = json!([
        {"name": "HOST", "value": cluster.host},
        {"name": "PORT", "value": world.endpoint().port.to_string()},
        {"name": "DATABASE", "value": world.endpoint().database},
        {"name": "LISTEN", "value": "0.0.0.0:8080"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1});
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(5);
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": replicas}});
    object
}

/// What the pods counted, those that are gone too: pods, queries, queries that failed.
pub(crate) async fn counted(world: &World) -> (u64, u64, u64) {
    let row = world
        .row("SELECT count(*) || ' ' || coalesce(sum(queries), 0) || ' ' || coalesce(sum(failed), 0) FROM calls")
        .await;
    let numbers: Vec<u64> = row.split(' ').map(|number| number.parse().expect("a number")).collect();
    (numbers[0], numbers[1], numbers[2])
}

/// How often the server refused one of the pair, by its log.
pub(crate) fn refusals(world: &World) -> usize {
    let log = std::fs::read_to_string(&world.server.at().log).expect("a log");
    let of_pair = |line: &&str| ["a", "b"].iter().any(|user| line.contains(world.name(user).as_str()));
    log.lines().filter(|line| line.contains("FATAL")).filter(of_pair).count()
}

/// The version in a workload's pod template, and how often it was changed.
pub(crate) async fn told(space: &Namespace, workload: &str) -> (Option<String>, i64) {
    let object = space.read(workload).await;
    let annotation = &object["spec"]["template"]["metadata"]["annotations"][ANNOTATION];
    (annotation.as_str().map(ToOwned::to_owned), object["metadata"]["generation"].as_i64().expect("a number"))
}

pub(crate) fn version_of(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][ANNOTATION].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_written_and_whoever_reads_it_restarts_once() {
    let (_, space, site) = prepared().await;

    // The first value: nobody reads it yet.
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let first = space.credential(SECRET).await;
    assert!(site.accepts(&first).await);
    assert_eq!(site.stored().await.as_ref(), Some(&first));

    space.create(&idle("Deployment", "app", 3, SECRET)).await;
    space.create(&idle("Deployment", "other", 1, "another")).await;
    space.rolled_out("deployment/app").await;

    site.at.run(&["rotate", POLICY]).await.ended(0);
    let second = space.credential(SECRET).await;
    assert!(site.accepts(&second).await);
    assert!(!site.accepts(&first).await, "the old value works");
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
    assert_eq!(told(&space, "deployment/other").await, (None, 1));
    let pods = space.pods("app=app").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| version_of(pod) == Some("2")), "{pods:#?}");

    // Nothing is left to do, whoever asks.
    site.at.run(&["resume", POLICY]).await;
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retired_while_a_pod_has_the_outgoing_value() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    space.kubectl(&["rollout", "pause", "deployment/app"]).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    let detail = loop {
        rotating.until("waiting", "converge").await;
        let event = &rotating.seen.last().expect("a line")["event"];
        let detail = event["detail"].as_str().expect("a detail").to_owned();
        if !detail.contains("its controller") {
            break detail;
        }
    };
    assert!(detail.starts_with("Deployment app: pod app-"), "{detail}");
    assert!(detail.ends_with("has an earlier version: it is paused, resume it"), "{detail}");
    assert!(site.accepts(&first).await, "retired too early");
    assert!(site.accepts(&space.credential(SECRET).await).await);

    space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    rotating.end().await.ended(0);
    assert!(!site.accepts(&first).await, "the old value works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_others_is_refused_unless_it_is_to_be_adopted() {
    let (_, space, site) = prepared().await;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "stringData": {"password": "set by hand", "other": "kept"},
    });
    space.create(&foreign).await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains("rekeyd did not write it"), "{answer}");
    assert!(answer.stderr.contains("adopt: true"), "{answer}");
    assert!(site.stored().await.is_none(), "it was begun");

    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["adopt"] = json!(true);
    });
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let secret = space.read(&format!("secret/{SECRET}")).await;
    assert!(site.accepts(&space.credential(SECRET).await).await);
    assert_eq!(secret["data"]["other"], "a2VwdA==", "what rekeyd does not write is left alone");
    assert_eq!(secret["metadata"]["annotations"]["rekeyd.dev/policy"], POLICY);
    assert_eq!(secret["metadata"]["annotations"]["rekeyd.dev/version"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_cluster_is_said_with_its_remedy() {
    let (_, _space, site) = prepared().await;

    // Kubernetes fills tokens in.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["type"] = json!("kubernetes.io/service-account-token");
    });
    let answer = site.at.run(&["check"]).await.ended(1);
    assert!(answer.stderr.contains("Kubernetes fills Secrets of type"), "{answer}");
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["type"] = json!("Opaque");
    });

    // Nobody of that name is there.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["workloads"]["also"] =
            json!([{"kind": "Deployment", "name": "missing"}]);
    });
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await.ended(1);
    assert!(answer.stdout.contains("Deployment missing"), "{answer}");

    // The cluster is unknown, or its kubeconfig is.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["cluster"] = json!("mian");
    });
    let answer = site.at.run(&["check"]).await.ended(1);
    assert!(answer.stderr.contains("the settings have no cluster `mian`"), "{answer}");
    assert!(answer.stderr.contains("main"), "{answer}");
}

/// One reader is away: the others have the new version and use it, and the outgoing value lives until it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_away_holds_back_the_end_and_nobody_else() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    let away = site.at.path("away/second.env");
    site.at.change_policy(NAME, |policy| {
        let second = json!({"file": {"path": away, "content": "{{ principal }}\n{{ value }}\n"}});
        policy["spec"]["consumers"].as_array_mut().expect("a list").push(second);
    });

    site.at.run(&["rotate", POLICY, "--patience", "1s"]).await.ended(1);
    let second = space.credential(SECRET).await;
    assert!(second != first, "the Secret has the outgoing value");
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
    space.rolled_out("deployment/app").await;
    assert!(site.accepts(&first).await, "retired before the reader came back");
    assert!(site.accepts(&second).await);

    std::fs::create_dir(site.at.path("away")).expect("a folder");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(credential_in(&std::fs::read_to_string(away).expect("the reader's file")), second);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2), "it was restarted again");
    assert!(!site.accepts(&first).await, "the old value works");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_a_rotation_is_finished_and_restarts_nobody_twice() {
    let (_, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 2, SECRET)).await;
    space.rolled_out("deployment/app").await;

    let points = [
        "publish/consumer.publish#1=killBefore",
        "publish/consumer.publish#1=killAfter",
        "publish/consumer.publish#1=late",
        "publish/consumer.publish#1=twice",
        "restart/consumer.reload#1=killBefore",
        "restart/consumer.reload#1=killAfter",
        "restart/consumer.reload#1=late",
        "restart/consumer.reload#1=twice",
        "converge/consumer.publish#1=killBefore",
        "converge/consumer.reach#1=killAfter",
        "retire/consumer.reload#1=killAfter",
        "kubernetes.secret.written#1=killBefore",
        "kubernetes.restart.patched#1=killBefore",
    ];
    let mut old = space.credential(SECRET).await;
    for (number, point) in points.iter().enumerate() {
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", point);
        site.at.spawn(command).end().await;
        site.at.run(&["resume", POLICY]).await;
        let current = space.credential(SECRET).await;
        assert!(current != old && site.accepts(&current).await, "{point}");
        assert!(!site.accepts(&old).await, "{point}: the old value works");
        let version = number as i64 + 2;
        assert_eq!(told(&space, "deployment/app").await, (Some(version.to_string()), version), "{point}");
        old = current;
    }
    site.at.run(&["audit", "verify"]).await.ended(0);
}

/// Who dies as it makes a Secret leaves one behind that the next one owns as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_made_by_halves_is_taken_up_and_later_writes_never_meet_a_stranger() {
    let (_, space, site) = prepared().await;
    let managers = async || {
        let secret = space.kubectl(&["get", "secret", SECRET, "-o", "json", "--show-managed-fields"]).await;
        let secret: Value = serde_json::from_str(&secret).expect("JSON");
        let managers = secret["metadata"]["managedFields"].as_array().expect("managers").iter();
        managers.map(|entry| entry["manager"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "kubernetes.secret.made#1=killBefore");
    site.at.spawn(command).end().await;
    let maker = managers().await;
    assert!(maker.len() == 1 && maker[0].starts_with("rekeyd-maker-"), "{maker:?}");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert!(site.accepts(&space.credential(SECRET).await).await);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert_eq!(managers().await, ["rekeyd"]);

    // Made by somebody else between the look and the write: theirs stays, and is not added to.
    space.kubectl(&["delete", "secret", SECRET]).await;
    let mut command = site.at.command(&["rotate", POLICY, "--patience", "1s"]);
    command.env("REKEYD_DISTURB", "publish/consumer.publish#1=stop");
    let running = site.at.spawn(command);
    assert!(running.stands_still().await);
    space.kubectl(&["create", "secret", "generic", SECRET, "--from-literal=token=theirs"]).await;
    running.signal(rustix::process::Signal::CONT);
    let answer = running.end().await.ended(1);
    assert!(answer.stdout.contains("rekeyd did not write it"), "{answer}");
    let secret = space.read(&format!("secret/{SECRET}")).await;
    assert_eq!(secret["data"], json!({"token": "dGhlaXJz"}));
}

/// Rotations and containments, back to back, of a value that three pods use for every query.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_fails_no_query_while_its_value_is_rotated_and_contained() {
    let (cluster, space, site) = delivered().await;
    space.create(&application(&site, &cluster, 3).await).await;
    space.rolled_out("deployment/app").await;
    let mut old: Vec<Credential> = vec![space.credential(SECRET).await];

    let before = refusals(&site.world);
    let mut probes = 0;
    for (round, command) in ["rotate", "contain", "rotate", "contain"].iter().enumerate() {
        site.at.run(&[command, POLICY]).await.ended(0);
        let current = space.credential(SECRET).await;
        assert!(site.accepts(&current).await);
        for value in &old {
            assert!(!site.accepts(value).await, "an old value works");
            probes += 1;
        }
        old.push(current);
        let version = round as i64 + 2;
        assert_eq!(told(&space, "deployment/app").await, (Some(version.to_string()), version));
        // A rotation proves that the outgoing value is refused.
        probes += 1;
    }
    let (pods, queries, failed) = counted(&site.world).await;
    assert_eq!(failed, 0, "{queries} queries by {pods} pods");
    assert!(pods >= 15 && queries > 100, "{queries} queries by {pods} pods");
    // The last word of a pod that ended may not have been written: the server knows whom it refused.
    assert_eq!(
        refusals(&site.world) - before,
        probes,
        "somebody was refused who had the value from its Secret"
    );
}

/// Whoever writes something else over a Secret, or deletes it, is undone at once, and nobody restarts.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_somebody_changes_or_deletes_gets_its_value_back() {
    let (_, space, site) = delivered().await;
    let value = space.credential(SECRET).await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    site.at.change_settings(|settings| settings["listen"] = json!("127.0.0.1:0"));
    let mut daemon = site.at.daemon().await;

    // As a GitOps tool would that has a placeholder in Git.
    let placeholder = r#"{"stringData": {"password": "rekeyd://orders/orders-db#password@v1"}}"#;
    space.kubectl(&["patch", "secret", SECRET, "-p", placeholder]).await;
    daemon.says("somebody changed what readers find: the value in force is there again").await;
    assert_eq!(space.credential(SECRET).await, value);

    space.kubectl(&["delete", "secret", SECRET]).await;
    daemon.says("somebody changed what readers find: the value in force is there again").await;
    assert_eq!(space.credential(SECRET).await, value);
    let secret = space.read(&format!("secret/{SECRET}")).await;
    assert_eq!(secret["metadata"]["annotations"]["rekeyd.dev/version"], "1");

    // What is not rekeyd's in there is nobody's business.
    space.kubectl(&["patch", "secret", SECRET, "-p", r#"{"stringData": {"other": "kept"}}"#]).await;
    space.kubectl(&["annotate", "secret", SECRET, "example.com/note=kept"]).await;
    let metrics = daemon.http("/metrics").await.body;
    assert!(metrics.contains("rekeyd_readers_mended_total 2"), "{metrics}");
    let events = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await;
    assert!(events.contains("Mended"), "{events}");
    assert!(site.accepts(&value).await);
    let log = site.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
    assert_eq!(log.as_array().map(Vec::len), Some(1), "that is no rotation");
    daemon.stop().await;
}

/// A Secret whose content a GitOps tool would write over: nothing is begun, and it is said what to change.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_git_would_write_over_is_refused_before_anything_is_begun() {
    let (_, space, site) = prepared().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["adopt"] = json!(true);
    });
    // As Argo CD applies a manifest that holds a placeholder.
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "stringData": {"password": "rekeyd://orders/orders-db#password@v1"},
    });
    let mut applied = manifest.clone();
    applied["metadata"]["annotations"] = json!({
        "argocd.argoproj.io/tracking-id": format!("orders:/Secret:{}/{SECRET}", space.name),
        "kubectl.kubernetes.io/last-applied-configuration": manifest.to_string(),
    });
    space.create(&applied).await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains("Argo CD (Application orders) keeps it"), "{answer}");
    assert!(answer.stderr.contains("take `data` and `stringData` out of the manifest in Git"), "{answer}");
    assert!(site.stored().await.is_none(), "it was begun");
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await.ended(1);
    assert!(answer.stdout.contains("RespectIgnoreDifferences=true"), "{answer}");

    // The form that deploy/gitops has.
    let bare = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}});
    let note = format!("kubectl.kubernetes.io/last-applied-configuration={bare}");
    space.kubectl(&["annotate", "secret", SECRET, &note, "--overwrite"]).await;
    let answer = site.at.run(&["preflight", POLICY, "-o", "text"]).await;
    assert!(answer.stdout.contains("Git holds the object without data"), "{answer}");
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert!(site.accepts(&space.credential(SECRET).await).await);
    let secret = space.read(&format!("secret/{SECRET}")).await;
    let applied = &secret["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(applied.as_str(), Some(bare.to_string().as_str()), "it was touched");
}

/// A rotation's latest record in the ledger.
/// Waits until a pod that is created is known to find what the Secret holds, however far clocks differ.
async fn known(space: &Namespace) {
    let secret = space.read(&format!("secret/{SECRET}")).await;
    let since = secret["metadata"]["annotations"]["rekeyd.dev/version-since"].as_str().expect("a moment");
    let left = since.parse::<Timestamp>().expect("a moment").duration_since(SystemClock.now());
    SystemClock.sleep(left.try_into().unwrap_or_default()).await;
}

/// Waits until pods are known to have started before anything that happens from now on.
async fn aged(space: &Namespace, label: &str) {
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
fn uids(pods: &[Value]) -> BTreeSet<&str> {
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().expect("a uid")).collect()
}

fn created(pod: &Value) -> Timestamp {
    pod["metadata"]["creationTimestamp"].as_str().expect("a moment").parse().expect("a moment")
}

async fn latest_record(site: &Site) -> Value {
    let log = site.at.run(&["audit", "log", "--limit", "1", "-o", "json"]).await.ended(0);
    let entries: Value = serde_json::from_str(&log.stdout).expect("JSON");
    entries[0]["record"].clone()
}

/// The application cannot live with the spare user: a permission is missing that rekeyd does not know of.
#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_with_a_new_value_gets_back_the_one_before() {
    let (cluster, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let world = &site.world;
    let user = first.principal.as_str();
    world.sql(&format!("CREATE TABLE admitted (name text); INSERT INTO admitted VALUES ('{user}'); GRANT SELECT ON admitted TO {{p}}_group")).await;
    let mut object = application(&site, &cluster, 3).await;
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

    let answer = site.at.run(&["rotate", POLICY]).await.ended(1);
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
    // A container without a probe is ready as soon as it runs, also one that is about to end: the pod that it is to
    // replace stays until it has been for longer.
    canary["spec"]["minReadySeconds"] = json!(2);
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
        workloads["settle"] = json!("3s");
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
const MENDED: &str = r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["sleep", "2147483647"]}]"#;

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
    assert!(status.stdout.contains("rotating"), "{status}");

    // Somebody mends it.
    space
        .kubectl(&[
            "patch", "deployment/app", "--type=json",
            "-p", r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/command", "value": ["sleep", "1000000"]}]"#,
        ])
        .await;
    rotating.end().await.ended(0);
    assert!(!site.accepts(&first).await);
}
