//! The calls about the keys of the user.

use jiff::{SignedDuration, Timestamp};

use super::AwsIamTarget;
use super::answer::Call;
use crate::aws::Reply;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::secret::{Credential, SecretValue};
use crate::target::{Key, MintRequest, Minted};

/// A key that is younger and unused may be what an earlier call made, shown only now.
const YOUNG: SignedDuration = SignedDuration::from_mins(2);

/// More keys than any user can have.
const MOST: usize = 100;

pub(super) async fn list(target: &AwsIamTarget) -> Result<Vec<Key>, Failure> {
    let mut keys = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let call = || call(target, "list", "the keys", "iam:ListAccessKeys", false);
        let mut fields = vec![("UserName", target.spec.user.as_str())];
        fields.extend(marker.as_deref().map(|marker| ("Marker", marker)));
        let page = call().done(target.account.iam("ListAccessKeys", &fields).await)?;
        for member in page.members() {
            let strange =
                || Failure::new(FailureClass::Unavailable, call().doing, "the server's answer names no key");
            let id: Principal =
                member.text("AccessKeyId").and_then(|id| id.parse().ok()).ok_or_else(strange)?;
            let made_at = member.text("CreateDate").and_then(|text| text.parse().ok());
            // One that goes meanwhile is as good as used: it is nobody's to delete any more.
            let used = match last_used(target, id.as_str()).await {
                Ok(used) => Some(used.is_some()),
                // The service may say of one that is gone that nobody may look at it.
                Err(failure) if matches!(failure.class(), FailureClass::Invalid | FailureClass::Denied) => {
                    None
                }
                Err(failure) => return Err(failure),
            };
            keys.push(Key { id, made_at, used, tag: None });
        }
        marker = page.text("Marker").filter(|_| page.text("IsTruncated") == Some("true")).map(str::to_owned);
        if marker.is_none() || keys.len() > MOST {
            return Ok(keys);
        }
    }
}

/// When a key was used last; `None` for never.
pub(super) async fn last_used(target: &AwsIamTarget, id: &str) -> Result<Option<Timestamp>, Failure> {
    let call = call(target, "look at the use of key", id, "iam:GetAccessKeyLastUsed", false);
    match target.account.iam("GetAccessKeyLastUsed", &[("AccessKeyId", id)]).await {
        Ok(Reply::Done(elements)) => match elements.text("LastUsedDate") {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Failure::new(FailureClass::Unavailable, call.doing, "the server's answer has no time")
            }),
        },
        // A key that is gone is told of like this, too: it may have been used.
        Ok(Reply::Refused { code, is_skew, status }) => Err(call.refused(&code, is_skew, status)),
        Err(trouble) => Err(call.troubled(trouble)),
    }
}

/// Dying after the service's answer: whoever asks next finds the key, new and unused.
pub(super) async fn make(target: &AwsIamTarget, request: &MintRequest<'_>) -> Result<Minted, Failure> {
    let call = call(target, "make", "a key", "iam:CreateAccessKey", true);
    let user = target.spec.user.as_str();
    let elements = match target.account.iam("CreateAccessKey", &[("UserName", user)]).await {
        Ok(Reply::Refused { code, .. }) if code == "LimitExceeded" => return Err(full(target, request).await),
        reply => {
            let doing = call.doing.clone();
            (call.done(reply)?, doing)
        }
    };
    let (elements, doing) = elements;
    let id = elements.text("AccessKeyId").and_then(|id| id.parse::<Principal>().ok());
    let value = elements.text("SecretAccessKey").filter(|value| !value.is_empty());
    let (Some(id), Some(value)) = (id, value) else {
        // It is there, and nobody has its value: whoever looks next finds it.
        return Err(Failure::new(FailureClass::Ambiguous, doing, "the server's answer holds no key"));
    };
    Ok(Minted::Made(Credential::new(id, SecretValue::new(value.as_bytes().to_vec()))))
}

/// There is no room. What there is, and whose it may be.
async fn full(target: &AwsIamTarget, request: &MintRequest<'_>) -> Failure {
    let doing = target.doing("make", "a key");
    let keys = match list(target).await {
        Ok(keys) => keys,
        Err(failure) => return failure.reclassified(FailureClass::Unavailable),
    };
    let outgoing = request.outgoing.map(|outgoing| &outgoing.principal);
    let now = SystemClock.now();
    let is_young =
        |key: &Key| key.used == Some(false) && key.made_at.is_some_and(|at| now.duration_since(at) < YOUNG);
    // The list may be older than what an earlier call made: it is there now, and looked for again.
    if request.repeated && keys.iter().any(|key| Some(&key.id) != outgoing && is_young(key)) {
        let reason = "the user has a new key that nobody has used: an earlier request may have made it";
        return Failure::new(FailureClass::Ambiguous, doing, reason);
    }
    let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    let reason = format!("it has as many keys as it may have: {}", ids.join(", "));
    Failure::new(FailureClass::Conflict, doing, reason)
        .with_remedy("delete the key that nobody uses: rekeyd deletes none that it did not have made")
}

/// Already gone is success.
pub(super) async fn delete(target: &AwsIamTarget, id: &Principal) -> Result<(), Failure> {
    let call = call(target, "delete key", id, "iam:DeleteAccessKey", true);
    let fields = [("UserName", target.spec.user.as_str()), ("AccessKeyId", id.as_str())];
    gone_is_done(call, target.account.iam("DeleteAccessKey", &fields).await)
}

/// Already gone is success, and so is already disabled.
pub(super) async fn disable(target: &AwsIamTarget, id: &Principal) -> Result<(), Failure> {
    let call = call(target, "disable key", id, "iam:UpdateAccessKey", true);
    let fields =
        [("UserName", target.spec.user.as_str()), ("AccessKeyId", id.as_str()), ("Status", "Inactive")];
    gone_is_done(call, target.account.iam("UpdateAccessKey", &fields).await)
}

fn gone_is_done(call: Call, reply: Result<Reply, crate::aws::Trouble>) -> Result<(), Failure> {
    match reply {
        Ok(Reply::Refused { code, .. }) if code == "NoSuchEntity" => Ok(()),
        reply => call.done(reply).map(drop),
    }
}

fn call(
    target: &AwsIamTarget,
    verb: &str,
    key: impl std::fmt::Display,
    action: &'static str,
    changes: bool,
) -> Call {
    Call { doing: target.doing(verb, key), action, changes }
}
