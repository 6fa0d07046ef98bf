//! A real RabbitMQ: the shared broker that `make test` starts.
//!
//! Each test has a [`World`] of its own there: users with a prefix, and an admin. It leaves nothing behind.

use std::path::{Path, PathBuf};

use rekeyd::ident::{Principal, RotationId};
use rekeyd::policy::spec::{PairSpec, RabbitmqEndpoint, RabbitmqSpec, RabbitmqStrategy};
use rekeyd::secret::Credential;
use rekeyd::target::rabbitmq::RabbitmqTarget;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::postgres_support::{credential, known, plaintext, text};

/// A running broker.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Server {
    pub(crate) host: String,
    amqp: u16,
    pub(crate) port: u16,
    /// The same API with TLS, and who signed its certificate, which names `localhost` and 127.0.0.1.
    pub(crate) tls_port: u16,
    pub(crate) ca_file: PathBuf,
    password_file: PathBuf,
}

impl Server {
    /// The one that `make test` started.
    #[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
    pub(crate) fn shared() -> Self {
        let folder = std::env::var_os("REKEYD_TEST_SERVERS")
            .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers");
        let file = Path::new(&folder).join("rabbitmq.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        serde_json::from_str(&text).expect("a description")
    }

    /// A request of the superuser's, by other code than the one under test; the answer's body.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let password = std::fs::read_to_string(&self.password_file).expect("the superuser's password");
        let (status, body) = self.ask_as("root", &password, method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {body}");
        body
    }

    pub(crate) async fn ask_as(
        &self,
        user: &str,
        password: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        use base64::Engine as _;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} /api/{path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await.expect("the broker");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

/// A corner of the broker for one test.
pub(crate) struct World {
    pub(crate) server: Server,
    prefix: String,
    admin: Credential,
}

impl World {
    pub(crate) async fn shared() -> Self {
        let server = Server::shared();
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let admin = credential(&format!("{prefix}_admin"));
        let user = json!({"password": text(&admin), "tags": "administrator"});
        server.ask("PUT", &format!("users/{prefix}_admin"), Some(&user)).await;
        Self { server, prefix, admin }
    }

    pub(crate) fn name(&self, suffix: &str) -> Principal {
        format!("{}_{suffix}", self.prefix).parse().expect("a principal")
    }

    pub(crate) const fn admin(&self) -> &Credential {
        &self.admin
    }

    pub(crate) fn pair(&self) -> [Principal; 2] {
        [self.name("a"), self.name("b")]
    }

    pub(crate) fn spec(&self) -> RabbitmqSpec {
        let endpoint =
            RabbitmqEndpoint { host: self.server.host.clone(), port: self.server.port, tls: plaintext() };
        let admin = "queue-admin".parse().expect("a label");
        RabbitmqSpec {
            endpoint,
            admin,
            strategy: RabbitmqStrategy::Alternating(PairSpec { users: self.pair() }),
        }
    }

    pub(crate) fn target(&self) -> RabbitmqTarget {
        RabbitmqTarget::new(self.spec(), known(&self.admin))
    }

    pub(crate) async fn user(&self, user: &Principal) -> Value {
        self.server.ask("GET", &format!("users/{user}"), None).await
    }

    /// What a user may do in the default virtual host.
    pub(crate) async fn permit(&self, user: &Principal, read: &str) {
        let permissions = json!({"configure": "", "write": "", "read": read});
        self.server.ask("PUT", &format!("permissions/%2F/{user}"), Some(&permissions)).await;
    }

    /// Opens a connection as an application would.
    pub(crate) async fn connect(&self, credential: &Credential) -> Option<Connection> {
        Connection::open((self.server.host.as_str(), self.server.amqp), credential).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (server, prefix) = (self.server.clone(), self.prefix.clone());
        // A runtime of its own: the test's own cannot be waited for from here.
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let users = server.ask("GET", "users", None).await;
                let names = users.as_array().expect("users").iter().filter_map(|user| user["name"].as_str());
                for name in names.filter(|name| name.starts_with(&prefix)) {
                    server.ask("DELETE", &format!("users/{name}"), None).await;
                }
            });
        });
        let outcome = cleaning.join();
        if !std::thread::panicking() {
            outcome.expect("the world was cleaned up");
        }
    }
}

/// A connection of AMQP 0-9-1, as far as to be one: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
pub(crate) struct Connection {
    stream: TcpStream,
    channels: u16,
}

impl Connection {
    /// `None` when it is refused.
    async fn open(at: (&str, u16), credential: &Credential) -> Option<Self> {
        let mut stream = TcpStream::connect(at).await.expect("the broker");
        stream.write_all(b"AMQP\x00\x00\x09\x01").await.ok()?;
        let mut open = Self { stream, channels: 0 };
        open.method([10, 10]).await?;
        let login = format!("\0{}\0{}", credential.principal, text(credential));
        let mut start = vec![0, 0, 0, 0, 5];
        start.extend(b"PLAIN");
        start.extend(u32::try_from(login.len()).expect("short").to_be_bytes());
        start.extend(login.as_bytes());
        start.extend(b"\x05en_US");
        open.send(0, [10, 11], &start).await?;
        let mut tune = open.method([10, 30]).await?;
        // No heartbeat: the test says when it ends.
        tune.truncate(6);
        tune.extend([0, 0]);
        open.send(0, [10, 31], &tune).await?;
        open.send(0, [10, 40], b"\x01/\x00\x00").await?;
        open.method([10, 41]).await?;
        Some(open)
    }

    /// Opens another channel.
    pub(crate) async fn answers(&mut self) -> bool {
        self.channels += 1;
        let channel = self.channels;
        self.send(channel, [20, 10], &[0]).await.is_some() && self.method([20, 11]).await.is_some()
    }

    async fn send(&mut self, channel: u16, [class, method]: [u8; 2], arguments: &[u8]) -> Option<()> {
        let length = u32::try_from(arguments.len() + 4).expect("short");
        let mut frame = vec![1];
        frame.extend(channel.to_be_bytes());
        frame.extend(length.to_be_bytes());
        frame.extend([0, class, 0, method]);
        frame.extend(arguments);
        frame.push(0xce);
        self.stream.write_all(&frame).await.ok()
    }

    /// The arguments of the next method, if it is this one.
    async fn method(&mut self, [class, method]: [u8; 2]) -> Option<Vec<u8>> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut frame = vec![0; length as usize + 1];
        self.stream.read_exact(&mut frame).await.ok()?;
        frame.pop();
        let arguments = frame.split_off(4);
        (head[0] == 1 && frame == [0, class, 0, method]).then_some(arguments)
    }
}
