//! What an answer of the service, or the lack of one, says about the world.

use std::borrow::Cow;

use crate::aws::{Reply, Silence, Trouble};
use crate::failure::{Failure, FailureClass};

/// One call, for its failures.
pub(super) struct Call {
    /// Completes "cannot ...".
    pub(super) doing: String,
    /// As IAM's own policies name it.
    pub(super) action: &'static str,
    /// Whether a lost answer leaves a doubt.
    pub(super) changes: bool,
}

impl Call {
    /// A call without an answer of the service.
    pub(super) fn troubled(self, trouble: Trouble) -> Failure {
        use FailureClass::{Ambiguous, Denied, Unavailable};
        let lost = if self.changes { Ambiguous } else { Unavailable };
        let (class, reason, remedy): (_, Cow<'static, str>, _) = match trouble {
            Trouble::NoLogin => (
                Denied,
                "there is nothing to log in with".into(),
                Some("give rekeyd a role, a profile or a `credentialsFile`"),
            ),
            Trouble::LoginFailed => (
                Unavailable,
                "whoever gives out logins gave none".into(),
                Some("check the role or the profile, and whether it can be reached"),
            ),
            Trouble::Silence(Silence::Unreached(unreached)) => {
                (Unavailable, unreached.reason, Some(unreached.remedy))
            }
            Trouble::Silence(Silence::Lost(reason)) => (lost, reason.into(), None),
            Trouble::Failed(status) => (lost, format!("the service failed (status {status})").into(), None),
            Trouble::Strange => (lost, "the server's answer is not one of AWS".into(), None),
        };
        failure(class, self.doing, reason, remedy.map(Into::into))
    }

    /// The service refused it.
    pub(super) fn refused(self, code: &str, is_skew: bool, status: u16) -> Failure {
        use FailureClass::{Denied, Invalid, Unavailable};
        let (class, reason, remedy): (_, Cow<'static, str>, Option<Cow<'static, str>>) = match code {
            _ if is_skew => (
                Unavailable,
                "the clocks differ too much".into(),
                Some("set the clock of this machine".into()),
            ),
            "NoSuchEntity" => (
                Invalid,
                "there is no such user or key".into(),
                Some("make the user, or correct the policy".into()),
            ),
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized" => (
                Denied,
                format!("`{}` is not allowed", self.action).into(),
                Some(format!("allow `{}` as `rekeyd iam-policy` prints it", self.action).into()),
            ),
            "SignatureDoesNotMatch" => (
                Denied,
                "the signature is not accepted".into(),
                Some("check the keys that rekeyd logs in with, and the clock of this machine".into()),
            ),
            code if crate::aws::is_of_login(code) => (
                Denied,
                "the service does not take the login".into(),
                Some("check the role or the keys that rekeyd logs in with: they may have ended".into()),
            ),
            "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown" => (Unavailable, "the service's rate limit is reached".into(), None),
            _ if status == 429 => (Unavailable, "the service's rate limit is reached".into(), None),
            "EntityTemporarilyUnmodifiable" | "ConcurrentModification" => {
                (Unavailable, "the user is being changed".into(), None)
            }
            "InvalidInput" | "ValidationError" | "MalformedQueryString" | "InvalidParameterValue" => {
                (Invalid, "the service does not take the request".into(), None)
            }
            _ => (
                Unavailable,
                format!("the request was not taken (status {status})").into(),
                Some("check the endpoints of the store, and what stands between".into()),
            ),
        };
        failure(class, self.doing, reason, remedy)
    }

    /// As a result, where no refusal means anything else.
    pub(super) fn done(self, reply: Result<Reply, Trouble>) -> Result<crate::aws::Elements, Failure> {
        match reply {
            Ok(Reply::Done(elements)) => Ok(elements),
            Ok(Reply::Refused { code, is_skew, status }) => Err(self.refused(&code, is_skew, status)),
            Err(trouble) => Err(self.troubled(trouble)),
        }
    }
}

fn failure(
    class: FailureClass,
    doing: String,
    reason: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
) -> Failure {
    let failure = Failure::new(class, doing, reason);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(changes: bool) -> Call {
        Call { doing: "make a key".into(), action: "iam:CreateAccessKey", changes }
    }

    #[test]
    fn only_a_lost_answer_to_a_change_is_a_doubt() {
        use FailureClass::{Ambiguous, Denied, Invalid, Unavailable};
        for (code, class) in [
            ("Throttling", Unavailable),
            ("EntityTemporarilyUnmodifiable", Unavailable),
            ("Whatever", Unavailable),
            ("", Unavailable),
            ("AccessDenied", Denied),
            ("ExpiredToken", Denied),
            ("SignatureDoesNotMatch", Denied),
            ("NoSuchEntity", Invalid),
            ("InvalidInput", Invalid),
        ] {
            assert_eq!(call(true).refused(code, false, 400).class(), class, "{code}");
        }
        assert_eq!(call(true).refused("SignatureDoesNotMatch", true, 403).class(), Unavailable);
        for trouble in
            [|| Trouble::Failed(500), || Trouble::Strange, || Trouble::Silence(Silence::Lost("it broke"))]
        {
            assert_eq!(call(true).troubled(trouble()).class(), Ambiguous);
            assert_eq!(call(false).troubled(trouble()).class(), Unavailable);
        }
        assert_eq!(call(true).troubled(Trouble::NoLogin).class(), Denied);
        assert_eq!(call(true).troubled(Trouble::LoginFailed).class(), Unavailable);
    }

    #[test]
    fn who_lacks_a_right_is_told_which() {
        let failure = call(true).refused("AccessDenied", false, 403);
        assert_eq!(failure.to_string(), "cannot make a key: `iam:CreateAccessKey` is not allowed");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("rekeyd iam-policy")));
    }
}
