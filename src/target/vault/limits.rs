//! How long what is made lives: what the policy asks for, and what the role, the mount and the server allow.
//!
//! The server gives out a shorter life than it was asked for, and says so in a warning alone. So what it answers with is
//! held against the policy when a key is made; what can be read beforehand is looked at by the preflight.

use std::time::Duration;

use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use serde::Deserialize;
use vaultrs::api::token::responses::ReadTokenRoleResponse;

use super::{VaultTarget, secret_id, token};
use crate::failure::{Failure, FailureClass, Finding};
use crate::policy::spec::{Interval, SecretIdSpec, TokenSpec, VaultStrategy};
use crate::target::life;

pub(super) const OF_TOKEN: &str = "rotate more often, name a `ttl` or a `period` in the policy's target, or raise what is below it: \
     `token_explicit_max_ttl` of the token role, `max_lease_ttl` of `auth/token` or of the server";

pub(super) const OF_SECRET_ID: &str = "rotate more often, or raise `secret_id_ttl` of the role, or `max_lease_ttl` of its mount or of the server";

/// What a server allows that says nothing else.
const USUAL: Duration = Duration::from_secs(32 * 86_400);

const SUBJECT: &str = "life of a key";

/// A key that ends too early was made, and taken back or not: whoever looks next finds it by its tag.
pub(super) fn undone(failure: Failure, end: Result<(), Failure>) -> Failure {
    match end {
        Ok(()) => failure,
        Err(_) => failure.reclassified(FailureClass::Ambiguous),
    }
}

/// What bounds the life of tokens.
pub(super) struct Limits {
    /// Their readers renew them.
    pub(super) is_renewed: bool,
    /// However often that is done.
    pub(super) most: Option<Duration>,
}

impl Limits {
    pub(super) fn of(spec: &TokenSpec, role: Option<&ReadTokenRoleResponse>) -> Self {
        let is_renewed =
            spec.period.is_some() || role.is_some_and(|role| role.period > 0 || role.token_period > 0);
        let most = role.and_then(|role| shortest([role.explicit_max_ttl, role.token_explicit_max_ttl]));
        Self { is_renewed, most }
    }
}

/// Of seconds, where none is no limit.
fn shortest(seconds: impl IntoIterator<Item = u64>) -> Option<Duration> {
    seconds.into_iter().filter(|seconds| *seconds > 0).min().map(Duration::from_secs)
}

pub(super) async fn preflight(target: &VaultTarget, needed: Option<Duration>) -> Vec<Finding> {
    let finding = match &target.spec.strategy {
        VaultStrategy::SecretId(spec) => of_secret_id(target, spec, needed).await,
        VaultStrategy::Token(spec) => of_token(target, spec, needed).await,
    };
    finding.into_iter().collect()
}

/// What cannot be read is told by the findings of the role.
async fn of_secret_id(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    needed: Option<Duration>,
) -> Option<Finding> {
    let role = secret_id::role(target, spec).await.ok()?;
    // Without an end there is no limit either.
    let asked = shortest([role.secret_id_ttl])?;
    let mount = mount(target, spec.mount.as_str()).await;
    let given = mount.most.map_or(asked, |most| most.min(asked));
    if needed.is_none() {
        let detail =
            format!("it ends by itself after {}, and no schedule has it replaced", life::told(given));
        return Some(Finding::warn(
            SUBJECT,
            detail,
            "give the policy a `schedule`, or set `secret_id_ttl=0` on the role",
        ));
    }
    let is_known = mount.most.is_some() || asked <= USUAL;
    Some(judge(given, None, needed, is_known, OF_SECRET_ID))
}

async fn of_token(target: &VaultTarget, spec: &TokenSpec, needed: Option<Duration>) -> Option<Finding> {
    let role = match &spec.role {
        Some(name) => Some(token::role(target, name).await.ok()?),
        None => None,
    };
    let limits = Limits::of(spec, role.as_ref());
    let mount = mount(target, "token").await;
    let asked = spec.period.or(spec.ttl);
    let usual = || {
        limits.is_renewed.then(|| role.as_ref().and_then(|role| shortest([role.period, role.token_period])))
    };
    let asks = asked.map(Interval::as_duration).or_else(|| usual().flatten());
    let given = asks.or(mount.usual).or(mount.most).unwrap_or(USUAL);
    let bounds = [mount.most, limits.most.filter(|_| !limits.is_renewed)];
    let given = bounds.into_iter().flatten().fold(given, Duration::min);
    if limits.is_renewed {
        if let Some(short) = limits.most.and_then(|most| life::shortage(most, None, needed)) {
            return Some(Finding::fail(SUBJECT, short, OF_TOKEN));
        }
        return Some(judge(given, asked, None, mount.most.is_some() || given <= USUAL, OF_TOKEN));
    }
    let is_known = mount.most.is_some() || (asks.is_some() && given <= USUAL);
    Some(judge(given, asked, needed, is_known, OF_TOKEN))
}

/// `is_known` is whether nothing that could not be read may shorten it.
fn judge(
    given: Duration,
    asked: Option<Interval>,
    needed: Option<Duration>,
    is_known: bool,
    remedy: &'static str,
) -> Finding {
    let told = life::told(given);
    if let Some(short) = life::shortage(given, asked, needed) {
        return Finding::fail(SUBJECT, short, remedy);
    }
    if !is_known {
        let wanted = needed.or(asked.map(Interval::as_duration)).map_or(told, Interval::from_duration);
        let detail = format!(
            "whether the server lets it live {wanted} is not to be read: it allows {} where its configuration says nothing",
            Interval::from_duration(USUAL)
        );
        return Finding::warn(SUBJECT, detail, remedy);
    }
    Finding::pass(SUBJECT, format!("it lives {told}"))
}

/// `GET sys/internal/ui/mounts/auth/{mount}`: any token may ask that has some right below the mount.
struct MountRequest<'a> {
    mount: &'a str,
}

#[derive(Default, Deserialize)]
struct MountAnswer {
    #[serde(default)]
    config: MountConfig,
}

/// In seconds; zero where the server's own are in force.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MountConfig {
    default_lease_ttl: u64,
    max_lease_ttl: u64,
}

impl Endpoint for MountRequest<'_> {
    type Response = MountAnswer;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("sys/internal/ui/mounts/auth/{}", self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}

struct Mount {
    usual: Option<Duration>,
    most: Option<Duration>,
}

/// What a mount is set to, where that can be read.
async fn mount(target: &VaultTarget, mount: &str) -> Mount {
    let answer = target.session.fetch(|| MountRequest { mount }).await;
    let MountAnswer { config } = answer.unwrap_or_default();
    Mount { usual: shortest([config.default_lease_ttl]), most: shortest([config.max_lease_ttl]) }
}
