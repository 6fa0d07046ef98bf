//! Rollouts under their real controller: they restart once by their own steps, and one that waits for a person is
//! named and waited for.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::{SECRET, delivered, told, version_of};
use crate::kubernetes::{Cluster, Namespace, PATIENCE, idle};
use crate::openbao::servers;
use crate::rollback::latest_record;
use crate::site::*;

/// Argo Rollouts on the shared cluster, which has one at most: tests that run at once share it, and the last one
/// to end stops it.
pub(crate) struct ArgoRollouts {
    run: PathBuf,
}

/// How many tests use it.
static USERS: Mutex<usize> = Mutex::new(0);

impl ArgoRollouts {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let run = servers().join("rollouts");
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        if *users == 0 {
            std::fs::create_dir_all(&run).expect("a folder");
            let output = script().arg("start").arg(&run).arg(&cluster.kubeconfig).output();
            let output = output.expect("deploy/dev/rollouts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        *users += 1;
        Self { run }
    }
}

impl Drop for ArgoRollouts {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        *users -= 1;
        if *users > 0 {
            return;
        }
        let stopped = script().arg("stop").arg(&self.run).stdout(Stdio::null()).status();
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "Argo Rollouts was not stopped");
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/rollouts"))
}

/// Two pods that read the Secret, of a Rollout with a strategy.
fn rollout(name: &str, strategy: &Value) -> Value {
    let mut object = idle("Rollout", name, 2, SECRET);
    object["apiVersion"] = json!("argoproj.io/v1alpha1");
    object["spec"]["strategy"] = strategy.clone();
    object
}

fn canary(steps: &Value) -> Value {
    json!({"canary": {"steps": steps}})
}

pub(crate) async fn is_healthy(space: &Namespace, name: &str) {
    becomes(space, name, "{.status.phase}=Healthy").await;
}

async fn becomes(space: &Namespace, name: &str, what: &str) {
    space.kubectl(&["wait", &format!("rollout/{name}"), &format!("--for=jsonpath={what}"), PATIENCE]).await;
}

/// As `kubectl argo rollouts` does it.
async fn set_status(space: &Namespace, name: &str, status: &Value) {
    let (rollout, patch) = (format!("rollout/{name}"), json!({"status": status}).to_string());
    space.kubectl(&["patch", &rollout, "--subresource=status", "--type=merge", "-p", &patch]).await;
}

async fn versions(space: &Namespace, name: &str) -> Vec<Option<String>> {
    let pods = space.pods(&format!("app={name}")).await;
    pods.iter().map(|pod| version_of(pod).map(ToOwned::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_restarts_once_by_its_own_steps_and_a_promotion_is_waited_for() {
    let (cluster, space, site) = delivered().await;
    let _argo = ArgoRollouts::start(&cluster);
    let before = space.credential(SECRET).await;
    let timed = canary(&json!([{"setWeight": 50}, {"pause": {"duration": "1s"}}]));
    let by_hand = canary(&json!([{"setWeight": 50}, {"pause": {}}]));
    space.create(&rollout("timed", &timed)).await;
    space.create(&rollout("held", &by_hand)).await;
    // The template of this one is a Deployment's, which has no pods of its own.
    space.create(&idle("Deployment", "lent", 0, SECRET)).await;
    let mut lent = rollout("conductor", &by_hand);
    lent["spec"].as_object_mut().expect("an object").remove("template");
    lent["spec"]["selector"] = json!({"matchLabels": {"app": "lent"}});
    lent["spec"]["workloadRef"] = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "lent"});
    space.create(&lent).await;
    // New pods get the requests at once, and the earlier ones stay for a while.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "blue"},
        "spec": {"selector": {"app": "blue"}, "ports": [{"port": 80}]},
    });
    space.create(&service).await;
    let switched = json!({"blueGreen": {"activeService": "blue", "scaleDownDelaySeconds": 10}});
    space.create(&rollout("blue", &switched)).await;
    for name in ["timed", "held", "conductor", "blue"] {
        is_healthy(&space, name).await;
    }
    let workloads = ["rollout/timed", "rollout/held", "deployment/lent", "rollout/blue"];
    let mut generations = Vec::new();
    for workload in workloads {
        generations.push(told(&space, workload).await.1);
    }
    // With the rights that rekeyd asks for, and no others.
    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    for why in [
        "an earlier version: it keeps them for a while after its update (scaleDownDelaySeconds)",
        "an earlier version: its canary step waits for a promotion",
        "an earlier version: Rollout conductor makes them, and its canary step waits for a promotion",
    ] {
        rotating.until_told(why).await;
    }
    is_healthy(&space, "timed").await;
    assert_eq!(versions(&space, "timed").await, vec![Some("2".to_owned()); 2]);
    assert!(site.accepts(&before).await, "pods of before the promotion have nothing that works");
    for name in ["held", "conductor"] {
        becomes(&space, name, "{.status.phase}=Paused").await;
    }
    set_status(&space, "held", &json!({"pauseConditions": null})).await;
    set_status(&space, "conductor", &json!({"promoteFull": true})).await;
    rotating.end().await.ended(0);

    assert!(!site.accepts(&before).await, "the old value works");
    assert!(site.accepts(&space.credential(SECRET).await).await);
    for (workload, generation) in workloads.iter().zip(generations) {
        assert_eq!(told(&space, workload).await, (Some("2".into()), generation + 1), "{workload}");
    }
    for label in ["timed", "held", "lent", "blue"] {
        assert_eq!(versions(&space, label).await, vec![Some("2".to_owned()); 2], "{label}");
    }
    assert_eq!(latest_record(&site).await["outcome"], "rotated");
    assert!(site.candidate().await.is_none(), "a rotation is open");
}

/// Whoever aborts an update says that its pods are not to have the new value.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_aborted_gets_back_what_was_before() {
    let (cluster, space, site) = delivered().await;
    let _argo = ArgoRollouts::start(&cluster);
    let before = space.credential(SECRET).await;
    space.create(&rollout("held", &canary(&json!([{"setWeight": 50}, {"pause": {}}])))).await;
    is_healthy(&space, "held").await;

    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until_told("its canary step waits for a promotion").await;
    set_status(&space, "held", &json!({"abort": true})).await;
    // What is brought back goes through the same steps.
    let annotation = r"{.spec.template.metadata.annotations.rekeyd\.dev/version\.orders-db}=3";
    becomes(&space, "held", annotation).await;
    becomes(&space, "held", "{.status.phase}=Paused").await;
    set_status(&space, "held", &json!({"promoteFull": true})).await;
    rotating.end().await.ended(1);

    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("/held: its update was aborted"), "{why}");
    assert_eq!(space.credential(SECRET).await, before);
    assert!(site.accepts(&before).await);
    is_healthy(&space, "held").await;
    assert_eq!(versions(&space, "held").await, vec![Some("3".to_owned()); 2]);
}
