//! What a verification finds when somebody changed the ledger with stock Git.

use std::path::Path;

use rekeyd::failure::FailureClass;
use rekeyd::ledger::{ChainFinding, Problem};

use super::{Place, append, git, record};

/// Three good commits, a change in a clone, and back.
async fn tampered(change: impl FnOnce(&Path)) -> Vec<Problem> {
    let place = Place::new();
    let ledger = place.open();
    for version in 0..3 {
        append(&ledger, &record("orders/orders-db", version, version + 1)).await;
    }
    git(place.dir.path(), &["clone", "-q", "ledger", "copy"]);
    let copy = place.path("copy");
    change(&copy);
    git(&copy, &["push", "-q", "-f", "origin", "main"]);
    let report = ledger.verify().await.expect("a report");
    report.findings.into_iter().map(|ChainFinding { problem, .. }| problem).collect()
}

fn records(copy: &Path) -> Vec<String> {
    git(copy, &["ls-files", "records"]).lines().map(ToOwned::to_owned).collect()
}

fn commit(copy: &Path, message: &str) {
    git(copy, &["add", "-A"]);
    git(copy, &["commit", "-q", "-m", message]);
}

#[tokio::test]
async fn a_changed_record() {
    let problems = tampered(|copy| {
        let path = copy.join(&records(copy)[0]);
        let text = std::fs::read_to_string(&path).expect("a record").replace("team-orders", "team-other");
        std::fs::write(path, text).expect("a record");
        commit(copy, "tidy up");
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Rewritten(_))), "{problems:?}");
    assert!(problems.contains(&Problem::Records(0)), "{problems:?}");
}

#[tokio::test]
async fn a_removed_record() {
    let problems = tampered(|copy| {
        std::fs::remove_file(copy.join(&records(copy)[1])).expect("a record");
        commit(copy, "tidy up");
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Removed(_))), "{problems:?}");
}

#[tokio::test]
async fn a_history_without_its_middle() {
    let problems = tampered(|copy| {
        let ids = git(copy, &["rev-list", "main"]);
        let ids: Vec<&str> = ids.lines().collect();
        git(copy, &["rebase", "-q", "-X", "theirs", "--onto", ids[2], ids[1], "main"]);
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Gap { .. })), "{problems:?}");
}

#[tokio::test]
async fn a_history_without_its_beginning() {
    let problems = tampered(|copy| {
        let ids = git(copy, &["rev-list", "main"]);
        let ids: Vec<&str> = ids.lines().collect();
        let first = records(copy)[0].clone();
        git(copy, &["checkout", "-q", "--orphan", "new", ids[1]]);
        std::fs::remove_file(copy.join(first)).expect("a record");
        git(copy, &["add", "-A"]);
        git(copy, &["commit", "-q", "-C", ids[1]]);
        git(copy, &["branch", "-f", "main", "new"]);
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Gap { .. })), "{problems:?}");
}

#[tokio::test]
async fn a_changed_message_and_a_stranger() {
    let problems = tampered(|copy| {
        let message = git(copy, &["log", "-1", "--format=%B"]);
        let message = message.replace("v2 -> v3", "v1 -> v3").replace("team-orders", "nobody");
        git(copy, &["commit", "-q", "--amend", "--author", "Eve <eve@example.com>", "-m", &message]);
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Subject { .. })), "{problems:?}");
    assert!(problems.contains(&Problem::Trailer("Owner")), "{problems:?}");
    assert!(problems.iter().any(|p| matches!(p, Problem::Identity(_))), "{problems:?}");
}

#[tokio::test]
async fn a_stale_placeholder_a_foreign_file_and_a_merge() {
    let problems = tampered(|copy| {
        git(copy, &["checkout", "-q", "-b", "side", "HEAD~1"]);
        std::fs::write(copy.join("notes.txt"), "x").expect("a file");
        commit(copy, "notes");
        git(copy, &["checkout", "-q", "main"]);
        git(copy, &["merge", "-q", "--no-ff", "-m", "merge", "side"]);
        git(copy, &["checkout", "-q", "HEAD~2", "--", "secrets"]);
        commit(copy, "old placeholder");
    });
    let problems = problems.await;
    assert!(problems.contains(&Problem::Merge), "{problems:?}");
    assert!(
        problems.iter().any(|p| matches!(p, Problem::Foreign(path) if path == "notes.txt")),
        "{problems:?}"
    );
    assert!(problems.iter().any(|p| matches!(p, Problem::Placeholder { .. })), "{problems:?}");
}

#[tokio::test]
async fn a_record_again_under_another_policy() {
    let problems = tampered(|copy| {
        let first = records(copy)[0].clone();
        let text = std::fs::read_to_string(copy.join(&first)).expect("a record");
        let there = copy.join(first.replace("orders-db", "other-db"));
        std::fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
        std::fs::write(&there, text.replace("orders/orders-db", "orders/other-db")).expect("a record");
        commit(copy, "rotate(orders/other-db): v0 -> v1 [scheduled]");
    });
    let problems = problems.await;
    assert!(problems.iter().any(|p| matches!(p, Problem::Again { .. })), "{problems:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_an_error() {
    let place = Place::new();
    let ledger = place.open();
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let blob = place.git(&["rev-parse", "main:secrets/orders/orders-db.yaml"]);
    git(place.dir.path(), &["clone", "-q", "--bare", "ledger", "loose"]);
    let pack = std::fs::read_dir(place.path("ledger/objects/pack")).expect("packs");
    let pack = pack.map(|e| e.expect("an entry").path()).find(|p| p.extension().is_some_and(|e| e == "pack"));
    let pack = pack.expect("a pack");
    // Another byte than the one that was hashed: the text of a blob, kept under the same name.
    for index in ["idx", "pack"] {
        std::fs::remove_file(pack.with_extension(index)).expect("a file");
    }
    let loose = place.path("loose");
    let dump = std::process::Command::new("sh")
        .args(["-c", "git unpack-objects -q <$(ls \"$1\"/objects/pack/*.pack)", "sh"])
        .arg(&loose)
        .current_dir(place.path("ledger"))
        .output()
        .expect("sh runs");
    assert!(dump.status.success(), "{dump:?}");
    let file = place.path("ledger/objects").join(&blob[..2]).join(blob[2..].trim());
    let other = place.git(&["rev-parse", "main^{tree}:secrets"]);
    let other = place.path("ledger/objects").join(&other[..2]).join(other[2..].trim());
    std::fs::remove_file(&file).expect("an object");
    std::fs::copy(other, file).expect("an object");
    let failure = ledger.verify().await.expect_err("damage");
    assert_eq!(failure.class(), FailureClass::Unavailable);
}
