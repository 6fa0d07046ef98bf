//! Policies as custom resources of a real cluster: what `kubectl` sees and asks for, and several daemons.

use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::told;
use crate::installation::read;
use crate::kubernetes::{Cluster, Namespace, PATIENCE, idle};
use crate::processes::{in_time, until};
use crate::site::*;

pub(crate) const KIND: &str = "rotationpolicies.rekeyd.dev";
pub(crate) const SECRET: &str = "orders-db";

/// A site whose policies are the resources of a namespace.
async fn site() -> (Cluster, Namespace, Site) {
    let cluster = Cluster::shared();
    let (space, site) = site_in(&cluster).await;
    (cluster, space, site)
}

/// The same, in a cluster.
pub(crate) async fn site_in(cluster: &Cluster) -> (Namespace, Site) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    cluster.define(&read(&root.join("deploy/kubernetes/base/crd.yaml"))).await;
    let space = cluster.namespace().await;
    let site = Site::alternating().await;
    site.at.change_settings(|settings| {
        settings["clusters"] = json!({"main": {"kubeconfig": {"path": cluster.kubeconfig}}});
        settings["policies"] = json!({"resources": {"namespaces": [space.name]}});
        settings["listen"] = json!("127.0.0.1:0");
    });
    (space, site)
}

/// The site's policy as a resource whose reader is a Secret.
pub(crate) fn resource(site: &Site, name: &str) -> Value {
    let mut policy = site.policy();
    policy["metadata"] = json!({"name": name, "labels": {"team": "orders"}});
    policy["spec"]["consumers"] = json!([{"kubernetes": {"secret": SECRET, "workloads": {"settle": "0s"}}}]);
    policy
}

impl Namespace {
    pub(crate) async fn becomes(&self, name: &str, what: &str) {
        self.kubectl(&["wait", &format!("{KIND}/{name}"), &format!("--for={what}"), PATIENCE]).await;
    }

    /// Waits until so many requests by annotation are answered: the same status says what came of them.
    pub(crate) async fn has_answered(&self, name: &str, count: usize) {
        let answered = async || self.status(name).await["answered"].as_array().map_or(0, Vec::len);
        until("the requests are answered", async || answered().await >= count).await;
    }

    pub(crate) async fn status(&self, name: &str) -> Value {
        self.read(&format!("{KIND}/{name}")).await["status"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_how_a_policy_stands_and_asks_for_rotations() {
    let (_, space, site) = site().await;
    let daemon = site.at.daemon().await;
    space.create(&resource(&site, NAME)).await;

    // Nothing is in force yet, and nobody asked.
    space.becomes(NAME, "jsonpath={.status.state}=empty").await;
    space.becomes(NAME, "condition=Ready=False").await;
    space
        .kubectl(&["annotate", KIND, NAME, "rekeyd.dev/rotate=first", "rekeyd.dev/reason=the beginning"])
        .await;
    space.becomes(NAME, "jsonpath={.status.version}=1").await;
    space.becomes(NAME, "condition=Ready").await;
    let first = space.credential(SECRET).await;
    assert!(site.accepts(&first).await);

    // Contained by annotation: once for a request, whatever else happens to the object.
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/contain=leak-1"]).await;
    space.becomes(NAME, "jsonpath={.status.version}=2").await;
    let second = space.credential(SECRET).await;
    assert!(site.accepts(&second).await && !site.accepts(&first).await);
    space.kubectl(&["label", KIND, NAME, "touched=yes"]).await;
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/rotate=third", "--overwrite"]).await;
    space.becomes(NAME, "jsonpath={.status.version}=3").await;
    space.has_answered(NAME, 3).await;

    let status = space.status(NAME).await;
    assert_eq!(status["state"], "ready", "{status:#}");
    assert_eq!(status["answered"], json!(["rotate:first", "contain:leak-1", "rotate:third"]), "{status:#}");
    assert_eq!(status["lastRotation"]["outcome"], "rotated", "{status:#}");
    let conditions = status["conditions"].as_array().expect("conditions");
    let condition = |kind: &str| conditions.iter().find(|one| one["type"] == kind).expect("one");
    for (kind, holds) in
        [("Ready", "True"), ("Rotating", "False"), ("InDoubt", "False"), ("Overdue", "False")]
    {
        assert_eq!(condition(kind)["status"], holds, "{status:#}");
        for field in ["reason", "message", "lastTransitionTime"] {
            assert!(condition(kind)[field].is_string(), "{kind} has no {field}: {status:#}");
        }
    }
    let log = site.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
    let reasons: Vec<_> =
        log.as_array().expect("a list").iter().map(|one| one["record"]["requestedBy"].clone()).collect();
    assert!(reasons.iter().all(|by| *by == "annotation by kubectl-annotate"), "{reasons:?}");

    let shown = space.kubectl(&["get", "rotationpolicies"]).await;
    let lines: Vec<&str> = shown.lines().collect();
    for column in ["NAME", "STATUS", "VERSION", "AGE", "NEXT"] {
        assert!(lines[0].contains(column), "{shown}");
    }
    assert!(lines[1].contains("ready") && lines[1].contains('3'), "{shown}");
    let explained = space.kubectl(&["explain", "rotationpolicies.spec.retire.grace"]).await;
    assert!(explained.contains("DESCRIPTION") && explained.contains("outgoing"), "{explained}");
    let events = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).await;
    assert_eq!(events.matches("Rotated").count(), 3, "{events}");
    assert_eq!(events.matches("RotationOpened").count(), 3, "{events}");
    daemon.stop().await;

    // A daemon that starts anew finds nothing to do.
    let daemon = site.at.daemon().await;
    space.kubectl(&["annotate", KIND, NAME, "note=nothing"]).await;
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/rotate=fourth", "--overwrite"]).await;
    space.has_answered(NAME, 4).await;
    daemon.stop().await;
    let log = site.at.run(&["audit", "log", "-o", "json"]).await.ended(0).json();
    assert_eq!(log.as_array().expect("a list").len(), 4, "a request was met twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_policy_is_said_by_the_api_server_or_in_its_status() {
    let (_, space, site) = site().await;
    let good = resource(&site, NAME);
    for (pointer, wrong, said) in [
        ("/metadata/name", json!("orders.db"), "a policy's name is a DNS label"),
        ("/spec/target/postgres/strategy/alternating/users", json!(["one", "one"]), "name different ones"),
        ("/spec/value", json!({"length": 8}), "should be greater than or equal to"),
        ("/spec/store/pth", json!("x"), "unknown field"),
        ("/spec/consumers/0/kubernetes/type", json!("kubernetes.io/service-account-token"), "token types"),
    ] {
        let mut bad = good.clone();
        set(&mut bad, pointer, wrong);
        let refusal = space.refuses(&bad).await;
        assert!(refusal.contains(said), "{pointer}: {refusal}");
    }

    // What a schema cannot know is said in the status, in the words of the files.
    let daemon = site.at.daemon().await;
    let mut unknown = good.clone();
    unknown["spec"]["store"]["name"] = json!("mian");
    space.create(&unknown).await;
    space.becomes(NAME, "jsonpath={.status.state}=refused").await;
    let status = space.status(NAME).await;
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("spec.store.name: the settings have no store `mian`"), "{message}");
    assert_eq!(status["conditions"][0]["reason"], "Refused", "{status:#}");

    // Nor does it reach beyond its namespace, or into rekeyd's own machine.
    let mut abroad = good.clone();
    abroad["spec"]["consumers"] = json!([
        {"kubernetes": {"namespace": "kube-system", "secret": SECRET}},
        {"file": {"path": "/tmp/x", "content": "{{ value }}", "reload": ["/bin/sh"]}},
    ]);
    space.replace(&abroad).await;
    space.becomes(NAME, "jsonpath={.status.observedGeneration}=2").await;
    let message = space.status(NAME).await["message"].to_string();
    assert!(message.contains("reaches its own namespace alone"), "{message}");
    assert!(message.contains("does not write files of rekeyd's machine"), "{message}");

    // Mended, it is taken; a second one for the same path is not, and neither takes the other's place.
    space.replace(&good).await;
    space.becomes(NAME, "jsonpath={.status.state}=empty").await;
    let mut second = resource(&site, "a-second");
    second["spec"]["consumers"][0]["kubernetes"]["secret"] = json!("second");
    space.create(&second).await;
    space.becomes("a-second", "jsonpath={.status.state}=refused").await;
    let message = space.status("a-second").await["message"].to_string();
    assert!(message.contains("already belongs to"), "{message}");

    // Who asks for something without an id is told.
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/contain=leak in a chat"]).await;
    let told = async || {
        let message = space.status(NAME).await["message"].to_string();
        message.contains("annotation rekeyd.dev/contain holds no request id").then_some(message)
    };
    let message = in_time("the annotation is refused", async {
        loop {
            if let Some(message) = told().await {
                break message;
            }
        }
    });
    assert!(!message.await.contains("in a chat"), "what it holds is shown");
    daemon.stop().await;

    // Nor after a restart, whichever is read first: it belongs to the one that was there first.
    let daemon = site.at.daemon().await;
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/contain-", "rekeyd.dev/rotate=first"]).await;
    space.has_answered(NAME, 1).await;
    space.becomes(NAME, "condition=Ready").await;
    let refused = space.status("a-second").await;
    assert_eq!(refused["state"], "refused", "{refused:#}");
    assert!(refused["message"].to_string().contains("already belongs to"), "{refused:#}");
    daemon.stop().await;
}

/// Two daemons, one store, one cluster: one of them works; when it dies, the other finishes what it was at.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_the_other_finishes_what_was_open() {
    let (_, space, mut site) = site().await;
    site.move_to_openbao();
    let lease = json!({"leaderElection": {"namespace": space.name, "duration": "4s"}});
    site.at.change_settings(|settings| settings["leaderElection"] = lease["leaderElection"].clone());
    site.at.copy_settings("other.yaml", |settings| {
        settings["socket"] = json!("other.sock");
        settings["ledger"] = json!({"path": "other.git"});
    });
    space.create(&resource(&site, NAME)).await;

    let mut command = site.at.command(&["run"]);
    command.env("REKEYD_DISTURB", "publish/consumer.publish#1=killAfter");
    let first = site.at.spawn(command);
    space.kubectl(&["wait", "lease/rekeyd", "--for=create", PATIENCE]).await;
    let holder = space.read("lease/rekeyd").await["spec"]["holderIdentity"].clone();
    let second = site.at.spawn(site.at.command_by("other.yaml", &["run"]));
    space.kubectl(&["annotate", KIND, NAME, "rekeyd.dev/rotate=first"]).await;
    first.end().await;
    // The first one may have said that the version is in force; only the second one can say that this is all.
    space.becomes(NAME, "jsonpath={.status.lastRotation.outcome}=rotated").await;
    let lease = space.read("lease/rekeyd").await;
    assert!(lease["spec"]["holderIdentity"] != holder, "{lease:#}");
    assert_eq!(lease["spec"]["leaseTransitions"], 2, "{lease:#}");
    let value = space.credential(SECRET).await;
    assert!(site.accepts(&value).await);
    let status = space.status(NAME).await;
    assert_eq!(status["lastRotation"]["outcome"], "rotated", "{status:#}");
    second.signal(rustix::process::Signal::TERM);
    second.end().await.ended(0);
    // Given back, so that nobody has to wait for its end.
    let lease = space.read("lease/rekeyd").await;
    assert!(lease["spec"].get("holderIdentity").is_none(), "{lease:#}");
}

/// A daemon that dies after a write of its own is followed by one that does what was asked: once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_it_wrote_a_status_or_its_lease_a_daemon_leaves_the_rest_to_the_next() {
    let (_, space, site) = site().await;
    let lease = json!({"namespace": space.name, "duration": "4s"});
    site.at.change_settings(|settings| settings["leaderElection"] = lease);
    space.create(&resource(&site, NAME)).await;
    // How often a status is written before the one that answers depends on how fast the rotation is.
    let places = [
        ("kubernetes.status.written", 1),
        ("kubernetes.status.answered", 1),
        ("kubernetes.lease.taken", 1),
        ("kubernetes.lease.taken", 3),
    ];
    for (answered, (place, time)) in places.into_iter().enumerate() {
        space
            .kubectl(&["annotate", KIND, NAME, "--overwrite", &format!("rekeyd.dev/rotate={answered}")])
            .await;
        let mut command = site.at.command(&["run"]);
        command.env("REKEYD_DISTURB", format!("{place}#{time}=killBefore"));
        let killed = site.at.spawn(command).end().await;
        assert_eq!(killed.code, None, "{place}: {killed}");
        let next = site.at.daemon().await;
        space.has_answered(NAME, answered + 1).await;
        assert_eq!(space.status(NAME).await["version"], answered + 1, "{place}");
        next.stop().await;
    }
    assert!(site.accepts(&space.credential(SECRET).await).await);
}

/// Without a Lease both of them work; what each does is held against what the other did by the store and the markers.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_do_not_agree_on_a_leader_do_what_is_asked_once() {
    let (_, space, mut site) = site().await;
    site.move_to_openbao();
    site.at.copy_settings("other.yaml", |settings| {
        settings["socket"] = json!("other.sock");
        settings["ledger"] = json!({"path": "other.git"});
    });
    space.create(&resource(&site, NAME)).await;
    let daemons = [site.at.command(&["run"]), site.at.command_by("other.yaml", &["run"])];
    let daemons = daemons.map(|command| site.at.spawn(command));
    let ask = async |request: &str, answered: usize| {
        space.kubectl(&["annotate", KIND, NAME, "--overwrite", &format!("rekeyd.dev/{request}")]).await;
        space.has_answered(NAME, answered).await;
    };
    ask("rotate=first", 1).await;
    let first = space.credential(SECRET).await;
    space.create(&idle("Deployment", "app", 2, SECRET)).await;
    space.rolled_out("deployment/app").await;
    ask("contain=leak-1", 2).await;
    ask("rotate=third", 3).await;
    ask("contain=leak-2", 4).await;

    let last = space.credential(SECRET).await;
    assert!(site.accepts(&last).await && !site.accepts(&first).await);
    assert_eq!(space.status(NAME).await["version"], 4, "a request was answered more than once");
    assert_eq!(
        told(&space, "deployment/app").await,
        (Some("4".into()), 4),
        "not one restart for each version"
    );
    for daemon in daemons {
        daemon.signal(rustix::process::Signal::TERM);
        daemon.end().await.ended(0);
    }
}

fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    document.pointer_mut(parent).expect("a parent")[key] = value;
}

/// The sample is for any namespace: here it asks in the test's alone, and a tenant who is no administrator.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_tenant_may_point_a_policy_is_decided_at_admission() {
    let (cluster, space, site) = site().await;
    let sample =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/overlays/example/admission.yaml");
    let name = format!("rekeyd-policies-{}", space.name);
    let here = format!(
        "  validationActions: [Deny]\n  matchResources:\n    namespaceSelector:\n      matchLabels:\n        \
         kubernetes.io/metadata.name: {}\n",
        space.name
    );
    let sample =
        read(&sample).replace("rekeyd-policies", &name).replace("  validationActions: [Deny]\n", &here);
    cluster.kubectl(&["apply", "-f", "-"], &sample).await;
    let verbs = "--verb=get,list,create,update,patch";
    space.kubectl(&["create", "role", "tenant", verbs, "--resource=rotationpolicies.rekeyd.dev"]).await;
    space.kubectl(&["create", "rolebinding", "tenant", "--role=tenant", "--user=tenant"]).await;

    let mut good = resource(&site, NAME);
    let inside = format!("db.{}.svc", space.name);
    set(&mut good, "/spec/store/path", json!(format!("apps/{}/db", space.name)));
    set(&mut good, "/spec/target/postgres/endpoint/host", json!(inside));
    let elsewhere = json!([{"host": "db.elsewhere.svc", "database": "orders"}]);
    let wrong = [
        ("/spec/store/path", json!("apps/other/db"), "spec.store.path must begin with"),
        ("/spec/target/postgres/endpoint/host", json!("db.elsewhere.svc"), "host must end with"),
        ("/spec/target/postgres/alsoVerify", elsewhere, "host must end with"),
        ("/spec/consumers/0/kubernetes/secret", json!("somebodys"), "must be of this policy alone"),
        ("/spec/consumers/0/kubernetes/adopt", json!(true), "must be of this policy alone"),
    ];
    let mut bad = good.clone();
    set(&mut bad, wrong[0].0, wrong[0].1.clone());
    until("the rules are in force", async || space.try_as("tenant", &bad).await.is_err()).await;
    for (pointer, value, said) in wrong {
        let mut bad = good.clone();
        set(&mut bad, pointer, value);
        let refusal = space.try_as("tenant", &bad).await.expect_err(pointer);
        assert!(refusal.contains(said), "{pointer}: {refusal}");
    }
    space.try_as("tenant", &good).await.expect("what is a tenant's own");

    // Whoever is trusted is not asked.
    let trusted = format!("--clusterrole={name}-anywhere");
    space.kubectl(&["create", "rolebinding", "trusted", &trusted, "--user=tenant"]).await;
    until("trusted", async || space.try_as("tenant", &bad).await.is_ok()).await;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        space.kubectl(&["delete", kind, &name]).await;
    }
    space.kubectl(&["delete", "clusterrole", &format!("{name}-anywhere")]).await;
}
