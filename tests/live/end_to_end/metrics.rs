//! What `/healthz`, `/readyz` and `/metrics` say of a daemon, when all is well and when it is not.

use super::*;
use crate::processes::Daemon;

const LABELS: &str = "{namespace=\"orders\",policy=\"orders-db\"}";

/// The samples that there are now.
async fn scrape(daemon: &Daemon) -> String {
    let metrics = daemon.http("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("application/openmetrics-text; version=1.0.0"), "{metrics:?}");
    assert_eq!(metrics.body.lines().last(), Some("# EOF"));
    metrics.body
}

/// The value of one sample.
#[track_caller]
fn sample(metrics: &str, name: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rotations_that_go_well() {
    let site = Site::in_place().await;
    site.at.change_settings(|settings| settings["listen"] = json!("127.0.0.1:0"));
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["schedule"] = json!({"cron": "0 3 1 1 *", "maxAge": "30d"});
    });
    let daemon = site.at.daemon().await;
    for path in ["/healthz", "/readyz"] {
        let answer = daemon.http(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
    }
    assert_eq!(daemon.http("/").await.status, 404);
    site.rotate().await;
    site.rotate().await;
    site.at.run(&["contain", POLICY]).await.ended(0);
    let metrics = scrape(&daemon).await;
    for (name, value) in [
        ("rekeyd_rotations_total{outcome=\"rotated\",trigger=\"manual\"}", 2.0),
        ("rekeyd_rotations_total{outcome=\"rotated\",trigger=\"contain\"}", 1.0),
        ("rekeyd_step_seconds_count{step=\"install\"}", 3.0),
        ("rekeyd_step_seconds_count{step=\"prove\"}", 2.0),
        ("rekeyd_outage_window_seconds_count", 3.0),
        ("rekeyd_containment_seconds_count", 1.0),
        ("rekeyd_ledger_unpushed", 0.0),
        ("rekeyd_policies", 1.0),
        ("rekeyd_policy_errors", 0.0),
    ] {
        assert_eq!(sample(&metrics, name), value, "{name} in {metrics}");
    }
    for name in ["credential_overdue", "in_doubt", "containment_owed", "rotation_open", "policy_unknown"] {
        assert_eq!(sample(&metrics, &format!("rekeyd_{name}{LABELS}")), 0.0, "{name} in {metrics}");
    }
    let age = sample(&metrics, &format!("rekeyd_credential_age_seconds{LABELS}"));
    assert!((0.0..60.0).contains(&age), "{age}");
    // What the histograms add up to is what the records say.
    let records = site.records().await;
    let total =
        |field: &str| records.iter().filter_map(|record| record[field].as_f64()).sum::<f64>() / 1_000.0;
    for (name, field) in [("outage_window", "windowMs"), ("containment", "containedMs")] {
        let sum = sample(&metrics, &format!("rekeyd_{name}_seconds_sum"));
        assert!(sum > 0.0 && (sum - total(field)).abs() < 1e-6, "{sum} in {records:#?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_goes_wrong() {
    let site = Site::alternating().await;
    site.at.change_settings(|settings| {
        settings["listen"] = json!("127.0.0.1:0");
        settings["ledger"]["remote"] = json!({"url": site.at.path("not-there.git")});
    });
    site.rotate().await;
    // Older than allowed, and each attempt to mend that fails.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["schedule"] = json!({"cron": "0 3 1 1 *", "maxAge": "1s"});
        policy["spec"]["target"]["postgres"]["check"] = json!("select 1 / 0");
    });
    std::fs::write(site.at.path("policies/broken.yaml"), "kind: RotationPolicy\n").expect("written");
    let daemon = site.at.daemon().await;
    let rolled_back = "rekeyd_rotations_total{outcome=\"rolledBack\",trigger=\"scheduled\"} ";
    soon("an attempt is rolled back", async || scrape(&daemon).await.contains(rolled_back)).await;
    let metrics = scrape(&daemon).await;
    assert_eq!(sample(&metrics, &format!("rekeyd_credential_overdue{LABELS}")), 1.0, "{metrics}");
    assert!(sample(&metrics, &format!("rekeyd_credential_age_seconds{LABELS}")) >= 1.0, "{metrics}");
    assert!(sample(&metrics, "rekeyd_policy_errors") >= 1.0, "{metrics}");
    assert!(sample(&metrics, "rekeyd_ledger_unpushed") >= 2.0, "{metrics}");

    // A step that fails and is tried again.
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["target"]["postgres"].as_object_mut().expect("a mapping").remove("check");
        policy["spec"]["consumers"][0]["file"]["path"] = json!(site.at.path("gone/app.env"));
    });
    soon("publishing fails", async || {
        scrape(&daemon).await.contains("rekeyd_step_failures_total{step=\"publish\",class=\"")
    })
    .await;
    assert_eq!(sample(&scrape(&daemon).await, &format!("rekeyd_rotation_open{LABELS}")), 1.0);
    daemon.stop().await;

    // A store that cannot be used.
    std::fs::remove_file(site.at.path("store.key")).expect("removed");
    let daemon = site.at.daemon().await;
    assert_eq!(daemon.http("/healthz").await.status, 200);
    let ready = daemon.http("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("store main: ") && ready.body.contains("store.key"), "{ready:?}");
    soon("the policy is out of sight", async || {
        sample(&scrape(&daemon).await, &format!("rekeyd_policy_unknown{LABELS}")) == 1.0
    })
    .await;
    daemon.stop().await;
}
