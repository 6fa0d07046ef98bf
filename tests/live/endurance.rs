//! An application under rotations for a while, and for how long it is out where its policy accepts an outage.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::{SECRET, application, counted, told};
use crate::deployed::Deployed;
use crate::figures;
use crate::kubernetes::Cluster;
use crate::processes::until;
use crate::resources::KIND;
use crate::site::*;

/// How long rotations follow one another. `make soak-cluster` asks for more.
fn duration() -> Duration {
    let asked = figures::asked("REKEYD_SOAK_SECONDS");
    Duration::from_secs(asked.map_or(30, |asked| asked.parse().expect("REKEYD_SOAK_SECONDS is a number")))
}

/// Notes figures where whoever ran this finds them.
fn note(name: &str, figures: &Value) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak-cluster");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), format!("{figures:#}\n")).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_and_containments_back_to_back_fail_no_query() {
    let deployed = Deployed::new(Cluster::shared(), &[]).await;
    let Deployed { home, space, site, .. } = &deployed;
    home.rolled_out("deployment/rekeyd").await;
    let mut policy = deployed.policy();
    // Scheduled by its age: as soon as a rotation is over the next one is due.
    policy["spec"]["schedule"] = json!({"cron": "0 0 1 1 *", "maxAge": "1s"});
    space.create(&policy).await;
    deployed.asked("rotate", "first").await;
    space.create(&application(site, 3).await).await;
    space.rolled_out("deployment/app").await;

    let version =
        async || space.read(&format!("{KIND}/{NAME}")).await["status"]["version"].as_i64().expect("a number");
    let (began, first) = (Instant::now(), version().await);
    let from = log_length(site);
    let mut containments = 0;
    while began.elapsed() < duration() {
        let before = (version().await, space.credential(SECRET).await);
        containments += 1;
        let request = format!("leak-{containments}");
        deployed.asked("contain", &request).await;
        assert!(!site.accepts(&before.1).await, "what leaked works");
        // One by schedule in between.
        let contained = version().await;
        until("a scheduled rotation", async || version().await != contained).await;
    }
    let seconds = began.elapsed().as_secs();
    // Nobody rotates any more.
    policy["spec"].as_object_mut().expect("an object").remove("schedule");
    space
        .kubectl(&[
            "patch",
            KIND,
            NAME,
            "--type=json",
            "-p",
            r#"[{"op": "remove", "path": "/spec/schedule"}]"#,
        ])
        .await;
    space.becomes(NAME, "condition=Rotating=False").await;
    space.rolled_out("deployment/app").await;
    let (last, (pods, queries, failed)) = (version().await, counted(&site.world).await);
    let (restarted_for, changes) = told(space, "deployment/app").await;
    let restarted_for: i64 = restarted_for.expect("a version").parse().expect("a number");
    note(
        "keep-serving.json",
        &json!({
            "seconds": seconds, "rotations": last - first, "containments": containments, "restarts": changes - 1,
            "pods": pods, "queries": queries, "failedQueries": failed,
        }),
    );
    assert_eq!(failed, 0, "{queries} queries by {pods} pods");
    // What a pod counts is lost with a pod that cannot say it any more; the server's log has every refusal. Those of
    // rekeyd's own pods are its proofs.
    let (proofs, refused) = refused(&deployed, from).await;
    assert!(refused.is_empty(), "{refused:?}");
    assert!(!proofs.is_empty(), "no outgoing value was tried");
    assert!(last - first >= 2 * containments, "{first} to {last}");
    assert!(changes <= restarted_for, "restarted more often than there were versions");
    assert!(site.accepts(&space.credential(SECRET).await).await);
}

/// The rule by which the server lets pods in.
const PODS: &str = "10.192.0.0/10";

fn log_length(site: &Site) -> usize {
    let length = std::fs::metadata(&site.world.server.at().log).expect("a log").len();
    usize::try_from(length).expect("a small log")
}

/// When the server refused the pods of rekeyd and those of others as one of the pair, by its log from a place on.
async fn refused(deployed: &Deployed, from: usize) -> (Vec<Timestamp>, Vec<Timestamp>) {
    let ours = ["get", "pods", "-o", "jsonpath={.items[*].status.podIP}"];
    let ours = deployed.home.kubectl(&ours).await;
    let ours: Vec<&str> = ours.split_whitespace().collect();
    let (ours, others): (Vec<_>, Vec<_>) =
        refusals(&deployed.site, from).into_iter().partition(|(_, address)| ours.contains(&address.as_str()));
    let moments = |of: Vec<(Timestamp, String)>| of.into_iter().map(|(moment, _)| moment).collect();
    (moments(ours), moments(others))
}

/// When the server refused a pod as one of the pair, and the pod's address.
fn refusals(site: &Site, from: usize) -> Vec<(Timestamp, String)> {
    let log = std::fs::read_to_string(&site.world.server.at().log).expect("a log");
    let of_pair = |line: &&str| ["a", "b"].iter().any(|user| line.contains(site.world.name(user).as_str()));
    let mut lines = log.get(from..).unwrap_or_default().lines().peekable();
    let refusals = std::iter::from_fn(move || {
        loop {
            let line = lines.next()?;
            if !line.contains("FATAL") || !of_pair(&line) {
                continue;
            }
            // What it says of it follows: the rule by which it was let in comes last, on a line of its own.
            let mut rule = None;
            while let Some(more) = lines.next_if(|next| next.contains("DETAIL") || next.starts_with('\t')) {
                rule = more.contains("pg_hba.conf").then_some(more).or(rule);
            }
            return Some((line, rule.is_none_or(|rule| rule.contains(PODS))));
        }
    });
    let refusals = refusals.filter(|(_, of_pod)| *of_pod).map(|(line, _)| line);
    // `2026-01-04 02:00:00.123 UTC [17] 10.200.1.5 FATAL: ...`
    refusals
        .map(|line| {
            let (moment, rest) = line.split_once(" UTC").expect("a time in UTC");
            let address = rest.split_whitespace().nth(1).expect("an address");
            let moment = format!("{}Z", moment.replace(' ', "T")).parse().expect("a moment");
            (moment, address.to_owned())
        })
        .collect()
}

/// One rotation that cuts: what rekeyd says of the outage is what the application saw.
async fn outage(name: &str, verb: &str, deployed: &Deployed, policy: &Value) {
    let Deployed { home, space, site, .. } = deployed;
    home.rolled_out("deployment/rekeyd").await;
    space.create(policy).await;
    deployed.asked("rotate", "first").await;
    space.create(&application(site, 3).await).await;
    space.rolled_out("deployment/app").await;
    let from = log_length(site);
    let began = Instant::now();
    deployed.asked(verb, "outage").await;
    let took = began.elapsed().as_millis();
    deployed.pushed_once(&format!("{verb}({}/{NAME}): v1 -> v2", space.name)).await;
    let record = deployed.latest_record().await;
    let window = record["windowMs"].as_i64().unwrap_or_else(|| panic!("no outage is recorded: {record:#}"));
    let (_, mut refused) = refused(deployed, from).await;
    refused.sort_unstable();
    assert!(refused.len() > 1, "nobody was refused");
    let span = refused[refused.len() - 1].duration_since(refused[0]).as_millis();
    note(
        &format!("{name}.json"),
        &json!({"windowMs": window, "refusedMs": span, "refusedQueries": refused.len()}),
    );
    assert!(i128::from(window) <= i128::try_from(took).expect("a short time"), "{window} ms of {took}");
    assert!(i128::from(window) + 1_000 >= span, "{span} ms were seen, and {window} are recorded");
    assert_eq!(told(space, "deployment/app").await.1, 2, "restarted twice");
    assert!(site.accepts(&space.credential(SECRET).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containment_that_cuts_says_for_how_long_readers_were_out() {
    let deployed = Deployed::new(Cluster::shared(), &[]).await;
    let mut policy = deployed.policy();
    policy["spec"]["containment"] = json!("cutNow");
    outage("cut-now", "contain", &deployed, &policy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_in_place_says_for_how_long_readers_were_out() {
    let site = Site::in_place().await;
    site.world.sql("GRANT {p}_group TO {p}_a").await;
    let deployed = Deployed::of(site, Cluster::shared(), &[]).await;
    outage("in-place", "rotate", &deployed, &deployed.policy()).await;
}
