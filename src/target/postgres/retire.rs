//! Makes the server refuse a role's value, or undoes an install.
//!
//! A retired role may not log in and has no password: either alone would do, and whoever lifts one by
//! mistake does not bring the old value back. No password rather than one that nobody knows: PostgreSQL
//! promises that a login by password then always fails, tells a client the same as for a wrong one, and
//! asks no extension that judges passwords whether it may be set.

use super::connect::Session;
use super::error::{Stage, batch_failure};
use super::facts::{Facts, Role};
use super::install::{check_role, check_server, foreign, unreadable};
use super::sql::{self, ident, literal};
use super::{PostgresTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::ident::Fence;
use crate::policy::spec::PostgresStrategy;
use crate::target::marker::{Comment, Marker, Standing, State};
use crate::target::{Extent, RetireRequest, Retired};

pub(super) async fn retire(target: &PostgresTarget, request: RetireRequest<'_>) -> Result<Retired, Failure> {
    let doing = target.doing("retire", request.principal);
    target.settled(request.principal).await;
    let lease = target.lease().await?;
    let session = lease.session();
    let before = match request.extent {
        Extent::SessionsBefore(moment) => Some(moment),
        Extent::Disabled => return Ok(Retired::Done { sessions_closed: 0 }),
        Extent::OtherValues => {
            let reason = "a role has one password at a time";
            return Err(Failure::new(FailureClass::Invalid, doing, reason));
        }
        Extent::Principal | Extent::Attempt => {
            match close(target, session, &request, &doing).await? {
                After::EndSessions => {}
                After::LeaveSessions => {
                    lease.give_back();
                    return Ok(Retired::Done { sessions_closed: 0 });
                }
                After::Yield(by) => {
                    lease.give_back();
                    return Ok(Retired::Superseded { by });
                }
            }
            None
        }
    };
    // Dying here leaves sessions open; the repeated retire ends them.
    let ended = sessions::end(session, request.principal, before, &target.deadlines, &doing).await?;
    lease.give_back();
    Ok(Retired::Done { sessions_closed: ended })
}

/// What becomes of the role's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    EndSessions,
    LeaveSessions,
    /// They are a later attempt's.
    Yield(Fence),
}

/// What the transaction does to the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// No login, no known password, and a marker that says so.
    Close(State),
    /// Only the marker: this attempt installed nothing and must not do so later. A role that is not
    /// there is made to carry it, without a login: a late install would make it too.
    Bar,
    /// Nothing. The sessions of a role that is closed already are ended all the same: the process may
    /// have died between the two.
    Nothing(After),
}

/// Changes the role as far as the extent asks for it.
async fn close(
    target: &PostgresTarget,
    session: &Session,
    request: &RetireRequest<'_>,
    doing: &str,
) -> Result<After, Failure> {
    let deadline = target.deadlines.statement;
    let mut opening = sql::begin(request.principal.as_str(), deadline);
    opening.extend(Facts::query(session, request.principal, None, &[]));
    let replies = sql::run(session, opening, deadline)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, doing))?;
    let facts = Facts::parse(replies.last().and_then(|rows| rows.first()), doing)?;
    check_server(&facts, request.principal, doing)?;

    let role = facts.role(request.principal);
    let comment = role.map_or("", |role| role.comment.as_str());
    let comment = Comment::parse(comment).map_err(|error| unreadable(request.principal, &error, doing))?;
    let standing = Marker::standing(comment.marker(), &request.attempt);
    let action = match request.extent {
        Extent::Attempt => undoing(role, &standing, &target.spec.strategy),
        _ => retiring(role, standing, request, doing)?,
    };
    let name = ident(request.principal.as_str());
    let mark = |state| {
        let comment = comment.with(&Marker::new(&request.attempt, state));
        format!("COMMENT ON ROLE {name} IS {}", literal(&comment))
    };
    let (statements, after) = match action {
        Action::Close(state) => {
            let close = format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL");
            (vec![close, mark(state), "COMMIT".to_owned()], After::EndSessions)
        }
        Action::Bar => {
            let make = role.is_none().then(|| format!("CREATE ROLE {name} NOLOGIN"));
            let statements = make.into_iter().chain([mark(State::Withdrawn), "COMMIT".to_owned()]);
            (statements.collect(), After::LeaveSessions)
        }
        Action::Nothing(after) => (vec!["COMMIT".to_owned()], after),
    };
    if let (Some(role), Action::Close(_) | Action::Bar) = (role, action) {
        check_role(&facts, role, request.principal, doing)?;
    }
    between!("postgres.retire.locked");
    sql::run(session, statements, deadline).await.map_err(|error| {
        let failure = batch_failure(&error, Stage::Writing, doing);
        match failure.class() {
            FailureClass::Denied => failure.with_remedy(facts.admin_remedy(request.principal)),
            _ => failure,
        }
    })?;
    between!("postgres.retire.committed");
    Ok(after)
}

fn retiring(
    role: Option<&Role>,
    standing: Standing,
    request: &RetireRequest<'_>,
    doing: &str,
) -> Result<Action, Failure> {
    match standing {
        _ if role.is_none() => Ok(Action::Nothing(After::LeaveSessions)),
        Standing::Open | Standing::Own(_) => Ok(Action::Close(State::Retired)),
        Standing::Foreign(policy) => Err(foreign(request.principal, &policy, doing)),
        Standing::Later(by) => Ok(Action::Nothing(After::Yield(by))),
    }
}

/// Whatever comes of it, an install of this attempt that arrives later finds a marker that refuses it:
/// its own, a later one or another policy's. An install under way has ended by now, as it held the role's
/// lock; one that a process sends late would make a role of a pair that does not exist.
fn undoing(role: Option<&Role>, standing: &Standing, strategy: &PostgresStrategy) -> Action {
    match (role, standing) {
        (Some(_), Standing::Own(State::Installed)) => Action::Close(State::Withdrawn),
        (Some(_), Standing::Open) => Action::Bar,
        (None, _) if matches!(strategy, PostgresStrategy::Alternating(_)) => Action::Bar,
        (Some(role), Standing::Own(State::Withdrawn)) if !role.login => Action::Nothing(After::EndSessions),
        _ => Action::Nothing(After::LeaveSessions),
    }
}
