//! What the server's errors mean.
//!
//! Decided by their numbers: texts are translated by the server's `lc_messages` and could quote a statement,
//! so none is read or passed on. <https://mariadb.com/kb/en/mariadb-error-code-reference/>,
//! <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>

use super::sql::{BatchError, Cause};
use crate::failure::{Failure, FailureClass};

/// Why a login did not succeed.
#[derive(Debug)]
pub(super) enum LoginError {
    /// A verdict on the credential: the password is wrong, or the account does not exist or is locked.
    Rejected,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for LoginError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Whether a statement could have changed something when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was sent that changes anything.
    Reading,
    /// The change was on its way; the number of the statement in the batch from which on it may be in force.
    Writing { decisive: usize },
}

/// On MySQL a password that was expired by hand stays so until it is another one.
pub(super) const EXPIRED: &str = "ALTER USER ... PASSWORD EXPIRE NEVER: rekeyd sees to the age of values; the next \
    rotation mends what was expired by hand";

/// What a refused login means.
pub(super) fn refusal(code: u16, doing: &str) -> LoginError {
    let failed = |class, reason: &str, remedy: &'static str| {
        LoginError::Failed(Failure::new(class, doing, reason).with_remedy(remedy))
    };
    match code {
        // A wrong password, or no such account; and an account that is locked, as each server calls it.
        1045 | 4151 | 3118 => LoginError::Rejected,
        1040 | 1203 | 1226 => failed(
            FailureClass::Unavailable,
            "too many connections",
            "raise max_connections or the account's limits, or reserve some for rekeyd",
        ),
        1129 => failed(
            FailureClass::Unavailable,
            "the server blocks this machine after failed connections",
            "FLUSH HOSTS at the server, and look what else connects from here",
        ),
        4150 | 3955 | 3957 => failed(
            FailureClass::Unavailable,
            "the server blocks the account after failed logins, whatever the value",
            "look who tries, and lift the block: FLUSH PRIVILEGES, or ALTER USER ... ACCOUNT UNLOCK",
        ),
        1130 => failed(
            FailureClass::Denied,
            "the server lets no account in from this machine",
            "widen the host part of the accounts, or run rekeyd where they may log in",
        ),
        1044 => failed(
            FailureClass::Denied,
            "the account may not use the database",
            "grant a privilege on the database to the account or to its role",
        ),
        1049 => failed(
            FailureClass::Invalid,
            "the database does not exist",
            "correct endpoint.database, or create the database",
        ),
        1862 | 1820 => failed(FailureClass::Invalid, "the password has expired", EXPIRED),
        1698 => failed(
            FailureClass::Invalid,
            "the account does not log in by a password",
            "let it use ed25519, caching_sha2_password or mysql_native_password",
        ),
        3159 | 4031 => failed(
            FailureClass::Invalid,
            "the server takes protected connections only",
            "set tls.mode to verify-full",
        ),
        1053 => failed(
            FailureClass::Unavailable,
            "the server is stopping",
            "wait until the server accepts connections",
        ),
        _ => LoginError::Failed(Failure::new(
            class_of(code).unwrap_or(FailureClass::Unavailable),
            doing,
            format!("the server refuses with error {code}"),
        )),
    }
}

/// Of an answer that cannot be read.
pub(super) const UNREADABLE: &str = "the server's answer makes no sense, or does not end";

/// What a failed batch means.
///
/// A batch that changes something is certain to have failed only when the server itself reports an ordinary
/// error before the statement that counts has run: a session that ends, a deadline or a lost reply may come
/// after it.
pub(super) fn batch_failure(error: &BatchError, stage: Stage, doing: &str) -> Failure {
    let code = match error.cause {
        Cause::Server(code) => code,
        Cause::Lost => return lost(stage, doing, "the connection was lost"),
        Cause::Unreadable => return lost(stage, doing, UNREADABLE),
        Cause::Deadline => return lost(stage, doing, "no answer within the deadline"),
    };
    if let Stage::Writing { decisive } = stage
        && (error.completed > decisive || (error.completed == decisive && ends_midway(code)))
    {
        return lost(stage, doing, &format!("the server stopped with error {code}"));
    }
    match code {
        1290 | 1836 | 3100 => Failure::new(FailureClass::Unavailable, doing, "the server takes no changes")
            .with_remedy("this is a replica or a server set to read-only: point the endpoint at the primary"),
        // Of a second password.
        3878 | 3894 | 3895 => Failure::new(
            FailureClass::Invalid,
            doing,
            format!("the server cannot keep the value in force beside a new one (error {code})"),
        )
        .with_remedy("give the account a password of the plugin that it is to have; see `authentication`"),
        1470 => Failure::new(FailureClass::Invalid, doing, "the name is longer than this server takes")
            .with_remedy("use a name of at most 32 characters, which MySQL and MariaDB take"),
        1317 | 1927 | 1053 => {
            Failure::new(FailureClass::Unavailable, doing, "the server ended the statement")
        }
        1969 | 3024 | 1205 => Failure::new(FailureClass::Unavailable, doing, "the server took too long"),
        // The account is not there, or was changed or made at the same time.
        1396 => Failure::new(
            FailureClass::Unavailable,
            doing,
            "the account was changed at the same time, or does not exist",
        ),
        _ => match class_of(code) {
            Some(FailureClass::Denied) => Failure::new(
                FailureClass::Denied,
                doing,
                format!("the admin lacks a privilege (error {code})"),
            ),
            class => Failure::new(
                class.unwrap_or(FailureClass::Invalid),
                doing,
                format!("the server refuses with error {code}"),
            ),
        },
    }
}

/// Whether a statement that ends with this error may have had its effect.
const fn ends_midway(code: u16) -> bool {
    matches!(code, 1317 | 1927 | 1053 | 1969 | 3024 | 1021 | 1026 | 1030)
}

fn lost(stage: Stage, doing: &str, reason: &str) -> Failure {
    match stage {
        Stage::Reading => Failure::new(FailureClass::Unavailable, doing, reason),
        Stage::Writing { .. } => Failure::new(
            FailureClass::Ambiguous,
            doing,
            format!("{reason}; the change may have taken effect"),
        ),
    }
}

/// The class of an error, where its number decides.
pub(super) const fn class_of(code: u16) -> Option<FailureClass> {
    Some(match code {
        // connections, memory, disk, locks, shutdown
        1037 | 1038 | 1040 | 1041 | 1021 | 1053 | 1129 | 1158 | 1159 | 1160 | 1161 | 1203 | 1205 | 1213
        | 1226 | 1317 | 1927 | 1969 | 3024 | 2006 | 2013 => FailureClass::Unavailable,
        // privileges on databases, tables, columns, routines, and global ones
        1044 | 1045 | 1095 | 1142 | 1143 | 1227 | 1370 | 1410 | 1698 => FailureClass::Denied,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verdict_on_the_credential_is_a_refusal() {
        for code in [1045, 4151, 3118] {
            assert!(matches!(refusal(code, "log in"), LoginError::Rejected), "{code}");
        }
        for code in 1000..=u16::MAX {
            if let LoginError::Failed(failure) = refusal(code, "log in") {
                assert_ne!(failure.class(), FailureClass::Refused, "{code}");
            } else {
                assert!([1045, 4151, 3118].contains(&code), "{code}");
            }
        }
    }

    #[test]
    fn a_change_has_failed_for_sure_only_before_the_statement_that_counts() {
        let stage = Stage::Writing { decisive: 2 };
        let class = |completed, cause| batch_failure(&BatchError { completed, cause }, stage, "").class();
        assert_eq!(class(1, Cause::Server(1317)), FailureClass::Unavailable);
        assert_eq!(class(2, Cause::Server(1317)), FailureClass::Ambiguous);
        assert_eq!(class(2, Cause::Server(1227)), FailureClass::Denied);
        assert_eq!(class(3, Cause::Server(1227)), FailureClass::Ambiguous);
        for cause in [Cause::Lost, Cause::Unreadable, Cause::Deadline] {
            assert_eq!(class(0, cause), FailureClass::Ambiguous);
            let reading = batch_failure(&BatchError { completed: 0, cause }, Stage::Reading, "");
            assert_eq!(reading.class(), FailureClass::Unavailable);
        }
    }
}
