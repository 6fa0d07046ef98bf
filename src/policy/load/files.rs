//! The files of a policy directory.

use std::borrow::Cow;
use std::fs::DirEntry;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::failure::IoReason;
use crate::policy::diagnostic::{Diagnostic, Problem, Severity, printable};

/// The policy files below a directory, sorted by path.
pub(super) fn below(directory: &Path, diagnostics: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(directory, &mut files, diagnostics);
    files.sort_unstable();
    files
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>, diagnostics: &mut Vec<Diagnostic>) {
    let mut report = |path: &Path, problem| {
        diagnostics.push(Diagnostic::of_file(&printable(&path.to_string_lossy()), &problem));
    };
    let entries: io::Result<Vec<DirEntry>> = directory.read_dir().and_then(Iterator::collect);
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return report(directory, FolderProblem::Unreadable(IoReason(error.kind()))),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_bytes().starts_with(b".") {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(path),
            // A folder behind a link could be one that holds the link.
            Ok(kind) if kind.is_symlink() && path.is_dir() => report(&path, FolderProblem::Linked),
            Ok(_) if is_policy_file(&path) => files.push(path),
            Ok(_) => {}
            Err(error) => report(&path, FolderProblem::Unreadable(IoReason(error.kind()))),
        }
    }
    for folder in folders {
        collect(&folder, files, diagnostics);
    }
}

fn is_policy_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Why a folder is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum FolderProblem {
    #[error("cannot be read: {0}")]
    Unreadable(IoReason),
    #[error("is a link to a folder, which is not followed")]
    Linked,
}

impl Problem for FolderProblem {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Unreadable(_) => "check that it exists and that this user may read it",
            Self::Linked => "put the folder itself in its place, or link its files",
        }
        .into()
    }

    fn severity(&self) -> Severity {
        match self {
            Self::Unreadable(_) => Severity::Error,
            Self::Linked => Severity::Warning,
        }
    }
}
