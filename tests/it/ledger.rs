//! The Git ledger on real repositories, read back by stock `git`.

mod crash;
mod disk;
mod http;
mod remote;
mod tamper;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ident::{PolicyName, RotationId, Version};
use rekeyd::ledger::record::{Outcome, Record, TriggerKind};
use rekeyd::ledger::{GitLedger, Ledger as _, LedgerReader, LogFilter};
use rekeyd::secret::SecretValue;
use rekeyd::settings::LedgerSettings;
use tempfile::TempDir;

/// A folder that a test works in, and a ledger's settings in it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> LedgerSettings {
        settings(&self.path("ledger"), None)
    }

    fn open(&self) -> GitLedger {
        GitLedger::open(&self.settings()).expect("a ledger")
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.path("ledger"), args)
    }

    /// Everything stock Git has to say against the ledger.
    fn fsck(&self) {
        fsck(&self.path("ledger"));
    }

    fn commits(&self) -> usize {
        self.git(&["rev-list", "--count", "main"]).trim().parse().expect("a number")
    }
}

fn settings(path: &Path, remote: Option<&str>) -> LedgerSettings {
    let remote = remote.map(|url| serde_json::json!({ "url": url, "timeout": "10s" }));
    let mut settings = serde_json::json!({ "path": path });
    if let Some(remote) = remote {
        settings["remote"] = remote;
    }
    serde_json::from_value(settings).expect("settings")
}

fn try_git(dir: &Path, args: &[&str]) -> Output {
    Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "rekeyd"), ("GIT_AUTHOR_EMAIL", "rekeyd@localhost")])
        .envs([("GIT_COMMITTER_NAME", "rekeyd"), ("GIT_COMMITTER_EMAIL", "rekeyd@localhost")])
        .output()
        .expect("git runs")
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = try_git(dir, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn fsck(dir: &Path) {
    let output = try_git(dir, &["fsck", "--full", "--strict", "--no-dangling"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "fsck: {said}");
}

fn record(policy: &str, from: u64, to: u64) -> Record {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationRecord",
        "rotation": RotationId::generate(), "policy": policy, "owner": "team-orders",
        "trigger": "scheduled", "request": "2026-01-04T02:00:00Z", "requestedBy": "schedule",
        "outcome": "rotated", "from": from, "to": to, "strategy": "alternating",
        "target": "postgres db:5432/orders", "principal": "app_b", "outgoing": "app_a",
        "store": "main:apps/orders/db", "consumers": ["file /run/orders/db.env"],
        "policyHash": "ab".repeat(32), "openedAt": "2026-01-04T02:00:00Z",
        "closedAt": "2026-01-04T02:01:00Z", "writer": "rekeyd 0.1.0",
        "proof": {"newAccepted": true, "oldRefused": true, "sessionsClosed": 1, "sessionsLeft": 0},
    }))
    .expect("a record")
}

/// What this process was told by the test that started it; absent when it runs as a test of its own.
#[expect(clippy::disallowed_methods, reason = "the other end is a test, which has no settings file")]
pub(crate) fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn append(ledger: &GitLedger, record: &Record) {
    ledger.append(record, None, &[]).await.expect("the record is taken");
}

#[tokio::test]
async fn stock_git_reads_what_was_appended() {
    let place = Place::new();
    let ledger = place.open();
    assert_eq!(ledger.log(LogFilter::default()).await, Ok(Vec::new()));
    let first = record("orders/orders-db", 0, 1);
    let second = record("orders/orders-db", 1, 2);
    append(&ledger, &first).await;
    append(&ledger, &second).await;
    place.fsck();

    let log = place.git(&["log", "--format=%s|%an <%ae>|%aI"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(
        lines[0],
        "rotate(orders/orders-db): v1 -> v2 [scheduled]|rekeyd <rekeyd@localhost>|2026-01-04T02:01:00+00:00"
    );
    assert_eq!(lines.len(), 2);
    let path = format!("main:records/orders/orders-db/00000002-{}.json", second.rotation);
    let json = place.git(&["show", &path]);
    assert_eq!(serde_json::from_str::<Record>(&json).expect("a record"), second);
    assert!(json.ends_with("}\n"));
    let placeholder = place.git(&["show", "main:secrets/orders/orders-db.yaml"]);
    assert!(placeholder.contains("username: \"rekeyd://orders/orders-db#username@v2\"\n"), "{placeholder}");
    let trailer = place.git(&["log", "-1", "--format=%(trailers:key=Old-Value,valueonly)"]);
    assert_eq!(trailer.trim(), "refused");

    git(place.dir.path(), &["clone", "-q", "ledger", "copy"]);
    let copy = LedgerReader::new(place.path("copy"), None);
    let entries = copy.log(&LogFilter::default()).expect("a log");
    assert_eq!(entries.iter().map(|e| &e.record).collect::<Vec<_>>(), [&second, &first]);
    assert_eq!(entries[0].commit.to_string(), place.git(&["rev-parse", "main"]).trim());
    assert!(copy.verify(None).expect("a report").is_clean());
}

#[tokio::test]
async fn a_rotation_is_recorded_once() {
    let place = Place::new();
    let one = record("orders/orders-db", 0, 1);
    let ledger = place.open();
    append(&ledger, &one).await;
    let (again, alike) = tokio::join!(ledger.append(&one, None, &[]), ledger.append(&one, None, &[]));
    assert_eq!((again.as_ref(), alike.as_ref()), (Ok(&one), Ok(&one)));
    drop(ledger);
    let mut later = one.clone();
    later.reason = Some("after a restart".into());
    // What is recorded of it is told to whoever comes later.
    assert_eq!(place.open().append(&later, None, &[]).await, Ok(one));
    assert_eq!(place.commits(), 1);
}

#[tokio::test]
async fn what_it_lost_comes_back_with_the_next_record() {
    let place = Place::new();
    let ledger = place.open();
    let [first, second, third] = [0, 1, 2].map(|from| record("orders/orders-db", from, from + 1));
    append(&ledger, &first).await;
    // Its folder is given back as it was before the second.
    assert_eq!(ledger.append(&third, Some(&second), &[]).await.as_ref(), Ok(&third));
    assert_eq!(place.commits(), 3);
    assert!(ledger.verify().await.expect("a report").is_clean());
    // Whoever comes late changes nothing, and brings nothing back behind what came after it.
    assert_eq!(ledger.append(&third, Some(&second), &[]).await.as_ref(), Ok(&third));
    let strange = record("orders/orders-db", 1, 2);
    assert_eq!(ledger.append(&third, Some(&strange), &[]).await.as_ref(), Ok(&third));
    assert_eq!(place.commits(), 3);

    // One that holds a live value stays out; the new one is what counts.
    let mut telling = record("orders/invoices", 0, 1);
    telling.reason = Some("hunter2hunter2 leaked".into());
    let live = SecretValue::new(b"hunter2hunter2".to_vec());
    let next = record("orders/invoices", 1, 2);
    assert_eq!(ledger.append(&next, Some(&telling), &[&live]).await.as_ref(), Ok(&next));
    assert_eq!(place.commits(), 4);
}

#[tokio::test]
async fn it_tells_what_is_recorded() {
    let place = Place::new();
    let ledger = place.open();
    let (first, second) = (record("orders/orders-db", 0, 1), record("orders/orders-db", 1, 2));
    let abandoned = Record { outcome: Outcome::Abandoned, ..record("orders/orders-db", 2, 2) };
    assert_eq!(ledger.holds(&first).await, Ok(false), "there is no branch yet");
    for record in [&first, &second, &abandoned] {
        append(&ledger, record).await;
    }
    // The placeholder shows the second alone.
    for record in [&first, &second, &abandoned] {
        assert_eq!(ledger.holds(record).await, Ok(true), "{}", record.rotation);
    }
    let another_view = Record { outcome: Outcome::Abandoned, to: second.from, ..second.clone() };
    assert_eq!(ledger.holds(&another_view).await, Ok(true), "the rotation's id decides");
    let unknown = Record { rotation: RotationId::generate(), ..second.clone() };
    let unheard = record("orders/other-db", 0, 1);
    let elsewhere = record("payments/orders-db", 0, 1);
    for record in [&unknown, &unheard, &elsewhere] {
        assert_eq!(ledger.holds(record).await, Ok(false), "{}", record.policy);
    }
    // Two writers in one folder, one of them gone since.
    drop(place.open());
    let written = record("orders/orders-db", 2, 3);
    append(&place.open(), &written).await;
    assert_eq!(ledger.holds(&written).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_share_packs() {
    let place = Place::new();
    let ledger = std::sync::Arc::new(place.open());
    let appends = (0..200).map(|number| {
        let ledger = std::sync::Arc::clone(&ledger);
        tokio::spawn(async move { append(&ledger, &record(&format!("team/db-{number}"), 0, 1)).await })
    });
    futures_util::future::join_all(appends).await.into_iter().for_each(|task| task.expect("no panic"));
    assert_eq!(place.commits(), 200);
    place.fsck();
    let counts = place.git(&["count-objects", "-v"]);
    assert!(counts.contains("count: 0\n"), "loose objects: {counts}");
    let packs = std::fs::read_dir(place.path("ledger/objects/pack")).expect("packs").count() / 2;
    assert!(packs <= 20, "{packs} packs for 200 concurrent appends");
    let report = ledger.verify().await.expect("a report");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.commits, report.policies), (200, 200));
}

#[tokio::test]
async fn packs_are_merged() {
    let place = Place::new();
    let ledger = place.open();
    for version in 0..140 {
        append(&ledger, &record("orders/orders-db", version, version + 1)).await;
    }
    place.fsck();
    let packs = std::fs::read_dir(place.path("ledger/objects/pack")).expect("packs").count() / 2;
    assert!(packs <= 65, "{packs} packs");
    assert!(ledger.verify().await.expect("a report").is_clean());
    assert_eq!(ledger.log(LogFilter::default()).await.expect("a log").len(), 140);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_while_packs_are_merged() {
    let place = Place::new();
    let ledger = place.open();
    let writing = async {
        for version in 0..100 {
            append(&ledger, &record("orders/orders-db", version, version + 1)).await;
        }
    };
    let reading = async {
        loop {
            let report = ledger.verify().await.expect("a report");
            assert!(report.is_clean(), "{report:?}");
            if report.commits == 100 {
                break;
            }
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn a_merge_that_died_is_cleared_away() {
    let place = Place::new();
    let ledger = place.open();
    let packs = place.path("ledger/objects/pack");
    append(&ledger, &record("team/first", 0, 1)).await;
    let index = listing(&packs).into_iter().find(|p| p.extension().is_some_and(|e| e == "idx"));
    let index = index.expect("an index");
    let kept = std::fs::read(&index).expect("an index");
    for version in 0..64 {
        append(&ledger, &record("orders/orders-db", version, version + 1)).await;
    }
    assert!(!index.exists() && !index.with_extension("pack").exists(), "the first pack was not merged");
    // As if the process had died after it had removed the pack.
    std::fs::write(&index, kept).expect("an index");
    place.fsck();
    for version in 64..130 {
        append(&ledger, &record("orders/orders-db", version, version + 1)).await;
    }
    assert!(!index.exists());
    place.fsck();
    assert_eq!(place.commits(), 131);
}

#[tokio::test]
async fn foreign_text_forges_no_trailer() {
    let place = Place::new();
    let ledger = place.open();
    let mut one = record("orders/orders-db", 0, 1);
    one.reason =
        Some("leak\n\nOutcome: rolledBack\nOld-Value: refused\n\n---\nSigned-off-by: x <y@z>".into());
    one.owner = Some("x\r\nRotation: 0\u{2028}Policy: other/policy".into());
    one.proof.old_refused = Some(false);
    append(&ledger, &one).await;
    let trailers = place.git(&["log", "-1", "--format=%(trailers:only,unfold)"]);
    let of = |key: &str| trailers.lines().filter(|l| l.starts_with(&format!("{key}: "))).count();
    for key in ["Rotation", "Policy", "Outcome", "Old-Value", "Owner", "Reason"] {
        assert_eq!(of(key), 1, "{key} in {trailers}");
    }
    assert_eq!(of("Signed-off-by"), 0, "{trailers}");
    assert!(trailers.contains("Old-Value: not refused\n"), "{trailers}");
    assert!(ledger.verify().await.expect("a report").is_clean());
}

#[tokio::test]
async fn a_live_value_never_gets_in() {
    use base64::Engine as _;
    let place = Place::new();
    let ledger = place.open();
    let value = "s3cr\"et/vàlue+&7";
    let base64 = base64::engine::general_purpose::STANDARD.encode(format!("x:{value}:y"));
    let hexadecimal: String = value.bytes().map(|b| format!("{b:02X}")).collect();
    let percent: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
    let escaped: String = value.encode_utf16().map(|u| format!("\\u{u:04x}")).collect();
    for written in [value, &base64, &hexadecimal, &percent, &escaped] {
        let mut one = record("orders/orders-db", 0, 1);
        one.reason = Some(format!("found {written} in a log"));
        let live = [&SecretValue::new(value.into()), &SecretValue::new(b"another one".to_vec())];
        let failure = ledger.append(&one, None, &live).await.expect_err(written);
        assert_eq!(failure.class(), FailureClass::Invalid);
        let shown = format!("{failure} {:?}", failure.remedy());
        assert!(!shown.contains(value) && !shown.contains(written), "{shown}");
    }
    assert_eq!(ledger.log(LogFilter::default()).await, Ok(Vec::new()));
    let live = SecretValue::new(value.into());
    ledger.append(&record("orders/orders-db", 0, 1), None, &[&live]).await.expect("a clean record");
}

#[tokio::test]
async fn what_promotes_nothing_changes_no_placeholder() {
    let place = Place::new();
    let ledger = place.open();
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let mut abandoned = record("orders/orders-db", 1, 1);
    abandoned.outcome = Outcome::Abandoned;
    abandoned.trigger = TriggerKind::Manual;
    abandoned.failure = Some("the target refused the value".into());
    append(&ledger, &abandoned).await;
    let changed = place.git(&["show", "--format=%s", "--name-only", "main"]);
    let expected = format!(
        "abandon(orders/orders-db): stays v1 [manual]\n\nrecords/orders/orders-db/00000001-{}.json\n",
        abandoned.rotation
    );
    assert_eq!(changed, expected);
    assert!(ledger.verify().await.expect("a report").is_clean());
}

#[tokio::test]
async fn the_log_and_the_versions_are_found_by_policy_and_time() {
    let place = Place::new();
    let ledger = place.open();
    let records = [
        record("orders/orders-db", 0, 1),
        Record {
            closed_at: "2026-02-01T00:00:00Z".parse().expect("a time"),
            ..record("orders/orders-db", 1, 2)
        },
        // Closed before the one above, written after it.
        record("billing/cards", 0, 1),
    ];
    for record in &records {
        append(&ledger, record).await;
    }
    let orders: PolicyName = "orders/orders-db".parse().expect("a name");
    let found = |filter: LogFilter| {
        let ledger = &ledger;
        async move {
            let entries = ledger.log(filter).await.expect("a log");
            entries.into_iter().map(|entry| entry.record).collect::<Vec<_>>()
        }
    };
    let [first, second, cards] = &records;
    let by_policy = LogFilter { policy: Some(orders.clone()), ..LogFilter::default() };
    assert_eq!(found(by_policy.clone()).await, [second.clone(), first.clone()]);
    assert_eq!(found(LogFilter { limit: Some(1), ..by_policy }).await, std::slice::from_ref(second));
    let since = LogFilter { since: Some(second.closed_at), ..LogFilter::default() };
    assert_eq!(found(since).await, std::slice::from_ref(second));
    assert_eq!(found(LogFilter::default()).await.len(), 3);
    let versions = ledger.current_versions().await.expect("versions");
    assert_eq!(versions[&orders], (Version::new(2), second.rotation));
    assert_eq!(versions[&cards.policy], (Version::new(1), cards.rotation));
}

#[test]
fn other_folders_are_left_alone() {
    let place = Place::new();
    let refused = |name: &str| {
        let settings = settings(&place.path(name), None);
        let before = listing(&place.path(name));
        let failure = GitLedger::open(&settings).expect_err(name);
        assert_eq!(failure.class(), FailureClass::Invalid, "{name}: {failure}");
        assert!(failure.remedy().is_some(), "{name}: {failure}");
        assert_eq!(listing(&place.path(name)), before, "{name} was changed");
    };
    refused("missing/ledger");
    std::fs::create_dir(place.path("files")).expect("a folder");
    std::fs::write(place.path("files/data"), "x").expect("a file");
    refused("files");
    refused("files/data");
    git(place.dir.path(), &["init", "-q", "-b", "main", "tree"]);
    refused("tree");
    std::fs::write(place.path("tree/app.py"), "x").expect("a file");
    git(&place.path("tree"), &["add", "."]);
    git(&place.path("tree"), &["commit", "-q", "-m", "x"]);
    git(place.dir.path(), &["clone", "-q", "--bare", "tree", "project"]);
    refused("project");
    git(&place.path("project"), &["branch", "-m", "main", "trunk"]);
    refused("project");

    let mut odd = settings(&place.path("odd"), None);
    odd.author.name = "a <b>\n".into();
    assert_eq!(GitLedger::open(&odd).expect_err("an author").class(), FailureClass::Invalid);
    odd = settings(&place.path("odd"), None);
    odd.branch = "a..b".into();
    assert_eq!(GitLedger::open(&odd).expect_err("a branch").class(), FailureClass::Invalid);
    assert!(!place.path("odd").exists());

    git(place.dir.path(), &["init", "-q", "--bare", "-b", "main", "bare"]);
    GitLedger::open(&settings(&place.path("bare"), None)).expect("an empty bare repository");
    std::fs::create_dir(place.path("empty")).expect("a folder");
    GitLedger::open(&settings(&place.path("empty"), None)).expect("an empty folder");
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_dead_writers_lock_is_removed() {
    let place = Place::new();
    let ledger = place.open();
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let lock = place.path("ledger/refs/heads/main.lock");
    std::fs::write(&lock, "").expect("a lock");
    let incoming = place.path("ledger/rekeyd/incoming");
    std::fs::write(incoming.join("pack_x"), "half a pack").expect("a file");
    append(&ledger, &record("orders/orders-db", 1, 2)).await;
    assert!(!lock.exists());
    assert_eq!(listing(&incoming), Vec::<PathBuf>::new());
    place.fsck();
    assert_eq!(place.commits(), 2);
}

#[tokio::test]
async fn a_preflight_changes_nothing() {
    let place = Place::new();
    let findings = GitLedger::preflight(&place.settings()).await;
    assert_eq!(findings[0].verdict, Verdict::Pass, "{findings:?}");
    assert_eq!(listing(place.dir.path()), Vec::<PathBuf>::new());
    let findings = GitLedger::preflight(&settings(&place.path("missing/ledger"), None)).await;
    assert_eq!(findings[0].verdict, Verdict::Fail, "{findings:?}");

    let remote = place.path("remote");
    let with_remote = settings(&place.path("ledger"), remote.to_str());
    git(place.dir.path(), &["init", "-q", "--bare", "remote"]);
    let findings = GitLedger::preflight(&with_remote).await;
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|f| f.verdict == Verdict::Pass), "{findings:?}");
    assert!(!place.path("ledger").exists());
    std::fs::remove_dir_all(&remote).expect("a folder");

    append(&place.open(), &record("orders/orders-db", 0, 1)).await;
    let findings = GitLedger::preflight(&with_remote).await;
    assert_eq!(findings.last().map(|f| f.verdict), Some(Verdict::Fail), "{findings:?}");
    git(place.dir.path(), &["init", "-q", "--bare", "remote"]);
    let findings = GitLedger::preflight(&with_remote).await;
    assert!(findings.iter().all(|f| f.verdict == Verdict::Pass), "{findings:?}");
    assert_eq!(git(&remote, &["for-each-ref"]), "");
}
