//! Makes a user accept the candidate, on every node.

use super::account::Account;
use super::answer::not_there;
use super::change::{Case, Change, Changed, Decision, everywhere};
use super::marker::{Entry, Marker, Standing, State};
use super::{RedisTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::RedisNode;
use crate::secret::Credential;
use crate::target::{InstallRequest, Installed, Occupancy};

pub(super) async fn install(target: &RedisTarget, request: InstallRequest<'_>) -> Result<Installed, Failure> {
    let Credential { principal, value, .. } = request.candidate;
    let candidate = Entry::of(value);
    if value.is_empty() || Marker::parse(candidate).is_some() {
        let reason = "a value is not empty, and its hash does not look like a marker";
        return Err(Failure::new(FailureClass::Refused, format!("install user {principal}"), reason));
    }
    let beside = request.beside.map(|beside| Entry::of(&beside.value));
    let decide = |case: &Case<'_>| decide(case, &request, candidate, beside);
    match everywhere(target, principal, "install", &request.attempt, decide).await? {
        Changed::Superseded(by) => Ok(Installed::Superseded { by }),
        Changed::Done(nodes) => {
            let times = nodes.iter().filter_map(|node| node.performed.as_ref()).map(|done| done.at);
            // Of clocks that differ, the one that is behind: a session that came later is not taken for an earlier one.
            let at = times.min().ok_or_else(|| {
                let doing = format!("install user {principal}");
                Failure::new(FailureClass::Invalid, doing, "the policy names no node")
            })?;
            Ok(Installed::Done { at: sessions::moment(at) })
        }
    }
}

fn decide(
    case: &Case<'_>,
    request: &InstallRequest<'_>,
    candidate: Entry,
    beside: Option<Entry>,
) -> Result<Decision, Failure> {
    let (user, doing) = (&request.candidate.principal, case.doing);
    let account = case.account.ok_or_else(|| not_there(user, doing))?;
    let repeated = match case.standing {
        Standing::Open => false,
        Standing::Own(State::Installed) => account.values.contains(&candidate),
        // This attempt was given up; what arrives of it now is late.
        Standing::Own(_) => return Ok(Decision::Superseded(request.attempt.fence)),
        Standing::Later(by) => return Ok(Decision::Superseded(by)),
        Standing::Foreign => return Err(foreign(case.marker, user, case.node, doing)),
    };
    // The one beside is kept and never added: a repetition must not revive what was retired meanwhile.
    let known = |entry: &Entry| *entry == candidate || Some(*entry) == beside;
    let strangers: Vec<Entry> = account.values.iter().filter(|entry| !known(entry)).copied().collect();
    let removed = match request.occupancy {
        Occupancy::Close => strangers,
        Occupancy::Keep => {
            check_closed(account, user, case.node, doing)?;
            Vec::new()
        }
        Occupancy::Refuse if repeated => Vec::new(),
        Occupancy::Refuse => {
            check_closed(account, user, case.node, doing)?;
            check_known(&strangers, request.beside.is_some(), user, case.node, doing)?;
            Vec::new()
        }
    };
    let mut modifiers = vec!["on".to_owned()];
    modifiers.extend(removed.into_iter().map(Entry::remove));
    modifiers.push(candidate.add());
    let marker = Marker::new(&request.attempt, State::Installed, Some(candidate));
    Ok(Decision::Change(Change { modifiers, marker }))
}

/// Whether the user asks for a value at all. A user who does not has readers with any value or none, and they
/// would be locked out.
pub(super) fn check_closed(
    account: &Account,
    user: &Principal,
    node: &RedisNode,
    doing: &str,
) -> Result<(), Failure> {
    if !account.nopass {
        return Ok(());
    }
    let reason = "the user is let in with any value (nopass)";
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(format!(
        "give it a value that its readers have, on {node}: ACL SETUSER {user} resetpass #<sha-256>, then `rekeyd adopt`"
    )))
}

/// Whether no value lets in but those that are known.
pub(super) fn check_known(
    strangers: &[Entry],
    has_outgoing: bool,
    user: &Principal,
    node: &RedisNode,
    doing: &str,
) -> Result<(), Failure> {
    let [first, ..] = strangers else { return Ok(()) };
    let reason = match strangers.len() {
        1 => "it has a value that rekeyd does not know".to_owned(),
        count => format!("it has {count} values that rekeyd does not know"),
    };
    let remedy = if has_outgoing {
        format!(
            "find out who uses it, and remove it on {node}: ACL SETUSER {user} {}; a containment removes it, too",
            first.remove()
        )
    } else {
        format!("take it over with `rekeyd adopt`, or remove it on {node}: ACL SETUSER {user} resetpass")
    };
    Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(remedy))
}

pub(super) fn foreign(marker: Option<&Marker>, user: &Principal, node: &RedisNode, doing: &str) -> Failure {
    let entry = marker.map_or_else(|| "!<marker>".to_owned(), |marker| marker.entry().remove());
    Failure::new(FailureClass::Conflict, doing, "another policy holds the user").with_remedy(format!(
        "let one policy alone rotate it; if the other no longer exists, take its marker out on {node}: \
         ACL SETUSER {user} {entry}"
    ))
}
