//! Real servers of MariaDB and MySQL 8: the shared ones that `make test` starts, and private ones.
//!
//! Each test has a [`World`] of its own in a server: accounts with a prefix and an admin that is no superuser.
//! It leaves nothing behind. Applications are MariaDB's own client program, which shares no code with rekeyd and knows
//! both servers' ways to log in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rekeyd::ident::{Principal, RotationId};
use rekeyd::policy::spec::{
    AlternatingSpec, InPlaceSpec, MysqlAuthentication, MysqlEndpoint, MysqlSpec, MysqlStrategy, TlsMode,
    TlsSpec,
};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::{MysqlTarget, Pool};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::postgres_support::{credential, known, plaintext, text};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    MariaDb,
    MySql,
}

impl Kind {
    /// What is said to this server.
    pub(crate) const fn says<T: Copy>(self, to_mariadb: T, to_mysql: T) -> T {
        match self {
            Self::MariaDb => to_mariadb,
            Self::MySql => to_mysql,
        }
    }

    /// The script that starts it, and its name in a run folder.
    const fn name(self) -> &'static str {
        self.says("mariadb", "mysql")
    }

    /// How an account is to prove its value where nothing is said of it.
    pub(crate) const fn best(self) -> MysqlAuthentication {
        self.says(MysqlAuthentication::Ed25519, MysqlAuthentication::CachingSha2)
    }

    /// The clause that gives an account this password in the best way.
    pub(crate) fn identified(self, password: &str) -> String {
        match self {
            Self::MariaDb => format!("IDENTIFIED VIA ed25519 USING PASSWORD('{password}')"),
            Self::MySql => format!("IDENTIFIED WITH caching_sha2_password BY '{password}'"),
        }
    }

    /// Or in the way that any client knows, and that needs no protected connection.
    pub(crate) fn identified_plainly(self, password: &str) -> String {
        match self {
            Self::MariaDb => format!("IDENTIFIED VIA mysql_native_password USING PASSWORD('{password}')"),
            Self::MySql => format!("IDENTIFIED WITH mysql_native_password BY '{password}'"),
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) kind: Kind,
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
    /// The log of all statements.
    pub(crate) statements: PathBuf,
    password_file: PathBuf,
}

impl Server {
    /// The one that `make test` started.
    #[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
    pub(crate) fn shared(kind: Kind) -> Self {
        let folder = std::env::var_os("REKEYD_TEST_SERVERS")
            .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers");
        Self::described_in(kind, Path::new(&folder), None)
    }

    /// One of the test's own, started with these arguments of `deploy/dev/mariadb start`, or MySQL's.
    pub(crate) fn private(kind: Kind, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        script(kind, "start", folder.path(), &[&["--no-sync"], arguments].concat());
        let path = folder.path().to_owned();
        Self::described_in(kind, &path, Some(folder))
    }

    /// Stops a private server, and starts it again on its data.
    pub(crate) fn restart(&mut self, arguments: &[&str]) {
        let folder = self.folder.take().expect("a private server");
        let path = folder.path().to_owned();
        script(self.kind, "stop", &path, &["--keep"]);
        script(self.kind, "start", &path, &[&["--no-sync"], arguments].concat());
        *self = Self::described_in(self.kind, &path, Some(folder));
    }

    fn described_in(kind: Kind, folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join(kind.name()).with_extension("json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        let at: Description = serde_json::from_str(&text).expect("a server's description");
        let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
        Self { kind, at, password: password.trim_end().to_owned(), folder: owned }
    }

    pub(crate) fn at(&self) -> &Description {
        &self.at
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            script(self.kind, "stop", folder.path(), &[]);
        }
    }
}

fn script(kind: Kind, verb: &str, folder: &Path, arguments: &[&str]) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev").join(kind.name());
    let output = Command::new(program).arg(verb).arg(folder).args(arguments).output().expect("the launcher");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A session of the client program's.
pub(crate) struct Client {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Ends what a statement returned.
const END: &str = "end of the answer";

impl Client {
    /// # Errors
    /// What the client program says when it cannot log in.
    pub(crate) async fn open(server: &Server, user: &str, password: &str) -> Result<Self, String> {
        // Both outputs are one, so that an error stands where it belongs.
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "exec mariadb \"$@\" 2>&1", "sh", "--no-defaults", "--batch", "--skip-column-names"])
            .args(["--unbuffered", "--force", "--skip-reconnect", "--default-character-set=utf8mb4"])
            // A Unix socket needs none, and a value may be handed over it.
            .arg("--skip-ssl")
            .arg(format!("--socket={}", server.at.socket))
            .arg(format!("--user={user}"))
            .env("MYSQL_PWD", password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the client program");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut client = Self { child, input, output: BufReader::new(output).lines() };
        client.query("SELECT 1").await?;
        Ok(client)
    }

    /// The rows of a query, with a tab between columns; or the server's error.
    pub(crate) async fn query(&mut self, statements: &str) -> Result<Vec<String>, String> {
        // Who has ended does not listen.
        let _ = self.input.write_all(format!("{statements};\nSELECT '{END}';\n").as_bytes()).await;
        let _ = self.input.flush().await;
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let Some(line) = self.output.next_line().await.expect("its output") else {
                return Err(error.unwrap_or_else(|| "the client program has ended".to_owned()));
            };
            if line == END {
                return error.map_or(Ok(rows), Err);
            }
            if line.starts_with("ERROR ") {
                let is_gone = ["ERROR 2006", "ERROR 2013", "ERROR 1927", "ERROR 4031"];
                if is_gone.iter().any(|gone| line.starts_with(gone)) {
                    return Err(line);
                }
                error = Some(line);
            } else if !line.starts_with("--------------") {
                rows.push(line);
            }
        }
    }

    /// Ends it and waits until the program has ended.
    pub(crate) async fn close(mut self) {
        drop(self.input);
        let _ = self.child.wait().await;
    }
}

/// A corner of a server for one test.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) root: tokio::sync::Mutex<Client>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) prefix: String,
    admin: Credential,
    is_plain: bool,
}

impl World {
    pub(crate) async fn shared(kind: Kind) -> Self {
        Self::on(Server::shared(kind)).await
    }

    pub(crate) async fn on(server: Server) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let root =
            Client::open(&server, &server.at.superuser, &server.password).await.expect("the superuser");
        let admin = credential(&format!("{prefix}_admin"));
        let world = Self {
            server,
            root: tokio::sync::Mutex::new(root),
            pool: Arc::new(Pool::new(8)),
            prefix,
            admin,
            is_plain: false,
        };
        let rights = world.kind().says(
            "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO '{p}_admin'@'%';
             GRANT SELECT, UPDATE ON mysql.* TO '{p}_admin'@'%';
             GRANT ALL ON rekeyd.* TO '{p}_admin'@'%'",
            "GRANT CREATE USER, PROCESS, CONNECTION_ADMIN ON *.* TO '{p}_admin'@'%';
             GRANT SELECT ON mysql.* TO '{p}_admin'@'%'",
        );
        let identified = world.kind().identified(text(&world.admin));
        world
            .sql(&format!(
                "CREATE USER '{{p}}_admin'@'%' {identified}; {rights};
                 CREATE ROLE '{{p}}_group'; GRANT '{{p}}_group' TO '{{p}}_admin'@'%' WITH ADMIN OPTION"
            ))
            .await;
        world
    }

    /// Has all logins prove their values in the way that needs no protected connection, for tests that read along.
    pub(crate) async fn plainly(mut self) -> Self {
        if self.kind() == Kind::MySql {
            let identified = self.kind().identified_plainly(text(&self.admin));
            self.sql(&format!("ALTER USER '{{p}}_admin'@'%' {identified}")).await;
            self.is_plain = true;
        }
        self
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.server.kind
    }

    /// What rekeyd keeps of the user `a` there.
    pub(crate) async fn kept(&self) -> String {
        self.row(self.kind().says(
            "SELECT marker FROM rekeyd.accounts WHERE user = '{p}_a' AND host = '%'",
            "SELECT ATTRIBUTE->'$.rekeyd' FROM information_schema.USER_ATTRIBUTES WHERE USER = '{p}_a' AND HOST = '%'",
        ))
        .await
    }

    /// A user's name in this world.
    pub(crate) fn name(&self, suffix: &str) -> Principal {
        format!("{}_{suffix}", self.prefix).parse().expect("a principal")
    }

    /// Runs statements as the superuser; `{p}` stands for the prefix of the world's names.
    pub(crate) async fn sql(&self, statements: &str) {
        self.rows(statements).await;
    }

    /// A query's rows, with a tab between columns.
    pub(crate) async fn rows(&self, query: &str) -> Vec<String> {
        let query = query.replace("{p}", &self.prefix);
        let answer = self.root.lock().await.query(&query).await;
        answer.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    pub(crate) async fn row(&self, query: &str) -> String {
        self.rows(query).await.into_iter().next().unwrap_or_else(|| panic!("no row: {query}"))
    }

    /// Opens a session as an application would.
    pub(crate) async fn connect(&self, credential: &Credential) -> Result<Client, String> {
        Client::open(&self.server, credential.principal.as_str(), text(credential)).await
    }

    pub(crate) fn endpoint(&self) -> MysqlEndpoint {
        MysqlEndpoint {
            host: self.server.at.host.clone(),
            port: self.server.at.port,
            database: None,
            tls: self.tls(),
        }
    }

    /// What MySQL's own way to log in needs.
    fn tls(&self) -> TlsSpec {
        match &self.server.at.ca_file {
            Some(authority) if self.kind() == Kind::MySql && !self.is_plain => TlsSpec {
                mode: TlsMode::VerifyFull,
                ca_file: Some(authority.clone()),
                allow_plaintext: false,
            },
            _ => plaintext(),
        }
    }

    /// The pair `a` and `b`, which have the role.
    pub(crate) fn alternating(&self) -> MysqlSpec {
        let users = [self.name("a"), self.name("b")];
        let member_of = vec![self.name("group")];
        self.spec(MysqlStrategy::Alternating(AlternatingSpec { users, member_of }))
    }

    /// The one user `a`.
    pub(crate) fn in_place(&self) -> MysqlSpec {
        self.spec(MysqlStrategy::InPlace(InPlaceSpec { user: self.name("a") }))
    }

    /// The one user `a`, who takes two values.
    pub(crate) fn dual(&self, authentication: Option<MysqlAuthentication>) -> MysqlSpec {
        let strategy = MysqlStrategy::DualPassword(InPlaceSpec { user: self.name("a") });
        let spec = self.spec(strategy);
        MysqlSpec { authentication: authentication.or(spec.authentication), ..spec }
    }

    fn spec(&self, strategy: MysqlStrategy) -> MysqlSpec {
        MysqlSpec {
            endpoint: self.endpoint(),
            also_verify: Vec::new(),
            admin: "orders-admin".parse().expect("a label"),
            account_host: "%".to_owned(),
            authentication: self.is_plain.then_some(MysqlAuthentication::Native),
            strategy,
            check: None,
        }
    }

    pub(crate) fn target(&self, spec: MysqlSpec) -> MysqlTarget {
        MysqlTarget::new(spec, known(&self.admin), Arc::clone(&self.pool)).vouched(|_| true)
    }

    pub(crate) const fn admin(&self) -> &Credential {
        &self.admin
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.server.folder.is_some() {
            return;
        }
        let run = |statements: &str| {
            let output = Command::new("mariadb")
                .args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--force", "--skip-ssl"])
                .arg(format!("--socket={}", self.server.at.socket))
                .arg(format!("--user={}", self.server.at.superuser))
                .arg(format!("--execute={}", statements.replace("{p}", &self.prefix)))
                .env("MYSQL_PWD", &self.server.password)
                .output()
                .expect("the client program");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&output.stdout), text(&output.stderr))
        };
        // MySQL's roles are accounts; `QUOTE` writes names as they stand in statements.
        let accounts = self.kind().says(
            "SELECT CONCAT('DROP ROLE ', QUOTE(User), ';') FROM mysql.user WHERE LEFT(User, 17) = '{p}' AND is_role = 'Y';
             SELECT CONCAT('DROP USER ', QUOTE(User), '@', QUOTE(Host), ';') FROM mysql.user
               WHERE LEFT(User, 17) = '{p}' AND is_role = 'N'",
            "SELECT CONCAT('DROP USER ', QUOTE(User), '@', QUOTE(Host), ';') FROM mysql.user WHERE LEFT(User, 17) = '{p}'",
        );
        // By itself: a session may end before it is killed, and the client leaves off at that.
        let (kills, _) = run(
            "SELECT CONCAT('KILL ', ID, ';') FROM information_schema.PROCESSLIST WHERE LEFT(USER, 17) = '{p}'",
        );
        run(&kills);
        let (statements, refused) = run(&format!(
            "{accounts};
             SELECT CONCAT('DROP DATABASE `', SCHEMA_NAME, '`;') FROM information_schema.SCHEMATA
               WHERE LEFT(SCHEMA_NAME, 17) = '{{p}}'"
        ));
        let (_, failed) = run(&statements);
        if self.kind() == Kind::MariaDb {
            run("DELETE FROM rekeyd.accounts WHERE LEFT(user, 17) = '{p}'");
        }
        let (left, _) = run("SELECT User FROM mysql.user WHERE LEFT(User, 17) = '{p}'");
        if !std::thread::panicking() {
            assert_eq!(left, "", "the world was not cleaned up: {refused}{failed}");
        }
    }
}
