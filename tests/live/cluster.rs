//! The last mile in a real cluster: real kubelets, real pods.

use serde_json::{Value, json};

use rekeyd::secret::Credential;

use crate::kubernetes::{Cluster, Namespace, idle};
use crate::postgres_support::World;
use crate::site::*;

pub(crate) const SECRET: &str = "orders-db";

/// The annotation of pod templates that says for which version their pods were started.
pub(crate) const ANNOTATION: &str = "rekeyd.dev/version.orders-db";

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
pub(crate) async fn application(site: &Site, replicas: u32) -> Value {
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
        {"name": "HOST", "value": Cluster::shared().host},
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

/// A store that was restored counts on from where it was, and Git may say any number.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_a_template_has_from_elsewhere_is_not_taken_for_a_restart() {
    let (_, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let mut app = idle("Deployment", "app", 1, SECRET);
    app["spec"]["template"]["metadata"]["annotations"] = json!({ANNOTATION: "40"});
    space.create(&app).await;
    space.rolled_out("deployment/app").await;

    let answer = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1).to_string();
    assert!(answer.contains("the pod template of Deployment app names v40 already"), "{answer}");
    assert!(answer.contains(ANNOTATION), "{answer}");
    assert!(site.candidate().await.is_none(), "it was begun");
    assert_eq!(space.credential(SECRET).await, first);

    // As it says.
    let pointer = format!("/spec/template/metadata/annotations/{}", ANNOTATION.replace('/', "~1"));
    let patch = json!([{"op": "remove", "path": pointer}]).to_string();
    space.kubectl(&["patch", "deployment/app", "--type=json", "-p", &patch]).await;
    space.rolled_out("deployment/app").await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 3));
    assert!(!site.accepts(&first).await);
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
    let why = [
        "get",
        "events",
        "--field-selector=reason=Restarted,involvedObject.kind=Deployment",
        "-o",
        "jsonpath={range .items[*]}{.involvedObject.name}: {.message}{\"\\n\"}{end}",
    ];
    assert_eq!(space.kubectl(&why).await.trim(), "app: its pods are to have v2 of Secret orders-db");

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
    let (_, space, site) = delivered().await;
    space.create(&application(&site, 3).await).await;
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

    // The form that deploy/gitops has, and nobody says where the Application is that could empty it all the same.
    let bare = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}});
    let note = format!("kubectl.kubernetes.io/last-applied-configuration={bare}");
    space.kubectl(&["annotate", "secret", SECRET, &note, "--overwrite"]).await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains("its Application cannot be read"), "{answer}");
    assert!(answer.stderr.contains("set `argoCd` in the settings"), "{answer}");
    assert!(site.stored().await.is_none(), "it was begun");

    // Nobody keeps it any more.
    space.kubectl(&["annotate", "secret", SECRET, "argocd.argoproj.io/tracking-id-"]).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert!(site.accepts(&space.credential(SECRET).await).await);
    let secret = space.read(&format!("secret/{SECRET}")).await;
    let applied = &secret["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(applied.as_str(), Some(bare.to_string().as_str()), "it was touched");
}

/// Nobody could look at the Secret when the rotation was begun: it is looked at before it is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_git_would_write_over_gets_no_new_value_that_was_begun_unseen() {
    let (cluster, space, site) = delivered().await;
    let first = space.credential(SECRET).await;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
        "stringData": {"password": "rekeyd://orders/orders-db#password@v1"},
    });
    let (tracking, applied) =
        ("argocd.argoproj.io/tracking-id", "kubectl.kubernetes.io/last-applied-configuration");
    let notes =
        [format!("{tracking}=orders:/Secret:{}/{SECRET}", space.name), format!("{applied}={manifest}")];
    space.kubectl(&["annotate", "secret", SECRET, &notes[0], &notes[1]]).await;
    let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig).expect("a kubeconfig");
    let nowhere = site.at.path("nowhere.kubeconfig");
    write_secret(&nowhere, &kubeconfig.replace(&cluster.server, "https://127.0.0.1:1"));
    let reach = |path: &std::path::Path| {
        site.at.change_settings(|settings| {
            settings["clusters"] = json!({"main": {"kubeconfig": {"path": path}}});
        });
    };
    reach(&nowhere);
    site.rotate_in_vain().await;
    assert_ne!(site.stored().await.as_ref(), Some(&first), "it was not begun");

    reach(&cluster.kubeconfig);
    let answer = site.resume_in_vain().await;
    assert!(answer.stderr.contains("Argo CD (Application orders) keeps it"), "{answer}");
    assert_eq!(space.credential(SECRET).await, first, "it was written");
    assert!(site.accepts(&first).await, "the readers' value is dead");

    space.kubectl(&["annotate", "secret", SECRET, &format!("{tracking}-"), &format!("{applied}-")]).await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert!(site.accepts(&space.credential(SECRET).await).await);
    assert!(!site.accepts(&first).await);
}

/// Somebody uses the outgoing value who is none of the pods: that is said for as long as its grace lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_nobodys_pod_is_named_before_it_is_closed() {
    let (_, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    let before = space.credential(SECRET).await;
    let stranger = site.world.connect(&before).await.expect("a session");
    site.at.change_policy(NAME, |policy| policy["spec"]["retire"] = json!({"grace": "10m"}));

    let daemon = site.at.daemon().await;
    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until_told("of no pod that is known").await;
    let status = site.at.run(&["status", POLICY, "-o", "json"]).await.ended(0);
    let detail = status.json()[0]["open"]["detail"].to_string();
    assert!(detail.contains("1 session of the outgoing value"), "{detail}");
    assert!(detail.contains("; of no pod that is known: "), "{detail}");
    assert!(stranger.simple_query("SELECT 1").await.is_ok(), "it was closed already");
    drop(stranger);
    rotating.end().await.ended(0);
    assert!(!site.accepts(&before).await);
    daemon.stop().await;
}
