//! Open connections: listing them, and closing them until none is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::http::Method;
use jiff::Timestamp;
use serde_json::Value;

use super::RabbitmqTarget;
use super::api::{Api, Stage, lost, refusal};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::target::{Session, Usage};

pub(super) async fn usage(target: &RabbitmqTarget, user: &Principal) -> Result<Usage, Failure> {
    let doing = target.doing("list connections of", user);
    let admin = target.admin.credential().await?;
    let api = Api::new(target, &admin, &doing).await?;
    let (names, at) = names(&api, user, &doing).await?;
    if names.is_empty() {
        return Ok(Usage::default());
    }
    let columns =
        "columns=name,user,connected_at,client_properties.connection_name,client_properties.product";
    let known = api.get(&["connections"], columns, &doing).await?;
    let known =
        known.as_ref().map(|answer| answer.list("connections", &doing)).transpose()?.unwrap_or_default();
    let known: BTreeMap<&str, &Value> =
        known.iter().filter_map(|entry| Some((entry["name"].as_str()?, entry))).collect();
    let mut sessions: Vec<Session> = names
        .iter()
        .map(|name| {
            let entry = known.get(name.as_str());
            let properties = |name: &str| entry.and_then(|entry| entry["client_properties"][name].as_str());
            let since = entry.and_then(|entry| entry["connected_at"].as_i64());
            Session {
                application: properties("connection_name")
                    .or_else(|| properties("product"))
                    .unwrap_or_default()
                    .to_owned(),
                client: peer(name),
                since: since.and_then(|since| Timestamp::from_millisecond(since).ok()).unwrap_or(at),
            }
        })
        .collect();
    sessions.sort_by_key(|session| session.since);
    Ok(Usage { sessions, ..Usage::default() })
}

/// The names of a user's connections, and the server's time.
async fn names(
    api: &Api<'_>,
    user: &Principal,
    doing: &str,
) -> Result<(BTreeSet<String>, Timestamp), Failure> {
    let answer = api.get(&["connections", "username", user.as_str()], "", doing).await?;
    // Where it does not know the user it has no connection of it.
    let Some(answer) = answer else { return Ok((BTreeSet::new(), SystemClock.now())) };
    let entries = answer.list("connections", doing)?;
    let names = entries.iter().filter_map(|entry| entry["name"].as_str()).map(ToOwned::to_owned).collect();
    Ok((names, answer.at.unwrap_or_else(|| SystemClock.now())))
}

/// How many connections a user has, and some of them.
pub(super) async fn open(api: &Api<'_>, user: &Principal, doing: &str) -> Result<Vec<String>, Failure> {
    Ok(names(api, user, doing).await?.0.iter().map(|name| peer(name)).collect())
}

/// Closes a user's connections and returns how many there were. The server is asked again until it has none, so
/// that a login that was under way is closed, too.
pub(super) async fn end(
    target: &RabbitmqTarget,
    api: &Api<'_>,
    user: &Principal,
    doing: &str,
) -> Result<u64, Failure> {
    let deadline = tokio::time::Instant::now() + target.deadlines.request;
    let mut ended = BTreeSet::new();
    let mut pause = Duration::from_millis(2);
    loop {
        let (open, _) = names(api, user, doing).await?;
        if open.is_empty() {
            return Ok(ended.len() as u64);
        }
        if tokio::time::Instant::now() >= deadline {
            let reason = "its connections do not end";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("look at rabbitmqctl list_connections for connections that do not close"));
        }
        ended.extend(open);
        let path = ["connections", "username", user.as_str()];
        let answer =
            api.send(Method::DELETE, &path, "", None).await.map_err(|e| lost(e, Stage::Reading, doing))?;
        if !answer.status.is_success() && answer.status != crate::http::StatusCode::NOT_FOUND {
            return Err(refusal(&answer, doing));
        }
        SystemClock.sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The client's address in a name like `10.0.0.7:54384 -> 10.0.0.1:5672`.
fn peer(name: &str) -> String {
    let client = name.split(" -> ").next().unwrap_or_default();
    let host = client.rsplit_once(':').map_or(client, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_named_by_its_ends() {
        assert_eq!(peer("10.0.0.7:54384 -> 10.0.0.1:5672"), "10.0.0.7");
        assert_eq!(peer("[::1]:54384 -> [::1]:5672"), "::1");
        assert_eq!(peer(""), "");
    }
}
