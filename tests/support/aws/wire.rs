//! The protocol, JSON over HTTP, and what may become of a request on its way.

use std::io;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rekeyd::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::state::Refusal;
use super::{Call, INMOST, Shared, signature};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is done as ever.
    Pass,
    /// It never arrives: the connection is cut.
    LoseRequest,
    /// It is done, and the connection is cut before the answer.
    LoseReply,
    /// It is done, and no answer comes.
    Silence,
    /// An error of this code, and nothing is done.
    Code(&'static str, u16),
    /// It is done, and the answer is an error of the server.
    DoneAndFailed,
    /// A page of something in between, and nothing is done.
    Html(u16),
    /// It is done, and the answer is longer than any.
    Huge,
    /// Nothing is done, and this is said.
    Said(u16, &'static str),
}

type Answer = Response<Full<Bytes>>;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // It ends with an error where the connection is to be cut.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Mutex<Shared>>) -> Result<Answer, io::Error> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    let headers: Vec<(String, String)> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let target = headers.iter().find(|(name, _)| name == "x-amz-target").map(|(_, value)| value.clone());
    let action = target.unwrap_or_default().trim_start_matches("secretsmanager.").to_owned();
    let call = Call { action, body: serde_json::from_slice(&body).unwrap_or(Value::Null) };

    let (fate, answer) = {
        let mut shared = shared.lock().expect("nothing panics while it holds the service");
        let fate = shared.fates.get_mut(&call.action).and_then(std::collections::VecDeque::pop_front);
        let fate = fate.unwrap_or(Fate::Pass);
        if fate == Fate::LoseRequest {
            return Err(cut());
        }
        shared.calls.push(call.clone());
        let now = SystemClock.now() + shared.ahead;
        let answer = match (fate, signature::fault(parts.method.as_str(), &headers, &body, now)) {
            (_, Some((code, text))) => said(code, 400, &text),
            (Fate::Code(code, status), _) => error(code, status),
            (Fate::Html(status), _) => page(status),
            (Fate::Said(status, text), _) => plain(status, "application/x-amz-json-1.1", text.to_owned()),
            _ if shared.denied.contains(&call.action) => error("AccessDeniedException", 400),
            _ => match shared.account.act(&call.action, &call.body) {
                Ok(value) => json_answer(200, &value),
                Err(Refusal(code)) => error(code, 400),
            },
        };
        (fate, answer)
    };
    match fate {
        Fate::LoseReply => Err(cut()),
        Fate::Silence => std::future::pending::<Result<Answer, io::Error>>().await,
        Fate::DoneAndFailed => Ok(error("InternalServiceError", 500)),
        Fate::Huge => Ok(Response::new(Full::new(vec![b' '; 8 << 20].into()))),
        _ => Ok(answer),
    }
}

fn error(code: &str, status: u16) -> Answer {
    said(code, status, INMOST)
}

fn said(code: &str, status: u16, text: &str) -> Answer {
    json_answer(status, &json!({"__type": code, "message": text}))
}

fn json_answer(status: u16, value: &Value) -> Answer {
    plain(status, "application/x-amz-json-1.1", value.to_string())
}

fn page(status: u16) -> Answer {
    plain(status, "text/html", format!("<html><body>{INMOST}</body></html>"))
}

fn plain(status: u16, kind: &str, text: String) -> Answer {
    let answer = Response::builder().status(status).header("content-type", kind);
    answer.header("x-amzn-requestid", "test").body(Full::new(text.into())).expect("an answer")
}
