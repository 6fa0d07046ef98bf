//! The ledger's folder: a bare Git repository with a corner of rekeyd's own, opened, created, locked.
//!
//! In `<ledger>/rekeyd/`, which Git does not look at:
//! - `writer`: whoever changes the branch holds its `flock`, so that two processes take turns;
//! - `incoming/`: packs being written; a pack moves to `objects/pack/` once it is on the disk;
//! - `git-config`: read by this program alone, makes libgit2 sync what it writes of refs. In the
//!   repository's own configuration the same key would make every `git` command there print a warning.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{BranchType, ConfigLevel, ErrorCode, Oid, Repository, RepositoryInitOptions, RepositoryOpenFlags};
use uuid::Uuid;

use super::draft::{RECORDS, SECRETS};
use crate::failure::{Failure, FailureClass};
use crate::settings::LedgerSettings;

/// What the remote was last seen to have, checked: the base of what is still to be pushed.
pub(super) const PIN: &str = "refs/rekeyd/pushed";

/// How long another process may hold the writer's lock. A batch takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a Git lock file may stand in the way before it is taken for a dead writer's.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// How often a lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(5);

const GIT_CONFIG: &[u8] = b"[core]\n\tfsyncObjectFiles = true\n";

/// Where the ledger is, and on which branch.
#[derive(Debug, Clone)]
pub(super) struct Location {
    path: PathBuf,
    branch: String,
}

impl Location {
    /// Names the folder and the branch without touching them.
    pub(super) fn named(settings: &LedgerSettings) -> Result<Self, Failure> {
        let path = std::path::absolute(&settings.path).unwrap_or_else(|_| settings.path.clone());
        let location = Self { path, branch: settings.branch.clone() };
        if !git2::Reference::is_valid_name(&location.branch_ref()) || settings.branch.starts_with('-') {
            let reason = format!("`{}` is not a branch name", settings.branch.escape_default());
            return Err(Failure::new(FailureClass::Invalid, location.doing(), reason));
        }
        Ok(location)
    }

    /// Makes the folder when it is missing, refuses it when it is not a ledger.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        if self.is_vacant()? {
            self.create()?;
        }
        self.check()?;
        fs::create_dir_all(self.incoming()).map_err(|e| self.io_failure(&e))?;
        self.configure().map_err(|e| self.io_failure(&e))
    }

    /// Whether there is nothing at the path yet, or an empty folder.
    pub(super) fn is_vacant(&self) -> Result<bool, Failure> {
        match fs::read_dir(&self.path) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            Err(error) => Err(self.io_failure(&error)),
        }
    }

    /// Refuses a folder that is not a ledger, or not only one.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let refuse = |reason: &str| {
            let remedy = "set `ledger.path` to a folder that does not exist yet, or to an earlier ledger";
            Failure::new(FailureClass::Invalid, self.doing(), reason).with_remedy(remedy)
        };
        if self.path.join(".git").exists() {
            return Err(refuse("it is a Git working tree; the ledger is a bare repository of its own"));
        }
        let repo = self.open().map_err(|failure| match failure.class() {
            FailureClass::Invalid => refuse("it holds files and is no Git repository"),
            _ => failure,
        })?;
        if !repo.is_bare() {
            return Err(refuse("the Git repository there is not a bare one"));
        }
        if repo.is_shallow() {
            return Err(refuse("its history is cut off: it was cloned with a depth"));
        }
        for branch in repo.branches(Some(BranchType::Local)).map_err(|e| self.failure(&e))? {
            let (branch, _) = branch.map_err(|e| self.failure(&e))?;
            let tree = branch.get().peel_to_tree().map_err(|e| self.failure(&e))?;
            if tree.iter().any(|entry| !matches!(entry.name_bytes(), b if b == RECORDS.as_bytes() || b == SECRETS.as_bytes())) {
                return Err(refuse("it is a Git repository that holds other files than records"));
            }
        }
        Ok(())
    }

    /// A handle with nothing cached. Each batch takes a fresh one, which makes a failed batch leave
    /// nothing behind in memory and shows what other processes wrote.
    pub(super) fn open(&self) -> Result<Repository, Failure> {
        let flags = RepositoryOpenFlags::NO_SEARCH;
        let none: [&Path; 0] = [];
        let repo = Repository::open_ext(&self.path, flags, none).map_err(|e| match e.code() {
            ErrorCode::NotFound => {
                Failure::new(FailureClass::Invalid, self.doing(), "there is no Git repository")
            }
            ErrorCode::Owner => Failure::new(FailureClass::Denied, self.doing(), "another user owns it")
                .with_remedy("give the folder to the user that rekeyd runs as"),
            _ => self.failure(&e),
        })?;
        let config = self.own("git-config");
        if config.exists() {
            // Before anything asks for refs: libgit2 looks at the setting once.
            repo.config()
                .and_then(|mut all| all.add_file(&config, ConfigLevel::App, false))
                .map_err(|e| self.failure(&e))?;
        }
        Ok(repo)
    }

    /// Waits for the turn of this process to change the branch.
    pub(super) fn lock(&self) -> Result<WriterLock, Failure> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.own("writer"))
            .map_err(|e| self.io_failure(&e))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(WriterLock { _file: file }),
                Err(TryLockError::Error(error)) => return Err(self.io_failure(&error)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::park_timeout(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    let reason = "another rekeyd process has been writing to it for too long";
                    return Err(Failure::new(FailureClass::Unavailable, self.doing(), reason)
                        .with_remedy("look for a second rekeyd that hangs or was stopped"));
                }
            }
        }
    }

    pub(super) fn head(&self, repo: &Repository) -> Result<Option<Oid>, Failure> {
        self.read_ref(repo, &self.branch_ref())
    }

    /// See [`PIN`].
    pub(super) fn pinned(&self, repo: &Repository) -> Result<Option<Oid>, Failure> {
        self.read_ref(repo, PIN)
    }

    pub(super) fn pin(&self, repo: &Repository, to: Oid) -> Result<(), Failure> {
        let from = self.pinned(repo)?;
        if from == Some(to) { Ok(()) } else { self.move_ref(repo, PIN, from, to) }
    }

    /// Moves the branch, on disk when this returns. The caller holds the [`WriterLock`] and has made
    /// sure that every object `to` needs is on disk.
    pub(super) fn advance(
        &self,
        _: &WriterLock,
        repo: &Repository,
        from: Option<Oid>,
        to: Oid,
    ) -> Result<(), Failure> {
        self.move_ref(repo, &self.branch_ref(), from, to)
    }

    pub(super) fn read_ref(&self, repo: &Repository, name: &str) -> Result<Option<Oid>, Failure> {
        match repo.refname_to_id(name) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// The folder that the ledger's folder is in.
    pub(super) fn parent(&self) -> Result<&Path, Failure> {
        let refuse = |reason: String| Failure::new(FailureClass::Invalid, self.doing(), reason);
        match self.path.parent() {
            Some(parent) if parent.is_dir() => Ok(parent),
            Some(parent) => Err(refuse(format!("the folder {} does not exist", parent.display()))
                .with_remedy("create it, owned by the user that rekeyd runs as")),
            None => Err(refuse("the path names no folder".to_owned())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn branch_ref(&self) -> String {
        format!("refs/heads/{}", self.branch)
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    pub(super) fn incoming(&self) -> PathBuf {
        self.own("incoming")
    }

    /// What libgit2 reports, as a failure. Its texts name paths and system errors, never content.
    pub(super) fn failure(&self, error: &git2::Error) -> Failure {
        self.unavailable(error.message())
    }

    pub(super) fn io_failure(&self, error: &io::Error) -> Failure {
        self.unavailable(&error.to_string())
    }

    /// Completes "cannot ...".
    pub(super) fn doing(&self) -> String {
        format!("use the ledger {}", self.path.display())
    }

    fn unavailable(&self, reason: &str) -> Failure {
        let failure = Failure::new(FailureClass::Unavailable, self.doing(), reason);
        if reason.contains("No space left") || reason.contains("Disk quota") {
            failure.with_remedy("free some space on the ledger's file system; the record is written then")
        } else if reason.contains("gitconfig") {
            // Git's own files in the home folder, which is another user's or hidden by a sandbox.
            failure.with_remedy("set HOME to a folder that the user that rekeyd runs as may read")
        } else if reason.contains("Permission denied") || reason.contains("Read-only file system") {
            failure.with_remedy("let the user that rekeyd runs as write to the folder and all below it")
        } else {
            failure
        }
    }

    /// Built beside its place and moved there whole: a process that dies here leaves no half of a
    /// ledger, only a folder whose name says what it was to be.
    fn create(&self) -> Result<(), Failure> {
        let parent = self.parent()?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let draft = parent.join(format!(".{name}.new-{}", Uuid::now_v7()));
        let mut options = RepositoryInitOptions::new();
        options.bare(true).no_reinit(true).mkdir(true).external_template(false).initial_head(&self.branch);
        let made = Repository::init_opts(&draft, &options)
            .map_err(|e| self.failure(&e))
            .and_then(|_| sync_tree(&draft).map_err(|e| self.io_failure(&e)))
            .and_then(|()| match fs::rename(&draft, &self.path) {
                // Another process made it in the meantime.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    Err(Failure::new(FailureClass::Invalid, self.doing(), "it is a mount point")
                        .with_remedy("set `ledger.path` to a folder below the mount point"))
                }
                Err(error) => Err(self.io_failure(&error)),
                Ok(()) => sync_dir(parent).map_err(|e| self.io_failure(&e)),
            });
        if draft.exists() {
            let _ = fs::remove_dir_all(&draft);
        }
        made
    }

    fn configure(&self) -> io::Result<()> {
        let file = self.own("git-config");
        if fs::read(&file).is_ok_and(|found| found == GIT_CONFIG) {
            return Ok(());
        }
        let draft = self.own(&format!("git-config-{}", Uuid::now_v7()));
        fs::write(&draft, GIT_CONFIG)?;
        fs::rename(draft, file)
    }

    /// Moves a ref from exactly `from`. A lock file of Git's that outlives [`STALE_AFTER`] unchanged is
    /// a dead writer's: those of rekeyd hold the writer's lock, and a living `git` holds it for
    /// milliseconds.
    fn move_ref(&self, repo: &Repository, name: &str, from: Option<Oid>, to: Oid) -> Result<(), Failure> {
        let lock = self.path.join(format!("{name}.lock"));
        let begun = Instant::now();
        let first = identity(&lock);
        loop {
            let moved = match from {
                Some(from) => repo.reference_matching(name, to, true, from, "rekeyd"),
                None => repo.reference(name, to, false, "rekeyd"),
            };
            match moved {
                Ok(_) => return Ok(()),
                Err(error) if error.code() != ErrorCode::Locked => return Err(self.failure(&error)),
                Err(_) if begun.elapsed() < STALE_AFTER => std::thread::park_timeout(LOCK_POLL),
                Err(_) if first.is_some() && identity(&lock) == first => {
                    tracing::warn!(lock = %lock.display(), "removing the lock file of a killed writer");
                    fs::remove_file(&lock).map_err(|e| self.io_failure(&e))?;
                }
                Err(error) => return Err(self.failure(&error)),
            }
        }
    }

    fn own(&self, name: &str) -> PathBuf {
        self.path.join("rekeyd").join(name)
    }
}

/// The right to change the branch, until dropped; the kernel takes it back from a killed process.
#[derive(Debug)]
pub(super) struct WriterLock {
    _file: File,
}

/// Makes the entries of a folder durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(path)
}

fn identity(path: &Path) -> Option<(u64, i64, i64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}
