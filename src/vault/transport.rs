//! How requests reach the server: address, certificates, deadlines.
//!
//! The HTTP client is made here and not by the driver, because the driver's follows redirects, and so
//! would carry the token and the value to whatever place an answer names, reads the environment for
//! proxies and for a switch that turns certificate checks off, and trusts the system's authorities
//! besides the ones that are given.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderValue;
use vaultrs::api::EndpointMiddleware;
use vaultrs::client::{Client, VaultClient, VaultClientSettings};
use zeroize::Zeroize as _;

use crate::failure::{Failure, FailureClass};
use crate::reach::trust;
use crate::settings::VaultSettings;

/// Where the server is and how it is reached. Holds no token.
pub(crate) struct Transport {
    address: Url,
    namespace: Option<String>,
    http: reqwest::Client,
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
        Ok(Self { address, namespace: settings.namespace.clone(), http })
    }

    /// A client that sends the token with every request; none when it is empty.
    pub(crate) fn client(&self, token: &str) -> TokenClient {
        let middle = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".into(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let base = self.address.as_str().trim_end_matches('/');
        // The driver reads only `http` and `middle`; these are what the environment could otherwise set.
        let settings = VaultClientSettings {
            address: self.address.clone(),
            ca_certs: Vec::new(),
            identity: None,
            timeout: None,
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: self.namespace.clone(),
            proxy: None,
        };
        let http = rustify::clients::reqwest::Client::new(base, self.http.clone());
        TokenClient(VaultClient { http, middle, settings })
    }
}

/// A client with a token, which is wiped when the client is dropped. Never printed: the driver's own
/// `Debug` shows the token.
pub(crate) struct TokenClient(VaultClient);

impl TokenClient {
    pub(crate) fn driver(&self) -> &impl Client {
        &self.0
    }

    pub(crate) fn has_token(&self, token: &str) -> bool {
        self.0.middle.token == token
    }

    pub(crate) fn same_token(&self, other: &Self) -> bool {
        self.has_token(&other.0.middle.token)
    }
}

impl Drop for TokenClient {
    fn drop(&mut self) {
        self.0.middle.token.zeroize();
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
