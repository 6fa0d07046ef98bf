//! The program itself: its file is looked at once, and what was looked at is what runs.
//!
//! The content is copied into memory without a name, which is sealed: nobody can change it any more, not even this
//! process. It is started by its number among the open files, which the program inherits: a script's interpreter
//! reads it by that. Whatever else is started at that moment inherits it too; there is nothing secret in it.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use sha2::{Digest as _, Sha256};

use crate::failure::{FailureClass, IoReason};
use crate::policy::spec::ProgramDigest;

/// The largest program, in bytes.
const MOST: u64 = 256 << 20;

/// Why a file is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    Unread(std::io::ErrorKind),
    NoFile,
    Owner,
    Writable,
    NotExecutable,
    TooLarge,
    Changed,
    Unsealed(std::io::ErrorKind),
}

impl Unfit {
    pub(super) const fn class(self) -> FailureClass {
        match self {
            Self::Unsealed(_) => FailureClass::Unavailable,
            _ => FailureClass::Invalid,
        }
    }

    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Unread(_) | Self::NoFile => "put the program there, as a file that rekeyd may read",
            Self::Owner => "let root own it: chown root",
            Self::Writable => "let nobody but its owner write it: chmod 0755",
            Self::NotExecutable => "let it be run: chmod 0755, on a file system that is not mounted `noexec`",
            Self::TooLarge => "use a smaller program",
            Self::Changed => {
                "find out who changed it; if it was you, write what `sha256sum` prints into the policy"
            }
            Self::Unsealed(_) => "see that the machine has memory left and lets programs run from it",
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(kind) => write!(f, "the plug-in cannot be read: {}", IoReason(*kind)),
            Self::NoFile => f.write_str("the plug-in is not a plain file"),
            Self::Owner => f.write_str("the plug-in belongs to neither root nor rekeyd's own user"),
            Self::Writable => f.write_str("others than its owner may write the plug-in"),
            Self::NotExecutable => f.write_str("the plug-in may not be run"),
            Self::TooLarge => write!(f, "the plug-in has more than {MOST} bytes"),
            Self::Changed => f.write_str("the plug-in is not the one that the policy pins"),
            Self::Unsealed(kind) => write!(f, "the plug-in cannot be held in memory: {kind}"),
        }
    }
}

impl From<rustix::io::Errno> for Unfit {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            // A link, and none is followed.
            rustix::io::Errno::LOOP => Self::NoFile,
            error => Self::Unread(error.kind()),
        }
    }
}

/// The program's content, if it is the pinned one and nobody else may change its file. Blocks for a few disk accesses.
pub(super) fn seal(path: &Path, pinned: ProgramDigest) -> Result<OwnedFd, Unfit> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let mode = stat.st_mode;
    if rustix::fs::FileType::from_raw_mode(mode) != rustix::fs::FileType::RegularFile {
        return Err(Unfit::NoFile);
    }
    if stat.st_uid != 0 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Unfit::Owner);
    }
    if mode & 0o022 != 0 {
        return Err(Unfit::Writable);
    }
    // A copy in memory would run whatever these say.
    let mount = rustix::fs::fstatvfs(&file)?.f_flag;
    if mode & 0o111 == 0 || mount.contains(StatVfsMountFlags::NOEXEC) {
        return Err(Unfit::NotExecutable);
    }
    let mut content = Vec::new();
    File::from(file).take(MOST + 1).read_to_end(&mut content).map_err(|error| Unfit::Unread(error.kind()))?;
    if content.len() as u64 > MOST {
        return Err(Unfit::TooLarge);
    }
    if ProgramDigest::new(Sha256::digest(&content).into()) != pinned {
        return Err(Unfit::Changed);
    }
    in_memory(&content).map_err(|error| Unfit::Unsealed(error.kind()))
}

fn in_memory(content: &[u8]) -> Result<OwnedFd, std::io::Error> {
    let make = |flags| rustix::fs::memfd_create("rekeyd-plug-in", flags);
    // Kernels before 6.3 do not know the flag, and let it be run without.
    let memory = match make(MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => make(MemfdFlags::ALLOW_SEALING),
        made => made,
    }?;
    let mut file = File::from(memory);
    file.write_all(content)?;
    let memory = OwnedFd::from(file);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}
