//! Real MariaDB servers: the shared one that `make test` starts, and private ones.
//!
//! Each test has a [`World`] of its own in a server: accounts with a prefix and an admin that is no superuser.
//! It leaves nothing behind. Applications are MariaDB's own client program, which shares no code with rekeyd.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rekeyd::ident::{Principal, RotationId};
use rekeyd::policy::spec::{
    AlternatingSpec, InPlaceSpec, MysqlAuthentication, MysqlEndpoint, MysqlSpec, MysqlStrategy,
};
use rekeyd::secret::Credential;
use rekeyd::target::mysql::{MysqlTarget, Pool};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::postgres_support::{credential, known, plaintext, text};

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
    /// The log of all statements.
    pub(crate) statements: PathBuf,
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

    /// One of the test's own, started with these arguments of `deploy/dev/mariadb start`.
    pub(crate) fn private(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        script("start", folder.path(), &[&["--no-sync"], arguments].concat());
        let path = folder.path().to_owned();
        Self::described_in(&path, Some(folder))
    }

    /// Stops a private server, and starts it again on its data.
    pub(crate) fn restart(&mut self, arguments: &[&str]) {
        let folder = self.folder.take().expect("a private server");
        let path = folder.path().to_owned();
        script("stop", &path, &["--keep"]);
        script("start", &path, &[&["--no-sync"], arguments].concat());
        *self = Self::described_in(&path, Some(folder));
    }

    fn described_in(folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join("mariadb.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        let at: Description = serde_json::from_str(&text).expect("a server's description");
        let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
        Self { at, password: password.trim_end().to_owned(), folder: owned }
    }

    pub(crate) fn at(&self) -> &Description {
        &self.at
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
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/mariadb");
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
}

impl World {
    pub(crate) async fn shared() -> Self {
        Self::on(Server::shared()).await
    }

    pub(crate) async fn on(server: Server) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let prefix = format!("t{}", &id[16..]);
        let root =
            Client::open(&server, &server.at.superuser, &server.password).await.expect("the superuser");
        let admin = credential(&format!("{prefix}_admin"));
        let world =
            Self { server, root: tokio::sync::Mutex::new(root), pool: Arc::new(Pool::new(8)), prefix, admin };
        world
            .sql(&format!(
                "CREATE USER '{{p}}_admin'@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{}');
                 GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO '{{p}}_admin'@'%';
                 GRANT SELECT, UPDATE ON mysql.* TO '{{p}}_admin'@'%';
                 GRANT ALL ON rekeyd.* TO '{{p}}_admin'@'%';
                 CREATE ROLE '{{p}}_group'; GRANT '{{p}}_group' TO '{{p}}_admin'@'%' WITH ADMIN OPTION",
                text(&world.admin)
            ))
            .await;
        world
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
            tls: plaintext(),
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
        MysqlSpec { authentication, ..self.spec(strategy) }
    }

    fn spec(&self, strategy: MysqlStrategy) -> MysqlSpec {
        MysqlSpec {
            endpoint: self.endpoint(),
            also_verify: Vec::new(),
            admin: "orders-admin".parse().expect("a label"),
            account_host: "%".to_owned(),
            authentication: None,
            strategy,
            check: None,
        }
    }

    pub(crate) fn target(&self, spec: MysqlSpec) -> MysqlTarget {
        MysqlTarget::new(spec, known(&self.admin), Arc::clone(&self.pool))
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
                .args(["--no-defaults", "--batch", "--raw", "--skip-column-names", "--force"])
                .arg(format!("--socket={}", self.server.at.socket))
                .arg(format!("--user={}", self.server.at.superuser))
                .arg(format!("--execute={}", statements.replace("{p}", &self.prefix)))
                .env("MYSQL_PWD", &self.server.password)
                .output()
                .expect("the client program");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        // `QUOTE` writes names as they stand in statements.
        let (_, statements) = run(
            "SELECT CONCAT('KILL ', ID, ';') FROM information_schema.PROCESSLIST WHERE LEFT(USER, 17) = '{p}';
             SELECT CONCAT('DROP ROLE ', QUOTE(User), ';') FROM mysql.user WHERE LEFT(User, 17) = '{p}' AND is_role = 'Y';
             SELECT CONCAT('DROP USER ', QUOTE(User), '@', QUOTE(Host), ';') FROM mysql.user
               WHERE LEFT(User, 17) = '{p}' AND is_role = 'N';
             SELECT CONCAT('DROP DATABASE `', SCHEMA_NAME, '`;') FROM information_schema.SCHEMATA
               WHERE LEFT(SCHEMA_NAME, 17) = '{p}'",
        );
        run(&statements);
        run("DELETE FROM rekeyd.accounts WHERE LEFT(user, 17) = '{p}'");
        let left = run("SELECT User FROM mysql.user WHERE LEFT(User, 17) = '{p}'");
        if !std::thread::panicking() {
            assert_eq!(left, (true, String::new()), "the world was not cleaned up");
        }
    }
}
