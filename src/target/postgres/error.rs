//! What the driver's errors mean.
//!
//! Decided by SQLSTATE and, where one code has several meanings, by the name of the routine that raised
//! it: texts are translated by the server's `lc_messages` and could quote a statement, so none is read
//! or passed on.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::sql::BatchError;
use super::witness::CleartextDemanded;
use crate::failure::{Failure, FailureClass};
use crate::target::tls;

/// Why a login did not succeed.
#[derive(Debug)]
pub(super) enum LoginError {
    /// A verdict on the credential: the password is wrong, or the role does not exist or may not log in.
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
    /// The whole change, with its `COMMIT`, was on its way.
    Writing,
}

pub(super) fn login_error(error: &tokio_postgres::Error, doing: &str) -> LoginError {
    if let Some(error) = error.as_db_error() {
        return refusal(error, doing);
    }
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        let inner = error.get_ref();
        if inner.is_some_and(|inner| inner.is::<CleartextDemanded>()) {
            return Failure::new(FailureClass::Invalid, doing, CleartextDemanded)
                .with_remedy(
                    "use scram-sha-256 in pg_hba.conf: a value is proven to a server and never handed to one",
                )
                .into();
        }
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            let (reason, remedy) = tls::explain(error);
            return Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy).into();
        }
        let reason = format!("the connection failed: {}", error.kind());
        return Failure::new(FailureClass::Unavailable, doing, reason).into();
    }
    if error.is_closed() {
        let reason = "the server ended the connection during the login";
        return Failure::new(FailureClass::Unavailable, doing, reason).into();
    }
    Failure::new(FailureClass::Invalid, doing, "the login cannot be completed with this server")
        .with_remedy("rekeyd logs in with scram-sha-256, md5 and password; use scram-sha-256 in pg_hba.conf")
        .into()
}

fn refusal(error: &DbError, doing: &str) -> LoginError {
    let code = word(error.code());
    let failed = |class, reason: &str, remedy: &'static str| {
        LoginError::Failed(Failure::new(class, doing, reason).with_remedy(remedy))
    };
    match (code, error.routine()) {
        ("28P01", _) => LoginError::Rejected,
        // The role does not exist or is NOLOGIN. Every other 28000 is about the connection, not the credential.
        ("28000", Some("InitializeSessionUserId")) => LoginError::Rejected,
        ("28000", _) => failed(
            FailureClass::Denied,
            "the server's pg_hba.conf does not let this connection in",
            "add a scram-sha-256 line for rekeyd's address to pg_hba.conf",
        ),
        ("3D000", _) => failed(
            FailureClass::Invalid,
            "the database does not exist",
            "correct endpoint.database, or create the database",
        ),
        ("42501", _) => failed(
            FailureClass::Denied,
            "the role may not connect to the database",
            "grant CONNECT on the database to the role or to its group",
        ),
        ("53300", _) => failed(
            FailureClass::Unavailable,
            "too many connections",
            "raise max_connections or the role's connection limit, or reserve some for rekeyd",
        ),
        ("57P03", _) => failed(
            FailureClass::Unavailable,
            "the server is starting, stopping or recovering",
            "wait until the server accepts connections",
        ),
        _ => LoginError::Failed(Failure::new(
            class_of(code).unwrap_or(FailureClass::Unavailable),
            doing,
            format!("the server refuses with SQLSTATE {code}"),
        )),
    }
}

/// What a failed batch means. `stage` says whether the batch would have changed something.
///
/// A batch that changes something is certain to have failed only when the server itself reports an
/// ordinary error: a session that ends, a deadline or a lost reply may come after the commit.
pub(super) fn batch_failure(error: &BatchError, stage: Stage, doing: &str) -> Failure {
    let Some(cause) = &error.cause else {
        return lost(stage, doing, "no answer within the deadline");
    };
    let Some(cause) = cause.as_db_error() else {
        return lost(stage, doing, "the connection was lost");
    };
    let code = word(cause.code());
    if stage == Stage::Writing && cause.parsed_severity() != Some(Severity::Error) {
        return lost(stage, doing, &format!("the server ended the session with SQLSTATE {code}"));
    }
    match code {
        "25006" => Failure::new(FailureClass::Unavailable, doing, "the server is read-only")
            .with_remedy("this is a standby or a server set to read-only: point the endpoint at the primary"),
        "42501" => Failure::new(FailureClass::Denied, doing, "the admin lacks a privilege"),
        "57014" => Failure::new(FailureClass::Unavailable, doing, "the server took too long"),
        "55P03" => Failure::new(FailureClass::Unavailable, doing, "another change holds the role"),
        // Two sessions changed the same catalogue row, or created the same role.
        "XX000" | "23505" | "42710" | "42704" => Failure::new(
            FailureClass::Unavailable,
            doing,
            format!("the role was changed at the same time (SQLSTATE {code})"),
        ),
        _ => Failure::new(
            class_of(code).unwrap_or(FailureClass::Invalid),
            doing,
            format!("the server refuses with SQLSTATE {code}"),
        ),
    }
}

fn lost(stage: Stage, doing: &str, reason: &str) -> Failure {
    match stage {
        Stage::Reading => Failure::new(FailureClass::Unavailable, doing, reason),
        Stage::Writing => Failure::new(
            FailureClass::Ambiguous,
            doing,
            format!("{reason}; the change may have taken effect"),
        ),
    }
}

/// The code, if it is one: anything may listen there.
pub(super) fn word(state: &SqlState) -> &str {
    let code = state.code();
    let is_word = code.len() == 5 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if is_word { code } else { "?????" }
}

/// The class of an error by the class of its SQLSTATE
/// (https://www.postgresql.org/docs/current/errcodes-appendix.html), where that decides.
pub(super) fn class_of(code: &str) -> Option<FailureClass> {
    match code.get(..2)? {
        // connection, rollback, resources, operator intervention, system, internal
        "08" | "40" | "53" | "55" | "57" | "58" | "XX" => Some(FailureClass::Unavailable),
        "28" => Some(FailureClass::Denied),
        _ => None,
    }
}
