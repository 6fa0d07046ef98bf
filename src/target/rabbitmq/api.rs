//! Requests to the management API, and what its answers mean.
//!
//! Nothing of an answer's text is passed on but what is read from it.

use jiff::Timestamp;
use reqwest::header::DATE;
use reqwest::{Client, Method, StatusCode, Url};
use serde_json::Value;

use super::RabbitmqTarget;
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::TlsMode;
use crate::secret::Credential;
use crate::target::tls;

/// A client that logs in as one user, with each request.
pub(super) struct Api<'a> {
    http: Client,
    base: Url,
    credential: &'a Credential,
}

/// An answer, whatever it says.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    /// The server's own time, in whole seconds.
    pub(super) at: Option<Timestamp>,
}

/// Whether a request could have changed something when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Reading,
    Writing,
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
        let config = tls::client_config(&endpoint.tls).await.map_err(|reason| {
            invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
        })?;
        let builder = Client::builder()
            // Neither a redirect nor the environment's proxies get to see a login.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .timeout(target.deadlines.request)
            .connect_timeout(target.deadlines.connect);
        let builder = match config {
            Some(config) => builder.tls_backend_preconfigured(config),
            None => builder.tls_backend_preconfigured(tls::closed()),
        };
        let http = builder
            .build()
            .map_err(|_| invalid("the HTTP client cannot be made".into(), "correct the endpoint's tls"))?;
        let scheme = if endpoint.tls.mode == TlsMode::Disable { "http" } else { "https" };
        let host =
            if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
        let base = Url::parse(&format!("{scheme}://{host}:{}/api/", endpoint.port)).map_err(|_| {
            invalid("its host is not one that a request can name".into(), "correct endpoint.host")
        })?;
        Ok(Self { http, base, credential })
    }

    /// Reads something; `None` where there is none.
    pub(super) async fn get(
        &self,
        path: &[&str],
        query: &str,
        doing: &str,
    ) -> Result<Option<Answer>, Failure> {
        let answer =
            self.send(Method::GET, path, query, None).await.map_err(|e| lost(&e, Stage::Reading, doing))?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
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
            self.send(method, path, "", body).await.map_err(|error| lost(&error, Stage::Writing, doing))?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND if deletes => Ok(answer),
            // Whatever happened to it on the way: it may have been done.
            status if status.is_server_error() => {
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
    ) -> Result<Answer, reqwest::Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let value = String::from_utf8_lossy(self.credential.value.expose());
        let mut request =
            self.http.request(method, url).basic_auth(self.credential.principal.as_str(), Some(&*value));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await?;
        let status = response.status();
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let at = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|at| at.timestamp());
        let bytes = response.bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), at })
    }
}

impl Answer {
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

/// What it means that no answer came.
pub(super) fn lost(error: &reqwest::Error, stage: Stage, doing: &str) -> Failure {
    if error.is_connect() {
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let io = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let tls = io.and_then(|io| io.downcast_ref::<rustls::Error>());
            if let Some(error) = tls.or_else(|| inner.downcast_ref::<rustls::Error>()) {
                let (reason, remedy) = tls::explain(error);
                return Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy);
            }
            source = inner.source();
        }
        let reason = if error.is_timeout() { "it cannot be reached in time" } else { "it cannot be reached" };
        return Failure::new(FailureClass::Unavailable, doing, reason)
            .with_remedy("check that the server runs, and that its management API listens on that port");
    }
    let reason = if error.is_timeout() { "no answer within the deadline" } else { "the connection was lost" };
    match stage {
        Stage::Reading => Failure::new(FailureClass::Unavailable, doing, reason),
        Stage::Writing => Failure::new(
            FailureClass::Ambiguous,
            doing,
            format!("{reason}; the change may have taken effect"),
        ),
    }
}
