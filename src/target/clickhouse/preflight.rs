//! Looks at everything a rotation will need, and changes nothing.

use super::ClickhouseTarget;
use super::api::Api;
use super::decide::{check_idle, check_kinds, check_unused, missing, strange};
use super::grants;
use super::marker::foreign;
use super::pair;
use super::probe::probe;
use super::seen::{self, Question, Seen, User};
use super::sessions;
use crate::failure::{Failure, Finding, Verdict};
use crate::ident::Principal;
use crate::policy::spec::{ClickhouseNode, ClickhouseStrategy, TlsMode};
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, ProbeDepth, trial};

pub(super) async fn preflight(target: &ClickhouseTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let (candidate, peer) = turn(target, &request);
    let mut findings = vec![Finding::pass("transport", transport(target))];
    for node in &target.spec.nodes {
        match look(target, node, candidate, peer, &request).await {
            Ok(mut found) => findings.append(&mut found),
            Err(failure) => findings.push(Finding::fail(
                format!("node {node}"),
                failure.to_string(),
                failure.remedy().unwrap_or(failure.class().remedy()).to_owned(),
            )),
        }
    }
    if !target.is_pair() {
        findings.push(Finding::warn(
            "sessions",
            "a connection of the native protocol that is idle when a value is retired stays logged in",
            "use `alternating` where that matters: it makes such connections useless",
        ));
    }
    if let Some(current) = request.current {
        let probe = probe(target, current, ProbeDepth::Check).await;
        let remedy = "set it at the server, see from which hosts the user may log in and until when it is valid, or \
                      bring the right one in with `rekeyd adopt`";
        findings.push(trial::of_current(&probe, &current.principal, "the server", remedy));
    }
    let wrong = Credential::new(peer.unwrap_or(candidate).clone(), ValueSpec::default().generate());
    let probe = probe(target, &wrong, ProbeDepth::Login).await;
    let remedy = "see SHOW CREATE USER, and what stands between rekeyd and the server";
    findings.push(trial::of_wrong(&probe, "the server", remedy));
    findings
}

/// Whose turn is next, and who has it.
fn turn<'a>(
    target: &'a ClickhouseTarget,
    request: &PreflightRequest<'_>,
) -> (&'a Principal, Option<&'a Principal>) {
    match &target.spec.strategy {
        ClickhouseStrategy::DualPassword(one) => (&one.user, None),
        ClickhouseStrategy::Alternating(pair) => {
            let [a, b] = &pair.users;
            match request.current.map(|current| &current.principal) {
                Some(current) if current == a => (b, Some(a)),
                Some(current) if current == b => (a, Some(b)),
                _ => (a, None),
            }
        }
    }
}

async fn look(
    target: &ClickhouseTarget,
    node: &ClickhouseNode,
    candidate: &Principal,
    peer: Option<&Principal>,
    request: &PreflightRequest<'_>,
) -> Result<Vec<Finding>, Failure> {
    let doing = ClickhouseTarget::doing("look at", candidate, node);
    let api = target.admin_at(node, candidate).await?;
    let rights = rights(&api, target.is_pair(), &doing).await?;
    if rights.verdict == Verdict::Fail {
        // Without them nothing else can be asked.
        return Ok(vec![rights]);
    }
    let question = Question { user: candidate, peer, roles: target.groups(), is_pair: target.is_pair() };
    let seen = Seen::read(&api, &question, &doing).await?;
    let mut findings = vec![Finding::pass(format!("node {node}"), format!("ClickHouse {}", seen.version))];
    findings.push(rights);
    let subject = format!("user {candidate}");
    findings.push(match &seen.user {
        Some(user) => match held(target, node, user, candidate, request, &doing).await {
            Ok(()) => Finding::pass(&subject, format!("can be changed on {node}")),
            Err(failure) => Finding::from_failure(&subject, &failure),
        },
        None if target.is_pair() => match seen::check_directories(&api, &doing).await {
            Err(failure) => Finding::from_failure(&subject, &failure),
            Ok(()) => Finding::pass(&subject, format!("does not exist on {node} and will be made")),
        },
        None => Finding::from_failure(&subject, &missing(candidate, &doing)),
    });
    if target.is_pair() {
        let wanted = pair::wanted(&seen, candidate, peer, target.groups(), &doing);
        // Whoever is retired is made anew, and is given all again. One that a policy names is not.
        if let Ok((model, _)) = &wanted
            && seen.user.as_ref().is_none_or(|user| user.named_by.is_empty())
        {
            findings.extend(grants::look(&api, node, model, &doing).await?);
        }
        findings.push(match wanted {
            Err(failure) => Finding::from_failure("pair", &failure),
            Ok((_, whats)) if whats.is_empty() => {
                Finding::pass("pair", format!("{candidate} needs nothing on {node}"))
            }
            Ok((_, whats)) => {
                Finding::pass("pair", format!("{candidate} will be given {}", whats.join("; ")))
            }
        });
        if let Some(by) = seen.user.as_ref().and_then(|user| user.named_by.first()) {
            findings.push(Finding::warn(
                "sessions",
                format!(
                    "{by} names {candidate}, so a connection of the native protocol outlives its retirement"
                ),
                "let it name a role that both have",
            ));
        }
        let open = sessions::open(&api, candidate, &doing).await?;
        findings.push(match check_idle(&open, peer, &doing) {
            _ if request.current.is_some_and(|current| current.principal == *candidate) => {
                Finding::pass(&subject, "it is in use")
            }
            Ok(()) => Finding::pass(&subject, "no query is running"),
            Err(failure) => Finding::from_failure(&subject, &failure),
        });
    }
    Ok(findings)
}

/// Whether a rotation may take the user as it is.
async fn held(
    target: &ClickhouseTarget,
    node: &ClickhouseNode,
    user: &User,
    name: &Principal,
    request: &PreflightRequest<'_>,
    doing: &str,
) -> Result<(), Failure> {
    user.check_storage(doing)?;
    if let Some(policy) = user.entries.foreign(request.policy) {
        return Err(foreign(policy, name, &user.entries.forget(node), doing));
    }
    check_kinds(user, name, doing)?;
    let has_outgoing = request.current.is_some();
    if target.is_pair() {
        // The value in force is its peer's.
        return check_unused(user, has_outgoing, node, name, doing);
    }
    let known = match request.current {
        Some(current) if user.open_ways() > 0 => usize::from(target.lets_in(node, current, doing).await?),
        _ => 0,
    };
    match user.open_ways() - known {
        0 => Ok(()),
        // A rotation that is open has both.
        1 if known == 1 && user.entries.strongest().is_some() => Ok(()),
        strangers => Err(strange(strangers, has_outgoing, node, name, doing)),
    }
}

const ON_ALL: [&str; 5] =
    ["ALTER USER", "CREATE SETTINGS PROFILE", "DROP SETTINGS PROFILE", "SHOW ACCESS", "KILL QUERY"];

/// A spare is made, and replaced by another of its name.
const OF_A_PAIR: [&str; 2] = ["CREATE USER", "DROP USER"];

async fn rights(api: &Api, is_pair: bool, doing: &str) -> Result<Finding, Failure> {
    let more: &[&str] = if is_pair { &OF_A_PAIR } else { &[] };
    let (mut lacking, mut grants) = (Vec::new(), Vec::new());
    for right in more.iter().chain(&ON_ALL) {
        if !has(api, right, "*.*", doing).await? {
            lacking.push(*right);
        }
    }
    let admin = &api.credential().principal;
    let mut grant = |rights: &str, on: &str| {
        grants.push(format!("GRANT {rights} ON {on} TO {}", super::sql::ident(admin.as_str())));
    };
    if !lacking.is_empty() {
        grant(&lacking.join(", "), "*.*");
    }
    if !has(api, "SELECT", "system.*", doing).await? {
        lacking.push("SELECT on system.*");
        grant("SELECT", "system.*");
    }
    Ok(if lacking.is_empty() {
        Finding::pass(
            "rights",
            format!("{admin} may see and change users and their profiles, and end queries"),
        )
    } else {
        Finding::fail("rights", format!("{admin} lacks {}", lacking.join(", ")), grants.join("; "))
    })
}

async fn has(api: &Api, right: &str, on: &str, doing: &str) -> Result<bool, Failure> {
    let rows = api.ask(&format!("CHECK GRANT {right} ON {on}"), doing).await?;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|one| *one == 1 || *one == "1"))
}

fn transport(target: &ClickhouseTarget) -> &'static str {
    match target.spec.tls.mode {
        TlsMode::Disable => "no TLS",
        TlsMode::Require => "TLS; the server's certificate is not checked",
        TlsMode::VerifyCa => "TLS; the server's certificate must be from a trusted authority",
        TlsMode::VerifyFull => {
            "TLS; the server's certificate must be from a trusted authority and name the host"
        }
    }
}
