//! Sends the requests of a recipe, and says what it means where an answer is none of those that it knows.
//!
//! Nothing of an answer's text is passed on but what the recipe reads from it.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Url};

use super::HttpTarget;
use super::outbound::{Barred, Guard};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::{TlsMode, TlsSpec};
use crate::recipe::{Answer, Context, Known, Meaning, Request};
use crate::target::tls;

/// The largest answer that is read, in bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Whether a request could have changed something when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Reading,
    Writing,
}

/// Makes the client that all requests of a target are sent with.
pub(super) async fn client(target: &HttpTarget, doing: &str) -> Result<Client, Failure> {
    let invalid = |reason: String, remedy: &'static str| {
        Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy)
    };
    let spec =
        TlsSpec { mode: TlsMode::VerifyFull, ca_file: target.spec.ca_file.clone(), allow_plaintext: false };
    let config = tls::client_config(&spec).await.map_err(|reason| {
        invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
    })?;
    Client::builder()
        // Neither a redirect nor the environment's proxies get to see a credential.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .dns_resolver(std::sync::Arc::new(Guard(target.outbound.clone())))
        .connect_timeout(Duration::from_secs(5))
        .timeout(target.recipe.limits.timeout.as_duration())
        .user_agent(concat!("rekeyd/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(config.unwrap_or_else(tls::closed))
        .build()
        .map_err(|_| invalid("the HTTP client cannot be made".into(), "correct the target's caFile"))
}

/// Sends one request. An answer is an answer, whatever it says.
///
/// # Errors
/// When it was not sent, or its answer is not known.
pub(super) async fn send(
    target: &HttpTarget,
    request: &Request,
    context: &Context<'_>,
    extra: Option<(&str, &str)>,
    stage: Stage,
    doing: &str,
) -> Result<Answer, Failure> {
    let invalid = |reason: String| {
        Failure::new(FailureClass::Invalid, doing, reason).with_remedy(format!(
            "correct the recipe `{}` or what the policy says for it",
            target.spec.recipe
        ))
    };
    let rendered = request.render(context).map_err(|problem| invalid(problem.to_string()))?;
    let mut url = address(target, &rendered.path).map_err(invalid)?;
    if !rendered.query.is_empty() || extra.is_some() {
        let mut query = url.query_pairs_mut();
        rendered.query.iter().for_each(|(name, value)| _ = query.append_pair(name, value));
        extra.iter().for_each(|(name, value)| _ = query.append_pair(name, value));
    }
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    // Names are looked at when they are resolved; an address is never.
    if let Ok(literal) = host.parse()
        && let Err(barred) = target.outbound.check(&host, literal)
    {
        return Err(barred_failure(doing, barred));
    }
    let method = reqwest::Method::from_bytes(rendered.method.as_str().as_bytes()).expect("a token");
    let mut headers = HeaderMap::new();
    for (name, value) in &rendered.headers {
        let header = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
        let (name, mut value) =
            header.ok_or_else(|| invalid(format!("its header `{name}` cannot be sent")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if let Some(body) = &rendered.body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.kind));
    }
    let client = target.client(doing).await?;
    let mut request = client.request(method, url).headers(headers);
    if let Some((user, password)) = &rendered.basic {
        request = request.basic_auth(user.as_str(), Some(password.as_str()));
    }
    if let Some(body) = &rendered.body {
        request = request.body(body.bytes.to_vec());
    }
    let pace = target.pace(&host);
    let _lane = pace.turn().await;
    let response = request.send().await.map_err(|error| lost(&error, stage, doing))?;
    let status = response.status().as_u16();
    if let Some(pause) = retry_after(response.headers()).filter(|_| matches!(status, 429 | 503)) {
        pace.pause(pause);
    } else if status == 429 {
        pace.pause(Duration::from_secs(1));
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let page = kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"));
    let body = read(response, stage, doing).await?;
    Ok(Answer { status, body, page })
}

/// The body, where it is JSON.
async fn read(
    mut response: reqwest::Response,
    stage: Stage,
    doing: &str,
) -> Result<Option<serde_json::Value>, Failure> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(16 * 1024));
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > MOST_BYTES => {
                let reason = format!("the answer is longer than {} MiB", MOST_BYTES / 1024 / 1024);
                return Err(unread(stage, doing, &reason));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) => return Err(lost(&error, stage, doing)),
        }
    }
}

fn address(target: &HttpTarget, path: &str) -> Result<Url, String> {
    let text = match target.spec.base() {
        Some(base) if path.starts_with('/') => format!("{}{path}", base.trim_end_matches('/')),
        None if path.starts_with('/') => return Err("nothing says where requests go".into()),
        _ => path.to_owned(),
    };
    let url = Url::parse(&text).map_err(|_| "its address is none".to_owned())?;
    let local = url.host_str().is_some_and(crate::policy::spec::is_loopback);
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _ => Err("it would be sent without TLS".into()),
    }
}

/// What an answer means that is a failure that the recipe knows.
pub(super) fn known(known: &Known, doing: &str) -> Failure {
    let class = match known.means {
        Meaning::Unavailable => FailureClass::Unavailable,
        Meaning::Denied => FailureClass::Denied,
        Meaning::Conflict => FailureClass::Conflict,
        Meaning::Invalid => FailureClass::Invalid,
        Meaning::Ambiguous => FailureClass::Ambiguous,
    };
    let failure = Failure::new(class, doing, &known.reason);
    match &known.remedy {
        Some(remedy) => failure.with_remedy(remedy.clone()),
        None => failure,
    }
}

/// What an answer means that the recipe does not know.
pub(super) fn unknown(answer: &Answer, stage: Stage, doing: &str) -> Failure {
    let failed =
        |class, reason: String, remedy: &'static str| Failure::new(class, doing, reason).with_remedy(remedy);
    let status = answer.status;
    if answer.page && status < 500 {
        let reason = format!("a page for people comes back, with {status}: that is not the provider's API");
        return match stage {
            Stage::Writing if (200..300).contains(&status) => unread(stage, doing, &reason),
            _ => failed(
                FailureClass::Unavailable,
                reason,
                "check what answers there: a gateway, or a login page",
            ),
        };
    }
    match status {
        401 | 403 => failed(
            FailureClass::Denied,
            format!("the provider refuses it with {status}"),
            "look whether the admin credential is in force and has the rights that the recipe names",
        ),
        404 | 405 | 410 => failed(
            FailureClass::Invalid,
            format!("the provider answers {status}: it knows nothing of that kind"),
            "check the policy's parameters, owner and base",
        ),
        409 => failed(
            FailureClass::Conflict,
            "the provider answers 409: something else is in the way".into(),
            "see what there is at the provider",
        ),
        429 => failed(
            FailureClass::Unavailable,
            "the provider says that it is asked too often".into(),
            "lower `limits.requestsPerSecond` of the recipe if that happens often",
        ),
        300..400 => failed(
            FailureClass::Invalid,
            format!("the provider answers {status} and sends requests elsewhere, which is not followed"),
            "name the server itself as the target's base",
        ),
        400..500 => failed(
            FailureClass::Invalid,
            format!("the provider takes the request for a mistake and answers {status}"),
            "check the policy's parameters against the provider's documentation",
        ),
        _ => {
            let reason = match (&answer.body, status) {
                (None, 200..300) => "the answer is not JSON".into(),
                (Some(_), 200..300) => "the answer has not what the recipe looks for".into(),
                _ => format!("the provider answers {status}"),
            };
            unread(stage, doing, &reason)
        }
    }
}

/// An answer that tells nothing of what happened.
fn unread(stage: Stage, doing: &str, reason: &str) -> Failure {
    match stage {
        Stage::Reading => Failure::new(FailureClass::Unavailable, doing, reason)
            .with_remedy("check that the provider itself answers there, and no gateway for it"),
        Stage::Writing => Failure::new(
            FailureClass::Ambiguous,
            doing,
            format!("{reason}; the change may have taken effect"),
        ),
    }
}

/// What it means that no answer came.
fn lost(error: &reqwest::Error, stage: Stage, doing: &str) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(barred) = inner.downcast_ref::<Barred>() {
            return barred_failure(doing, *barred);
        }
        if error.is_connect() {
            let io = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let tls = io.and_then(|io| io.downcast_ref::<rustls::Error>());
            if let Some(error) = tls.or_else(|| inner.downcast_ref::<rustls::Error>()) {
                let (reason, remedy) = tls::explain(error);
                return Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy);
            }
        }
        source = inner.source();
    }
    if error.is_connect() {
        let reason = if error.is_timeout() { "it cannot be reached in time" } else { "it cannot be reached" };
        return Failure::new(FailureClass::Unavailable, doing, reason)
            .with_remedy("check that the server runs and that no firewall is between");
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

fn barred_failure(doing: &str, barred: Barred) -> Failure {
    Failure::new(FailureClass::Denied, doing, barred)
        .with_remedy("if that is meant, name the host under `outbound.privateHosts` in the settings")
}

/// How long to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp());
    let from = headers.get(DATE)?.to_str().ok().and_then(date)?;
    Duration::try_from(date(text)?.duration_since(from)).ok()
}
