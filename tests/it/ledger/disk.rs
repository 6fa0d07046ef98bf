//! A disk that is full, a file system that is read-only: in a mount namespace of the test's own.

use std::path::Path;
use std::process::Command;

use rekeyd::failure::FailureClass;
use rekeyd::ledger::{GitLedger, Ledger as _};
use tempfile::TempDir;

use super::{append, fsck, record, settings, told};

/// Not a test of its own: what `a_full_disk_and_a_read_only_one` runs where it may mount.
#[tokio::test]
async fn in_a_small_file_system() {
    let Some(mount) = told("REKEYD_TEST_MOUNT") else { return };
    let mount = Path::new(&mount);
    let ledger = GitLedger::open(&settings(&mount.join("ledger"), None)).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;

    let filler = mount.join("filler");
    let full = std::fs::write(&filler, vec![0; 4 << 20]).expect_err("more than fits");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let second = record("orders/orders-db", 1, 2);
    for _ in 0..3 {
        let failure = ledger.append(&second, None, &[]).await.expect_err("a full disk");
        assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("space")), "{failure}");
    }
    fsck(&mount.join("ledger"));
    assert_eq!(ledger.verify().await.expect("a report").commits, 1);
    let failure = GitLedger::open(&settings(&mount.join("other"), None)).expect_err("a full disk");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    std::fs::remove_file(&filler).expect("a file");
    append(&ledger, &second).await;

    let remount = |option: &str| {
        let options = format!("remount,{option}");
        let status = Command::new("mount").args(["-o", &options]).arg(mount).status().expect("mount runs");
        assert!(status.success());
    };
    remount("ro");
    let third = record("orders/orders-db", 2, 3);
    let failure = ledger.append(&third, None, &[]).await.expect_err("a read-only file system");
    assert_eq!(failure.class(), FailureClass::Unavailable, "{failure}");
    assert!(failure.remedy().is_some(), "{failure}");
    let findings = GitLedger::preflight(&settings(&mount.join("ledger"), None)).await;
    assert_eq!(findings[0].verdict, rekeyd::failure::Verdict::Fail, "{findings:?}");
    remount("rw");
    append(&ledger, &third).await;
    fsck(&mount.join("ledger"));
    let report = ledger.verify().await.expect("a report");
    assert!(report.is_clean() && report.commits == 3, "{report:?}");
    println!("\nall of it ran");
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let mount = TempDir::new().expect("a temporary folder");
    let script = "mount -t tmpfs -o size=2m,mode=700 tmpfs \"$REKEYD_TEST_MOUNT\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "ledger::disk::in_a_small_file_system", "--nocapture", "--test-threads=1"])
        .env("REKEYD_TEST_MOUNT", mount.path())
        .output()
        .expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nall of it ran\n"), "{said}{errors}");
}
