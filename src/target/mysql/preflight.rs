//! Looks at everything a rotation will need, and changes nothing.

use super::account::{check_methods, method};
use super::connect::{Flavor, Session};
use super::facts::{Facts, Locking};
use super::install::{
    admin_remedy, check_alone, check_idle, check_network, check_server, check_unused, foreign,
    hashes_refused, missing, strange_value, unreadable,
};
use super::pair::Change;
use super::probe::{Entry, enter, run_check};
use super::rights::{May, ROLES, Rights, SYSTEM_USER, roles_of};
use super::{MysqlTarget, pair, sql};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{PolicyName, Principal};
use crate::policy::spec::{MysqlAuthentication, MysqlStrategy, TlsMode};
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, Probe};

pub(super) async fn preflight(target: &MysqlTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let turn = Turn::of(&target.spec.strategy, request.current);
    // One after the other: MySQL lists a login that it is about to refuse among the account's sessions.
    let facts = read(target, &turn).await;
    let (credentials, control) = look_at_logins(target, request.current, &turn).await;
    let mut findings = vec![Finding::pass("transport", transport(target))];
    let host = target.spec.account_host.as_str();
    let is_absent = facts.as_ref().is_ok_and(|(facts, _)| {
        facts.flavor == Flavor::MySql && facts.account(turn.known(request.current), host).is_none()
    });
    match facts {
        Ok((facts, rights)) => {
            findings.extend(look_at_facts(target, &facts, &rights, &turn, request.policy));
        }
        // Which of the server, the network and the admin's credential it is about, the whole text tells.
        Err(failure) => findings.push(Finding::fail(
            "server",
            failure.to_string(),
            failure.remedy().unwrap_or(failure.class().remedy()).to_owned(),
        )),
    }
    findings.extend(credentials);
    findings.push(match control {
        Ok(finding) => finding,
        // It asks for the values of such accounts in a way that it draws, which may be none that proves anything.
        Err(failure) if is_absent && failure.class() == FailureClass::Invalid => {
            Finding::pass(CONTROL, "its account does not exist yet")
        }
        Err(failure) => Finding::from_failure(CONTROL, &failure),
    });
    findings
}

const CONTROL: &str = "negative control";

/// Whose turn it is next.
struct Turn<'a> {
    candidate: &'a Principal,
    peer: Option<&'a Principal>,
    /// Nobody may use the candidate: its sessions are not those of the value that is in force.
    must_be_idle: bool,
    current: Option<&'a Credential>,
}

impl<'a> Turn<'a> {
    fn of(strategy: &'a MysqlStrategy, current: Option<&'a Credential>) -> Self {
        let (candidate, peer) = match strategy {
            MysqlStrategy::InPlace(one) | MysqlStrategy::DualPassword(one) => (&one.user, None),
            MysqlStrategy::Alternating(pair) => {
                let [a, b] = &pair.users;
                match current.map(|current| &current.principal) {
                    Some(current) if current == a => (b, Some(a)),
                    Some(current) if current == b => (a, Some(b)),
                    _ => (a, None),
                }
            }
        };
        Self { candidate, peer, must_be_idle: peer.is_some() || current.is_none(), current }
    }
}

impl Turn<'_> {
    /// Who a wrong value is tried for.
    fn known<'a>(&'a self, current: Option<&'a Credential>) -> &'a Principal {
        current.map_or(self.candidate, |current| &current.principal)
    }
}

/// The facts, and the admin's own grants.
async fn read(target: &MysqlTarget, turn: &Turn<'_>) -> Result<(Facts, Vec<String>), Failure> {
    let doing = target.doing("look at", turn.candidate);
    let mut lease = target.lease().await?;
    let (session, deadline) = (lease.session(), target.deadlines.statement);
    let question = target.question(turn.candidate, turn.peer);
    let mut facts = target.facts(session, &question, Locking::No, &doing).await?;
    let current = turn.current.map(|current| &current.value);
    facts.work_out(turn.candidate, &target.spec.account_host, &[current]).await;
    let roles = if facts.flavor == Flavor::MariaDb { ROLES } else { "SELECT NULL LIMIT 0" };
    let replies = sql::run(session, ["SHOW GRANTS", roles], deadline).await.unwrap_or_default();
    let [grants, roles] = <[_; 2]>::try_from(replies).unwrap_or_default();
    let grants = grants.into_iter().filter_map(|row| row.into_iter().next()?);
    let grants = grants.chain(roles_of(&facts.admin, &roles)).collect();
    lease.end();
    Ok((facts, grants))
}

fn transport(target: &MysqlTarget) -> String {
    let endpoint = &target.spec.endpoint;
    if endpoint.is_socket() {
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
    target: &MysqlTarget,
    facts: &Facts,
    rights: &[String],
    turn: &Turn<'_>,
    policy: &PolicyName,
) -> Vec<Finding> {
    let Turn { candidate, peer, .. } = turn;
    let host = target.spec.account_host.as_str();
    let subject = format!("account {candidate}");
    let mut findings = vec![match check_server(facts, candidate, "") {
        Ok(()) if facts.refuses_hashes => Finding::from_failure("server", &hashes_refused("")),
        Ok(()) => Finding::pass("server", format!("{} {}", facts.product(), version(&facts.version))),
        Err(failure) => Finding::from_failure("server", &failure),
    }];
    findings.extend(look_at_rights(facts, rights));
    findings.extend(look_at_system_users(facts, rights));
    findings.extend(look_at_account(target, facts, turn, policy, &subject));

    let held = facts.account(candidate, host);
    let model = peer.and_then(|peer| facts.account(peer, host));
    findings.push(match method(facts, target.spec.authentication, held, model, "") {
        Ok(MysqlAuthentication::Native) => Finding::warn(
            "authentication",
            "mysql_native_password: SHA-1 without a salt",
            "set target.mysql.authentication to ed25519 (MariaDB) or cachingSha2 (MySQL) once all clients know it",
        ),
        Ok(method) => Finding::pass("authentication", method.plugin()),
        Err(failure) => Finding::from_failure("authentication", &failure),
    });
    let nameless = facts.nameless_hosts();
    if !nameless.is_empty() {
        findings.push(Finding::warn(
            "accounts",
            format!("there are accounts without a name, for {}", nameless.join(", ")),
            "DROP USER them: they take logins from hosts that they name more closely",
        ));
    }

    if let MysqlStrategy::Alternating(strategy) = &target.spec.strategy {
        findings.push(match pair::equalise(facts, candidate, *peer, host, &strategy.member_of) {
            Err(drifts) => Finding::from_failure("pair", &pair::failure(&drifts, "")),
            Ok(changes) if changes.is_empty() && held.is_some() => {
                Finding::pass("pair", format!("{candidate} needs no change besides its password"))
            }
            Ok(changes) if let Some(finding) = look_at_grants(facts, rights, &changes) => finding,
            Ok(changes) => {
                let itself = held.is_none().then_some("the account itself");
                let whats = itself.into_iter().chain(changes.iter().map(|change| change.what.as_str()));
                Finding::pass(
                    "pair",
                    format!("{candidate} will be given {}", whats.collect::<Vec<_>>().join(", ")),
                )
            }
        });
    }
    if let Some(held) = held.filter(|_| turn.must_be_idle) {
        findings.push(match check_idle(facts, *peer, "") {
            Ok(()) => Finding::pass(&subject, "no session is open"),
            Err(failure) => Finding::from_failure(&subject, &failure),
        });
        let marker = facts.marker.as_ref().ok().and_then(Option::as_ref);
        findings.push(match check_unused(held, marker, *peer, "") {
            Ok(()) => Finding::pass(subject, "no value that rekeyd does not know lets it in"),
            Err(failure) => Finding::from_failure(subject, &failure),
        });
    }
    findings
}

/// What the admin may not grant, or take away, of what is to be changed.
fn look_at_grants(facts: &Facts, rights: &[String], changes: &[Change]) -> Option<Finding> {
    let own = Rights::of(facts.flavor, rights);
    let needs = changes.iter().filter_map(|change| Some((change, change.needs.as_deref()?)));
    let needs: Vec<_> = needs.map(|(change, needs)| (own.may_grant(needs), change, needs)).collect();
    let worst = needs.iter().map(|(may, ..)| *may).min().filter(|may| *may != May::Yes)?;
    let lacking = || needs.iter().filter(|(may, ..)| *may == worst);
    let whats = lacking().map(|(_, change, _)| change.what.as_str()).collect::<Vec<_>>().join(", ");
    let admin = facts.admin_account();
    let mend = |needs: &str| {
        let option = if needs.contains(" ON ") { "GRANT" } else { "ADMIN" };
        format!("GRANT {needs} TO {admin} WITH {option} OPTION")
    };
    let remedy = lacking().map(|(.., needs)| mend(needs)).collect::<Vec<_>>().join("; ");
    Some(match worst {
        May::No => Finding::fail("pair", format!("{} may not grant {whats}", facts.admin), remedy),
        _ => {
            let detail = format!("whether {} may grant {whats} cannot be told", facts.admin);
            Finding::warn("pair", detail, format!("if it may not: {remedy}"))
        }
    })
}

/// Whether an account of the policy's is out of the admin's reach, whatever else it may do.
fn look_at_system_users(facts: &Facts, rights: &[String]) -> Option<Finding> {
    let system = facts.system_user().filter(|_| !Rights::of(facts.flavor, rights).has(SYSTEM_USER))?;
    let detail = format!("{} may not change {system}, which has {SYSTEM_USER}", facts.admin);
    Some(Finding::fail("admin rights", detail, admin_remedy(facts)))
}

fn look_at_rights(facts: &Facts, grants: &[String]) -> Vec<Finding> {
    let right = |held: bool, what: &str| {
        if held {
            Finding::pass("admin rights", format!("{} may {what}", facts.admin))
        } else {
            Finding::fail("admin rights", format!("{} may not {what}", facts.admin), admin_remedy(facts))
        }
    };
    let held = |privileges: &[&str], object: &str| {
        grants.iter().any(|line| {
            let Some((list, rest)) = line.strip_prefix("GRANT ").and_then(|line| line.split_once(" ON "))
            else {
                return false;
            };
            let all = list == "ALL PRIVILEGES";
            // MySQL has no blank between dynamic privileges.
            let named = list.split(',').any(|privilege| privileges.contains(&privilege.trim()));
            (all || named) && (rest.starts_with("*.* TO ") || rest.starts_with(&format!("`{object}`.* TO ")))
        })
    };
    let everywhere = |privileges: &[&str]| held(privileges, "*");
    let mut findings = vec![
        right(everywhere(&["CREATE USER"]), "change accounts"),
        right(everywhere(&["PROCESS"]), "see sessions"),
        right(everywhere(&["CONNECTION ADMIN", "CONNECTION_ADMIN", "SUPER"]), "end sessions"),
        right(held(&["SELECT"], "mysql"), "look at accounts"),
    ];
    if facts.flavor == Flavor::MariaDb {
        findings.push(right(held(&["UPDATE"], "mysql"), "set default roles"));
        let table = held(&["INSERT"], "rekeyd") && (facts.has_table || held(&["CREATE"], "rekeyd"));
        findings.push(right(table, "keep its notes in rekeyd.accounts"));
    }
    findings
}

fn look_at_account(
    target: &MysqlTarget,
    facts: &Facts,
    turn: &Turn<'_>,
    policy: &PolicyName,
    subject: &str,
) -> Vec<Finding> {
    let (candidate, host) = (turn.candidate, target.spec.account_host.as_str());
    let held = facts.account(candidate, host);
    let holder = match &facts.marker {
        Err(error) => Some(unreadable(facts, candidate, host, error, "")),
        Ok(marker) => marker
            .as_ref()
            .filter(|marker| marker.policy() != policy)
            .map(|marker| foreign(facts, candidate, host, marker.policy(), "")),
    };
    let alone = check_alone(facts, candidate, host, "").err();
    let methods = held.and_then(|held| check_methods(held, "").err());
    let strange = held.filter(|_| has_stranger(target, facts, turn)).map(|_| strange_value(""));
    let network = check_network(facts, host);
    let mut findings: Vec<Finding> = [holder, alone, methods, strange, network]
        .iter()
        .flatten()
        .map(|failure| Finding::from_failure(subject, failure))
        .collect();
    findings.extend(match (held, &target.spec.strategy, turn.peer) {
        (None, MysqlStrategy::Alternating(_), Some(peer)) => {
            Some(Finding::pass(subject, format!("does not exist and will be made like {peer}")))
        }
        (None, MysqlStrategy::Alternating(_), None) => {
            Some(Finding::pass(subject, "does not exist and will be made"))
        }
        (None, MysqlStrategy::InPlace(_) | MysqlStrategy::DualPassword(_), _) => {
            Some(Finding::from_failure(subject, &missing(candidate, host, "")))
        }
        (Some(_), ..) if findings.is_empty() => Some(Finding::pass(subject, "exists and can be changed")),
        (Some(_), ..) => None,
    });
    findings
}

/// Whether the one account has a value besides the one that is in force. While a rotation is open it has, rightly; no
/// other one may open then.
fn has_stranger(target: &MysqlTarget, facts: &Facts, turn: &Turn<'_>) -> bool {
    let is_dual = matches!(target.spec.strategy, MysqlStrategy::DualPassword(_));
    let held = facts.account(turn.candidate, &target.spec.account_host).filter(|_| is_dual);
    held.zip(turn.current).is_some_and(|(held, current)| {
        held.methods.iter().any(|method| !method.is_void() && !method.holds(&current.value))
    })
}

/// Logs in with the current value everywhere, and with a wrong one once: a server that takes that would
/// take anything, and no proof could be had from it.
async fn look_at_logins(
    target: &MysqlTarget,
    current: Option<&Credential>,
    turn: &Turn<'_>,
) -> (Vec<Finding>, Result<Finding, Failure>) {
    tokio::join!(
        async {
            match current {
                Some(current) => look_at_current(target, current).await,
                None => Vec::new(),
            }
        },
        look_at_control(target, turn.known(current))
    )
}

async fn look_at_current(target: &MysqlTarget, current: &Credential) -> Vec<Finding> {
    let spec = &target.spec;
    let endpoints = std::iter::once(&spec.endpoint).chain(&spec.also_verify);
    let entries = endpoints.map(|endpoint| async move {
        let subject = format!("current credential at {endpoint}");
        match enter(target, endpoint, current).await {
            Entry::Rejected => (
                Finding::fail(
                    subject,
                    format!("the server refuses {}", current.principal),
                    "put the working value into the store, or ask for a rotation that need not prove it",
                ),
                None,
            ),
            Entry::Failed(failure) => (Finding::from_failure(subject, &failure), None),
            Entry::Let(session) => (
                Finding::pass(subject, format!("is accepted by {}", session.proof().plugin())),
                Some(session),
            ),
        }
    });
    let mut entries = futures_util::future::join_all(entries).await;
    let main = entries.first_mut().and_then(|(_, session)| session.take());
    let mut findings = Vec::new();
    for (finding, session) in entries {
        findings.push(finding);
        end(session).await;
    }
    if let Some(mut session) = main {
        if let Some(check) = &spec.check {
            findings.push(match run_check(&mut session, check, &spec.endpoint, &target.deadlines).await {
                Probe::Unfit(failure) | Probe::Unknown(failure) => {
                    Finding::from_failure("check statement", &failure)
                }
                Probe::Accepted | Probe::Refused => {
                    Finding::pass("check statement", "succeeds with the current credential")
                }
            });
        }
        end(Some(session)).await;
    }
    findings
}

async fn end(session: Option<Session>) {
    if let Some(session) = session {
        session.close().await;
    }
}

async fn look_at_control(target: &MysqlTarget, principal: &Principal) -> Result<Finding, Failure> {
    let wrong = Credential::new(principal.clone(), ValueSpec::default().generate());
    Ok(match enter(target, &target.spec.endpoint, &wrong).await {
        Entry::Rejected => Finding::pass(CONTROL, format!("a wrong value of {principal} is refused")),
        Entry::Failed(failure) => return Err(failure),
        Entry::Let(session) => {
            session.close().await;
            Finding::fail(
                CONTROL,
                format!("the server accepts a wrong value of {principal}: no value can be proven dead there"),
                "give the account a password, and start the server without skip-grant-tables",
            )
        }
    })
}

/// Without what a distributor adds.
fn version(text: &str) -> &str {
    text.split('-').next().unwrap_or(text)
}
