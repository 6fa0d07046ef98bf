//! Rotations that do not end well, in a cluster: what a daemon says of them there, and that no value is among it.

use serde_json::{Value, json};

use crate::cluster::{SECRET, told};
use crate::cluster_search::Search;
use crate::kubernetes::{Cluster, Namespace, idle};
use crate::postgres_support::credential_of;
use crate::processes::{in_time, until};
use crate::resources::{KIND, resource, site_in};
use crate::rollback::{aged, known};
use crate::site::*;

/// The policy as a resource whose readers have to be well for a while.
fn patient(site: &Site) -> Value {
    let mut policy = resource(site, NAME);
    policy["spec"]["consumers"][0]["kubernetes"]["workloads"]["settle"] = json!("8s");
    policy
}

async fn ask(space: &Namespace, request: &str) {
    let request = format!("rekeyd.dev/rotate={request}");
    space.kubectl(&["annotate", KIND, NAME, "--overwrite", &request]).await;
}

async fn told_of(space: &Namespace, reason: &str) {
    let reasons = ["get", "events", "-o", "jsonpath={.items[*].reason}"];
    let is_told = async || space.kubectl(&reasons).await.split(' ').any(|one| one == reason);
    until(reason, is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_went_back_and_one_in_doubt_give_no_value_away() {
    let cluster = Cluster::shared();
    let (space, site) = site_in(&cluster).await;
    let mut search = Search::begin(&cluster, &[&space]);
    let mut daemon = site.at.daemon_with(&["--log", "trace"]).await;
    space.create(&patient(&site)).await;
    ask(&space, "first").await;
    space.has_answered(NAME, 1).await;
    let first = space.credential(SECRET).await;
    let policy = format!("{}/{NAME}", space.name);
    let candidate = async || {
        let opened = async {
            loop {
                if let Some(candidate) = site.candidate_of(&policy).await {
                    return candidate;
                }
            }
        };
        in_time("there is a candidate", opened).await
    };

    // The application cannot live with the spare user.
    let spare = site.world.name(if first.principal == site.world.name("a") { "b" } else { "a" });
    let mut app = idle("Deployment", "app", 1, SECRET);
    let command = format!("echo as $username; [ \"$username\" != {spare} ] || exit 3; sleep 2147483647");
    app["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sh", "-c", command]);
    app["spec"]["minReadySeconds"] = json!(5);
    known(&space).await;
    space.create(&app).await;
    space.rolled_out("deployment/app").await;
    aged(&space, "app=app").await;
    ask(&space, "second").await;
    let crashing = candidate().await;
    assert_ne!(crashing, first);
    space.becomes(NAME, "jsonpath={.status.lastRotation.outcome}=rolledBack").await;
    told_of(&space, "RolledBack").await;
    assert_eq!(space.credential(SECRET).await, first);
    assert_eq!(told(&space, "deployment/app").await, (None, 3));
    assert!(search.heard("app-") > 1, "the pod that crashed is not searched");

    // Somebody else writes the store's path while the next candidate is tried.
    site.hold_verify().await;
    space.replace(&patient(&site)).await;
    space.becomes(NAME, "jsonpath={.status.observedGeneration}=2").await;
    ask(&space, "third").await;
    let doubtful = candidate().await;
    assert!(doubtful != first && doubtful != crashing);
    site.verify_is_held().await;
    let foreign = credential_of(&first.principal, "written by another tool");
    site.overwrite(&foreign).await;
    site.release_verify().await;
    space.becomes(NAME, "condition=InDoubt").await;
    told_of(&space, "InDoubt").await;
    assert_eq!(space.credential(SECRET).await, first);

    search.also("the metrics", daemon.http("/metrics").await.body);
    daemon.says_of(&policy, "rotation in doubt").await;
    let log = daemon.stop().await;
    search.also("the log", log.iter().map(|entry| format!("{entry}\n")).collect::<String>());
    search.nothing_gives_away(&[&first, &foreign, &crashing, &doubtful]).await;
}
