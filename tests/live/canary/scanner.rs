//! A scanner that others trust looks through a long history of the ledger, and at the same one with a value in
//! it.

use std::path::Path;

use futures_util::future::join_all;
use rekeyd::ident::{PolicyName, RequestId, RotationId};
use rekeyd::ledger::{GitLedger, Ledger as _, Record};
use rekeyd::secret::ValueSpec;
use rekeyd::settings::LedgerSettings;
use serde_json::{Value, json};

use crate::figures;
use crate::site::git;

const POLICIES: usize = 100;
const VERSIONS: u64 = 100;

/// What rekeyd writes of a rotation, with everything in it that differs from one to the next.
fn record(policy: &PolicyName, from: u64) -> Record {
    let draw = |letters: &[u8], count: usize| -> String {
        (0..count).map(|_| char::from(letters[fastrand::usize(..letters.len())])).collect()
    };
    let trigger = ["scheduled", "manual", "contain", "drift"][fastrand::usize(..4)];
    let user = if from.is_multiple_of(2) { "a" } else { "b" };
    serde_json::from_value(json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationRecord",
        "rotation": RotationId::generate(), "policy": policy, "owner": "team-orders@example.com",
        "trigger": trigger, "request": RequestId::generate(), "requestedBy": format!("uid {from}"),
        "reason": "its password was seen in a log; secret token of api key rotated",
        "outcome": "rotated", "from": from, "to": from + 1, "strategy": "alternating",
        "target": format!("postgres db-{from}.example.com:5432/orders"),
        "principal": format!("orders_{}_{user}", draw(b"abcdefghijklmnopqrstuvwxyz0123456789", 12)),
        "outgoing": format!("orders_{}_b", draw(b"abcdefghijklmnopqrstuvwxyz0123456789", 12)),
        "store": format!("main:apps/{policy}/password"), "consumers": ["file /run/orders/db.env"],
        "policyHash": draw(b"0123456789abcdef", 64),
        "openedAt": "2026-01-04T02:00:00Z", "closedAt": "2026-01-04T02:01:00Z", "writer": "rekeyd 0.1.0",
        "proof": {"newAccepted": true, "oldRefused": true, "sessionsClosed": 3, "sessionsLeft": 0},
    }))
    .expect("a record")
}

/// What gitleaks finds in a repository.
async fn findings(gitleaks: &str, repository: &Path, report: &Path) -> Vec<Value> {
    let mut command = tokio::process::Command::new(gitleaks);
    command.args(["git", "--no-banner", "--no-color", "--exit-code", "7", "--log-opts", "--all"]);
    command.args(["--redact", "--report-format", "json", "--report-path"]).arg(report).arg(repository);
    let ended = command.kill_on_drop(true).output().await.expect("gitleaks runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let words: Vec<&str> = said.split_whitespace().collect();
    let scanned = words.windows(3).find(|words| words[1..] == ["commits", "scanned."]);
    let scanned: u64 =
        scanned.and_then(|words| words[0].parse().ok()).expect("it says how many it looked at");
    assert!(scanned >= POLICIES as u64 * VERSIONS, "{said}");
    let findings: Vec<Value> =
        serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    assert_eq!(ended.status.code(), Some(if findings.is_empty() { 0 } else { 7 }), "{said}");
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn gitleaks_finds_nothing_in_ten_thousand_commits() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/gitleaks");
    let built = tokio::process::Command::new(built).arg("install").output().await.expect("it is built");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let gitleaks = String::from_utf8(built.stdout).expect("a path");
    let gitleaks = gitleaks.trim();

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.git");
    let settings: LedgerSettings = serde_json::from_value(json!({"path": path})).expect("settings");
    let ledger = GitLedger::open(&settings).expect("a ledger");
    let policies: Vec<PolicyName> = (0..POLICIES)
        .map(|number| format!("team{}/db-{number}", number % 7).parse().expect("a name"))
        .collect();
    for version in 0..VERSIONS {
        let records: Vec<Record> = policies.iter().map(|policy| record(policy, version)).collect();
        for appended in join_all(records.iter().map(|record| ledger.append(record, None, &[]))).await {
            appended.expect("the record is taken");
        }
    }
    let commits: usize = git(&path, &["rev-list", "--count", "main"]).trim().parse().expect("a number");
    assert!(commits >= POLICIES * VERSIONS as usize, "{commits}");
    let report = folder.path().join("report.json");
    let found = findings(gitleaks, &path, &report).await;
    for finding in found.iter().take(5) {
        println!("FOUND by {} in {}: {}", finding["RuleID"], finding["File"], finding["Match"]);
    }

    // One value, as an application's file holds it, in one commit of them.
    let value = ValueSpec::default().generate();
    let value = std::str::from_utf8(value.expose()).expect("text");
    let planted = json!({"planted": format!("PGPASSWORD={value}")}).to_string();
    let blob = folder.path().join("planted.json");
    std::fs::write(&blob, planted).expect("written");
    let blob = git(&path, &["hash-object", "-w", &blob.display().to_string()]);
    let listing = git(&path, &["ls-tree", "main"]);
    let tree = folder.path().join("tree");
    std::fs::write(&tree, format!("{listing}\n100644 blob {}\tplanted.json\n", blob.trim()))
        .expect("written");
    let tree = std::process::Command::new("git")
        .arg("-C")
        .arg(&path)
        .arg("mktree")
        .stdin(std::fs::File::open(&tree).expect("a listing"))
        .output()
        .expect("git runs");
    let tree = String::from_utf8(tree.stdout).expect("a name");
    let commit = git(
        &path,
        &[
            "-c",
            "user.name=planted",
            "-c",
            "user.email=planted@example.com",
            "commit-tree",
            tree.trim(),
            "-p",
            "main",
            "-m",
            "planted",
        ],
    );
    git(&path, &["update-ref", "refs/heads/planted", commit.trim()]);
    let controls = findings(gitleaks, &path, &report).await;
    let is_found = controls.iter().any(|finding| finding["File"] == "planted.json");

    figures::write(
        "scanner",
        &json!({
            "commits": commits, "canaryHits": found.len(),
            "controlsFound": usize::from(is_found), "controlsMissed": usize::from(!is_found),
        }),
    );
    assert_eq!(found.len(), 0, "gitleaks finds something in the ledger");
    assert!(is_found, "gitleaks does not find what was planted: {controls:#?}");
}
