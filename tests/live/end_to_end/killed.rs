//! SIGKILL at every step, and at any moment: whoever comes next finishes the rotation.

use std::time::Instant;

use tokio::time::timeout;

use super::*;

/// The steps of a rotation that takes an old value out.
const WHOLE: [&str; 10] =
    ["install", "verify", "promote", "publish", "restart", "converge", "retire", "prove", "record", "close"];

/// The same where the old value goes first.
const CUT: [&str; 10] =
    ["install", "verify", "promote", "retire", "prove", "publish", "restart", "converge", "record", "close"];

/// Who finishes what was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heir {
    Command,
    Daemon,
}

impl Heir {
    /// Every fourth time it is the daemon.
    const fn of(turn: usize) -> Self {
        if turn % 4 == 3 { Self::Daemon } else { Self::Command }
    }

    /// Finishes the rotation. Where it ends as asked, a command's exit code is 0.
    async fn finish(self, site: &Site, code: i32) {
        match self {
            Self::Command => {
                let answer = site.at.run(&["resume", POLICY]).await;
                // The store may have taken the last write of the killed process after all.
                if !answer.stdout.contains("no rotation of it is open") {
                    answer.ended(code);
                }
            }
            Self::Daemon => {
                let mut daemon = site.at.daemon().await;
                // It may have begun, and even ended, before it said that it is ready.
                let closed = |entry: &Value| entry["message"] == "rotation closed";
                if !daemon.seen.iter().any(closed) {
                    daemon.until("the rotation is closed", closed).await;
                }
                daemon.stop().await;
            }
        }
    }
}

/// Kills a command right after each step began, and right after each was done.
async fn kill_at_every_step(site: &Site, command: &[&str], steps: &[&str], records: usize) {
    let moments = steps.iter().flat_map(|step| ["started", "done"].map(|event| (event, *step)));
    let (mut records, mut dead) = (records, Vec::new());
    for (turn, (event, step)) in moments.enumerate() {
        dead.push(site.delivered());
        let mut running = site.at.start(command);
        running.until(event, step).await;
        let seen = running.kill().await;
        if site.candidate().await.is_some() {
            Heir::of(turn).finish(site, 0).await;
        }
        records += 1;
        let record = site.assert_in_order(&dead, records).await;
        let rotation = &seen[0]["event"]["rotation"];
        assert_eq!(record["rotation"], *rotation, "{event} {step}: not the one that was killed");
        assert_ne!(Some(&site.delivered()), dead.last(), "{event} {step}: nothing was rotated");
        dead.drain(..dead.len().saturating_sub(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_rotation_with_two_users() {
    let site = Site::alternating().await;
    site.rotate().await;
    kill_at_every_step(&site, &["rotate", POLICY], &WHOLE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_rotation_in_place() {
    let site = Site::in_place().await;
    site.rotate().await;
    kill_at_every_step(&site, &["rotate", POLICY], &WHOLE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_rotation_in_openbao() {
    let mut site = Site::alternating().await;
    site.move_to_openbao();
    site.rotate().await;
    kill_at_every_step(&site, &["rotate", POLICY], &WHOLE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_containment_that_keeps_serving() {
    let site = Site::alternating().await;
    site.rotate().await;
    kill_at_every_step(&site, &["contain", POLICY], &WHOLE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_containment_that_cuts_first() {
    let site = Site::in_place().await;
    site.at.change_policy(NAME, |policy| policy["spec"]["containment"] = json!("cutNow"));
    site.rotate().await;
    kill_at_every_step(&site, &["contain", POLICY], &CUT, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_first_rotation() {
    let site = Site::alternating().await;
    let steps = ["install", "verify", "promote", "publish", "restart", "record", "close"];
    let moments = steps.iter().flat_map(|step| ["started", "done"].map(|event| (event, *step)));
    for (turn, (event, step)) in moments.enumerate() {
        // A policy that has never rotated, for the same file and store path.
        let users = json!([site.world.name(&format!("a{turn}")).as_str(), site.world.name("b").as_str()]);
        site.at.change_policy(NAME, |policy| {
            policy["metadata"]["name"] = json!(format!("orders-{turn}"));
            policy["spec"]["store"]["path"] = json!(format!("apps/orders/{turn}"));
            policy["spec"]["consumers"][0]["file"]["path"] = json!(site.at.path(&format!("{turn}.env")));
            policy["spec"]["target"]["postgres"]["strategy"]["alternating"]["users"] = users;
        });
        let policy = format!("orders/orders-{turn}");
        let mut running = site.at.start(&["rotate", &policy]);
        running.until(event, step).await;
        running.kill().await;
        let resumed = site.at.run(&["resume", &policy]).await;
        if (event, step) == ("done", "close") {
            resumed.ended(1).says(&["no rotation of it is open"]);
        } else if resumed.code == Some(1) {
            // It went on to its end before the signal came.
            resumed.says(&["no rotation of it is open"]);
        } else {
            resumed.ended(0);
        }
        let delivered = credential_in(&read(&site.at.path(&format!("{turn}.env"))));
        assert!(site.accepts(&delivered).await, "{event} {step}");
        site.at.run(&["audit", "verify"]).await.ended(0);
        assert_eq!(site.records().await.len(), turn + 1, "{event} {step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_a_generated_value() {
    let at = Installation::new().await;
    let file = at.path("session.key");
    at.write_policy(&generated(&at));
    let steps = ["promote", "publish", "restart", "record", "close"];
    let moments = steps.iter().flat_map(|step| ["started", "done"].map(|event| (event, *step)));
    at.run(&["rotate", "shop/session-key"]).await.ended(0);
    for (turn, (event, step)) in moments.enumerate() {
        let before = read(&file);
        let mut running = at.start(&["rotate", "shop/session-key"]);
        running.until(event, step).await;
        running.kill().await;
        // Closed already when the last step was reached; the value tells.
        at.run(&["resume", "shop/session-key"]).await;
        assert_ne!(read(&file), before, "{event} {step}");
        at.run(&["audit", "verify"]).await.ended(0);
        let log = at.run(&["audit", "log", "-o", "json"]).await.json();
        assert_eq!(log.as_array().map(Vec::len), Some(turn + 2), "{event} {step}: {log:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_an_adoption() {
    let site = Site::in_place().await;
    site.world.sql("ALTER ROLE {p}_a LOGIN PASSWORD 'live'").await;
    let steps = ["verify", "promote", "record", "close"];
    let moments = steps.iter().flat_map(|step| ["started", "done"].map(|event| (event, *step)));
    for (turn, (event, step)) in moments.enumerate() {
        let file = site.at.path("live");
        write_secret(&file, "live\n");
        let mut command = site.at.command(&["adopt", POLICY, "--replace", "-o", "json"]);
        command.stdin(std::fs::File::open(file).expect("a file"));
        let mut running = site.at.spawn(command);
        running.until(event, step).await;
        running.kill().await;
        if site.candidate().await.is_some() {
            site.at.run(&["resume", POLICY]).await.ended(0);
        }
        let live = credential_of(&site.world.name("a"), "live");
        assert_eq!(site.stored().await.as_ref(), Some(&live), "{event} {step}");
        assert!(site.accepts(&live).await);
        site.at.run(&["audit", "verify"]).await.ended(0);
        assert_eq!(site.records().await.len(), turn + 1, "{event} {step}");
    }
}

/// The check statement fails with the new value, so it is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_way_back() {
    for (site, undo) in [(Site::alternating().await, "withdraw"), (Site::in_place().await, "restore")] {
        let old = site.rotate().await;
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["target"]["postgres"]["check"] = json!("select 1 / 0");
        });
        let mut records = 1;
        for (event, step) in [
            ("turnedBack", "verify"),
            ("started", undo),
            ("done", undo),
            ("started", "record"),
            ("done", "record"),
        ] {
            let mut running = site.at.start(&["rotate", POLICY]);
            running.until(event, step).await;
            running.kill().await;
            let candidate = site.candidate().await;
            if candidate.is_some() {
                Heir::of(records).finish(&site, 1).await;
            }
            records += 1;
            assert_eq!(site.delivered(), old, "{event} {step}");
            let record = site.assert_in_order(candidate.as_slice(), records).await;
            assert_eq!(record["outcome"], "rolledBack", "{event} {step}: {record:#}");
            assert!(record["failure"].as_str().is_some_and(|why| why.contains("22012")), "{record:#}");
        }
    }
}

/// At any moment, however it falls.
async fn kill_at_random_moments(site: &Site, moments: u32) {
    site.rotate().await;
    let began = Instant::now();
    site.rotate().await;
    let whole = began.elapsed();
    let mut records = 2;
    for moment in 0..moments {
        let before = site.delivered();
        let chance = f64::from(getrandom::u32().expect("random")) / f64::from(u32::MAX);
        let delay = whole.mul_f64((f64::from(moment) + chance) / f64::from(moments));
        let mut running = site.at.start(&["rotate", POLICY]);
        let ended = timeout(delay, async { while running.next().await.is_some() {} }).await.is_ok();
        running.kill().await;
        if site.candidate().await.is_some() {
            Heir::of(moment as usize).finish(site, 0).await;
        }
        let after = site.delivered();
        assert!(!ended || after != before, "after {delay:?}: it ended, and nothing was rotated");
        // Killed before it opened, it left no trace.
        let dead = if after == before { None } else { Some(before) };
        records += usize::from(dead.is_some());
        site.assert_in_order(dead.as_slice(), records).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random_moments_with_two_users() {
    kill_at_random_moments(&Site::alternating().await, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_random_moments_in_place() {
    kill_at_random_moments(&Site::in_place().await, 15).await;
}

/// The daemon is killed while it does what a command asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_at_every_step() {
    let site = Site::alternating().await;
    site.rotate().await;
    let mut records = 1;
    for step in WHOLE {
        let old = site.delivered();
        let daemon = site.at.daemon().await;
        let mut running = site.at.start(&["rotate", POLICY]);
        running.until("started", step).await;
        daemon.kill().await;
        let answer = running.end().await;
        if site.candidate().await.is_some() {
            answer.ended(1).says(&["what was asked for may go on: see `rekeyd status`"]);
            Heir::Daemon.finish(&site, 0).await;
        }
        records += 1;
        site.assert_in_order(&[old], records).await;
    }
}

/// The step's own work is under way, certainly: its reload command is running.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_reader_is_being_told() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let mut gate = Gate::new(&site.at.path(""));
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
    });
    let running = site.at.start(&["rotate", POLICY]);
    gate.reached().await;
    running.kill().await;
    // The command that outlived its parent, and the one that is run again.
    gate.open().await;
    gate.open().await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    gate.reached().await;
    site.assert_in_order(&[old], 2).await;
}

/// Sessions of the old value live on in their grace; the grace does not begin anew with every start.
#[tokio::test(flavor = "multi_thread")]
async fn while_sessions_of_the_old_value_live_on() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    site.at.change_policy(NAME, |policy| policy["spec"]["retire"]["grace"] = json!("1h"));
    let session = site.world.connect(&old).await.expect("a session");
    let mut running = site.at.start(&["rotate", POLICY]);
    running.until("waiting", "converge").await;
    running.kill().await;
    assert!(
        session.simple_query("select 1").await.is_ok(),
        "the session was closed before its grace was over"
    );
    let status = site.status().await;
    assert_eq!(status["open"]["step"], "converge", "{status:#}");
    drop(session);
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
}
