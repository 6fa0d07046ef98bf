//! A real Gitea: the shared one that `make test` starts, and private ones on the PostgreSQL that it starts.
//!
//! Each test has a [`World`] of its own there: a user, whose tokens go with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use rekeyd::ident::RotationId;
use rekeyd::secret::{Credential, ValueSpec};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::postgres_support::{credential, text};

/// A running server.
pub(crate) struct Server {
    at: Description,
    /// The folder of a private one. It is stopped and removed with this value.
    folder: Option<tempfile::TempDir>,
}

/// What the launcher says of it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    host: String,
    port: u16,
    superuser: String,
    password_file: PathBuf,
    database: String,
}

impl Server {
    /// The one that `make test` started.
    pub(crate) fn shared() -> Self {
        Self::described_in(&servers(), None)
    }

    /// One of the test's own.
    pub(crate) fn private() -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        std::fs::copy(servers().join("postgres.json"), folder.path().join("postgres.json"))
            .expect("a PostgreSQL: run the tests with `make test`");
        script("start", folder.path()).expect("it starts");
        let path = folder.path().to_owned();
        Self::described_in(&path, Some(folder))
    }

    fn described_in(folder: &Path, owned: Option<tempfile::TempDir>) -> Self {
        let file = folder.join("gitea.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}: run the tests with `make test`", file.display()));
        Self { at: serde_json::from_str(&text).expect("a description"), folder: owned }
    }

    /// Where its API is, as policies name it.
    pub(crate) fn base(&self) -> String {
        format!("http://{}:{}", self.at.host, self.at.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.at.port
    }

    /// The name of its database.
    pub(crate) fn database(&self) -> &str {
        &self.at.database
    }

    /// A request of the superuser's, by other code than the one under test; the answer's body.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        ask(&self.at, &self.superuser(), method, path, &body).await
    }

    /// Who may do everything there.
    pub(crate) fn superuser(&self) -> Credential {
        superuser(&self.at)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let stopped = script("stop", folder.path());
            if !std::thread::panicking() {
                stopped.expect("it stopped");
            }
        }
    }
}

/// A user of the test's own.
pub(crate) struct World {
    pub(crate) server: Server,
    /// Name and password.
    pub(crate) user: Credential,
}

impl World {
    pub(crate) async fn shared() -> Self {
        Self::on(Server::shared()).await
    }

    pub(crate) async fn on(server: Server) -> Self {
        let id = RotationId::generate().to_string().replace('-', "");
        // The last digits of such an id are random; the first are a time.
        let user = credential(&format!("t{}", &id[16..]));
        let name = user.principal.as_str();
        let fields = json!({
            "username": name, "email": format!("{name}@example.com"), "password": text(&user),
            "must_change_password": false,
        });
        server.ask("POST", "admin/users", fields).await;
        Self { server, user }
    }

    /// Somebody makes a token of the user's by hand.
    pub(crate) async fn token(&self, name: &str, scopes: &[&str]) -> Credential {
        let path = format!("users/{}/tokens", self.user.principal);
        let made =
            ask(&self.server.at, &self.user, "POST", &path, &json!({"name": name, "scopes": scopes})).await;
        let value = made["sha1"].as_str().expect("a value");
        let id = made["id"].as_u64().expect("an id").to_string();
        crate::postgres_support::credential_of(&id.parse().expect("a principal"), value)
    }

    /// Somebody deletes a token.
    pub(crate) async fn delete(&self, token: &Credential) {
        let path = format!("users/{}/tokens/{}", self.user.principal, token.principal);
        ask(&self.server.at, &self.user, "DELETE", &path, &Value::Null).await;
    }

    /// An administrator changes the user.
    pub(crate) async fn change(&self, fields: Value) {
        let mut fields = fields;
        fields["login_name"] = self.user.principal.as_str().into();
        fields["source_id"] = 0.into();
        self.server.ask("PATCH", &format!("admin/users/{}", self.user.principal), fields).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.server.folder.is_some() {
            return;
        }
        let (at, name) = (self.server.at.clone(), self.user.principal.clone());
        // A runtime of its own: the test's own cannot be waited for from here.
        let cleaning = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let path = format!("admin/users/{name}?purge=true");
            runtime.block_on(ask(&at, &superuser(&at), "DELETE", &path, &Value::Null))
        });
        let outcome = cleaning.join();
        if !std::thread::panicking() {
            outcome.expect("the world was cleaned up");
        }
    }
}

/// A value that nobody has.
pub(crate) fn made_up(like: &Credential) -> Credential {
    Credential::new(like.principal.clone(), ValueSpec::default().generate())
}

fn superuser(at: &Description) -> Credential {
    let password = std::fs::read_to_string(&at.password_file).expect("the superuser's password");
    crate::postgres_support::credential_of(&at.superuser.parse().expect("a principal"), &password)
}

async fn ask(at: &Description, who: &Credential, method: &str, path: &str, body: &Value) -> Value {
    let login = format!("{}:{}", who.principal, text(who));
    let login = base64::engine::general_purpose::STANDARD.encode(login);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect((at.host.as_str(), at.port)).await.expect("the server");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status: u16 = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(status < 300, "{method} {path}: {status} {body}");
    serde_json::from_str(body).unwrap_or(Value::Null)
}

#[expect(clippy::disallowed_methods, reason = "tells tests where the shared servers are")]
fn servers() -> PathBuf {
    let folder = std::env::var_os("REKEYD_TEST_SERVERS");
    folder
        .expect("REKEYD_TEST_SERVERS is not set: run the tests with `make test`, which starts servers")
        .into()
}

fn script(verb: &str, folder: &Path) -> Result<(), String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/gitea");
    let output = Command::new(program).arg(verb).arg(folder).output().expect("the launcher");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
