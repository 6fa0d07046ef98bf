//! Open sessions: listing them, and ending them until none is left.
//!
//! A changed password ends no session. A session belongs to the role that logged in, whatever role it
//! took on since; logins for replication count too.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::Deadlines;
use super::error::{Stage, batch_failure};
use super::sql::{self, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::target::{Session, Usage};

/// Those of a principal, oldest first.
pub(super) async fn usage(
    client: &Client,
    principal: &Principal,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<Usage, Failure> {
    let list = format!(
        "SELECT json_build_object('application', coalesce(application_name, ''),
           'client', coalesce(host(client_addr), ''),
           'since', (extract(epoch FROM backend_start) * 1000000)::bigint)
         FROM pg_stat_activity WHERE {} ORDER BY backend_start",
        of(principal)
    );
    let mut statements = sql::begin_reading(deadlines.statement);
    let answer = statements.len();
    statements.extend([list, "COMMIT".to_owned()]);
    let replies = sql::run(client, statements, deadlines.statement)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, doing))?;
    let rows = replies.get(answer).map(Vec::as_slice).unwrap_or_default();
    let sessions =
        rows.iter().map(|row| session(row).ok_or_else(|| blind(doing))).collect::<Result<_, _>>()?;
    Ok(Usage { sessions })
}

/// Ends the principal's sessions, or those that began before a moment, and returns how many there were.
///
/// The server is asked again until it lists none, so a session that takes its time to end is waited for.
/// A login that the server had let in just before its role was closed shows only once it has started:
/// proving a value dead therefore includes another look at [`usage`] after a refused login.
pub(super) async fn end(
    client: &Client,
    principal: &Principal,
    before: Option<Timestamp>,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<u64, Failure> {
    let all = of(principal);
    // Without the right to see it, the beginning is null: such a session is reported, not guessed about.
    let (listed, condition) = match before {
        None => ("pid::text", String::new()),
        Some(moment) => {
            let microseconds = moment.as_microsecond();
            let moment = format!("timestamptz 'epoch' + {microseconds} * interval '1 microsecond'");
            let listed = "CASE WHEN backend_start IS NULL THEN '' ELSE pid::text END";
            (listed, format!(" AND coalesce(backend_start < {moment}, true)"))
        }
    };
    let from = format!("FROM pg_stat_activity WHERE {all}{condition}");
    let list = format!("SELECT {listed} {from}");
    let terminate = format!("SELECT count(pg_terminate_backend(pid)) {from} AND {listed} <> ''");

    let deadline = Instant::now() + deadlines.statement;
    let mut ended = HashSet::new();
    let mut pause = 0.0_f64;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.as_secs_f64() <= 2.0 * pause {
            let reason = "its sessions do not end";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("look at pg_stat_activity for sessions that ignore pg_terminate_backend"));
        }
        // The server does the waiting: a session is gone milliseconds after it was told.
        let wait = format!("SELECT pg_sleep({pause})");
        let replies = sql::run(client, [&wait, &list, &terminate], left).await.map_err(|error| {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() != FailureClass::Denied {
                return failure;
            }
            Failure::new(FailureClass::Denied, doing, "the admin may not end its sessions")
                .with_remedy("as a superuser: GRANT pg_signal_backend TO the admin role")
        })?;
        let told = replies.get(1).map(Vec::as_slice).unwrap_or_default();
        if told.iter().any(String::is_empty) {
            return Err(blind(doing));
        }
        if told.is_empty() {
            return Ok(ended.len() as u64);
        }
        ended.extend(told.iter().cloned());
        pause = (pause * 2.0).clamp(0.001, 0.1);
    }
}

/// Background workers run under a role's name too, without having logged in.
fn of(principal: &Principal) -> String {
    format!(
        "usename = {} AND pid <> pg_backend_pid() \
         AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')",
        literal(principal.as_str())
    )
}

fn session(row: &str) -> Option<Session> {
    #[derive(Deserialize)]
    struct Row {
        application: String,
        client: String,
        since: Option<i64>,
    }
    let Row { application, client, since } = serde_json::from_str(row).ok()?;
    Some(Session { application, client, since: Timestamp::from_microsecond(since?).ok()? })
}

fn blind(doing: &str) -> Failure {
    Failure::new(FailureClass::Denied, doing, "the admin may not see when sessions began")
        .with_remedy("as a superuser: GRANT pg_read_all_stats TO the admin role")
}
