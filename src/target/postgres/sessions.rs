//! Open sessions: listing them, and ending them until none is left.
//!
//! A changed password ends no session. A session belongs to the role that logged in, whatever role it
//! took on since; logins for replication count too.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::Deadlines;
use super::connect::Session as Admin;
use super::error::{Stage, batch_failure};
use super::planned::Planned;
use super::sql::{self, literal};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::target::{LastUse, Session, Usage};

/// Those of a principal, oldest first.
pub(super) async fn usage(
    admin: &Admin,
    principal: &Principal,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<Usage, Failure> {
    let mut statements = sql::begin_reading(deadlines.statement);
    statements.extend(admin.plans().call(&DESCRIBE, &[literal(principal.as_str())]));
    let answer = statements.len() - 1;
    statements.push("COMMIT".to_owned());
    let replies = sql::run(admin, statements, deadlines.statement)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, doing))?;
    let rows = replies.get(answer).map(Vec::as_slice).unwrap_or_default();
    let sessions =
        rows.iter().map(|row| session(row).ok_or_else(|| blind(doing))).collect::<Result<_, _>>()?;
    Ok(Usage { sessions, last: LastUse::BySessions })
}

/// Ends the principal's sessions, or those that began before a moment, and returns how many there were.
///
/// The server is asked again until it lists none, so a session that takes its time to end is waited for.
/// A login that the server had let in just before its role was closed shows only once it has started:
/// proving a value dead therefore includes another look at [`usage`] after a refused login.
pub(super) async fn end(
    admin: &Admin,
    principal: &Principal,
    before: Option<Timestamp>,
    deadlines: &Deadlines,
    doing: &str,
) -> Result<u64, Failure> {
    // Without the right to see it, the beginning is null: such a session is reported, not guessed about.
    let moment = before.map_or_else(
        || "NULL".to_owned(),
        |moment| format!("(timestamptz 'epoch' + {} * interval '1 microsecond')", moment.as_microsecond()),
    );
    let arguments = [literal(principal.as_str()), moment];
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
        let mut statements = vec![sql::local_settings(left), format!("SELECT pg_sleep({pause})")];
        statements.extend(admin.plans().call(&LIST, &arguments));
        let answer = statements.len() - 1;
        statements.extend(admin.plans().call(&TERMINATE, &arguments));
        let replies = sql::run(admin, statements, left).await.map_err(|error| {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() != FailureClass::Denied {
                return failure;
            }
            Failure::new(FailureClass::Denied, doing, "the admin may not end its sessions")
                .with_remedy("as a superuser: GRANT pg_signal_backend TO the admin role")
        })?;
        let told = replies.get(answer).map(Vec::as_slice).unwrap_or_default();
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

/// What there is to say of each session of role `$1`.
const DESCRIBE: Planned = Planned {
    name: "rekeyd_describe_sessions",
    parameters: "name",
    text: || {
        format!(
            "SELECT json_build_object('application', coalesce(application_name, ''),
               'client', coalesce(host(client_addr), ''),
               'since', (extract(epoch FROM backend_start) * 1000000)::bigint)
             FROM pg_stat_activity WHERE {OF_ROLE} ORDER BY backend_start"
        )
    },
};

/// The process ids of role `$1`'s sessions, or of those that began before `$2`; empty where that is not
/// to be seen.
const LIST: Planned = Planned {
    name: "rekeyd_list_sessions",
    parameters: "name, timestamptz",
    text: || format!("SELECT {LISTED} FROM pg_stat_activity WHERE {OF_ROLE} AND {BEFORE}"),
};

/// Ends those that [`LIST`] gives the process ids of.
const TERMINATE: Planned = Planned {
    name: "rekeyd_end_sessions",
    parameters: "name, timestamptz",
    text: || {
        format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE {OF_ROLE} AND {BEFORE} AND {LISTED} <> ''"
        )
    },
};

/// Background workers run under a role's name too, without having logged in.
const OF_ROLE: &str = "usename = $1 AND pid <> pg_backend_pid() \
     AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')";

const BEFORE: &str = "($2 IS NULL OR coalesce(backend_start < $2, true))";

const LISTED: &str = "CASE WHEN $2 IS NOT NULL AND backend_start IS NULL THEN '' ELSE pid::text END";

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
