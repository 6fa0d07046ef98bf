//! What an error of the database says about the world.

use std::borrow::Cow;

use rusqlite::{ErrorCode, ffi};

use crate::failure::{Failure, FailureClass};

/// A failure that does not know yet which call it failed: one transaction serves many.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) class: FailureClass,
    pub(super) reason: Cow<'static, str>,
    pub(super) remedy: Option<&'static str>,
}

impl Fault {
    pub(super) fn new(class: FailureClass, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { class, reason: reason.into(), remedy: None }
    }

    pub(super) fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// An error before anything could have taken effect.
    pub(super) fn from_sqlite(error: &rusqlite::Error) -> Self {
        let Some(sqlite) = error.sqlite_error() else {
            // A column of another type than the schema says; its content must not be shown.
            return Self::new(FailureClass::Invalid, "the database does not have the shape of a store")
                .with_remedy(RESTORE);
        };
        match sqlite.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                Self::new(FailureClass::Unavailable, "another process has held the database for too long")
                    .with_remedy("find it with `fuser` on the database file")
            }
            // The second: no room for the shared index of the write-ahead log.
            _ if sqlite.code == ErrorCode::DiskFull || sqlite.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
                Self::new(FailureClass::Unavailable, "the disk is full")
                    .with_remedy("free some space; nothing was lost")
            }
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
                Self::new(FailureClass::Denied, "the database cannot be written")
                    .with_remedy("let rekeyd's own user write the file and its folder, and mount it writable")
            }
            ErrorCode::CannotOpen => Self::new(FailureClass::Unavailable, "the database cannot be opened")
                .with_remedy("check that the file and its folder are there and belong to rekeyd's own user"),
            ErrorCode::NotADatabase => Self::new(FailureClass::Invalid, "the file is not a database")
                .with_remedy("name the file of a store, or a new one"),
            ErrorCode::DatabaseCorrupt => {
                Self::new(FailureClass::Invalid, "the database is damaged").with_remedy(RESTORE)
            }
            ErrorCode::SystemIoFailure => Self::new(
                FailureClass::Unavailable,
                format!("the disk failed (SQLite code {})", sqlite.extended_code),
            )
            .with_remedy("look at the system's log for the disk"),
            _ => Self::new(
                FailureClass::Unavailable,
                format!("the database failed (SQLite code {})", sqlite.extended_code),
            ),
        }
    }

    /// An error of the commit itself. The commit record is the last thing written, so a write that ran
    /// out of space certainly left none. After any other disk error, a failed sync above all, the record
    /// may be on the disk and may come to light when the database is next recovered.
    pub(super) fn from_commit(error: &rusqlite::Error) -> Self {
        let fault = Self::from_sqlite(error);
        match error.sqlite_error() {
            Some(ffi::Error { code: ErrorCode::SystemIoFailure, .. }) => {
                Self { class: FailureClass::Ambiguous, ..fault }
            }
            _ => fault,
        }
    }

    pub(super) fn into_failure(self, doing: impl Into<String>) -> Failure {
        let failure = Failure::new(self.class, doing, self.reason);
        match self.remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        }
    }
}

const RESTORE: &str = "stop rekeyd, keep the file, and restore the last backup";

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("near \"hunter2\"".into()))
    }

    #[test]
    fn only_a_commit_that_may_be_on_the_disk_is_ambiguous() {
        use FailureClass::{Ambiguous, Denied, Invalid, Unavailable};
        for (code, before, commit) in [
            (ffi::SQLITE_FULL, Unavailable, Unavailable),
            (ffi::SQLITE_BUSY, Unavailable, Unavailable),
            (ffi::SQLITE_READONLY, Denied, Denied),
            (ffi::SQLITE_CORRUPT, Invalid, Invalid),
            (ffi::SQLITE_IOERR_FSYNC, Unavailable, Ambiguous),
            (ffi::SQLITE_IOERR_WRITE, Unavailable, Ambiguous),
        ] {
            assert_eq!(Fault::from_sqlite(&error(code)).class, before, "code {code}");
            assert_eq!(Fault::from_commit(&error(code)).class, commit, "code {code} at commit");
        }
    }

    #[test]
    fn the_driver_s_text_stays_inside() {
        let failure = Fault::from_sqlite(&error(ffi::SQLITE_ERROR)).into_failure("read something");
        assert!(!failure.to_string().contains("hunter2"));
    }
}
