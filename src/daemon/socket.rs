//! The Unix socket between the command line and the daemon: HTTP, with one JSON object a line for what
//! happens while a rotation runs. Mode 0600, and the peer must be the daemon's own user or root.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Query, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::lock_path;
use super::scheduler::Nudge;
use crate::failure::{Failure, FailureClass, IoReason};
use crate::ident::PolicyName;
use crate::rotation::event::Event;
use crate::service::{Ending, Request, Service};
use crate::status::Status;

/// One line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    Event(Event),
    Ending(Ending),
}

/// How often a daemon that starts looks again whether the one before it is gone, and how long it waits each time.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Held by the one daemon of a socket.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    pub(super) fn take(socket: &Path) -> Result<Self, Failure> {
        let path = lock_path(socket);
        let doing = || format!("start on socket {}", socket.display());
        let io = |error: &std::io::Error| {
            Failure::new(FailureClass::Invalid, doing(), IoReason(error.kind()))
                .with_remedy("create the socket's folder and let rekeyd write there")
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io(&e))?;
        let mut tries = 0;
        let locked = loop {
            match file.try_lock() {
                // A child that a killed daemon had just begun to start has the lock until it is another program.
                Err(fs::TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    std::thread::park_timeout(PAUSE);
                }
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Failure::new(FailureClass::Invalid, doing(), "another daemon runs on it")
                    .with_remedy("stop it first, or give this one its own `socket` in the settings"))
            }
            Err(fs::TryLockError::Error(error)) => Err(io(&error)),
        }
    }
}

/// Serves until stopped. The lock of the socket is held by the caller.
pub(super) fn serve(
    path: &Path,
    service: Arc<Service>,
    nudge: mpsc::UnboundedSender<Nudge>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, Failure> {
    let listener = listen(path)?;
    let router = Router::new()
        .route("/v1/perform", post(perform))
        .route("/v1/status", get(status))
        .route("/v1/attend", post(attend))
        .layer(middleware::from_fn(allow_owner))
        .with_state((service, nudge));
    let path = path.to_owned();
    Ok(tokio::spawn(async move {
        let server = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>());
        if let Err(error) = server.with_graceful_shutdown(async move { stop.cancelled().await }).await {
            tracing::error!(reason = %error.kind(), "serving the socket failed");
        }
        let _ = fs::remove_file(path);
    }))
}

fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let io = |error: std::io::Error| {
        Failure::new(
            FailureClass::Invalid,
            format!("listen on socket {}", path.display()),
            IoReason(error.kind()),
        )
        .with_remedy("name a path in a folder that only rekeyd can write to")
    };
    // One that is still there belongs to a daemon that died: the lock is ours.
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path).map_err(io)?,
        Ok(_) => return Err(io(ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    // Bound under a name nobody knows, and moved when its permissions are set: it is never open to others.
    let hidden = path.with_extension("new");
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(io)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).map_err(io)?;
    fs::rename(&hidden, path).map_err(io)?;
    Ok(listener)
}

/// Who is on the other end.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

async fn allow_owner(ConnectInfo(peer): ConnectInfo<Peer>, request: HttpRequest, next: Next) -> Response {
    let own = rustix::process::geteuid().as_raw();
    match peer.uid {
        Some(uid) if uid == own || uid == 0 => next.run(request).await,
        _ => {
            tracing::warn!(uid = peer.uid, "refused a peer on the socket");
            StatusCode::FORBIDDEN.into_response()
        }
    }
}

type Shared = (Arc<Service>, mpsc::UnboundedSender<Nudge>);

async fn perform(
    State((service, nudge)): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<Request>,
) -> Response {
    let (events, mut happening) = mpsc::unbounded_channel();
    let (lines, mut outgoing) = mpsc::unbounded_channel::<Line>();
    // A caller that goes away does not stop what it asked for.
    tokio::spawn(async move {
        let requested_by = peer.uid.map_or_else(|| "unknown".into(), |uid| format!("uid {uid}"));
        let mut work = std::pin::pin!(service.perform(&request, &requested_by, events));
        let ending = loop {
            tokio::select! {
                biased;
                Some(event) = happening.recv() => { let _ = lines.send(Line::Event(event)); }
                ending = &mut work => break ending,
            }
        };
        while let Ok(event) = happening.try_recv() {
            let _ = lines.send(Line::Event(event));
        }
        let _ = lines.send(Line::Ending(ending));
        let _ = nudge.send(Nudge::Policy(request.policy.clone()));
    });
    let stream = futures_util::stream::poll_fn(move |context| {
        outgoing
            .poll_recv(context)
            .map(|line| line.map(|line| Ok::<_, std::convert::Infallible>(wire(&line))))
    });
    Response::new(Body::from_stream(stream))
}

fn wire(line: &Line) -> Bytes {
    let mut bytes = serde_json::to_vec(line).expect("a line has only string keys");
    bytes.push(b'\n');
    bytes.into()
}

/// Has a policy looked at: another process changed what its store holds.
async fn attend(State((_, nudge)): State<Shared>, Query(only): Query<Only>) -> StatusCode {
    let nudged = only.policy.map_or(Nudge::PoliciesChanged, Nudge::Policy);
    let _ = nudge.send(nudged);
    StatusCode::ACCEPTED
}

#[derive(Deserialize)]
struct Only {
    policy: Option<PolicyName>,
}

async fn status(State((service, _)): State<Shared>, Query(only): Query<Only>) -> Response {
    match service.status(only.policy.as_ref()).await {
        Ok(statuses) => Json(statuses).into_response(),
        Err(failure) => (StatusCode::NOT_FOUND, Json(Ending::failed(&failure))).into_response(),
    }
}

/// The command line's end of the socket.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects; `None` when no daemon listens there.
    ///
    /// # Errors
    /// When there is one and it may not be spoken to.
    pub async fn connect(path: &Path) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(Failure::new(
                FailureClass::Denied,
                format!("reach the daemon at {}", path.display()),
                error.kind(),
            )
            .with_remedy("run as the daemon's user")),
        }
    }

    /// Has the daemon do something, and tells what happens meanwhile.
    ///
    /// # Errors
    /// When the daemon goes away. What was asked for may go on.
    pub async fn perform(self, request: &Request, mut tell: impl FnMut(&Event)) -> Result<Ending, Failure> {
        let body = serde_json::to_vec(request).expect("a request has only string keys");
        let mut body = self.send("POST", "/v1/perform", body).await?;
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { break };
            pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Line::Event(event)) => tell(&event),
                    Ok(Line::Ending(ending)) => return Ok(ending),
                    Err(_) => return Err(gone("it answered something else")),
                }
            }
        }
        Err(gone("it went away").with_remedy("what was asked for may go on: see `rekeyd status`"))
    }

    /// Where policies stand.
    ///
    /// # Errors
    /// When the daemon goes away, or the policy does not exist.
    pub async fn status(self, only: Option<&PolicyName>) -> Result<Vec<Status>, Failure> {
        let path = only.map_or_else(|| "/v1/status".into(), |policy| format!("/v1/status?policy={policy}"));
        let body = self.send("GET", &path, Vec::new()).await?;
        let bytes = body.collect().await.map_err(|_| gone("it went away"))?.to_bytes();
        if let Ok(statuses) = serde_json::from_slice(&bytes) {
            return Ok(statuses);
        }
        let ending: Ending =
            serde_json::from_slice(&bytes).map_err(|_| gone("it answered something else"))?;
        let failure = Failure::new(FailureClass::Invalid, "read the status", ending.message);
        Err(match ending.remedy {
            Some(remedy) => failure.with_remedy(remedy),
            None => failure,
        })
    }

    /// Has a policy looked at: this process changed what its store holds.
    ///
    /// # Errors
    /// When the daemon goes away.
    pub async fn attend(self, policy: &PolicyName) -> Result<(), Failure> {
        self.send("POST", &format!("/v1/attend?policy={policy}"), Vec::new()).await.map(drop)
    }

    async fn send(self, method: &str, path: &str, body: Vec<u8>) -> Result<hyper::body::Incoming, Failure> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream))
            .await
            .map_err(|_| gone("it went away"))?;
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "rekeyd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("the parts of a request are valid");
        let response = sender.send_request(request).await.map_err(|_| gone("it went away"))?;
        if response.status() == StatusCode::FORBIDDEN {
            return Err(Failure::new(
                FailureClass::Denied,
                "reach the daemon",
                "it does not take orders from this user",
            )
            .with_remedy("run as the daemon's user or as root"));
        }
        Ok(response.into_body())
    }
}

fn gone(reason: &str) -> Failure {
    Failure::new(FailureClass::Unavailable, "speak to the daemon", reason)
}
