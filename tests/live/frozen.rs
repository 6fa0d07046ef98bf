//! Each version in a Secret of its own: who is of an earlier version keeps the value that it had.

use serde_json::{Value, json};

use crate::cluster::{SECRET, delivered, told, version_of};
use crate::cluster_search::Search;
use crate::kubernetes::{Namespace, PATIENCE, idle};
use crate::site::*;

fn freeze(site: &Site) {
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["kubernetes"]["immutable"] = json!(true);
    });
}

/// The Secrets that a workload names in its environment.
fn named(object: &Value) -> Vec<&str> {
    let all = object["spec"]["template"]["spec"]["containers"][0]["envFrom"].as_array().expect("a list");
    all.iter().map(|one| one["secretRef"]["name"].as_str().expect("a name")).collect()
}

async fn secrets(space: &Namespace) -> Vec<String> {
    let names = space.kubectl(&["get", "secrets", "-o", "jsonpath={.items[*].metadata.name}"]).await;
    names.split_whitespace().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_names_the_secret_of_its_version_and_earlier_pods_keep_theirs() {
    let (cluster, space, site) = delivered().await;
    let search = Search::begin(&cluster, &[&space]);
    let first = space.credential(SECRET).await;
    freeze(&site);
    let mut app = idle("Deployment", "app", 1, SECRET);
    // Another Secret in the same list stays as it is.
    let other = json!({"prefix": "other_", "secretRef": {"name": "other", "optional": true}});
    app["spec"]["template"]["spec"]["containers"][0]["envFrom"].as_array_mut().expect("a list").push(other);
    space.create(&app).await;
    space.rolled_out("deployment/app").await;

    site.at.run(&["rotate", POLICY]).await.ended(0);
    let object = space.read("deployment/app").await;
    assert_eq!(named(&object), ["orders-db-v2", "other"]);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2));
    assert_eq!(secrets(&space).await, [SECRET, "orders-db-v2"]);
    let second = space.credential("orders-db-v2").await;
    assert_eq!(space.credential(SECRET).await, second);
    let frozen = space.read("secret/orders-db-v2").await;
    assert_eq!(frozen["immutable"], true, "{frozen:#}");

    // In the middle of the next one a pod of the earlier version starts anew, with what it had.
    space.kubectl(&["rollout", "pause", "deployment/app"]).await;
    let mut rotating = site.at.spawn(site.at.command(&["rotate", POLICY]));
    rotating.until("waiting", "converge").await;
    space.kubectl(&["delete", "pod", "-l", "app=app", "--grace-period=1"]).await;
    space.kubectl(&["wait", "pod", "-l", "app=app", "--for=condition=Ready", PATIENCE]).await;
    let pods = space.pods("app=app").await;
    assert_eq!(pods.len(), 1, "{pods:#?}");
    assert_eq!(version_of(&pods[0]), Some("2"));
    let printed = space.kubectl(&["exec", "deploy/app", "--", "sh", "-c", "echo $username"]).await;
    assert_eq!(printed.trim(), second.principal.as_str(), "it has another value than its version's");
    assert!(site.accepts(&second).await);
    assert_eq!(space.credential("orders-db-v2").await, second);
    space.kubectl(&["rollout", "resume", "deployment/app"]).await;
    rotating.end().await.ended(0);
    assert_eq!(named(&space.read("deployment/app").await), ["orders-db-v3", "other"]);
    assert!(!site.accepts(&second).await);
    // Nobody names the earlier one any more.
    assert_eq!(secrets(&space).await, [SECRET, "orders-db-v3"]);
    let mut values = vec![first, second, space.credential("orders-db-v3").await];

    // Killed before a version has its Secret, and before it is noted: made once, and forgotten by nobody.
    for (version, point) in [(4, "kubernetes.secret.written"), (5, "kubernetes.secret.frozen")] {
        let mut command = site.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", format!("{point}#1=killBefore"));
        site.at.spawn(command).end().await;
        site.at.run(&["resume", POLICY]).await.ended(0);
        assert_eq!(secrets(&space).await, [SECRET.to_owned(), format!("orders-db-v{version}")], "{point}");
        assert_eq!(told(&space, "deployment/app").await, (Some(version.to_string()), i64::from(version) + 2));
        values.push(space.credential(SECRET).await);
    }
    // A Secret of each version is one of the places that a value belongs to, and still no other is.
    search.nothing_gives_away(&values.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_the_version_in_force_is_made_again_when_somebody_deletes_it() {
    let (_, space, site) = delivered().await;
    freeze(&site);
    space.create(&idle("Deployment", "app", 1, SECRET)).await;
    space.rolled_out("deployment/app").await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let current = space.credential("orders-db-v2").await;
    let mut daemon = site.at.daemon().await;
    space.kubectl(&["delete", "secret", "orders-db-v2"]).await;
    daemon.says("somebody changed what readers find: the value in force is there again").await;
    assert_eq!(space.credential("orders-db-v2").await, current);
    assert_eq!(told(&space, "deployment/app").await, (Some("2".into()), 2), "nothing is new for its pods");
    daemon.stop().await;
}
