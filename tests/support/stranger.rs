//! Whatever may listen where a server is expected, and has manners of its own: it says nothing, or too much, or
//! something else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Stands in all that it says: it must not be told.
pub(crate) const INMOST: &str = "K9xW2vInmostValue";

/// How a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manner {
    /// With this status, these further lines of the head, and this content.
    Says(u16, &'static str, String),
    /// Not at all, and the connection stays.
    Silent,
    /// Not at all, and the connection ends.
    HangsUp,
    /// With the beginning of an answer that does not go on.
    Stalls,
    /// With the beginning of one, and then the connection ends.
    Breaks,
    /// With one that does not end.
    Endless,
    /// With what is no HTTP.
    Noise,
}

impl Manner {
    /// A page of something in between.
    pub(crate) fn page(status: u16) -> Self {
        Self::Says(status, "Content-Type: text/html\r\n", format!("<html><body>{INMOST}</body></html>"))
    }

    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::Says(status, "Content-Type: application/json\r\n", value.to_string())
    }

    /// None of them is an answer of whatever should be there.
    pub(crate) fn all() -> Vec<Self> {
        let elsewhere = Self::Says(302, "Location: http://127.0.0.1:1/\r\n", String::new());
        let nonsense = ["", "null", "[]", "7", "{\"data\":{\"\u{1}\":[[[[]]]]}}"]
            .map(|text| Self::Says(200, "Content-Type: application/json\r\n", text.to_owned()));
        let pages = [200, 401, 403, 404, 429, 502, 503].map(Self::page);
        let bare = [401, 404].map(|status| Self::Says(status, "", String::new()));
        let rude = [Self::HangsUp, Self::Breaks, Self::Noise, elsewhere];
        rude.into_iter().chain(nonsense).chain(pages).chain(bare).collect()
    }

    /// So long as nobody loses patience.
    pub(crate) fn slow() -> [Self; 2] {
        [Self::Silent, Self::Stalls]
    }
}

/// A request.
pub(crate) struct Asked {
    /// Method and path, with its query.
    pub(crate) line: String,
}

type Script = Arc<dyn Fn(&Asked) -> Manner + Send + Sync>;

/// One that listens at a port of this machine.
pub(crate) struct Stranger {
    pub(crate) address: SocketAddr,
    /// Who vouches for it, as PEM, where it speaks TLS.
    pub(crate) authority: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stranger {
    /// Answers all requests in one manner.
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::serve(move |_| manner.clone()).await
    }

    /// Answers each request as the script says.
    pub(crate) async fn serve(script: impl Fn(&Asked) -> Manner + Send + Sync + 'static) -> Self {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&seen);
        let script: Script = Arc::new(move |asked| {
            noted.lock().expect("no panic").push(asked.line.clone());
            script(asked)
        });
        let mut stranger = Self::listen(move |stream| {
            let script = Arc::clone(&script);
            async move { converse(stream, &script).await }
        })
        .await;
        stranger.seen = seen;
        stranger
    }

    /// Says this at once, whatever is asked, so many times; and then waits to be left.
    pub(crate) async fn blurts(bytes: Vec<u8>, times: usize) -> Self {
        let bytes = Arc::new(bytes);
        Self::listen(move |mut stream| {
            let bytes = Arc::clone(&bytes);
            async move {
                for _ in 0..times {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
            }
        })
        .await
    }

    /// Says this first, whatever is asked, and then that without an end.
    pub(crate) async fn goes_on(first: Vec<u8>, then: Vec<u8>) -> Self {
        let said = Arc::new((first, then));
        Self::listen(move |mut stream| {
            let said = Arc::clone(&said);
            async move {
                if stream.write_all(&said.0).await.is_ok() {
                    while stream.write_all(&said.1).await.is_ok() {}
                }
            }
        })
        .await
    }

    /// Serves HTTP in the clear, whatever is asked.
    pub(crate) async fn plain() -> Self {
        Self::blurts(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(), 1).await
    }

    /// Speaks TLS with a certificate of its own for this name, and serves pages.
    pub(crate) async fn with_tls(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        // Who has another's name and not its key is told from who is unknown.
        let own = uuid::Uuid::now_v7().to_string();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, own);
        let made = parameters.self_signed(&key).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has ciphers for them")
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], PrivateKeyDer::from(key))
            .expect("a key and its certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script: Script = Arc::new(|_| Manner::page(200));
        let mut stranger = Self::listen(move |stream| {
            let (acceptor, script) = (acceptor.clone(), Arc::clone(&script));
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    converse(stream, &script).await;
                }
            }
        })
        .await;
        stranger.authority = made.pem();
        stranger
    }

    async fn listen<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, authority: String::new(), seen: Arc::default(), task }
    }

    /// What it was asked, by method and path.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves requests until one of both hangs up.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: &Script) {
    while let Some(asked) = read(&mut stream).await {
        let manner = script(&asked);
        let begun = format!("HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n{{\"{INMOST}\": ");
        let said = match &manner {
            Manner::Says(204, head, _) => format!("HTTP/1.1 204 It\r\n{head}\r\n"),
            Manner::Says(status, head, content) => {
                format!("HTTP/1.1 {status} It\r\n{head}Content-Length: {}\r\n\r\n{content}", content.len())
            }
            Manner::Silent | Manner::HangsUp => String::new(),
            Manner::Stalls | Manner::Breaks => begun,
            Manner::Endless => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(),
            Manner::Noise => format!("-{INMOST}\r\n\0\u{1}\u{2}\r\n\r\n"),
        };
        if stream.write_all(said.as_bytes()).await.is_err() {
            return;
        }
        match manner {
            Manner::Says(..) => {}
            Manner::HangsUp | Manner::Breaks | Manner::Noise => return,
            Manner::Endless => {
                let part = vec![b' '; 1 << 20];
                while stream.write_all(&part).await.is_ok() {}
                return;
            }
            Manner::Silent | Manner::Stalls => {
                while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
                return;
            }
        }
    }
}

/// The next request, to the end of its content.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, content)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if content.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0) {
                let line = text.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
                return Some(Asked { line });
            }
        }
        let mut part = [0; 16 * 1024];
        match stream.read(&mut part).await {
            Ok(length @ 1..) => bytes.extend_from_slice(&part[..length]),
            _ => return None,
        }
    }
}
