//! Running queries: listing them, and ending them until none is left.

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::ClickhouseTarget;
use super::api::{Api, Rows, odd};
use super::seen;
use super::sql::{literal, literals};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::ClickhouseNode;
use crate::target::{APPLICATION, LastUse, Session, Usage};

/// A query that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    id: String,
    pub(super) session: Session,
    /// What the client that sent it over HTTP calls itself.
    agent: String,
}

/// Those of a user on all nodes, oldest first.
pub(super) async fn usage(target: &ClickhouseTarget, user: &Principal) -> Result<Usage, Failure> {
    let listed = join_all(target.spec.nodes.iter().map(|node| async move {
        let doing = ClickhouseTarget::doing("list queries of", user, node);
        let api = target.admin_at(node, user).await?;
        // Who is replaced when it is retired has no connection left, idle ones included. They are listed nowhere.
        let is_replaced = target.is_pair() && seen::named_by(&api, user, &doing).await?.is_empty();
        Ok((open(&api, user, &doing).await?, is_replaced))
    }))
    .await;
    let (mut sessions, mut last) = (Vec::new(), LastUse::BySessions);
    for listed in listed {
        let (running, is_replaced): (Vec<Running>, bool) = listed?;
        sessions.extend(running.into_iter().map(|running| running.session));
        if !is_replaced {
            last = LastUse::ByListed;
        }
    }
    sessions.sort_by_key(|session| session.since);
    Ok(Usage { sessions, last })
}

/// A user's, once those of rekeyd's own logins have left the list: they were answered already. One that calls itself
/// so and stays is somebody's.
pub(super) async fn open(api: &Api, user: &Principal, doing: &str) -> Result<Vec<Running>, Failure> {
    let own = |running: &Running| running.agent.starts_with(APPLICATION);
    let mut listed = list(api, user, doing).await?;
    for _ in 0..LOOKS {
        if !listed.iter().any(own) {
            break;
        }
        SystemClock.sleep(PAUSE).await;
        listed = list(api, user, doing).await?;
    }
    Ok(listed)
}

const LOOKS: usize = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

async fn list(api: &Api, user: &Principal, doing: &str) -> Result<Vec<Running>, Failure> {
    let now = seen::time(api, doing).await?;
    let statement = format!(
        "SELECT query_id, toString(address), client_name, http_user_agent, toString(toInt64(elapsed * 1000000)) FROM \
         system.processes WHERE user = {0} OR initial_user = {0}",
        literal(user.as_str())
    );
    parse(&api.ask(&statement, doing).await?, now).ok_or_else(|| odd("its queries", doing))
}

fn parse(rows: &Rows, now: Timestamp) -> Option<Vec<Running>> {
    let running = |row: &Vec<serde_json::Value>| {
        let text = |index: usize| row.get(index)?.as_str();
        let elapsed = SignedDuration::from_micros(text(4)?.parse().ok()?);
        let application = if text(2)?.is_empty() { text(3)? } else { text(2)? };
        let address = text(1)?;
        Some(Running {
            id: text(0)?.to_owned(),
            session: Session {
                application: application.to_owned(),
                client: address.strip_prefix("::ffff:").unwrap_or(address).to_owned(),
                since: now.checked_sub(elapsed).unwrap_or(Timestamp::UNIX_EPOCH),
            },
            agent: text(3)?.to_owned(),
        })
    };
    rows.iter().map(running).collect()
}

/// Ends the queries that a user has now on one node, and returns how many there were. The node is asked again until
/// it lists none of them.
pub(super) async fn end(
    target: &ClickhouseTarget,
    node: &ClickhouseNode,
    api: &Api,
    user: &Principal,
) -> Result<u64, Failure> {
    let doing = ClickhouseTarget::doing("end the queries of", user, node);
    let all = open(api, user, &doing).await?;
    let deadline = tokio::time::Instant::now() + target.deadlines.request;
    let mut left = all.clone();
    let mut pause = std::time::Duration::from_millis(1);
    while !left.is_empty() {
        if tokio::time::Instant::now() >= deadline {
            let reason = "its queries do not end";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("look at system.processes for queries that survive KILL QUERY"));
        }
        let ids = literals(left.iter().map(|running| running.id.as_str()));
        api.change(&format!("KILL QUERY WHERE query_id IN {ids} ASYNC"), &doing).await?;
        let now = list(api, user, &doing).await?;
        left.retain(|one| now.iter().any(|other| other.id == one.id));
        if !left.is_empty() {
            SystemClock.sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_millis(100));
        }
    }
    Ok(all.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_queries_is_read() {
        let rows = serde_json::json!([
            ["7", "::ffff:10.0.0.7", "", "python-requests/2", "90000000"],
            ["8", "::1", "ClickHouse client", "", "0"],
        ]);
        let rows: Rows = serde_json::from_value(rows).expect("rows");
        let now = Timestamp::from_second(1_000).expect("a time");
        let found = parse(&rows, now).expect("queries");
        let told: Vec<_> = found
            .iter()
            .map(|one| (&*one.session.application, &*one.session.client, one.session.since.as_second()))
            .collect();
        assert_eq!(told, [("python-requests/2", "10.0.0.7", 910), ("ClickHouse client", "::1", 1_000)]);
        assert_eq!(parse(&vec![vec!["7".into()]], now), None);
    }
}
