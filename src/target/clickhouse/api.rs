//! Statements over HTTP, and what a server's answers mean.
//!
//! A statement is the body of a request and the login a header of it. What was wrong is told by the number in the
//! header `X-ClickHouse-Exception-Code`. Nothing of an answer's text is passed on but what is read from it: it quotes
//! statements. An answer without a header that only a ClickHouse sends is not taken for one, whatever its status.

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, FailureClass};
use crate::http::{Deadlines, Http, Lost, Method, Stage, StatusCode, Url};
use crate::policy::spec::{ClickhouseNode, ClickhouseSpec, TlsMode};
use crate::secret::Credential;

/// The running queries of a large server are one answer.
const MOST_BYTES: usize = 16 * 1024 * 1024;

const EXCEPTION: &str = "x-clickhouse-exception-code";
const OWN_HEADERS: [&str; 3] = ["x-clickhouse-query-id", "x-clickhouse-server-display-name", EXCEPTION];

/// The login was refused.
pub(super) const AUTHENTICATION_FAILED: u32 = 516;
const ACCESS_DENIED: u32 = 497;
const THERE_IS_NO_PROFILE: u32 = 180;
const UNKNOWN_USER: u32 = 192;

/// A client that logs in as one user, with each request.
pub(super) struct Api {
    http: Http,
    credential: Credential,
}

/// Rows as JSON.
pub(super) type Rows = Vec<Vec<Value>>;

/// What a server said to a statement.
#[derive(Debug)]
pub(super) enum Said {
    Rows(Rows),
    /// It did not carry it out, or not to its end.
    Exception(u32),
    /// It carried it out, and printed something else than rows in the form that was asked for.
    Unreadable,
    /// Whatever answered, it is no ClickHouse.
    Strange(StatusCode),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// A user or a profile that it names is not there. Nothing was changed.
    Missing,
}

impl Api {
    pub(super) async fn new(
        spec: &ClickhouseSpec,
        node: &ClickhouseNode,
        credential: Credential,
        deadlines: Deadlines,
        doing: &str,
    ) -> Result<Self, Failure> {
        let invalid = |reason: String, remedy: &'static str| {
            Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy)
        };
        if credential.principal.as_str().contains(':') {
            let reason = "no login over HTTP can name a user with a colon";
            return Err(invalid(reason.into(), "use a user of another name"));
        }
        let scheme = if spec.tls.mode == TlsMode::Disable { "http" } else { "https" };
        let host = if node.host.contains(':') { format!("[{}]", node.host) } else { node.host.clone() };
        let base = Url::parse(&format!("{scheme}://{host}:{}/", node.port))
            .map_err(|_| invalid("its host is not one that a request can name".into(), "correct its host"))?;
        let http = Http::new(base, &spec.tls, deadlines, MOST_BYTES).await.map_err(|reason| {
            invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
        })?;
        Ok(Self { http, credential })
    }

    /// Who it logs in as.
    pub(super) const fn credential(&self) -> &Credential {
        &self.credential
    }

    pub(super) async fn send(&self, statement: &str) -> Result<Said, Lost> {
        // Nothing in the address: that is what ends up in logs, and who is read-only may set nothing there.
        let request = self.http.request(Method::POST, &[], "", &self.credential);
        let request = request.header("x-clickhouse-format", "JSONCompact").body(statement.to_owned());
        let answer = self.http.send(request).await?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(code) = header(EXCEPTION).and_then(|code| code.trim().parse().ok()) {
            return Ok(Said::Exception(code));
        }
        let is_own = OWN_HEADERS.iter().any(|name| answer.headers.contains_key(*name));
        if !answer.status.is_success() || !is_own {
            return Ok(Said::Strange(answer.status));
        }
        if answer.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Said::Rows(Vec::new()));
        }
        let parsed = serde_json::from_slice::<Table>(&answer.body);
        Ok(parsed.map_or(Said::Unreadable, |table| Said::Rows(table.data)))
    }

    /// Asks something that changes nothing.
    pub(super) async fn ask(&self, statement: &str, doing: &str) -> Result<Rows, Failure> {
        match self.send(statement).await.map_err(|error| lost(error, Stage::Reading, doing))? {
            Said::Rows(rows) => Ok(rows),
            Said::Exception(code) => Err(exception(code, Stage::Reading, doing)),
            Said::Unreadable => Err(odd("what it was asked", doing)),
            Said::Strange(status) => Err(strange(status, Stage::Reading, doing)),
        }
    }

    /// Changes something.
    pub(super) async fn change(&self, statement: &str, doing: &str) -> Result<Outcome, Failure> {
        match self.send(statement).await.map_err(|error| lost(error, Stage::Writing, doing))? {
            Said::Rows(_) | Said::Unreadable => Ok(Outcome::Done),
            Said::Exception(THERE_IS_NO_PROFILE | UNKNOWN_USER) => Ok(Outcome::Missing),
            Said::Exception(code) => Err(exception(code, Stage::Writing, doing)),
            Said::Strange(status) => Err(strange(status, Stage::Writing, doing)),
        }
    }
}

/// An answer in `JSONCompact`.
#[derive(Deserialize)]
struct Table {
    data: Rows,
}

/// What an exception means.
pub(super) fn exception(code: u32, stage: Stage, doing: &str) -> Failure {
    let failed =
        |class, reason: &str, remedy: &'static str| Failure::new(class, doing, reason).with_remedy(remedy);
    match code {
        AUTHENTICATION_FAILED => failed(
            FailureClass::Denied,
            "the server refuses the admin credential",
            "put the admin's working password where the settings say",
        ),
        ACCESS_DENIED => failed(FailureClass::Denied, "the admin may not do that (error 497)", RIGHTS),
        // Read-only by its settings.
        164 | 452 | 472 => failed(
            FailureClass::Denied,
            "the admin's settings do not let it change anything",
            "give the admin a settings profile without `readonly`",
        ),
        // A storage that takes no change.
        495 | 514 => failed(FailureClass::Invalid, READONLY, READONLY_REMEDY),
        // Syntax, and what is not known.
        46 | 47 | 60 | 62 | 115 | 508 => {
            let reason = format!("the server does not know a statement that this needs (error {code})");
            Failure::new(FailureClass::Invalid, doing, reason).with_remedy("use ClickHouse 24.12 or later")
        }
        // It looked at the user and did not take what it would have been.
        36 => failed(
            FailureClass::Invalid,
            "the server does not take the change (error 36)",
            "see in its log what it says, and max_authentication_methods_per_user in its settings",
        ),
        // What it is to have by default it does not have at all.
        512 => failed(
            FailureClass::Invalid,
            "the user does not have the role (error 512)",
            "grant it the role first",
        ),
        // The server is busy, or a quota is used up: it did not begin.
        201 | 202 | 700 => Failure::new(
            FailureClass::Unavailable,
            doing,
            format!("the server takes no statement for now (error {code})"),
        )
        .with_remedy("look at the admin's quota, and at what the server is busy with"),
        THERE_IS_NO_PROFILE | UNKNOWN_USER | 511 => Failure::new(
            FailureClass::Conflict,
            doing,
            format!("what the statement names is not there (error {code})"),
        )
        .with_remedy("find out who else changes users there"),
        // Of anything else nobody can say how far it came.
        code => match stage {
            Stage::Reading => {
                let reason = format!("the server answers with error {code}");
                Failure::new(FailureClass::Unavailable, doing, reason)
                    .with_remedy("see in the server's log what it says")
            }
            Stage::Writing => {
                let reason =
                    format!("the server answers with error {code}; the change may have taken effect");
                Failure::new(FailureClass::Ambiguous, doing, reason)
                    .with_remedy("see in the server's log what it says")
            }
        },
    }
}

const RIGHTS: &str = "GRANT CREATE USER, ALTER USER, DROP USER, CREATE SETTINGS PROFILE, DROP SETTINGS PROFILE, SHOW \
                      ACCESS, KILL QUERY ON *.* TO the admin; GRANT SELECT ON system.* TO the admin";

pub(super) const READONLY: &str = "the server keeps its users where they cannot be changed by a statement";

pub(super) const READONLY_REMEDY: &str = "take the user out of users.xml and make it with CREATE USER, with a \
                                          `local_directory` or `replicated` storage under `user_directories`";

/// Whatever answers is no ClickHouse, or its answer cannot be understood.
pub(super) fn strange(status: StatusCode, stage: Stage, doing: &str) -> Failure {
    let reason = format!("the answer is not one of a ClickHouse server (status {})", status.as_u16());
    let remedy = "check that the HTTP interface of a ClickHouse listens there, and what is on the way to it";
    match stage {
        Stage::Reading if status.is_server_error() => {
            Failure::new(FailureClass::Unavailable, doing, reason).with_remedy(remedy)
        }
        Stage::Reading => Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy),
        Stage::Writing => {
            let reason = format!("{reason}; the change may have taken effect");
            Failure::new(FailureClass::Ambiguous, doing, reason).with_remedy(remedy)
        }
    }
}

pub(super) fn odd(what: &str, doing: &str) -> Failure {
    let reason = format!("the server describes {what} in an unknown form");
    Failure::new(FailureClass::Invalid, doing, reason)
        .with_remedy("see whether rekeyd knows this version of ClickHouse")
}

/// What it means that no answer came.
pub(super) fn lost(lost: Lost, stage: Stage, doing: &str) -> Failure {
    let remedy = "check that the server runs, and that its HTTP interface listens on that port, with TLS or without \
                  as the policy says";
    lost.into_failure(stage, doing, remedy)
}
