//! File systems that refuse, and things that lie where files should.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rekeyd::consumer::Consumer as _;
use rekeyd::failure::{FailureClass, Verdict};
use serde_json::json;

use super::contract::{Fixture as _, policy, publish, value};
use super::{Folder, assert_refused};
use crate::ledger::told;

/// Whatever waits for what never comes.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it hangs")
}

#[tokio::test]
async fn a_folder_that_is_missing_or_none_is_said_and_nothing_is_made() {
    let folder = Folder::new();
    for (parent, reason) in [("missing", "no such file"), ("a-file", "not a directory")] {
        if parent == "a-file" {
            fs::write(folder.beside(parent), "").expect("a file");
        }
        let path = folder.beside(parent).join("db.env");
        let other = Folder::with(json!({ "path": path }));
        let refused = publish(&other.consumer(), 1).await;
        assert_refused(refused, FailureClass::Unavailable, reason);
        let findings = other.consumer().preflight(&policy()).await;
        assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
        assert!(findings[0].remedy.is_some());
    }
    assert_eq!(folder.names(), ["a-file"]);
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_file_is_left_alone() {
    let folder = Folder::with(json!({ "adopt": true }));
    fs::create_dir(folder.path()).expect("a folder");
    fs::write(folder.path().join("kept"), "").expect("a file");
    let refused = publish(&folder.consumer(), 1).await;
    assert_refused(refused, FailureClass::Unavailable, "directory");
    assert!(folder.path().join("kept").exists());
    assert!(!folder.draft().exists());
}

/// Whoever opens a pipe waits for the other end.
#[tokio::test]
async fn a_pipe_hangs_nobody() {
    let pipe = |path: &Path| {
        let status = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(status.success());
    };
    let folder = Folder::new();
    publish(&folder.consumer(), 1).await.expect("published");
    fs::remove_file(folder.path()).expect("a file");
    pipe(&folder.path());
    in_time(publish(&folder.consumer(), 1)).await.expect("mended");
    assert_eq!(folder.shown(), Some(value(1)));
    assert!(!fs::symlink_metadata(folder.path()).expect("a file").file_type().is_fifo());

    fs::remove_file(folder.note()).expect("a note");
    pipe(&folder.note());
    let refused = in_time(publish(&folder.consumer(), 2)).await;
    assert_refused(refused, FailureClass::Invalid, "it is not one of rekeyd's");
    fs::remove_file(folder.lock()).expect("a lock");
    pipe(&folder.lock());
    let refused = in_time(publish(&folder.consumer(), 2)).await;
    assert_refused(refused, FailureClass::Unavailable, "db.env");
}

#[tokio::test]
async fn a_link_in_the_place_of_the_note_or_the_lock_is_not_followed() {
    let folder = Folder::new();
    let elsewhere = folder.beside("elsewhere");
    fs::write(&elsewhere, json!({ "policy": policy(), "published": 0, "reloaded": 0 }).to_string())
        .expect("a file");
    for place in [folder.lock(), folder.note()] {
        std::os::unix::fs::symlink(&elsewhere, &place).expect("a link");
        let refused = publish(&folder.consumer(), 1).await;
        assert_refused(refused, FailureClass::Unavailable, "db.env");
        fs::remove_file(&place).expect("a link");
    }
    publish(&folder.consumer(), 1).await.expect("published");
    assert!(fs::read_to_string(&elsewhere).expect("a file").contains("\"published\":0"));
}

#[tokio::test]
async fn a_writer_that_is_at_work_is_not_disturbed() {
    let folder = Folder::new();
    publish(&folder.consumer(), 1).await.expect("published");
    let other = File::options().write(true).open(folder.lock()).expect("the lock");
    other.lock().expect("locked");
    let refused = publish(&folder.consumer(), 2).await;
    assert_refused(refused, FailureClass::Unavailable, "another process is at it");
    assert_eq!(folder.shown(), Some(value(1)));
    // Looking needs no turn.
    assert_eq!(folder.consumer().observe(&policy()).await.expect("observed").published.number(), 1);
    // Whoever forks meanwhile has it open for a moment, too.
    other.unlock().expect("unlocked");
    publish(&folder.consumer(), 2).await.expect("published");
}

#[tokio::test]
async fn a_file_that_grew_beyond_measure_is_replaced_unread() {
    let folder = Folder::new();
    publish(&folder.consumer(), 1).await.expect("published");
    File::options().write(true).open(folder.path()).expect("the file").set_len(1 << 40).expect("a hole");
    in_time(publish(&folder.consumer(), 1)).await.expect("mended");
    assert_eq!(fs::metadata(folder.path()).expect("the file").len(), folder.content().len() as u64);
}

/// Not a test of its own: what `a_full_disk_and_a_read_only_one` runs where it may mount.
#[tokio::test]
async fn in_a_small_file_system() {
    let Some(mount) = told("REKEYD_TEST_MOUNT") else { return };
    let mount = Path::new(&mount);
    let path = mount.join("db.env");
    let folder = Folder::with(json!({ "path": path }));
    let consumer = folder.consumer();
    publish(&consumer, 1).await.expect("published");
    let content = fs::read_to_string(&path).expect("the file");

    let filler = mount.join("filler");
    let full = fs::write(&filler, vec![0; 4 << 20]).expect_err("more than fits");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    for _ in 0..3 {
        let refused = assert_refused(publish(&consumer, 2).await, FailureClass::Unavailable, "space");
        assert!(refused.remedy().is_some_and(|remedy| remedy.contains("space")), "{refused}");
        assert_eq!(fs::read_to_string(&path).expect("the file"), content, "a part was written");
    }
    fs::remove_file(&filler).expect("a file");
    publish(&consumer, 2).await.expect("published");

    let remount = |option: &str| {
        let options = format!("remount,{option}");
        let status = Command::new("mount").args(["-o", &options]).arg(mount).status().expect("mount runs");
        assert!(status.success());
    };
    remount("ro");
    let refused = publish(&consumer, 3).await;
    assert_refused(refused, FailureClass::Unavailable, "read-only");
    let findings = consumer.preflight(&policy()).await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");
    remount("rw");
    publish(&consumer, 3).await.expect("published");
    println!("\nall of it ran");
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let mount = tempfile::tempdir().expect("a temporary folder");
    let script = "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$REKEYD_TEST_MOUNT\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "consumer::faults::in_a_small_file_system", "--nocapture", "--test-threads=1"])
        .env("REKEYD_TEST_MOUNT", mount.path())
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nall of it ran\n"), "{said}{errors}");
}
