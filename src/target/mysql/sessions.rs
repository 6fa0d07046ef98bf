//! Open sessions: listing them, and ending them until none is left.
//!
//! A changed password ends no session, and neither does a locked account. `KILL` says that all is well when
//! it did nothing, so the server's list alone counts.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::MysqlTarget;
use super::connect::Session as Admin;
use super::error::{Stage, batch_failure};
use super::facts::{Locking, RIGHTS, SEES_ALL, sessions, threads};
use super::marker::{Marker, Numbers};
use super::sql::{self, Cause};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::target::{Session, Usage};

/// Those of a user, oldest first.
pub(super) async fn usage(target: &MysqlTarget, principal: &Principal) -> Result<Usage, Failure> {
    let doing = target.doing("list sessions of", principal);
    target.settled(principal).await;
    let mut lease = target.lease().await?;
    let question = target.question(principal, None);
    let facts = target.facts(lease.session(), &question, Locking::No, &doing).await?;
    let numbers = Numbers::at(lease.session().id());
    lease.end();
    let marker = facts.marker.as_ref().ok().and_then(Option::as_ref);
    let mut sessions: Vec<Session> = facts
        .sessions
        .into_iter()
        .map(|thread| Session {
            // Where a server knows it, it is in a part that is off as a rule.
            application: String::new(),
            client: thread.client,
            since: Marker::since(marker, facts.boot, thread.id, facts.now - thread.idle * 1_000, numbers),
        })
        .collect();
    sessions.sort_by_key(|session| session.since);
    Ok(Usage { sessions, ..Usage::default() })
}

/// Ends the user's sessions, or those before one with a number, and returns how many there were.
///
/// The server is asked again until it lists none, so a session that takes its time to end is waited for.
/// A login that the server had let in just before its account was closed shows only once it has started:
/// proving a value dead therefore includes another look at [`usage`] after a refused login.
pub(super) async fn end(
    target: &MysqlTarget,
    admin: &mut Admin,
    principal: &Principal,
    before: Option<u64>,
    doing: &str,
) -> Result<u64, Failure> {
    let deadline = Instant::now() + target.deadlines.statement;
    let numbers = Numbers::at(admin.id());
    let mut ended = HashSet::new();
    let mut pause = Duration::ZERO;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left <= pause * 2 {
            let reason = "its sessions do not end";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("look at SHOW PROCESSLIST for sessions that are Killed and go on"));
        }
        SystemClock.sleep(pause).await;
        let list = [SEES_ALL.to_owned(), threads(admin.flavor(), principal)];
        let replies = sql::run(admin, list, left).await.map_err(|error| {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() == FailureClass::Denied { failure.with_remedy(RIGHTS) } else { failure }
        })?;
        let open = replies.last().and_then(|rows| sessions(rows)).ok_or_else(|| {
            Failure::new(FailureClass::Invalid, doing, "the server lists sessions in an unknown form")
        })?;
        let open = open.iter().map(|thread| thread.id);
        let open = open.filter(|id| !target.pool.farewells().has_ended(&target.spec.endpoint, *id));
        let is_before = |id: &u64| before.is_none_or(|before| numbers.is_before(*id, before));
        let open: Vec<u64> = open.filter(is_before).collect();
        if open.is_empty() {
            return Ok(ended.len() as u64);
        }
        for id in open {
            kill(admin, id, left, doing).await?;
            ended.insert(id);
        }
        pause = (pause * 2).clamp(Duration::from_millis(1), Duration::from_millis(100));
    }
}

async fn kill(admin: &mut Admin, id: u64, deadline: Duration, doing: &str) -> Result<(), Failure> {
    /// It has ended by itself.
    const NO_SUCH_THREAD: u16 = 1094;
    match sql::run(admin, [format!("KILL CONNECTION {id}")], deadline).await {
        Ok(_) => Ok(()),
        Err(error) if error.cause == Cause::Server(NO_SUCH_THREAD) => Ok(()),
        Err(error) => {
            let failure = batch_failure(&error, Stage::Reading, doing);
            if failure.class() != FailureClass::Denied {
                return Err(failure);
            }
            Err(Failure::new(FailureClass::Denied, doing, "the admin may not end its sessions")
                .with_remedy(
                    "GRANT CONNECTION ADMIN (MySQL: CONNECTION_ADMIN, and SYSTEM_USER if the account has it) ON *.* TO \
                     the admin",
                ))
        }
    }
}
