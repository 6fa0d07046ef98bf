//! OpenBao's database secrets engine with one static role for each user of a PostgreSQL. It does not try
//! the values that it sets, and leaves sessions open.

use std::time::Duration;

use serde_json::json;

use super::Outcome;
use super::openbao::OpenBao;
use super::postgres::{Postgres, verifier};

/// Makes the static roles, which rotates each for the first time.
pub(crate) async fn make(
    openbao: &OpenBao,
    server: &Postgres,
    users: &[String],
    period: Duration,
) -> Outcome<()> {
    let value = rekeyd::secret::ValueSpec::default().generate();
    let password = std::str::from_utf8(value.expose())?;
    let create = format!("create role openbao login createrole password '{}'", verifier(password));
    server.superuser().await?.batch_execute(&create).await?;
    let mut caller = openbao.caller().await?;
    caller.call("POST", "sys/mounts/database", &json!({"type": "database"})).await?;
    let (host, port) = (&server.host, server.port);
    let url =
        format!("postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/postgres?sslmode=disable");
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "connection_url": url,
        "username": "openbao", "password": password, "password_authentication": "scram-sha-256",
        "max_open_connections": 8, "max_idle_connections": 8,
    });
    caller.call("POST", "database/config/bench", &config).await?;
    for user in users {
        let role = json!({"db_name": "bench", "username": user, "rotation_period": period.as_secs()});
        caller.call("POST", &format!("database/static-roles/{user}"), &role).await?;
    }
    Ok(())
}
