//! What goes wrong at the ledger: each fault is named, and no record is lost.

use super::*;
use crate::small_disk::SmallDisk;

/// A rotation that only its record is missing of: the new value works, the old one is dead already.
async fn assert_waits_for_its_record(site: &Site, old: &Credential) {
    let status = site.status().await;
    assert_eq!(status["state"], "rotating", "{status:#}");
    assert!(site.accepts(&site.delivered()).await && !site.accepts(old).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_missing() {
    let site = Site::in_place().await;
    site.at.change_settings(|settings| settings["ledger"]["path"] = json!("not/there/ledger.git"));
    let reason = "not/there does not exist";
    let remedy = "create it, owned by the user that rekeyd runs as";
    site.rotate_in_vain().await.says(&["cannot use the ledger ", reason, remedy]);
    site.at.run(&["preflight"]).await.ended(1).says(&["FAIL", reason, remedy]);
    site.at.run(&["audit", "verify"]).await.ended(1).says(&["not/there"]);
    std::fs::create_dir_all(site.at.path("not/there")).expect("a folder");
    if site.candidate().await.is_some() {
        site.at.run(&["resume", POLICY]).await.ended(0);
    } else {
        site.rotate().await;
    }
    assert!(site.accepts(&site.delivered()).await);
    site.at.run(&["audit", "verify"]).await.ended(0);
}

/// The folder is lost with all that is in it. The store still has the last record; the earlier ones are in
/// the remote, where there is one.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_lost() {
    let site = Site::in_place().await;
    let remote = bare(&site, "remote.git");
    site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
    site.rotate().await;
    let old = site.rotate().await;
    assert_eq!(commits(&site.at.path("remote.git")), 2);
    std::fs::remove_dir_all(site.at.path("ledger.git")).expect("removed");
    let lost = site.at.run(&["audit", "verify"]).await.ended(1);
    lost.says(&["ledger.git"]);
    site.rotate().await;
    site.assert_in_order(&[old], 3).await;
    assert_eq!(commits(&site.at.path("remote.git")), 3);
}

/// The remote was down, so that the folder was the only copy of a record. The next rotation records it first;
/// the daemon does as soon as it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_lost_before_a_push() {
    let site = Site::in_place().await;
    let remote = bare(&site, "remote.git");
    site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
    let mut dead = vec![site.rotate().await];
    let lose = async || {
        std::fs::rename(site.at.path("remote.git"), site.at.path("away.git")).expect("moved");
        site.at.run(&["rotate", POLICY]).await.ended(0).says(&["records are queued"]);
        std::fs::remove_dir_all(site.at.path("ledger.git")).expect("removed");
        std::fs::rename(site.at.path("away.git"), site.at.path("remote.git")).expect("moved");
    };
    lose().await;
    site.rotate().await;
    let last = site.assert_in_order(&dead, 3).await;
    assert_eq!(commits(&site.at.path("remote.git")), 3);

    dead.push(site.delivered());
    lose().await;
    git(&site.at.path(""), &["clone", "-q", "--bare", "remote.git", "ledger.git"]);
    let lacking = ["the store is at v4, the ledger at v3"];
    site.at.run(&["audit", "verify"]).await.ended(1).says(&lacking);
    let mut daemon = site.at.daemon().await;
    daemon.says_of(POLICY, "rotation recorded again: the ledger had lost it").await;
    daemon.stop().await;
    let again = site.assert_in_order(&dead, 4).await;
    assert_eq!(again["from"], last["to"], "{again:#}");
    assert_eq!(commits(&site.at.path("remote.git")), 4);
}

/// What was given up changes no version, and its record is missed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_lost_the_record_of_an_attempt() {
    let site = Site::in_place().await;
    let old = site.rotate().await;
    git(&site.at.path(""), &["clone", "-q", "--bare", "ledger.git", "copy.git"]);
    let check = |statement: &str| {
        site.at
            .change_policy(NAME, |policy| policy["spec"]["target"]["postgres"]["check"] = json!(statement));
    };
    check("select 1 / 0");
    site.at.run(&["rotate", POLICY]).await.ended(1).says(&["rolled back"]);
    std::fs::remove_dir_all(site.at.path("ledger.git")).expect("removed");
    std::fs::rename(site.at.path("copy.git"), site.at.path("ledger.git")).expect("moved");
    site.at
        .run(&["audit", "verify"])
        .await
        .ended(1)
        .says(&["the ledger lacks its last rotation", "rolledBack"]);
    check("select 1");
    site.rotate().await;
    site.assert_in_order(&[old], 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_something_else() {
    let site = Site::in_place().await;
    let old = site.rotate().await;
    let ledger = site.at.path("ledger.git");
    let away = site.at.path("away.git");
    std::fs::rename(&ledger, &away).expect("moved");

    // Files, a working tree, a repository of other files.
    std::fs::create_dir(&ledger).expect("a folder");
    std::fs::write(ledger.join("notes.txt"), "mine").expect("written");
    dirty(&site, "it holds files and is no Git repository").await;
    std::fs::remove_dir_all(&ledger).expect("removed");
    git(&site.at.path(""), &["init", "-q", "ledger.git"]);
    dirty(&site, "it is a Git working tree; the ledger is a bare repository of its own").await;
    std::fs::write(ledger.join("notes.txt"), "mine").expect("written");
    git(&ledger, &["add", "."]);
    git(&ledger, &["-c", "user.name=me", "-c", "user.email=me@localhost", "commit", "-q", "-m", "mine"]);
    git(&ledger, &["branch", "-M", "main"]);
    std::fs::rename(ledger.join(".git"), site.at.path("bare")).expect("moved");
    std::fs::remove_dir_all(&ledger).expect("removed");
    std::fs::rename(site.at.path("bare"), &ledger).expect("moved");
    git(&ledger, &["config", "core.bare", "true"]);
    dirty(&site, "it is a Git repository that holds other files than records").await;

    std::fs::remove_dir_all(&ledger).expect("removed");
    std::fs::rename(&away, &ledger).expect("moved");
    if site.candidate().await.is_some() {
        site.at.run(&["resume", POLICY]).await.ended(0);
    } else {
        site.rotate().await;
    }
    site.assert_in_order(&[old], 2).await;
}

async fn dirty(site: &Site, reason: &str) {
    let remedy = "set `ledger.path` to a folder that does not exist yet, or to an earlier ledger";
    if site.candidate().await.is_some() {
        let answer = site.at.run(&["resume", POLICY, "--patience", "0s", "-o", "text"]).await.ended(1);
        answer.says(&[reason, remedy]);
    } else {
        site.rotate_in_vain().await.says(&[reason, remedy]);
    }
    site.at.run(&["preflight"]).await.ended(1).says(&["FAIL", reason]);
    site.at.run(&["audit", "verify"]).await.ended(1);
}

/// Somebody changes what was recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_tampered_with() {
    let site = Site::in_place().await;
    for _ in 0..3 {
        site.rotate().await;
    }
    site.at.run(&["audit", "verify"]).await.ended(0).says(&["verified", "3 records of 1 policy"]);
    let ledger = site.at.path("ledger.git");
    let whole = git(&ledger, &["rev-parse", "main"]);
    // The latest record is taken out: the store knows better.
    git(&ledger, &["update-ref", "refs/heads/main", "main~1"]);
    let cut = site.at.run(&["audit", "verify"]).await.ended(1);
    cut.says(&["NOT VERIFIED", &format!("{POLICY}: the store is at v3, the ledger at v2")]);
    // One in the middle is left out.
    let tree = git(&ledger, &["rev-parse", &format!("{whole}^{{tree}}")]);
    let forged = git(
        &ledger,
        &[
            "-c",
            "user.name=rekeyd",
            "-c",
            "user.email=rekeyd@localhost",
            "commit-tree",
            &tree,
            "-p",
            "main~1",
            "-m",
            "rotate",
        ],
    );
    git(&ledger, &["update-ref", "refs/heads/main", &forged]);
    let json = site.at.run(&["audit", "verify", "-o", "json"]).await.ended(1).json();
    assert_eq!(json["verified"], false, "{json:#}");
    assert!(json["ledger"]["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{json:#}");
    git(&ledger, &["update-ref", "refs/heads/main", &whole]);
    site.at.run(&["audit", "verify"]).await.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_is_down_and_comes_back() {
    let site = Site::in_place().await;
    let remote = bare(&site, "remote.git");
    site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": remote}));
    let old = site.rotate().await;
    assert_eq!(commits(&site.at.path("remote.git")), 1);
    std::fs::rename(site.at.path("remote.git"), site.at.path("away.git")).expect("moved");
    let answer = site.at.run(&["rotate", POLICY]).await.ended(0);
    answer.says(&["records are queued for the ledger's remote", "remote.git"]);
    site.at.run(&["audit", "verify"]).await.ended(0).says(&["1 not pushed yet"]);
    std::fs::rename(site.at.path("away.git"), site.at.path("remote.git")).expect("moved");
    site.rotate().await;
    site.assert_in_order(&[old], 3).await;
    assert_eq!(
        git(&site.at.path("remote.git"), &["rev-parse", "main"]),
        git(&site.at.path("ledger.git"), &["rev-parse", "main"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_was_rewritten() {
    let site = Site::in_place().await;
    let url = bare(&site, "remote.git");
    site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": url}));
    site.rotate().await;
    let old = site.rotate().await;
    let remote = site.at.path("remote.git");
    let lost = git(&remote, &["rev-parse", "main"]);
    git(&remote, &["update-ref", "refs/heads/main", "main~1"]);
    // The rotation itself is not held up; what was lost is not written over in silence.
    let answer = site.at.run(&["rotate", POLICY]).await.ended(0);
    answer.says(&["records are queued for the ledger's remote", "it went back to", &lost]);
    assert_eq!(commits(&remote), 1, "it was pushed over");
    site.assert_in_order(&[old], 3).await;
    site.at.run(&["preflight"]).await.ended(1).says(&["FAIL", "lost commits that it had"]);
    git(&remote, &["update-ref", "refs/heads/main", &lost]);
    site.rotate().await;
    assert_eq!(commits(&remote), 4);
}

/// Two installations write to one remote: the second puts its records on top of the first one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_others_push_to() {
    let (one, two) = (Site::in_place().await, Site::in_place().await);
    let url = bare(&one, "remote.git");
    for site in [&one, &two] {
        site.at.change_settings(|settings| settings["ledger"]["remote"] = json!({"url": url}));
    }
    two.at.change_policy(NAME, |policy| policy["metadata"]["namespace"] = json!("billing"));
    for site in [&one, &two, &one] {
        let policy = if std::ptr::eq(site, &two) { "billing/orders-db" } else { POLICY };
        site.at.run(&["rotate", policy]).await.ended(0);
    }
    assert_eq!(commits(&one.at.path("remote.git")), 3);
    one.at.run(&["audit", "verify"]).await.ended(0).says(&["3 records of 2 policies"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let mut site = Site::in_place().await;
    let disk = SmallDisk::mount(&mut site.at, "disk").await;
    site.at.change_settings(|settings| settings["ledger"]["path"] = json!("disk/ledger.git"));
    let mut gate = Gate::new(&site.at.path(""));
    let old = site.rotate().await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["reload"] = gate.command();
    });
    let running = site.at.start(&["rotate", POLICY, "--patience", "0s"]);
    gate.reached().await;
    disk.fill();
    gate.open().await;
    let ending = running.end().await.ended(1).ending();
    let message = ending["message"].as_str().expect("text");
    assert!(message.contains("open at step record: cannot use the ledger"), "{ending:#}");
    assert!(ending["remedy"].as_str().is_some_and(|text| text.contains("free some space")), "{ending:#}");
    assert_waits_for_its_record(&site, &old).await;
    disk.free();
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
}
