//! The database file: how it comes into being, how it is opened, and what is refused.
//!
//! A new database is made complete under a name of its own and then renamed to its place, which fails
//! when there is one already. So the file in place is always whole: a process that dies while it makes
//! one leaves a stray file beside it, and of two processes that start at once one wins.
//!
//! The file in place is never opened other than by SQLite: closing any descriptor of a file drops the
//! POSIX locks that the process holds on it, those of SQLite's open connections too.

use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::fault::Fault;
use super::seal::{Kind, Sealer};
use crate::failure::FailureClass;

/// How long a call waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// "RKYD": says in the file's header whose database it is.
const APPLICATION: i32 = 0x524b_5944;

/// The schema that this program reads and writes.
const SCHEMA_VERSION: i32 = 1;

/// A revision is never used twice in a store, whatever happens to its entries: `last_revision` only
/// grows.
const SCHEMA: &str = "
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        last_revision INTEGER NOT NULL,
        key_check BLOB NOT NULL
    ) STRICT;
    CREATE TABLE entry (
        kind TEXT NOT NULL CHECK (kind IN ('credential', 'control')),
        name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT;
";

/// What the key check seals.
const KEY_CHECK: &[u8] = b"this key opens this store";

/// The database file of an open store.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Database {
    /// Finds the file, makes it when it is missing, and checks that it is a store that the key opens.
    /// Changes nothing in a file that is not.
    pub(super) fn open(path: &Path, sealer: &Sealer) -> Result<(Self, Connection), Fault> {
        let path = locate(path)?;
        if look(&path)?.is_none() {
            create(&path, sealer)?;
        }
        let metadata = look(&path)?.ok_or_else(moved)?;
        check_access(&metadata)?;
        let database = Self { path, device: metadata.dev(), inode: metadata.ino() };
        let connection = database.connect()?;
        check_content(&connection, sealer)?;
        make_durable(&connection)?;
        Ok((database, connection))
    }

    /// A further connection, for reading.
    pub(super) fn reader(&self) -> Result<Connection, Fault> {
        let connection = self.connect()?;
        connection.pragma_update(None, "query_only", true).map_err(|error| Fault::from_sqlite(&error))?;
        Ok(connection)
    }

    /// Fails when the file in place is no longer the one that was opened: what is written to that one
    /// would be lost with it.
    pub(super) fn check_in_place(&self) -> Result<(), Fault> {
        match look(&self.path)? {
            Some(metadata) if metadata.dev() == self.device && metadata.ino() == self.inode => Ok(()),
            _ => Err(moved()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn metadata(&self) -> Result<Metadata, Fault> {
        look(&self.path)?.ok_or_else(moved)
    }

    fn connect(&self) -> Result<Connection, Fault> {
        connect(&self.path).map_err(|error| Fault::from_sqlite(&error))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A schema that somebody altered cannot run functions with side effects.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// The file's path with its folder resolved, so that SQLite can refuse links altogether.
fn locate(path: &Path) -> Result<PathBuf, Fault> {
    let name = path
        .file_name()
        .ok_or_else(|| Fault::new(FailureClass::Invalid, "the path does not end in a file name"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(|error| {
        let reason = match error.kind() {
            ErrorKind::NotFound => format!("the folder {} does not exist", folder.display()),
            _ => format!("the folder {} cannot be looked at: {error}", folder.display()),
        };
        Fault::new(FailureClass::Invalid, reason)
            .with_remedy("create it for rekeyd's own user, with `install -d -m 700`")
    })?;
    let metadata = folder.metadata().map_err(|error| unreadable(&error))?;
    if !metadata.is_dir() {
        return Err(Fault::new(FailureClass::Invalid, format!("{} is not a folder", folder.display())));
    }
    // Not even a sticky one: others could take the names of the files that SQLite puts beside.
    if metadata.mode() & 0o002 != 0 {
        return Err(Fault::new(
            FailureClass::Invalid,
            format!("everybody may write to the folder {}", folder.display()),
        )
        .with_remedy("use a folder that only rekeyd's own user may write to"));
    }
    Ok(folder.join(name))
}

fn look(path: &Path) -> Result<Option<Metadata>, Fault> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error)),
    }
}

fn check_access(metadata: &Metadata) -> Result<(), Fault> {
    let invalid = |reason| Err(Fault::new(FailureClass::Invalid, reason));
    if metadata.is_symlink() {
        return invalid("it is a symbolic link".to_owned());
    }
    if !metadata.is_file() {
        return invalid("it is not a regular file".to_owned());
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(Fault::new(
            FailureClass::Denied,
            format!("it belongs to user {} and rekeyd runs as user {own}", metadata.uid()),
        )
        .with_remedy("run rekeyd as the owner of its store"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(Fault::new(
            FailureClass::Invalid,
            format!("its mode is {mode:04o}: users who are not rekeyd's own may open it"),
        )
        .with_remedy("take their rights away with `chmod 600`"));
    }
    Ok(())
}

fn create(path: &Path, sealer: &Sealer) -> Result<(), Fault> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).expect("the operating system has a random source");
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".new-{:016x}", u64::from_ne_bytes(suffix)));
    let draft = PathBuf::from(draft);
    let result = write_new(&draft, sealer).and_then(|()| {
        let placed = renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE);
        match placed {
            // Another process was first: its store is the store.
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => other.map_err(|error| unreadable(&error.into())),
        }
    });
    // Only there when it was not renamed.
    let _ = std::fs::remove_file(&draft);
    result?;
    let folder = path.parent().expect("a located path has a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unreadable(&error))
}

fn write_new(draft: &Path, sealer: &Sealer) -> Result<(), Fault> {
    // SQLite takes over the mode of an existing file, also for those it puts beside.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)
        .map_err(|error| unreadable(&error))?;
    let fill = || {
        let mut connection = connect(draft)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        transaction.execute_batch(SCHEMA)?;
        let key_check = sealer.seal(Kind::KeyCheck, "", 0, KEY_CHECK);
        transaction.execute("INSERT INTO store VALUES (1, 0, ?1)", (key_check,))?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        set_wal(&connection)?;
        connection.close().map_err(|(_, error)| error)
    };
    fill().map_err(|error| Fault::from_sqlite(&error))
}

/// Says what the file is before anything is asked of it that could change it.
fn check_content(connection: &Connection, sealer: &Sealer) -> Result<(), Fault> {
    let sqlite = |error| Fault::from_sqlite(&error);
    let header = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    if header("application_id").map_err(sqlite)? != APPLICATION {
        return Err(Fault::new(FailureClass::Invalid, "the database is not a store of rekeyd")
            .with_remedy("name the file of a store, or a new one"));
    }
    let version = header("user_version").map_err(sqlite)?;
    if version != SCHEMA_VERSION {
        return Err(Fault::new(
            FailureClass::Invalid,
            format!("the store has schema {version} and this program knows schema {SCHEMA_VERSION}"),
        )
        .with_remedy("run the release of rekeyd that last opened the store, or a later one"));
    }
    let key_check: Vec<u8> =
        connection.query_row("SELECT key_check FROM store", (), |row| row.get(0)).map_err(sqlite)?;
    match sealer.unseal(Kind::KeyCheck, "", 0, &key_check) {
        Some(plain) if plain.as_slice() == KEY_CHECK => Ok(()),
        _ => Err(Fault::new(FailureClass::Invalid, "the key does not open this store")
            .with_remedy("give the key that the store was made with; a lost key cannot be replaced")),
    }
}

/// A commit that returned has reached the disk: the write-ahead log is synced by every one.
fn make_durable(connection: &Connection) -> Result<(), Fault> {
    let set = || -> rusqlite::Result<bool> {
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", true)?;
        let full: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
        Ok(set_wal(connection)? && full == 2)
    };
    match set() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::new(FailureClass::Invalid, "the file system cannot hold a write-ahead log")
            .with_remedy("put the store on a local disk")),
        Err(error) => Err(Fault::from_sqlite(&error)),
    }
}

fn set_wal(connection: &Connection) -> rusqlite::Result<bool> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    Ok(mode == "wal")
}

fn moved() -> Fault {
    Fault::new(FailureClass::Unavailable, "the database was moved or replaced while it was open")
        .with_remedy("restart rekeyd once the right file is in place")
}

fn unreadable(error: &std::io::Error) -> Fault {
    let class = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => FailureClass::Denied,
        ErrorKind::InvalidInput | ErrorKind::NotADirectory | ErrorKind::Unsupported => FailureClass::Invalid,
        _ => FailureClass::Unavailable,
    };
    Fault::new(class, error.to_string())
}
