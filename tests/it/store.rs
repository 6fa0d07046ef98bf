//! The embedded store: the contract, the faults of its file and key, and processes that die.

#[path = "../contract/store.rs"]
pub(crate) mod contract;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::StorePath;
use rekeyd::settings::{EmbeddedSettings, KeySource};
use rekeyd::store::Store;
use rekeyd::store::embedded::EmbeddedStore;
use rusqlite::Connection;

use self::contract::{Fixture, control, current, promote, save, store_contract};

store_contract!(Folder::new());

/// A folder with a key and, once it was opened, a store.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        EmbeddedStore::generate_key_file(&folder.key()).expect("a key file");
        folder
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key")
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("store.db")
    }

    fn settings(&self) -> EmbeddedSettings {
        EmbeddedSettings { path: self.database(), key: KeySource::File(self.key()) }
    }

    fn store(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.settings()).expect("a store")
    }

    fn refusal(&self) -> Failure {
        match EmbeddedStore::open(&self.settings()) {
            Ok(_) => panic!("the store was opened"),
            Err(failure) => failure,
        }
    }

    /// The database as an operator with `sqlite3` would open it.
    fn sqlite(&self) -> Connection {
        Connection::open(self.database()).expect("a connection")
    }
}

#[async_trait]
impl Fixture for Folder {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    async fn delete(&self, path: &StorePath) {
        let deleted = self
            .sqlite()
            .execute("DELETE FROM entry WHERE kind = 'credential' AND name = ?1", (path.as_str(),))
            .expect("a deletion");
        assert_eq!(deleted, 1);
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[track_caller]
fn assert_refused(failure: &Failure, class: FailureClass, reason: &str) {
    assert!(failure.to_string().contains(reason), "{failure}");
    assert_eq!(failure.class(), class, "{failure}");
    assert!(failure.remedy().is_some(), "{failure} has no remedy");
}

#[tokio::test]
async fn no_file_of_the_store_is_open_to_others_or_holds_a_value() {
    let folder = Folder::new();
    let store = folder.store();
    promote(&store, "apps/a", "principal-in-clear", "value-in-clear", None).await.expect("a promotion");
    save(&store, "orders/db", "document-in-clear", None).await.expect("a saving");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.0.path()).expect("a listing") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).expect("a file");
        assert!(!bytes.windows(8).any(|part| part == b"in-clear"), "{} shows a value", path.display());
        names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["key", "store.db", "store.db-shm", "store.db-wal"], "stray files");
}

#[test]
fn another_key_opens_nothing_and_touches_nothing() {
    let folder = Folder::new();
    drop(folder.store());
    let before = std::fs::read(folder.database()).expect("the database");
    std::fs::remove_file(folder.key()).expect("the key gone");
    EmbeddedStore::generate_key_file(&folder.key()).expect("another key");
    assert_refused(&folder.refusal(), FailureClass::Invalid, "the key does not open this store");
    assert_eq!(std::fs::read(folder.database()).expect("the database"), before);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let folder = Folder::new();
    for open in [0o640, 0o604, 0o660, 0o700, 0o444] {
        set_mode(&folder.key(), open);
        assert_refused(&folder.refusal(), FailureClass::Invalid, "must be 0600 or 0400");
    }
    assert!(!folder.database().exists(), "a store was made with a refused key");
    set_mode(&folder.key(), 0o400);
    folder.store();
}

#[test]
fn a_key_file_that_is_none_is_refused() {
    let folder = Folder::new();
    let real = folder.0.path().join("real");
    std::fs::rename(folder.key(), &real).expect("a move");
    assert_refused(&folder.refusal(), FailureClass::Invalid, "No such file");
    std::os::unix::fs::symlink(&real, folder.key()).expect("a link");
    assert_refused(&folder.refusal(), FailureClass::Invalid, "symbolic link");
    std::fs::remove_file(folder.key()).expect("the link gone");
    std::fs::create_dir(folder.key()).expect("a folder");
    assert!(folder.refusal().to_string().contains("not a regular file"));
    std::fs::remove_dir(folder.key()).expect("the folder gone");
    for text in ["", "secret text", &"0".repeat(5000)] {
        std::fs::write(folder.key(), text).expect("a file");
        set_mode(&folder.key(), 0o600);
        let failure = folder.refusal();
        assert_refused(&failure, FailureClass::Invalid, "does not hold 64 hexadecimal digits");
        assert!(!failure.to_string().contains("secret text"), "the failure shows the file's content");
    }
}

#[test]
fn a_key_is_never_overwritten() {
    let folder = Folder::new();
    let before = std::fs::read(folder.key()).expect("the key");
    let failure = EmbeddedStore::generate_key_file(&folder.key()).expect_err("there is a key");
    assert_refused(&failure, FailureClass::Conflict, "a file already");
    assert_eq!(std::fs::read(folder.key()).expect("the key"), before);
    assert_eq!(mode(&folder.key()), 0o600);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = Folder::new();
    drop(folder.store());
    folder.sqlite().pragma_update(None, "user_version", 2).expect("a newer schema");
    let before = std::fs::read(folder.database()).expect("the database");
    assert_refused(&folder.refusal(), FailureClass::Invalid, "schema 2");
    assert_eq!(std::fs::read(folder.database()).expect("the database"), before);
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = Folder::new();
    for (content, reason) in [(vec![b'x'; 8192], "not a database"), (Vec::new(), "not a store of rekeyd")] {
        std::fs::write(folder.database(), &content).expect("a file");
        set_mode(&folder.database(), 0o600);
        assert_refused(&folder.refusal(), FailureClass::Invalid, reason);
        assert_eq!(std::fs::read(folder.database()).expect("the file"), content);
    }
    std::fs::remove_file(folder.database()).expect("the file gone");
    folder.sqlite().execute_batch("CREATE TABLE somebody_elses (x)").expect("another database");
    set_mode(&folder.database(), 0o600);
    assert_refused(&folder.refusal(), FailureClass::Invalid, "not a store of rekeyd");
}

#[test]
fn a_place_that_is_not_safe_is_refused() {
    let folder = Folder::new();
    let at = |path: PathBuf| match EmbeddedStore::open(&EmbeddedSettings {
        path,
        key: KeySource::File(folder.key()),
    }) {
        Ok(_) => panic!("the store was opened"),
        Err(failure) => failure,
    };
    let failure = at(folder.0.path().join("missing/store.db"));
    assert_refused(&failure, FailureClass::Invalid, "missing does not exist");

    let open = folder.0.path().join("open");
    std::fs::create_dir(&open).expect("a folder");
    set_mode(&open, 0o1777);
    assert_refused(&at(open.join("store.db")), FailureClass::Invalid, "everybody may write");

    drop(folder.store());
    let link = folder.0.path().join("link.db");
    std::os::unix::fs::symlink(folder.database(), &link).expect("a link");
    assert!(at(link).to_string().contains("symbolic link"));

    set_mode(&folder.database(), 0o604);
    assert_refused(&folder.refusal(), FailureClass::Invalid, "mode is 0604");
}

#[test]
fn a_damaged_file_is_said_to_be_damaged() {
    let folder = Folder::new();
    // The end of the runtime waits for the writer, and the last connection empties the log.
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    runtime().block_on(async {
        let store = folder.store();
        for index in 0..50 {
            save(&store, &format!("orders/db{index}"), &"x".repeat(2000), None).await.expect("a saving");
        }
    });
    let mut bytes = std::fs::read(folder.database()).expect("the database");
    assert!(bytes.len() > 5 * 4096, "the log was not emptied");
    bytes[3 * 4096..].fill(0xff);
    std::fs::write(folder.database(), bytes).expect("damage");
    runtime().block_on(async {
        let store = folder.store();
        let failure = store.control(&contract::policy("orders/db7")).await.expect_err("it is damaged");
        assert_refused(&failure, FailureClass::Invalid, "damaged");
        let failure = store.policies().await.expect_err("it is damaged");
        assert_refused(&failure, FailureClass::Invalid, "damaged");
    });
}

#[tokio::test]
async fn an_entry_that_was_swapped_or_put_back_is_not_believed() {
    let folder = Folder::new();
    let store = folder.store();
    let old = promote(&store, "apps/a", "app_a", "old", None).await.expect("a promotion");
    let sqlite = folder.sqlite();
    let copy = "CREATE TABLE copy AS SELECT * FROM entry";
    sqlite.execute_batch(copy).expect("a copy");
    promote(&store, "apps/a", "app_b", "new", Some(&old)).await.expect("a promotion");
    promote(&store, "apps/b", "app_b", "other", None).await.expect("a promotion");

    let (path, fields) = ("apps/a".parse().expect("a path"), Default::default());
    let place = || rekeyd::store::Place { path: &path, fields: &fields };
    let forgeries = [
        "UPDATE entry SET sealed = (SELECT sealed FROM copy) WHERE name = 'apps/a'",
        "UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE name = 'apps/b') WHERE name = 'apps/a'",
        "UPDATE entry SET sealed = x'00' WHERE name = 'apps/a'",
    ];
    for forgery in forgeries {
        assert_eq!(sqlite.execute(forgery, ()).expect("a forgery"), 1);
        let failure = store.current(place()).await.expect_err("a forged entry");
        assert_refused(&failure, FailureClass::Invalid, "altered or put there from elsewhere");
    }
}

#[tokio::test]
async fn a_lock_that_another_process_keeps_is_waited_for_and_then_reported() {
    let folder = Folder::new();
    let store = folder.store();
    save(&store, "orders/db", "before", None).await.expect("a saving");
    let holder = folder.sqlite();
    holder.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let begun = Instant::now();
    let document = rekeyd::secret::SecretValue::new(b"during".to_vec());
    let failure = store.save(&contract::policy("a/b"), &document, None).await.expect_err("it is locked");
    assert_refused(&failure, FailureClass::Unavailable, "another process");
    assert!(begun.elapsed().as_secs() >= 4, "it did not wait");
    assert!(control(&store, "orders/db").await.is_some(), "a reader was held up by a writer");
    holder.execute_batch("ROLLBACK").expect("the lock gone");
    save(&store, "a/b", "after", None).await.expect("a saving");
}

#[tokio::test]
async fn a_file_that_was_replaced_is_not_written_to() {
    let folder = Folder::new();
    let store = folder.store();
    save(&store, "orders/db", "one", None).await.expect("a saving");
    std::fs::rename(folder.database(), folder.0.path().join("elsewhere.db")).expect("a move");
    assert_eq!(save(&store, "a/b", "two", None).await, Err(FailureClass::Unavailable));
    let other = Folder::new();
    drop(other.store());
    std::fs::copy(other.database(), folder.database()).expect("another store");
    assert_eq!(save(&store, "a/b", "two", None).await, Err(FailureClass::Unavailable));
    let failure = store.control(&contract::policy("orders/db")).await.expect_err("it was replaced");
    assert_refused(&failure, FailureClass::Unavailable, "moved or replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_come_together_share_a_sync() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    let document = "x".repeat(1024);
    let begun = Instant::now();
    for index in 0..20 {
        save(&*store, &format!("single/p{index}"), &document, None).await.expect("a saving");
    }
    let single = begun.elapsed() / 20;
    let begun = Instant::now();
    let writes: Vec<_> = (0..500)
        .map(|index| {
            let (store, document) = (Arc::clone(&store), document.clone());
            tokio::spawn(async move { save(&*store, &format!("many/p{index}"), &document, None).await })
        })
        .collect();
    for write in writes {
        write.await.expect("a writer").expect("a saving");
    }
    let together = begun.elapsed();
    println!("one save {single:?}; 500 together {together:?}");
    assert_eq!(store.policies().await.expect("a listing").len(), 520);
    assert!(together < single * 500, "500 writes at once took {together:?}, one takes {single:?}");
}

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
            .args(["--exact", "store::writer_process", "--nocapture", "--test-threads=1"])
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
