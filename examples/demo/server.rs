//! A database server as `deploy/dev/postgres` describes it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio_postgres::{Client, Config, NoTls};

use super::Outcome;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    superuser: String,
    password_file: PathBuf,
    pub(super) ca_file: Option<PathBuf>,
}

impl Server {
    pub(super) fn read(run: &Path) -> Outcome<Self> {
        Ok(serde_json::from_slice(&fs::read(run.join("postgres.json"))?)?)
    }

    pub(super) async fn superuser(&self, database: &str) -> Outcome<Client> {
        let mut config = Config::new();
        config.host(&self.host).port(self.port).dbname(database).user(&self.superuser);
        config.password(fs::read_to_string(&self.password_file)?.trim());
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A database `orders` with something in it, an administrator for rekeyd, and a group that applications are
    /// members of. The administrator's password.
    pub(super) async fn fill(&self) -> Outcome<String> {
        let value = rekeyd::secret::ValueSpec::default().generate();
        let admin = String::from_utf8_lossy(value.expose()).into_owned();
        let verifier = postgres_protocol::password::scram_sha_256(admin.as_bytes());
        let server = self.superuser("postgres").await?;
        server
            .batch_execute(&format!(
                "create role rekeyd login createrole password '{verifier}' in role pg_signal_backend, pg_read_all_stats; \
                 create role orders_app nologin"
            ))
            .await?;
        server.batch_execute("create database orders").await?;
        let orders = self.superuser("orders").await?;
        orders
            .batch_execute(
                "create table orders (id int primary key, item text not null); \
                 insert into orders select n, 'item ' || n from generate_series(1, 1000) n; \
                 grant select on orders to orders_app",
            )
            .await?;
        Ok(admin)
    }
}
