//! Real servers of Redis and Valkey, each with a replica: the shared pairs that `make test` starts, and private ones.
//!
//! Each test has a [`World`] of its own on a pair: users with a prefix, and an admin with the documented rights
//! alone. It leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult};
use rekeyd::ident::{Principal, RotationId};
use rekeyd::policy::spec::{DualPasswordSpec, RedisNode, RedisSpec, RedisStrategy};
use rekeyd::secret::Credential;
use rekeyd::target::redis::RedisTarget;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::postgres_support::{credential, known, plaintext, soon, text};

/// Whose servers they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Valkey,
}

impl Kind {
    /// The script that starts them, and their name in a run folder.
    const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }
}

/// A running pair.
pub(crate) struct Servers {
    pub(crate) kind: Kind,
    pub(crate) at: Description,
    password: String,
    /// The folder of a private pair. It is stopped and removed with this value.
    folder: Option<tempfile::TempDir>,
}

/// What the launcher says of a pair.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) nodes: Vec<Node>,
    /// What runs.
    pub(crate) program: PathBuf,
    pub(crate) ca_file: Option<PathBuf>,
    password_file: PathBuf,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) folder: PathBuf,
}

impl Servers {
    /// The one that `make test` started.
    #[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
    pub(crate) fn shared(kind: Kind) -> Self {
        let folder = std::env::var_os("REKEYD_TEST_SERVERS")
            .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers");
        Self::described_in(kind, Path::new(&folder), None)
    }

    /// A pair of the test's own, started with these arguments of `deploy/dev/redis start`, or Valkey's.
    pub(crate) fn private(kind: Kind, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        script(kind, "start", folder.path(), arguments);
        let path = folder.path().to_owned();
        Self::described_in(kind, &path, Some(folder))
    }

    /// Stops a private pair, and starts it again on what it kept.
    pub(crate) fn restart(&self, arguments: &[&str]) {
        let folder = self.folder.as_ref().expect("a private pair").path();
        script(self.kind, "stop", folder, &["--keep"]);
        script(self.kind, "start", folder, arguments);
    }

    /// Ends one node of a private pair at once.
    pub(crate) async fn kill(&self, node: usize) {
        assert!(self.folder.is_some(), "only nodes of its own");
        let Node { port, folder } = &self.at.nodes[node];
        let pid = std::fs::read_to_string(folder.join("pid")).expect("its process id");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
        kill_process(pid, Signal::KILL).expect("it ends");
        soon("it is gone", async || std::net::TcpStream::connect(("127.0.0.1", *port)).is_err()).await;
    }

    /// Starts a node of a private pair again.
    pub(crate) async fn start(&self, node: usize) {
        let Node { port, folder } = &self.at.nodes[node];
        let started = Command::new(&self.at.program).arg("redis.conf").current_dir(folder).status();
        assert!(started.expect("its program").success());
        soon("it listens", async || std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok()).await;
    }

    fn described_in(kind: Kind, folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join(kind.name()).with_extension("json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        let at: Description = serde_json::from_str(&text).expect("a description");
        let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
        Self { kind, at, password, folder: owned }
    }

    /// A connection by other code than the one under test.
    pub(crate) async fn connect(
        &self,
        node: usize,
        user: &str,
        password: &str,
    ) -> RedisResult<MultiplexedConnection> {
        connect(self.at.nodes[node].port, user, password).await
    }

    pub(crate) async fn root(&self, node: usize) -> MultiplexedConnection {
        self.connect(node, "root", &self.password).await.expect("a session of the superuser's")
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let stopped = run_script(self.kind, "stop", folder.path(), &[]);
            if !std::thread::panicking() {
                stopped.expect("it stopped");
            }
        }
    }
}

async fn connect(port: u16, user: &str, password: &str) -> RedisResult<MultiplexedConnection> {
    let login = RedisConnectionInfo::default().set_username(user).set_password(password);
    let info = ConnectionAddr::Tcp("127.0.0.1".to_owned(), port).into_connection_info()?;
    let client = redis::Client::open(info.set_redis_settings(login))?;
    client.get_multiplexed_async_connection().await
}

fn script(kind: Kind, verb: &str, folder: &Path, arguments: &[&str]) {
    run_script(kind, verb, folder, arguments).expect("the launcher does it");
}

fn run_script(kind: Kind, verb: &str, folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev").join(kind.name());
    let output = Command::new(program).arg(verb).arg(folder).args(arguments).output().expect("the launcher");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The rights that the documentation asks for.
pub(crate) const RIGHTS: &str = "+acl +client +config|get +config|rewrite +info +time +multi +exec +discard";

/// A corner of a pair for one test.
pub(crate) struct World {
    pub(crate) servers: Servers,
    /// The superuser's sessions, one on each node.
    pub(crate) roots: Vec<MultiplexedConnection>,
    prefix: String,
    admin: Credential,
}

impl World {
    pub(crate) async fn shared(kind: Kind) -> Self {
        Self::on(Servers::shared(kind)).await
    }

    pub(crate) async fn private(kind: Kind) -> Self {
        Self::on(Servers::private(kind, &[])).await
    }

    pub(crate) async fn on(servers: Servers) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let admin = credential(&format!("{prefix}_admin"));
        let mut roots = Vec::new();
        for node in 0..servers.at.nodes.len() {
            roots.push(servers.root(node).await);
        }
        let world = Self { servers, roots, prefix, admin };
        let password = hash(text(&world.admin));
        world.everywhere(&format!("ACL SETUSER {{p}}_admin on #{password} {RIGHTS}")).await;
        world.everywhere("ACL SETUSER {p}_app on ~{p}:* +@read +@write +@connection +@pubsub +multi").await;
        world
    }

    /// The user of this world's application.
    pub(crate) fn user(&self) -> Principal {
        self.name("app")
    }

    pub(crate) fn name(&self, suffix: &str) -> Principal {
        format!("{}_{suffix}", self.prefix).parse().expect("a principal")
    }

    pub(crate) const fn admin(&self) -> &Credential {
        &self.admin
    }

    /// A new value for the user.
    pub(crate) fn credential(&self) -> Credential {
        credential(self.user().as_str())
    }

    /// Runs a command as the superuser on one node; `{p}` stands for the prefix of the world's names.
    pub(crate) async fn run<T: FromRedisValue>(&self, node: usize, command: &str) -> T {
        let command = command.replace("{p}", &self.prefix);
        let words = self::command(&command);
        words.query_async(&mut self.roots[node].clone()).await.unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    pub(crate) async fn everywhere(&self, command: &str) {
        for node in 0..self.roots.len() {
            self.run::<()>(node, command).await;
        }
    }

    /// The entries among the user's passwords that are no markers.
    pub(crate) async fn values(&self, node: usize) -> Vec<String> {
        self.entries(node).await.into_iter().filter(|entry| !entry.starts_with(MARKER)).collect()
    }

    /// The entries of rekeyd's own.
    pub(crate) async fn markers(&self, node: usize) -> Vec<String> {
        self.entries(node).await.into_iter().filter(|entry| entry.starts_with(MARKER)).collect()
    }

    async fn entries(&self, node: usize) -> Vec<String> {
        let list: Vec<String> = self.run(node, "ACL LIST").await;
        let own = format!("user {} ", self.user());
        let own = list.iter().find(|line| line.starts_with(&own)).expect("the user");
        own.split(' ').filter_map(|word| word.strip_prefix('#')).map(ToOwned::to_owned).collect()
    }

    /// Opens a session on a node as an application would.
    pub(crate) async fn connect(
        &self,
        node: usize,
        credential: &Credential,
    ) -> RedisResult<MultiplexedConnection> {
        self.servers.connect(node, credential.principal.as_str(), text(credential)).await
    }

    pub(crate) fn spec(&self) -> RedisSpec {
        let nodes = self.servers.at.nodes.iter();
        RedisSpec {
            nodes: nodes.map(|node| RedisNode { host: "127.0.0.1".into(), port: node.port }).collect(),
            tls: plaintext(),
            admin: "cache-admin".parse().expect("a label"),
            strategy: RedisStrategy::DualPassword(DualPasswordSpec { user: self.user() }),
            check: Vec::new(),
        }
    }

    pub(crate) fn target(&self) -> RedisTarget {
        self.target_of(self.spec())
    }

    pub(crate) fn target_of(&self, spec: RedisSpec) -> RedisTarget {
        RedisTarget::new(spec, known(&self.admin))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.servers.folder.is_some() {
            return;
        }
        let at = self.servers.at.clone();
        let (prefix, password) = (self.prefix.clone(), self.servers.password.clone());
        // A runtime of its own: the test's own cannot be waited for from here.
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for node in &at.nodes {
                    let mut root = connect(node.port, "root", &password).await.expect("a session");
                    let users: Vec<String> =
                        command("ACL USERS").query_async(&mut root).await.expect("users");
                    for user in users.iter().filter(|user| user.starts_with(&prefix)) {
                        let gone = command(&format!("ACL DELUSER {user}"));
                        gone.exec_async(&mut root).await.expect("a deleted user");
                    }
                    command("ACL SAVE").exec_async(&mut root).await.expect("saved");
                }
            });
        });
        let outcome = cleaning.join();
        if !std::thread::panicking() {
            outcome.expect("the world was cleaned up");
        }
    }
}

/// A command of words without spaces.
pub(crate) fn command(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut command = redis::cmd(words.next().expect("a command"));
    words.for_each(|word| {
        command.arg(word);
    });
    command
}

/// What a server keeps of a value.
pub(crate) fn hash(value: &str) -> String {
    Sha256::digest(value.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How an entry of rekeyd's own begins: "rekey".
const MARKER: &str = "72656b6579";
