//! The file, its note and its lock: reads that nobody can hold up, writes that nobody sees a part of.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags};
use zeroize::Zeroizing;

use crate::failure::{Failure, FailureClass, Finding, IoReason};
use crate::policy::spec::{FileMode, FileSpec};
use crate::secret::SecretValue;

/// No credential file is larger; a bigger one there is not ours.
const MAX_BYTES: u64 = 1024 * 1024;

/// Where a file is, and what lies beside it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    note: PathBuf,
    draft: PathBuf,
    lock: PathBuf,
    telling: PathBuf,
    mode: FileMode,
    owner: Option<String>,
}

/// Keeps other writers away until it is dropped, or its process dies.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, were there not commands that are just being started: until they become what
        // they are, they share every open file.
        let _ = self.0.unlock();
    }
}

impl Place {
    /// `None` when the path is not the absolute path of a file.
    pub(super) fn new(spec: &FileSpec) -> Option<Self> {
        let name = spec.path.file_name()?.to_str().filter(|_| spec.path.is_absolute())?;
        let beside = |suffix: &str| spec.path.with_file_name(format!(".{name}.rekeyd{suffix}"));
        Some(Self {
            path: spec.path.clone(),
            note: beside(""),
            draft: beside("-draft"),
            lock: beside("-lock"),
            telling: beside("-telling"),
            mode: spec.mode,
            owner: spec.owner.clone(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn note(&self) -> &Path {
        &self.note
    }

    /// Completes "cannot ...".
    pub(super) fn doing(&self, verb: &str) -> String {
        format!("{verb} file {}", self.path.display())
    }

    /// Writers take turns: two processes that know nothing of each other may be told to write it at the
    /// same time, and one of them an older version.
    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        self.lock_by(&self.lock, "write")
    }

    /// Of several processes one runs the reload command; whoever comes later finds its note. Apart from the
    /// writers' lock, since a command may take long, and a later version must not wait for it.
    pub(super) fn lock_telling(&self) -> Result<Lock, Failure> {
        self.lock_by(&self.telling, "reload the reader of")
    }

    fn lock_by(&self, path: &Path, verb: &'static str) -> Result<Lock, Failure> {
        let open = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(careful())
                .open(path)
        };
        let file = open().map_err(|error| self.failure(verb, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => {
                let reason = "another process is at it";
                Err(Failure::new(FailureClass::Unavailable, self.doing(verb), reason)
                    .with_remedy("it is tried again"))
            }
            Err(TryLockError::Error(error)) => Err(self.failure(verb, &error)),
        }
    }

    /// Whether anything is in the file's place, a link that leads nowhere included.
    pub(super) fn is_taken(&self) -> bool {
        !matches!(fs::symlink_metadata(&self.path), Err(error) if error.kind() == ErrorKind::NotFound)
    }

    /// Whether the file is there as it should be: content, kind, owner and permissions.
    pub(super) fn holds(&self, content: &SecretValue) -> bool {
        let held = || -> io::Result<bool> {
            let file = read(&self.path)?;
            let metadata = file.metadata()?;
            let (user, group) = self.owner.as_deref().map_or(Ok((None, None)), resolve)?;
            let is_right = metadata.is_file()
                && metadata.len() <= MAX_BYTES
                && metadata.permissions().mode() & 0o7777 == self.mode.bits()
                && user.is_none_or(|user| metadata.uid() == user)
                && group.is_none_or(|group| metadata.gid() == group);
            if !is_right {
                return Ok(false);
            }
            let mut held = Zeroizing::new(Vec::with_capacity(content.expose().len() + 1));
            file.take(MAX_BYTES).read_to_end(&mut held)?;
            Ok(SecretValue::new(std::mem::take(&mut *held)) == *content)
        };
        held().unwrap_or(false)
    }

    /// The note's bytes, if there is one.
    pub(super) fn read_note(&self) -> Result<Option<Vec<u8>>, Failure> {
        let attempt = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            read(&self.note)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match attempt() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failure("read the note beside", &error)),
        }
    }

    pub(super) fn write(&self, content: &SecretValue) -> Result<(), Failure> {
        self.replace(&self.path, content.expose(), self.mode.bits(), self.owner.as_deref())
    }

    pub(super) fn write_note(&self, content: &[u8]) -> Result<(), Failure> {
        self.replace(&self.note, content, 0o600, None)
    }

    /// Makes renames survive a power cut.
    pub(super) fn sync_folder(&self) -> Result<(), Failure> {
        File::open(self.folder())
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.failure("write", &error))
    }

    pub(super) fn preflight(&self, label: &str) -> Finding {
        let folder = self.folder();
        match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Finding::pass(label, format!("folder {} is writable", folder.display())),
            Err(error) => {
                let reason = IoReason(io::Error::from(error).kind());
                let detail = format!("folder {} is not writable: {reason}", folder.display());
                Finding::fail(label, detail, "create it and let rekeyd write there")
            }
        }
    }

    /// Whether this machine knows the owner.
    pub(super) fn check_owner(&self) -> Result<(), Failure> {
        let known = self.owner.as_deref().map_or(Ok(()), |owner| resolve(owner).map(drop));
        known.map_err(|error| self.failure("write", &error))
    }

    /// What is wrong with the owner, if anything is.
    pub(super) fn preflight_owner(&self, label: &str) -> Option<Finding> {
        let error = resolve(self.owner.as_deref()?).err()?;
        Some(Finding::fail(label, error.to_string(), UNKNOWN_OWNER))
    }

    /// Replaces a file in one step: after a power cut there is the old one or the new one. The draft has
    /// its final permissions before it has content. Whoever calls holds the lock: the draft is theirs.
    fn replace(&self, path: &Path, content: &[u8], mode: u32, owner: Option<&str>) -> Result<(), Failure> {
        let attempt = || -> io::Result<()> {
            // A draft that is still there belongs to a writer that died.
            match fs::remove_file(&self.draft) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut draft = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(careful())
                .open(&self.draft)?;
            if let Some(owner) = owner {
                let (user, group) = resolve(owner)?;
                fchown(&draft, user, group)?;
            }
            draft.set_permissions(Permissions::from_mode(mode))?;
            draft.write_all(content)?;
            draft.sync_all()?;
            between!("file.replace.written");
            fs::rename(&self.draft, path)
        };
        attempt().map_err(|error| {
            let _ = fs::remove_file(&self.draft);
            self.failure("write", &error)
        })
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    fn failure(&self, verb: &str, error: &io::Error) -> Failure {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "create the folder",
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "let rekeyd write there",
            ErrorKind::InvalidInput => UNKNOWN_OWNER,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
            _ => "look at the file and its folder",
        };
        let failure = |class, reason: &dyn std::fmt::Display| {
            Failure::new(class, self.doing(verb), reason).with_remedy(remedy)
        };
        match error.get_ref() {
            // Ours: an owner that this machine does not know.
            Some(own) => failure(FailureClass::Invalid, own),
            None => failure(FailureClass::Unavailable, &IoReason(error.kind())),
        }
    }
}

const UNKNOWN_OWNER: &str = "name a user and group that this machine knows";

fn read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(careful()).open(path)
}

/// A link in a file's place is not followed: it could point anywhere. A pipe there is not waited for.
fn careful() -> i32 {
    i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).expect("open flags fit")
}

/// `user` or `user:group` as numbers. Names are looked up; numbers are taken as they are.
fn resolve(owner: &str) -> io::Result<(Option<u32>, Option<u32>)> {
    let unknown = |kind: &str, name: &str| {
        io::Error::new(ErrorKind::InvalidInput, format!("no {kind} `{name}` on this machine"))
    };
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let user = match user.parse() {
        Ok(id) => id,
        Err(_) => nix::unistd::User::from_name(user)?.ok_or_else(|| unknown("user", user))?.uid.as_raw(),
    };
    let group = match group.map(|group| (group, group.parse())) {
        None => None,
        Some((_, Ok(id))) => Some(id),
        Some((group, Err(_))) => {
            Some(nix::unistd::Group::from_name(group)?.ok_or_else(|| unknown("group", group))?.gid.as_raw())
        }
    };
    Ok((Some(user), group))
}
