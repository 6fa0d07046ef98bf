//! Nodes of a real ClickHouse engine: the shared two that `make test` starts, and private ones.
//!
//! Each test has a [`Corner`] of its own there: users, roles and profiles with a prefix, and an admin with the documented
//! rights alone. It leaves nothing behind. Applications speak HTTP here without any code of rekeyd's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::ident::{Principal, RotationId};
use rekeyd::policy::spec::{ClickhouseNode, ClickhouseSpec, ClickhouseStrategy};
use rekeyd::secret::Credential;
use rekeyd::target::clickhouse::ClickhouseTarget;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::clickhouse_contract::World;
use crate::postgres_support::{credential, credential_of, known, plaintext, text};
use crate::target_contract::Open;

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Running nodes.
pub(crate) struct Servers {
    at: Description,
    pub(crate) root: Credential,
    /// The folder of private ones. They are stopped and removed with this value.
    folder: Option<tempfile::TempDir>,
}

/// What the launcher says of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    nodes: Vec<Node>,
    superuser: Principal,
    password_file: PathBuf,
}

#[derive(Deserialize)]
struct Node {
    port: u16,
    native: u16,
}

/// What a node answers to a statement.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The number of the error, where it is one.
    pub(crate) error: Option<u32>,
    pub(crate) body: String,
}

impl Servers {
    /// Those that `make test` started.
    #[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
    pub(crate) fn shared() -> Self {
        let folder = std::env::var_os("REKEYD_TEST_SERVERS")
            .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers");
        Self::described_in(Path::new(&folder), None)
    }

    /// Some of the test's own, started with these arguments of `deploy/dev/clickhouse start`.
    pub(crate) fn private(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        script("start", folder.path(), arguments);
        let path = folder.path().to_owned();
        Self::described_in(&path, Some(folder))
    }

    fn described_in(folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join("clickhouse.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        let at: Description = serde_json::from_str(&text).expect("a description");
        let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
        let root = credential_of(&at.superuser, password.trim_end());
        Self { at, root, folder: owned }
    }

    pub(crate) fn port(&self, node: usize) -> u16 {
        self.at.nodes[node].port
    }

    /// The first of them alone, as a policy names it, or all.
    pub(crate) fn nodes(&self, count: usize) -> Vec<ClickhouseNode> {
        let nodes = self.at.nodes[..count].iter();
        nodes.map(|node| ClickhouseNode { host: "127.0.0.1".into(), port: node.port }).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            script("stop", folder.path(), &[]);
        }
    }
}

fn script(verb: &str, folder: &Path, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/clickhouse");
    let output = Command::new(program).arg(verb).arg(folder).args(arguments).output().expect("the launcher");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Has a node carry a statement out. `settings` are parameters of the address.
pub(crate) async fn ask(port: u16, as_whom: &Credential, settings: &str, statement: &str) -> Answer {
    let request = format!(
        "POST /?{settings} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: orders-report\r\n\
         X-ClickHouse-User: {}\r\nX-ClickHouse-Key: {}\r\nX-ClickHouse-Format: TSVRaw\r\nContent-Length: {}\r\n\r\n\
         {statement}",
        as_whom.principal,
        text(as_whom),
        statement.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the node");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (is, value) = line.split_once(':')?;
            is.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let is_chunked = header("transfer-encoding").is_some();
    Answer {
        error: header("x-clickhouse-exception-code").map(|code| code.parse().expect("a number")),
        body: if is_chunked { joined(body) } else { body.to_owned() },
    }
}

/// The chunks of a body. The last one is empty.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        body.push_str(rest.get(..length).unwrap_or(rest));
        chunks = rest.get(length + 2..).unwrap_or_default();
    }
    body
}

/// A place of its own on the nodes for one test.
pub(crate) struct Corner {
    pub(crate) servers: Servers,
    pub(crate) prefix: String,
    nodes: usize,
    admin: Credential,
}

impl Corner {
    /// On the first node.
    pub(crate) async fn on_one() -> Self {
        Self::on(1).await
    }

    /// On both nodes, which know nothing of each other.
    pub(crate) async fn on_two() -> Self {
        Self::on(2).await
    }

    async fn on(nodes: usize) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let admin = credential(&format!("{prefix}_admin"));
        let corner = Self { servers: Servers::shared(), prefix, nodes, admin };
        let made =
            format!("CREATE USER {{admin}} IDENTIFIED WITH sha256_password BY '{}'", text(&corner.admin));
        for statement in [
            &*made,
            "GRANT CREATE USER, ALTER USER, DROP USER, CREATE SETTINGS PROFILE, DROP SETTINGS PROFILE, SHOW ACCESS, \
             KILL QUERY ON *.* TO {admin}",
            "GRANT SELECT ON system.* TO {admin}",
            "CREATE ROLE {p}_group",
            "GRANT {p}_group TO {admin} WITH ADMIN OPTION",
            "CREATE DATABASE {p} ENGINE = Memory",
            "CREATE TABLE {p}.orders (id Int32) ENGINE = Memory",
        ] {
            corner.say(statement).await;
        }
        corner
    }

    pub(crate) const fn admin_credential(&self) -> &Credential {
        &self.admin
    }

    /// Logs in over the native protocol at the first node, and stays.
    pub(crate) async fn connect(&self, credential: &Credential) -> Option<Native> {
        Native::open(self.servers.at.nodes[0].native, credential).await
    }

    /// Whether every node lets a credential in, or none does.
    pub(crate) async fn lets_in(&self, credential: &Credential) -> bool {
        let mut verdicts = Vec::new();
        for node in 0..self.nodes {
            let answer = ask(self.servers.port(node), credential, "", "SELECT currentUser()").await;
            verdicts.push(match answer.error {
                None => true,
                Some(516) => false,
                Some(other) => panic!("no verdict: error {other}"),
            });
        }
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "the nodes differ: {verdicts:?}");
        verdicts[0]
    }
}

#[async_trait]
impl World for Corner {
    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn nodes(&self) -> usize {
        self.nodes
    }

    fn admin(&self) -> Principal {
        self.admin.principal.clone()
    }

    fn spec(&self, strategy: ClickhouseStrategy) -> ClickhouseSpec {
        ClickhouseSpec {
            nodes: self.servers.nodes(self.nodes),
            tls: plaintext(),
            admin: "cache-admin".parse().expect("a label"),
            strategy,
            check: None,
        }
    }

    fn target(&self, spec: ClickhouseSpec) -> ClickhouseTarget {
        ClickhouseTarget::new(spec, known(&self.admin))
    }

    async fn say_at(&self, node: usize, statement: &str) -> Vec<String> {
        let answer = ask(self.servers.port(node), &self.servers.root, "", statement).await;
        assert_eq!(answer.error, None, "{statement}: {}", answer.body);
        answer.body.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    }

    async fn open_at(&self, node: usize, credential: &Credential) -> Box<dyn Open> {
        let (port, root) = (self.servers.port(node), self.servers.root.duplicate());
        let id = RotationId::generate().to_string();
        let (own, as_whom) = (id.clone(), credential.duplicate());
        let running = tokio::spawn(async move {
            let settings = format!("query_id={own}&cancel_http_readonly_queries_on_client_close=1");
            // Short enough to be killed at once, and more than a test waits for.
            let endless =
                "SELECT sleepEachRow(0.01) FROM numbers(1000000) SETTINGS max_block_size = 1 FORMAT Null";
            ask(port, &as_whom, &settings, endless).await
        });
        let query = Query { port, root, id, running };
        tokio::time::timeout(PATIENCE, query.runs()).await.expect("the query runs");
        Box::new(query)
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        let ports: Vec<u16> = (0..self.nodes).map(|node| self.servers.port(node)).collect();
        let (root, prefix) = (self.servers.root.duplicate(), self.prefix.clone());
        // A runtime of its own: the test's own cannot be waited for from here.
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for port in ports {
                    clean(port, &root, &prefix).await;
                }
            });
        });
        let outcome = cleaning.join();
        if !std::thread::panicking() {
            outcome.expect("the corner was cleaned up");
        }
    }
}

async fn clean(port: u16, root: &Credential, prefix: &str) {
    let say = async |statement: &str| {
        let answer = ask(port, root, "", statement).await;
        assert_eq!(answer.error, None, "{statement}: {}", answer.body);
        answer.body
    };
    say(&format!("KILL QUERY WHERE startsWith(user, '{prefix}') ASYNC")).await;
    say(&format!("DROP DATABASE IF EXISTS {prefix}")).await;
    for (what, table) in [("USER", "users"), ("ROLE", "roles"), ("SETTINGS PROFILE", "settings_profiles")] {
        let names = format!("SELECT name FROM system.{table} WHERE position(name, '{prefix}') > 0");
        let names = say(&names).await;
        if !names.is_empty() {
            let all: Vec<String> = names.lines().map(|name| format!("`{name}`")).collect();
            say(&format!("DROP {what} IF EXISTS {}", all.join(", "))).await;
        }
    }
}

/// A query that goes on until it is killed or its client is gone.
struct Query {
    port: u16,
    root: Credential,
    id: String,
    running: JoinHandle<Answer>,
}

impl Query {
    async fn runs(&self) {
        while !self.is_listed().await {
            assert!(!self.running.is_finished(), "it has ended: is its user let in?");
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
    }

    async fn is_listed(&self) -> bool {
        let statement = format!("SELECT count() FROM system.processes WHERE query_id = '{}'", self.id);
        let answer = ask(self.port, &self.root, "", &statement).await;
        assert_eq!(answer.error, None, "{}", answer.body);
        answer.body.trim() != "0"
    }
}

#[async_trait]
impl Open for Query {
    async fn lives(&mut self) -> bool {
        self.is_listed().await
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A connection of the native protocol, as far as to be one: a client of a revision that knows few fields.
/// <https://clickhouse.com/docs/native-protocol/client>
pub(crate) struct Native {
    stream: TcpStream,
}

/// The greatest revision without a description of the client in each query.
const REVISION: [u8; 3] = [0x8f, 0xa6, 0x03];

/// What a server's packet begins with.
const EXCEPTION: u8 = 2;

impl Native {
    /// `None` when it is refused.
    async fn open(port: u16, credential: &Credential) -> Option<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the node");
        let mut hello = vec![0];
        hello.extend(string("orders-report"));
        hello.extend([1, 1]);
        hello.extend(REVISION);
        for text in ["", credential.principal.as_str(), text(credential)] {
            hello.extend(string(text));
        }
        stream.write_all(&hello).await.expect("sent");
        let mut open = Self { stream };
        (open.packet().await != EXCEPTION).then_some(open)
    }

    /// Whether it may still ask something. It is asked once: what comes after the first packet is not read.
    pub(crate) async fn answers(mut self) -> bool {
        // A query without a number and without settings, to its end, not compressed.
        let mut query = vec![1, 0, 0, 2, 0];
        query.extend(string("SELECT 1"));
        // No table goes with it: an empty block, in no bucket.
        query.extend([2, 0, 1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
        self.stream.write_all(&query).await.expect("sent");
        self.packet().await != EXCEPTION
    }

    /// The kind of the next packet, with whatever has come of it.
    async fn packet(&mut self) -> u8 {
        let mut packet = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut packet)).await.expect("an answer");
        assert_ne!(read.expect("an answer"), 0, "it was closed");
        packet[0]
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 0x80).expect("short");
    [&[length], text.as_bytes()].concat()
}
