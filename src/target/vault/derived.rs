//! The tokens that were got with a secret id: they live on when it is destroyed.
//!
//! A token inherits its secret id's metadata, and with that the text that no other secret id has. Which accessor
//! that was nobody can tell any more once the secret id is gone. So a token is taken for one without a secret id
//! when it names none of those that the role has. The tokens are listed *before* the secret ids: what was got with a
//! secret id that was made in between is not on the list. Of a secret id that people made nothing is known.
//!
//! The server has no list of the tokens of a role: all accessors are listed, and each is looked at. That is not as
//! harmless as it sounds. A token comes into being before its lease does, and a server that is asked about one that
//! has no lease deletes it at once (seen on OpenBao 2.7): whoever looks at a token in the moment that it is made kills it.
//! So what is listed is looked at a while later, and what came into being meanwhile is not. And nothing is listed
//! where the mount has given nobody a token.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use serde::Deserialize;
use serde::de::IgnoredAny;
use vaultrs::api::token::requests::{ListAccessorRequest, RevokeTokenAccessorRequest};

use super::{AT_A_TIME, VaultTarget, secret_id, tag};
use crate::clock::{Clock as _, SystemClock};
use crate::failure::Failure;
use crate::ident::Principal;
use crate::policy::spec::{DerivedTokens, SecretIdSpec};
use crate::target::{LastUse, Session, Usage};
use crate::vault::Effect;

pub(super) const ACCESSORS: &str = "auth/token/accessors/";
pub(super) const LOOKUP: &str = "auth/token/lookup-accessor";
pub(super) const REVOKE: &str = "auth/token/revoke-accessor";

/// What the server says of an accessor that it does not know, with whatever status.
const GONE: &str = "invalid accessor";

/// Every token that there is and that rekeyd may look at.
pub(super) async fn tokens(target: &VaultTarget) -> Result<Vec<Token>, Failure> {
    let accessors = accessors(target).await?;
    SystemClock.sleep(target.of_age).await;
    let looked = stream::iter(accessors).map(|accessor| async move { look(target, &accessor).await });
    looked.buffer_unordered(AT_A_TIME).try_filter_map(async |token| Ok(token)).try_collect().await
}

async fn accessors(target: &VaultTarget) -> Result<Vec<String>, Failure> {
    let request = || ListAccessorRequest::builder().build().expect("it has no parts");
    match target.session.fetch(request).await {
        Ok(answer) => Ok(answer.keys),
        Err(trouble) if trouble.is_absent() => Ok(Vec::new()),
        Err(trouble) => {
            let doing = target.doing("list", "the accessors of tokens");
            let path = ACCESSORS.to_owned();
            Err(target.failed(trouble, doing, path, "`list` and `sudo`", Effect::Reads))
        }
    }
}

/// `LIST sys/leases/lookup/auth/{mount}/login/`
struct LoginsRequest<'a> {
    mount: &'a str,
}

#[derive(Deserialize)]
struct Logins {
    keys: Vec<IgnoredAny>,
}

impl Endpoint for LoginsRequest<'_> {
    type Response = Logins;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        logins_path(self.mount)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::LIST
    }
}

pub(super) fn logins_path(mount: &str) -> String {
    format!("sys/leases/lookup/auth/{mount}/login/")
}

/// Whether anybody has a token of the mount.
async fn has_logins(target: &VaultTarget, mount: &str) -> Result<bool, Failure> {
    match target.session.fetch(|| LoginsRequest { mount }).await {
        Ok(logins) => Ok(!logins.keys.is_empty()),
        Err(trouble) if trouble.is_absent() => Ok(false),
        Err(trouble) => {
            let doing = target.doing("list the logins of", format_args!("auth/{mount}"));
            Err(target.failed(trouble, doing, logins_path(mount), "`list` and `sudo`", Effect::Reads))
        }
    }
}

/// `POST auth/token/lookup-accessor`
struct LookRequest<'a> {
    accessor: &'a str,
}

impl Endpoint for LookRequest<'_> {
    type Response = Token;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        LOOKUP.to_owned()
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, rustify::errors::ClientError> {
        Ok(Some(serde_json::json!({"accessor": self.accessor}).to_string().into_bytes()))
    }
}

/// What is read of a token. The driver reads all that there is, and takes the time that one has left for a number above
/// zero: of one that is over and not gone yet it is below, and then no token could be listed.
#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) accessor: String,
    /// The call that made it.
    pub(super) path: String,
    /// Seconds since 1970.
    pub(super) creation_time: i64,
    pub(super) meta: Option<HashMap<String, String>>,
}

impl Token {
    pub(super) fn made_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.creation_time).ok()
    }
}

/// One token by its accessor, if it is there.
pub(super) async fn look(target: &VaultTarget, accessor: &str) -> Result<Option<Token>, Failure> {
    match target.session.fetch(|| LookRequest { accessor }).await {
        Ok(token) => Ok(Some(token)),
        Err(trouble) if trouble.says_text(GONE) => Ok(None),
        // The server says so of one that is just going, too.
        Err(trouble)
            if trouble.is_forbidden() && !accessors(target).await?.iter().any(|one| one == accessor) =>
        {
            Ok(None)
        }
        Err(trouble) => {
            let doing = target.doing("look at token", accessor);
            let path = LOOKUP.to_owned();
            Err(target.failed(trouble, doing, path, "`update`", Effect::Reads))
        }
    }
}

/// Revokes a token and its children. Already gone is success.
pub(super) async fn end(target: &VaultTarget, accessor: &str) -> Result<(), Failure> {
    let request = || RevokeTokenAccessorRequest::builder().accessor(accessor).build().expect("it is set");
    match target.session.send(request).await {
        Ok(()) => Ok(()),
        Err(trouble) if trouble.says_text(GONE) => Ok(()),
        Err(trouble) => {
            let doing = target.doing("revoke token", accessor);
            let path = REVOKE.to_owned();
            Err(target.failed(trouble, doing, path, "`update`", Effect::Writes))
        }
    }
}

/// The tokens of the role that rekeyd's secret ids gave, and the texts of those secret ids that it has.
async fn of_role(
    target: &VaultTarget,
    spec: &SecretIdSpec,
) -> Result<(Vec<Token>, BTreeSet<String>), Failure> {
    let login = format!("auth/{}/login", spec.mount);
    let is_of_role = |token: &Token| {
        let meta = token.meta.as_ref();
        token.path == login
            && meta.is_some_and(|meta| {
                meta.get("role_name").is_some_and(|role| role == spec.role.as_str())
                    && tag::key(meta).is_some()
            })
    };
    if !has_logins(target, spec.mount.as_str()).await? {
        return Ok(Default::default());
    }
    let tokens = tokens(target).await?.into_iter().filter(is_of_role).collect();
    let living = secret_id::list(target, spec).await?;
    let living = living.iter().filter_map(|seen| tag::key(&seen.metadata).map(str::to_owned)).collect();
    Ok((tokens, living))
}

fn key(token: &Token) -> Option<&str> {
    token.meta.as_ref().and_then(tag::key)
}

/// Revokes the tokens of the role whose secret id is gone, whatever the policy was called that had it made: a role is
/// one policy's, and nobody may use what was got with a value that is no more.
pub(super) async fn revoke(target: &VaultTarget, spec: &SecretIdSpec) -> Result<u64, Failure> {
    let (tokens, living) = of_role(target, spec).await?;
    let mut revoked = 0;
    for token in &tokens {
        if key(token).is_some_and(|key| !living.contains(key)) {
            end(target, &token.accessor).await?;
            revoked += 1;
        }
    }
    Ok(revoked)
}

/// Who uses a secret id: the tokens that were got with it. Of one that is gone, all that have lost theirs.
pub(super) async fn usage(
    target: &VaultTarget,
    spec: &SecretIdSpec,
    accessor: &Principal,
) -> Result<Usage, Failure> {
    let untold = Usage { sessions: Vec::new(), last: LastUse::Untold };
    if spec.tokens == DerivedTokens::Expire {
        return Ok(untold);
    }
    let own = match secret_id::look(target, spec, accessor.as_str()).await? {
        Some(seen) => match tag::key(&seen.metadata) {
            Some(key) => Some(key.to_owned()),
            // People made it: its tokens carry nothing that tells them.
            None => return Ok(untold),
        },
        None => None,
    };
    let (tokens, living) = of_role(target, spec).await?;
    let is_its = |token: &&Token| {
        key(token).is_some_and(|key| match &own {
            Some(own) => key == own,
            None => !living.contains(key),
        })
    };
    let sessions = tokens.iter().filter(is_its).map(|token| Session {
        application: format!("token {}", token.accessor),
        client: String::new(),
        since: token.made_at().unwrap_or_default(),
    });
    Ok(Usage { sessions: sessions.collect(), last: LastUse::BySessions })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As OpenBao 2.7 answers about one whose end has passed and that it has not deleted yet.
    #[test]
    fn a_token_that_is_over_is_read_as_any() {
        let answer = json!({
            "accessor": "a1", "creation_time": 1_767_225_600, "creation_ttl": 1, "display_name": "token-orders",
            "entity_id": "", "expire_time": "2026-01-01T00:00:01Z", "explicit_max_ttl": 0, "id": "",
            "issue_time": "2026-01-01T00:00:00Z", "meta": {"rekeyd-owner": "orders"}, "num_uses": 0, "orphan": true,
            "path": "auth/token/create-orphan", "policies": ["default"], "renewable": false, "ttl": -1,
            "type": "service",
        });
        let token: Token = serde_json::from_value(answer).expect("a token");
        assert_eq!(token.made_at(), Timestamp::from_second(1_767_225_600).ok());
    }
}
