//! Looks at everything a rotation will need, and changes nothing.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::{Value, cmd};

use super::RedisTarget;
use super::account::{Account, Seen, line};
use super::answer::{accepted, not_there, odd, text};
use super::change::read;
use super::check::only_reads;
use super::connect::{LoginError, ask, open};
use super::install::{check_closed, check_known, foreign};
use super::marker::Entry;
use super::probe::{leave, run_check};
use super::sessions::{Client, has_name, list};
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::{RedisNode, TlsMode};
use crate::secret::{Credential, ValueSpec};
use crate::target::{PreflightRequest, Probe};

/// What a preflight reads of a node.
struct Look<'a> {
    node: &'a RedisNode,
    seen: Seen,
    sessions: Vec<Client>,
    /// What `INFO replication` says.
    replication: String,
    /// The user that the node logs in as at its master, if it says.
    master_user: String,
}

pub(super) async fn preflight(target: &RedisTarget, request: PreflightRequest<'_>) -> Vec<Finding> {
    let user = target.spec.user();
    let nodes = &target.spec.nodes;
    let (looks, mut logins) = tokio::join!(
        join_all(nodes.iter().map(|node| look(target, node, user))),
        look_at_logins(target, request.current)
    );
    let mut findings = vec![Finding::pass("transport", transport(target))];
    let mut seen = Vec::new();
    for (look, node) in looks.into_iter().zip(nodes) {
        match look {
            Ok(look) => {
                findings.extend(look_at_node(&look, user, &request));
                seen.push(look);
            }
            // Which of the server, the network and the admin's credential it is about, the whole text tells.
            Err(failure) => findings.push(Finding::fail(
                format!("node {node}"),
                failure.to_string(),
                failure.remedy().unwrap_or(failure.class().remedy()).to_owned(),
            )),
        }
    }
    if seen.len() == nodes.len() {
        findings.push(look_at_replication(&seen));
        findings.extend(look_at_drift(&seen, user));
    }
    findings.append(&mut logins);
    findings
}

async fn look<'a>(target: &RedisTarget, node: &'a RedisNode, user: &Principal) -> Result<Look<'a>, Failure> {
    let doing = RedisTarget::doing("look at", user, node);
    let mut wire = target.admin_at(node, user).await?;
    let seen = read(target, &mut wire, user, &doing).await?;
    let sessions = list(target, &mut wire, user, &doing).await?;
    let (mut replication, mut master_user) = (cmd("INFO"), cmd("CONFIG"));
    replication.arg("replication");
    master_user.arg("GET").arg("masteruser");
    let replies = ask(&mut wire, &[replication, master_user], target.deadlines.command, &doing).await?;
    let mut replies = replies.into_iter();
    let replication = accepted(replies.next(), "INFO", &doing)?;
    let replication = text(&replication).ok_or_else(|| odd("INFO", &doing))?.to_owned();
    let master_user = match accepted(replies.next(), "CONFIG GET", &doing)? {
        Value::Array(pair) => pair.get(1).and_then(text).unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    leave(target, wire).await;
    Ok(Look { node, seen, sessions, replication, master_user })
}

fn transport(target: &RedisTarget) -> &'static str {
    match target.spec.tls.mode {
        TlsMode::Disable => "no TLS",
        TlsMode::Require => "TLS; the servers' certificates are not checked",
        TlsMode::VerifyCa => "TLS; the servers' certificates must be from a trusted authority",
        TlsMode::VerifyFull => {
            "TLS; the servers' certificates must be from a trusted authority and name the host"
        }
    }
}

fn look_at_node(look: &Look<'_>, user: &Principal, request: &PreflightRequest<'_>) -> Vec<Finding> {
    let Look { node, seen, .. } = look;
    let subject = format!("node {node}");
    let mut findings = vec![match seen.keeping("") {
        Ok(keeping) => {
            Finding::pass(&subject, format!("{} keeps its users in {}", seen.product, keeping.as_str()))
        }
        Err(failure) => Finding::from_failure(&subject, &failure),
    }];
    let subject = format!("user {user} on {node}");
    let problems = match &seen.account {
        None => vec![not_there(user, "")],
        Some(account) => problems(account, look, user, request),
    };
    findings.extend(problems.iter().map(|failure| Finding::from_failure(&subject, failure)));
    if problems.is_empty() {
        findings.push(Finding::pass(&subject, "exists and can be changed"));
    }
    if look.master_user == user.as_str() {
        findings.push(Finding::fail(
            &subject,
            "the node logs in at its master as this user, with a value of its own (masterauth)",
            "give replication a user of its own: masteruser and masterauth in the configuration",
        ));
    }
    if has_name(&look.sessions, |name| name.starts_with("sentinel-")) {
        findings.push(Finding::warn(
            &subject,
            "a Sentinel logs in as this user, and reads no new value from anywhere",
            "give Sentinels a user of their own: sentinel auth-user and sentinel auth-pass",
        ));
    }
    findings
}

fn problems(
    account: &Account,
    look: &Look<'_>,
    user: &Principal,
    request: &PreflightRequest<'_>,
) -> Vec<Failure> {
    let marker = match account.marker(user, look.node, "") {
        Ok(marker) => marker,
        Err(failure) => return vec![failure],
    };
    if let Some(marker) = marker.filter(|marker| !marker.is_of(request.policy)) {
        return vec![foreign(Some(marker), user, look.node, "")];
    }
    let current = request.current.filter(|current| current.principal == *user);
    let current = current.map(|current| Entry::of(&current.value));
    let strangers: Vec<Entry> =
        account.values.iter().filter(|entry| Some(**entry) != current).copied().collect();
    [
        check_closed(account, user, look.node, ""),
        check_known(&strangers, current.is_some(), user, look.node, ""),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect()
}

/// Whether the policy names every node of a replicated set: those that have one history know of each other.
///
/// A node counts its own replicas, so no address has to be compared: a set is whole when its nodes' replicas are
/// as many as its nodes that are replicas. One that is cut off at the moment is not seen.
fn look_at_replication(looks: &[Look<'_>]) -> Finding {
    let value = |look: &Look<'_>, name| line(&look.replication, name).unwrap_or_default().to_owned();
    let is_apart =
        |look: &&Look<'_>| value(look, "role") == "slave" && value(look, "master_link_status") != "up";
    if let Some(look) = looks.iter().find(is_apart) {
        let detail =
            format!("{} is not connected to its master now, so who belongs to it is not seen", look.node);
        return Finding::warn("replication", detail, "look at the replication, and look again when it is up");
    }
    let sets: BTreeSet<String> = looks.iter().map(|look| value(look, "master_replid")).collect();
    for set in &sets {
        let nodes: Vec<_> = looks.iter().filter(|look| value(look, "master_replid") == *set).collect();
        let replicas = nodes.iter().filter(|look| value(look, "role") == "slave").count();
        let known =
            nodes.iter().filter_map(|look| value(look, "connected_slaves").parse::<usize>().ok()).sum();
        let addresses: Vec<String> = nodes
            .iter()
            .flat_map(|look| look.replication.lines())
            .filter(|line| line.strip_prefix("slave").is_some_and(|rest| rest.starts_with(char::is_numeric)))
            .filter_map(|line| {
                let field = |name: &str| line.split([':', ',']).find_map(|pair| pair.strip_prefix(name));
                Some(format!("{}:{}", field("ip=")?, field("port=")?))
            })
            .collect();
        let remedy = "name every node under target.redis.nodes: users are not replicated";
        if replicas == nodes.len() {
            let masters: BTreeSet<String> = nodes
                .iter()
                .map(|look| format!("{}:{}", value(look, "master_host"), value(look, "master_port")))
                .collect();
            let masters = masters.into_iter().collect::<Vec<_>>().join(", ");
            return Finding::fail(
                "replication",
                format!("the policy does not name the master, {masters}"),
                remedy,
            );
        }
        if replicas < known {
            let detail = format!(
                "the policy names {replicas} of {known} replicas; the nodes know of {}",
                addresses.join(", ")
            );
            return Finding::fail("replication", detail, remedy);
        }
    }
    let replicas = looks.iter().filter(|look| value(look, "role") == "slave").count();
    Finding::pass(
        "replication",
        match replicas {
            0 => "no node has a replica".to_owned(),
            1 => "the policy names the one replica".to_owned(),
            count => format!("the policy names all {count} replicas"),
        },
    )
}

/// Whether all nodes have the same user.
fn look_at_drift(looks: &[Look<'_>], user: &Principal) -> Vec<Finding> {
    let accounts: Vec<(&RedisNode, &Account)> =
        looks.iter().filter_map(|look| Some((look.node, look.seen.account.as_ref()?))).collect();
    let [(first, model), rest @ ..] = accounts.as_slice() else { return Vec::new() };
    let mut findings = Vec::new();
    for (node, account) in rest {
        let subject = format!("user {user} on {node}");
        let entries =
            |account: &Account| account.values.iter().map(Entry::to_string).collect::<BTreeSet<_>>();
        if entries(account) != entries(model) {
            let detail = format!("has other values than on {first}");
            let remedy = "see which is right, and set it on the other node with ACL SETUSER and ACL SAVE";
            findings.push(Finding::fail(&subject, detail, remedy));
        }
        let kinds: BTreeSet<&String> = account.rights.keys().chain(model.rights.keys()).collect();
        let different: Vec<&str> = kinds
            .into_iter()
            .filter(|kind| account.rights.get(*kind) != model.rights.get(*kind))
            .map(String::as_str)
            .collect();
        if !different.is_empty() {
            let detail = format!("has other {} than on {first}", different.join(", "));
            findings.push(Finding::warn(&subject, detail, "give it the same rights on every node"));
        }
    }
    findings
}

/// Logs in with the current value everywhere, and with a wrong one once: a server that takes that would take
/// anything, and no proof could be had from it.
async fn look_at_logins(target: &RedisTarget, current: Option<&Credential>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(current) = current {
        let entries = target.spec.nodes.iter().map(|node| look_at_current(target, node, current));
        findings.extend(join_all(entries).await);
    }
    if !target.spec.check.is_empty()
        && let Some(main) = target.spec.nodes.first()
    {
        // Without a current one nothing can be run yet.
        if let Some(current) = current
            && let Ok(mut wire) = open(&target.spec, main, current, &target.deadlines).await
        {
            findings.push(match run_check(target, main, &mut wire).await {
                Probe::Unfit(failure) | Probe::Unknown(failure) => {
                    Finding::from_failure("check command", &failure)
                }
                Probe::Accepted | Probe::Refused => {
                    Finding::pass("check command", "succeeds with the current credential")
                }
            });
            leave(target, wire).await;
        } else if let Probe::Unfit(failure) = only_reads(target, main).await {
            findings.push(Finding::from_failure("check command", &failure));
        }
    }
    findings.extend(join_all(target.spec.nodes.iter().map(|node| look_at_control(target, node))).await);
    findings
}

async fn look_at_current(target: &RedisTarget, node: &RedisNode, current: &Credential) -> Finding {
    let subject = format!("current credential at {node}");
    match open(&target.spec, node, current, &target.deadlines).await {
        Ok(wire) => {
            leave(target, wire).await;
            Finding::pass(subject, format!("{} is let in", current.principal))
        }
        Err(LoginError::Rejected) => Finding::fail(
            subject,
            format!("the node refuses the value of {} that the store holds", current.principal),
            "set it on the node, or bring the right one in with `rekeyd adopt`",
        ),
        Err(LoginError::Failed(failure)) => Finding::from_failure(subject, &failure),
    }
}

async fn look_at_control(target: &RedisTarget, node: &RedisNode) -> Finding {
    let user = target.spec.user();
    let wrong = Credential::new(user.clone(), ValueSpec::default().generate());
    let subject = format!("negative control at {node}");
    match open(&target.spec, node, &wrong, &target.deadlines).await {
        Err(LoginError::Rejected) => Finding::pass(subject, format!("a wrong value of {user} is refused")),
        Err(LoginError::Failed(failure)) => Finding::from_failure(subject, &failure),
        Ok(wire) => {
            leave(target, wire).await;
            Finding::fail(
                subject,
                format!("the node accepts a wrong value of {user}: no value can be proven dead there"),
                format!("take `nopass` from the user: ACL SETUSER {user} resetpass"),
            )
        }
    }
}
