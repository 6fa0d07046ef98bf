//! Real PostgreSQL servers: the shared one that `make test` starts, and private ones.
//!
//! Each test has a [`World`] of its own in a server: a database, roles with a prefix and an admin that
//! has `CREATEROLE` and is no superuser. It leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::failure::Failure;
use rekeyd::ident::{Fence, PolicyName, Principal, RotationId, Version};
use rekeyd::policy::spec::{
    AlternatingSpec, InPlaceSpec, PostgresEndpoint, PostgresSpec, PostgresStrategy, TlsMode, TlsSpec,
};
use rekeyd::secret::{Credential, SecretValue, ValueSpec};
use rekeyd::target::postgres::{Pool, PostgresTarget};
use rekeyd::target::{AdminCredential, Attempt};
use serde::Deserialize;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A running server.
pub(crate) struct Server {
    at: Description,
    password: String,
    /// The folder of a private server. It is stopped and removed with this value.
    folder: Option<tempfile::TempDir>,
}

/// What the launcher says of a server.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) socket: String,
    pub(crate) superuser: String,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) log: PathBuf,
    pub(crate) data: PathBuf,
    password_file: PathBuf,
}

impl Server {
    /// The one that `make test` started.
    #[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
    pub(crate) fn shared() -> Self {
        let folder = std::env::var_os("REKEYD_TEST_SERVERS")
            .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers");
        Self::described_in(Path::new(&folder), None)
    }

    /// One of the test's own, started with these arguments of `deploy/dev/postgres start`.
    pub(crate) fn private(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        script("start", folder.path(), &[&["--no-fsync"], arguments].concat());
        let path = folder.path().to_owned();
        Self::described_in(&path, Some(folder))
    }

    /// Stops a private server, and starts it again on its data.
    pub(crate) fn restart(&mut self, arguments: &[&str], meanwhile: impl FnOnce(&Path)) {
        let folder = self.folder.take().expect("a private server");
        let path = folder.path().to_owned();
        script("stop", &path, &["--keep"]);
        meanwhile(&self.at.data);
        script("start", &path, &[&["--no-fsync"], arguments].concat());
        *self = Self::described_in(&path, Some(folder));
    }

    /// Stops a private server and keeps its description.
    pub(crate) fn stop(&self) {
        script("stop", self.folder.as_ref().expect("a private server").path(), &["--keep"]);
    }

    fn described_in(folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join("postgres.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        let at: Description = serde_json::from_str(&text).expect("a server's description");
        let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
        Self { at, password: password.trim_end().to_owned(), folder: owned }
    }

    pub(crate) fn at(&self) -> &Description {
        &self.at
    }

    /// Every statement that the server has counted.
    pub(crate) async fn statistics(&self) -> String {
        let session = self.superuser("postgres").await;
        // Two that make it at once are in each other's way.
        let extension = "SELECT pg_advisory_lock(7); CREATE EXTENSION IF NOT EXISTS pg_stat_statements";
        session.batch_execute(extension).await.expect("the extension");
        let query = "SELECT string_agg(query, ' ') FROM pg_stat_statements";
        session.query_one(query, &[]).await.expect("statistics").get(0)
    }

    /// A session of the superuser's.
    pub(crate) async fn superuser(&self, database: &str) -> Client {
        let login = self.connect(database, &self.at.superuser, &self.password).await;
        login.expect("a session of the superuser's")
    }

    /// A login by other code than the one under test, over the Unix socket.
    pub(crate) async fn connect(
        &self,
        database: &str,
        user: &str,
        password: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.host_path(&self.at.socket).port(self.at.port).dbname(database).user(user).password(password);
        config.application_name("the test").connect_timeout(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            script("stop", folder.path(), &[]);
        }
    }
}

fn script(verb: &str, folder: &Path, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/postgres");
    let output = Command::new(program).arg(verb).arg(folder).args(arguments).output().expect("the launcher");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A corner of a server for one test.
pub(crate) struct World {
    pub(crate) server: Server,
    /// A superuser's session in the test's database.
    pub(crate) root: Client,
    pub(crate) database: String,
    pub(crate) pool: Arc<Pool>,
    prefix: String,
    admin: Credential,
}

impl World {
    pub(crate) async fn shared() -> Self {
        Self::on(Server::shared()).await
    }

    /// In a database that others use too: to make one takes longer than most of what is done there.
    pub(crate) async fn small() -> Self {
        Self::made(Server::shared(), false).await
    }

    pub(crate) async fn on(server: Server) -> Self {
        Self::made(server, true).await
    }

    async fn made(server: Server, has_a_database: bool) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let database = if has_a_database { prefix.clone() } else { "postgres".to_owned() };
        if has_a_database {
            let setup = server.superuser("postgres").await;
            setup.batch_execute(&format!("CREATE DATABASE {prefix}")).await.expect("a database");
        }
        let root = server.superuser(&database).await;
        let admin = credential(&format!("{prefix}_admin"));
        root.batch_execute(&format!(
            "CREATE ROLE {prefix}_admin LOGIN CREATEROLE IN ROLE pg_signal_backend, pg_read_all_stats PASSWORD '{}';
             CREATE ROLE {prefix}_group NOLOGIN",
            verifier(text(&admin))
        ))
        .await
        .expect("an admin and a group");
        let pool = Arc::new(Pool::new(8, Duration::from_secs(60)));
        Self { server, root, database, pool, prefix, admin }
    }

    /// A role's name in this world.
    pub(crate) fn name(&self, suffix: &str) -> Principal {
        format!("{}_{suffix}", self.prefix).parse().expect("a principal")
    }

    /// Runs statements as the superuser; `{p}` stands for the prefix of the world's names.
    pub(crate) async fn sql(&self, statements: &str) {
        let statements = statements.replace("{p}", &self.prefix);
        self.root.batch_execute(&statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The first column of a query's rows, as text.
    pub(crate) async fn rows(&self, query: &str) -> Vec<String> {
        let query = query.replace("{p}", &self.prefix);
        let messages = self.root.simple_query(&query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        rows.collect()
    }

    pub(crate) async fn row(&self, query: &str) -> String {
        self.rows(query).await.into_iter().next().unwrap_or_else(|| panic!("no row: {query}"))
    }

    /// Opens a session as an application would.
    pub(crate) async fn connect(&self, credential: &Credential) -> Result<Client, tokio_postgres::Error> {
        self.server.connect(&self.database, credential.principal.as_str(), text(credential)).await
    }

    /// Whether the database lets a credential in. Anything but a verdict on it is a failed test.
    pub(crate) async fn accepts(&self, credential: &Credential) -> bool {
        match self.connect(credential).await {
            Ok(_) => true,
            Err(error) => {
                let code = error.code().map_or("none", |code| code.code());
                assert!(["28P01", "28000"].contains(&code), "no verdict: {error:?}");
                false
            }
        }
    }

    pub(crate) fn endpoint(&self) -> PostgresEndpoint {
        PostgresEndpoint {
            host: self.server.at.host.clone(),
            port: self.server.at.port,
            database: self.database.clone(),
            tls: plaintext(),
        }
    }

    /// The pair `a` and `b`, members of the group.
    pub(crate) fn alternating(&self) -> PostgresSpec {
        let users = [self.name("a"), self.name("b")];
        let member_of = vec![self.name("group")];
        self.spec(PostgresStrategy::Alternating(AlternatingSpec { users, member_of }))
    }

    /// The one user `a`.
    pub(crate) fn in_place(&self) -> PostgresSpec {
        self.spec(PostgresStrategy::InPlace(InPlaceSpec { user: self.name("a") }))
    }

    fn spec(&self, strategy: PostgresStrategy) -> PostgresSpec {
        let admin = "orders-admin".parse().expect("a label");
        PostgresSpec { endpoint: self.endpoint(), also_verify: Vec::new(), admin, strategy, check: None }
    }

    pub(crate) fn target(&self, spec: PostgresSpec) -> PostgresTarget {
        PostgresTarget::new(spec, known(&self.admin), Arc::clone(&self.pool))
    }

    /// Puts lines in front of a private server's `pg_hba.conf`, in place of those put there before, and
    /// returns when new logins go by them.
    pub(crate) async fn set_hba(&self, lines: &str) {
        let hba = self.server.at.data.join("pg_hba.conf");
        let original = hba.with_extension("original");
        if !original.exists() {
            std::fs::copy(&hba, &original).expect("a copy");
        }
        let rest = std::fs::read_to_string(&original).expect("pg_hba.conf");
        std::fs::write(&hba, format!("{lines}\n{rest}")).expect("written");
        let before = self.row("SELECT pg_conf_load_time()").await;
        self.sql("SELECT pg_reload_conf()").await;
        soon("the server reads its configuration", async || {
            let session = self.server.superuser("postgres").await;
            let row = session.query_one("SELECT pg_conf_load_time()::text", &[]).await.expect("a row");
            row.get::<_, String>(0) != before
        })
        .await;
    }

    /// Returns when no session of a role is left: the server ends one some time after its client did.
    pub(crate) async fn idle(&self, role: &Principal) {
        let watcher = self.server.superuser("postgres").await;
        let query = "SELECT pid FROM pg_stat_activity WHERE usename = $1";
        let none = async || watcher.query(query, &[&role.as_str()]).await.expect("the server").is_empty();
        soon("the role is idle", none).await;
    }

    pub(crate) fn admin(&self) -> &Credential {
        &self.admin
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.server.folder.is_some() {
            return;
        }
        let server =
            Server { at: self.server.at.clone(), password: self.server.password.clone(), folder: None };
        let prefix = self.prefix.clone();
        // A runtime of its own: the test's own cannot be waited for from here.
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let root = server.superuser("postgres").await;
                let like = format!("starts_with(usename, '{prefix}')");
                let end =
                    format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {like}");
                root.simple_query(&end).await.expect("ended sessions");
                let names = format!(
                    "SELECT quote_ident(datname) FROM pg_database WHERE starts_with(datname, '{prefix}')"
                );
                for row in root.query(&names, &[]).await.expect("the databases") {
                    let name: String = row.get(0);
                    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
                    root.batch_execute(&drop).await.expect("a dropped database");
                }
                let names = format!(
                    "SELECT quote_ident(rolname) FROM pg_roles WHERE starts_with(rolname, '{prefix}')"
                );
                for row in root.query(&names, &[]).await.expect("the roles") {
                    let name: String = row.get(0);
                    root.batch_execute(&format!("DROP ROLE {name}")).await.expect("a dropped role");
                }
            });
        });
        let outcome = cleaning.join();
        if !std::thread::panicking() {
            outcome.expect("the world was cleaned up");
        }
    }
}

/// What the server keeps of a password: the server's log shows statements.
pub(crate) fn verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

/// An admin credential that is known.
pub(crate) fn known(credential: &Credential) -> Arc<dyn AdminCredential> {
    Arc::new(Known(credential.duplicate()))
}

struct Known(Credential);

#[async_trait]
impl AdminCredential for Known {
    async fn credential(&self) -> Result<Credential, Failure> {
        Ok(self.0.duplicate())
    }
}

/// Waits for what a server does in its own time and does not report.
pub(crate) async fn soon(what: &str, is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            // A pause: whoever looks all the time takes the machine away from what is waited for.
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(10), wait).await;
    outcome.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// An attempt that owns its names.
#[derive(Clone)]
pub(crate) struct Try {
    pub(crate) policy: PolicyName,
    pub(crate) rotation: RotationId,
    pub(crate) version: Version,
    pub(crate) fence: Fence,
}

impl Try {
    /// The attempt with this fence, of a rotation of its own.
    pub(crate) fn new(fence: u64) -> Self {
        let policy = "orders/orders-db".parse().expect("a policy name");
        let rotation = RotationId::generate();
        Self { policy, rotation, version: Version::new(fence), fence: Fence::new(fence) }
    }

    pub(crate) fn attempt(&self) -> Attempt<'_> {
        let Self { policy, rotation, version, fence } = self;
        Attempt { policy, rotation: *rotation, version: *version, fence: *fence }
    }
}

/// A credential with a new value.
pub(crate) fn credential(principal: &str) -> Credential {
    Credential::new(principal.parse().expect("a principal"), ValueSpec::default().generate())
}

/// A credential with this value.
pub(crate) fn credential_of(principal: &Principal, value: &str) -> Credential {
    Credential::new(principal.clone(), SecretValue::new(value.as_bytes().to_vec()))
}

pub(crate) fn text(credential: &Credential) -> &str {
    credential.value.expose_str().expect("text")
}

pub(crate) fn plaintext() -> TlsSpec {
    TlsSpec { mode: TlsMode::Disable, ca_file: None, allow_plaintext: true }
}
