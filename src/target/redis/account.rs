//! What a node knows of the user, and how it keeps that.

use std::collections::BTreeMap;

use redis::{Cmd, Value, cmd};

use super::answer::{accepted, odd, text};
use super::marker::{Entry, Marker, State};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::RedisNode;

/// What a node was found like.
#[derive(Debug)]
pub(super) struct Seen {
    /// `None` when there is no such user.
    pub(super) account: Option<Account>,
    /// How its users outlive it; `None` when they do not.
    pub(super) keeping: Option<Keeping>,
    /// `Redis 7.0.15`.
    pub(super) product: String,
}

/// How a node keeps its users for its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// In a file of their own.
    AclFile,
    /// In its configuration.
    ConfigFile,
}

/// A user.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) on: bool,
    /// Whether it takes any value.
    pub(super) nopass: bool,
    /// What it keeps of the values that let in.
    pub(super) values: Vec<Entry>,
    /// What rekeyd keeps among them.
    pub(super) markers: Vec<Marker>,
    /// Its rights, by the name of their kind.
    pub(super) rights: BTreeMap<String, String>,
}

impl Keeping {
    pub(super) fn command(self) -> Cmd {
        let (first, second) = match self {
            Self::AclFile => ("ACL", "SAVE"),
            Self::ConfigFile => ("CONFIG", "REWRITE"),
        };
        let mut command = cmd(first);
        command.arg(second);
        command
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AclFile => "its ACL file",
            Self::ConfigFile => "its configuration file",
        }
    }
}

impl Seen {
    /// What is asked for it.
    pub(super) fn questions(user: &Principal) -> Vec<Cmd> {
        let ask = |words: [&str; 3]| {
            let mut command = cmd(words[0]);
            words[1..].iter().filter(|word| !word.is_empty()).for_each(|word| {
                command.arg(*word);
            });
            command
        };
        vec![
            ask(["ACL", "GETUSER", user.as_str()]),
            ask(["CONFIG", "GET", "aclfile"]),
            ask(["INFO", "server", ""]),
        ]
    }

    pub(super) fn parse(replies: Vec<Value>, doing: &str) -> Result<Self, Failure> {
        let mut replies = replies.into_iter();
        let account = match accepted(replies.next(), "ACL GETUSER", doing)? {
            Value::Nil => None,
            reply => Some(Account::parse(reply).ok_or_else(|| odd("ACL GETUSER", doing))?),
        };
        let file = accepted(replies.next(), "CONFIG GET", doing)?;
        let has_file = pairs(file).iter().any(|(_, value)| text(value).is_some_and(|path| !path.is_empty()));
        let info = accepted(replies.next(), "INFO", doing)?;
        let info = text(&info).ok_or_else(|| odd("INFO", doing))?;
        let has_configuration = line(info, "config_file").is_some_and(|path| !path.is_empty());
        let keeping = match (has_file, has_configuration) {
            (true, _) => Some(Keeping::AclFile),
            (false, true) => Some(Keeping::ConfigFile),
            (false, false) => None,
        };
        // Valkey tells its own version beside that of the Redis whose clients it serves.
        let product = match (line(info, "valkey_version"), line(info, "redis_version")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, version) => format!("Redis {}", version.unwrap_or("of an unknown version")),
        };
        Ok(Self { account, keeping, product })
    }

    /// How the node keeps its users. A change that does not outlive the node would bring back a retired value.
    pub(super) fn keeping(&self, doing: &str) -> Result<Keeping, Failure> {
        self.keeping.ok_or_else(|| {
            let reason =
                "the node keeps its users in memory only: a restart would bring back what was retired";
            Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("set `aclfile` in its configuration, or start it with a configuration file")
        })
    }
}

impl Account {
    fn parse(reply: Value) -> Option<Self> {
        let mut account = Self::default();
        for (name, value) in pairs(reply) {
            match text(&name)? {
                "flags" => {
                    let flags = words(&value)?;
                    account.on = flags.contains(&"on");
                    account.nopass = flags.contains(&"nopass");
                }
                "passwords" => {
                    for entry in words(&value)? {
                        let entry = Entry::parse(entry)?;
                        match Marker::parse(entry) {
                            Some(marker) => account.markers.push(marker),
                            None => account.values.push(entry),
                        }
                    }
                }
                kind => {
                    account.rights.insert(kind.to_owned(), flat(&value));
                }
            }
        }
        Some(account)
    }

    /// The marker of the last attempt that changed it.
    ///
    /// # Errors
    /// When there are two: nothing can be concluded from them then.
    pub(super) fn marker(
        &self,
        user: &Principal,
        node: &RedisNode,
        doing: &str,
    ) -> Result<Option<&Marker>, Failure> {
        let mut settled = self.markers.iter().filter(|marker| marker.state() != State::Begun);
        match (settled.next(), settled.next()) {
            (first, None) => Ok(first),
            (_, Some(second)) => {
                let reason = "it has two markers, so somebody has put one there by hand";
                Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(format!(
                    "find out which is right, and remove the other on {node}, as in ACL SETUSER {user} {}",
                    second.entry().remove()
                )))
            }
        }
    }
}

/// Names and values that come one after another.
fn pairs(reply: Value) -> Vec<(Value, Value)> {
    match reply {
        Value::Map(pairs) => pairs,
        Value::Array(items) => {
            let mut items = items.into_iter();
            std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
        }
        _ => Vec::new(),
    }
}

fn words(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().map(text).collect(),
        _ => None,
    }
}

/// Rights in one text, to be compared.
fn flat(value: &Value) -> String {
    match value {
        Value::Array(items) | Value::Set(items) => items.iter().map(flat).collect::<Vec<_>>().join(" "),
        value => text(value).unwrap_or_default().to_owned(),
    }
}

/// The value of a line `name:value`.
pub(super) fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
