//! An API server that refuses, throttles, contradicts or is gone: what is wrong is said, and it goes on afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{SECRET, delivered, told};
use crate::kubernetes::{Cluster, Namespace, idle};
use crate::openbao::{servers, unique};
use crate::site::*;

/// A cluster of the test's own, to take its API server away.
struct PrivateCluster {
    run: PathBuf,
    cluster: Cluster,
}

impl PrivateCluster {
    fn start() -> Self {
        let run = servers().join(unique("cluster"));
        std::fs::create_dir(&run).expect("a folder");
        let output = script().arg("start").arg(&run).output().expect("deploy/dev/kubernetes");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { cluster: Cluster::read(&run), run }
    }

    fn api(&self, what: &str) {
        let output = script().arg("api").arg(&self.run).arg(what).output().expect("deploy/dev/kubernetes");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for PrivateCluster {
    fn drop(&mut self) {
        let stopped = script().arg("stop").arg(&self.run).status();
        let _ = std::fs::remove_dir_all(&self.run);
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "the cluster was not stopped");
        }
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/kubernetes"))
}

/// An account of the test's own in its namespace, whose token the site uses from now on.
struct Account<'a> {
    space: &'a Namespace,
    site: &'a Site,
}

impl<'a> Account<'a> {
    async fn make(cluster: &Cluster, space: &'a Namespace, site: &'a Site) -> Self {
        space.kubectl(&["create", "serviceaccount", "rekeyd"]).await;
        let token = space.kubectl(&["create", "token", "rekeyd", "--duration=1h"]).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rekeyd",
            "clusters": [{"name": "c", "cluster": {
                "server": cluster.server, "certificate-authority": cluster.ca_file,
            }}],
            "users": [{"name": "rekeyd", "user": {"token": token.trim()}}],
            "contexts": [{"name": "rekeyd", "context": {"cluster": "c", "user": "rekeyd"}}],
        });
        let path = site.at.path("rekeyd.kubeconfig");
        write_secret(&path, &kubeconfig.to_string());
        site.at.change_settings(|settings| {
            settings["clusters"] = json!({"main": {"kubeconfig": {"path": path}}});
        });
        Self { space, site }
    }

    /// What `rekeyd rbac` says that the policies need.
    async fn allow(&self) {
        let account = format!("{}/rekeyd", self.space.name);
        let rights = self.site.at.run(&["rbac", "--service-account", &account]).await.ended(0).stdout;
        let path = self.site.at.path("rights.yaml");
        std::fs::write(&path, rights).expect("written");
        self.space.kubectl(&["apply", "-f", path.to_str().expect("a path")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_and_one_that_was_given_is_enough() {
    let (cluster, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    let account = Account::make(&cluster, &space, &site).await;
    let before = site.stored().await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains("resource \"secrets\""), "{answer}");
    assert!(answer.stderr.contains("is not allowed"), "{answer}");
    assert_eq!(site.stored().await, before, "it was begun");

    account.allow().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));

    // Taken away in the middle: nothing is lost, and the next one to look finishes it.
    let mut command = site.at.command(&["rotate", POLICY, "--patience", "2s"]);
    command.env("REKEYD_DISTURB", "publish/consumer.publish#1=stop");
    let running = site.at.spawn(command);
    assert!(running.stands_still().await);
    space.kubectl(&["delete", "rolebinding", "rekeyd"]).await;
    running.signal(rustix::process::Signal::CONT);
    let answer = running.end().await.ended(1);
    assert!(answer.stdout.contains("is not allowed"), "{answer}");
    let held = space.credential(SECRET).await;
    assert!(site.accepts(&held).await, "the readers' value is dead");
    account.allow().await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("3".into()), 3));
    assert!(!site.accepts(&held).await);
}

/// Somebody else changes the same objects all the time.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_others_meanwhile_are_kept_and_hold_nothing_up() {
    let (_, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 2, SECRET)).await;
    space.rolled_out("deployment/app").await;
    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    let secret = format!("secret/{SECRET}");
    let meddle = async {
        let mut round = 0_u32;
        loop {
            round += 1;
            let label = format!("round={round}");
            for object in [secret.as_str(), "deployment/app"] {
                space.kubectl(&["label", object, &label, "--overwrite"]).await;
            }
        }
    };
    let rotated = async { while rotating.next().await.is_some() {} };
    tokio::select! {
        () = rotated => {}
        () = meddle => {}
    }
    rotating.end().await.ended(0);
    assert_eq!(told(&space, "deployment/app").await.0.as_deref(), Some("2"));
    for object in [secret.as_str(), "deployment/app"] {
        let read: Value = space.read(object).await;
        assert!(read["metadata"]["labels"]["round"].is_string(), "{object} lost what others wrote");
    }
    assert!(site.accepts(&space.credential(SECRET).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_dies_in_the_middle_is_waited_for() {
    let private = PrivateCluster::start();
    let space = private.cluster.namespace().await;
    let site = Site::alternating().await;
    site.deliver_to(&private.cluster, &space);
    site.at.run(&["rotate", POLICY]).await.ended(0);
    space.create(&idle("Deployment", "app", 2, SECRET)).await;
    space.rolled_out("deployment/app").await;

    // Gone between the Secret and the restart; back while its readers are waited for, whose watch was cut.
    for (version, point) in [("2", "restart/consumer.reload#1=stop"), ("3", "converge/consumer.reach#1=stop")]
    {
        let before = space.credential(SECRET).await;
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", point);
        let mut rotating = site.at.spawn(command);
        assert!(rotating.stands_still().await);
        private.api("off");
        rotating.signal(rustix::process::Signal::CONT);
        let step = if version == "2" { "restart" } else { "converge" };
        rotating.until("retrying", step).await;
        assert!(site.accepts(&before).await, "retired while nobody could look at its readers");
        private.api("on");
        rotating.end().await.ended(0);
        space.rolled_out("deployment/app").await;
        let changes = version.parse().expect("a number");
        assert_eq!(told(&space, "deployment/app").await, (Some(version.into()), changes));
        assert!(!site.accepts(&before).await);
        assert!(site.accepts(&space.credential(SECRET).await).await);
    }
}
