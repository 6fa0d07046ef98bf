//! A provider of keys that answers so many requests in any second, and refuses what is beyond.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::{Value, json};

use super::Outcome;

/// Its admin key.
pub(super) const ADMIN: &str = "admin-key-of-the-benchmark";

pub(super) struct Provider {
    pub(super) base: String,
    shared: Arc<Mutex<Shared>>,
}

/// What it saw.
pub(super) struct Seen {
    pub(super) keys: usize,
    pub(super) requests: usize,
    pub(super) refused: usize,
    /// The most that it answered in any second.
    pub(super) most: usize,
    /// From the first request to the last.
    pub(super) span: Duration,
}

struct Shared {
    limit: usize,
    /// By owner: id, name and value.
    keys: BTreeMap<String, Vec<[String; 3]>>,
    made: usize,
    /// When requests of the last second arrived.
    recent: VecDeque<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    requests: usize,
    refused: usize,
    most: usize,
}

impl Provider {
    pub(super) async fn start(limit: u32) -> Outcome<Self> {
        let shared = Arc::new(Mutex::new(Shared {
            limit: limit as usize,
            keys: BTreeMap::new(),
            made: 0,
            recent: VecDeque::new(),
            first: None,
            last: None,
            requests: 0,
            refused: 0,
            most: 0,
        }));
        let routes = Router::new()
            .route("/keys", post(create))
            .route("/keys/{owner}", get(list))
            .route("/keys/{owner}/{id}", delete(revoke))
            .route("/whoami", get(whoami))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { base, shared })
    }

    pub(super) fn seen(&self) -> Seen {
        let shared = locked(&self.shared);
        let span = shared.last.zip(shared.first).map(|(last, first)| last - first);
        Seen {
            keys: shared.keys.values().map(Vec::len).sum(),
            requests: shared.requests,
            refused: shared.refused,
            most: shared.most,
            span: span.unwrap_or_default(),
        }
    }
}

type Of = State<Arc<Mutex<Shared>>>;

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether a request that has just arrived is within the limit.
    fn arrives(&mut self) -> Result<(), StatusCode> {
        let now = Instant::now();
        while self.recent.front().is_some_and(|at| now - *at >= Duration::from_secs(1)) {
            self.recent.pop_front();
        }
        self.requests += 1;
        self.first.get_or_insert(now);
        self.last = Some(now);
        if self.recent.len() >= self.limit {
            self.refused += 1;
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        self.recent.push_back(now);
        self.most = self.most.max(self.recent.len());
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> &str {
    let header = headers.get("authorization").and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

fn admin(headers: &HeaderMap) -> Result<(), StatusCode> {
    if bearer(headers) == ADMIN { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
}

fn json(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

async fn create(State(shared): Of, headers: HeaderMap, body: String) -> Result<Response, StatusCode> {
    let mut shared = locked(&shared);
    shared.arrives()?;
    admin(&headers)?;
    let body: Value = serde_json::from_str(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let [owner, name] = ["owner", "name"].map(|field| body[field].as_str().unwrap_or_default().to_owned());
    shared.made += 1;
    let (id, value) = (format!("key-{}", shared.made), format!("value-of-key-{}", shared.made));
    let told = json(&json!({"id": id, "value": value}));
    shared.keys.entry(owner).or_default().push([id, name, value]);
    Ok(told)
}

async fn list(
    State(shared): Of,
    headers: HeaderMap,
    Path(owner): Path<String>,
) -> Result<Response, StatusCode> {
    let mut shared = locked(&shared);
    shared.arrives()?;
    admin(&headers)?;
    let keys = shared.keys.get(&owner).into_iter().flatten();
    let told: Vec<Value> = keys.map(|[id, name, _]| json!({"id": id, "name": name})).collect();
    Ok(json(&told.into()))
}

async fn whoami(State(shared): Of, headers: HeaderMap) -> Result<Response, StatusCode> {
    let mut shared = locked(&shared);
    shared.arrives()?;
    let known = shared.keys.values().flatten().any(|[_, _, value]| value == bearer(&headers));
    if known { Ok(json(&json!({}))) } else { Err(StatusCode::UNAUTHORIZED) }
}

async fn revoke(
    State(shared): Of,
    headers: HeaderMap,
    Path((owner, id)): Path<(String, String)>,
) -> Result<StatusCode, StatusCode> {
    let mut shared = locked(&shared);
    shared.arrives()?;
    admin(&headers)?;
    let keys = shared.keys.entry(owner).or_default();
    let before = keys.len();
    keys.retain(|[known, ..]| *known != id);
    if keys.len() < before { Ok(StatusCode::NO_CONTENT) } else { Err(StatusCode::NOT_FOUND) }
}
