//! What goes wrong with a reader's file: each fault is named, and nothing is lost.

use super::*;
use crate::small_disk::SmallDisk;

/// Until its readers have the new value, the old one is not taken from them.
#[track_caller]
fn assert_open_at(status: &Value, step: &str) {
    assert_eq!((&status["state"], &status["open"]["step"]), (&json!("rotating"), &json!(step)), "{status:#}");
    assert_eq!(status["open"]["mayAbandon"], false, "{status:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    // Whoever runs the tests may write to any folder: the file's own place is taken.
    let file = site.file();
    std::fs::remove_file(&file).expect("removed");
    std::fs::create_dir_all(file.join("in-the-way")).expect("a folder");
    let answer = site.rotate_in_vain().await;
    answer.says(&["open at step publish: cannot write file", "orders-db.env: is a directory", "remedy: "]);
    assert_open_at(&site.status().await, "publish");
    assert!(site.accepts(&old).await, "a reader that did not get the new value lost the old one");
    std::fs::remove_dir_all(&file).expect("removed");
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_gone_or_another_users() {
    let mut site = Site::alternating().await;
    let folder = site.at.path("readers");
    std::fs::create_dir(&folder).expect("a folder");
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["path"] = json!(folder.join("db.env"));
    });
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let old = site.stored().await.expect("a value");

    let away = site.at.path("away");
    std::fs::rename(&folder, &away).expect("moved");
    let answer = site.rotate_in_vain().await;
    answer.says(&[
        "open at step publish: cannot write file",
        "no such file or folder",
        "remedy: create the folder",
    ]);

    // As a user who owns all but that folder.
    std::fs::rename(&away, &folder).expect("moved");
    site.at.hand_over_to_nobody();
    std::os::unix::fs::lchown(&folder, Some(0), Some(0)).expect("a new owner");
    let denied = site.at.run(&["resume", POLICY, "--patience", "0s", "-o", "text"]).await.ended(1);
    denied.says(&[
        "open at step publish: cannot write file",
        "permission denied",
        "remedy: let rekeyd write there",
    ]);
    site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", "is not writable: permission denied"]);
    assert!(site.accepts(&old).await, "a reader that did not get the new value lost the old one");

    chown(&folder, NOBODY);
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.at.take_back();
    let current = site.stored().await.expect("a value");
    assert_eq!(credential_in(&read(&folder.join("db.env"))), current);
    assert!(site.accepts(&current).await && !site.accepts(&old).await);
    site.at.run(&["audit", "verify"]).await.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_somebody_elses() {
    let site = Site::alternating().await;
    std::fs::write(site.file(), "written by hand\n").expect("written");
    let reason = "it exists and rekeyd did not write it";
    site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", reason, "adopt: true"]);
    let answer = site.rotate_in_vain().await;
    answer.says(&["error: cannot write file", reason, "remedy: move it away, or set `adopt: true`"]);
    assert_eq!(read(&site.file()), "written by hand\n");
    assert!(site.candidate().await.is_none(), "what cannot be finished was begun");
    std::fs::remove_file(site.file()).expect("removed");
    site.rotate().await;
    site.assert_in_order(&[], 1).await;

    // A file that the policy says to take over, and one that another policy writes.
    let mut other =
        site.document("orders-other", json!({"inPlace": {"user": site.world.name("c").as_str()}}));
    other["spec"]["consumers"][0]["file"]["adopt"] = json!(true);
    site.world.sql("CREATE ROLE {p}_c NOLOGIN").await;
    std::fs::write(site.at.path("orders-other.env"), "written by hand\n").expect("written");
    site.at.write_policy(&other);
    site.at.run(&["rotate", "orders/orders-other"]).await.ended(0);
    let taken = credential_in(&read(&site.at.path("orders-other.env")));
    assert!(site.accepts(&taken).await);
    site.at.remove_policy(NAME);
    other["spec"]["consumers"][0]["file"]["path"] = json!(site.file());
    site.at.write_policy(&other);
    let refused =
        site.at.run(&["rotate", "orders/orders-other", "--patience", "0s", "-o", "text"]).await.ended(1);
    refused.says(&["policy orders/orders-db writes it already", "remedy: give each policy its own file"]);
}

/// In place it would be an outage: what cannot be written is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_fails_with_a_later_version() {
    let site = Site::in_place().await;
    let content = |text: &'static str| {
        site.at.change_policy(NAME, |policy| {
            policy["spec"]["consumers"][0]["file"]["content"] = json!(text);
        });
    };
    content("{{ principal }}\n{{ value }}\n{{ 1 // (2 - version) }}\n");
    let old = site.rotate().await;
    let answer = site.rotate_in_vain().await;
    answer.says(&["error: cannot write file", "remedy: correct `content` in the policy"]);
    assert!(site.candidate().await.is_none(), "what cannot be finished was begun");
    assert!(site.accepts(&old).await);
    site.assert_in_order(&[], 1).await;
    content("{{ principal }}\n{{ value }}\n");
    site.rotate().await;
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_the_machine_does_not_know() {
    let site = Site::in_place().await;
    let owner = |name: Value| {
        site.at.change_policy(NAME, |policy| policy["spec"]["consumers"][0]["file"]["owner"] = name);
    };
    owner(json!("nobody-of-that-name"));
    let answer = site.rotate_in_vain().await;
    answer.says(&["no user `nobody-of-that-name`", "remedy: name a user and group that this machine knows"]);
    assert!(site.candidate().await.is_none(), "what cannot be finished was begun");
    owner(json!("root"));
    site.rotate().await;
    site.assert_in_order(&[], 1).await;
}

/// A containment waits for no reader. What is wrong with one is mended in the policy while it is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_refuses_a_containment() {
    let site = Site::alternating().await;
    let leaked = site.rotate().await;
    site.at.change_policy(NAME, |policy| policy["spec"]["retire"]["containmentDeadline"] = json!("1s"));
    let note = site.file().with_file_name(format!(".{NAME}.env.rekeyd"));
    std::fs::remove_file(note).expect("the note");
    let contained = site.at.run(&["contain", POLICY, "-o", "text"]).await.ended(1);
    contained.says(&["open at step publish", "remedy: move it away, or set `adopt: true` in the policy"]);
    assert!(!site.accepts(&leaked).await, "the leaked value works");
    site.at.change_policy(NAME, |policy| policy["spec"]["consumers"][0]["file"]["adopt"] = json!(true));
    site.at.run(&["resume", POLICY]).await.ended(0);
    site.assert_in_order(&[leaked], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_command_that_is_missing_fails_or_hangs() {
    let site = Site::alternating().await;
    let old = site.rotate().await;
    let script = site.at.path("reload");
    site.at.change_policy(NAME, |policy| {
        let file = &mut policy["spec"]["consumers"][0]["file"];
        file["reload"] = json!([script, "all"]);
        file["reloadTimeout"] = json!("1s");
    });
    let pid = site.at.path("pid");
    let write = |body: &str| {
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).expect("written");
        set_mode(&script, 0o755);
    };
    let resume = || site.at.run(&["resume", POLICY, "--patience", "0s", "-o", "text"]);
    let command = format!("open at step restart: cannot run `{}` for file ", script.display());

    site.at.run(&["preflight", POLICY]).await.ended(1).says(&["FAIL", "cannot be run"]);
    let missing = site.rotate_in_vain().await;
    missing.says(&[&command, "no such file or folder", "remedy: name a program that exists"]);
    assert_open_at(&site.status().await, "publish");

    write("echo something secret; exit 7");
    let failed = resume().await.ended(1);
    failed.says(&[&command, "it failed (exit status: 7)", "remedy: run it by hand to see why"]);

    write(&format!("sleep 1000 & echo $! >{}; wait", pid.display()));
    let hanging = resume().await.ended(1);
    hanging.says(&[&command, "it did not end within 1s", "remedy: raise `reloadTimeout`"]);
    let child = read(&pid).trim().to_owned();
    let gone = async || !std::path::Path::new("/proc").join(&child).exists() || is_zombie(&child);
    soon("its children are ended too", gone).await;
    assert!(site.accepts(&old).await, "a reader that was not told lost the old value");

    // Another command, while the rotation is open.
    site.at.change_policy(NAME, |policy| policy["spec"]["consumers"][0]["file"]["reload"] = json!(["true"]));
    resume().await.ended(0);
    site.assert_in_order(&[old], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let mut site = Site::in_place().await;
    let disk = SmallDisk::mount(&mut site.at, "disk").await;
    site.at.change_policy(NAME, |policy| {
        policy["spec"]["consumers"][0]["file"]["path"] = json!(site.at.path("disk/db.env"));
    });
    site.at.run(&["rotate", POLICY]).await.ended(0);
    let held = || credential_in(&read(&disk.path("db.env")));
    let old = held();
    disk.fill();
    let answer = site.rotate_in_vain().await;
    answer.says(&["open at step publish: cannot write file", "disk/db.env", "remedy: free some space"]);
    assert_eq!(held(), old, "half a file was written");
    disk.free();
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert!(site.accepts(&held()).await && !site.accepts(&old).await);
    site.at.run(&["audit", "verify"]).await.ended(0);
}

/// One reader that is down holds back no other.
#[tokio::test(flavor = "multi_thread")]
async fn one_reader_of_two_that_is_down() {
    let site = Site::alternating().await;
    let second = site.at.path("second/db.env");
    site.at.change_policy(NAME, |policy| {
        let mut other = policy["spec"]["consumers"][0].clone();
        other["file"]["path"] = json!(second);
        policy["spec"]["consumers"].as_array_mut().expect("a list").insert(0, other);
    });
    let answer = site.rotate_in_vain().await;
    answer.says(&["open at step publish", "second/db.env", "remedy: create the folder"]);
    assert!(site.accepts(&site.delivered()).await, "the other one waits for nothing");
    std::fs::create_dir(site.at.path("second")).expect("a folder");
    site.at.run(&["resume", POLICY]).await.ended(0);
    assert_eq!(credential_in(&read(&second)), site.delivered());
    site.assert_in_order(&[], 1).await;
}

/// A process that has ended and that nobody has asked for its status.
fn is_zombie(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.contains(") Z ")
}
