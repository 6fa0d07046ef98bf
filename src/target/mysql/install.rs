//! Makes an account accept the candidate.

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::account::{Batch, Statement, Values, Writing, check_methods, method};
use super::connect::{Flavor, Session};
use super::error::{Stage, batch_failure};
use super::facts::{Account, Facts, Locking, Method};
use super::marker::{Mark, Marker, Standing, State, TABLE};
use super::pair::{self, Change};
use super::sql::{self, BatchError, Cause, account};
use super::{MysqlTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, PolicyName, Principal};
use crate::policy::spec::{MysqlAuthentication, MysqlStrategy};
use crate::secret::Credential;
use crate::target::{InstallRequest, Installed, Occupancy};

pub(super) async fn install(target: &MysqlTarget, request: InstallRequest<'_>) -> Result<Installed, Failure> {
    let Credential { principal, value, .. } = request.candidate;
    let doing = target.doing("install", principal);
    if value.is_empty() || value.expose_str().is_err() || value.expose().contains(&0) {
        let reason = "these servers take no value that is empty, no text or holds a zero byte";
        return Err(Failure::new(FailureClass::Refused, doing, reason));
    }
    let (deadline, host) = (target.deadlines.statement, target.spec.account_host.as_str());
    target.settled(principal).await;
    let mut lease = target.lease().await?;
    let session = lease.session();
    let question = target.question(principal, request.peer);
    let mut facts = target.facts(session, &question, Locking::Yes, &doing).await?;
    let beside = request.beside.map(|beside| &beside.value);
    facts.work_out(principal, host, &[Some(value), beside]).await;

    let plan = match decide(target, &facts, &request, &doing)? {
        Decision::Install(plan) => plan,
        Decision::Superseded(by) => {
            lease.end();
            return Ok(Installed::Superseded { by });
        }
    };
    between!("mysql.install.locked");
    if !facts.has_table && facts.flavor == Flavor::MariaDb {
        make_table(session, target, &doing).await?;
    }
    let writing = Writing { facts: &facts, principal, host, attempt: &request.attempt };
    let batch = plan.batch(&writing, &request);
    let written = sql::run(session, batch.statements.iter().map(|text| text.as_str()), deadline).await;
    written.map_err(|error| plan.failure(&error, &batch, &facts, &doing))?;

    between!("mysql.install.committed");
    // Dying here leaves no moment that divides the sessions: the repeated install finds another.
    let marker = writing.marker(State::Installed);
    let (at, first) = divide(target, session, &writing, marker, &doing).await?;
    // Dying here leaves sessions of an earlier value open; the repeated install ends them. Beside another value
    // that goes on working, those of its readers do.
    if request.occupancy == Occupancy::Close && request.beside.is_none() {
        sessions::end(target, session, principal, Some(first), &doing).await?;
    }
    lease.end();
    Ok(Installed::Done { at })
}

/// Notes which session is the first that began after a change, and when that was.
async fn divide(
    target: &MysqlTarget,
    session: &mut Session,
    writing: &Writing<'_>,
    marker: Marker,
    doing: &str,
) -> Result<(Timestamp, u64), Failure> {
    let deadline = target.deadlines.statement;
    let lost = |error: BatchError| batch_failure(&error, Stage::Writing { decisive: 0 }, doing);
    let mark = latest(target, writing.facts.boot, doing).await.map_err(|failure| {
        // The candidate is accepted by now, and that must not be taken for a failure that changed nothing.
        failure.reclassified(FailureClass::Ambiguous)
    })?;
    let (marker, at) = marker.with_mark(mark);
    sql::run(session, [writing.mark(&marker).as_str()], deadline).await.map_err(|error| {
        let failure = lost(error);
        failure.reclassified(FailureClass::Ambiguous)
    })?;
    Ok((at, mark.session))
}

/// A session that begins now, and the server's time.
pub(super) async fn latest(target: &MysqlTarget, boot: i64, doing: &str) -> Result<Mark, Failure> {
    let mut session = target.beside().await?;
    let now = ["SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"];
    let replies = sql::run(&mut session, now, target.deadlines.statement)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, doing))?;
    let at = replies.first().and_then(|rows| rows.first()?.first()?.as_deref()?.parse().ok());
    let mark = at.map(|at| Mark { boot, session: session.id(), at });
    tokio::spawn(session.close());
    mark.ok_or_else(|| Failure::new(FailureClass::Unavailable, doing, "the server did not tell its time"))
}

/// MariaDB's place for markers.
pub(super) async fn make_table(
    session: &mut Session,
    target: &MysqlTarget,
    doing: &str,
) -> Result<(), Failure> {
    sql::run(session, TABLE, target.deadlines.statement).await.map(drop).map_err(|error| {
        let failure = batch_failure(&error, Stage::Reading, doing);
        match failure.class() {
            FailureClass::Denied => {
                Failure::new(FailureClass::Denied, doing, "the admin may not make the table rekeyd.accounts")
                    .with_remedy("CREATE DATABASE rekeyd; GRANT ALL ON rekeyd.* TO the admin")
            }
            _ => failure,
        }
    })
}

enum Decision {
    Install(Plan),
    Superseded(Fence),
}

struct Plan {
    method: MysqlAuthentication,
    changes: Vec<Change>,
    /// Whether the account accepts the right values already: MySQL would lose one by another change.
    is_set: bool,
    /// Whether it goes on accepting the value beside.
    two: bool,
}

impl Plan {
    fn batch(&self, writing: &Writing<'_>, request: &InstallRequest<'_>) -> Batch {
        let value = &request.candidate.value;
        let values = match request.beside {
            Some(beside) if self.two && beside.value != *value => Values::Two(value, &beside.value),
            _ => Values::One(value),
        };
        let mut statements: Vec<Statement> = Vec::new();
        let is_mariadb = writing.facts.flavor == Flavor::MariaDb;
        if is_mariadb {
            statements.push(writing.mark(&writing.marker(State::Installing)));
        }
        statements.extend(writing.make(self.method, value));
        statements.extend(self.changes.iter().map(|change| Zeroizing::new(change.sql.clone())));
        let decisive = statements.len();
        if self.is_set {
            statements.push(writing.mark(&writing.marker(State::Installed)));
        } else {
            statements.extend(writing.set(self.method, values, State::Installed));
        }
        Batch { statements, decisive }
    }

    /// What a failed batch means.
    fn failure(&self, error: &BatchError, batch: &Batch, facts: &Facts, doing: &str) -> Failure {
        let failure = batch_failure(error, Stage::Writing { decisive: batch.decisive }, doing);
        if !failure.class().is_certain() {
            return failure;
        }
        let before = batch.decisive - self.changes.len();
        if let Some(change) = error.completed.checked_sub(before).and_then(|index| self.changes.get(index)) {
            let own = Failure::new(failure.class(), doing, format!("{}: {}", change.what, failure.reason()));
            return match failure.class() {
                FailureClass::Denied | FailureClass::Invalid => {
                    own.with_remedy(format!("as a user who may grant it: {}", change.sql))
                }
                _ => own,
            };
        }
        match error.cause {
            // `validate_password` and its like; and MariaDB where it takes no hash at all.
            Cause::Server(1819) => {
                let reason = "the server's password policy refuses the value (error 1819)";
                Failure::new(FailureClass::Refused, doing, reason)
                    .with_remedy("write what the policy demands as the rules of `value`")
            }
            Cause::Server(1290) if facts.refuses_hashes => hashes_refused(doing),
            _ => match failure.class() {
                FailureClass::Denied => failure.with_remedy(admin_remedy(facts)),
                _ => failure,
            },
        }
    }
}

fn decide(
    target: &MysqlTarget,
    facts: &Facts,
    request: &InstallRequest<'_>,
    doing: &str,
) -> Result<Decision, Failure> {
    let Credential { principal, value, .. } = request.candidate;
    let host = target.spec.account_host.as_str();
    check_server(facts, principal, doing)?;
    let marker = facts.marker.as_ref().map_err(|error| unreadable(facts, principal, host, error, doing))?;
    let repeated = match Marker::standing(marker.as_ref(), &request.attempt) {
        Standing::Open | Standing::Own(State::Installing) => false,
        Standing::Own(State::Installed) => true,
        // This attempt was given up; what arrives of it now is late.
        Standing::Own(State::Withdrawn | State::Retired) => {
            return Ok(Decision::Superseded(request.attempt.fence));
        }
        Standing::Later(by) => return Ok(Decision::Superseded(by)),
        Standing::Foreign(policy) => return Err(foreign(facts, principal, host, &policy, doing)),
    };
    check_alone(facts, principal, host, doing)?;
    if facts.refuses_hashes {
        return Err(hashes_refused(doing));
    }
    let held = facts.account(principal, host);
    let peer = request.peer.and_then(|peer| facts.account(peer, host));
    if let Some(held) = held {
        check_methods(held, doing)?;
    }
    let is_dual = matches!(target.spec.strategy, MysqlStrategy::DualPassword(_));
    if request.occupancy == Occupancy::Refuse && !repeated && !(is_dual && request.beside.is_some()) {
        check_idle(facts, request.peer, doing)?;
        if let Some(held) = held {
            check_unused(held, marker.as_ref(), request.peer, doing)?;
        }
    }
    let changes = match &target.spec.strategy {
        MysqlStrategy::Alternating(pair) => {
            pair::equalise(facts, principal, request.peer, host, &pair.member_of)
                .map_err(|drifts| pair::failure(&drifts, doing))?
        }
        MysqlStrategy::DualPassword(_) | MysqlStrategy::InPlace(_) if held.is_none() => {
            return Err(missing(principal, host, doing));
        }
        MysqlStrategy::DualPassword(_) | MysqlStrategy::InPlace(_) => Vec::new(),
    };
    let (mut is_set, mut two) = (false, request.beside.is_some());
    if let (Some(held), Some(beside)) = (held, request.beside) {
        let known = |method: &Method| method.holds(value) || method.holds(&beside.value);
        let strange = held.methods.iter().any(|method| !method.is_void() && !known(method));
        if strange && request.occupancy == Occupancy::Refuse && !holds(held, value) {
            return Err(strange_value(doing));
        }
        // Where the candidate is and the other one is not, that one was retired, and does not come back.
        two = !holds(held, value) || holds(held, &beside.value);
        is_set = holds(held, value) && !held.locked && !(strange && request.occupancy == Occupancy::Close);
    }
    let method = method(facts, target.spec.authentication, held, peer, doing)?;
    Ok(Decision::Install(Plan { method, changes, is_set, two }))
}

fn holds(account: &Account, value: &crate::secret::SecretValue) -> bool {
    account.methods.iter().any(|method| method.holds(value))
}

pub(super) fn strange_value(doing: &str) -> Failure {
    Failure::new(FailureClass::Conflict, doing, "it has a value that nobody knows").with_remedy(
        "find out whose it is and take it out: DISCARD OLD PASSWORD (MySQL), or IDENTIFIED VIA with one method \
         (MariaDB); a containment takes it out",
    )
}

/// Of a user's name at MySQL; MariaDB takes four times as many characters, and so do policies.
const LONGEST_NAME: usize = 32;

/// Whether the server is one that accounts can be changed on.
pub(super) fn check_server(facts: &Facts, principal: &Principal, doing: &str) -> Result<(), Failure> {
    let (oldest, name) = match facts.flavor {
        Flavor::MariaDb => ((10, 4), "10.4"),
        Flavor::MySql => ((8, 0), "8.0.21"),
    };
    let mut parts = facts.version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let patch = parts.next().unwrap_or_default();
    let too_old = version < oldest || (facts.flavor == Flavor::MySql && version == (8, 0) && patch < 21);
    if too_old {
        let reason = format!("this {} is too old: {name} is the oldest supported", facts.product());
        return Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy("upgrade the server"));
    }
    if facts.read_only {
        return Err(Failure::new(FailureClass::Unavailable, doing, "the server is set to read-only")
            .with_remedy("point the endpoint at the primary, or look why read_only is on"));
    }
    if facts.flavor == Flavor::MySql && principal.as_str().chars().count() > LONGEST_NAME {
        let reason = format!("its name has more than the {LONGEST_NAME} characters that MySQL takes");
        return Err(Failure::new(FailureClass::Invalid, doing, reason)
            .with_remedy("give the policy's users shorter names"));
    }
    if facts.admin_user() == principal.as_str() {
        let reason = "it is the user that rekeyd itself logs in as";
        return Err(Failure::new(FailureClass::Invalid, doing, reason)
            .with_remedy("give rekeyd an admin of its own and rotate that under another admin"));
    }
    Ok(())
}

/// Whether the user has this one account alone. Its sessions could not be told from another's, and a login would
/// tell nothing about it.
pub(super) fn check_alone(
    facts: &Facts,
    principal: &Principal,
    host: &str,
    doing: &str,
) -> Result<(), Failure> {
    let others = facts.other_hosts(principal, host);
    let Some(other) = others.first() else { return Ok(()) };
    let names: Vec<String> = others.iter().map(|host| account(principal.as_str(), host)).collect();
    let reason = format!("the user has other accounts beside the one for {host}: {}", names.join(", "));
    Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy(format!(
        "DROP USER {}, or set target.mysql.accountHost if that is the one; one account for % may serve all hosts",
        account(principal.as_str(), other)
    )))
}

/// Whether the server knows the form of a network. It takes any, and lets nobody in by one that it does not know.
pub(super) fn check_network(facts: &Facts, host: &str) -> Option<Failure> {
    let (address, length) = host.split_once('/').filter(|(_, mask)| !mask.contains('.'))?;
    let parts = facts.version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
    if facts.flavor == Flavor::MySql && parts.ge([8, 0, 23]) {
        return None;
    }
    let mask =
        length.parse::<u32>().ok().and_then(|length| u32::MAX.checked_shl(32_u32.checked_sub(length)?));
    let mask = std::net::Ipv4Addr::from(mask.unwrap_or(0));
    let reason = format!("this {} lets nobody in by a network like {host}", facts.product());
    Some(
        Failure::new(FailureClass::Invalid, "", reason).with_remedy(format!(
            "make its accounts for {address}/{mask}, and set target.mysql.accountHost so"
        )),
    )
}

/// Whether nobody uses the account. Without a peer it was never rotated, so whoever uses it has the live value.
pub(super) fn check_idle(facts: &Facts, peer: Option<&Principal>, doing: &str) -> Result<(), Failure> {
    let count = facts.sessions.len();
    if count == 0 {
        return Ok(());
    }
    let mut clients: Vec<&str> = facts.sessions.iter().map(|session| session.client.as_str()).collect();
    clients.sort_unstable();
    clients.dedup();
    clients.truncate(5);
    let plural = if count == 1 { "" } else { "s" };
    let reason =
        format!("it should be idle and has {count} open session{plural} from {}", clients.join(", "));
    let remedy = match peer {
        Some(_) => "move these clients to the current credential; a containment ends their sessions",
        None => "take their value over with `rekeyd adopt`, or move them to another account",
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether no value that rekeyd does not know opens the account: whoever uses it need not be connected at this moment.
pub(super) fn check_unused(
    held: &Account,
    marker: Option<&Marker>,
    peer: Option<&Principal>,
    doing: &str,
) -> Result<(), Failure> {
    if Marker::vouches(marker) || !held.is_open() {
        return Ok(());
    }
    let reason = "it has a password that rekeyd does not know";
    let lock = format!("ALTER USER {} ACCOUNT LOCK", account(&held.user, &held.host));
    let remedy = match peer {
        Some(_) => format!("find out who uses it; if nobody does: {lock}; a containment takes it, too"),
        None => format!(
            "take the value that its readers have over with `rekeyd adopt`; if nobody uses it: {lock}"
        ),
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

pub(super) fn missing(principal: &Principal, host: &str, doing: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, "the account does not exist")
        .with_remedy(format!("CREATE USER {} ACCOUNT LOCK", account(principal.as_str(), host)))
}

pub(super) fn hashes_refused(doing: &str) -> Failure {
    let reason = "the server takes no hashes while a plugin judges passwords, and rekeyd sends no password";
    Failure::new(FailureClass::Invalid, doing, reason)
        .with_remedy("SET GLOBAL strict_password_validation = OFF, and in the server's configuration")
}

pub(super) fn foreign(
    facts: &Facts,
    principal: &Principal,
    host: &str,
    policy: &PolicyName,
    doing: &str,
) -> Failure {
    Failure::new(FailureClass::Conflict, doing, format!("policy {policy} holds the account")).with_remedy(
        format!(
            "let one policy alone rotate it; if {policy} no longer exists: {}",
            forget(facts, principal, host)
        ),
    )
}

pub(super) fn unreadable(
    facts: &Facts,
    principal: &Principal,
    host: &str,
    error: &impl std::fmt::Display,
    doing: &str,
) -> Failure {
    Failure::new(FailureClass::Conflict, doing, error)
        .with_remedy(format!("see who changed it; to begin anew: {}", forget(facts, principal, host)))
}

/// The statement that takes a marker out.
fn forget(facts: &Facts, principal: &Principal, host: &str) -> String {
    let (user, host) = (principal.as_str(), host);
    match facts.flavor {
        Flavor::MariaDb => format!(
            "DELETE FROM rekeyd.accounts WHERE user = {} AND host = {}",
            sql::literal(user),
            sql::literal(host)
        ),
        Flavor::MySql => format!("ALTER USER {} ATTRIBUTE '{{\"rekeyd\": null}}'", account(user, host)),
    }
}

/// What the admin is missing to change an account.
pub(super) fn admin_remedy(facts: &Facts) -> String {
    let admin = facts.admin_account();
    match facts.flavor {
        // Only who has it, too, may change such an account or end its sessions.
        Flavor::MySql if let Some(system) = facts.system_user() => format!(
            "GRANT SYSTEM_USER ON *.* TO {admin}, or REVOKE SYSTEM_USER ON *.* FROM {system}; and GRANT CREATE USER, \
             PROCESS, CONNECTION_ADMIN ON *.* TO {admin}; GRANT SELECT ON mysql.* TO {admin}"
        ),
        Flavor::MariaDb => format!(
            "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO {admin}; GRANT SELECT, UPDATE ON mysql.* TO \
             {admin}; GRANT ALL ON rekeyd.* TO {admin}"
        ),
        Flavor::MySql => format!(
            "GRANT CREATE USER, PROCESS, CONNECTION_ADMIN ON *.* TO {admin}; GRANT SELECT ON mysql.* TO {admin}"
        ),
    }
}
