//! A server that is sealed, gone, silent, somebody else's, or of another kind.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use super::login::authority;
use super::*;
use crate::openbao::PrivateServer;

#[tokio::test]
async fn a_sealed_server_is_said_to_be_sealed_and_used_again_later() {
    let private = PrivateServer::start();
    let bench = Bench::on(private.server.clone());
    let store = bench.store();
    let revision = promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    private.seal();
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/b").await] {
        assert_failed(&failure, FailureClass::Unavailable, "the server is sealed");
        assert_eq!(failure.remedy(), Some("unseal it with `bao operator unseal`"));
    }
    let findings = preflight(&store).await;
    assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Fail), "{findings:?}");
    assert_eq!(findings[0].detail, "the server is sealed");
    private.unseal();
    assert_eq!(current(&store, "apps/a").await, Some(("app_a".into(), "one".into(), revision)));
    assert!(promote(&store, "apps/b", "app_a", "two", None).await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_down_has_certainly_done_nothing() {
    let bench = Bench::new();
    let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let store = VaultStore::open(&VaultSettings { address: format!("http://{address}"), ..bench.settings() })
        .expect("a store");
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/a").await] {
        assert_failed(&failure, FailureClass::Unavailable, "connection refused");
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_write_is_ambiguous() {
    let bench = Bench::new();
    let proxy = Proxy::start(&bench.server.address);
    let store = VaultStore::open(&VaultSettings {
        address: proxy.address(),
        timeout: seconds(1),
        ..bench.settings()
    })
    .expect("a store");
    let revision = promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");

    proxy.set(Mode::Silent);
    let failure = write_failure(&store, "apps/b").await;
    assert_failed(&failure, FailureClass::Ambiguous, "does not answer in time");
    assert_failed(
        &read_failure(&store, "apps/a").await,
        FailureClass::Unavailable,
        "does not answer in time",
    );

    proxy.set(Mode::LoseAnswers);
    let failure = write_failure(&store, "apps/c").await;
    assert_failed(&failure, FailureClass::Ambiguous, "the connection broke");
    assert_failed(&read_failure(&store, "apps/a").await, FailureClass::Unavailable, "the connection broke");

    proxy.set(Mode::Pass);
    assert!(current(&store, "apps/b").await.is_none(), "what never arrived took effect");
    assert_eq!(current(&store, "apps/c").await.map(|found| found.1).as_deref(), Some("hunter2"));
    assert_eq!(current(&store, "apps/a").await, Some(("app_a".into(), "one".into(), revision)));
}

#[tokio::test]
async fn a_failing_balancer_leaves_a_write_in_doubt() {
    let bench = Bench::new();
    let proxy = Proxy::start(&bench.server.address);
    let store =
        VaultStore::open(&VaultSettings { address: proxy.address(), ..bench.settings() }).expect("a store");
    promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    for (answer, reads, writes) in [
        ("HTTP/1.1 502 Bad Gateway\r\n", FailureClass::Unavailable, FailureClass::Ambiguous),
        ("HTTP/1.1 503 Service Unavailable\r\n", FailureClass::Unavailable, FailureClass::Ambiguous),
        ("HTTP/1.1 473 Standby\r\n", FailureClass::Unavailable, FailureClass::Unavailable),
        ("HTTP/1.1 200 OK\r\n", FailureClass::Unavailable, FailureClass::Ambiguous),
    ] {
        proxy.answer_with(answer);
        assert_eq!(read_failure(&store, "apps/a").await.class(), reads, "{answer}");
        assert_eq!(write_failure(&store, "apps/b").await.class(), writes, "{answer}");
    }
}

#[tokio::test]
async fn no_answer_sends_the_value_elsewhere() {
    let bench = Bench::new();
    let elsewhere = Proxy::start(&bench.server.address);
    let proxy = Proxy::start(&bench.server.address);
    let store =
        VaultStore::open(&VaultSettings { address: proxy.address(), ..bench.settings() }).expect("a store");
    promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    proxy.answer_with(&format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}/v1/\r\n",
        elsewhere.address()
    ));
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/b").await] {
        assert_failed(&failure, FailureClass::Unavailable, "sends its clients elsewhere");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_mount_of_version_1_is_refused_before_anything_is_written() {
    let mut bench = Bench::new();
    bench.mount = bench.server.mount(1);
    bench.policy = bench.server.policy(&sample_policy(&bench.mount.name));
    bench.write_token(&bench.token(json!({})));
    let store = bench.store();
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/a").await] {
        assert_failed(&failure, FailureClass::Invalid, "the mount is KV version 1");
        assert!(failure.remedy().is_some_and(|remedy| remedy.contains("version=2")));
    }
    let path = format!("{}/data/apps/a", bench.mount.name);
    assert_eq!(bench.server.call("GET", &path, json!({})).0, 404, "something was written");
    let findings = preflight(&store).await;
    assert_eq!(findings.last().map(|finding| finding.verdict), Some(Verdict::Fail), "{findings:?}");
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_said_so() {
    let bench = Bench::new();
    let settings = VaultSettings { mount: "not-there".into(), ..bench.settings() };
    let store = VaultStore::open(&settings).expect("a store");
    let failure = write_failure(&store, "apps/a").await;
    assert_failed(&failure, FailureClass::Denied, "there is no such mount, or the token has no right in it");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let bench = Bench::new();
    let mount = &bench.mount.name;
    let policy = bench.server.policy(&format!(
        "path \"{mount}/data/apps/*\" {{ capabilities = [\"read\"] }}\n\
         path \"{mount}/data/rekeyd/*\" {{ capabilities = [\"create\", \"update\"] }}\n\
         path \"auth/token/lookup-self\" {{ capabilities = [\"read\"] }}"
    ));
    bench.write_token(&bench.server.token(&policy, json!({})));
    let store = bench.store();
    assert!(current(&store, "apps/a").await.is_none());
    let failure = write_failure(&store, "apps/a").await;
    assert_failed(&failure, FailureClass::Denied, &format!("permission denied on `{mount}/data/apps/a`"));
    assert_eq!(
        failure.remedy(),
        Some(format!("grant `create` and `update` on `{mount}/data/apps/a` in the policy of rekeyd's token"))
            .as_deref()
    );
    let failure = store.policies().await.expect_err("it may not list");
    assert_failed(
        &failure,
        FailureClass::Denied,
        &format!("permission denied on `{mount}/metadata/rekeyd/`"),
    );
    // The first document can be written; a second only where its earlier version will not stay.
    let revision = save(&store, "orders/db", "one", None).await.expect("a saving");
    assert_eq!(save(&store, "orders/db", "two", Some(&revision)).await, Err(FailureClass::Denied));
}

#[tokio::test]
async fn tls_trusts_the_given_authority_alone() {
    let private = PrivateServer::start_with_tls();
    let bench = Bench::on(private.server.clone());
    let store = bench.store();
    promote(&store, "apps/a", "app_a", "one", None).await.expect("a promotion");
    assert_eq!(current(&store, "apps/a").await.map(|found| found.1).as_deref(), Some("one"));

    let foreign = bench.folder.path().join("foreign.pem");
    std::fs::write(&foreign, authority()).expect("a file");
    let store =
        VaultStore::open(&VaultSettings { ca_file: Some(foreign), ..bench.settings() }).expect("a store");
    for failure in [read_failure(&store, "apps/a").await, write_failure(&store, "apps/b").await] {
        assert_failed(&failure, FailureClass::Unavailable, "the server's certificate is not accepted");
    }

    for (file, reason) in [("missing.pem", "No such file"), ("token", "there is no certificate in it")] {
        let ca_file = Some(bench.folder.path().join(file));
        let Err(failure) = VaultStore::open(&VaultSettings { ca_file, ..bench.settings() }) else {
            panic!("{file} was taken for an authority")
        };
        assert_failed(&failure, FailureClass::Invalid, reason);
    }
}

/// Stands between a store and the server.
struct Proxy {
    port: u16,
    state: Arc<ProxyState>,
}

struct ProxyState {
    upstream: String,
    mode: AtomicU8,
    answer: std::sync::Mutex<String>,
    connections: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Mode {
    Pass = 0,
    /// Takes requests, passes none on, and never answers.
    Silent = 1,
    /// Passes requests on and closes the connection in place of the answer.
    LoseAnswers = 2,
    /// Answers by itself.
    Answer = 3,
}

impl Proxy {
    fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(ProxyState {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            mode: AtomicU8::new(0),
            answer: Default::default(),
            connections: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(client));
            }
        });
        Self { port, state }
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn set(&self, mode: Mode) {
        self.state.mode.store(mode as u8, Ordering::SeqCst);
    }

    fn answer_with(&self, head: &str) {
        *self.state.answer.lock().expect("a lock") =
            format!("{head}Content-Length: 2\r\nConnection: close\r\n\r\nno");
        self.set(Mode::Answer);
    }

    fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl ProxyState {
    /// Serves one connection, request by request. Requests here are small and come in one piece.
    fn serve(&self, mut client: TcpStream) {
        let mut server = TcpStream::connect(&self.upstream).expect("the server");
        let mut buffer = vec![0; 256 << 10];
        loop {
            let size = match client.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(size) => size,
            };
            let mode = self.mode.load(Ordering::SeqCst);
            if mode == Mode::Silent as u8 {
                continue;
            }
            if mode == Mode::Answer as u8 {
                let answer = self.answer.lock().expect("a lock").clone();
                let _ = client.write_all(answer.as_bytes());
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            server.write_all(&buffer[..size]).expect("the server");
            server.set_read_timeout(Some(Duration::from_secs(10))).expect("a deadline");
            let size = server.read(&mut buffer).expect("an answer");
            if mode == Mode::LoseAnswers as u8 || client.write_all(&buffer[..size]).is_err() {
                return;
            }
        }
    }
}
