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
