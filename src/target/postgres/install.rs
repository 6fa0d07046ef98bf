//! Makes a role accept the candidate.

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::error::{Stage, batch_failure};
use super::facts::{Facts, OLDEST_VERSION, Role};
use super::pair::{self, Change};
use super::sql::{self, BatchError, ident, literal};
use super::{PostgresTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, PolicyName, Principal};
use crate::policy::spec::PostgresStrategy;
use crate::secret::{Credential, SecretValue};
use crate::target::marker::{Comment, Marker, Standing, State};
use crate::target::{InstallRequest, Installed, Occupancy};

pub(super) async fn install(
    target: &PostgresTarget,
    request: InstallRequest<'_>,
) -> Result<Installed, Failure> {
    let Credential { principal, value, .. } = request.candidate;
    let doing = target.doing("install", principal);
    if value.is_empty() || value.expose().contains(&0) {
        let reason = "PostgreSQL takes no value that is empty or holds a zero byte";
        return Err(Failure::new(FailureClass::Refused, doing, reason));
    }
    // Takes milliseconds of computing, which pass while the server is asked.
    let verifier = tokio::task::spawn_blocking({
        let value = value.duplicate();
        move || verifier(&value)
    });

    let deadline = target.deadlines.statement;
    target.settled(principal).await;
    let lease = target.lease().await?;
    let session = lease.session();
    let mut opening = sql::begin(principal.as_str(), deadline);
    opening.extend(Facts::query(session, principal, request.peer, target.groups()));
    let replies = sql::run(session, opening, deadline)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, &doing))?;
    let mut facts = Facts::parse(replies.last().and_then(|rows| rows.first()), &doing)?;
    if request.occupancy == Occupancy::Refuse {
        facts.look_for_password(session, principal, deadline, &doing).await?;
    }

    let plan = match decide(&facts, &request, &target.spec.strategy, target.groups(), &doing)? {
        Decision::Install(plan) => plan,
        Decision::Superseded(by) => return Ok(Installed::Superseded { by }),
    };
    between!("postgres.install.locked");
    let verifier = verifier.await.map_err(|_| {
        Failure::new(FailureClass::Unavailable, doing.as_str(), "the verifier was not computed")
    })?;
    let name = ident(principal.as_str());
    let mut statements: Vec<Zeroizing<String>> =
        plan.changes.iter().map(|change| Zeroizing::new(change.sql.clone())).collect();
    statements.extend([
        Zeroizing::new(format!("ALTER ROLE {name} LOGIN PASSWORD {}", literal(&verifier))),
        Zeroizing::new(format!("COMMENT ON ROLE {name} IS {}", literal(&plan.comment))),
        Zeroizing::new("COMMIT".to_owned()),
        // After the commit: whoever logged in later was checked against the new value.
        Zeroizing::new("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint".to_owned()),
    ]);
    let written = sql::run(session, statements.iter().map(|statement| statement.as_str()), deadline)
        .await
        .map_err(|error| write_failure(&error, &plan.changes, &facts, principal, &doing))?;
    let at = written.last().and_then(|rows| rows.first()).and_then(|text| {
        text.parse().ok().and_then(|microseconds| Timestamp::from_microsecond(microseconds).ok())
    });
    let at = at.ok_or_else(|| {
        Failure::new(FailureClass::Ambiguous, doing.as_str(), "the server did not tell its time")
    })?;

    between!("postgres.install.committed");
    // Dying here leaves sessions of an earlier value open; the repeated install ends them.
    if request.occupancy == Occupancy::Close {
        sessions::end(session, principal, Some(at), &target.deadlines, &doing).await?;
    }
    lease.give_back();
    Ok(Installed::Done { at })
}

enum Decision {
    Install(Plan),
    Superseded(Fence),
}

struct Plan {
    changes: Vec<Change>,
    comment: String,
}

fn decide(
    facts: &Facts,
    request: &InstallRequest<'_>,
    strategy: &PostgresStrategy,
    groups: &[Principal],
    doing: &str,
) -> Result<Decision, Failure> {
    let principal = &request.candidate.principal;
    check_server(facts, principal, doing)?;
    let role = facts.role(principal);
    let comment = role.map_or("", |role| role.comment.as_str());
    let comment = Comment::parse(comment).map_err(|error| unreadable(principal, &error, doing))?;
    let repeated = match Marker::standing(comment.marker(), &request.attempt) {
        Standing::Open => false,
        Standing::Own(State::Installed) => true,
        // This attempt was given up; what arrives of it now is late.
        Standing::Own(State::Withdrawn | State::Retired) => {
            return Ok(Decision::Superseded(request.attempt.fence));
        }
        Standing::Later(by) => return Ok(Decision::Superseded(by)),
        Standing::Foreign(policy) => return Err(foreign(principal, &policy, doing)),
    };

    if let Some(role) = role {
        check_role(facts, role, principal, doing)?;
    }
    if let Some(role) = role
        && request.occupancy == Occupancy::Refuse
        && !repeated
    {
        check_idle(role, request.peer, doing)?;
        check_unused(role, comment.marker(), request.peer, doing)?;
    }
    let changes = match strategy {
        PostgresStrategy::Alternating(_) => pair::equalise(facts, principal, request.peer, groups)
            .map_err(|drifts| pair::failure(&drifts, doing))?,
        PostgresStrategy::InPlace(_) if role.is_none() => {
            return Err(Failure::new(FailureClass::Invalid, doing, "the role does not exist")
                .with_remedy(format!("CREATE ROLE {} NOLOGIN", ident(principal.as_str()))));
        }
        PostgresStrategy::InPlace(_) => Vec::new(),
    };
    if let (Some(role), None) = (role, request.peer) {
        check_open(role, doing)?;
    }
    let comment = comment.with(&Marker::new(&request.attempt, State::Installed));
    Ok(Decision::Install(Plan { changes, comment }))
}

/// Whether the server is one that roles can be changed on.
pub(super) fn check_server(facts: &Facts, principal: &Principal, doing: &str) -> Result<(), Failure> {
    if facts.version < OLDEST_VERSION {
        let reason = format!("PostgreSQL {} is too old: 14 is the oldest supported", facts.version / 10_000);
        return Err(Failure::new(FailureClass::Invalid, doing, reason).with_remedy("upgrade the server"));
    }
    if facts.in_recovery {
        return Err(Failure::new(FailureClass::Unavailable, doing, "the server is a standby and read-only")
            .with_remedy("point the endpoint at the primary"));
    }
    if facts.read_only {
        return Err(Failure::new(FailureClass::Unavailable, doing, "the server is set to read-only")
            .with_remedy(
                "look why default_transaction_read_only is on; some providers set it on a full disk",
            ));
    }
    if facts.admin.login == principal.as_str() || facts.admin.name == principal.as_str() {
        let reason = "it is the role that rekeyd itself logs in as";
        return Err(Failure::new(FailureClass::Invalid, doing, reason)
            .with_remedy("give rekeyd an admin role of its own and rotate that under another admin"));
    }
    Ok(())
}

/// Whether the admin can change the role at all.
pub(super) fn check_role(
    facts: &Facts,
    role: &Role,
    principal: &Principal,
    doing: &str,
) -> Result<(), Failure> {
    if role.attributes.superuser && !facts.admin.superuser {
        let name = ident(principal.as_str());
        return Err(Failure::new(FailureClass::Invalid, doing, "it is a superuser and the admin is not")
            .with_remedy(format!("ALTER ROLE {name} NOSUPERUSER, or use a superuser as the admin")));
    }
    if !role.administered {
        return Err(Failure::new(FailureClass::Denied, doing, "the admin may not change it")
            .with_remedy(facts.admin_remedy(principal)));
    }
    Ok(())
}

/// Whether nobody uses the role. Without a peer it was never rotated, so whoever uses it has the live value.
pub(super) fn check_idle(role: &Role, peer: Option<&Principal>, doing: &str) -> Result<(), Failure> {
    if role.sessions == 0 {
        return Ok(());
    }
    let (count, examples) = (role.sessions, role.session_examples.join(", "));
    let plural = if count == 1 { "" } else { "s" };
    let reason = format!("it should be idle and has {count} open session{plural}: {examples}");
    let remedy = match peer {
        Some(_) => "move these clients to the current credential; a containment ends their sessions",
        None => "take their value over with `rekeyd adopt`, or move them to another role",
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether no value that rekeyd does not know lets the role in: whoever uses it need not be connected at this moment.
pub(super) fn check_unused(
    role: &Role,
    marker: Option<&Marker>,
    peer: Option<&Principal>,
    doing: &str,
) -> Result<(), Failure> {
    if Marker::vouches(marker) || !role.is_open() {
        return Ok(());
    }
    let reason = match role.has_password {
        Some(_) => "it may log in, with a password that rekeyd does not know",
        None => "it may log in, with a password that rekeyd does not know if it has one",
    };
    let close = format!("ALTER ROLE {} NOLOGIN", ident(&role.name));
    let remedy = match peer {
        Some(_) => format!("find out who uses it; if nobody does: {close}; a containment takes it, too"),
        None => format!(
            "take the value that its readers have over with `rekeyd adopt`; if nobody uses it: {close}"
        ),
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

/// Whether the role could log in with the right value. With a peer, its attributes come from there.
fn check_open(role: &Role, doing: &str) -> Result<(), Failure> {
    let name = ident(&role.name);
    let invalid = |reason| Failure::new(FailureClass::Invalid, doing, reason);
    if role.expired {
        let remedy = format!("ALTER ROLE {name} VALID UNTIL 'infinity'");
        return Err(invalid("its VALID UNTIL has passed, so no password would let it in").with_remedy(remedy));
    }
    if role.attributes.connection_limit == 0 {
        let remedy = format!("ALTER ROLE {name} CONNECTION LIMIT -1");
        return Err(invalid("its connection limit is zero").with_remedy(remedy));
    }
    Ok(())
}

pub(super) fn foreign(principal: &Principal, policy: &PolicyName, doing: &str) -> Failure {
    Failure::new(FailureClass::Conflict, doing, format!("policy {policy} holds the role")).with_remedy(
        format!(
            "let one policy alone rotate it; if {policy} no longer exists, take its marker out with \
         COMMENT ON ROLE {}",
            ident(principal.as_str())
        ),
    )
}

pub(super) fn unreadable(principal: &Principal, error: &impl std::fmt::Display, doing: &str) -> Failure {
    Failure::new(FailureClass::Conflict, doing, error).with_remedy(format!(
        "see who edited the comment (\\du+), and restore or remove the [rekeyd ...] part with \
         COMMENT ON ROLE {}",
        ident(principal.as_str())
    ))
}

/// What a failed change means. The order of statements is that of `install`.
fn write_failure(
    error: &BatchError,
    changes: &[Change],
    facts: &Facts,
    principal: &Principal,
    doing: &str,
) -> Failure {
    let failure = batch_failure(error, Stage::Writing, doing);
    if !failure.class().is_certain() {
        return failure;
    }
    if error.completed > changes.len() + 2 {
        let reason = "the change took effect, and the server did not tell its time";
        return Failure::new(FailureClass::Ambiguous, doing, reason);
    }
    let code = error.cause.as_ref().and_then(tokio_postgres::Error::code).map_or("", |code| code.code());
    if let Some(change) = changes.get(error.completed) {
        let reason = format!("{}: {}", change.what, failure.reason());
        let own = Failure::new(failure.class(), doing, reason);
        return match failure.class() {
            FailureClass::Denied | FailureClass::Invalid => {
                own.with_remedy(format!("as a superuser: {}", change.sql))
            }
            _ => own,
        };
    }
    match code {
        "42501" => failure.with_remedy(facts.admin_remedy(principal)),
        // What password-check extensions raise.
        "22023" | "28000" | "28P01" | "P0001" | "23514" => {
            let reason = format!("the server's password policy refuses the value (SQLSTATE {code})");
            Failure::new(FailureClass::Refused, doing, reason).with_remedy(
                "if it refuses all hashed passwords, allow them (credcheck.encrypted_password_allowed = on)",
            )
        }
        _ => failure,
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as the server itself would store it.
fn verifier(value: &SecretValue) -> Zeroizing<String> {
    Zeroizing::new(postgres_protocol::password::scram_sha_256(value.expose()))
}
