//! Requests and answers on their way.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Fate, INMOST, NOON, Shared};

/// A request, whole.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Its parts, unescaped.
    pub(crate) path: Vec<String>,
    pub(crate) query: BTreeMap<String, String>,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// What a `match` looks at.
    pub(crate) fn asked(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.iter().map(String::as_str).collect())
    }

    /// A body in JSON; null for any other.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A body in the form of HTML forms.
    pub(crate) fn form(&self) -> BTreeMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn bearer(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").unwrap_or_default()
    }

    /// The name and the password of HTTP's own login.
    pub(crate) fn basic(&self) -> (String, String) {
        let encoded = self.header("authorization").strip_prefix("Basic ").unwrap_or_default();
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap_or_default()).unwrap_or_default();
        text.split_once(':').map_or_else(Default::default, |(user, password)| (user.into(), password.into()))
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        Self { status, body, headers: Vec::new() }
    }

    /// Without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, Value::Null)
    }

    /// What no provider documents.
    pub(crate) fn nothing_there() -> Self {
        Self::new(404, json!({"message": INMOST}))
    }
}

pub(super) async fn serve(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        if shared.lock().expect("nothing panics while it holds the provider").away {
            continue;
        }
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // It ends with an error where the connection is to be cut.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: hyper::Request<Incoming>, shared: Arc<Mutex<Shared>>) -> Result<Answer, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    let part = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned())
    };
    let query = parts.uri.query().unwrap_or_default();
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().trim_start_matches('/').split('/').map(part).collect(),
        query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: parts.headers.iter().map(header).collect(),
        body: body.to_vec(),
    };
    let turns = shared.lock().expect("nothing panics while it holds the provider").turns.clone();
    if let Some(turns) = turns {
        turns.arrive(parts.uri.path()).await;
    }
    let (fate, reply) = {
        let mut shared = shared.lock().expect("nothing panics while it holds the provider");
        if shared.away {
            return Err(cut());
        }
        let is_meant = |(method, part, _): &(String, String, Option<Fate>)| {
            (method.is_empty() || *method == request.method) && parts.uri.path().contains(part.as_str())
        };
        let at = shared.fates.iter().position(is_meant);
        let fate = at.and_then(|at| shared.fates.remove(at)).and_then(|(.., fate)| fate);
        if fate == Some(Fate::LoseRequest) {
            return Err(cut());
        }
        shared.requests.push(format!("{} {}", request.method, parts.uri.path()));
        let undone =
            !matches!(fate, None | Some(Fate::LoseReply | Fate::DoneAndHtml | Fate::Huge | Fate::Silence));
        let Shared { provider, keys, .. } = &mut *shared;
        (fate, (!undone).then(|| provider.answer(keys, &request)))
    };
    let page = |status: u16| plain(status, "text/html", format!("<html><body>{INMOST}</body></html>"), &[]);
    match (fate, reply) {
        (Some(Fate::LoseReply), _) => Err(cut()),
        (Some(Fate::Silence), _) => std::future::pending().await,
        (Some(Fate::Huge), _) => {
            Ok(plain(200, "application/json", format!("\"{}\"", "x".repeat(8 << 20)), &[]))
        }
        (Some(Fate::Html(status)), _) => Ok(page(status)),
        (Some(Fate::DoneAndHtml), _) => Ok(page(200)),
        (Some(Fate::Fails(status)), _) => {
            Ok(plain(status, "application/json", json!({"message": INMOST}).to_string(), &[]))
        }
        (Some(Fate::Says(status, body)), _) => Ok(plain(status, "application/json", body.into(), &[])),
        (Some(Fate::Ignored), _) => Ok(plain(200, "application/json", "{}".into(), &[])),
        (Some(Fate::Throttled), _) => {
            let said = json!({"message": "You have exceeded a secondary rate limit."});
            Ok(plain(403, "application/json", said.to_string(), &[("retry-after", "0".to_owned())]))
        }
        (Some(Fate::Limited(status)), _) => {
            let said =
                json!({"message": "You have exceeded a secondary rate limit. Please wait a few minutes."});
            Ok(plain(status, "application/json", said.to_string(), &[]))
        }
        (Some(Fate::TooMany), _) => {
            let headers = [("retry-after", "0".to_owned())];
            Ok(plain(429, "application/json", json!({"message": INMOST}).to_string(), &headers))
        }
        (Some(Fate::Later(status, after)), _) => {
            let headers = [("retry-after", after.to_owned()), ("date", NOON.to_owned())];
            Ok(plain(status, "application/json", json!({"message": INMOST}).to_string(), &headers))
        }
        (Some(Fate::UsedUp(status, reset)), _) => {
            let said = json!({"message": "API rate limit exceeded for installation ID 1."});
            let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset), ("date", NOON)];
            let headers = headers.map(|(name, text)| (name, text.to_owned()));
            Ok(plain(status, "application/json", said.to_string(), &headers))
        }
        (Some(Fate::Elsewhere), _) => {
            Ok(plain(302, "text/plain", INMOST.into(), &[("location", "http://127.0.0.1:9/".to_owned())]))
        }
        (_, Some(Reply { status, body, headers })) => {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            Ok(plain(status, "application/json", text, &headers))
        }
        (_, None) => Err(cut()),
    }
}

fn plain(status: u16, kind: &str, text: String, headers: &[(&'static str, String)]) -> Answer {
    let mut answer = Response::builder().status(status).header("content-type", kind);
    for (name, value) in headers {
        answer = answer.header(*name, value);
    }
    answer.body(Full::new(text.into())).expect("an answer")
}
