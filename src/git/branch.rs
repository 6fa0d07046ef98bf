//! [`Branch`]: a branch of a repository that others change, too. A file of it is read at the newest commit, and
//! changed by a commit on top of that.
//!
//! The folder is a cache: whatever counts is at the remote. A commit that was not pushed is nobody's, and is made
//! again on the newest head by whoever comes next, so that nothing is queued here and nothing is recovered.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use git2::build::TreeUpdateBuilder;
use git2::{
    ErrorCode, FileMode, Oid, Repository, RepositoryInitOptions, RepositoryOpenFlags, Signature, Time,
};
use uuid::Uuid;

use super::check_author;
use super::transport::{Depth, FETCHED, Purpose, Pushed, Transport};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::settings::GitopsSettings;

/// How often others may push in between before the next try is put off.
const ROUNDS: usize = 5;

/// How long another process may be at the folder: a fetch and a push, by their default timeouts.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How often the lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// In the folder: whoever works there holds its `flock`. It says whose folder it is, too.
const LOCK: &str = "rekeyd-lock";

/// The largest file that is read.
const LARGEST: usize = 1024 * 1024;

/// What becomes of the work while the remote is away.
const MEANWHILE: &str = "check that it runs and can be reached; the commit is made when it answers";

/// See the module.
#[derive(Debug)]
pub(crate) struct Branch {
    name: DnsLabel,
    settings: GitopsSettings,
    transport: Transport,
    folder: Folder,
    /// Within this process.
    turn: tokio::sync::Mutex<()>,
}

/// What a file is to hold, and what the commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) content: String,
    pub(crate) message: String,
}

impl Branch {
    /// `name` is what the settings call it. Nothing is contacted or written.
    ///
    /// # Errors
    /// `Invalid` when the settings name something that must not be used.
    pub(crate) fn new(name: &DnsLabel, settings: &GitopsSettings) -> Result<Self, Failure> {
        let field = format!("gitops.{name}");
        check_author(&settings.author, &format!("{field}.author"))?;
        let purpose = Purpose {
            what: format!("the GitOps repository {name}"),
            field: format!("{field}.remote"),
            meanwhile: MEANWHILE,
        };
        let path = std::path::absolute(&settings.path).unwrap_or_else(|_| settings.path.clone());
        let transport = Transport::new(&settings.remote, &settings.branch, path.clone(), purpose)?;
        let folder = Folder { path: Arc::new(path), name: name.clone() };
        Ok(Self {
            name: name.clone(),
            settings: settings.clone(),
            transport,
            folder,
            turn: Default::default(),
        })
    }

    /// Reads a file at the newest commit, and asks whether that may be pushed upon; changes nothing. `None` when
    /// there is no such file.
    pub(crate) async fn look(&self, file: &str) -> Result<Option<Vec<u8>>, Failure> {
        let _turn = self.turn.lock().await;
        let _lock = self.folder.lock().await?;
        let head = self.newest().await?;
        self.transport.rehearse_push(head).await?;
        let path = file.to_owned();
        let found = self.folder.with(move |folder, repo| folder.find(repo, head, &path)).await?;
        Ok(found.map(|(content, _)| content))
    }

    /// The same without a trace: where there is no folder yet, what is fetched is thrown away.
    pub(crate) async fn glance(&self, file: &str) -> Result<Option<Vec<u8>>, Failure> {
        self.transport.version().await?;
        if self.folder.path.exists() {
            return self.look(file).await;
        }
        let scratch = Scratch(std::env::temp_dir().join(format!("rekeyd-{}", Uuid::now_v7())));
        let settings = GitopsSettings { path: scratch.0.clone(), ..self.settings.clone() };
        Self::new(&self.name, &settings)?.look(file).await
    }

    /// Has a file hold what `decide` makes of its content at the newest commit; whether that took a commit. The
    /// file has to be there. `decide` is asked again whenever somebody else has pushed in between.
    ///
    /// Dying after the commit: nobody has it, and whoever comes next makes one on the newest head. Dying after the
    /// push: whoever comes next finds that there is nothing to change.
    pub(crate) async fn change(
        &self,
        file: &str,
        mut decide: impl FnMut(Option<&[u8]>) -> Result<Option<Change>, Failure>,
    ) -> Result<bool, Failure> {
        let _turn = self.turn.lock().await;
        let _lock = self.folder.lock().await?;
        for _ in 0..ROUNDS {
            let head = self.newest().await?;
            let path = file.to_owned();
            let found = self.folder.with(move |folder, repo| folder.find(repo, head, &path)).await?;
            let Some(change) = decide(found.as_ref().map(|(content, _)| content.as_slice()))? else {
                return Ok(false);
            };
            let mode = found.map_or(FileMode::Blob, |(_, mode)| mode);
            let (path, author) = (file.to_owned(), self.settings.author.clone());
            let now = SystemClock.now().as_second();
            let commit = self
                .folder
                .with(move |folder, repo| {
                    let git = |error: git2::Error| folder.failure(&error);
                    let by = Signature::new(&author.name, &author.email, &Time::new(now, 0)).map_err(git)?;
                    let parent = repo.find_commit(head).map_err(git)?;
                    let blob = repo.blob(change.content.as_bytes()).map_err(git)?;
                    let tree = TreeUpdateBuilder::new()
                        .upsert(path.as_str(), blob, mode)
                        .create_updated(repo, &parent.tree().map_err(git)?)
                        .and_then(|tree| repo.find_tree(tree))
                        .map_err(git)?;
                    repo.commit(None, &by, &by, &change.message, &tree, &[&parent]).map_err(git)
                })
                .await?;
            between!("kubernetes.restart.committed");
            if self.transport.push(commit).await? == Pushed::Done {
                between!("kubernetes.restart.pushed");
                return Ok(true);
            }
        }
        let doing = self.transport.doing("push to");
        Err(Failure::new(FailureClass::Unavailable, doing, "others keep pushing to it")
            .with_remedy("see what the remote says of a push, if nobody does"))
    }

    /// The commit that the branch is at, in the folder when this returns.
    async fn newest(&self) -> Result<Oid, Failure> {
        let head = self.transport.head().await?.ok_or_else(|| {
            let reason = format!("it has no branch {}", self.settings.branch);
            Failure::new(FailureClass::Invalid, self.transport.doing("read"), reason)
                .with_remedy(format!("correct `gitops.{}.branch`, or make the branch", self.name))
        })?;
        if self.folder.with(Folder::fetched).await? == Some(head) {
            return Ok(head);
        }
        self.transport.fetch(Depth::Newest).await?;
        self.folder.with(Folder::fetched).await?.ok_or_else(|| {
            let doing = self.transport.doing("fetch from");
            Failure::new(FailureClass::Unavailable, doing, "its branch is gone again")
        })
    }
}

/// A bare repository of rekeyd's own, without branches.
#[derive(Debug, Clone)]
struct Folder {
    path: Arc<PathBuf>,
    name: DnsLabel,
}

impl Folder {
    /// Waits for the turn of this process to work in the folder, and makes it when it is missing.
    async fn lock(&self) -> Result<File, Failure> {
        let folder = self.clone();
        blocking(&self.doing(), move || {
            let lock = folder.take()?;
            // Whoever died while making it is made up for.
            let mut options = RepositoryInitOptions::new();
            options.bare(true).external_template(false);
            if folder.open().is_err() {
                Repository::init_opts(&*folder.path, &options).map_err(|e| folder.failure(&e))?;
            }
            Ok(lock)
        })
        .await
    }

    fn take(&self) -> Result<File, Failure> {
        let io = |error: io::Error| self.unavailable(&error.to_string());
        match fs::create_dir(&*self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::new(
                    FailureClass::Invalid,
                    self.doing(),
                    "the folder that it is in does not exist",
                )
                .with_remedy("create it, owned by the user that rekeyd runs as"));
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => {}
        }
        let path = self.path.join(LOCK);
        if !path.exists() && fs::read_dir(&*self.path).map_err(io)?.next().is_some() {
            let reason = "it holds something that rekeyd did not put there";
            let remedy = format!("set `gitops.{}.path` to a folder that does not exist yet", self.name);
            return Err(Failure::new(FailureClass::Invalid, self.doing(), reason).with_remedy(remedy));
        }
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                    std::thread::park_timeout(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(self
                        .unavailable("another rekeyd process has been at it for too long")
                        .with_remedy("look for a second rekeyd that hangs or was stopped"));
                }
            }
        }
    }

    /// Works in the repository where it keeps nobody else waiting.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &Repository) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let folder = self.clone();
        blocking(&self.doing(), move || {
            let repo = folder.open().map_err(|error| folder.failure(&error))?;
            work(&folder, &repo)
        })
        .await
    }

    fn open(&self) -> Result<Repository, git2::Error> {
        let none: [&Path; 0] = [];
        Repository::open_ext(&*self.path, RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::BARE, none)
    }

    fn fetched(&self, repo: &Repository) -> Result<Option<Oid>, Failure> {
        match repo.refname_to_id(FETCHED) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// A file's content and mode at a commit. Links are not followed, wherever they lead.
    fn find(
        &self,
        repo: &Repository,
        commit: Oid,
        file: &str,
    ) -> Result<Option<(Vec<u8>, FileMode)>, Failure> {
        let git = |error: git2::Error| self.failure(&error);
        let refuse = |reason: &str| {
            Failure::new(
                FailureClass::Invalid,
                format!("use {file} of the GitOps repository {}", self.name),
                reason,
            )
        };
        let mut tree = repo.find_commit(commit).and_then(|commit| commit.tree()).map_err(git)?;
        let (folders, name) = file.rsplit_once('/').unwrap_or(("", file));
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            let Some(entry) = tree.get_name(folder) else { return Ok(None) };
            if entry.filemode() != i32::from(FileMode::Tree) {
                return Err(refuse("it leads through a link or a file")
                    .with_remedy("name it by the folders that it is in"));
            }
            let id = entry.id();
            drop(entry);
            tree = repo.find_tree(id).map_err(git)?;
        }
        let Some(entry) = tree.get_name(name) else { return Ok(None) };
        let mode = [FileMode::Blob, FileMode::BlobExecutable]
            .into_iter()
            .find(|mode| i32::from(*mode) == entry.filemode())
            .ok_or_else(|| {
                refuse("it is a link, a folder or a submodule").with_remedy("use a file of rekeyd's own")
            })?;
        let blob = repo.find_blob(entry.id()).map_err(git)?;
        if blob.size() > LARGEST {
            return Err(refuse("it is larger than 1 MiB").with_remedy("use a file of rekeyd's own"));
        }
        Ok(Some((blob.content().to_vec(), mode)))
    }

    /// Completes "cannot ...".
    fn doing(&self) -> String {
        format!("use the folder {} of the GitOps repository {}", self.path.display(), self.name)
    }

    /// What libgit2 reports. Its texts name paths and system errors, never content.
    fn failure(&self, error: &git2::Error) -> Failure {
        self.unavailable(error.message())
    }

    fn unavailable(&self, reason: &str) -> Failure {
        Failure::new(FailureClass::Unavailable, self.doing(), reason).with_remedy(
            "let the user that rekeyd runs as write there; if it is damaged, delete it: it is fetched anew",
        )
    }
}

async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Failure::new(FailureClass::Unavailable, doing, "the program is stopping")))
}

/// A folder that is gone when this is.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
pub(crate) mod tests;
