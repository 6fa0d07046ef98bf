//! Who may speak to the daemon, and what it does for them; health and metrics.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_to_the_daemon() {
    let site = Site::alternating().await;
    let mut daemon = site.at.daemon().await;
    assert_eq!(mode(&site.at.path("rekeyd.sock")), 0o600);

    let first = site.rotate().await;
    daemon.says_of(POLICY, "rotation closed").await;
    let text = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(0);
    assert!(text.stdout.starts_with("orders/orders-db -> v2 [manual]\n  done  install"), "{text}");
    let second = site.delivered();
    site.at.run(&["contain", POLICY, "--reason", "leaked"]).await.ended(0);
    let opened = |entry: &Value| entry["message"] == "rotation opened" && entry["trigger"] == "contain";
    daemon.until("the daemon contains", opened).await;
    let uid = rustix::process::geteuid().as_raw();
    let record = site.records().await.remove(0);
    assert_eq!((&record["requestedBy"], &record["reason"]), (&json!(format!("uid {uid}")), &json!("leaked")));
    site.assert_in_order(&[first, second], 3).await;

    let status = site.at.run(&["status", "-o", "json"]).await.ended(0).json();
    assert_eq!(status[0]["version"], 3, "{status:#}");
    site.at
        .run(&["status", "orders/nowhere"])
        .await
        .ended(1)
        .says(&["cannot find policy orders/nowhere", "remedy: "]);
    site.at.run(&["resume", POLICY]).await.ended(1).says(&["no rotation of it is open"]);
    daemon.stop().await;
}

/// A containment does not wait for the grace of the rotation that is running.
#[tokio::test(flavor = "multi_thread")]
async fn a_containment_takes_over_what_the_daemon_is_doing() {
    let site = Site::alternating().await;
    let leaked = site.rotate().await;
    site.at.change_policy(NAME, |policy| policy["spec"]["retire"]["grace"] = json!("1h"));
    let attacker = site.world.connect(&leaked).await.expect("a session");
    let daemon = site.at.daemon().await;
    let mut running = site.at.start(&["rotate", POLICY]);
    running.until("waiting", "converge").await;
    let published = site.delivered();
    site.at.run(&["contain", POLICY]).await.ended(0);
    assert!(attacker.simple_query("select 1").await.is_err());
    // The one who asked for the rotation is told that it is no longer theirs.
    drop(running.end().await);
    daemon.stop().await;
    site.assert_in_order(&[leaked, published], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_through_the_daemon() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let running = {
        site.hold_verify().await;
        let running = site.at.start(&["rotate", POLICY]);
        site.verify_is_held().await;
        running
    };
    running.kill().await;
    site.release_verify().await;
    let mut daemon = site.at.daemon().await;
    if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
        daemon.says_of(POLICY, "rotation closed").await;
    }
    site.assert_in_order(&[old], 2).await;

    // An open one that the daemon drives is given up on request.
    let current = site.delivered();
    site.world.sql("SELECT pg_advisory_lock(42)").await;
    let running = site.at.start(&["rotate", POLICY]);
    site.verify_is_held().await;
    let abandoning = site.at.start(&["resume", POLICY, "--abandon"]);
    site.release_verify().await;
    let ending = abandoning.end().await.ending();
    running.end().await;
    if ending["ending"] == "rolledBack" {
        assert_eq!(site.delivered(), current);
    } else {
        // The step went through before the request came in.
        assert_eq!(ending["ending"], "failed", "{ending:#}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_a_killed_one_leaves_nothing_in_the_way() {
    let at = Installation::new().await;
    at.write_policy(&generated(&at));
    let daemon = at.daemon().await;
    let second = at.run(&["run"]).await.ended(1);
    second.says(&["another daemon runs on it", "remedy: stop it first, or give this one its own `socket`"]);
    at.run(&["rotate", "shop/session-key"]).await.ended(0);

    daemon.kill().await;
    assert!(at.path("rekeyd.sock").exists(), "the point of this test");
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    let daemon = at.daemon().await;
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    daemon.stop().await;
    at.run(&["audit", "verify"]).await.ended(0).says(&["3 records"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused() {
    let mut site = Site::alternating().await;
    let old = site.rotate().await;
    let mut daemon = site.at.daemon().await;
    site.at.run_as_nobody();
    set_mode(&site.at.path(""), 0o755);
    set_mode(&site.at.path("policies"), 0o755);
    let commands = [
        &["rotate", POLICY, "-o", "text"][..],
        &["contain", POLICY, "-o", "text"],
        &["resume", POLICY, "-o", "text"],
        &["status"],
    ];
    for command in commands {
        let answer = site.at.run(command).await.ended(1);
        answer.says(&[
            "error: cannot reach the daemon at ",
            "permission denied",
            "remedy: run as the daemon's user",
        ]);
    }
    // Whoever opens the socket's file to others has not given them the daemon.
    set_mode(&site.at.path("rekeyd.sock"), 0o666);
    for command in commands {
        let answer = site.at.run(command).await.ended(1);
        answer.says(&["error: cannot reach the daemon: it does not take orders from this user", "remedy: "]);
        let refused = daemon.says("refused a peer on the socket").await;
        assert_eq!(refused["uid"], crate::installation::NOBODY, "{refused}");
    }
    daemon.stop().await;
    site.at.take_back();
    assert_eq!(site.delivered(), old);
    site.assert_in_order(&[], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics() {
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
    let metrics = daemon.http("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("application/openmetrics-text; version=1.0.0"), "{metrics:?}");
    let policy = "{namespace=\"orders\",policy=\"orders-db\"}";
    for line in [
        "rekeyd_rotations_total{outcome=\"rotated\",trigger=\"manual\"} 2",
        "rekeyd_rotations_total{outcome=\"rotated\",trigger=\"contain\"} 1",
        "rekeyd_step_seconds_count{step=\"install\"} 3",
        "rekeyd_in_place_window_seconds_count 3",
        "rekeyd_containment_seconds_count 1",
        "rekeyd_ledger_unpushed 0",
        "rekeyd_policies 1",
        "rekeyd_policy_errors 0",
        &format!("rekeyd_credential_overdue{policy} 0"),
        &format!("rekeyd_in_doubt{policy} 0"),
        &format!("rekeyd_rotation_open{policy} 0"),
        "# EOF",
    ] {
        assert!(metrics.body.lines().any(|each| each == line), "no `{line}` in {}", metrics.body);
    }
    let age = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&format!("rekeyd_credential_age_seconds{policy} ")));
    assert!(age.and_then(|age| age.parse::<f64>().ok()).is_some_and(|age| age < 60.0), "{}", metrics.body);
    daemon.stop().await;

    // A store that cannot be used.
    std::fs::remove_file(site.at.path("store.key")).expect("removed");
    let daemon = site.at.daemon().await;
    assert_eq!(daemon.http("/healthz").await.status, 200);
    let ready = daemon.http("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("store main: ") && ready.body.contains("store.key"), "{ready:?}");
    daemon.stop().await;
}
