//! Every way to a Secret in every kind of workload: each is restarted once, or not at all, as it should be.

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::{ANNOTATION, SECRET, delivered, told, version_of};
use crate::kubernetes::{PATIENCE, idle};
use crate::rollback::known;
use crate::rollouts::{ArgoRollouts, is_healthy};
use crate::site::*;

/// How a pod comes to the Secret, and whether it restarts for another version.
const WAYS: [(&str, bool); 8] = [
    ("env", true),
    ("all", true),
    ("first", true),
    ("volume", true),
    ("part", true),
    // Who runs has its image; and what only has the same name is no Secret.
    ("pull", false),
    ("other", false),
    ("none", false),
];

/// A pod's specification as it comes to the Secret.
fn pod(way: &str) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": "localhost/busybox:1", "imagePullPolicy": "Never",
            "command": ["sleep", "2147483647"],
        })
    };
    let mut app = container("app");
    let variable =
        json!([{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "password"}}}]);
    let mut pod = json!({"terminationGracePeriodSeconds": 0});
    match way {
        "env" => app["env"] = variable,
        "all" => app["envFrom"] = json!([{"prefix": "DB_", "secretRef": {"name": SECRET}}]),
        "first" => {
            let mut first = container("first");
            (first["env"], first["command"]) = (variable, json!(["true"]));
            pod["initContainers"] = json!([first]);
        }
        "volume" => pod["volumes"] = json!([{"name": "v", "secret": {"secretName": SECRET}}]),
        "part" => {
            pod["volumes"] = json!([{"name": "v", "projected": {"sources": [{"secret": {"name": SECRET}}]}}]);
        }
        "pull" => pod["imagePullSecrets"] = json!([{"name": SECRET}]),
        "other" => pod["volumes"] = json!([{"name": SECRET, "emptyDir": {}}]),
        _ => {}
    }
    pod["containers"] = json!([app]);
    pod
}

fn workload(kind: &str, way: &str) -> Value {
    let name = format!("{}-{way}", kind.to_lowercase());
    let mut object = idle(kind, &name, 1, SECRET);
    if kind == "CronJob" {
        let mut template = json!({"metadata": {"labels": {"app": name}}, "spec": pod(way)});
        template["spec"]["restartPolicy"] = json!("Never");
        object["apiVersion"] = json!("batch/v1");
        object["spec"] = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}});
        return object;
    }
    if kind == "Rollout" {
        object["apiVersion"] = json!("argoproj.io/v1alpha1");
        object["spec"]["strategy"] = json!({"canary": {}});
    }
    object["spec"]["template"]["spec"] = pod(way);
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_a_secret_in_every_kind_of_workload() {
    let (cluster, space, site) = delivered().await;
    let _argo = ArgoRollouts::start(&cluster);
    let kinds = ["Deployment", "StatefulSet", "DaemonSet", "Rollout", "CronJob"];
    let table =
        || kinds.iter().flat_map(|kind| WAYS.iter().map(move |(way, restarts)| (*kind, *way, *restarts)));
    let objects: Vec<Value> = table().map(|(kind, way, _)| workload(kind, way)).collect();
    space.create(&json!({"apiVersion": "v1", "kind": "List", "items": objects})).await;
    let of = |kind: &str, way: &str| format!("{0}/{0}-{way}", kind.to_lowercase());
    let mut generations = Vec::new();
    for (kind, way, _) in table() {
        let what = of(kind, way);
        match kind {
            "CronJob" => {}
            "Rollout" => is_healthy(&space, &what["rollout/".len()..]).await,
            _ => space.rolled_out(&what).await,
        }
        generations.push(generation(&space.read(&what).await));
    }

    for (restarted, version) in [(1, "2"), (2, "3")] {
        site.at.run(&["rotate", POLICY]).await.ended(0);
        for ((kind, way, restarts), generation) in table().zip(&generations) {
            let what = of(kind, way);
            let object = space.read(&what).await;
            let template = match kind {
                "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
                _ => &object["spec"]["template"],
            };
            let expected = restarts.then_some(version);
            assert_eq!(version_of(template), expected, "{what}");
            let changes = if restarts { restarted } else { 0 };
            assert_eq!(self::generation(&object), generation + changes, "{what}");
            for pod in space.pods(&format!("app={}-{way}", kind.to_lowercase())).await {
                assert_eq!(version_of(&pod), expected, "{what}");
            }
        }
    }
}

/// How often its specification was written.
fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().expect("a number")
}

/// A Job is not killed, and what it has lives as long as it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_named_and_waited_for() {
    let (_, space, site) = delivered().await;
    let before = space.credential(SECRET).await;
    let mut template = json!({"metadata": {"labels": {"app": "import"}}, "spec": pod("all")});
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "import"}, "spec": {"template": template},
    });
    space.create(&job).await;
    space.kubectl(&["wait", "pod", "--selector=app=import", "--for=create", PATIENCE]).await;
    space.kubectl(&["wait", "pod", "--selector=app=import", "--for=condition=Ready", PATIENCE]).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until("waiting", "converge").await;
    let detail = rotating.seen.last().expect("a line")["event"]["detail"].clone();
    let detail = detail.as_str().expect("a detail");
    assert!(
        detail.contains("of Job import has an earlier version, and is waited for until it ends"),
        "{detail}"
    );
    assert!(site.accepts(&before).await, "it was taken from the job");
    assert_eq!(space.pods("app=import").await.len(), 1);
    space.kubectl(&["delete", "job", "import"]).await;
    rotating.end().await.ended(0);
    assert!(!site.accepts(&before).await);
}

/// What holds pods back is named, and the rotation goes on when a person has done it.
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_somebody_else_replaces_are_named_and_waited_for() {
    let (_, space, site) = delivered().await;
    let mut by_hand = idle("StatefulSet", "hand", 1, SECRET);
    by_hand["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    let mut parted = idle("StatefulSet", "parted", 2, SECRET);
    parted["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    let paused = idle("Deployment", "paused", 1, SECRET);
    space.create(&by_hand).await;
    space.create(&parted).await;
    space.create(&paused).await;
    for name in ["hand-0", "parted-0", "parted-1"] {
        space.kubectl(&["wait", &format!("pod/{name}"), "--for=create", PATIENCE]).await;
        space.kubectl(&["wait", &format!("pod/{name}"), "--for=condition=Ready", PATIENCE]).await;
    }
    space.rolled_out("deployment/paused").await;
    space.kubectl(&["rollout", "pause", "deployment/paused"]).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    for why in [
        "StatefulSet hand: pod hand-0 has an earlier version: it replaces a pod when somebody deletes it (OnDelete)",
        "StatefulSet parted: pod parted-0 has an earlier version: its partition holds them back",
        "Deployment paused: pod",
    ] {
        rotating.until_told(why).await;
    }
    space.kubectl(&["delete", "pod", "hand-0"]).await;
    let whole = r#"{"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}"#;
    space.kubectl(&["patch", "statefulset/parted", "--type=merge", "-p", whole]).await;
    space.kubectl(&["rollout", "resume", "deployment/paused"]).await;
    rotating.end().await.ended(0);
    for name in ["hand-0", "parted-0", "parted-1"] {
        let pod = space.read(&format!("pod/{name}")).await;
        assert_eq!(version_of(&pod), Some("2"), "{name}");
    }
}

/// The CSI driver fills the Secret beside what it mounts: who mounts the class has the value without naming it.
#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_fills_the_secret_leads_to_those_that_mount_it() {
    let (cluster, space, site) = delivered().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "secretproviderclasses.secrets-store.csi.x-k8s.io"},
        "spec": {
            "group": "secrets-store.csi.x-k8s.io", "scope": "Namespaced",
            "names": {"kind": "SecretProviderClass", "plural": "secretproviderclasses"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    cluster.define(&definition.to_string()).await;
    for (name, secret) in [("ours", SECRET), ("other", "other")] {
        let objects = json!([{"secretName": secret, "type": "Opaque", "data": [{"objectName": "p", "key": "password"}]}]);
        space
            .create(&json!({
                "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
                "metadata": {"name": name}, "spec": {"provider": "vault", "secretObjects": objects},
            }))
            .await;
        let mut mounts = workload("CronJob", "none");
        mounts["metadata"]["name"] = json!(name);
        mounts["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"] = json!([{"name": "v", "csi": {
            "driver": "secrets-store.csi.k8s.io", "readOnly": true,
            "volumeAttributes": {"secretProviderClass": name},
        }}]);
        space.create(&mounts).await;
    }
    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;

    site.at.run(&["rotate", POLICY]).await.ended(0);
    for (name, version) in [("ours", Some("2")), ("other", None)] {
        let object = space.read(&format!("cronjob/{name}")).await;
        let annotations = &object["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["rekeyd.dev/version.orders-db"].as_str(), version, "{name}");
    }
}

/// What is short of pods already is not restarted as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_overdrawn_is_named_and_waited_for() {
    let (_, space, site) = delivered().await;
    for (name, reads) in [("app", true), ("peer", false)] {
        let mut object = idle("Deployment", name, 2, SECRET);
        object["spec"]["template"]["metadata"]["labels"]["tier"] = json!("shop");
        if !reads {
            object["spec"]["template"]["spec"] = pod("none");
        }
        space.create(&object).await;
        space.rolled_out(&format!("deployment/{name}")).await;
    }
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "shop"},
        "spec": {"minAvailable": 4, "selector": {"matchLabels": {"tier": "shop"}}},
    });
    space.create(&budget).await;
    space.kubectl(&["scale", "deployment/peer", "--replicas=1"]).await;
    space.kubectl(&["wait", "pdb/shop", "--for=jsonpath={.status.currentHealthy}=3", PATIENCE]).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until_told("Deployment app: waits for PodDisruptionBudget shop: 3 of the 4 pods").await;
    assert_eq!(told(&space, "deployment/app").await, (None, 1));
    space.kubectl(&["scale", "deployment/peer", "--replicas=2"]).await;
    rotating.end().await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
}

/// Two that take a pod away before they make one, and a budget that spares one for both.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_two_share_has_them_restart_one_after_the_other() {
    let (_, space, site) = delivered().await;
    for name in ["first", "second"] {
        let mut object = idle("Deployment", name, 2, SECRET);
        object["spec"]["template"]["metadata"]["labels"]["tier"] = json!("shop");
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
        space.create(&object).await;
        space.rolled_out(&format!("deployment/{name}")).await;
    }
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "shop"},
        "spec": {"minAvailable": 3, "selector": {"matchLabels": {"tier": "shop"}}},
    });
    space.create(&budget).await;
    space.kubectl(&["wait", "pdb/shop", "--for=jsonpath={.status.currentHealthy}=4", PATIENCE]).await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating
        .until_told(
            "Deployment second: waits for PodDisruptionBudget shop: 1 of its pods may be away at once, 1 are",
        )
        .await;
    let restarted = async |name: &str| told(&space, &format!("deployment/{name}")).await.1 > 1;
    while !restarted("second").await {
        let budget = space.read("pdb/shop").await;
        let healthy = budget["status"]["currentHealthy"].as_i64();
        assert!(healthy >= Some(3), "{healthy:?} of 3 pods are left");
    }
    let pods = space.pods("app=first").await;
    let is_new = |pod: &Value| version_of(pod) == Some("2");
    assert!(
        pods.iter().filter(|pod| is_new(pod)).count() == 2,
        "the second began before the first was through"
    );
    rotating.end().await.ended(0);
    assert_eq!(told(&space, "deployment/second").await, (Some("2".into()), 2));

    // One that the budget could never allow is said to be so, and goes on.
    space.kubectl(&["patch", "pdb/shop", "--type=merge", "-p", r#"{"spec": {"minAvailable": 4}}"#]).await;
    space.kubectl(&["wait", "pdb/shop", "--for=jsonpath={.status.desiredHealthy}=4", PATIENCE]).await;
    let said = site.at.run(&["preflight", POLICY, "-o", "text"]).await.to_string();
    assert!(said.contains("takes 1 away at once, and PodDisruptionBudget shop spares 0"), "{said}");
    site.at.run(&["rotate", POLICY]).await.ended(0);
}

/// Whoever is stronger than rekeyd does not have pods restart for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_somebody_changes_back_each_time_is_left_alone() {
    let (_, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    space.kubectl(&["rollout", "pause", "deployment/app"]).await;
    let (_, before) = told(&space, "deployment/app").await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    let annotation = r"--for=jsonpath={.spec.template.metadata.annotations.rekeyd\.dev/version\.orders-db}=2";
    let back = json!({"spec": {"template": {"metadata": {"annotations": {ANNOTATION: null}}}}}).to_string();
    for _ in 0..4 {
        space.kubectl(&["wait", "deployment/app", annotation, PATIENCE]).await;
        space.kubectl(&["patch", "deployment/app", "--type=merge", "-p", &back]).await;
    }
    rotating.until_told("Deployment app: somebody takes v2 out of its template again and again").await;
    assert_eq!(told(&space, "deployment/app").await, (None, before + 8));
    // A person decides, later than pods may have read what was there before.
    known(&space).await;
    space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    space.kubectl(&["rollout", "restart", "deployment/app"]).await;
    rotating.end().await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (None, before + 10));
}
