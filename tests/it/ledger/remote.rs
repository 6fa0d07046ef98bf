//! Pushing to another bare repository: down and up, overtaken, gone back, rewritten.

use std::path::Path;
use std::time::Duration;

use rekeyd::failure::{Failure, FailureClass, Verdict};
use rekeyd::ledger::{GitLedger, LogFilter, PushState};
use rekeyd::settings::LedgerSettings;

use super::{Place, append, fsck, git, record, settings};

impl Place {
    /// A bare repository that others push to as well.
    fn with_remote() -> Self {
        let place = Self::new();
        git(place.dir.path(), &["init", "-q", "--bare", "-b", "main", "remote"]);
        place
    }

    fn pushing(&self, ledger: &str) -> LedgerSettings {
        settings(&self.path(ledger), self.path("remote").to_str())
    }

    fn open_pushing(&self, ledger: &str) -> GitLedger {
        GitLedger::open(&self.pushing(ledger)).expect("a ledger")
    }

    fn remote(&self, args: &[&str]) -> String {
        git(&self.path("remote"), args)
    }

    fn head(&self, repository: &str) -> String {
        git(&self.path(repository), &["rev-parse", "main"])
    }
}

async fn flush(ledger: &GitLedger) -> PushState {
    ledger.flush(Duration::from_secs(30)).await.expect("a state")
}

async fn pushed(ledger: &GitLedger) {
    let state = flush(ledger).await;
    assert!(state.is_settled(), "{state:?}");
}

async fn stuck(ledger: &GitLedger) -> Failure {
    flush(ledger).await.last_error.expect("a failure")
}

async fn clean(ledger: &GitLedger, commits: usize) {
    let report = ledger.verify().await.expect("a report");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.commits, commits);
}

#[tokio::test]
async fn records_reach_the_remote() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    append(&ledger, &record("orders/orders-db", 1, 2)).await;
    pushed(&ledger).await;
    assert_eq!(place.head("remote"), place.head("ledger"));
    assert_eq!(ledger.verify().await.expect("a report").unpushed, Some(0));
    fsck(&place.path("remote"));
}

#[tokio::test]
async fn a_remote_that_comes_back_gets_what_waited() {
    let place = Place::with_remote();
    std::fs::rename(place.path("remote"), place.path("away")).expect("a folder");
    let ledger = place.open_pushing("ledger");
    for version in 0..3 {
        append(&ledger, &record("orders/orders-db", version, version + 1)).await;
    }
    let state = flush(&ledger).await;
    assert_eq!(state.ahead, 3);
    assert!(state.last_error.is_some());
    drop(ledger);

    // The hook says when the records are there: nobody asks for a push from here on.
    let fifo = place.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    hook(&place.path("away"), "post-receive", &format!("echo done >{}", fifo.display()));
    let ledger = place.open_pushing("ledger");
    assert_eq!(ledger.push_state().await.expect("a state").ahead, 3);
    append(&ledger, &record("orders/orders-db", 3, 4)).await;
    assert_eq!(flush(&ledger).await.ahead, 4);
    std::fs::rename(place.path("away"), place.path("remote")).expect("a folder");
    let (sender, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(std::fs::read_to_string(fifo)));
    let told = told.recv_timeout(Duration::from_secs(60)).expect("within a minute");
    assert_eq!(told.expect("a word"), "done\n");
    assert_eq!(place.remote(&["rev-list", "--count", "main"]).trim(), "4");
}

fn hook(repository: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(repository.join("hooks")).expect("a folder");
    let file = repository.join("hooks").join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a hook");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("a mode");
}

#[tokio::test]
async fn records_of_others_become_the_base() {
    let place = Place::with_remote();
    let (one, two) = (place.open_pushing("ledger"), place.open_pushing("second"));
    append(&one, &record("team/one", 0, 1)).await;
    pushed(&one).await;
    // The second has no history in common with the remote yet.
    append(&two, &record("team/two", 0, 1)).await;
    append(&two, &record("team/two", 1, 2)).await;
    pushed(&two).await;
    append(&one, &record("team/one", 1, 2)).await;
    pushed(&one).await;
    pushed(&two).await;
    assert_eq!(place.remote(&["rev-list", "--count", "main"]).trim(), "4");
    assert_eq!(place.remote(&["rev-list", "--merges", "--count", "main"]).trim(), "0");
    append(&two, &record("team/two", 2, 3)).await;
    pushed(&two).await;
    clean(&two, 5).await;
    assert_eq!(place.head("second"), place.head("remote"));
    for repository in ["ledger", "second", "remote"] {
        fsck(&place.path(repository));
    }
}

#[tokio::test]
async fn a_rotation_that_the_remote_has_is_not_recorded_again() {
    let place = Place::with_remote();
    let (shared, theirs) = (record("orders/orders-db", 0, 1), record("team/one", 0, 1));
    let (one, two) = (place.open_pushing("ledger"), place.open_pushing("second"));
    append(&one, &theirs).await;
    append(&one, &shared).await;
    pushed(&one).await;
    append(&two, &shared).await;
    append(&two, &record("orders/orders-db", 1, 2)).await;
    pushed(&two).await;
    clean(&two, 3).await;
    assert_eq!(place.remote(&["rev-list", "--count", "main"]).trim(), "3");
    // What came from the remote counts as recorded.
    append(&two, &theirs).await;
    append(&two, &shared).await;
    clean(&two, 3).await;
}

#[tokio::test]
async fn a_late_record_takes_nothing_back() {
    let place = Place::with_remote();
    let one = place.open_pushing("ledger");
    append(&one, &record("orders/orders-db", 0, 1)).await;
    pushed(&one).await;
    // A node that cannot reach the remote records version 2, a standby without that goes on.
    git(place.dir.path(), &["clone", "-q", "--bare", "remote", "late"]);
    let alone = GitLedger::open(&settings(&place.path("late"), None)).expect("a ledger");
    append(&alone, &record("orders/orders-db", 1, 2)).await;
    drop(alone);
    append(&one, &record("orders/orders-db", 2, 3)).await;
    pushed(&one).await;
    let late = place.open_pushing("late");
    pushed(&late).await;
    clean(&late, 3).await;
    let shown = place.remote(&["show", "main:secrets/orders/orders-db.yaml"]);
    assert!(shown.contains("version: 3\n"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_push_at_once() {
    let place = Place::with_remote();
    let ledgers: Vec<GitLedger> = (0..3).map(|n| place.open_pushing(&format!("ledger-{n}"))).collect();
    for version in 0..4 {
        let work = ledgers.iter().enumerate().map(|(number, ledger)| async move {
            append(ledger, &record(&format!("team/db-{number}"), version, version + 1)).await;
            let _ = flush(ledger).await;
        });
        futures_util::future::join_all(work).await;
    }
    for ledger in &ledgers {
        pushed(ledger).await;
    }
    assert_eq!(place.remote(&["rev-list", "--count", "main"]).trim(), "12");
    fsck(&place.path("remote"));
    git(place.dir.path(), &["clone", "-q", "remote", "copy"]);
    let report = rekeyd::ledger::LedgerReader::new(place.path("copy"), None).verify(None).expect("a report");
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn a_remote_that_went_back_is_left_alone() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    append(&ledger, &record("orders/orders-db", 1, 2)).await;
    pushed(&ledger).await;
    place.remote(&["update-ref", "refs/heads/main", "main~1"]);
    let went_back = place.head("remote");
    let failure = stuck(&ledger).await;
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.remedy().is_some());
    append(&ledger, &record("orders/orders-db", 2, 3)).await;
    assert_eq!(stuck(&ledger).await.class(), FailureClass::Conflict);
    assert_eq!(place.head("remote"), went_back);
    let findings = GitLedger::preflight(&place.pushing("ledger")).await;
    assert_eq!(findings.last().map(|f| f.verdict), Some(Verdict::Fail), "{findings:?}");
    clean(&ledger, 3).await;
}

#[tokio::test]
async fn a_rewritten_remote_is_left_alone() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    pushed(&ledger).await;
    let before = place.head("ledger");
    let other = place.open_pushing("other");
    place.remote(&["update-ref", "-d", "refs/heads/main"]);
    append(&other, &record("orders/orders-db", 0, 1)).await;
    pushed(&other).await;
    let rewritten = place.head("remote");
    let failure = stuck(&ledger).await;
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.to_string().contains("rewritten"), "{failure}");
    assert_eq!(place.head("remote"), rewritten);
    assert_eq!(place.head("ledger"), before);
}

#[tokio::test]
async fn a_lost_branch_is_not_made_again_until_somebody_says_so() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    pushed(&ledger).await;
    place.remote(&["update-ref", "-d", "refs/heads/main"]);
    let failure = stuck(&ledger).await;
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    let remedy = failure.remedy().expect("a remedy").to_owned();
    assert!(remedy.contains("git update-ref -d refs/rekeyd/pushed"), "{remedy}");
    place.git(&["update-ref", "-d", "refs/rekeyd/pushed"]);
    pushed(&ledger).await;
    assert_eq!(place.head("remote"), place.head("ledger"));
}

#[tokio::test]
async fn what_is_no_record_is_not_built_on() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    pushed(&ledger).await;
    git(place.dir.path(), &["clone", "-q", "remote", "copy"]);
    std::fs::write(place.path("copy/README.md"), "x").expect("a file");
    git(&place.path("copy"), &["add", "."]);
    git(&place.path("copy"), &["commit", "-q", "-m", "explain"]);
    git(&place.path("copy"), &["push", "-q"]);
    let theirs = place.head("remote");
    append(&ledger, &record("orders/orders-db", 1, 2)).await;
    let failure = stuck(&ledger).await;
    assert_eq!(failure.class(), FailureClass::Conflict, "{failure}");
    assert!(failure.to_string().contains(theirs.trim()), "{failure}");
    assert_eq!(place.head("remote"), theirs);
    clean(&ledger, 2).await;
}

#[tokio::test]
async fn a_hook_may_refuse() {
    let place = Place::with_remote();
    hook(&place.path("remote"), "pre-receive", "echo 'the branch is frozen' >&2; exit 1");
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = flush(&ledger).await;
    let failure = state.last_error.expect("a refusal");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.to_string().contains("pre-receive hook declined"), "{failure}");
    assert_eq!(state.ahead, 1);
}

#[tokio::test]
async fn a_new_folder_goes_on_from_the_remote() {
    let place = Place::with_remote();
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    pushed(&ledger).await;
    drop(ledger);
    std::fs::remove_dir_all(place.path("ledger")).expect("a folder");
    let ledger = place.open_pushing("ledger");
    append(&ledger, &record("orders/orders-db", 1, 2)).await;
    pushed(&ledger).await;
    clean(&ledger, 2).await;
    assert_eq!(ledger.log(LogFilter::default()).await.expect("a log").len(), 2);
}

#[tokio::test]
async fn no_hook_of_the_ledgers_folder_runs() {
    let place = Place::with_remote();
    let (ledger, other) = (place.open_pushing("ledger"), place.open_pushing("other"));
    append(&ledger, &record("team/one", 0, 1)).await;
    pushed(&ledger).await;
    let ran = place.path("ran");
    for name in ["pre-push", "reference-transaction", "post-update"] {
        hook(&place.path("ledger"), name, &format!("touch {}", ran.display()));
    }
    append(&other, &record("team/two", 0, 1)).await;
    pushed(&other).await;
    append(&ledger, &record("team/one", 1, 2)).await;
    pushed(&ledger).await;
    assert!(!ran.exists());
    place.git(&["update-ref", "refs/heads/other", "main"]);
    assert!(ran.exists(), "the hooks of this test do not work");
}
