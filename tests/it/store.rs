//! The embedded store: the contract, and the faults of its file and key.

#[path = "../contract/store.rs"]
pub(crate) mod contract;
mod processes;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use rekeyd::failure::{Failure, FailureClass};
use rekeyd::ident::StorePath;
use rekeyd::settings::{EmbeddedSettings, KeySource, StoreSettings};
use rekeyd::store::Store;
use rekeyd::store::embedded::EmbeddedStore;
use rusqlite::Connection;

use self::contract::{Fixture, control, promote, save, store_contract};

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
async fn a_store_is_built_from_its_settings_and_named_when_it_cannot_be() {
    let folder = Folder::new();
    let name = "main".parse().expect("a name");
    let settings = StoreSettings::Embedded(folder.settings());
    let store = rekeyd::store::build(&name, &settings).expect("a store");
    save(&*store, "orders/db", "document", None).await.expect("a saving");
    drop(store);
    set_mode(&folder.key(), 0o644);
    let Err(failure) = rekeyd::store::build(&name, &settings) else { panic!("it was built") };
    assert_refused(&failure, FailureClass::Invalid, "cannot use store `main`: cannot read key file");
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
async fn five_hundred_that_write_at_once_are_all_served() {
    let folder = Folder::new();
    let store = Arc::new(folder.store());
    let mut writers = tokio::task::JoinSet::new();
    for index in 0..500 {
        let store = Arc::clone(&store);
        writers.spawn(async move { save(&*store, &format!("many/p{index}"), "document", None).await });
    }
    let mut revisions = writers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().expect("savings");
    revisions.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    revisions.dedup();
    assert_eq!(revisions.len(), 500, "a revision was given twice");
    assert_eq!(store.policies().await.expect("a listing").len(), 500);
}
