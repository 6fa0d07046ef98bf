//! Makes the server refuse an account's value, or undoes an install.
//!
//! A retired account is locked and has no password that anybody knows: either alone would do, and whoever
//! lifts one by mistake does not bring the old value back.

use super::MysqlTarget;
use super::account::{Batch, Statement, Values, Writing, method};
use super::connect::{Flavor, Session};
use super::error::{Stage, batch_failure};
use super::facts::{Account, Facts, Locking};
use super::install::{admin_remedy, check_server, foreign, latest, make_table, unreadable};
use super::marker::{Marker, Numbers, Standing, State};
use super::{sessions, sql};
use crate::failure::{Failure, FailureClass};
use crate::ident::Fence;
use crate::policy::spec::MysqlStrategy;
use crate::target::{Extent, RetireRequest, Retired};

pub(super) async fn retire(target: &MysqlTarget, request: RetireRequest<'_>) -> Result<Retired, Failure> {
    let doing = target.doing("retire", request.principal);
    if request.extent == Extent::OtherValues {
        let is_dual = matches!(target.spec.strategy, MysqlStrategy::DualPassword(_));
        if !is_dual || request.beside.is_none() {
            let reason = "nothing says which of its values is to go on working";
            return Err(Failure::new(FailureClass::Invalid, doing, reason));
        }
    }
    let locking = match request.extent {
        Extent::Disabled => return Ok(Retired::Done { sessions_closed: 0 }),
        Extent::SessionsBefore(_) => Locking::No,
        Extent::Principal | Extent::OtherValues | Extent::Attempt => Locking::Yes,
    };
    target.settled(request.principal).await;
    let mut lease = target.lease().await?;
    let session = lease.session();
    let question = target.question(request.principal, None);
    let mut facts = target.facts(session, &question, locking, &doing).await?;
    let beside = request.beside.map(|beside| &beside.value);
    facts.work_out(request.principal, &target.spec.account_host, &[beside]).await;
    let before = match request.extent {
        Extent::SessionsBefore(moment) => {
            let marker = facts.marker.as_ref().ok().and_then(Option::as_ref);
            let numbers = Numbers::at(session.id());
            match marker.and_then(|marker| marker.first_session_after(facts.boot, moment, numbers)) {
                Some(first) => Some(first),
                // It is not known which session began when: better one too many than one too few.
                None => Some(latest(target, facts.boot, &doing).await?.session),
            }
        }
        _ => match close(target, session, &facts, &request, &doing).await? {
            After::EndSessions => None,
            After::EndSessionsSoFar => Some(latest(target, facts.boot, &doing).await?.session),
            After::LeaveSessions => {
                lease.end();
                return Ok(Retired::Done { sessions_closed: 0 });
            }
            After::Yield(by) => {
                lease.end();
                return Ok(Retired::Superseded { by });
            }
        },
    };
    // Dying here leaves sessions open; the repeated retire ends them.
    let ended = sessions::end(target, session, request.principal, before, &doing).await?;
    lease.end();
    Ok(Retired::Done { sessions_closed: ended })
}

/// What becomes of the account's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    EndSessions,
    /// Those that are open now; whoever comes later has the value that remains.
    EndSessionsSoFar,
    LeaveSessions,
    /// They are a later attempt's.
    Yield(Fence),
}

/// What is done to the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// No login, no known password, and a marker that says so.
    Close(State),
    /// One value is left, the one beside. `None` leaves the marker as it is.
    Leave(Option<State>, After),
    /// Only the marker: this attempt installed nothing and must not do so later.
    Bar,
    /// Nothing. The sessions of an account that is closed already are ended all the same: the process may
    /// have died between the two.
    Nothing(After),
}

/// Changes the account as far as the extent asks for it.
async fn close(
    target: &MysqlTarget,
    session: &mut Session,
    facts: &Facts,
    request: &RetireRequest<'_>,
    doing: &str,
) -> Result<After, Failure> {
    let (principal, host) = (request.principal, target.spec.account_host.as_str());
    check_server(facts, principal, doing)?;
    let marker = facts.marker.as_ref().map_err(|error| unreadable(facts, principal, host, error, doing))?;
    let standing = Marker::standing(marker.as_ref(), &request.attempt);
    let held = facts.account(principal, host);
    let action = match request.extent {
        Extent::Attempt => undoing(held, &standing, request, &target.spec.strategy),
        _ => match standing {
            _ if held.is_none() => Action::Nothing(After::LeaveSessions),
            Standing::Open | Standing::Own(_) if request.extent == Extent::OtherValues => {
                Action::Leave(None, After::EndSessionsSoFar)
            }
            Standing::Open | Standing::Own(_) => Action::Close(State::Retired),
            Standing::Foreign(policy) => return Err(foreign(facts, principal, host, &policy, doing)),
            Standing::Later(by) => Action::Nothing(After::Yield(by)),
        },
    };
    let writing = Writing { facts, principal, host, attempt: &request.attempt };
    let (batch, after) = match action {
        Action::Nothing(after) => return Ok(after),
        Action::Bar => (bar(&writing, held.is_some(), target, doing)?, After::LeaveSessions),
        Action::Close(state) => {
            let method = method(facts, None, held, None, doing)?;
            (written(&writing, Some(state), writing.set(method, Values::None, state)), After::EndSessions)
        }
        Action::Leave(state, after) => {
            let method = method(facts, target.spec.authentication, held, None, doing)?;
            let Some(beside) = request.beside else {
                return Err(Failure::new(FailureClass::Invalid, doing, "no value is to go on working"));
            };
            // Without another state, what the marker says goes on: the attempt's value is installed.
            let set = writing.set(method, Values::One(&beside.value), state.unwrap_or(State::Installed));
            (written(&writing, state, set), after)
        }
    };
    between!("mysql.retire.locked");
    if !facts.has_table && facts.flavor == Flavor::MariaDb {
        make_table(session, target, doing).await?;
    }
    let statements = batch.statements.iter().map(|text| text.as_str());
    sql::run(session, statements, target.deadlines.statement).await.map_err(|error| {
        let failure = batch_failure(&error, Stage::Writing { decisive: batch.decisive }, doing);
        match failure.class() {
            FailureClass::Denied => failure.with_remedy(admin_remedy(facts)),
            _ => failure,
        }
    })?;
    between!("mysql.retire.committed");
    Ok(after)
}

/// With the marker before it on MariaDB, where it is a statement of its own.
fn written(writing: &Writing<'_>, state: Option<State>, set: Vec<Statement>) -> Batch {
    let mut statements = Vec::new();
    if let (Flavor::MariaDb, Some(state)) = (writing.facts.flavor, state) {
        statements.push(writing.mark(&writing.marker(state)));
    }
    let decisive = statements.len();
    statements.extend(set);
    Batch { statements, decisive }
}

/// Only a marker. MySQL keeps it in an account, which is made to carry it, without a login.
fn bar(writing: &Writing<'_>, exists: bool, target: &MysqlTarget, doing: &str) -> Result<Batch, Failure> {
    let mark = writing.mark(&writing.marker(State::Withdrawn));
    let mut statements = Vec::new();
    if !exists && writing.facts.flavor == Flavor::MySql {
        let method = method(writing.facts, target.spec.authentication, None, None, doing)?;
        statements.extend(writing.make(method, &crate::secret::ValueSpec::default().generate()));
    }
    let decisive = statements.len();
    statements.push(mark);
    Ok(Batch { statements, decisive })
}

/// Whatever comes of it, an install of this attempt that arrives later finds a marker that refuses it:
/// its own, a later one or another policy's. An install under way has ended by now, as it held the account's
/// lock.
fn undoing(
    held: Option<&Account>,
    standing: &Standing,
    request: &RetireRequest<'_>,
    strategy: &MysqlStrategy,
) -> Action {
    match (held, standing) {
        (Some(_), Standing::Own(State::Installing | State::Installed)) => match strategy {
            MysqlStrategy::DualPassword(_) if request.beside.is_some() => {
                Action::Leave(Some(State::Withdrawn), After::LeaveSessions)
            }
            _ => Action::Close(State::Withdrawn),
        },
        (_, Standing::Open) => Action::Bar,
        (None, Standing::Own(State::Installing | State::Installed)) => Action::Bar,
        (Some(held), Standing::Own(State::Withdrawn)) if held.locked => Action::Nothing(After::EndSessions),
        _ => Action::Nothing(After::LeaveSessions),
    }
}
