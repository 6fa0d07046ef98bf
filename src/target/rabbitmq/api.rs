//! Requests to the management API, and what its answers mean.
//!
//! Nothing of an answer's text is passed on but what is read from it.

use jiff::Timestamp;
use serde_json::Value;

use super::RabbitmqTarget;
use crate::failure::{Failure, FailureClass};
use crate::http::header::DATE;
use crate::http::{Http, Lost, Method, StatusCode, Url};
use crate::policy::spec::TlsMode;
use crate::secret::Credential;

pub(super) use crate::http::Stage;

/// The connections of a large broker are one answer.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// A client that logs in as one user, with each request.
pub(super) struct Api<'a> {
    http: Http,
    credential: &'a Credential,
}

/// An answer, whatever it says.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// The server's own time, in whole seconds.
    pub(super) at: Option<Timestamp>,
}

/// What a server's words about a refused login mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// Name and value are not a user's.
    Failed,
    /// They are, and the user may not use this API.
    NotForManagement,
    /// Nothing that is known.
    Unclear,
}

impl<'a> Api<'a> {
    pub(super) async fn new(
        target: &RabbitmqTarget,
        credential: &'a Credential,
        doing: &str,
    ) -> Result<Self, Failure> {
        let endpoint = &target.spec.endpoint;
        let invalid = |reason: String, remedy: &'static str| {
            Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy)
        };
        let scheme = if endpoint.tls.mode == TlsMode::Disable { "http" } else { "https" };
        let host =
            if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
        let base = Url::parse(&format!("{scheme}://{host}:{}/api/", endpoint.port)).map_err(|_| {
            invalid("its host is not one that a request can name".into(), "correct endpoint.host")
        })?;
        let http = Http::new(base, &endpoint.tls, target.deadlines, MOST_BYTES).await.map_err(|reason| {
            invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
        })?;
        Ok(Self { http, credential })
    }

    /// Reads something; `None` where there is none.
    pub(super) async fn get(
        &self,
        path: &[&str],
        query: &str,
        doing: &str,
    ) -> Result<Option<Answer>, Failure> {
        let answer =
            self.send(Method::GET, path, query, None).await.map_err(|e| lost(e, Stage::Reading, doing))?;
        match answer.status {
            StatusCode::OK if !answer.body.is_null() => Ok(Some(answer)),
            StatusCode::OK => Err(odd("what it was asked", doing)),
            StatusCode::NOT_FOUND if answer.is_own() => Ok(None),
            _ => Err(refusal(&answer, doing)),
        }
    }

    /// Changes something; already so is success.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        doing: &str,
    ) -> Result<Answer, Failure> {
        let deletes = method == Method::DELETE;
        let answer =
            self.send(method, path, "", body).await.map_err(|error| lost(error, Stage::Writing, doing))?;
        match answer.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(answer),
            StatusCode::NOT_FOUND if deletes && answer.is_own() => Ok(answer),
            // Whatever happened to it on the way, or answered in the broker's place: it may have been done.
            status if status.is_server_error() || status.is_success() => {
                let reason =
                    format!("the server answers {}; the change may have taken effect", status.as_u16());
                Err(Failure::new(FailureClass::Ambiguous, doing, reason))
            }
            _ => Err(refusal(&answer, doing)),
        }
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Lost> {
        let mut request = self.http.request(method, path, query, self.credential);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = self.http.send(request).await?;
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        let at = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|at| at.timestamp());
        Ok(Answer {
            status: answer.status,
            body: serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
            at,
        })
    }
}

impl Answer {
    /// Whether a refusal is the broker's, and not that of something in between.
    fn is_own(&self) -> bool {
        self.body["error"].is_string()
    }

    /// The entries of a list.
    pub(super) fn list(&self, what: &str, doing: &str) -> Result<&[Value], Failure> {
        self.body.as_array().map(Vec::as_slice).ok_or_else(|| odd(what, doing))
    }

    /// What an answer of 401 says about the login.
    pub(super) fn login(&self) -> Login {
        match self.body["reason"].as_str() {
            Some("Login failed") => Login::Failed,
            Some("Not management user") => Login::NotForManagement,
            _ => Login::Unclear,
        }
    }
}

/// What an answer means that is none of those that are asked for, and that certainly changed nothing.
pub(super) fn refusal(answer: &Answer, doing: &str) -> Failure {
    let failed =
        |class, reason: &str, remedy: &'static str| Failure::new(class, doing, reason).with_remedy(remedy);
    match answer.status {
        StatusCode::UNAUTHORIZED if answer.login() == Login::Failed => failed(
            FailureClass::Denied,
            "the server refuses the admin credential",
            "put the admin's working password where the settings say",
        ),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failed(
            FailureClass::Denied,
            "the admin may not do that",
            "give the admin the tag `administrator`: rabbitmqctl set_user_tags <admin> administrator",
        ),
        StatusCode::NOT_FOUND => failed(
            FailureClass::Invalid,
            "the server does not know that request",
            "check that the RabbitMQ management API listens there",
        ),
        StatusCode::BAD_REQUEST => failed(
            FailureClass::Invalid,
            "the server takes the request for a mistake",
            "see in the server's log what it says",
        ),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            let reason = format!("the server answers {}", status.as_u16());
            Failure::new(FailureClass::Unavailable, doing, reason)
        }
        status => {
            let reason = format!("the server answers {}", status.as_u16());
            Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("check that the RabbitMQ management API listens there")
        }
    }
}

pub(super) fn odd(what: &str, doing: &str) -> Failure {
    let reason = format!("the answer about {what} is not one of RabbitMQ");
    Failure::new(FailureClass::Invalid, doing, reason)
        .with_remedy("check that the RabbitMQ management API listens there")
}

/// What it means that no answer came.
pub(super) fn lost(lost: Lost, stage: Stage, doing: &str) -> Failure {
    let remedy = "check that the server runs, and that its management API listens on that port";
    lost.into_failure(stage, doing, remedy)
}
