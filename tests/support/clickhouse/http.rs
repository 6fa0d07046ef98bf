//! The HTTP interface, as far as it is used, and a client of it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rekeyd::secret::Credential;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::statements::{Reply, answer};
use super::{Fault, HELD, PATIENCE, Query, State};

/// A request as it came.
struct Request {
    line: String,
    user: String,
    password: Vec<u8>,
    agent: String,
    statement: String,
}

/// Takes the fault from the list that is for this request.
fn fault_of(state: &State, statement: &str) -> Option<Fault> {
    let mut tables = state.tables();
    let reads = ["SELECT", "SHOW", "CHECK"].iter().any(|word| statement.starts_with(word));
    match &mut tables.nth {
        Some((0, fault)) if !reads => {
            let fault = *fault;
            tables.nth = None;
            return Some(fault);
        }
        Some((left, _)) if !reads => *left -= 1,
        _ => {}
    }
    let index = tables.faults.iter().position(|(text, _)| text != HELD && statement.contains(text))?;
    tables.faults.remove(index).map(|(_, fault)| fault)
}

pub(super) async fn serve(state: &Arc<State>, mut stream: TcpStream) -> io::Result<()> {
    let mut rest = Vec::new();
    while let Some(request) = read(&mut stream, &mut rest).await? {
        state.tables().seen.push(format!("{}\n{}", request.line, request.statement));
        let fault = fault_of(state, &request.statement);
        match fault {
            Some(Fault::LoseRequest) => return Ok(()),
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::Error(code)) => {
                write(
                    &mut stream,
                    500,
                    &format!("X-ClickHouse-Exception-Code: {code}\r\n"),
                    "Code: DB::Exception",
                )
                .await?;
                continue;
            }
            Some(Fault::Page(status)) => {
                write(&mut stream, status, "Content-Type: text/html\r\n", "<html>Welcome</html>").await?;
                continue;
            }
            Some(Fault::Huge) => {
                let head =
                    "HTTP/1.1 200 OK\r\nX-ClickHouse-Query-Id: 1\r\nConnection: close\r\n\r\n{\"data\":[[\"";
                stream.write_all(head.as_bytes()).await?;
                let part = vec![b'x'; 1 << 20];
                for _ in 0..64 {
                    stream.write_all(&part).await?;
                }
                return Ok(());
            }
            Some(Fault::Hold) => {
                state.tables().faults.push_back((HELD.to_owned(), Fault::Hold));
                state.changed.notify_waiters();
                state.until(|tables| !tables.faults.iter().any(|(text, _)| text == HELD)).await;
            }
            Some(Fault::LoseReply) | None => {}
        }
        let is_in = state.tables().lets_in(&request.user, &request.password);
        let reply = if !is_in {
            Reply::Error(516)
        } else if request.statement.starts_with("SELECT sleep") {
            run(state, &mut stream, &request).await
        } else {
            let reply = answer(&mut state.tables(), &request.user, &request.statement);
            // Who waits for a query to end looks again.
            state.changed.notify_waiters();
            reply
        };
        if fault == Some(Fault::LoseReply) {
            return Ok(());
        }
        match reply {
            Reply::Rows(rows) => {
                let body = serde_json::json!({ "meta": [], "data": rows }).to_string();
                write(&mut stream, 200, "X-ClickHouse-Query-Id: 1\r\n", &body).await?;
            }
            Reply::Done => write(&mut stream, 200, "X-ClickHouse-Query-Id: 1\r\n", "").await?,
            Reply::Error(code) => {
                let status = if matches!(code, 497 | 516) { 403 } else { 500 };
                // As the real one does, with the statement.
                let body = format!("Code: {code}. DB::Exception: {}", request.statement);
                let header = format!("X-ClickHouse-Query-Id: 1\r\nX-ClickHouse-Exception-Code: {code}\r\n");
                write(&mut stream, status, &header, &body).await?;
            }
        }
    }
    Ok(())
}

/// A query that goes on until it is killed or its client is gone.
async fn run(state: &Arc<State>, stream: &mut TcpStream, request: &Request) -> Reply {
    let id = {
        let mut tables = state.tables();
        let id = tables.id();
        let (user, agent) = (request.user.clone(), request.agent.clone());
        tables.queries.insert(id, Query { user, agent, since: Instant::now() });
        id
    };
    state.changed.notify_waiters();
    // It tells that it runs, as a query does that sends its first rows.
    let began = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    let mut byte = [0];
    tokio::select! {
        () = state.until(|tables| !tables.queries.contains_key(&id)) => {}
        _ = stream.read(&mut byte) => {}
    }
    state.tables().queries.remove(&id);
    drop(began);
    Reply::Error(394)
}

async fn read(stream: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let head = loop {
        if let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
            let tail = rest.split_off(end + 4);
            let head = std::mem::replace(rest, tail);
            break String::from_utf8_lossy(&head).into_owned();
        }
        if stream.read_buf(rest).await? == 0 {
            return Ok(None);
        }
    };
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (is, value) = line.split_once(':')?;
            is.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while rest.len() < length {
        if stream.read_buf(rest).await? == 0 {
            return Ok(None);
        }
    }
    let tail = rest.split_off(length);
    let body = std::mem::replace(rest, tail);
    let login = header("authorization").unwrap_or_default();
    let login = STANDARD.decode(login.trim_start_matches("Basic ")).unwrap_or_default();
    let colon = login.iter().position(|byte| *byte == b':').unwrap_or(login.len());
    let (user, password) = login.split_at(colon);
    Ok(Some(Request {
        line: head.lines().next().unwrap_or_default().to_owned(),
        user: String::from_utf8_lossy(user).into_owned(),
        password: password.get(1..).unwrap_or_default().to_vec(),
        agent: header("user-agent").unwrap_or_default(),
        statement: String::from_utf8_lossy(&body).into_owned(),
    }))
}

async fn write(stream: &mut TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    let answer = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await
}

/// An application with a query that does not end by itself.
pub(crate) struct Client {
    stream: TcpStream,
    left: bool,
}

impl Client {
    /// `None` when it is refused.
    pub(crate) async fn run(port: u16, credential: &Credential) -> Option<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
        let value = credential.value.expose_str().expect("text");
        let login = STANDARD.encode(format!("{}:{value}", credential.principal));
        let statement = "SELECT sleepEachRow(1) FROM numbers(1000000)";
        let request = format!(
            "POST / HTTP/1.1\r\nAuthorization: Basic {login}\r\nUser-Agent: orders-report\r\nContent-Length: {}\r\n\r\n\
             {statement}",
            statement.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer");
        read.expect("an answer");
        answer.starts_with(b"HTTP/1.1 100").then_some(Self { stream, left: false })
    }

    /// Whether the query still runs.
    pub(crate) async fn runs(&mut self) -> bool {
        if self.left {
            return false;
        }
        let mut rest = vec![0; 4096];
        // Whoever killed it was told so after it had left the list, and its client is told at once.
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), async {
            loop {
                match self.stream.read(&mut rest).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) if String::from_utf8_lossy(&rest[..length]).contains("Code: 394") => return,
                    Ok(_) => {}
                }
            }
        })
        .await;
        self.left = waited.is_ok();
        !self.left
    }
}
