//! Open sessions: listing them, and ending them until none is left.

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use redis::{Cmd, cmd};

use super::RedisTarget;
use super::answer::{accepted, odd, text};
use super::change::timestamp;
use super::connect::ask;
use super::wire::Wire;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::RedisNode;
use crate::target::{Session, Usage};

/// A client of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// Grows with each connection that a node takes, and never comes again.
    id: u64,
    session: Session,
}

/// Those of a user on all nodes, oldest first.
pub(super) async fn usage(target: &RedisTarget, user: &Principal) -> Result<Usage, Failure> {
    let listed = join_all(target.spec.nodes.iter().map(|node| async move {
        let doing = RedisTarget::doing("list sessions of", user, node);
        let mut wire = target.admin_at(node, user).await?;
        list(target, &mut wire, user, &doing).await
    }))
    .await;
    let mut sessions = Vec::new();
    for clients in listed {
        sessions.extend(clients?.into_iter().map(|client| client.session));
    }
    sessions.sort_by_key(|session| session.since);
    Ok(Usage { sessions, ..Usage::default() })
}

pub(super) async fn list(
    target: &RedisTarget,
    wire: &mut Wire,
    user: &Principal,
    doing: &str,
) -> Result<Vec<Client>, Failure> {
    let questions = [list_command(), cmd("TIME")];
    let mut replies = ask(wire, &questions, target.deadlines.command, doing).await?.into_iter();
    let list = accepted(replies.next(), "CLIENT LIST", doing)?;
    let time = accepted(replies.next(), "TIME", doing)?;
    let now = timestamp(&time).ok_or_else(|| odd("TIME", doing))?;
    let list = text(&list).ok_or_else(|| odd("CLIENT LIST", doing))?;
    Ok(clients(list, user, now))
}

/// Ends these sessions of a user's on one node and returns how many there were. The node is asked again until it
/// lists none of them.
pub(super) async fn end(
    target: &RedisTarget,
    node: &RedisNode,
    wire: &mut Wire,
    user: &Principal,
    sessions: &[Client],
) -> Result<u64, Failure> {
    let doing = RedisTarget::doing("end the sessions of", user, node);
    let deadline = tokio::time::Instant::now() + target.deadlines.command;
    let mut left = sessions.to_vec();
    let mut pause = std::time::Duration::from_millis(1);
    while !left.is_empty() {
        if tokio::time::Instant::now() >= deadline {
            let reason = "its sessions do not end";
            return Err(Failure::new(FailureClass::Unavailable, doing, reason)
                .with_remedy("look at CLIENT LIST for sessions that survive CLIENT KILL"));
        }
        let kills: Vec<Cmd> = left.iter().map(|client| kill_command(client.id, user)).collect();
        for reply in ask(wire, &kills, target.deadlines.command, &doing).await? {
            accepted(Some(reply), "CLIENT KILL", &doing)?;
        }
        let open = list(target, wire, user, &doing).await?;
        left.retain(|client| open.iter().any(|other| other.id == client.id));
        if !left.is_empty() {
            SystemClock.sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_millis(100));
        }
    }
    Ok(sessions.len() as u64)
}

/// The user's in the answer to `CLIENT LIST`, by the node's own time.
pub(super) fn clients(list: &str, user: &Principal, now: Timestamp) -> Vec<Client> {
    list.lines().filter_map(|line| client(line, user, now)).collect()
}

fn client(line: &str, user: &Principal, now: Timestamp) -> Option<Client> {
    let field = |name: &str| line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    if field("user")? != user.as_str() {
        return None;
    }
    let address = field("addr").unwrap_or_default();
    let name = field("name").filter(|name| !name.is_empty()).or_else(|| field("lib-name"));
    // One whose age is not to be read counts as one that was always there.
    let age = field("age").and_then(|age| age.parse().ok()).unwrap_or(i64::from(u32::MAX));
    let since = Timestamp::from_second(now.as_second() - age).unwrap_or(Timestamp::UNIX_EPOCH);
    let session =
        Session { application: name.unwrap_or_default().to_owned(), client: host(address).to_owned(), since };
    Some(Client { id: field("id")?.parse().ok()?, session })
}

/// Sessions that begin from now on are never taken for ones from before this moment: a node tells ages in whole
/// seconds, of a time that it looks at ten times a second.
pub(super) fn moment(now: Timestamp) -> Timestamp {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    second.checked_sub(SignedDuration::from_secs(1)).unwrap_or(second)
}

/// An address without its port; empty for a local socket.
fn host(address: &str) -> &str {
    if address.starts_with('/') {
        return "";
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

pub(super) fn list_command() -> Cmd {
    let mut list = cmd("CLIENT");
    list.arg("LIST");
    list
}

pub(super) fn kill_command(id: u64, user: &Principal) -> Cmd {
    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(id).arg("USER").arg(user.as_str());
    kill
}

/// Whether any client of a list has this name.
pub(super) fn has_name(clients: &[Client], is_it: impl Fn(&str) -> bool) -> bool {
    clients.iter().any(|client| is_it(&client.session.application))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_clients_is_read() {
        let list = "id=7 addr=10.0.0.7:55246 laddr=10.0.0.1:6379 fd=7 name= age=90 idle=0 user=orders lib-name=redis-py\n\
                    id=8 addr=[::1]:55247 laddr=[::1]:6379 fd=8 name=worker age=0 idle=0 user=orders\n\
                    id=9 addr=/run/redis.sock:0 fd=9 name=x age=5 user=orders-admin\n";
        let now = Timestamp::from_second(1_000).expect("a time");
        let found = clients(list, &"orders".parse().expect("a principal"), now);
        let told: Vec<_> = found
            .iter()
            .map(|Client { id, session }| {
                (*id, &*session.application, &*session.client, session.since.as_second())
            })
            .collect();
        assert_eq!(told, [(7, "redis-py", "10.0.0.7", 910), (8, "worker", "::1", 1_000)]);
        assert_eq!(host("/run/redis.sock:0"), "");
    }

    #[test]
    fn no_later_session_counts_as_an_earlier_one() {
        let now = Timestamp::from_millisecond(1_000_050).expect("a time");
        // The node has not looked at its clock since the second began.
        let since = Timestamp::from_second(999).expect("a time");
        assert!(moment(now) <= since);
    }
}
