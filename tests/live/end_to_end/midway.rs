//! Policies and requests that change while a rotation is under way.

use super::*;
use crate::postgres_support::{credential_of, verifier};

impl Site {
    /// A rotation that stands still while its reader is told.
    async fn held(&self, gate: &mut Gate) -> crate::processes::Running {
        self.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
        });
        let running = self.at.start(&["rotate", POLICY]);
        gate.reached().await;
        running
    }
}

/// It ends as it began; the next one goes by the new policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_changed() {
    let site = Site::alternating().await;
    let mut gate = Gate::new(&site.at.path(""));
    let old = site.rotate().await;
    let running = site.held(&mut gate).await;
    site.at.change_policy(NAME, |policy| {
        let file = &mut policy["spec"]["consumers"][0]["file"];
        file["path"] = json!(site.at.path("elsewhere.env"));
        file["reload"] = json!([]);
        policy["spec"]["store"]["path"] = json!("apps/elsewhere");
    });
    running.kill().await;
    gate.open().await;
    gate.open().await;
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(std::slice::from_ref(&old), 2).await;
    assert!(!site.at.path("elsewhere.env").exists(), "the running rotation took the new policy up");
    // The new path is empty: rekeyd does not take the same users for a first rotation in silence.
    let status = site.at.run(&["status", POLICY]).await.ended(0);
    let moved = site.at.run(&["rotate", POLICY, "-o", "text"]).await;
    moved.ended(1).says(&["apps/elsewhere", "remedy: "]);
    drop(status);

    site.at.change_policy(NAME, |policy| policy["spec"]["store"]["path"] = json!(PATH));
    let before = site.delivered();
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let current = credential_in(&read(&site.at.path("elsewhere.env")));
    assert_eq!(site.stored().await.as_ref(), Some(&current));
    assert!(site.accepts(&current).await && !site.accepts(&before).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_deleted() {
    let site = Site::alternating().await;
    let mut gate = Gate::new(&site.at.path(""));
    let old = site.rotate().await;
    let running = site.held(&mut gate).await;
    site.at.remove_policy(NAME);
    running.kill().await;
    gate.open().await;
    gate.open().await;
    let status = site.at.run(&["status"]).await.ended(0);
    status.says(&[POLICY, "rotating", &format!("remedy: finish it with `rekeyd resume {POLICY}`")]);
    site.at.run(&["status", POLICY]).await.ended(0).says(&["rotating"]);
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
    site.at.run(&["status", POLICY]).await.ended(1).says(&["cannot find policy"]);
}

/// A file that is broken now does not keep an open rotation from being finished.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_broken() {
    let site = Site::alternating().await;
    let mut gate = Gate::new(&site.at.path(""));
    let old = site.rotate().await;
    let running = site.held(&mut gate).await;
    site.at.change_policy(NAME, |policy| policy["spec"]["targte"] = json!({}));
    running.kill().await;
    gate.open().await;
    gate.open().await;
    site.at.run(&["resume", POLICY]).await.ended(0).says(&["did you mean `target`"]);
    site.assert_in_order(&[old], 2).await;
}

/// One runs, the other says so: two processes, and two requests to one daemon.
#[tokio::test(flavor = "multi_thread")]
async fn two_rotations_of_one_policy_at_once() {
    for with_daemon in [false, true] {
        let site = Site::alternating().await;
        let mut gate = Gate::new(&site.at.path(""));
        let old = site.rotate().await;
        let daemon = if with_daemon { Some(site.at.daemon().await) } else { None };
        let mut daemon = daemon;
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
        });
        if let Some(daemon) = &mut daemon {
            daemon.says("policies read").await;
        }
        let running = site.at.start(&["rotate", POLICY]);
        gate.reached().await;
        let second = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1);
        second.says(&[&format!("error: cannot rotate {POLICY}: "), "remedy: "]);
        let status = site.status().await;
        assert_eq!(status["state"], "rotating", "{status:#}");
        assert_eq!(status["open"]["driven"], with_daemon, "{status:#}");
        if with_daemon {
            assert_eq!(status["open"]["step"], "restart", "{status:#}");
        }
        gate.open().await;
        running.end().await.ended(0);
        site.assert_in_order(&[old], 2).await;
        if let Some(daemon) = daemon {
            daemon.stop().await;
        }
    }
}

/// Whoever begins at the very same moment: each request is either the one that rotates or says that
/// another does, and the number of versions is that of the rotations.
#[tokio::test(flavor = "multi_thread")]
async fn many_rotations_of_one_policy_at_once() {
    let site = Site::alternating().await;
    site.rotate().await;
    let racers = (0..6).map(|_| site.at.run(&["rotate", POLICY]));
    let answers = futures_util::future::join_all(racers).await;
    let mut rotated = 0;
    for answer in answers {
        match answer.code {
            Some(0) => rotated += 1,
            _ => drop(answer.ended(1)),
        }
    }
    assert!(rotated >= 1);
    if site.candidate().await.is_some() {
        // The winner lost it to nobody: it is only that all others were told no.
        site.at.run(&["resume", POLICY]).await.ended(0);
        rotated += 1;
    }
    site.assert_in_order(&[], rotated + 1).await;
    assert_eq!(site.status().await["version"], rotated + 1);
}

/// A request by hand meets a rotation that a process left open.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_left_open_is_finished_or_given_up() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let mut running = site.at.start(&["rotate", POLICY]);
    running.until("started", "install").await;
    running.signal(rustix::process::Signal::TERM);
    let stopped = running.end().await;
    if stopped.code == Some(0) {
        // It was faster than the signal.
        site.assert_in_order(&[old], 2).await;
        return;
    }
    let ending = stopped.ended(1).ending();
    assert_eq!(ending["ending"], "open", "{ending:#}");
    assert!(
        ending["message"].as_str().is_some_and(|text| text.contains("stopped before step")),
        "{ending:#}"
    );
    assert_eq!(ending["remedy"], format!("`rekeyd resume {POLICY}` finishes it"));
    let busy = site.at.run(&["rotate", POLICY, "-o", "text"]).await.ended(1);
    busy.says(&["is open since", "remedy: wait for it, or finish it with `rekeyd resume`"]);

    let candidate = site.candidate().await.expect("an open rotation");
    let status = site.status().await;
    if status["open"]["mayAbandon"] == true {
        let ending = site.at.run(&["resume", POLICY, "--abandon"]).await.ended(1).ending();
        assert!(
            ["abandoned", "rolledBack"].contains(&ending["ending"].as_str().expect("text")),
            "{ending:#}"
        );
        assert_eq!(site.delivered(), old);
        site.assert_in_order(&[candidate], 2).await;
    } else {
        let past = site.at.run(&["resume", POLICY, "--abandon", "-o", "text"]).await.ended(1);
        past.says(&["it is past the point of no return", "remedy: finish it with `rekeyd resume`"]);
        site.at.run(&["resume", POLICY]).await.ended(0);
        site.assert_in_order(&[old], 2).await;
    }
}

impl Site {
    /// A rotation that is in doubt: somebody else wrote to the store while nobody drove it. What the target says of
    /// candidate and store's value.
    async fn doubted(&self) -> Value {
        let mut command = self.at.command(&["rotate", POLICY]);
        command.env("REKEYD_DISTURB", "verify/target.probe#1=killAfter");
        let killed = self.at.spawn(command).end().await;
        assert_eq!(killed.code, None, "it is not killed: {killed}");
        self.overwrite(&credential_of(&self.delivered().principal, "written by another tool")).await;
        self.at.run(&["resume", POLICY]).await.ended(3);
        let status = self.at.run(&["status", POLICY, "-o", "json"]).await.ended(3).json();
        status[0]["open"]["known"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_the_candidate_is_used() {
    for site in [Site::alternating().await, Site::in_place().await] {
        let old = site.rotate().await;
        assert_eq!(site.doubted().await, json!({"candidate": "accepted", "current": "refused"}));
        let candidate = site.candidate().await.expect("a candidate");
        site.at.run(&["resume", POLICY, "--keep-current"]).await.ended(1);
        site.at.run(&["resume", POLICY, "--use-candidate"]).await.ended(0);
        assert_eq!(site.delivered(), candidate);
        site.assert_in_order(&[old], 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_the_candidate_is_set_everywhere() {
    for site in [Site::alternating().await, Site::in_place().await] {
        let old = site.rotate().await;
        site.doubted().await;
        let candidate = site.candidate().await.expect("a candidate");
        // Somebody changes the user at the server, too: neither value is any good now.
        let (role, other) = (&candidate.principal, verifier("set by hand in a hurry"));
        site.world.sql(&format!("ALTER ROLE \"{role}\" PASSWORD '{other}'")).await;
        site.at.run(&["resume", POLICY, "--use-candidate"]).await.ended(1).says(&["--set-both"]);
        site.at.run(&["resume", POLICY, "--set-both"]).await.ended(0);
        assert_eq!(site.delivered(), candidate);
        site.assert_in_order(&[old], 2).await;
    }
}
