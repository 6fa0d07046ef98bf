//! How requests reach AWS: certificates, deadlines, and what is known when no answer comes.
//!
//! The driver is given this client, the one that other stores use, too: the driver's own would trust and follow
//! whom it likes and would bring a second TLS stack.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;

use crate::reach::{Unreached, trust};
use crate::settings::AwsSettings;

/// A longer answer is none of AWS.
const LONGEST_ANSWER: usize = 4 << 20;

/// An HTTP client of the driver.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    http: reqwest::Client,
}

/// What became of a request without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    /// Nothing was sent.
    #[error("{}", .0.reason)]
    Unreached(Unreached),
    /// It may have arrived.
    #[error("{0}")]
    Lost(&'static str),
}

impl Connection {
    /// # Errors
    /// Why the settings cannot be used.
    pub(crate) fn new(settings: &AwsSettings) -> Result<Self, String> {
        let timeout = settings.timeout.as_duration();
        // Without TLS everywhere no authority is needed.
        let endpoints = [&settings.endpoint, &settings.iam_endpoint, &settings.sts_endpoint];
        let is_plain = |endpoint: &&Option<String>| {
            endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"))
        };
        let is_encrypted = !endpoints.iter().all(is_plain);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust(is_encrypted, settings.ca_file.as_deref())?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            // Shorter than the whole, so that a server that cannot be reached is told from one that has
            // the request and does not answer.
            .connect_timeout(timeout / 2)
            .build()
            .map_err(|_| "the HTTP client cannot be made".to_owned())?;
        Ok(Self { http })
    }

    /// Posts a form that is signed already.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: Vec<(String, String)>,
        body: String,
    ) -> Result<Answer, Silence> {
        let mut request = self.http.post(url).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        exchange(request).await
    }
}

impl HttpClient for Connection {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector { http: self.http.clone(), settings: settings.clone() })
    }
}

#[derive(Debug)]
struct Connector {
    http: reqwest::Client,
    settings: HttpConnectorSettings,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (http, settings) = (self.http.clone(), self.settings.clone());
        HttpConnectorFuture::new(async move {
            send(&http, &settings, request)
                .await
                .map_err(|silence| ConnectorError::other(Box::new(silence), None))
        })
    }
}

async fn send(
    http: &reqwest::Client,
    settings: &HttpConnectorSettings,
    request: HttpRequest,
) -> Result<HttpResponse, Silence> {
    let unsent = |reason: &'static str| {
        Silence::Unreached(Unreached { reason: reason.into(), remedy: "check the address of the store" })
    };
    let request = request.try_into_http1x().map_err(|_| unsent("the request cannot be written"))?;
    let (parts, body) = request.into_parts();
    let body = body.bytes().map(<[u8]>::to_vec).ok_or_else(|| unsent("the request has no end"))?;
    let mut request = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
    // Who asks the machine itself for a login expects an answer at once.
    if let (Some(connect), Some(read)) = (settings.connect_timeout(), settings.read_timeout()) {
        request = request.timeout(connect + read);
    }
    let answer = exchange(request).await?;
    let status = answer.status.try_into();
    let status = status.map_err(|_| Silence::Lost("the server's answer is not one of AWS"))?;
    let mut response = HttpResponse::new(status, SdkBody::from(answer.body));
    for (name, value) in &answer.headers {
        // What is not text is nothing that the driver reads.
        if let Ok(value) = value.to_str() {
            let _ = response.headers_mut().try_append(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(response)
}

/// An answer, whatever it says.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[cfg(test)]
    pub(super) fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: reqwest::header::HeaderMap::new(), body }
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Result<Answer, Silence> {
    let mut answer = request.send().await.map_err(judge)?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(judge)? {
        if body.len() + part.len() > LONGEST_ANSWER {
            return Err(Silence::Lost("the server's answer is not one of AWS: it is too long"));
        }
        body.extend_from_slice(&part);
    }
    let (status, headers) = (answer.status().as_u16(), std::mem::take(answer.headers_mut()));
    Ok(Answer { status, headers, body })
}

fn judge(error: reqwest::Error) -> Silence {
    if error.is_connect() || error.is_builder() {
        return Silence::Unreached(Unreached::of(&error));
    }
    if error.is_timeout() {
        return Silence::Lost("the server does not answer in time");
    }
    Silence::Lost("the connection broke before the answer came")
}
