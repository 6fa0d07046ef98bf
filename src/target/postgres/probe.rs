//! Tries a login, on a connection of its own.

use futures_util::future::join_all;

use super::connect::{self, Session};
use super::error::{LoginError, class_of, word};
use super::witness::Demand;
use super::{Deadlines, PostgresTarget};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::PostgresEndpoint;
use crate::secret::Credential;
use crate::target::{Probe, ProbeDepth};

/// When another endpoint refuses what the main one takes.
const LATE: &str = "look at the replica's lag, or at the pooler's user list";

pub(super) async fn probe(target: &PostgresTarget, credential: &Credential, depth: ProbeDepth) -> Probe {
    let (spec, deadlines, farewells) = (&target.spec, &target.deadlines, target.pool.farewells());
    let main = async {
        match enter(&spec.endpoint, credential, deadlines).await {
            Entry::Let(session) => {
                let checked = match (&spec.check, depth) {
                    (Some(check), ProbeDepth::Check) => {
                        run_check(&session, check, &spec.endpoint, deadlines).await
                    }
                    _ => Probe::Accepted,
                };
                farewells.bid(&spec.endpoint, &credential.principal, session);
                checked
            }
            Entry::Rejected => Probe::Refused,
            Entry::Failed(failure) => Probe::Unknown(failure),
        }
    };
    let others = match depth {
        ProbeDepth::Login => &[][..],
        ProbeDepth::Check => &spec.also_verify,
    };
    let others = join_all(others.iter().map(|endpoint| also(endpoint, credential, deadlines)));
    let (main, others) = tokio::join!(main, others);
    main.with_others(others)
}

/// How a server answered a login.
pub(super) enum Entry {
    /// It asked for a proof of the value, and let the login in.
    Let(Session),
    Rejected,
    Failed(Failure),
}

/// Logs in, and does not take an open door for a proof.
pub(super) async fn enter(
    endpoint: &PostgresEndpoint,
    credential: &Credential,
    deadlines: &Deadlines,
) -> Entry {
    match connect::open(endpoint, credential, deadlines).await {
        Ok(session) => match session.demand() {
            Some(Demand::Md5 | Demand::Scram) => Entry::Let(session),
            Some(Demand::Nothing) | None => {
                session.close().await;
                Entry::Failed(open_door(endpoint, credential))
            }
        },
        Err(LoginError::Rejected) => Entry::Rejected,
        Err(LoginError::Failed(failure)) => Entry::Failed(failure),
    }
}

/// A login that proves nothing about the value.
fn open_door(endpoint: &PostgresEndpoint, credential: &Credential) -> Failure {
    let doing = format!("tell whether {} is accepted at {endpoint}", credential.principal);
    Failure::new(FailureClass::Invalid, doing, "the server lets this role in without asking for its password")
        .with_remedy("use scram-sha-256 instead of trust, peer or cert in pg_hba.conf for this role")
}

async fn also(endpoint: &PostgresEndpoint, credential: &Credential, deadlines: &Deadlines) -> Probe {
    match enter(endpoint, credential, deadlines).await {
        Entry::Let(session) => {
            session.close().await;
            Probe::Accepted
        }
        Entry::Rejected => Probe::refused_elsewhere(&credential.principal, endpoint, LATE),
        Entry::Failed(failure) => Probe::Unknown(failure),
    }
}

/// Runs the policy's statement in a transaction that cannot write.
pub(super) async fn run_check(
    session: &Session,
    check: &str,
    endpoint: &PostgresEndpoint,
    deadlines: &Deadlines,
) -> Probe {
    let doing = format!("run the check statement on {endpoint}");
    let unanswered =
        |reason: &str| Probe::Unknown(Failure::new(FailureClass::Unavailable, doing.as_str(), reason));
    let client = session.client();
    let attempt = async {
        let milliseconds = deadlines.statement.as_millis() * 4 / 5;
        let opening = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {milliseconds}");
        client.batch_execute(&opening).await?;
        // As an extended query it can be one statement only.
        client.execute(check, &[]).await?;
        client.batch_execute("ROLLBACK").await
    };
    let error = match tokio::time::timeout(deadlines.statement, attempt).await {
        Ok(Ok(())) => return Probe::Accepted,
        Ok(Err(error)) => error,
        Err(_) => return unanswered("no answer within the deadline"),
    };
    let Some(code) = error.code().map(word) else { return unanswered("the connection was lost") };
    let failure = |class| Failure::new(class, doing.as_str(), format!("it failed with SQLSTATE {code}"));
    let (class, remedy) = match (code, class_of(code)) {
        ("42501", _) => (FailureClass::Denied, "grant the privilege to the group of both roles"),
        ("25006", _) => (FailureClass::Invalid, "the check must only read"),
        (_, Some(class)) => return Probe::Unknown(failure(class)),
        (_, None) => (FailureClass::Invalid, "run target.postgres.check by hand as the role"),
    };
    Probe::Unfit(failure(class).with_remedy(remedy))
}
