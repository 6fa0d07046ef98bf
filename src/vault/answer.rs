//! What an answer of the server, or the lack of one, says about the world.
//!
//! The server tells its errors apart by text only. The texts matched here are those of OpenBao 2.7 and of
//! Vault 1.x. No text of the server goes any further: it may quote what was sent.

use std::borrow::Cow;

use serde::Deserialize;
use vaultrs::error::ClientError;

use super::transport::{MOST_BYTES, TooLong};
use crate::failure::{Failure, FailureClass};
use crate::reach::Unreached;

/// One call, for its failures.
pub(crate) struct Call {
    /// Completes "cannot ...".
    pub(crate) doing: String,
    /// The path of the API, as a policy of the server names it.
    pub(crate) path: String,
    /// The capabilities that a policy must grant on the path.
    pub(crate) needs: &'static str,
    pub(crate) effect: Effect,
}

/// Whether a lost answer leaves a doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
}

/// A call that did not succeed.
pub(crate) enum Trouble {
    /// There is no token to make the call with.
    Login(Failure),
    /// The server's answer, or its silence.
    Call(ClientError),
}

impl Trouble {
    /// The status and the text of the answer, if there was one.
    fn answer(&self) -> Option<(u16, Cow<'_, str>)> {
        match self {
            Self::Login(_) => None,
            Self::Call(error) => answer(error),
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.answer().map(|(status, _)| status)
    }

    /// Whether the token lives and lacks the right.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.status() == Some(403)
    }

    /// The status and the texts, if it was the server itself that answered and nothing in between.
    fn errors(&self) -> Option<(u16, &[String])> {
        match self {
            Self::Call(ClientError::APIError { code, errors }) => Some((*code, errors)),
            _ => None,
        }
    }

    /// Whether the server answered with this status, and this is in its text.
    pub(crate) fn says(&self, status: u16, part: &str) -> bool {
        self.status() == Some(status) && self.says_text(part)
    }

    /// Whether this is in the text of the server's answer, whatever its status. A page of something in between may
    /// quote what was asked.
    pub(crate) fn says_text(&self, part: &str) -> bool {
        if let Some((_, errors)) = self.errors() {
            return errors.iter().any(|text| text.contains(part));
        }
        // Some refusals are an object with another form.
        self.answer().is_some_and(|(_, text)| {
            text.contains(part) && serde_json::from_str::<serde_json::Map<_, _>>(&text).is_ok()
        })
    }

    pub(crate) fn is_conflict(&self) -> bool {
        self.says(400, CONFLICT)
    }

    /// Whether the server knows the mount and has nothing at the path.
    pub(crate) fn is_absent(&self) -> bool {
        self.errors().is_some_and(|(status, errors)| status == 404 && errors.is_empty())
    }

    /// The version at the path, if what the server says is that it was deleted.
    pub(crate) fn deleted_version(&self) -> Option<u64> {
        let (404, text) = self.answer()? else { return None };
        let deleted: Deleted = serde_json::from_str(&text).ok()?;
        Some(deleted.data.metadata.version)
    }

    pub(crate) fn into_failure(self, call: Call) -> Failure {
        let error = match self {
            Self::Login(failure) => return failure,
            Self::Call(error) => error,
        };
        match answer(&error) {
            Some((403, _)) => Failure::new(
                FailureClass::Denied,
                call.doing,
                format!("permission denied on `{}`", call.path),
            )
            .with_remedy(format!("grant {} on `{}` in the policy of rekeyd's token", call.needs, call.path)),
            Some((status, text)) => judge(status, &text, call.effect).into_failure(call.doing),
            None => judge_silence(&error, call.effect).into_failure(call.doing),
        }
    }
}

/// The body of a 404 that means "deleted".
#[derive(Deserialize)]
struct Deleted {
    data: DeletedData,
}

#[derive(Deserialize)]
struct DeletedData {
    metadata: DeletedMetadata,
}

#[derive(Deserialize)]
struct DeletedMetadata {
    version: u64,
}

pub(crate) fn is_forbidden(error: &ClientError) -> bool {
    matches!(answer(error), Some((403, _)))
}

/// Whether the server refused the request itself, whatever the status: what a login says of wrong
/// credentials.
pub(crate) fn is_refused(error: &ClientError) -> bool {
    matches!(answer(error), Some((400 | 401 | 403, _)))
}

fn answer(error: &ClientError) -> Option<(u16, Cow<'_, str>)> {
    match error {
        ClientError::APIError { code, errors } => Some((*code, errors.join("\n").into())),
        ClientError::RestClientError {
            source: rustify::errors::ClientError::ServerResponseError { code, content },
        } => Some((*code, content.as_deref().unwrap_or_default().into())),
        _ => None,
    }
}

/// What a status and a text mean.
struct Verdict {
    class: FailureClass,
    reason: Cow<'static, str>,
    remedy: Option<&'static str>,
}

impl Verdict {
    fn new(class: FailureClass, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { class, reason: reason.into(), remedy: None }
    }

    fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    fn into_failure(self, doing: String) -> Failure {
        let failure = Failure::new(self.class, doing, self.reason);
        match self.remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        }
    }
}

const CONFLICT: &str = "check-and-set parameter did not match";

fn judge(status: u16, text: &str, effect: Effect) -> Verdict {
    use FailureClass::{Ambiguous, Conflict, Invalid, Unavailable};
    match status {
        400 if text.contains(CONFLICT) => Verdict::new(Conflict, "somebody else wrote it"),
        // Right after a mount was made or a server took over; the text is the only sign.
        400 if text.contains("Upgrading from non-versioned") => {
            Verdict::new(Unavailable, "the server is still preparing the mount")
        }
        404 => Verdict::new(Invalid, "the server has no such mount or path")
            .with_remedy("check `mount` and `namespace` of the store"),
        405 => Verdict::new(Invalid, "the mount cannot do this").with_remedy(NOT_KV2),
        429 => Verdict::new(Unavailable, "the server's rate limit is reached"),
        412 | 472 | 473 => Verdict::new(Unavailable, "the server is a standby")
            .with_remedy("point the address of the store at the active server"),
        300..=399 => {
            Verdict::new(Unavailable, "the server sends its clients elsewhere, which is not followed")
                .with_remedy("point the address of the store at the active server")
        }
        501 => Verdict::new(Unavailable, "the server is not initialised")
            .with_remedy("initialise it with `bao operator init`"),
        503 if text.contains("sealed") => Verdict::new(Unavailable, "the server is sealed")
            .with_remedy("unseal it with `bao operator unseal`"),
        400..=499 => Verdict::new(Invalid, format!("the server does not take the request (status {status})")),
        // Of the server, or of a balancer before it that may have passed the request on.
        _ => {
            let class = if effect == Effect::Writes { Ambiguous } else { Unavailable };
            Verdict::new(class, format!("the server failed (status {status})"))
        }
    }
}

pub(crate) const NOT_KV2: &str = "use a KV mount of version 2: `bao secrets enable -version=2 kv`";

/// No status: the request did not arrive, or its answer did not.
fn judge_silence(error: &ClientError, effect: Effect) -> Verdict {
    use FailureClass::{Ambiguous, Unavailable};
    let lost = if effect == Effect::Writes { Ambiguous } else { Unavailable };
    let ClientError::RestClientError { source } = error else {
        return Verdict::new(lost, "the server's answer is not one of OpenBao or Vault")
            .with_remedy("check the address of the store");
    };
    let (rustify::errors::ClientError::RequestError { source, .. }
    | rustify::errors::ClientError::ResponseError { source }) = source
    else {
        return Verdict::new(lost, "the server's answer is not one of OpenBao or Vault")
            .with_remedy("check the address of the store");
    };
    if source.is::<TooLong>() {
        return Verdict::new(lost, format!("the server's answer is longer than {MOST_BYTES} bytes"))
            .with_remedy("check the address of the store");
    }
    match source.downcast_ref::<reqwest::Error>() {
        // Nothing was sent: there was no connection to send it on.
        Some(error) if error.is_connect() => unreachable(error),
        Some(error) if error.is_timeout() => Verdict::new(lost, "the server does not answer in time"),
        _ => Verdict::new(lost, "the connection broke before the answer came"),
    }
}

fn unreachable(error: &reqwest::Error) -> Verdict {
    let Unreached { reason, remedy } = Unreached::of(error);
    Verdict::new(FailureClass::Unavailable, reason).with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use FailureClass::{Ambiguous, Conflict, Denied, Invalid, Unavailable};

    use super::*;

    fn api(code: u16, text: &str) -> Trouble {
        let errors = if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
        Trouble::Call(ClientError::APIError { code, errors })
    }

    fn body(code: u16, content: &str) -> Trouble {
        let content = Some(content.to_owned());
        Trouble::Call(ClientError::RestClientError {
            source: rustify::errors::ClientError::ServerResponseError { code, content },
        })
    }

    fn failure(trouble: Trouble, effect: Effect) -> Failure {
        let call = Call { doing: "write x".into(), path: "secret/data/x".into(), needs: "`update`", effect };
        trouble.into_failure(call)
    }

    #[test]
    fn each_status_has_its_class() {
        let cas = "check-and-set parameter did not match the current version";
        let upgrading = "Upgrading from non-versioned to versioned data. This backend will be unavailable";
        for (status, text, reads, writes) in [
            (400, cas, Conflict, Conflict),
            (400, upgrading, Unavailable, Unavailable),
            (400, "missing field", Invalid, Invalid),
            (403, "permission denied", Denied, Denied),
            (404, "no handler for route", Invalid, Invalid),
            (405, "unsupported operation", Invalid, Invalid),
            (413, "request body too large", Invalid, Invalid),
            (429, "", Unavailable, Unavailable),
            (472, "", Unavailable, Unavailable),
            (473, "", Unavailable, Unavailable),
            (307, "", Unavailable, Unavailable),
            (501, "", Unavailable, Unavailable),
            (503, "Vault is sealed", Unavailable, Unavailable),
            (503, "no backend", Unavailable, Ambiguous),
            (500, "internal error", Unavailable, Ambiguous),
            (502, "", Unavailable, Ambiguous),
            (504, "", Unavailable, Ambiguous),
        ] {
            assert_eq!(failure(api(status, text), Effect::Reads).class(), reads, "{status} {text}");
            assert_eq!(failure(api(status, text), Effect::Writes).class(), writes, "{status} {text}");
        }
    }

    #[test]
    fn deleted_is_told_from_absent() {
        let deleted = body(
            404,
            r#"{"data":{"data":null,"metadata":{"version":7,"deletion_time":"2026-11-24T16:19:26Z"}}}"#,
        );
        assert_eq!((deleted.deleted_version(), deleted.is_absent()), (Some(7), false));
        assert_eq!((api(404, "").deleted_version(), api(404, "").is_absent()), (None, true));
        let gone = body(404, r#"{"data":{"error":"failed to find accessor entry for it"}}"#);
        assert!(gone.says_text("failed to find accessor entry") && !gone.is_absent());
        assert!(!body(404, "<p>failed to find accessor entry").says_text("failed to find accessor entry"));
        let no_mount = api(404, "no handler for route \"x/data/y\". route entry not found.");
        assert_eq!((no_mount.deleted_version(), no_mount.is_absent()), (None, false));
        // What something in between says is no word on the path.
        for odd in ["", "<html>", "null", "{}"] {
            assert!(!body(404, odd).is_absent(), "{odd}");
        }
        for odd in ["", "not found", "{}", r#"{"data":null}"#, r#"{"data":{"metadata":{"version":-1}}}"#] {
            assert_eq!(body(404, odd).deleted_version(), None, "{odd}");
        }
    }

    #[test]
    fn the_server_s_text_stays_inside() {
        for trouble in [api(400, "hunter2"), api(500, "hunter2"), body(404, "hunter2"), body(418, "hunter2")]
        {
            let failure = failure(trouble, Effect::Writes);
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
        }
    }

    #[test]
    fn a_denial_names_the_path_and_what_it_needs() {
        let failure = failure(api(403, "permission denied"), Effect::Writes);
        assert_eq!(failure.to_string(), "cannot write x: permission denied on `secret/data/x`");
        assert_eq!(
            failure.remedy(),
            Some("grant `update` on `secret/data/x` in the policy of rekeyd's token")
        );
    }
}
