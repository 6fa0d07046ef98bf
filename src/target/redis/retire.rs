//! Makes every node refuse a value, or undoes an install.

use futures_util::future::join_all;

use super::change::{Case, Change, Changed, Decision, everywhere};
use super::install::{check_closed, foreign};
use super::marker::{Entry, Marker, Standing, State};
use super::{RedisTarget, sessions};
use crate::failure::{Failure, FailureClass};
use crate::target::{Extent, RetireRequest, Retired};

pub(super) async fn retire(target: &RedisTarget, request: RetireRequest<'_>) -> Result<Retired, Failure> {
    let user = request.principal;
    if let Extent::SessionsBefore(_) = request.extent {
        let reason =
            "a session does not tell which value it logged in with, and no value was replaced in place";
        return Err(Failure::new(FailureClass::Invalid, format!("retire user {user}"), reason));
    }
    let beside = request.beside.map(|beside| Entry::of(&beside.value));
    let decide = |case: &Case<'_>| decide(case, &request, beside);
    let nodes = match everywhere(target, user, "retire", &request.attempt, decide).await? {
        Changed::Superseded(by) => return Ok(Retired::Superseded { by }),
        Changed::Done(nodes) => nodes,
    };
    if request.extent == Extent::Attempt {
        // Nobody was told of the value, and who is there has the one that stays.
        return Ok(Retired::Done { sessions_closed: 0 });
    }
    // Dying here leaves sessions open; the repeated retire ends them.
    let ended = join_all(nodes.into_iter().map(|mut node| async move {
        match &node.performed {
            Some(done) => sessions::end(target, node.node, &mut node.wire, user, &done.sessions).await,
            None => Ok(0),
        }
    }))
    .await;
    let sessions_closed = ended.into_iter().sum::<Result<u64, Failure>>()?;
    Ok(Retired::Done { sessions_closed })
}

fn decide(case: &Case<'_>, request: &RetireRequest<'_>, beside: Option<Entry>) -> Result<Decision, Failure> {
    // Who is not there is let in by nothing, and a late install does not make it.
    let Some(account) = case.account else { return Ok(Decision::Nothing) };
    let user = request.principal;
    let own = |state| match (case.marker, case.standing) {
        (Some(marker), Standing::Own(_)) => marker.with(state),
        _ => Marker::new(&request.attempt, state, None),
    };
    if request.extent == Extent::Attempt {
        let marker = own(State::Withdrawn);
        let removed = match case.standing {
            // Removed again where it is there again, and written to the file again: either may have failed.
            Standing::Own(State::Installed | State::Withdrawn) => {
                let installed = |entry: &&Entry| marker.installed(**entry) && Some(**entry) != beside;
                account.values.iter().filter(installed).map(|entry| entry.remove()).collect()
            }
            Standing::Open => {
                check_closed(account, user, case.node, case.doing)?;
                Vec::new()
            }
            Standing::Own(_) | Standing::Later(_) | Standing::Foreign => return Ok(Decision::Nothing),
        };
        return Ok(Decision::Change(Change { modifiers: removed, marker }));
    }
    match case.standing {
        Standing::Open | Standing::Own(_) => {}
        Standing::Later(by) => return Ok(Decision::Superseded(by)),
        Standing::Foreign => return Err(foreign(case.marker, user, case.node, case.doing)),
    }
    let (modifiers, state) = match (request.extent, beside) {
        (Extent::OtherValues, Some(beside)) => {
            let others = account.values.iter().filter(|entry| **entry != beside);
            let mut modifiers: Vec<String> = others.map(|entry| entry.remove()).collect();
            // Not there if somebody let everybody in meanwhile, which takes all values away.
            modifiers.extend((!account.values.contains(&beside)).then(|| beside.add()));
            // The attempt's install may be repeated, and is right.
            let state = match case.standing {
                Standing::Own(state) => state,
                _ => State::Installed,
            };
            (modifiers, state)
        }
        (Extent::OtherValues, None) => {
            let reason = "there is no value that is to stay";
            return Err(Failure::new(FailureClass::Invalid, case.doing, reason));
        }
        _ => (vec!["off".to_owned(), "resetpass".to_owned()], State::Retired),
    };
    Ok(Decision::Change(Change { modifiers, marker: own(state) }))
}
