//! Git over HTTP and HTTPS: stock `git http-backend` behind a small server on loopback.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use base64::Engine as _;
use rekeyd::failure::{FailureClass, Verdict};
use rekeyd::ledger::GitLedger;
use rekeyd::settings::LedgerSettings;
use rustls::pki_types::PrivateKeyDer;

use super::{Place, append, git, record, settings};

const TOKEN: &str = "glpat-0123456789abcdef";

/// What a server does with a request that carries the right token.
#[derive(Clone)]
enum Answer {
    Serve,
    Redirect,
    /// Says nothing, and tells when the client has hung up.
    Nothing(mpsc::Sender<()>),
}

struct Server {
    address: SocketAddr,
}

impl Server {
    /// Serves the repositories below a folder until the test ends.
    fn start(root: PathBuf, tls: Option<Arc<rustls::ServerConfig>>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, tls, answer) = (root.clone(), tls.clone(), answer.clone());
                std::thread::spawn(move || {
                    // A client that hangs up is no concern of the server's.
                    let _ = match tls {
                        None => serve(stream, &root, answer),
                        Some(tls) => rustls::ServerConnection::new(tls)
                            .map_err(std::io::Error::other)
                            .and_then(|tls| serve(rustls::StreamOwned::new(tls, stream), &root, answer)),
                    };
                });
            }
        });
        Self { address }
    }

    fn settings(&self, place: &Place, scheme: &str, token: &str) -> LedgerSettings {
        let file = place.path("token");
        std::fs::write(&file, format!("{token}\n")).expect("a file");
        let mut settings = settings(
            &place.path("ledger"),
            Some(&format!("{scheme}://localhost:{}/remote", self.address.port())),
        );
        settings.remote.as_mut().expect("a remote").token_file = Some(file);
        settings
    }
}

/// One request for each connection.
fn serve(stream: impl Read + Write, root: &Path, answer: Answer) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let (method, target) = line.split_once(' ').unwrap_or_default();
    let target = target.split(' ').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = std::collections::HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("rekeyd:{TOKEN}"));
    let mut body = Vec::new();
    let length = header("content-length").parse().unwrap_or(0);
    (&mut stream).take(length).read_to_end(&mut body)?;
    let response = match answer {
        _ if header("authorization") != format!("Basic {expected}") => {
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
                .into()
        }
        Answer::Redirect => format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere{path}?{query}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .into_bytes(),
        Answer::Nothing(hung_up) => {
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return hung_up.send(()).map_err(std::io::Error::other);
        }
        Answer::Serve => {
            let mut child = Command::new("git")
                .arg("http-backend")
                .env("GIT_PROJECT_ROOT", root)
                .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("REMOTE_USER", "rekeyd")])
                .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query)])
                .env("CONTENT_TYPE", header("content-type"))
                .env("CONTENT_LENGTH", body.len().to_string())
                .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
                .env("GIT_PROTOCOL", header("git-protocol"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            child.stdin.take().expect("a pipe").write_all(&body)?;
            let output = child.wait_with_output()?.stdout;
            let status = if output.starts_with(b"Status: ") { "500 Failed" } else { "200 OK" };
            let end = memchr::memmem::find(&output, b"\r\n\r\n").map_or(0, |at| at + 4);
            let length = output.len() - end;
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n");
            [head.as_bytes(), &output].concat()
        }
    };
    stream.get_mut().write_all(&response)?;
    stream.get_mut().flush()
}

fn remote(place: &Place) {
    git(place.dir.path(), &["init", "-q", "--bare", "-b", "main", "remote"]);
    git(&place.path("remote"), &["config", "http.receivepack", "true"]);
}

#[tokio::test]
async fn records_are_pushed_over_https() {
    let place = Place::new();
    remote(&place);
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
        )
        .expect("a configuration");
    let server = Server::start(place.dir.path().to_owned(), Some(Arc::new(tls)), Answer::Serve);
    let mut settings = server.settings(&place, "https", TOKEN);

    let ledger = GitLedger::open(&settings).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    let untrusted = state.last_error.expect("an unknown authority");
    assert_eq!(untrusted.class(), FailureClass::Invalid, "{untrusted}");
    drop(ledger);

    let file = place.path("ca.pem");
    std::fs::write(&file, key.cert.pem()).expect("a file");
    settings.remote.as_mut().expect("a remote").ca_file = Some(file);
    let ledger = GitLedger::open(&settings).expect("a ledger");
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    assert!(state.is_settled(), "{state:?}");
    assert_eq!(git(&place.path("remote"), &["rev-parse", "main"]), place.git(&["rev-parse", "main"]));

    let findings = GitLedger::preflight(&settings).await;
    assert!(findings.iter().all(|f| f.verdict == Verdict::Pass), "{findings:?}");
}

#[tokio::test]
async fn a_wrong_token_is_denied_and_never_shown() {
    let place = Place::new();
    remote(&place);
    let server = Server::start(place.dir.path().to_owned(), None, Answer::Serve);
    let settings = server.settings(&place, "http", "not-the-token");
    let ledger = GitLedger::open(&settings).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    let failure = state.last_error.expect("a refusal");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(!failure.to_string().contains("not-the-token"), "{failure}");

    // The file is read again for each try.
    std::fs::write(place.path("token"), TOKEN).expect("a file");
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    assert!(state.is_settled(), "{state:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let place = Place::new();
    remote(&place);
    let server = Server::start(place.dir.path().to_owned(), None, Answer::Redirect);
    let ledger = GitLedger::open(&server.settings(&place, "http", TOKEN)).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    let failure = state.last_error.expect("a failure");
    assert!(failure.to_string().contains("302"), "{failure}");
}

#[tokio::test]
async fn a_remote_that_says_nothing_is_given_up() {
    let place = Place::new();
    let (sender, hung_up) = mpsc::channel();
    let server = Server::start(place.dir.path().to_owned(), None, Answer::Nothing(sender));
    let mut settings = server.settings(&place, "http", TOKEN);
    let remote = settings.remote.as_mut().expect("a remote");
    remote.timeout = "1s".parse().expect("an interval");
    let ledger = GitLedger::open(&settings).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    let failure = state.last_error.expect("a failure");
    assert_eq!(failure.class(), FailureClass::Unavailable);
    assert!(failure.to_string().contains("within 1 s"), "{failure}");
    // Not `git` alone is gone, but the helper that it started too.
    hung_up.recv_timeout(Duration::from_secs(10)).expect("the client hangs up");
}

#[tokio::test]
async fn a_token_is_one_line() {
    let place = Place::new();
    let server = Server::start(place.dir.path().to_owned(), None, Answer::Serve);
    let ledger = GitLedger::open(&server.settings(&place, "http", "two\nlines")).expect("a ledger");
    append(&ledger, &record("orders/orders-db", 0, 1)).await;
    let state = ledger.flush(Duration::from_secs(20)).await.expect("a state");
    let failure = state.last_error.expect("a failure");
    assert_eq!(failure.class(), FailureClass::Denied, "{failure}");
    assert!(failure.to_string().ends_with("does not hold one line"), "{failure}");
}
