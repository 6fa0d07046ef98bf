//! Puts the files in their places, never over another.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::failure::{Failure, FailureClass};
use crate::store::embedded::EmbeddedStore;

/// What was made so far, in order. Whoever dies here leaves whole files that a second `init` names; the settings
/// come last, so nothing is in force by then.
#[derive(Default)]
pub(super) struct Written {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Written {
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A folder, unless it is there.
    pub(super) fn folder(&mut self, path: &Path) -> Result<(), Failure> {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().mode(0o755).create(path).map_err(|error| {
            let failure = failure(path, error.kind());
            match error.kind() {
                ErrorKind::NotFound => failure.with_remedy("make the folder above it first"),
                ErrorKind::PermissionDenied => failure
                    .with_remedy("run it as the user who owns the folder, or name another with --directory"),
                _ => failure,
            }
        })?;
        self.folders.push(path.to_owned());
        Ok(())
    }

    /// A sealing key, 0600.
    pub(super) fn key(&mut self, path: &Path) -> Result<(), Failure> {
        EmbeddedStore::generate_key_file(path)?;
        self.files.push(path.to_owned());
        Ok(())
    }

    /// A file that holds no value: others may read it.
    pub(super) fn file(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        let draft = path.with_extension(format!("draft-{}", uuid::Uuid::now_v7().simple()));
        let placed = write(&draft, text).and_then(|()| {
            renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE).map_err(io::Error::from)
        });
        if let Err(error) = placed {
            let _ = fs::remove_file(&draft);
            return Err(match error.kind() {
                ErrorKind::AlreadyExists => taken(path),
                kind => failure(path, kind),
            });
        }
        self.files.push(path.to_owned());
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| failure(path, error.kind()))
    }

    /// Takes away what was made here. What cannot be taken away is named the next time.
    pub(super) fn undo(self) {
        for file in self.files.iter().rev() {
            let _ = fs::remove_file(file);
        }
        for folder in self.folders.iter().rev() {
            // Only if it is empty: others may have put something there.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// There is something there.
pub(super) fn taken(path: &Path) -> Failure {
    Failure::new(FailureClass::Conflict, format!("write {}", path.display()), "there is such a file already")
        .with_remedy("nothing is written over: move it away, or choose another name or --directory")
}

fn failure(path: &Path, kind: ErrorKind) -> Failure {
    Failure::new(FailureClass::Invalid, format!("write {}", path.display()), kind)
}
