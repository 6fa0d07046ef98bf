//! The Secrets that tokens belong to.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use uuid::Uuid;

use super::ServiceAccountTarget;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::kubernetes::{failure, only};
use crate::policy::spec::{Interval, ServiceAccountStrategy};
use crate::secret::{Credential, SecretValue};
use crate::target::{Key, LastUse, MintRequest, Minted, Tag, Usage, life};

/// On a Secret of rekeyd's own: the account whose token belongs to it.
const TOKEN_OF: &str = "rekeyd.dev/token-of";
const POLICY: &str = "rekeyd.dev/token-policy";
const ROTATION: &str = "rekeyd.dev/token-rotation";

/// Kubernetes' own: whose token it is to fill in, and on which day one was used last.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

/// The type of a Secret that Kubernetes fills.
const FILLED: &str = "kubernetes.io/service-account-token";

/// How often it is looked whether it has been, and for how long.
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: u32 = 100;

/// The longest beginning of a name that leaves room for the rest.
const ROOM: usize = 40;

type Meta = PartialObjectMeta<Secret>;

pub(super) async fn list(target: &ServiceAccountTarget) -> Result<Vec<Key>, Failure> {
    let doing = || target.doing("list", "the tokens");
    let client = target.clusters.client(&target.spec.cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(client, target.spec.namespace());
    let labels = format!("{TOKEN_OF}={}", label(&target.spec.service_account));
    let found = secrets.list_metadata(&ListParams::default().labels(&labels)).await;
    let found = found.map_err(|error| of_reading(&error, &doing()))?;
    let keys = found.items.iter().filter_map(|secret| {
        let meta = &secret.metadata;
        let made_at = meta.creation_timestamp.as_ref();
        Some(Key {
            id: meta.name.as_deref()?.parse().ok()?,
            made_at: made_at.and_then(|time| Timestamp::from_second(time.0.as_second()).ok()),
            used: meta.labels.as_ref().filter(|labels| labels.contains_key(LAST_USED)).map(|_| true),
            tag: meta.annotations.as_ref().and_then(tag),
        })
    });
    Ok(keys.collect())
}

fn tag(annotations: &BTreeMap<String, String>) -> Option<Tag> {
    let rotation = annotations.get(ROTATION)?.parse().ok()?;
    Some(Tag { policy: annotations.get(POLICY).and_then(|policy| policy.parse().ok()), rotation })
}

/// Dying after the Secret was made: whoever asks next finds it by its annotations.
pub(super) async fn make(
    target: &ServiceAccountTarget,
    request: &MintRequest<'_>,
) -> Result<Minted, Failure> {
    let doing = || target.doing("make", "a token");
    let client = target.clusters.client(&target.spec.cluster).await?;
    check_account(target, &client).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), target.spec.namespace());
    let made = secrets.create(&PostParams::default(), &draft(target, request)).await;
    let made = made.map_err(|error| failure(&error, &doing()))?;
    between!("kubernetes.token.secret");
    let name = made.metadata.name.clone().unwrap_or_default();
    let token = match &target.spec.strategy {
        ServiceAccountStrategy::LongLived(_) => {
            filled(&secrets, &name).await.map(|token| token.map(|token| (token, None)))
        }
        ServiceAccountStrategy::Bound(bound) => {
            let wanted = TokenRequestSpec {
                audiences: Vec::new(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Secret".into()),
                    name: Some(name.clone()),
                    uid: made.metadata.uid.clone(),
                }),
                expiration_seconds: seconds(bound.expiration),
            };
            let answer = ask(target, client, wanted).await;
            answer.map(|answer| {
                answer.status.map(|status| {
                    let given = life_of(&status, made.metadata.creation_timestamp.as_ref());
                    let short = life::shortage(given, Some(bound.expiration), request.life);
                    (status.token.into_bytes(), short)
                })
            })
        }
    };
    let undone = async |failed: Failure| match secrets.delete(&name, &only(made.metadata.uid.clone())).await {
        Ok(_) => failed,
        Err(_) => failed.reclassified(FailureClass::Ambiguous),
    };
    // The Secret is there: whoever looks next finds it, and a token that may belong to it.
    let doubt = |reason: &str| Failure::new(FailureClass::Ambiguous, doing(), reason);
    match token {
        Ok(Some((token, short))) if !token.is_empty() => {
            let id = name.parse().map_err(|_| doubt("the Secret has an odd name"))?;
            match life::kept(request, Credential::new(id, SecretValue::new(token)), short) {
                Ok(minted) => Ok(minted),
                // Its Secret goes, and it with that.
                Err(short) => Err(undone(too_short(doing(), &short)).await),
            }
        }
        Ok(_) => Err(doubt("Kubernetes has not filled the Secret in time")),
        // Without a token it is good for nothing.
        Err(error) => Err(undone(failure(&error, &doing())).await),
    }
}

/// An API server that is set to give out no token that lives so long shortens it, and says so in a header alone.
pub(super) fn too_short(doing: String, reason: &str) -> Failure {
    Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
        "ask for less, rotate more often, or raise `--service-account-max-token-expiration` of the API server",
    )
}

pub(super) fn seconds(interval: Interval) -> Option<i64> {
    i64::try_from(interval.as_duration().as_secs()).ok()
}

pub(super) async fn ask(
    target: &ServiceAccountTarget,
    client: Client,
    wanted: TokenRequestSpec,
) -> Result<TokenRequest, kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, target.spec.namespace());
    let wanted = TokenRequest { spec: wanted, ..TokenRequest::default() };
    let account = target.spec.service_account.as_str();
    accounts.create_token_request(account, &PostParams::default(), &wanted).await
}

/// How long a token lives that was given out a moment after this, by the API server's own clock.
pub(super) fn life_of(status: &TokenRequestStatus, after: Option<&Time>) -> Duration {
    let after = after.map_or_else(|| SystemClock.now().as_second(), |time| time.0.as_second());
    let left = status.expiration_timestamp.0.as_second().saturating_sub(after);
    Duration::from_secs(u64::try_from(left).unwrap_or_default())
}

/// A Secret for the token of an account that is not there is deleted by Kubernetes at once.
pub(super) async fn check_account(target: &ServiceAccountTarget, client: &Client) -> Result<(), Failure> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), target.spec.namespace());
    let doing = || target.doing("make", "tokens");
    match accounts.get_metadata_opt(target.spec.service_account.as_str()).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure::new(FailureClass::Invalid, doing(), "there is no such account")
            .with_remedy("make the account, or correct the policy")),
        Err(error) => Err(of_reading(&error, &doing())),
    }
}

/// The Secret of a new token, under a name that no other ever had.
pub(super) fn draft(target: &ServiceAccountTarget, request: &MintRequest<'_>) -> Secret {
    let account = target.spec.service_account.as_str();
    let start = account.get(..ROOM).unwrap_or(account).trim_end_matches(['-', '.']);
    let random = Uuid::now_v7().simple().to_string();
    let mut annotations = BTreeMap::from([
        (POLICY.to_owned(), request.attempt.policy.to_string()),
        (ROTATION.to_owned(), request.attempt.rotation.to_string()),
    ]);
    let is_filled = matches!(target.spec.strategy, ServiceAccountStrategy::LongLived(_));
    if is_filled {
        annotations.insert(ACCOUNT.into(), account.into());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{start}-token-{}", &random[16..])),
            labels: Some(BTreeMap::from([(TOKEN_OF.into(), label(&target.spec.service_account))])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        type_: is_filled.then(|| FILLED.to_owned()),
        ..Secret::default()
    }
}

/// A label takes no more, and no name of that length is shortened.
fn label(account: &Principal) -> String {
    account.to_string()
}

/// The token that Kubernetes fills in, once it has.
async fn filled(secrets: &Api<Secret>, name: &str) -> Result<Option<Vec<u8>>, kube::Error> {
    for _ in 0..PATIENCE {
        match secrets.get(name).await {
            Ok(secret) => {
                if let Some(token) = secret.data.and_then(|mut data| data.remove("token")) {
                    return Ok(Some(token.0));
                }
            }
            // Read from a cache that has not heard of it, or deleted because its account is gone.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        SystemClock.sleep(PAUSE).await;
    }
    Ok(None)
}

/// Already gone is success.
pub(super) async fn delete(target: &ServiceAccountTarget, name: &Principal) -> Result<(), Failure> {
    let doing = || target.doing("delete token", name);
    let client = target.clusters.client(&target.spec.cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(client, target.spec.namespace());
    let Some(found) = look(target, &secrets, name).await? else { return Ok(()) };
    if !is_its(&found, &target.spec.service_account) {
        let reason = "the Secret of that name is not one of a token of the account";
        return Err(Failure::new(FailureClass::Conflict, doing(), reason));
    }
    match secrets.delete(name.as_str(), &only(found.metadata.uid)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failure(&error, &doing())),
    }
}

async fn look(
    target: &ServiceAccountTarget,
    secrets: &Api<Secret>,
    name: &Principal,
) -> Result<Option<Meta>, Failure> {
    // What cannot be a name is none of any Secret.
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if !name.as_str().bytes().all(byte) {
        return Ok(None);
    }
    let found = secrets.get_metadata_opt(name.as_str()).await;
    found.map_err(|error| of_reading(&error, &target.doing("look at token", name)))
}

fn is_its(secret: &Meta, account: &Principal) -> bool {
    let says = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).is_some_and(|name| name == account.as_str())
    };
    says(&secret.metadata.labels, TOKEN_OF) || says(&secret.metadata.annotations, ACCOUNT)
}

/// Of a token that it filled in itself Kubernetes says on which day it was used.
pub(super) async fn usage(target: &ServiceAccountTarget, name: &Principal) -> Result<Usage, Failure> {
    let client = target.clusters.client(&target.spec.cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(client, target.spec.namespace());
    let found = look(target, &secrets, name).await?;
    let day = found.and_then(|secret| secret.metadata.labels?.remove(LAST_USED));
    let at = day.and_then(|day| day.parse::<Date>().ok());
    let at = at.and_then(|day| TimeZone::UTC.to_ambiguous_timestamp(day.at(0, 0, 0, 0)).compatible().ok());
    let last = at.map_or(LastUse::Untold, LastUse::At);
    Ok(Usage { sessions: Vec::new(), last })
}

/// A reading whose answer is lost has changed nothing.
pub(super) fn of_reading(error: &kube::Error, doing: &str) -> Failure {
    let failure = failure(error, doing);
    match failure.class() {
        FailureClass::Ambiguous => failure.reclassified(FailureClass::Unavailable),
        _ => failure,
    }
}
