//! How requests reach the server: address, certificates, deadlines, and how much of an answer is read.
//!
//! The HTTP client is made here and not by the driver, because the driver's follows redirects, and so
//! would carry the token and the value to whatever place an answer names, reads the environment for
//! proxies and for a switch that turns certificate checks off, and trusts the system's authorities
//! besides the ones that are given. It reads an answer to its end, too, however long that is: so its requests are
//! sent here.

use std::net::IpAddr;

use async_trait::async_trait;
use reqwest::Url;
use reqwest::header::HeaderValue;
use rustify::endpoint::{Endpoint, EndpointResult};
use rustify::errors::ClientError as WireError;
use serde::Deserialize;
use serde::de::IgnoredAny;
use vaultrs::api::{AuthInfo, EndpointError, EndpointMiddleware, EndpointResult as Envelope};
use vaultrs::error::ClientError;
use zeroize::Zeroize as _;

use crate::failure::{Failure, FailureClass};
use crate::reach::trust;
use crate::settings::VaultSettings;

/// The longest answer that is read, in bytes: as long as the longest request that a server takes, and the accessors
/// of a million tokens.
pub(crate) const MOST_BYTES: usize = 32 << 20;

/// Where the server is and how it is reached. Holds no token.
pub(crate) struct Transport {
    namespace: Option<String>,
    wire: Wire,
}

impl Transport {
    /// # Errors
    /// `Invalid` when the address, the namespace or the file of authorities is wrong.
    pub(crate) fn new(settings: &VaultSettings) -> Result<Self, Failure> {
        let invalid = |reason: String| {
            Failure::new(FailureClass::Invalid, format!("use the store at {}", settings.address), reason)
        };
        let address = parse_address(&settings.address).map_err(|reason| invalid(reason.into()))?;
        if let Some(namespace) = &settings.namespace
            && (namespace.is_empty() || HeaderValue::from_str(namespace).is_err())
        {
            return Err(invalid("the namespace is not a name".into()));
        }
        let timeout = settings.timeout.as_duration();
        if timeout.is_zero() {
            return Err(invalid("a time-out of zero lets nothing pass".into()));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(
                trust(address.scheme() == "https", settings.ca_file.as_deref()).map_err(invalid)?,
            )
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            // Shorter than the whole, so that a server that cannot be reached is told from one that has
            // the request and does not answer.
            .connect_timeout(timeout / 2)
            .build()
            .map_err(|_| invalid("the HTTP client cannot be made".into()))?;
        let base = address.as_str().trim_end_matches('/').to_owned();
        Ok(Self { namespace: settings.namespace.clone(), wire: Wire { base, http } })
    }

    /// A client that sends the token with every request; none when it is empty.
    pub(crate) fn client(&self, token: &str) -> TokenClient {
        let middle = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".into(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        TokenClient { middle, wire: self.wire.clone() }
    }
}

/// A client with a token, which is wiped when the client is dropped. Never printed: the driver's own
/// `Debug` shows the token.
pub(crate) struct TokenClient {
    middle: EndpointMiddleware,
    wire: Wire,
}

impl TokenClient {
    /// Makes a call. What comes back is not read yet.
    pub(crate) async fn call<E: Endpoint>(
        &self,
        request: E,
    ) -> Result<EndpointResult<E::Response>, ClientError> {
        request.with_middleware(&self.middle).exec(&self.wire).await.map_err(told)
    }

    /// Makes a call and takes its result.
    pub(crate) async fn fetch<E: Endpoint>(&self, request: E) -> Result<E::Response, ClientError> {
        let answer: Envelope<E::Response> = self.call(request).await?.wrap()?;
        answer.data.ok_or(ClientError::ResponseDataEmptyError)
    }

    /// Makes a call whose result is a token.
    pub(crate) async fn token<E: Endpoint<Response = ()>>(
        &self,
        request: E,
    ) -> Result<AuthInfo, ClientError> {
        let answer: Envelope<()> = self.call(request).await?.wrap()?;
        answer.auth.ok_or(ClientError::ResponseEmptyError)
    }

    /// Makes a call that has no result: an answer without content, or whatever the server has to say besides. A page
    /// of something in between is neither.
    pub(crate) async fn send<E: Endpoint>(&self, request: E) -> Result<(), ClientError> {
        #[derive(Deserialize)]
        struct Object {
            #[serde(flatten)]
            _parts: std::collections::HashMap<String, IgnoredAny>,
        }
        let answer = self.call(request).await?.response;
        let is_done = answer.status() == http::StatusCode::NO_CONTENT
            || serde_json::from_slice::<Object>(answer.body()).is_ok();
        if is_done { Ok(()) } else { Err(ClientError::ResponseEmptyError) }
    }

    pub(crate) fn has_token(&self, token: &str) -> bool {
        self.middle.token == token
    }

    pub(crate) fn same_token(&self, other: &Self) -> bool {
        self.has_token(&other.middle.token)
    }
}

impl Drop for TokenClient {
    fn drop(&mut self) {
        self.middle.token.zeroize();
    }
}

/// What the server itself says is told from the words of whatever stands before it.
fn told(error: WireError) -> ClientError {
    if let WireError::ServerResponseError { code, content: Some(content) } = &error
        && let Ok(EndpointError { errors }) = serde_json::from_str(content)
    {
        return ClientError::APIError { code: *code, errors };
    }
    error.into()
}

/// Sends requests, and reads no answer that is too long.
#[derive(Clone)]
struct Wire {
    base: String,
    http: reqwest::Client,
}

/// The answer goes on and on.
#[derive(Debug, thiserror::Error)]
#[error("the answer is too long")]
pub(super) struct TooLong;

#[async_trait]
impl rustify::client::Client for Wire {
    fn base(&self) -> &str {
        &self.base
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, WireError> {
        let request =
            reqwest::Request::try_from(request).map_err(|source| WireError::ReqwestBuildError { source })?;
        let broken = |error: reqwest::Error| WireError::ResponseError { source: error.into() };
        let mut response = self.http.execute(request).await.map_err(broken)?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(broken)? {
            if body.len() + part.len() > MOST_BYTES {
                return Err(WireError::ResponseError { source: TooLong.into() });
            }
            body.extend_from_slice(&part);
        }
        let mut answer = http::Response::new(body);
        *answer.status_mut() = response.status();
        Ok(answer)
    }
}

fn parse_address(text: &str) -> Result<Url, &'static str> {
    let address = Url::parse(text).map_err(|_| "the address is not a URL")?;
    let host = address.host_str().unwrap_or_default();
    let number: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    let loopback = host == "localhost" || number.is_ok_and(|number| number.is_loopback());
    match address.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => return Err("plain http would show every value to the network: use https"),
        _ => return Err("the address must begin with https"),
    }
    if !address.username().is_empty() || address.password().is_some() {
        return Err("the address must not hold a name or a password");
    }
    if address.path() != "/" || address.query().is_some() || address.fragment().is_some() {
        return Err("the address must be that of the server alone, without a path");
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_be_sent_in_the_clear() {
        for good in [
            "https://bao.example.com:8200",
            "https://bao.example.com/",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://localhost:8200",
        ] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://bao.example.com:8200",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1:8200",
            "http://localhost.example.com",
            "ftp://bao.example.com",
            "unix:///run/bao.sock",
            "bao.example.com:8200",
            "https://user:password@bao.example.com",
            "https://bao.example.com/v1",
            "https://bao.example.com/?x",
            "",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
