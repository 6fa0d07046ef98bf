//! A private PostgreSQL.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use tokio_postgres::{Client, Config, NoTls};

use super::Outcome;
use super::site::ADMIN;

/// A private server with fsync on; it ends when this is dropped.
pub(crate) struct Postgres {
    pub(crate) run: PathBuf,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) superuser: String,
    pub(crate) password: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    host: String,
    port: u16,
    superuser: String,
    password_file: PathBuf,
    ca_file: Option<PathBuf>,
}

impl Postgres {
    /// Starts a server in `run`, and makes rekeyd's admin role with its password in `admin_file`.
    pub(crate) async fn start(run: &Path, options: &[&str], admin_file: &Path) -> Outcome<Self> {
        if run.join("postgres").exists() {
            // Of a benchmark that was killed.
            script(&["stop"], run, &[])?;
        }
        script(&["start"], run, options)?;
        let described: Described = serde_json::from_slice(&fs::read(run.join("postgres.json"))?)?;
        let server = Self {
            run: run.to_owned(),
            password: fs::read_to_string(&described.password_file)?.trim().to_owned(),
            host: described.host,
            port: described.port,
            ca_file: described.ca_file,
            superuser: described.superuser,
        };
        let password = write_password(admin_file)?;
        let client = server.superuser().await?;
        client
            .batch_execute(&format!(
                "create role {ADMIN} login createrole password '{}' in role pg_signal_backend, pg_read_all_stats",
                verifier(&password)
            ))
            .await?;
        let fsync: String = client.query_one("show fsync", &[]).await?.get(0);
        if fsync != "on" {
            return Err("the server does not sync what it writes".into());
        }
        Ok(server)
    }

    /// A session that may do everything.
    pub(crate) async fn superuser(&self) -> Outcome<Client> {
        self.session(&self.superuser, &self.password).await
    }

    /// A session of a role, in the clear over loopback; it ends when the client is dropped.
    pub(crate) async fn session(&self, role: &str, password: &str) -> Outcome<Client> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).dbname("postgres").user(role).password(password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// `PostgreSQL 15.18, fsync on`
    pub(crate) async fn version(&self) -> Outcome<String> {
        let version: String = self.superuser().await?.query_one("show server_version", &[]).await?.get(0);
        let number = version.split(' ').next().unwrap_or_default();
        Ok(format!("PostgreSQL {number} with fsync on"))
    }

    /// The endpoint as policies name it, in the clear or with TLS as the server has it.
    pub(crate) fn endpoint(&self, tls: bool) -> String {
        let tls = match &self.ca_file {
            Some(file) if tls => format!("{{mode: verify-full, caFile: {}}}", file.display()),
            _ => "{mode: disable}".into(),
        };
        format!("{{host: {}, port: {}, database: postgres, tls: {tls}}}", self.host, self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = script(&["stop"], &self.run, &[]) {
            eprintln!("{error}");
        }
    }
}

/// What a server keeps of a password.
pub(crate) fn verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

/// Makes up a password and writes it to a new file of the owner's.
pub(crate) fn write_password(file: &Path) -> Outcome<String> {
    let value = rekeyd::secret::ValueSpec::default().generate();
    let password = String::from_utf8_lossy(value.expose()).into_owned();
    write_private(file, &password)?;
    Ok(password)
}

pub(crate) fn write_private(file: &Path, text: &str) -> Outcome<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(file.write_all(text.as_bytes())?)
}

fn script(words: &[&str], run: &Path, options: &[&str]) -> Outcome<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/postgres");
    let status = Command::new(program).args(words).arg(run).args(options).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("deploy/dev/postgres {}: {status}", words[0]).into()) }
}
