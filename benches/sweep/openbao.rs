//! The peer: OpenBao's database secrets engine with one static role for each user.
//!
//! Its own sweep takes what is due every five seconds, one role after the other. It does not try logins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rekeyd::clock::{Clock as _, SystemClock};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Outcome;
use super::postgres::Postgres;

/// How old its values may become. Longer than it is unsealed for at a time, so that nothing is due twice.
const PERIOD: Duration = Duration::from_secs(90);

/// A private server; it ends when this is dropped.
pub(super) struct OpenBao {
    run: PathBuf,
    address: String,
    token: String,
    unseal_key: String,
    pub(super) program: PathBuf,
    users: Vec<String>,
    rotated: Instant,
}

impl OpenBao {
    pub(super) async fn start(run: &Path) -> Outcome<Self> {
        if run.join("openbao").exists() {
            // Of a benchmark that was killed.
            script(&["stop"], Some(run))?;
        }
        let program = script(&["install"], None)?;
        script(&["start"], Some(run))?;
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Described {
            address: String,
            root_token_file: PathBuf,
            unseal_key_file: PathBuf,
        }
        let described: Described = serde_json::from_slice(&fs::read(run.join("openbao.json"))?)?;
        let text = |file: &Path| fs::read_to_string(file).map(|text| text.trim().to_owned());
        Ok(Self {
            run: run.to_owned(),
            address: described.address.trim_start_matches("http://").to_owned(),
            token: text(&described.root_token_file)?,
            unseal_key: text(&described.unseal_key_file)?,
            program: program.trim().into(),
            users: Vec::new(),
            rotated: Instant::now(),
        })
    }

    /// Makes a static role for each of the users, which rotates it for the first time, and seals.
    pub(super) async fn take_over(&mut self, server: &Postgres, users: Vec<String>) -> Outcome<()> {
        let mut caller = self.caller().await?;
        let admin = ("openbao", rekeyd::secret::ValueSpec::default().generate());
        let password = std::str::from_utf8(admin.1.expose())?;
        let verifier = super::postgres::verifier(password);
        let create = format!("create role {} login createrole password '{verifier}'", admin.0);
        server.superuser().await?.batch_execute(&create).await?;
        caller.call("POST", "sys/mounts/database", &json!({"type": "database"})).await?;
        let (host, port) = (&server.host, server.port);
        let url =
            format!("postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/postgres?sslmode=disable");
        let config = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "connection_url": url,
            "username": admin.0, "password": password, "password_authentication": "scram-sha-256",
            "max_open_connections": 8, "max_idle_connections": 8,
        });
        caller.call("POST", "database/config/bench", &config).await?;
        for user in &users {
            let role = json!({
                "db_name": "bench", "username": user, "rotation_period": PERIOD.as_secs(),
            });
            caller.call("POST", &format!("database/static-roles/{user}"), &role).await?;
        }
        self.users = users;
        self.seal().await
    }

    /// Lets everything become due and then its own sweep run, once. The time is that from the first to
    /// the last change at the database: what it takes for all but one.
    pub(super) async fn sweep(&mut self, server: &Postgres) -> Outcome<f64> {
        SystemClock.sleep((PERIOD + Duration::from_secs(1)).saturating_sub(self.rotated.elapsed())).await;
        let database = server.superuser().await?;
        let before = database.query_one("select now()::text", &[]).await?.get::<_, String>(0);
        let mut caller = self.caller().await?;
        caller.call("PUT", "sys/unseal", &json!({"key": self.unseal_key})).await?;
        while caller.call("GET", "sys/health", &Value::Null).await.is_err() {
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
        // Committed changes by their times: `track_commit_timestamp` is on.
        let look = format!(
            "select count(*), extract(epoch from max(at) - min(at))::float8 from (\
             select pg_xact_commit_timestamp(xmin) as at from pg_authid where rolname = any($1)) as change \
             where at > '{before}'"
        );
        let wanted = i64::try_from(self.users.len())?;
        loop {
            SystemClock.sleep(Duration::from_millis(250)).await;
            let row = database.query_one(&look, &[&self.users]).await?;
            if row.get::<_, i64>(0) == wanted {
                self.rotated = Instant::now();
                return Ok(row.get(1));
            }
        }
    }

    /// Has every role rotated on request, so many at a time, and says how long that took.
    pub(super) async fn rotate_all(&mut self, at_a_time: usize) -> Outcome<f64> {
        let mut callers = Vec::new();
        for share in self.users.chunks(self.users.len().div_ceil(at_a_time)) {
            callers.push((self.caller().await?, share.to_vec()));
        }
        let began = Instant::now();
        let mut work = JoinSet::new();
        for (mut caller, share) in callers {
            work.spawn(async move {
                for user in share {
                    let path = format!("database/rotate-role/{user}");
                    caller.call("POST", &path, &Value::Null).await.map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(done) = work.join_next().await {
            done??;
        }
        self.rotated = Instant::now();
        Ok(began.elapsed().as_secs_f64())
    }

    /// Puts it to rest, so that it does nothing while others are measured.
    pub(super) async fn seal(&mut self) -> Outcome<()> {
        self.caller().await?.call("PUT", "sys/seal", &Value::Null).await?;
        Ok(())
    }

    async fn caller(&self) -> Outcome<Caller> {
        let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(&self.address).await?)).await?;
        tokio::spawn(connection);
        Ok(Caller { sender, token: self.token.clone() })
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        if let Err(error) = script(&["stop"], Some(&self.run)) {
            eprintln!("{error}");
        }
    }
}

/// One connection to it.
struct Caller {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Caller {
    async fn call(&mut self, method: &str, path: &str, body: &Value) -> Outcome<()> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", "openbao")
            .header("x-vault-token", &self.token)
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(());
        }
        Err(format!("OpenBao: {method} {path}: {status} {}", String::from_utf8_lossy(&answer)).into())
    }
}

fn script(words: &[&str], run: Option<&Path>) -> Outcome<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/openbao");
    let output = Command::new(program).args(words).args(run).stderr(Stdio::inherit()).output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(format!("deploy/dev/openbao {}: {}", words[0], output.status).into())
    }
}
