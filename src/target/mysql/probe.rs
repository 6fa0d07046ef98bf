//! Tries a login, on a connection of its own.

use futures_util::future::join_all;

use super::Deadlines;
use super::MysqlTarget;
use super::connect::{self, Purpose, Session, Use};
use super::error::{EXPIRED, LoginError, UNREADABLE, class_of};
use super::sql::{self, Cause};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::MysqlEndpoint;
use crate::secret::Credential;
use crate::target::{Probe, ProbeDepth};

/// When another endpoint refuses what the main one takes.
const LATE: &str = "look at the replica's lag, or at the proxy's user list";

pub(super) async fn probe(target: &MysqlTarget, credential: &Credential, depth: ProbeDepth) -> Probe {
    let (spec, deadlines, farewells) = (&target.spec, &target.deadlines, target.pool.farewells());
    let main = async {
        match enter(target, &spec.endpoint, credential).await {
            Entry::Let(mut session) => {
                let checked = match (&spec.check, depth) {
                    (Some(check), ProbeDepth::Check) => {
                        run_check(&mut session, check, &spec.endpoint, deadlines).await
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
    let others = join_all(others.iter().map(|endpoint| also(target, endpoint, credential)));
    let (main, others) = tokio::join!(main, others);
    main.with_others(others)
}

/// How a server answered a login.
pub(super) enum Entry {
    /// It let the login in, as the account that is meant.
    Let(Session),
    Rejected,
    Failed(Failure),
}

/// Logs in, and does not take another account's open door for a proof: the server chooses the account by where
/// the login comes from, and one that checks nothing (`skip-grant-tables`) has none.
pub(super) async fn enter(target: &MysqlTarget, endpoint: &MysqlEndpoint, credential: &Credential) -> Entry {
    let deadlines = &target.deadlines;
    let purpose = Purpose { usage: Use::Try, vouched: target.vouches_for(endpoint) };
    let mut session = match connect::open(endpoint, credential, purpose, deadlines).await {
        Ok(session) => session,
        Err(LoginError::Rejected) => return Entry::Rejected,
        Err(LoginError::Failed(failure)) => return Entry::Failed(failure),
    };
    let doing = format!("tell whether {} is accepted at {endpoint}", credential.principal);
    let who = match sql::run(&mut session, ["SELECT CURRENT_USER()"], deadlines.statement).await {
        Ok(replies) => replies.into_iter().flatten().flatten().flatten().next().unwrap_or_default(),
        Err(error) => {
            let failure = match error.cause {
                // It may log in to set another password, and to do nothing else.
                Cause::Server(1820) => Failure::new(FailureClass::Invalid, doing, "the password has expired")
                    .with_remedy(EXPIRED),
                Cause::Unreadable => Failure::new(FailureClass::Unavailable, doing, UNREADABLE),
                _ => Failure::new(FailureClass::Unavailable, doing, "the connection was lost"),
            };
            return Entry::Failed(failure);
        }
    };
    let meant = format!("{}@{}", credential.principal, target.spec.account_host);
    // The server writes host names in small letters.
    let is_meant = who.rsplit_once('@').is_some_and(|(user, host)| {
        user == credential.principal.as_str() && host.eq_ignore_ascii_case(&target.spec.account_host)
    });
    if is_meant {
        return Entry::Let(session);
    }
    session.close().await;
    let who: String = who.chars().filter(|char| !char.is_control()).take(128).collect();
    let reason = format!("the server takes the login for the account {who}, and not for {meant}");
    Entry::Failed(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
        "correct target.mysql.accountHost, drop the other account, or start the server without skip-grant-tables",
    ))
}

async fn also(target: &MysqlTarget, endpoint: &MysqlEndpoint, credential: &Credential) -> Probe {
    match enter(target, endpoint, credential).await {
        Entry::Let(session) => {
            session.close().await;
            Probe::Accepted
        }
        Entry::Rejected => Probe::refused_elsewhere(&credential.principal, endpoint, LATE),
        Entry::Failed(failure) => Probe::Unknown(failure),
    }
}

/// Runs the policy's statement in a transaction that cannot write. Such a session takes one statement at a time.
pub(super) async fn run_check(
    session: &mut Session,
    check: &str,
    endpoint: &MysqlEndpoint,
    deadlines: &Deadlines,
) -> Probe {
    let doing = format!("run the check statement on {endpoint}");
    let unanswered =
        |reason: &str| Probe::Unknown(Failure::new(FailureClass::Unavailable, doing.as_str(), reason));
    for statement in ["START TRANSACTION READ ONLY", check, "ROLLBACK"] {
        let Err(error) = sql::run(session, [statement], deadlines.statement).await else { continue };
        let code = match error.cause {
            Cause::Server(code) => code,
            Cause::Lost => return unanswered("the connection was lost"),
            Cause::Unreadable => return unanswered(UNREADABLE),
            Cause::Deadline => return unanswered("no answer within the deadline"),
        };
        let failure = |class| Failure::new(class, doing.as_str(), format!("it failed with error {code}"));
        let (class, remedy) = match (code, class_of(code)) {
            (_, Some(FailureClass::Denied)) => {
                (FailureClass::Denied, "grant the privilege to the account, or to the role of both accounts")
            }
            (1792, _) => (FailureClass::Invalid, "the check must only read"),
            (_, Some(class)) => return Probe::Unknown(failure(class)),
            (_, None) => (FailureClass::Invalid, "run target.mysql.check by hand as the account"),
        };
        return Probe::Unfit(failure(class).with_remedy(remedy));
    }
    Probe::Accepted
}
