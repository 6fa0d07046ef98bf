//! Writers that are killed, and writers that share a folder.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rekeyd::ledger::GitLedger;

use super::{Place, append, record, settings, told};

/// Not a test of its own: the other process of the tests below, which run this binary again. Appends
/// as many records as it is told and says which are on disk.
#[tokio::test(flavor = "multi_thread")]
async fn writer_process() {
    let Some(path) = told("REKEYD_TEST_LEDGER") else { return };
    let policy = told("REKEYD_TEST_LEDGER_POLICY").expect("a policy");
    let count: u64 = told("REKEYD_TEST_LEDGER_COUNT").expect("a count").parse().expect("a number");
    let ledger = GitLedger::open(&settings(path.as_ref(), None)).expect("a ledger");
    for version in 0..count {
        let appends = (0..3).map(|part| {
            let ledger = &ledger;
            let record = record(&format!("{policy}-{part}"), version, version + 1);
            async move {
                append(ledger, &record).await;
                let mut out = std::io::stdout().lock();
                write!(out, "\nACK {}\n", record.rotation).and_then(|()| out.flush()).expect("a reader");
            }
        });
        futures_util::future::join_all(appends).await;
    }
}

fn spawn(place: &Place, policy: &str, count: u64) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "ledger::crash::writer_process", "--nocapture", "--test-threads=1"])
        .env("REKEYD_TEST_LEDGER", place.path("ledger"))
        .env("REKEYD_TEST_LEDGER_POLICY", policy)
        .env("REKEYD_TEST_LEDGER_COUNT", count.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs")
}

#[tokio::test]
async fn a_killed_writer_loses_nothing_it_acknowledged() {
    let place = Place::new();
    let mut acknowledged = Vec::new();
    for round in 0..20_u64 {
        let mut child = spawn(&place, &format!("team/round-{round}"), u64::MAX);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut ack = || {
            let line = lines.by_ref().map_while(Result::ok).find_map(|line| {
                line.strip_prefix("ACK ").map(|id| id.parse::<rekeyd::ident::RotationId>().expect("an id"))
            });
            acknowledged.extend(line);
            line.is_some()
        };
        // Some acknowledgements, then a moment that differs from round to round and from run to run.
        for _ in 0..=(round % 7) {
            assert!(ack(), "the writer ended by itself");
        }
        let moment = Duration::from_micros(round * 397 % 6000);
        let begun = Instant::now();
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        while ack() {}
        place.fsck();
    }
    let ledger = place.open();
    append(&ledger, &record("team/after", 0, 1)).await;
    place.fsck();
    let report = ledger.verify().await.expect("a report");
    assert!(report.is_clean(), "{report:?}");
    let names = place.git(&["ls-tree", "-r", "--name-only", "main", "records"]);
    for rotation in &acknowledged {
        let found = names.matches(&rotation.to_string()).count();
        assert_eq!(found, 1, "rotation {rotation} is recorded {found} times");
    }
    assert!(acknowledged.len() >= 60, "only {} acknowledgements", acknowledged.len());
}

#[tokio::test]
async fn two_processes_take_turns() {
    let place = Place::new();
    let children = ["team/one", "team/two"].map(|policy| spawn(&place, policy, 30));
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    place.fsck();
    let report = place.open().verify().await.expect("a report");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.commits, report.policies), (180, 6));
}
