//! Tries a login on every node, on connections of its own.
//!
//! Every node is asked, whatever the depth: each keeps its own users, and a value is dead when the last of them
//! refuses it.

use futures_util::future::join_all;
use redis::Value;

use super::RedisTarget;
use super::check::only_reads;
use super::connect::{LoginError, ask, open};
use super::wire::Wire;
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::RedisNode;
use crate::secret::Credential;
use crate::target::{Probe, ProbeDepth};

pub(super) async fn probe(target: &RedisTarget, credential: &Credential, depth: ProbeDepth) -> Probe {
    let nodes = &target.spec.nodes;
    let tried = nodes.iter().enumerate().map(|(index, node)| {
        let check = index == 0 && depth == ProbeDepth::Check;
        enter(target, node, credential, check)
    });
    let answers = join_all(tried).await;
    // What the first one takes is in force, whatever the others have heard of it.
    if depth == ProbeDepth::Login && answers.first() == Some(&Probe::Accepted) {
        return Probe::Accepted;
    }
    let remedy = "see whether the node was restarted with users from another time";
    Probe::of_nodes(&credential.principal, answers.into_iter().zip(nodes), remedy)
}

/// One node's answer.
async fn enter(target: &RedisTarget, node: &RedisNode, credential: &Credential, check: bool) -> Probe {
    let mut wire = match open(&target.spec, node, credential, &target.deadlines).await {
        Ok(wire) => wire,
        Err(LoginError::Rejected) => return Probe::Refused,
        Err(LoginError::Failed(failure)) => return Probe::Unknown(failure),
    };
    let answer = if check { run_check(target, node, &mut wire).await } else { Probe::Accepted };
    leave(target, wire).await;
    answer
}

/// Until the server has let go of it, so that it is not taken for somebody's use.
pub(super) async fn leave(target: &RedisTarget, wire: Wire) {
    let _ = tokio::time::timeout(target.deadlines.command.min(FAREWELL), wire.leave()).await;
}

/// How long a session that is of no more use is waited for.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the policy's command, if it has one and it only reads.
pub(super) async fn run_check(target: &RedisTarget, node: &RedisNode, wire: &mut Wire) -> Probe {
    let [name, arguments @ ..] = target.spec.check.as_slice() else { return Probe::Accepted };
    match only_reads(target, node).await {
        Probe::Accepted => {}
        other => return other,
    }
    let doing = format!("run the check command on {node}");
    let mut command = redis::cmd(name);
    for argument in arguments {
        command.arg(argument);
    }
    let error = match ask(wire, &[command], target.deadlines.command, &doing).await {
        Ok(replies) => match replies.into_iter().next() {
            Some(Value::ServerError(error)) => error,
            Some(_) | None => return Probe::Accepted,
        },
        Err(failure) => return Probe::Unknown(failure),
    };
    let failure = super::answer::refusal(&error, &doing);
    match (error.code(), failure.class()) {
        ("NOPERM", _) => Probe::Unfit(
            Failure::new(FailureClass::Denied, doing, "the user may not do that")
                .with_remedy("give it the right on every node, with ACL SETUSER"),
        ),
        (_, FailureClass::Unavailable) => Probe::Unknown(failure),
        _ => Probe::Unfit(failure.with_remedy("run target.redis.check by hand as the user")),
    }
}
