//! The secret ids of an AppRole.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use vaultrs::api::auth::approle::requests::{
    DeleteSecretIDAccessorRequest, GenerateNewSecretIDRequest, ListSecretIDRequest, ReadAppRoleRequest,
    ReadRoleIDRequest, ReadSecretIDAccessorRequest,
};
use vaultrs::api::auth::approle::responses::ReadAppRoleResponse;
use vaultrs::api::token::requests::{RevokeTokenAccessorRequest, RevokeTokenSelfRequest};

use super::tag::{self, Metadata};
use super::{AT_A_TIME, VaultTarget, derived, limits, login};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::policy::spec::{DerivedTokens, SecretIdSpec};
use crate::secret::{Credential, SecretValue};
use crate::target::{Key, MintRequest, Minted, Probe, RetireRequest, Retired, life};
use crate::vault::Effect;

/// What the server says of an accessor that it does not know, with whatever status.
const GONE: &str = "failed to find accessor entry";

/// A secret id, without itself.
pub(super) struct Seen {
    pub(super) accessor: String,
    made_at: String,
    pub(super) metadata: Metadata,
}

impl SecretIdSpec {
    pub(super) fn path(&self, rest: &str) -> String {
        format!("auth/{}/role/{}{rest}", self.mount, self.role)
    }
}

pub(super) async fn keys(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    owner: &Principal,
) -> Result<Vec<Key>, Failure> {
    let doing = || target.doing("list the secret ids of role", owner);
    let mut keys = Vec::new();
    for seen in list(target, spec).await? {
        keys.push(Key {
            id: principal(&seen.accessor, doing)?,
            made_at: seen.made_at.parse().ok(),
            used: None,
            tag: tag::read(&seen.metadata),
        });
    }
    Ok(keys)
}

/// The secret ids that the role has.
pub(super) async fn list(target: &VaultTarget, spec: &SecretIdSpec) -> Result<Vec<Seen>, Failure> {
    let request = || {
        ListSecretIDRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .build()
            .expect("everything is set")
    };
    let accessors = match target.session.fetch(request).await {
        Ok(answer) => answer.keys,
        Err(trouble) if trouble.is_absent() => return Ok(Vec::new()),
        Err(trouble) => {
            let doing = target.doing("list the secret ids of role", &spec.role);
            if trouble.says(400, "does not exist") {
                return Err(no_role(spec, doing));
            }
            let path = spec.path("/secret-id");
            return Err(target.failed(trouble, doing, path, "`list`", Effect::Reads));
        }
    };
    let seen = stream::iter(accessors).map(|accessor| async move { look(target, spec, &accessor).await });
    // One that goes meanwhile is not there.
    seen.buffer_unordered(AT_A_TIME).try_filter_map(async |seen| Ok(seen)).try_collect().await
}

/// One secret id, if it is there.
pub(super) async fn look(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    accessor: &str,
) -> Result<Option<Seen>, Failure> {
    let request = || {
        ReadSecretIDAccessorRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .secret_id_accessor(accessor)
            .build()
            .expect("everything is set")
    };
    match target.session.fetch(request).await {
        Ok(answer) => Ok(Some(Seen {
            accessor: answer.secret_id_accessor,
            made_at: answer.creation_time,
            metadata: answer.metadata.unwrap_or_default(),
        })),
        Err(trouble) if trouble.says_text(GONE) => Ok(None),
        Err(trouble) => {
            let doing = target.doing("look at secret id", accessor);
            let path = spec.path("/secret-id-accessor/lookup");
            Err(target.failed(trouble, doing, path, "`update`", Effect::Reads))
        }
    }
}

/// Dying after the server's answer: the next look at the keys finds this one by its tag.
pub(super) async fn mint(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    request: &MintRequest<'_>,
) -> Result<Minted, Failure> {
    let doing = || target.doing("make a secret id of role", request.owner);
    let role = role(target, spec).await?;
    if let Some((reason, remedy)) = unfit(&role) {
        return Err(Failure::new(FailureClass::Invalid, doing(), reason).with_remedy(remedy));
    }
    let metadata = tag::written(&request.attempt, request.owner);
    let metadata = serde_json::to_string(&metadata).expect("a map of texts is JSON");
    let call = || {
        GenerateNewSecretIDRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .metadata(metadata.as_str())
            .build()
            .expect("everything is set")
    };
    let made = target.session.fetch(call).await.map_err(|trouble| {
        target.failed(trouble, doing(), spec.path("/secret-id"), "`update`", Effect::Writes)
    })?;
    let value = SecretValue::new(made.secret_id.into_bytes());
    // It is there, whatever it is called: whoever looks next finds it.
    let id = principal(&made.secret_id_accessor, doing)
        .map_err(|failure| failure.reclassified(FailureClass::Ambiguous))?;
    // Zero has no end.
    let given = Some(Duration::from_secs(made.secret_id_ttl)).filter(|given| !given.is_zero());
    let short = given.and_then(|given| life::shortage(given, None, request.life));
    match life::kept(request, Credential::new(id.clone(), value), short) {
        Ok(minted) => Ok(minted),
        Err(short) => {
            let failure =
                Failure::new(FailureClass::Invalid, doing(), short).with_remedy(limits::OF_SECRET_ID);
            Err(limits::undone(failure, destroy(target, spec, &id).await))
        }
    }
}

/// How the role is.
pub(super) async fn role(target: &VaultTarget, spec: &SecretIdSpec) -> Result<ReadAppRoleResponse, Failure> {
    let request = || {
        ReadAppRoleRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .build()
            .expect("everything is set")
    };
    target.session.fetch(request).await.map_err(|trouble| {
        let doing = target.doing("look at role", &spec.role);
        if trouble.is_absent() {
            return no_role(spec, doing);
        }
        target.failed(trouble, doing, spec.path(""), "`read`", Effect::Reads)
    })
}

/// Why no value of a role can be rotated, and what to do about it.
pub(super) fn unfit(role: &ReadAppRoleResponse) -> Option<(&'static str, &'static str)> {
    if !role.bind_secret_id {
        let reason = "the role asks for no secret id: none can be proven dead";
        return Some((reason, "set `bind_secret_id=true` on the role"));
    }
    if role.secret_id_num_uses > 0 {
        let reason = "a secret id of the role may be used only so often, and each proof is a use";
        return Some((reason, "set `secret_id_num_uses=0` on the role"));
    }
    if role.token_type == "batch" {
        let reason = "the role gives batch tokens, which nobody can revoke";
        return Some((reason, "set `token_type=service` on the role"));
    }
    None
}

/// Logs in, and leaves no token behind.
pub(super) async fn probe(target: &VaultTarget, spec: &SecretIdSpec, credential: &Credential) -> Probe {
    let doing = || target.doing(&format!("log in as role {} with", spec.role), &credential.principal);
    let role_id = match role_id(target, spec).await {
        Ok(role_id) => role_id,
        Err(failure) => return Probe::Unknown(failure),
    };
    let Ok(value) = credential.value.expose_str() else {
        // No secret id is anything but text, so none is this one.
        return Probe::Refused;
    };
    let mount = spec.mount.as_str();
    let token = match login::log_in(&target.session, mount, &role_id, value).await {
        Ok(token) => token,
        Err(trouble) => {
            // Of a wrong role id the server says the same: it was read a moment ago.
            if ["invalid role or secret ID", "invalid secret id"].iter().any(|text| trouble.says(400, text)) {
                return Probe::Refused;
            }
            if trouble.says_text("CIDR restrictions") {
                let reason = "the secret id or its role is bound to addresses that rekeyd's is not among";
                let failure = Failure::new(FailureClass::Invalid, doing(), reason);
                return Probe::Unknown(failure.with_remedy("add rekeyd's address to those of the role"));
            }
            // A login needs no right: 403 is a lock after several refusals, or another server's word.
            if trouble.is_forbidden() {
                let reason = "the server lets nobody try: there is no such mount, or the role is locked";
                let failure = Failure::new(FailureClass::Unavailable, doing(), reason);
                return Probe::Unknown(failure.with_remedy("look at the mount, and at `sys/locked-users`"));
            }
            let path = format!("auth/{mount}/login");
            return Probe::Unknown(target.failed(trouble, doing(), path, "`update`", Effect::Reads));
        }
    };
    if token.value.is_empty() {
        let failure = Failure::new(FailureClass::Invalid, doing(), "the login asks for a second factor");
        return Probe::Unknown(failure.with_remedy("leave the role out of what needs one"));
    }
    between!("vault.probe.login");
    end(target, spec, &token.value, &token.accessor).await;
    Probe::Accepted
}

/// Ends the token of a probe. Whether that works says nothing of the secret id.
async fn end(target: &VaultTarget, spec: &SecretIdSpec, token: &str, accessor: &str) {
    let own = target.session.with_token(token);
    let request = RevokeTokenSelfRequest::builder().build().expect("it has no parts");
    if own.send(request).await.is_ok() {
        return;
    }
    // The role may give its tokens not even the right to end.
    let request = || RevokeTokenAccessorRequest::builder().accessor(accessor).build().expect("it is set");
    if target.session.send(request).await.is_err() {
        tracing::warn!(role = %spec.role, accessor, "the token of a probe lives to its own end");
    }
}

async fn role_id(target: &VaultTarget, spec: &SecretIdSpec) -> Result<String, Failure> {
    let request = || {
        ReadRoleIDRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .build()
            .expect("everything is set")
    };
    let answer = target.session.fetch(request).await.map_err(|trouble| {
        let doing = target.doing("read the role id of", &spec.role);
        if trouble.is_absent() {
            return no_role(spec, doing);
        }
        target.failed(trouble, doing, spec.path("/role-id"), "`read`", Effect::Reads)
    })?;
    Ok(answer.role_id)
}

/// Dying after it was destroyed: whoever does so again revokes the tokens that are left.
pub(super) async fn retire(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    request: &RetireRequest<'_>,
) -> Result<Retired, Failure> {
    destroy(target, spec, request.principal).await?;
    between!("vault.retire.destroyed");
    let sessions_closed = match spec.tokens {
        DerivedTokens::Revoke => derived::revoke(target, spec).await?,
        DerivedTokens::Expire => 0,
    };
    Ok(Retired::Done { sessions_closed })
}

async fn destroy(target: &VaultTarget, spec: &SecretIdSpec, accessor: &Principal) -> Result<(), Failure> {
    let request = || {
        DeleteSecretIDAccessorRequest::builder()
            .mount(spec.mount.as_str())
            .role_name(spec.role.as_str())
            .secret_id_accessor(accessor.as_str())
            .build()
            .expect("everything is set")
    };
    match target.session.send(request).await {
        Ok(()) => Ok(()),
        Err(trouble) if trouble.says_text(GONE) => Ok(()),
        Err(trouble) => {
            let doing = target.doing("destroy secret id", accessor);
            let path = spec.path("/secret-id-accessor/destroy");
            Err(target.failed(trouble, doing, path, "`update`", Effect::Writes))
        }
    }
}

fn no_role(spec: &SecretIdSpec, doing: String) -> Failure {
    let reason = format!("`auth/{}` has no role {}", spec.mount, spec.role);
    Failure::new(FailureClass::Invalid, doing, reason).with_remedy("make the role, or correct the policy")
}

pub(super) fn principal(accessor: &str, doing: impl Fn() -> String) -> Result<Principal, Failure> {
    accessor.parse().map_err(|_| {
        Failure::new(FailureClass::Invalid, doing(), "the server's name for it is not one that fits a name")
    })
}
