//! Tokens without a parent.

use std::time::Duration;

use vaultrs::api::AuthInfo;
use vaultrs::api::token::requests::{
    CreateOrphanTokenRequest, CreateRoleTokenRequest, LookupTokenRequest, ReadTokenRoleRequest,
};
use vaultrs::api::token::responses::ReadTokenRoleResponse;
use zeroize::Zeroize as _;

use super::limits::Limits;
use super::{VaultTarget, derived, limits, secret_id, tag};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::{Interval, TokenSpec};
use crate::secret::{Credential, SecretValue};
use crate::target::{Key, LastUse, MintRequest, Minted, Probe, Retired, Usage, life};
use crate::vault::{Effect, Trouble, lookup_self};

const NOT_ALLOWED: &str = "check that the token role allows the policies, or that rekeyd's own token has them, and the times: a `period` of the \
     policy's own needs `sudo` on the path, one of the token role (`token_period`) does not";

/// What the server says of a token that it does not know.
const BAD: &str = "bad token";

pub(super) async fn keys(target: &VaultTarget, owner: &Principal) -> Result<Vec<Key>, Failure> {
    let doing = || target.doing("list the tokens of", owner);
    let mut keys = Vec::new();
    for token in derived::tokens(target).await? {
        let Some(meta) = token.meta.as_ref().filter(|meta| tag::is_of(meta, owner)) else { continue };
        // A secret id's owner is a role: a token that was got with one is none of these.
        if !token.path.starts_with("auth/token/") {
            continue;
        }
        keys.push(Key {
            id: secret_id::principal(&token.accessor, doing)?,
            made_at: token.made_at(),
            used: None,
            tag: tag::read(meta),
        });
    }
    Ok(keys)
}

/// Dying after the server's answer: the next look at the keys finds this one by its tag.
pub(super) async fn mint(
    target: &VaultTarget,
    spec: &TokenSpec,
    request: &MintRequest<'_>,
) -> Result<Minted, Failure> {
    let doing = || target.doing("make a token of", request.owner);
    let role = match &spec.role {
        Some(name) => Some(role(target, name).await?),
        None => None,
    };
    if let Some((reason, remedy)) = role.as_ref().and_then(|role| unfit(spec, role)) {
        return Err(Failure::new(FailureClass::Invalid, doing(), reason).with_remedy(remedy));
    }
    let limits = Limits::of(spec, role.as_ref());
    let too_short =
        |reason: String| Failure::new(FailureClass::Invalid, doing(), reason).with_remedy(limits::OF_TOKEN);
    let at_most = limits.most.and_then(|most| life::shortage(most, None, request.life));
    if let Some(reason) = at_most.clone().filter(|_| !request.contains) {
        return Err(too_short(reason));
    }
    let meta = tag::written(&request.attempt, request.owner);
    let (name, policies) = (spec.name.to_string(), spec.policies.clone());
    let policies = (!policies.is_empty()).then_some(policies);
    let seconds = |interval: Option<Interval>| {
        interval.map(|interval| format!("{}s", interval.as_duration().as_secs()))
    };
    let (ttl, period) = (seconds(spec.ttl), seconds(spec.period));
    let (path, made) = match &spec.role {
        Some(role) => {
            let call = || CreateRoleTokenRequest {
                role_name: role.to_string(),
                display_name: Some(name.clone()),
                meta: Some(meta.clone()),
                policies: policies.clone(),
                ttl: ttl.clone(),
                period: period.clone(),
                ..CreateRoleTokenRequest::default()
            };
            (format!("auth/token/create/{role}"), target.session.token(call).await)
        }
        None => {
            let call = || CreateOrphanTokenRequest {
                display_name: Some(name.clone()),
                meta: Some(meta.clone()),
                policies: policies.clone(),
                ttl: ttl.clone(),
                period: period.clone(),
                ..CreateOrphanTokenRequest::default()
            };
            ("auth/token/create-orphan".to_owned(), target.session.token(call).await)
        }
    };
    let needs = if spec.role.is_some() { "`update`" } else { "`update` and `sudo`" };
    let AuthInfo { client_token, accessor, lease_duration, .. } = made.map_err(|trouble| {
        // All that is sent besides is what the policy says.
        let is_refused = trouble.status() == Some(400);
        let failure = target.failed(trouble, doing(), path, needs, Effect::Writes);
        if is_refused { failure.with_remedy(NOT_ALLOWED) } else { failure }
    })?;
    let value = SecretValue::new(client_token.into_bytes());
    // It is there, whatever it is called: whoever looks next finds it.
    let id = secret_id::principal(&accessor, doing)
        .map_err(|failure| failure.reclassified(FailureClass::Ambiguous))?;
    // Zero has no end.
    let given = Some(Duration::from_secs(lease_duration)).filter(|given| !given.is_zero());
    // With a period it lives as long as its reader renews it, each time for so long.
    let needed = request.life.filter(|_| !limits.is_renewed);
    let short = given.and_then(|given| life::shortage(given, spec.period.or(spec.ttl), needed));
    match life::kept(request, Credential::new(id.clone(), value), short.or(at_most)) {
        Ok(minted) => Ok(minted),
        Err(reason) => Err(limits::undone(too_short(reason), derived::end(target, id.as_str()).await)),
    }
}

/// How a token role is.
pub(super) async fn role(target: &VaultTarget, name: &Principal) -> Result<ReadTokenRoleResponse, Failure> {
    let request = || ReadTokenRoleRequest::builder().role_name(name.as_str()).build().expect("it is set");
    target.session.fetch(request).await.map_err(|trouble| {
        let doing = target.doing("look at token role", name);
        if trouble.is_absent() {
            let failure = Failure::new(FailureClass::Invalid, doing, "there is no such token role");
            return failure.with_remedy("make the role, or correct the policy");
        }
        target.failed(trouble, doing, format!("auth/token/roles/{name}"), "`read`", Effect::Reads)
    })
}

/// Why no token of a role can be rotated, and what to do about it.
pub(super) fn unfit(spec: &TokenSpec, role: &ReadTokenRoleResponse) -> Option<(&'static str, &'static str)> {
    if !role.orphan {
        let reason = "its tokens end when rekeyd's own does";
        return Some((reason, "set `orphan=true` on the token role"));
    }
    if role.token_type.contains("batch") {
        return Some((
            "it gives batch tokens, which nobody can revoke",
            "set `token_type=service` on the token role",
        ));
    }
    // Where neither names any, the server gives those of who asks.
    if spec.policies.is_empty() && role.allowed_policies.is_empty() {
        return Some((
            "its tokens would have every policy of rekeyd's own token",
            "set `allowed_policies` on the token role, or name `policies` in the policy's target",
        ));
    }
    None
}

/// Has the token look at itself. A token that may not do so gets the same answer as one that is dead: which it is
/// rekeyd asks for itself.
pub(super) async fn probe(target: &VaultTarget, credential: &Credential) -> Probe {
    let doing = || target.doing("use token", &credential.principal);
    let Some(value) = credential.value.expose_str().ok().filter(|value| is_printable(value)) else {
        // It cannot even be sent, so no token is this one.
        return Probe::Refused;
    };
    let own = target.session.with_token(value);
    let trouble = match lookup_self(&own).await {
        Ok(mut token) => {
            token.id.zeroize();
            if token.accessor == credential.principal.as_str() {
                return Probe::Accepted;
            }
            let reason = "it lives, and its accessor is another one";
            let failure = Failure::new(FailureClass::Invalid, doing(), reason);
            return Probe::Unfit(failure.with_remedy("bring the right one in with `rekeyd adopt`"));
        }
        Err(error) => Trouble::Call(error),
    };
    if !trouble.is_forbidden() {
        let path = "auth/token/lookup-self".to_owned();
        return Probe::Unknown(target.failed(trouble, doing(), path, "`read`", Effect::Reads));
    }
    match derived::look(target, credential.principal.as_str()).await {
        Ok(None) => return Probe::Refused,
        Ok(Some(_)) => {}
        Err(failure) => return Probe::Unknown(failure),
    }
    let request = || LookupTokenRequest::builder().token(value).build().expect("it is set");
    match target.session.fetch(request).await {
        Ok(mut token) => {
            token.id.zeroize();
            Probe::Accepted
        }
        Err(trouble) if trouble.says(403, BAD) => Probe::Refused,
        Err(trouble) => {
            let path = "auth/token/lookup".to_owned();
            Probe::Unknown(target.failed(trouble, doing(), path, "`update`", Effect::Reads))
        }
    }
}

/// What a header can carry.
fn is_printable(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic())
}

/// The server does not say when a token was used.
pub(super) const fn usage() -> Usage {
    Usage { sessions: Vec::new(), last: LastUse::Untold }
}

/// The tokens that were made with it go, too.
pub(super) async fn retire(target: &VaultTarget, accessor: &Principal) -> Result<Retired, Failure> {
    derived::end(target, accessor.as_str()).await?;
    Ok(Retired::Done { sessions_closed: 0 })
}
