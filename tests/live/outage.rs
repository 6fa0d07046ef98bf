//! An API server that refuses, throttles, contradicts or is gone: what is wrong is said, and it goes on afterwards.

use serde_json::{Value, json};

use crate::account::Account;
use crate::cluster::{SECRET, delivered, told, version_of};
use crate::kubernetes::{Namespace, idle};
use crate::openbao::client;
use crate::private::PrivateCluster;
use crate::processes::{Running, until};
use crate::resources::{KIND, resource, site_in};
use crate::rollback::{aged, known, latest_record};
use crate::site::*;

impl Account<'_> {
    /// The priority level that the account's requests have.
    async fn level(&self) -> Option<String> {
        let path = format!("api/v1/namespaces/{}/secrets/{SECRET}", self.space.name);
        let (url, token) = (format!("{}/{path}", self.cluster.server), self.token.clone());
        let ca = self.cluster.ca_file.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let answer = client(Some(&ca)).get(url).bearer_auth(token).send().expect("an answer");
            let level = answer.headers().get("x-kubernetes-pf-prioritylevel-uid");
            level.and_then(|level| level.to_str().ok()).map(ToOwned::to_owned)
        });
        asked.await.expect("no panic")
    }

    /// The API server has no room for the account's requests until this is dropped.
    async fn throttle(&self) -> Throttle<'_> {
        let name = self.space.name.clone();
        let level = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name},
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            }},
        });
        let schema = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
            "spec": {
                "priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 2,
                "rules": [{
                    "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": name, "name": "rekeyd"}}],
                    "resourceRules": [{
                        "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
                    }],
                }],
            },
        });
        self.space.create(&level).await;
        self.space.create(&schema).await;
        let level = self.space.read(&format!("prioritylevelconfiguration/{name}")).await;
        let level = level["metadata"]["uid"].as_str();
        until("the level is in force", async || self.level().await.as_deref() == level).await;
        // One request is let through even so, and no other beside it: this one does not come to its end.
        let path = format!("api/v1/namespaces/{}/secrets/{SECRET}", self.space.name);
        let (url, token) = (format!("{}/{path}", self.cluster.server), self.token.clone());
        let (ca, (hold, held)) = (self.cluster.ca_file.clone(), std::sync::mpsc::channel());
        let endless = tokio::task::spawn_blocking(move || {
            let patch = client(Some(&ca)).patch(url).bearer_auth(token);
            let patch = patch.header("content-type", "application/merge-patch+json");
            let _ = patch.body(reqwest::blocking::Body::new(Endless(held))).send();
        });
        // Name, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, ...
        let is_held = async || {
            let levels = ["get", "--raw", "/debug/api_priority_and_fairness/dump_priority_levels"];
            let levels = self.space.kubectl(&levels).await;
            let own = levels.lines().find(|line| line.starts_with(&format!("{name},")));
            own.is_some_and(|line| line.split(',').nth(5).is_some_and(|count| count.trim() == "1"))
        };
        until("the API server throttles", is_held).await;
        Throttle { account: self, hold, endless }
    }
}

/// A request that is never sent to its end, until nobody holds it any more.
struct Endless(std::sync::mpsc::Receiver<()>);

impl std::io::Read for Endless {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

/// An API server without room for an account.
struct Throttle<'a> {
    account: &'a Account<'a>,
    hold: std::sync::mpsc::Sender<()>,
    endless: tokio::task::JoinHandle<()>,
}

impl Throttle<'_> {
    async fn end(self) {
        drop(self.hold);
        self.endless.await.expect("no panic");
        for kind in ["flowschema", "prioritylevelconfiguration"] {
            self.account.space.kubectl(&["delete", kind, &self.account.space.name]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_throttles_is_said_to_be_busy_and_waited_for() {
    let (cluster, space, site) = delivered().await;
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    let account = Account::make(&cluster, &space, &site).await;
    account.allow().await;

    // A reader that is away for a while keeps nobody from beginning.
    let held = space.credential(SECRET).await;
    let throttle = account.throttle().await;
    let answer = site.rotate_in_vain().await;
    assert!(answer.stderr.contains("the API server is busy"), "{answer}");
    assert!(site.accepts(&held).await, "the readers' value is dead");
    throttle.end().await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
    assert!(!site.accepts(&held).await);

    let held = space.credential(SECRET).await;
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "converge/consumer.reach#1=stop");
    let mut rotating = site.at.spawn(command);
    assert!(rotating.stands_still().await);
    let throttle = account.throttle().await;
    rotating.signal(rustix::process::Signal::CONT);
    rotating.until("retrying", "converge").await;
    assert!(site.accepts(&held).await, "retired while nobody could look at its readers");
    throttle.end().await;
    rotating.end().await.ended(0);
    assert_eq!(told(&space, "deployment/app").await, (Some("3".into()), 3));
    assert!(!site.accepts(&held).await);
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

/// What a daemon watches, its Lease and what it tells: all of it is cut off, and all of it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_outlives_an_api_server_that_dies() {
    let private = PrivateCluster::start();
    let (space, site) = site_in(&private.cluster).await;
    let lease = json!({"namespace": space.name, "duration": "4s"});
    site.at.change_settings(|settings| settings["leaderElection"] = lease);
    space.create(&resource(&site, NAME)).await;
    let mut daemon = site.at.daemon().await;
    let ask = async |request: &str| {
        let request = format!("rekeyd.dev/rotate={request}");
        space.kubectl(&["annotate", KIND, NAME, "--overwrite", &request]).await;
    };
    ask("first").await;
    space.has_answered(NAME, 1).await;

    private.api("off");
    daemon.says("does not lead any more").await;
    private.api("on");
    ask("second").await;
    space.has_answered(NAME, 2).await;
    let status = space.status(NAME).await;
    assert_eq!(status["version"], 2, "{status:#}");
    let value = space.credential(SECRET).await;
    assert!(site.accepts(&value).await);
    space.kubectl(&["delete", "secret", SECRET]).await;
    daemon.says("somebody changed what readers find: the value in force is there again").await;
    assert_eq!(space.credential(SECRET).await, value);
    let lease = space.read("lease/rekeyd").await;
    assert!(lease["spec"]["holderIdentity"].is_string(), "{lease:#}");
    daemon.stop().await;
}

/// A Secret in the shared cluster, and one in a private one.
async fn delivered_twice(private: &PrivateCluster) -> (Namespace, Namespace, Site) {
    let abroad = private.cluster.namespace().await;
    let (_, space, site) = delivered().await;
    site.at.change_settings(|settings| {
        settings["clusters"]["abroad"] = json!({"kubeconfig": {"path": private.cluster.kubeconfig}});
    });
    site.at.change_policy(NAME, |policy| {
        let consumers = policy["spec"]["consumers"].as_array_mut().expect("a list");
        let mut second = consumers[0].clone();
        second["kubernetes"]["cluster"] = json!("abroad");
        second["kubernetes"]["namespace"] = json!(abroad.name);
        consumers.push(second);
    });
    site.at.run(&["rotate", POLICY]).await.ended(0);
    (space, abroad, site)
}

/// A rotation that has a value for both of them, and one is away by then.
async fn rotating_without(site: &Site, private: &PrivateCluster) -> Running {
    let mut command = site.at.command(&["rotate", POLICY]);
    command.env("REKEYD_DISTURB", "publish/consumer.publish#1=stop");
    let rotating = site.at.spawn(command);
    assert!(rotating.stands_still().await);
    private.api("off");
    rotating.signal(rustix::process::Signal::CONT);
    rotating
}

/// One value for two clusters, of which one is away: the other has it and uses it, and the outgoing value lives until
/// it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_holds_back_the_end_and_no_other_cluster() {
    let private = PrivateCluster::start();
    let (space, abroad, site) = delivered_twice(&private).await;
    for space in [&space, &abroad] {
        space.create(&idle("Deployment", "app", 1, SECRET)).await;
        space.rolled_out("deployment/app").await;
    }
    let before = space.credential(SECRET).await;
    assert_eq!(abroad.credential(SECRET).await, before);
    // Longer than one look takes.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["workloads"]["settle"] = json!("6s");
    });

    let mut rotating = rotating_without(&site, &private).await;
    rotating.until("waiting", "publish").await;
    let detail = rotating.seen.last().expect("a line")["event"]["detail"].clone();
    let detail = detail.as_str().expect("a detail");
    assert!(detail.contains("Deployment app") && detail.contains("Secret abroad:"), "{detail}");
    rotating.until("retrying", "publish").await;
    assert_eq!(told(&space, "deployment/app").await, (Some("3".into()), 2), "it waits for the other cluster");
    assert!(space.pods("app=app").await.iter().any(|pod| version_of(pod) == Some("3")), "it has not moved");
    let current = space.credential(SECRET).await;
    assert!(current != before && site.accepts(&current).await);
    assert!(site.accepts(&before).await, "retired while a reader could not be told");

    private.api("on");
    rotating.end().await.ended(0);
    assert_eq!(abroad.credential(SECRET).await, current);
    assert_eq!(told(&abroad, "deployment/app").await, (Some("3".into()), 2));
    assert_eq!(told(&space, "deployment/app").await, (Some("3".into()), 2), "it was restarted again");
    assert!(!site.accepts(&before).await);
}

/// Who was told of a value fails with it, and others cannot be told yet: that one is taken back meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_taken_back_while_another_cluster_is_away() {
    let private = PrivateCluster::start();
    let (space, abroad, site) = delivered_twice(&private).await;
    let before = space.credential(SECRET).await;
    let spare = site.world.name(if before.principal == site.world.name("a") { "b" } else { "a" });
    let mut app = idle("Deployment", "app", 1, SECRET);
    app["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", format!("[ \"$username\" != {spare} ] || exit 3; sleep 2147483647")]);
    app["spec"]["minReadySeconds"] = json!(5);
    known(&space).await;
    space.create(&app).await;
    space.rolled_out("deployment/app").await;
    aged(&space, "app=app").await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["workloads"]["settle"] = json!("8s");
    });

    let mut rotating = rotating_without(&site, &private).await;
    rotating.until("turnedBack", "publish").await;
    until("the value of before is there", async || space.credential(SECRET).await == before).await;
    space.rolled_out("deployment/app").await;
    assert_eq!(told(&space, "deployment/app").await, (None, 3));

    private.api("on");
    rotating.end().await.ended(1);
    let record = latest_record(&site).await;
    assert_eq!(record["outcome"], "rolledBack", "{record:#}");
    let why = record["failure"].as_str().expect("a reason");
    assert!(why.contains("/app: pod app-") && why.contains("exit code 3"), "{why}");
    assert_eq!(abroad.credential(SECRET).await, before);
    assert!(site.accepts(&before).await);
}
