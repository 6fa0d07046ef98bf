//! Servers that something is wrong with before a request can be sent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What is there instead of a server that can show who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// Nothing is wrong.
    Right,
    /// No authority that is trusted signed its certificate.
    Untrusted,
    /// Its certificate names another host.
    OtherName,
    /// It answers every request, and speaks no TLS.
    Plain,
    /// It hangs up as soon as somebody speaks.
    Cut,
}

impl Server {
    /// Those that something is wrong with, and what is said of each.
    pub(crate) const WRONG: [(Self, &'static str); 4] = [
        (Self::Untrusted, "the server's certificate is not signed by a trusted authority"),
        (Self::OtherName, "the server's certificate does not name this host"),
        (Self::Plain, "the TLS handshake failed"),
        (Self::Cut, "the connection was cut in the TLS handshake"),
    ];
}

/// Such a server, and the authority that a policy names for it.
pub(crate) struct Front {
    /// By its name, so that a certificate is for it.
    pub(crate) base: String,
    pub(crate) ca_file: PathBuf,
    read: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Front {
    pub(crate) async fn start(server: Server) -> Self {
        let name = if server == Server::OtherName { "elsewhere.example.com" } else { "localhost" };
        let shown = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let trusted = match server {
            Server::Untrusted => {
                rcgen::generate_simple_self_signed([name.to_owned()]).expect("another").cert.pem()
            }
            _ => shown.cert.pem(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, trusted).expect("written");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![shown.cert.der().clone()],
                PrivateKeyDer::try_from(shown.signing_key.serialize_der()).expect("a key"),
            )
            .expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let read = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&read);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(server, stream, acceptor.clone(), Arc::clone(&seen)));
            }
        });
        Self { base: format!("https://localhost:{port}"), ca_file, read, task, _folder: folder }
    }

    /// What arrived that no TLS protected any more, as text.
    pub(crate) fn saw(&self) -> String {
        String::from_utf8_lossy(&self.read.lock().expect("no panic")).into_owned()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(server: Server, mut stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Mutex<Vec<u8>>>) {
    match server {
        Server::Right | Server::Untrusted | Server::OtherName => {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            take(&mut stream, &seen).await;
            drop(stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await);
            drop(stream.shutdown().await);
        }
        Server::Plain => {
            take(&mut stream, &seen).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"valid\": true}";
            drop(stream.write_all(answer.as_bytes()).await);
        }
        Server::Cut => take(&mut stream, &seen).await,
    }
}

/// Reads what is sent at once.
async fn take(stream: &mut (impl AsyncRead + Unpin), seen: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 16 * 1024];
    let count = stream.read(&mut bytes).await.unwrap_or_default();
    seen.lock().expect("no panic").extend_from_slice(&bytes[..count]);
}
