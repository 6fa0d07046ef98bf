//! What a power cut must not take back is on the disk before anything that relies on it happens.

use super::*;

/// The calls of a whole rotation that make things durable, seen from outside. Each line has to follow the one
/// before it.
#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_on_the_disk_before_the_next() {
    let mut site = Site::alternating().await;
    site.rotate().await;
    let trace = site.at.path("trace");
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,write,writev";
    let output = trace.to_str().expect("a path");
    site.at.run_under(&["strace", "-f", "-qq", "-yy", "-s", "512", "-e", calls, "-o", output]);
    site.rotate().await;

    let folder = format!("<{}>", site.at.path("").display()).replace("/>", ">");
    let sequence: [(&str, &[&str]); 13] = [
        ("the opened rotation", &["sync(", "/store.db-wal>"]),
        ("the candidate at the database", &["<TCP:", "ALTER ROLE", "SCRAM-SHA-256"]),
        ("the promoted value", &["sync(", "/store.db-wal>"]),
        ("the reader's file", &["sync(", "/.orders-db.env.rekeyd-draft>"]),
        ("the same, in its place", &["rename", "/orders-db.env\""]),
        ("the same, by name", &["sync(", &folder]),
        ("the record", &["sync(", "/ledger.git/", ".pack>"]),
        ("its index", &["sync(", "/ledger.git/", ".idx>"]),
        ("the same, in their place", &["rename", "/ledger.git/objects/pack/", ".idx\""]),
        ("the same, by name", &["sync(", "/ledger.git/objects/pack>"]),
        ("the branch", &["sync(", "/ledger.git/refs/heads/main.lock>"]),
        ("the same, by name", &["sync(", "/ledger.git/refs/heads>"]),
        ("that the rotation is closed", &["sync(", "/store.db-wal>"]),
    ];
    let trace = read(&trace);
    let mut lines = trace.lines();
    let mut before = "the start";
    for (what, parts) in sequence {
        assert!(
            lines.any(|line| parts.iter().all(|part| line.contains(part))),
            "{what} does not follow {before}, by {parts:?}:\n{trace}"
        );
        before = what;
    }
    // The old user is locked out when the readers have the new one.
    let position = |parts: &[&str]| {
        let fits = |line: &str| parts.iter().all(|part| line.contains(part));
        trace.lines().position(fits).unwrap_or_else(|| panic!("no {parts:?} in\n{trace}"))
    };
    assert!(position(&["rename", "/orders-db.env\""]) < position(&["<TCP:", "ALTER ROLE", "NOLOGIN"]));
}
