//! Requests over HTTP to a system that a login is handed to, and what it means that no answer came.
//!
//! Neither a redirect nor the environment's proxies get to see a login, an answer has a size, and a call has an end.
//! The bodies of requests pass through buffers of the HTTP client, which does not wipe them; nothing of an answer's
//! text is passed on but what an adapter reads from it.

pub(crate) mod caller;
pub mod outbound;
pub mod pace;
pub(crate) mod page;

use std::error::Error as _;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
pub(crate) use reqwest::header;
pub(crate) use reqwest::header::HeaderMap;
pub(crate) use reqwest::{Method, RequestBuilder, StatusCode, Url};
use zeroize::Zeroizing;

use self::outbound::{Barred, Guard, Outbound};
use crate::failure::{Failure, FailureClass};
use crate::policy::spec::TlsSpec;
use crate::secret::Credential;
use crate::tls;

/// A client for one system, as long as one call lasts.
pub(crate) struct Http {
    client: Client,
    base: Url,
    most_bytes: usize,
    /// Where requests may go, if not everywhere.
    outbound: Option<Outbound>,
}

/// How long the parts of a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Reaching the server, its TLS included.
    pub connect: Duration,
    /// One request, to the last byte of its answer.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(15) }
    }
}

/// An answer, whatever it says.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Whether a request could have changed something when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Reading,
    Writing,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nothing was sent.
    Unreached {
        in_time: bool,
    },
    /// Nothing was sent: whoever is there cannot show who it is.
    Untrusted {
        reason: String,
        remedy: &'static str,
    },
    /// Nothing was sent: whoever is there ended the connection before it was agreed how it is protected.
    Hung,
    /// Nothing was sent: that is no place for requests of this kind.
    Barred(Barred),
    Late,
    Cut,
    TooLarge(usize),
}

impl Http {
    /// The authorities' file is read each time, so that a renewed one is used without a restart.
    ///
    /// # Errors
    /// When they cannot be read, as a reason in words.
    pub(crate) async fn new(
        base: Url,
        tls: &TlsSpec,
        deadlines: Deadlines,
        most_bytes: usize,
    ) -> Result<Self, String> {
        Self::with(base, tls, deadlines, most_bytes, None).await
    }

    /// A client that reaches only where requests may go.
    pub(crate) async fn guarded(
        base: Url,
        tls: &TlsSpec,
        deadlines: Deadlines,
        most_bytes: usize,
        outbound: Outbound,
    ) -> Result<Self, String> {
        Self::with(base, tls, deadlines, most_bytes, Some(outbound)).await
    }

    async fn with(
        base: Url,
        tls: &TlsSpec,
        deadlines: Deadlines,
        most_bytes: usize,
        outbound: Option<Outbound>,
    ) -> Result<Self, String> {
        let config = tls::client_config(tls).await?.unwrap_or_else(tls::closed);
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .timeout(deadlines.request)
            .connect_timeout(deadlines.connect)
            .user_agent(concat!("rekeyd/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(config);
        if let Some(outbound) = &outbound {
            builder = builder.dns_resolver(Arc::new(Guard::new(outbound.clone())));
        }
        let client = builder.build().map_err(|_| "the HTTP client cannot be made".to_owned())?;
        Ok(Self { client, base, most_bytes, outbound })
    }

    /// A request to an address of its own.
    pub(crate) fn request_to(&self, method: Method, url: Url) -> Result<RequestBuilder, Lost> {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        // Names are looked at when they are resolved; an address is never.
        if let (Some(outbound), Ok(literal)) = (&self.outbound, host.parse()) {
            outbound.check(host, literal).map_err(Lost::Barred)?;
        }
        Ok(self.client.request(method, url))
    }

    /// A request below the base, with a login: each part of the path is one, whatever characters it holds.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &str,
        login: &Credential,
    ) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let value = Zeroizing::new(String::from_utf8_lossy(login.value.expose()).into_owned());
        self.client.request(method, url).basic_auth(login.principal.as_str(), Some(&*value))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, Lost> {
        let mut response = request.send().await.map_err(|error| Lost::of(&error))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut body = Zeroizing::new(Vec::new());
        while let Some(part) = response.chunk().await.map_err(|error| Lost::of(&error))? {
            if body.len() + part.len() > self.most_bytes {
                return Err(Lost::TooLarge(self.most_bytes));
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, headers, body })
    }
}

impl Lost {
    fn of(error: &reqwest::Error) -> Self {
        let mut next = error.source();
        while let Some(cause) = next {
            if let Some(barred) = cause.downcast_ref::<Barred>() {
                return Self::Barred(*barred);
            }
            next = cause.source();
        }
        if !error.is_connect() {
            return if error.is_timeout() { Self::Late } else { Self::Cut };
        }
        let mut next = error.source();
        while let Some(cause) = next {
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                let (reason, remedy) = tls::explain(error);
                return Self::Untrusted { reason, remedy };
            }
            // An error inside one of the system's, as which the TLS library's comes, is not its source.
            let io: Option<&std::io::Error> = cause.downcast_ref();
            if io.is_some_and(|io| matches!(io.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset))
            {
                return Self::Hung;
            }
            next = match io.and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => cause.source(),
            };
        }
        Self::Unreached { in_time: !error.is_timeout() }
    }

    /// `remedy` is for a system that cannot be reached.
    pub(crate) fn into_failure(self, stage: Stage, doing: &str, remedy: &'static str) -> Failure {
        let (reason, class) = match self {
            Self::Untrusted { reason, remedy } => {
                return Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy);
            }
            Self::Unreached { in_time } => {
                let reason = if in_time { "it cannot be reached" } else { "it cannot be reached in time" };
                return Failure::new(FailureClass::Unavailable, doing, reason).with_remedy(remedy);
            }
            Self::Hung => {
                let reason = "the connection was cut in the TLS handshake";
                return Failure::new(FailureClass::Unavailable, doing, reason)
                    .with_remedy("check that the server speaks TLS at that port, and what is between");
            }
            Self::Barred(barred) => {
                return Failure::new(FailureClass::Denied, doing, barred).with_remedy(
                    "if that is meant, name the host under `outbound.privateHosts` in the settings",
                );
            }
            Self::Late => ("no answer within the deadline".to_owned(), FailureClass::Unavailable),
            Self::Cut => ("the connection was lost".to_owned(), FailureClass::Unavailable),
            Self::TooLarge(most) => {
                // Whoever sent it, it says nothing of what was asked.
                (format!("the answer is larger than {most} bytes"), FailureClass::Unavailable)
            }
        };
        match stage {
            Stage::Reading => Failure::new(class, doing, reason),
            Stage::Writing => Failure::new(
                FailureClass::Ambiguous,
                doing,
                format!("{reason}; the change may have taken effect"),
            ),
        }
    }
}
