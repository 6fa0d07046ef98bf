//! What a server's errors mean.
//!
//! Decided by the word that an error begins with, and where that is `ERR` by a few texts that the server has
//! always used. None is passed on: an error can quote what it is about.

use redis::{ServerError, Value};

use super::wire::Lost;
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;

/// What an error to a command means that certainly changed nothing.
pub(super) fn refusal(error: &ServerError, doing: &str) -> Failure {
    let failed =
        |class, reason: &str, remedy: &'static str| Failure::new(class, doing, reason).with_remedy(remedy);
    let details = error.details().unwrap_or_default();
    match error.code() {
        "EXECABORT" if details.contains("NOPERM") => {
            failed(FailureClass::Denied, "the admin may not do that", RIGHTS)
        }
        "NOPERM" => failed(FailureClass::Denied, "the admin may not do that", RIGHTS),
        "NOAUTH" => {
            failed(FailureClass::Denied, "the server asks for another login", "look at its log and its ACLs")
        }
        "DENIED" => failed(
            FailureClass::Denied,
            "the server is in protected mode",
            "give its users passwords, or bind it to the addresses that it is for",
        ),
        "LOADING" => failed(
            FailureClass::Unavailable,
            "the server is loading its data",
            "wait until the server has loaded it",
        ),
        "MASTERDOWN" => failed(
            FailureClass::Unavailable,
            "the replica has lost its master and serves nothing old",
            "look at the replication",
        ),
        "BUSY" => failed(
            FailureClass::Unavailable,
            "a script holds the server up",
            "wait for it, or end it with SCRIPT KILL",
        ),
        "READONLY" => {
            failed(FailureClass::Invalid, "a replica takes no write", "use a command that only reads")
        }
        "ERR" if details.contains("max number of clients") => failed(
            FailureClass::Unavailable,
            "the server has too many clients",
            "raise maxclients, or look for clients that do not close their connections",
        ),
        "ERR" if is_unknown(details) => failed(
            FailureClass::Invalid,
            "the server does not know a command that this needs",
            "use Redis 6 or later, or a Valkey, whose ACL and CONFIG commands are not taken away",
        ),
        code @ ("OOM" | "MISCONF" | "TRYAGAIN" | "CLUSTERDOWN") => {
            Failure::new(FailureClass::Unavailable, doing, format!("the server refuses with {code}"))
        }
        code => Failure::new(FailureClass::Invalid, doing, format!("the server refuses with {}", word(code))),
    }
}

/// What the admin needs.
pub(super) const RIGHTS: &str = "give the admin +acl +client +config|get +config|rewrite +info +time \
                                 +multi +exec +discard, as in ACL SETUSER <admin> ...";

/// Whether somebody else was at the user first: what was to be removed is not there.
pub(super) fn is_overtaken(error: &ServerError) -> bool {
    error.code() == "ERR" && error.details().is_some_and(|details| details.contains("does not exist"))
}

/// Whether the server looked at user and password, and does not take them. Users that do not exist or are off
/// are told the same.
pub(super) fn is_rejection(error: &ServerError) -> bool {
    error.code() == "WRONGPASS"
}

/// Nothing that changes anything was sent.
pub(super) fn unread(lost: Lost, doing: &str) -> Failure {
    match lost {
        Lost::Cut(_) => Failure::new(FailureClass::Unavailable, doing, lost),
        Lost::Garbled => Failure::new(FailureClass::Invalid, doing, lost)
            .with_remedy("check that a Redis or Valkey listens there, and whether it wants TLS"),
        Lost::Endless => Failure::new(FailureClass::Invalid, doing, lost).with_remedy(
            "check that a Redis or Valkey listens there; one with a hundred thousand clients is too much for rekeyd",
        ),
    }
}

/// A change was on its way.
pub(super) fn unknown(reason: impl std::fmt::Display, doing: &str) -> Failure {
    let reason = format!("{reason}; the change may have taken effect");
    Failure::new(FailureClass::Ambiguous, doing, reason)
}

/// A reply of another kind than the command has.
pub(super) fn odd(command: &str, doing: &str) -> Failure {
    let reason = format!("the answer to {command} is not one of a Redis server");
    Failure::new(FailureClass::Invalid, doing, reason)
        .with_remedy("check that a Redis or Valkey listens there, and no proxy that answers for it")
}

pub(super) fn not_there(user: &Principal, doing: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, "the user does not exist").with_remedy(format!(
        "make it on this node with the rights of its readers and without a password: \
         ACL SETUSER {user} on ~... +@read"
    ))
}

/// A reply, unless it is an error.
pub(super) fn accepted(reply: Option<Value>, command: &str, doing: &str) -> Result<Value, Failure> {
    match reply {
        Some(Value::ServerError(error)) => Err(refusal(&error, doing)),
        Some(reply) => Ok(reply),
        None => Err(unread(Lost::Cut(std::io::ErrorKind::UnexpectedEof), doing)
            .with_remedy(format!("see in the server's log why {command} was not answered"))),
    }
}

/// A reply as text.
pub(super) fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}

fn is_unknown(details: &str) -> bool {
    ["unknown command", "unknown subcommand", "Unknown subcommand", "wrong number of arguments"]
        .iter()
        .any(|text| details.contains(text))
}

/// An error's first word, if it is one: anything may listen there.
fn word(code: &str) -> &str {
    let is_word = code.len() <= 16 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_word { code } else { "an error" }
}
