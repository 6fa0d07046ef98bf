//! Whether a key lets in: it asks STS who it belongs to.

use super::AwsIamTarget;
use super::answer::Call;
use crate::aws::{Key, Reply};
use crate::failure::{Failure, FailureClass};
use crate::secret::Credential;
use crate::target::Probe;

pub(super) async fn probe(target: &AwsIamTarget, credential: &Credential) -> Probe {
    let call = Call {
        doing: target.doing("use key", &credential.principal),
        action: "sts:GetCallerIdentity",
        changes: false,
    };
    let id = credential.principal.as_str();
    let secret = credential.value.expose_str().ok().filter(|_| id.bytes().all(|b| b.is_ascii_alphanumeric()));
    // No key is anything but text, so none is this one.
    let Some(secret) = secret else { return Probe::Refused };
    match target.account.caller(Key { id, secret }).await {
        Ok(Reply::Done(elements)) => judge(target, call, elements.text("Arn").unwrap_or_default()),
        // A wrong clock makes every signature a wrong one: nothing is said of the key.
        Ok(Reply::Refused { code, is_skew: false, .. })
            if matches!(code.as_str(), "InvalidClientTokenId" | "SignatureDoesNotMatch") =>
        {
            Probe::Refused
        }
        Ok(Reply::Refused { code, is_skew, status }) => Probe::Unknown(call.refused(&code, is_skew, status)),
        Err(trouble) => Probe::Unknown(call.troubled(trouble)),
    }
}

/// The key lets in. Whom?
fn judge(target: &AwsIamTarget, call: Call, arn: &str) -> Probe {
    let user = arn.rsplit_once(":user/").map(|(_, path)| path.rsplit('/').next().unwrap_or_default());
    match user {
        Some(user) if user == target.spec.user.as_str() => Probe::Accepted,
        Some(_) => {
            let failure = Failure::new(FailureClass::Invalid, call.doing, "it is a key of another user");
            Probe::Unfit(
                failure.with_remedy("correct the policy, or bring the right one in with `rekeyd adopt`"),
            )
        }
        None => {
            let reason = "the server's answer names no user";
            Probe::Unknown(Failure::new(FailureClass::Unavailable, call.doing, reason))
        }
    }
}
