//! What an answer of the service, or the lack of one, says about the world.
//!
//! Errors are told apart by their code, and a clock that is off from a wrong key by their text, too. No text of the
//! service goes any further: it may quote what was sent.

use std::borrow::Cow;
use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::secret::{DESCRIBE, GET};
use crate::aws::{self, Silence};
use crate::failure::{Failure, FailureClass};

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is nothing to log in with.
    NoLogin,
    /// Whoever gives out logins was not reached, or gave none.
    LoginFailed,
    /// Nothing was sent.
    Unreached { reason: Cow<'static, str>, remedy: &'static str },
    /// It was sent, and no answer says what became of it.
    Lost(Cow<'static, str>),
    /// The service refused it, and nothing has changed.
    Refused(Code),
}

/// Why the service refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NotFound,
    Exists,
    Parameter,
    Request,
    Limit,
    Denied,
    /// The login has ended, or is none of this account.
    Token,
    /// The signature is not that of the key.
    Signature,
    Skew,
    Throttled,
    Encryption,
    Decryption,
    /// One that this adapter does not know, or an answer of something in between.
    Other(u16),
}

impl Fault {
    pub(super) fn of<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E, HttpResponse>) -> Self {
        let Some(answer) = error.raw_response() else { return Self::without_answer(error) };
        let status = answer.status().as_u16();
        let code = match error {
            SdkError::ServiceError(error) => error.err().code().map(|code| (code, error.err().message())),
            _ => None,
        };
        match (status, code) {
            (500.., _)
            | (_, Some(("InternalServiceError" | "InternalServiceErrorException" | "InternalFailure", _))) => {
                Self::Lost(format!("the service failed (status {status})").into())
            }
            (200..=299, _) => Self::strange(),
            (429, _) => Self::Refused(Code::Throttled),
            (_, Some((code, message))) if aws::is_skew(code, message.unwrap_or_default()) => {
                Self::Refused(Code::Skew)
            }
            (_, Some((code, _))) => Self::Refused(Code::named(code, status)),
            (_, None) => Self::Refused(Code::Other(status)),
        }
    }

    /// Something in between has answered. The driver takes an answer that says nothing for one of the service.
    pub(super) fn strange() -> Self {
        Self::Lost("the server's answer is not one of Secrets Manager".into())
    }

    fn without_answer(error: &(dyn Error + 'static)) -> Self {
        let chain = || std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
        // First, since it may have come of a connection to somebody else, who gives out logins.
        if let Some(error) = chain().find_map(|error| error.downcast_ref::<CredentialsError>()) {
            return match error {
                CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                    Self::NoLogin
                }
                _ => Self::LoginFailed,
            };
        }
        match chain().find_map(|error| error.downcast_ref::<Silence>()) {
            Some(Silence::Unreached(unreached)) => {
                Self::Unreached { reason: unreached.reason.clone(), remedy: unreached.remedy }
            }
            Some(Silence::Lost(reason)) => Self::Lost((*reason).into()),
            // Nothing comes to the connection without a login.
            None => Self::LoginFailed,
        }
    }

    pub(super) fn is(&self, code: Code) -> bool {
        *self == Self::Refused(code)
    }

    /// As a failure of a call that reads, or that nothing depends on: not to know is as good as not to have asked.
    pub(super) fn of_reading(self, doing: String, action: &'static str) -> Failure {
        self.judge(doing, action, FailureClass::Unavailable)
    }

    /// As a failure of a call that may have had its effect.
    pub(super) fn of_writing(self, doing: String, action: &'static str) -> Failure {
        self.judge(doing, action, FailureClass::Ambiguous)
    }

    fn judge(self, doing: String, action: &'static str, lost: FailureClass) -> Failure {
        use FailureClass::{Conflict, Denied, Invalid, Unavailable};
        let (class, reason, remedy): (_, Cow<'static, str>, Option<Cow<'static, str>>) = match self {
            Self::NoLogin => (
                Denied,
                "there is nothing to log in with".into(),
                Some("give rekeyd a role, a profile or a `credentialsFile`".into()),
            ),
            Self::LoginFailed => (
                Unavailable,
                "whoever gives out logins gave none".into(),
                Some("check the role or the profile, and whether it can be reached".into()),
            ),
            Self::Unreached { reason, remedy } => (Unavailable, reason, Some(remedy.into())),
            Self::Lost(reason) => (lost, reason, None),
            Self::Refused(code) => match code {
                Code::NotFound => (Invalid, "there is no such secret or version".into(), None),
                Code::Exists => (Conflict, "there is something already".into(), None),
                Code::Parameter | Code::Request => {
                    (Invalid, "the service does not take the request".into(), None)
                }
                Code::Limit => (
                    Unavailable,
                    "the secret has as many versions or labels as the service allows".into(),
                    Some("wait until versions are a day old, and let the policy rotate less often".into()),
                ),
                Code::Denied => (
                    Denied,
                    format!("`{action}` is not allowed, or the key of KMS may not be used").into(),
                    Some(match action {
                        // Whether it is there cannot be told from this.
                        GET | DESCRIBE => format!(
                            "allow `{action}` as `rekeyd iam-policy` prints it, and the use of the key; of a secret that is not \
                             there yet this is said where its name alone, without six characters behind it, is not allowed: \
                             allow that, or make the secret beforehand"
                        )
                        .into(),
                        _ => format!("allow `{action}` as `rekeyd iam-policy` prints it, and the use of the key")
                            .into(),
                    }),
                ),
                Code::Token => (
                    Denied,
                    "the service does not take the login".into(),
                    Some("check the role or the keys that rekeyd logs in with: they may have ended".into()),
                ),
                Code::Signature => (
                    Denied,
                    "the signature is not accepted".into(),
                    Some("check the keys that rekeyd logs in with, and the clock of this machine".into()),
                ),
                Code::Skew => (
                    Unavailable,
                    "the clocks differ too much".into(),
                    Some("set the clock of this machine".into()),
                ),
                Code::Throttled => (Unavailable, "the service's rate limit is reached".into(), None),
                Code::Encryption | Code::Decryption => (
                    Invalid,
                    "the key of KMS cannot be used".into(),
                    Some("check that the key is there and enabled".into()),
                ),
                Code::Other(status) => (
                    Unavailable,
                    format!("the request was not taken (status {status})").into(),
                    Some("check the address of the store, and what stands between".into()),
                ),
            },
        };
        let failure = Failure::new(class, doing, reason);
        match remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        }
    }
}

impl Code {
    fn named(code: &str, status: u16) -> Self {
        match code {
            "ResourceNotFoundException" => Self::NotFound,
            "ResourceExistsException" => Self::Exists,
            "InvalidParameterException" | "ValidationException" | "InvalidNextTokenException" => {
                Self::Parameter
            }
            "InvalidRequestException" | "PreconditionNotMetException" => Self::Request,
            "LimitExceededException" => Self::Limit,
            "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "NotAuthorized" => {
                Self::Denied
            }
            "ExpiredTokenException"
            | "ExpiredToken"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "OptInRequired" => Self::Token,
            "InvalidSignatureException" | "SignatureDoesNotMatch" => Self::Signature,
            "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "SlowDown"
            | "BandwidthLimitExceeded" => Self::Throttled,
            "EncryptionFailure" | "EncryptionFailureException" => Self::Encryption,
            "DecryptionFailure" | "DecryptionFailureException" => Self::Decryption,
            _ => Self::Other(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(fault: Fault) -> [FailureClass; 2] {
        [
            fault.clone().of_reading("read x".into(), "secretsmanager:GetSecretValue").class(),
            fault.of_writing("write x".into(), "secretsmanager:PutSecretValue").class(),
        ]
    }

    #[test]
    fn only_a_lost_answer_to_a_write_is_a_doubt() {
        use FailureClass::{Ambiguous, Denied, Unavailable};
        assert_eq!(judged(Fault::Lost("x".into())), [Unavailable, Ambiguous]);
        let unreached = Fault::Unreached { reason: "x".into(), remedy: "y" };
        assert_eq!(judged(unreached), [Unavailable; 2]);
        for code in ["ThrottlingException", "LimitExceededException", "Whatever"] {
            assert_eq!(judged(Fault::Refused(Code::named(code, 400))), [Unavailable; 2], "{code}");
        }
        for code in ["AccessDeniedException", "ExpiredTokenException", "InvalidSignatureException"] {
            assert_eq!(judged(Fault::Refused(Code::named(code, 400))), [Denied; 2], "{code}");
        }
        assert_eq!(judged(Fault::NoLogin), [Denied; 2]);
    }

    #[test]
    fn who_lacks_a_right_is_told_which() {
        let fault = Fault::Refused(Code::named("AccessDeniedException", 400));
        let failure = fault.of_writing("write x".into(), "secretsmanager:PutSecretValue");
        assert!(failure.to_string().contains("`secretsmanager:PutSecretValue` is not allowed"), "{failure}");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("rekeyd iam-policy")));
        for action in [GET, DESCRIBE] {
            let failure = Fault::Refused(Code::Denied).of_reading("read x".into(), action);
            assert!(failure.remedy().is_some_and(|remedy| remedy.contains("make the secret beforehand")));
        }
    }
}
