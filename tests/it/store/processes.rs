//! Processes that die while they write, and several that write at once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rekeyd::failure::FailureClass;
use rekeyd::settings::{EmbeddedSettings, KeySource};
use rekeyd::store::Store;
use rekeyd::store::embedded::EmbeddedStore;

use super::Folder;
use super::contract::{control, current, promote, save};

#[test]
fn a_writer_that_is_killed_loses_nothing_it_acknowledged() {
    let folder = Folder::new();
    let (mut acknowledged, mut lines_seen) = (BTreeMap::new(), 0);
    // Killed after another number of acknowledgements each time, the first of them at once.
    for round in [0, 1, 2, 3, 5, 8, 13, 40, 100, 200] {
        let mut child = WriterProcess::start(&folder, "save");
        let mut note = |line: &str| {
            let (name, text) = line.split_once(' ').expect("a line of two words");
            acknowledged.insert(name.to_owned(), text.to_owned());
            lines_seen += 1;
        };
        let mut lines = child.lines();
        (0..round).for_each(|_| note(&lines.next().expect("a line").expect("text")));
        child.kill();
        // What it had still acknowledged before it died.
        lines.map_while(Result::ok).for_each(|line| note(&line));

        // The first one may have died before it had made a store.
        let store = folder.store();
        let verdict: String = folder
            .sqlite()
            .query_row("PRAGMA integrity_check", (), |row| row.get(0))
            .expect("an integrity check");
        assert_eq!(verdict, "ok");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            for (name, text) in &acknowledged {
                let (found, _) = control(&store, name).await.unwrap_or_else(|| panic!("{name} was lost"));
                // A later one that was written and not acknowledged any more is as good.
                assert!(number(&found) >= number(text), "{name}: {text} was lost, {found} is there");
            }
        });
    }
    assert!(lines_seen >= 372, "the writers acknowledged {lines_seen} times only");
}

#[test]
fn two_processes_that_write_at_once_lose_no_change() {
    let folder = Folder::new();
    drop(folder.store());
    let mut children: Vec<_> = (0..2).map(|_| WriterProcess::start(&folder, "count")).collect();
    for child in &mut children {
        assert!(child.0.wait().expect("an end").success());
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async { current(&folder.store(), "counter").await });
    assert_eq!(found.map(|(_, value, _)| value), Some((2 * COUNTED).to_string()));
}

#[test]
fn processes_that_start_at_once_make_one_store() {
    let folder = Folder::new();
    let mut children: Vec<_> = (0..4).map(|_| WriterProcess::start(&folder, "count")).collect();
    for child in &mut children {
        assert!(child.0.wait().expect("an end").success());
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let found = runtime.block_on(async { current(&folder.store(), "counter").await });
    assert_eq!(found.map(|(_, value, _)| value), Some((4 * COUNTED).to_string()));
}

#[test]
fn a_systemd_credential_is_a_key() {
    let folder = Folder::new();
    let mut child = WriterProcess::start(&folder, "systemd");
    assert!(child.0.wait().expect("an end").success());
}

/// How often each counting process adds one.
const COUNTED: u32 = 100;

const CHILD: &str = "REKEYD_TEST_STORE_CHILD";

/// This test binary, started again to write to a store.
struct WriterProcess(Child);

impl WriterProcess {
    fn start(folder: &Folder, work: &str) -> Self {
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "store::processes::writer_process", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{work}:{}", folder.0.path().display()))
            .env("CREDENTIALS_DIRECTORY", folder.0.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        Self(child)
    }

    /// The lines it acknowledges with.
    fn lines(&mut self) -> impl Iterator<Item = std::io::Result<String>> + use<> {
        let stdout = self.0.stdout.take().expect("a pipe");
        // The test harness leaves the beginning of a line of its own before the first.
        let ours = |line: std::io::Result<String>| match line {
            Ok(line) => line.split_once("done ").map(|(_, line)| Ok(line.to_owned())),
            Err(error) => Some(Err(error)),
        };
        BufReader::new(stdout).lines().filter_map(ours)
    }

    fn kill(&mut self) {
        self.0.kill().expect("a kill");
        self.0.wait().expect("an end");
    }
}

impl Drop for WriterProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: the process that the tests above start and kill.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent says through the environment what to do")]
fn writer_process() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (work, folder) = order.split_once(':').expect("an order");
    let folder = Path::new(folder);
    let key = match work {
        "systemd" => KeySource::SystemdCredential("key".into()),
        _ => KeySource::File(folder.join("key")),
    };
    let settings = EmbeddedSettings { path: folder.join("store.db"), key };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(&settings).expect("a store"));
        match work {
            "count" => count(&*store).await,
            "save" => save_for_ever(store).await,
            _ => {}
        }
    });
}

/// Adds one to a shared number, again and again, each time by compare-and-set.
async fn count(store: &dyn Store) {
    let mut added = 0;
    while added < COUNTED {
        let (value, revision) = match current(store, "counter").await {
            Some((_, value, revision)) => (number(&value), Some(revision)),
            None => (0, None),
        };
        let next = (value + 1).to_string();
        match promote(store, "counter", "app_a", &next, revision.as_ref()).await {
            Ok(_) => added += 1,
            // The other process was faster: read again.
            Err(class) => assert_eq!(class, FailureClass::Conflict),
        }
    }
}

/// Saves eight documents at a time and says so after each.
async fn save_for_ever(store: Arc<EmbeddedStore>) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let name = format!("killed/w{writer}");
            let (mut next, mut revision) = match control(&*store, &name).await {
                Some((text, revision)) => (number(&text) + 1, Some(revision)),
                None => (0, None),
            };
            loop {
                let text = next.to_string();
                revision = Some(save(&*store, &name, &text, revision.as_ref()).await.expect("a saving"));
                // The test harness has its own buffer around `println`.
                let line = format!("done {name} {text}\n");
                std::io::stdout().write_all(line.as_bytes()).expect("a pipe");
                next += 1;
            }
        });
    }
    writers.join_all().await;
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}
