//! Looks at everything a rotation will need, and changes nothing.

use super::connect::Session;
use super::error::{Stage, batch_failure};
use super::facts::Facts;
use super::install::{check_idle, check_role, check_server, check_unused, foreign, unreadable};
use super::probe::{Entry, enter, run_check};
use super::sql::{self, ident};
use super::witness::Demand;
use super::{PostgresTarget, pair};
use crate::failure::{Failure, Finding};
use crate::ident::{PolicyName, Principal};
use crate::policy::spec::{PostgresStrategy, TlsMode};
use crate::secret::{Credential, ValueSpec};
use crate::target::marker::Comment;
use crate::target::{PreflightRequest, Probe};

pub(super) async fn preflight(target: &PostgresTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let turn = Turn::of(&target.spec.strategy, request.current);
    let (facts, mut credentials) =
        tokio::join!(read(target, &turn), look_at_logins(target, request.current, &turn));
    let mut findings = vec![Finding::pass("transport", transport(target))];
    match facts {
        Ok(facts) => findings.extend(look_at_facts(target, &facts, &turn, request.policy)),
        // Which of the server, the network and the admin's credential it is about, the whole text tells.
        Err(failure) => findings.push(Finding::fail(
            "server",
            failure.to_string(),
            failure.remedy().unwrap_or(failure.class().remedy()).to_owned(),
        )),
    }
    findings.append(&mut credentials);
    findings
}

/// Whose turn it is next.
struct Turn<'a> {
    candidate: &'a Principal,
    peer: Option<&'a Principal>,
    /// Nobody may use the candidate: its sessions are not those of the value that is in force.
    must_be_idle: bool,
}

impl<'a> Turn<'a> {
    fn of(strategy: &'a PostgresStrategy, current: Option<&Credential>) -> Self {
        let (candidate, peer) = match strategy {
            PostgresStrategy::InPlace(one) => (&one.user, None),
            PostgresStrategy::Alternating(pair) => {
                let [a, b] = &pair.users;
                match current.map(|current| &current.principal) {
                    Some(current) if current == a => (b, Some(a)),
                    Some(current) if current == b => (a, Some(b)),
                    _ => (a, None),
                }
            }
        };
        Self { candidate, peer, must_be_idle: peer.is_some() || current.is_none() }
    }
}

async fn read(target: &PostgresTarget, turn: &Turn<'_>) -> Result<Facts, Failure> {
    let doing = target.doing("look at", turn.candidate);
    let lease = target.lease().await?;
    let deadline = target.deadlines.statement;
    let session = lease.session();
    let mut statements = sql::begin_reading(deadline);
    statements.extend(Facts::query(session, turn.candidate, turn.peer, target.groups()));
    let answer = statements.len() - 1;
    statements.push("COMMIT".to_owned());
    let replies = sql::run(session, statements, deadline)
        .await
        .map_err(|error| batch_failure(&error, Stage::Reading, &doing))?;
    let mut facts = Facts::parse(replies.get(answer).and_then(|rows| rows.first()), &doing)?;
    facts.look_for_password(session, turn.candidate, deadline, &doing).await?;
    lease.give_back();
    Ok(facts)
}

fn transport(target: &PostgresTarget) -> String {
    let endpoint = &target.spec.endpoint;
    if endpoint.host.starts_with('/') {
        return "a Unix socket".to_owned();
    }
    match endpoint.tls.mode {
        TlsMode::Disable => "no TLS",
        TlsMode::Require => "TLS; the server's certificate is not checked",
        TlsMode::VerifyCa => "TLS; the server's certificate must be from a trusted authority",
        TlsMode::VerifyFull => {
            "TLS; the server's certificate must be from a trusted authority and name the host"
        }
    }
    .to_owned()
}

fn look_at_facts(
    target: &PostgresTarget,
    facts: &Facts,
    turn: &Turn<'_>,
    policy: &PolicyName,
) -> Vec<Finding> {
    let Turn { candidate, peer, .. } = turn;
    let subject = format!("role {candidate}");
    let mut findings = vec![match check_server(facts, candidate, "") {
        Ok(()) => Finding::pass("server", format!("PostgreSQL {}", version(facts.version))),
        Err(failure) => Finding::from_failure("server", &failure),
    }];
    findings.extend(look_at_rights(facts, turn));
    findings.extend(look_at_role(facts, &target.spec.strategy, turn, policy, &subject));

    if let PostgresStrategy::Alternating(_) = target.spec.strategy {
        findings.push(match pair::equalise(facts, candidate, *peer, target.groups()) {
            Err(drifts) => Finding::from_failure("pair", &pair::failure(&drifts, "")),
            Ok(changes) if changes.is_empty() => {
                Finding::pass("pair", format!("{candidate} needs no change besides its password"))
            }
            Ok(changes) => {
                let whats: Vec<&str> = changes.iter().map(|change| change.what.as_str()).collect();
                Finding::pass("pair", format!("{candidate} will be given {}", whats.join(", ")))
            }
        });
    }
    if let Some(role) = facts.role(candidate).filter(|_| turn.must_be_idle) {
        findings.push(match check_idle(role, *peer, "") {
            Ok(()) => Finding::pass(&subject, "no session is open"),
            Err(failure) => Finding::from_failure(&subject, &failure),
        });
        let comment = Comment::parse(&role.comment).ok();
        let marker = comment.as_ref().and_then(Comment::marker);
        findings.push(match check_unused(role, marker, *peer, "") {
            Ok(()) => Finding::pass(subject, "no value that rekeyd does not know lets it in"),
            Err(failure) => Finding::from_failure(subject, &failure),
        });
    }
    findings
}

fn look_at_rights(facts: &Facts, turn: &Turn<'_>) -> Vec<Finding> {
    let admin = &facts.admin;
    let name = ident(&admin.name);
    // Membership in a role lets one see and end its sessions as well as the two general rights do.
    let mut roles = [Some(turn.candidate), turn.peer].into_iter().flatten();
    let inherited = roles.all(|role| facts.role(role).is_some_and(|role| role.inherited));
    let right = |held: bool, what: &str, remedy: String| {
        if held {
            Finding::pass("admin rights", format!("{} may {what}", admin.name))
        } else {
            Finding::fail("admin rights", format!("{} may not {what}", admin.name), remedy)
        }
    };
    vec![
        right(admin.create_role, "change roles", facts.admin_remedy(turn.candidate)),
        right(
            admin.ends_sessions || inherited,
            "end sessions",
            format!("as a superuser: GRANT pg_signal_backend TO {name}"),
        ),
        right(
            admin.sees_sessions || inherited,
            "see when sessions began",
            format!("as a superuser: GRANT pg_read_all_stats TO {name}"),
        ),
    ]
}

fn look_at_role(
    facts: &Facts,
    strategy: &PostgresStrategy,
    turn: &Turn<'_>,
    policy: &PolicyName,
    subject: &str,
) -> Vec<Finding> {
    let candidate = turn.candidate;
    let Some(role) = facts.role(candidate) else {
        let missing = match (strategy, turn.peer) {
            (PostgresStrategy::Alternating(_), Some(peer)) => {
                Finding::pass(subject, format!("does not exist and will be made like {peer}"))
            }
            (PostgresStrategy::Alternating(_), None) => {
                Finding::pass(subject, "does not exist and will be made")
            }
            (PostgresStrategy::InPlace(_), _) => Finding::fail(
                subject,
                "does not exist",
                format!("CREATE ROLE {} NOLOGIN", ident(candidate.as_str())),
            ),
        };
        return vec![missing];
    };
    let held = match Comment::parse(&role.comment) {
        Err(error) => Some(unreadable(candidate, &error, "")),
        Ok(comment) => comment
            .marker()
            .filter(|marker| marker.policy() != policy)
            .map(|marker| foreign(candidate, marker.policy(), "")),
    };
    let problems = [check_role(facts, role, candidate, "").err(), held];
    let findings: Vec<Finding> =
        problems.iter().flatten().map(|failure| Finding::from_failure(subject, failure)).collect();
    if findings.is_empty() { vec![Finding::pass(subject, "exists and can be changed")] } else { findings }
}

/// Logs in with the current value everywhere, and with a wrong one once: a server that takes that would
/// take anything, and no proof could be had from it.
async fn look_at_logins(
    target: &PostgresTarget,
    current: Option<&Credential>,
    turn: &Turn<'_>,
) -> Vec<Finding> {
    let known = current.map_or(turn.candidate, |current| &current.principal);
    let (mut findings, control) = tokio::join!(
        async {
            match current {
                Some(current) => look_at_current(target, current).await,
                None => Vec::new(),
            }
        },
        look_at_control(target, known)
    );
    findings.push(control);
    findings
}

async fn look_at_current(target: &PostgresTarget, current: &Credential) -> Vec<Finding> {
    let spec = &target.spec;
    let endpoints = std::iter::once(&spec.endpoint).chain(&spec.also_verify);
    let entries = endpoints.map(|endpoint| async move {
        let subject = format!("current credential at {endpoint}");
        match enter(endpoint, current, &target.deadlines).await {
            Entry::Rejected => (
                Finding::fail(
                    subject,
                    format!("the server refuses {}", current.principal),
                    "put the working value into the store, or ask for a rotation that need not prove it",
                ),
                None,
            ),
            Entry::Failed(failure) => (Finding::from_failure(subject, &failure), None),
            Entry::Let(session) => (method(subject, &session), Some(session)),
        }
    });
    let mut entries = futures_util::future::join_all(entries).await;
    let main = entries.first_mut().and_then(|(_, session)| session.take());
    let mut findings = Vec::new();
    for (finding, session) in entries {
        findings.push(finding);
        if let Some(session) = session {
            session.close().await;
        }
    }
    if let (Some(session), Some(check)) = (main, &spec.check) {
        findings.push(match run_check(&session, check, &spec.endpoint, &target.deadlines).await {
            Probe::Unfit(failure) | Probe::Unknown(failure) => {
                Finding::from_failure("check statement", &failure)
            }
            Probe::Accepted | Probe::Refused => {
                Finding::pass("check statement", "succeeds with the current credential")
            }
        });
        session.close().await;
    }
    findings
}

fn method(subject: String, session: &Session) -> Finding {
    let remedy = "use scram-sha-256 in pg_hba.conf, with which the value never leaves its holder";
    match session.demand() {
        Some(Demand::Md5) => Finding::warn(subject, "is accepted; the server asks for MD5", remedy),
        _ => Finding::pass(subject, "is accepted by scram-sha-256"),
    }
}

async fn look_at_control(target: &PostgresTarget, principal: &Principal) -> Finding {
    let wrong = Credential::new(principal.clone(), ValueSpec::default().generate());
    let subject = "negative control";
    match enter(&target.spec.endpoint, &wrong, &target.deadlines).await {
        Entry::Rejected => Finding::pass(subject, format!("a wrong value of {principal} is refused")),
        Entry::Failed(failure) => Finding::from_failure(subject, &failure),
        Entry::Let(session) => {
            session.close().await;
            Finding::fail(
                subject,
                format!("the server accepts a wrong value of {principal}: no value can be proven dead there"),
                "use scram-sha-256 in pg_hba.conf for this role",
            )
        }
    }
}

/// `150018` is 15.18.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
