//! `rekeyd run`: what it does by itself, and how it stops.

use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::processes::Daemon;

impl Site {
    /// The policy rotates by itself as often as it can.
    fn always_due(&self) {
        self.at.change_policy(NAME, |policy| {
            policy["spec"]["schedule"] = json!({"cron": "0 3 1 1 *", "maxAge": "1s"});
        });
    }
}

async fn rotated(daemon: &mut Daemon) -> Value {
    daemon.says_of(POLICY, "rotation closed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_fires() {
    let site = Site::alternating().await;
    site.always_due();
    let mut old = vec![site.rotate().await];
    let status = site.status().await;
    assert!(status["nextDue"].is_string(), "{status:#}");
    assert_eq!(status["maxAge"], "1s");
    let mut daemon = site.at.daemon().await;
    for _ in 0..2 {
        let closed = rotated(&mut daemon).await;
        assert_eq!(
            (&closed["outcome"], &closed["trigger"]),
            (&json!("rotated"), &json!("scheduled")),
            "{closed}"
        );
        old.push(site.delivered());
    }
    daemon.stop().await;
    let current = site.delivered();
    old.retain(|each| *each != current);
    let records = site.records().await;
    assert_eq!(records[0]["requestedBy"], "schedule");
    site.assert_in_order(&old, records.len()).await;
}

/// Switching it on does not lock an application out: without a first value, nothing is rotated by itself.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_rotated_that_was_never_asked_for() {
    let site = Site::alternating().await;
    site.always_due();
    let daemon = site.at.daemon().await;
    site.at
        .run(&["status", POLICY])
        .await
        .ended(0)
        .says(&["empty", "adopt the present one or request a rotation"]);
    let log = daemon.stop().await;
    assert!(!log.iter().any(|entry| entry["message"] == "rotation opened"), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
    let site = Site::alternating().await;
    site.rotate().await;
    site.at.remove_policy(NAME);
    let mut daemon = site.at.daemon().await;
    site.at.run(&["rotate", POLICY]).await.ended(1).says(&["cannot find policy"]);

    site.at.write_policy(&site.document(NAME, pair(&site.world)));
    daemon
        .until("the policy is read", |entry| entry["message"] == "policies read" && entry["policies"] == 1)
        .await;
    site.at.run(&["rotate", POLICY]).await.ended(0);

    // Broken: the daemon says where, and goes on by the policy that it knows.
    site.at.change_policy(NAME, |policy| policy["spec"]["retier"] = json!({}));
    let refused = daemon.says("policy document refused").await;
    let diagnostic = refused["diagnostic"].as_str().expect("text");
    assert!(
        diagnostic.contains("orders-db.yaml:") && diagnostic.contains("did you mean `retire`"),
        "{refused}"
    );
    daemon.says_of(POLICY, "policy stays in force as it was: its document has errors now").await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    site.at.run(&["check"]).await.ended(1).says(&["retier"]);

    // Mended.
    site.at.change_policy(NAME, |policy| {
        policy["spec"].as_object_mut().expect("a mapping").remove("retier");
        policy["spec"]["consumers"][0]["file"]["path"] = json!(site.at.path("moved.env"));
    });
    daemon.until("it is mended", |entry| entry["message"] == "policies read" && entry["errors"] == 0).await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let moved = credential_in(&read(&site.at.path("moved.env")));
    assert_eq!(site.stored().await, Some(moved));

    // Asked to by hand.
    daemon.signal(Signal::HUP);
    daemon.says("policies read").await;

    site.at.remove_policy(NAME);
    daemon.until("it is gone", |entry| entry["message"] == "policies read" && entry["policies"] == 0).await;
    site.at.run(&["rotate", POLICY]).await.ended(1).says(&["cannot find policy"]);
    daemon.stop().await;
}

/// What becomes of the directory of the policies: another one takes its place, it is away for a while, and
/// somebody writes into it without end.
#[tokio::test(flavor = "multi_thread")]
async fn it_watches_a_directory_that_is_replaced_and_a_busy_one() {
    let site = Site::alternating().await;
    let mut daemon = site.at.daemon().await;
    let read = |policies: u64| {
        move |entry: &Value| entry["message"] == "policies read" && entry["policies"] == policies
    };
    let (directory, aside) = (site.at.path("policies"), site.at.path("aside"));
    std::fs::rename(&directory, &aside).expect("moved");
    // Not a directory without policies: what was in force stays so.
    daemon.says_of(POLICY, "policy stays in force as it was: its document has errors now").await;
    std::fs::create_dir(&directory).expect("a folder");
    daemon.until("the empty one is read", read(0)).await;
    site.at.write_policy(&site.document(NAME, pair(&site.world)));
    daemon.until("a file in the new one is read", read(1)).await;

    // Somebody writes without end, and a policy changes meanwhile.
    let end = CancellationToken::new();
    let busy = directory.join("draft.yaml.d");
    std::fs::create_dir(&busy).expect("a folder");
    let writer = tokio::task::spawn_blocking({
        let end = end.clone();
        move || {
            while !end.is_cancelled() {
                std::fs::write(busy.join("busy.yaml"), "# nothing yet\n").expect("written");
            }
        }
    });
    site.at.remove_policy(NAME);
    daemon.until("the change is read all the same", read(0)).await;
    end.cancel();
    writer.await.expect("it writes");
    daemon.stop().await;
}

/// A rotation waits for sessions of the old value to end; the daemon stops in spite of it, and goes on where
/// it was when it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_the_middle_of_a_grace() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    site.at.change_policy(NAME, |policy| policy["spec"]["retire"]["grace"] = json!("1h"));
    let session = site.world.connect(&old).await.expect("a session");
    let daemon = site.at.daemon().await;
    let mut running = site.at.start(&["rotate", POLICY]);
    running.until("waiting", "converge").await;
    let began = Instant::now();
    let log = daemon.stop().await;
    let took = began.elapsed();
    assert!(took.as_secs() < 5, "stopping took {took:?}");
    assert!(log.iter().any(|entry| entry["message"] == "stopping, rotation left open"), "{log:#?}");
    let ending = running.end().await.ended(1).ending();
    assert_eq!(ending["ending"], "open", "{ending:#}");
    assert!(session.simple_query("select 1").await.is_ok());
    assert!(!site.at.path("rekeyd.sock").exists(), "the socket was left");

    drop(session);
    let mut daemon = site.at.daemon().await;
    if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
        rotated(&mut daemon).await;
    }
    daemon.stop().await;
    site.assert_in_order(&[old], 2).await;
}

/// The running step is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn it_stops_after_the_running_step() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let mut gate = Gate::new(&site.at.path(""));
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
    });
    let mut daemon = site.at.daemon().await;
    let running = site.at.start(&["rotate", POLICY]);
    gate.reached().await;
    daemon.signal(Signal::TERM);
    daemon.says("stopping").await;
    gate.open().await;
    daemon.says("stopping, rotation left open").await;
    daemon.ended().await;
    running.end().await.ended(1).says(&["stopped before step converge"]);
    // The reader was told, and is not told again.
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
}

/// The policy was deleted while its rotation was open and nobody ran.
#[tokio::test(flavor = "multi_thread")]
async fn it_finishes_what_no_policy_names_any_more() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let mut gate = Gate::new(&site.at.path(""));
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
    });
    let running = site.at.start(&["rotate", POLICY]);
    gate.reached().await;
    running.kill().await;
    gate.open().await;
    gate.open().await;
    site.at.remove_policy(NAME);
    let mut daemon = site.at.daemon().await;
    if !daemon.seen.iter().any(|entry| entry["message"] == "rotation closed") {
        rotated(&mut daemon).await;
    }
    daemon.stop().await;
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_the_records_to_the_remote() {
    let site = Site::in_place().await;
    let (remote, away) = (site.at.path("remote.git"), site.at.path("away.git"));
    let init =
        std::process::Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&remote).status();
    assert!(init.expect("git").success());
    site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
    let commits = || {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(&remote).args(["rev-list", "--count", "main"]).stderr(Stdio::null());
        String::from_utf8(git.output().expect("git").stdout).expect("text").trim().to_owned()
    };
    let mut daemon = site.at.daemon().await;
    site.at.run(&["rotate", POLICY]).await.ended(0);
    soon("the record reaches the remote", async || commits() == "1").await;

    std::fs::rename(&remote, &away).expect("moved");
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let warning = daemon.says("records wait to be pushed").await;
    assert!(warning["failure"].as_str().is_some_and(|text| text.contains("remote.git")), "{warning}");
    std::fs::rename(&away, &remote).expect("moved");
    soon("what waited reaches the remote", async || commits() == "2").await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_starting() {
    let site = Site::in_place().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let start = async |texts: &[&str]| {
        site.at.run(&["run"]).await.ended(1).says(texts);
        assert!(!site.at.path("rekeyd.sock").exists(), "a socket was left");
    };
    site.at.change_settings(|settings| settings["listen"] = json!(address));
    start(&[&format!("error: cannot listen on {address}: address in use"), "remedy: choose a free address"])
        .await;
    site.at.change_settings(|settings| {
        settings["listen"] = Value::Null;
        settings.as_object_mut().expect("a mapping").remove("listen");
        settings["socket"] = json!("not/there/rekeyd.sock");
    });
    start(&["not/there/rekeyd.sock: no such file or folder", "remedy: create the socket's folder"]).await;
    std::fs::write(site.at.path("in-the-way"), "").expect("written");
    site.at.change_settings(|settings| settings["socket"] = json!("in-the-way"));
    start(&["cannot listen on socket", "in-the-way", "remedy: "]).await;
    assert!(site.at.path("in-the-way").exists(), "a file that is no socket was removed");
    site.at.change_settings(|settings| {
        settings["socket"] = json!("rekeyd.sock");
        settings["ledger"]["path"] = json!("policies");
    });
    site.at.run(&["run"]).await.ended(1).says(&["ledger"]);
}

/// A log that nobody takes is no reason to stop.
#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_without_a_log() {
    let site = Site::alternating().await;
    site.always_due();
    let first = site.rotate().await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = site.at.command(&["run", "--log", "trace"]);
    let mut daemon = command.stderr(Stdio::from(full)).spawn().expect("rekeyd starts");
    soon("it rotates", async || site.delivered() != first).await;
    let pid =
        rustix::process::Pid::from_raw(daemon.id().expect("a process").cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::TERM).expect("a living process");
    assert!(daemon.wait().await.expect("a status").success());
    assert!(!site.accepts(&first).await || site.candidate().await.is_some());
}

/// A doubt is told by the metrics after a restart too, and nothing goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn it_leaves_a_doubt_alone() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    site.at.change_settings(|settings| settings["listen"] = json!("127.0.0.1:0"));
    site.hold_verify().await;
    let mut daemon = site.at.daemon().await;
    let running = site.at.start(&["rotate", POLICY]);
    site.verify_is_held().await;
    site.overwrite(&credential_of(&old.principal, "foreign")).await;
    site.release_verify().await;
    running.end().await.ended(3);
    let doubt = daemon.says_of(POLICY, "rotation in doubt").await;
    assert!(
        doubt["remedy"].as_str().is_some_and(|text| text.contains("who writes the store's path")),
        "{doubt}"
    );
    daemon.stop().await;

    let mut daemon = site.at.daemon().await;
    let taken_up = |entry: &Value| entry["message"] == "rotation in doubt";
    if !daemon.seen.iter().any(taken_up) {
        daemon.until("the doubt is met again", taken_up).await;
    }
    let metrics = daemon.http("/metrics").await;
    let gauge = "rekeyd_in_doubt{namespace=\"orders\",policy=\"orders-db\"} 1";
    assert!(metrics.body.contains(gauge), "{metrics:?}");
    site.at.run(&["status"]).await.ended(3);

    // That its policy is gone makes it no less in doubt.
    let document = site.policy();
    site.at.remove_policy(NAME);
    daemon.until("it is gone", |entry| entry["message"] == "policies read" && entry["policies"] == 0).await;
    let metrics = daemon.http("/metrics").await;
    assert!(metrics.body.contains(gauge) && metrics.body.contains("rekeyd_policies 0"), "{metrics:?}");
    daemon.stop().await;
    let mut daemon = site.at.daemon().await;
    if !daemon.seen.iter().any(taken_up) {
        daemon.until("the doubt is met again", taken_up).await;
    }
    let metrics = daemon.http("/metrics").await;
    assert!(metrics.body.contains(gauge), "{metrics:?}");
    site.at.write_policy(&document);
    daemon.until("it is back", |entry| entry["message"] == "policies read" && entry["policies"] == 1).await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    daemon.stop().await;
    site.assert_in_order(&[old], 2).await;
}
