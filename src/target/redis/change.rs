//! Changing a user on every node: all are read, then all are changed, each by compare-and-set.

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use redis::{Cmd, Value, cmd};

use super::RedisTarget;
use super::account::{Account, Keeping, Seen};
use super::answer::{is_overtaken, odd, refusal, text, unknown};
use super::connect::ask;
use super::marker::{LAST_FENCE, Marker, Standing};
use super::sessions::{Client, clients, kill_command, list_command};
use super::wire::Wire;
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, Principal};
use crate::policy::spec::RedisNode;
use crate::target::Attempt;

/// What is to become of the user on one node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Change(Change),
    /// It is as it should be.
    Nothing,
    /// A later attempt holds it.
    Superseded(Fence),
}

/// A change of a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Modifiers of `ACL SETUSER`, without those of the marker.
    pub(super) modifiers: Vec<String>,
    /// What it leaves as the marker.
    pub(super) marker: Marker,
}

/// What was done on all nodes.
pub(super) enum Changed<'a> {
    Done(Vec<Node<'a>>),
    Superseded(Fence),
}

/// A node with the change.
pub(super) struct Node<'a> {
    pub(super) node: &'a RedisNode,
    pub(super) wire: Wire,
    /// `None` where nothing was to be changed.
    pub(super) performed: Option<Performed>,
}

/// What a node said of a change.
pub(super) struct Performed {
    /// Its own time at the change.
    pub(super) at: Timestamp,
    /// The sessions that the user had at the change.
    pub(super) sessions: Vec<Client>,
}

/// What is decided about one node.
pub(super) struct Case<'a> {
    pub(super) node: &'a RedisNode,
    pub(super) account: Option<&'a Account>,
    pub(super) marker: Option<&'a Marker>,
    pub(super) standing: Standing,
    pub(super) doing: &'a str,
}

/// How often a change is begun anew when somebody else was quicker.
const ROUNDS: usize = 8;

/// A node that was read.
struct Open<'a> {
    node: &'a RedisNode,
    wire: Wire,
    seen: Seen,
    /// What this call has put there to compare with, where there was no marker.
    begun: Option<Marker>,
}

enum Outcome {
    Performed(Performed),
    Nothing,
    Overtaken,
}

/// Reads the user on every node, decides for each, and changes it on all if all can be.
///
/// A failure other than `Ambiguous` has changed nothing anywhere.
pub(super) async fn everywhere<'a>(
    target: &'a RedisTarget,
    user: &Principal,
    verb: &str,
    attempt: &Attempt<'_>,
    decide: impl Fn(&Case<'_>) -> Result<Decision, Failure>,
) -> Result<Changed<'a>, Failure> {
    if attempt.fence.number() > LAST_FENCE {
        let doing = format!("{verb} user {user}");
        return Err(Failure::new(FailureClass::Invalid, doing, "a marker has no room for so many attempts"));
    }
    let doing = |node: &RedisNode| RedisTarget::doing(verb, user, node);
    let opened = join_all(target.spec.nodes.iter().map(|node| open(target, node, user, doing(node)))).await;
    let mut nodes = opened.into_iter().collect::<Result<Vec<_>, _>>()?;
    // Whether any node may have what was asked for, and what those said that have.
    let mut touched = false;
    let mut done: Vec<Option<Performed>> = nodes.iter().map(|_| None).collect();
    for _ in 0..ROUNDS {
        let decisions = match judge(&nodes, user, attempt, &doing, &decide) {
            Ok(Judged::Change(decisions)) => decisions,
            Ok(Judged::Superseded(by)) => {
                forget(target, &mut nodes, user).await;
                return Ok(Changed::Superseded(by));
            }
            Err(failure) => {
                forget(target, &mut nodes, user).await;
                return Err(after(touched, failure));
            }
        };
        rehearse(target, &mut nodes, &decisions, user, &doing)
            .await
            .map_err(|failure| after(touched, failure))?;
        if begin(target, &mut nodes, &decisions, user, attempt, &doing)
            .await
            .map_err(|failure| after(touched, failure))?
        {
            continue;
        }
        between!("redis.change.read");
        let outcomes = nodes.iter_mut().zip(&decisions).zip(&done).map(|((open, decision), done)| {
            let (doing, is_done) = (doing(open.node), done.is_some());
            async move {
                // Nobody but a later attempt takes it away again, and that was looked at.
                if is_done {
                    Ok(Outcome::Nothing)
                } else {
                    perform(target, open, decision, user, &doing).await
                }
            }
        });
        let outcomes = join_all(outcomes).await;
        let (mut overtaken, mut failed) = (false, None);
        for (outcome, done) in outcomes.into_iter().zip(&mut done) {
            match outcome {
                Ok(Outcome::Performed(performed)) => *done = Some(performed),
                Ok(Outcome::Nothing) => {}
                Ok(Outcome::Overtaken) => overtaken = true,
                Err(failure) => {
                    touched |= !failure.class().is_certain();
                    failed = failed.or(Some(failure));
                }
            }
        }
        touched |= done.iter().any(Option::is_some);
        if let Some(failure) = failed {
            return Err(after(touched, failure));
        }
        if !overtaken {
            between!("redis.change.done");
            let nodes = nodes.into_iter().zip(done);
            let nodes = nodes.map(|(Open { node, wire, .. }, performed)| Node { node, wire, performed });
            return Ok(Changed::Done(nodes.collect()));
        }
        for open in &mut nodes {
            let read = read(target, &mut open.wire, user, &doing(open.node)).await;
            open.seen = read.map_err(|failure| after(touched, failure))?;
        }
    }
    let reason = "somebody else changes it all the time";
    Err(after(touched, Failure::new(FailureClass::Unavailable, format!("{verb} user {user}"), reason)))
}

enum Judged {
    Change(Vec<Decision>),
    Superseded(Fence),
}

fn judge(
    nodes: &[Open<'_>],
    user: &Principal,
    attempt: &Attempt<'_>,
    doing: &impl Fn(&RedisNode) -> String,
    decide: &impl Fn(&Case<'_>) -> Result<Decision, Failure>,
) -> Result<Judged, Failure> {
    let mut decisions = Vec::new();
    for Open { node, seen, .. } in nodes {
        let doing = doing(node);
        let account = seen.account.as_ref();
        let marker = match account {
            Some(account) => account.marker(user, node, &doing)?,
            None => None,
        };
        let standing = Marker::standing(marker, attempt);
        let decision = decide(&Case { node, account, marker, standing, doing: &doing })?;
        if matches!(decision, Decision::Change(_)) {
            seen.keeping(&doing)?;
        }
        decisions.push(decision);
    }
    // One node that a later attempt holds is enough.
    let superseded = decisions.iter().find_map(|decision| match decision {
        Decision::Superseded(by) => Some(*by),
        Decision::Change(_) | Decision::Nothing => None,
    });
    Ok(superseded.map_or(Judged::Change(decisions), Judged::Superseded))
}

async fn open<'a>(
    target: &RedisTarget,
    node: &'a RedisNode,
    user: &Principal,
    doing: String,
) -> Result<Open<'a>, Failure> {
    let mut wire = target.admin_at(node, user).await?;
    let seen = read(target, &mut wire, user, &doing).await?;
    Ok(Open { node, wire, seen, begun: None })
}

pub(super) async fn read(
    target: &RedisTarget,
    wire: &mut Wire,
    user: &Principal,
    doing: &str,
) -> Result<Seen, Failure> {
    let replies = ask(wire, &Seen::questions(user), target.deadlines.command, doing).await?;
    Seen::parse(replies, doing)
}

/// Has every node look whether the admin may do all this, and do nothing of it: a right that is missing on the
/// last of them is found before the first has the change.
async fn rehearse(
    target: &RedisTarget,
    nodes: &mut [Open<'_>],
    decisions: &[Decision],
    user: &Principal,
    doing: &impl Fn(&RedisNode) -> String,
) -> Result<(), Failure> {
    let rehearsals = nodes.iter_mut().zip(decisions).map(async |(open, decision)| {
        let (Decision::Change(_), true) = (decision, open.seen.account.is_some()) else { return Ok(()) };
        let doing = doing(open.node);
        let keeping = open.seen.keeping(&doing)?.command();
        let commands = [
            cmd("MULTI"),
            set_user(user),
            keeping,
            list_command(),
            kill_command(0, user),
            cmd("TIME"),
            cmd("DISCARD"),
        ];
        let replies = ask(&mut open.wire, &commands, target.deadlines.command, &doing).await?;
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(refusal(error, &doing)),
            _ => None,
        });
        refused.map_or(Ok(()), Err)
    });
    join_all(rehearsals).await.into_iter().collect()
}

/// Puts something there to compare with, where there is no marker, and reads again. Whether it had to.
///
/// Dying after it: an entry is left that means nothing, and goes with the next change.
async fn begin(
    target: &RedisTarget,
    nodes: &mut [Open<'_>],
    decisions: &[Decision],
    user: &Principal,
    attempt: &Attempt<'_>,
    doing: &impl Fn(&RedisNode) -> String,
) -> Result<bool, Failure> {
    let mut begun = false;
    for (open, decision) in nodes.iter_mut().zip(decisions) {
        let Some(account) = &open.seen.account else { continue };
        let is_settled = account.markers.iter().any(|marker| marker.state() != super::marker::State::Begun);
        let has_own = open.begun.is_some_and(|own| account.markers.contains(&own));
        if is_settled || has_own || !matches!(decision, Decision::Change(_)) {
            continue;
        }
        let doing = doing(open.node);
        let own = Marker::begun(attempt);
        let mut set = set_user(user);
        set.arg(own.entry().add());
        let replies = ask(&mut open.wire, &[set], target.deadlines.command, &doing).await?;
        if let Some(Value::ServerError(error)) = replies.first() {
            return Err(refusal(error, &doing));
        }
        open.seen = read(target, &mut open.wire, user, &doing).await?;
        (open.begun, begun) = (Some(own), true);
    }
    Ok(begun)
}

/// Takes away what this call put there to compare with, where nothing comes of it. It means nothing if it stays.
async fn forget(target: &RedisTarget, nodes: &mut [Open<'_>], user: &Principal) {
    for open in nodes {
        let Some(own) = open.begun.take() else { continue };
        let mut set = set_user(user);
        set.arg(own.entry().remove());
        let _ = ask(&mut open.wire, &[set], target.deadlines.command, "").await;
    }
}

/// One transaction: the change with its condition, how it is kept, who is there, and what time it is.
async fn perform(
    target: &RedisTarget,
    open: &mut Open<'_>,
    decision: &Decision,
    user: &Principal,
    doing: &str,
) -> Result<Outcome, Failure> {
    let (Decision::Change(change), Some(account)) = (decision, &open.seen.account) else {
        return Ok(Outcome::Nothing);
    };
    let keeping = open.seen.keeping(doing)?;
    let mut set = set_user(user);
    for marker in &account.markers {
        set.arg(marker.entry().remove());
    }
    for modifier in &change.modifiers {
        set.arg(modifier);
    }
    set.arg(change.marker.entry().add());
    let commands = [cmd("MULTI"), set, keeping.command(), list_command(), cmd("TIME"), cmd("EXEC")];
    let deadline = target.deadlines.command;
    let replies = match tokio::time::timeout(deadline, open.wire.ask(&commands)).await {
        Ok(Ok(replies)) => replies,
        Ok(Err(lost)) => return Err(unknown(lost, doing)),
        Err(_) => return Err(unknown(format!("no answer within {} ms", deadline.as_millis()), doing)),
    };
    conclude(replies, commands.len(), keeping, user, doing)
}

/// What came of the transaction.
fn conclude(
    replies: Vec<Value>,
    commands: usize,
    keeping: Keeping,
    user: &Principal,
    doing: &str,
) -> Result<Outcome, Failure> {
    let complete = replies.len() == commands;
    let mut replies = replies;
    let results = match replies.pop() {
        Some(Value::Array(results)) if complete => results,
        // Nothing of it was done: a command was not let in, and said why.
        Some(Value::ServerError(last)) => {
            let first = replies.iter().find_map(|reply| match reply {
                Value::ServerError(error) => Some(error),
                _ => None,
            });
            return Err(refusal(first.unwrap_or(&last), doing));
        }
        _ => return Err(unknown("the answer is not one of a Redis server", doing)),
    };
    let [set, kept, list, time] = results.as_slice() else {
        return Err(unknown("the answer is not one of a Redis server", doing));
    };
    match set {
        Value::Okay => {}
        Value::ServerError(error) if is_overtaken(error) => return Ok(Outcome::Overtaken),
        Value::ServerError(error) => return Err(refusal(error, doing)),
        _ => return Err(odd("ACL SETUSER", doing)),
    }
    // From here on it has taken effect, and has to be repeated if anything else did not.
    if let Value::ServerError(error) = kept {
        let failure = refusal(error, doing);
        let reason = format!("the change was not written to {}: {}", keeping.as_str(), failure.reason());
        return Err(Failure::new(FailureClass::Ambiguous, doing, reason)
            .with_remedy("see its log: the file and its folder have to be writable for the server"));
    }
    let at = timestamp(time).ok_or_else(|| unknown("the node did not tell its time", doing))?;
    let list = text(list).ok_or_else(|| unknown("the node did not list its clients", doing))?;
    Ok(Outcome::Performed(Performed { at, sessions: clients(list, user, at) }))
}

fn set_user(user: &Principal) -> Cmd {
    let mut command = cmd("ACL");
    command.arg("SETUSER").arg(user.as_str());
    command
}

/// The answer to `TIME`.
pub(super) fn timestamp(reply: &Value) -> Option<Timestamp> {
    let Value::Array(parts) = reply else { return None };
    let [seconds, microseconds] = parts.as_slice() else { return None };
    let whole = Timestamp::from_second(text(seconds)?.parse().ok()?).ok()?;
    whole.checked_add(SignedDuration::from_micros(text(microseconds)?.parse().ok()?)).ok()
}

/// A failure that comes when some node has the change already.
fn after(touched: bool, failure: Failure) -> Failure {
    if !touched || failure.class() == FailureClass::Ambiguous {
        return failure;
    }
    let reason = format!("{}; another node has the change already", failure.reason());
    failure.with_reason(reason).reclassified(FailureClass::Ambiguous)
}
