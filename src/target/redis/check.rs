//! Whether the policy's command only reads, by what the node itself says of it.
//!
//! The admin asks, since `+acl` lets it: `ACL CAT` lists the commands of a category, with those of modules, and from
//! Redis 7 on with what a command contains (`object|freq`). The user that is checked may have no right to ask anything.

use std::collections::BTreeSet;

use redis::{Cmd, Value, cmd};

use super::RedisTarget;
use super::answer::{accepted, odd, text};
use super::connect::ask;
use super::probe::leave;
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::RedisNode;
use crate::target::Probe;

const READING: &str = "read";

/// What does more than read, waits, runs what the list does not tell, or may hold the server up.
const MORE: [&str; 6] = ["write", "admin", "dangerous", "blocking", "pubsub", "scripting"];

/// These touch no data at all.
const IDLE: [&str; 3] = ["ping", "echo", "time"];

/// Accepted, or unfit; unknown where the node does not tell.
pub(super) async fn only_reads(target: &RedisTarget, node: &RedisNode) -> Probe {
    let Some(command) = Command::of(&target.spec.check) else { return Probe::Accepted };
    let doing = format!("run the check command on {node}");
    match ask_for(&command, target, node, &doing).await {
        Ok(true) => Probe::Accepted,
        // What it is given is not told: anything may stand there.
        Ok(false) => Probe::Unfit(
            Failure::new(FailureClass::Invalid, doing, format!("{} may do more than read", command.name))
                .with_remedy(
                    "use a command of @read under target.redis.check, as [EXISTS, some-key], or [PING]",
                ),
        ),
        Err(failure) => Probe::Unknown(failure),
    }
}

async fn ask_for(
    command: &Command,
    target: &RedisTarget,
    node: &RedisNode,
    doing: &str,
) -> Result<bool, Failure> {
    let mut wire = target.admin_at(node, target.spec.user()).await?;
    let questions: Vec<Cmd> = std::iter::once(READING).chain(MORE).map(category).collect();
    let replies = ask(&mut wire, &questions, target.deadlines.command, doing).await?;
    leave(target, wire).await;
    let mut categories = Vec::new();
    let mut replies = replies.into_iter();
    for _ in questions {
        let listed = accepted(replies.next(), "ACL CAT", doing)?;
        categories.push(names(&listed).ok_or_else(|| odd("ACL CAT", doing))?);
    }
    Ok(command.only_reads(&categories[0], &categories[1..]))
}

/// A command as `ACL CAT` would list it.
struct Command {
    name: String,
    /// With what it is given first: its subcommand, if it has any.
    whole: String,
}

impl Command {
    fn of(check: &[String]) -> Option<Self> {
        let [name, arguments @ ..] = check else { return None };
        let name = name.to_ascii_lowercase();
        let whole = match arguments.first() {
            Some(first) => format!("{name}|{}", first.to_ascii_lowercase()),
            None => name.clone(),
        };
        Some(Self { name, whole })
    }

    fn only_reads(&self, reading: &BTreeSet<String>, more: &[BTreeSet<String>]) -> bool {
        let is_in = |listed: &BTreeSet<String>| listed.contains(&self.name) || listed.contains(&self.whole);
        (is_in(reading) || IDLE.contains(&&*self.name)) && !more.iter().any(is_in)
    }
}

fn category(name: &str) -> Cmd {
    let mut command = cmd("ACL");
    command.arg("CAT").arg(name);
    command
}

fn names(listed: &Value) -> Option<BTreeSet<String>> {
    match listed {
        Value::Array(items) | Value::Set(items) => {
            items.iter().map(|item| text(item).map(str::to_ascii_lowercase)).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_as_reading_alone_reads() {
        let set = |words: &[&str]| words.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        // Of Redis 7; Redis 6 lists `object` and not what it contains.
        let reading = set(&["get", "keys", "object|freq", "xread"]);
        let more = [set(&["set", "flushall"]), set(&["keys", "flushall", "client|kill"]), set(&["xread"])];
        let reads = |words: &[&str]| {
            let check: Vec<String> = words.iter().map(ToString::to_string).collect();
            Command::of(&check).expect("a command").only_reads(&reading, &more)
        };
        for words in [&["GET", "key"][..], &["get"], &["Object", "FREQ", "key"], &["PING"], &["ping", "kill"]]
        {
            assert!(reads(words), "{words:?}");
        }
        for words in [
            &["SET", "get", "1"][..],
            &["FLUSHALL"],
            &["KEYS", "*"],
            &["XREAD", "BLOCK", "0"],
            &["CLIENT", "KILL"],
            &["OBJECT"],
            &["OBJECT", "HELP"],
            &["EVAL", "return 1", "0"],
            &["renamed-by-its-owner"],
        ] {
            assert!(!reads(words), "{words:?}");
        }
        assert!(Command::of(&[]).is_none());
    }
}
