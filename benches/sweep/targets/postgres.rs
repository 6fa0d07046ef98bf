//! PostgreSQL: a password that changes in place.

use std::path::Path;

use async_trait::async_trait;
use tokio_postgres::Client as Session;

use super::{Client, Server, value};
use crate::fleet::Target;
use crate::postgres::{Postgres, verifier};
use crate::{Outcome, beside};

/// The limits that rekeyd sets for each transaction, in one statement.
const SETTINGS: &str = "SELECT set_config('statement_timeout', '12000', true), set_config('lock_timeout', '9000', true), \
    set_config('idle_in_transaction_session_timeout', '15000', true), \
    set_config('search_path', 'pg_catalog, pg_temp', true)";

pub(super) struct Bench {
    server: std::sync::Arc<Postgres>,
    version: String,
}

impl Bench {
    pub(super) async fn start(run: &Path, admin: &Path) -> Outcome<Self> {
        let options = ["--", "-c", "log_statement=none", "-c", "shared_preload_libraries="];
        let server = Postgres::start(run, &options, admin).await?;
        for (prefix, login) in [("rotated", "nologin"), ("bare", "login")] {
            beside::create_users(&server, prefix, login).await?;
        }
        let version = server.version().await?;
        Ok(Self { server: std::sync::Arc::new(server), version })
    }
}

#[async_trait]
impl Server for Bench {
    fn version(&self) -> String {
        self.version.clone()
    }

    fn target(&self) -> Target {
        let endpoint = self.server.endpoint(false);
        Box::new(move |number| {
            let strategy = format!("{{inPlace: {{user: rotated_{number}}}}}");
            format!("{{postgres: {{endpoint: {endpoint}, admin: admin, strategy: {strategy}}}}}")
        })
    }

    fn firsts(&self) -> usize {
        1
    }

    async fn client(&self) -> Outcome<Box<dyn Client>> {
        let admin = self.server.superuser().await?;
        Ok(Box::new(Bare { server: self.server.clone(), admin }))
    }
}

/// It keeps its session, as rekeyd does.
struct Bare {
    server: std::sync::Arc<Postgres>,
    admin: Session,
}

#[async_trait]
impl Client for Bare {
    async fn rotate(&mut self, user: usize, round: usize) -> Outcome<()> {
        let role = format!("bare_{user}");
        let (new, old) = (value(round), value(round + 1));
        let sessions = format!("FROM pg_stat_activity WHERE usename = '{role}' AND pid <> pg_backend_pid()");
        let look = format!(
            "BEGIN; {SETTINGS}; SELECT pg_advisory_xact_lock(7, {user}); \
             SELECT r.*, shobj_description(r.oid, 'pg_authid'), r.rolpassword IS NULL, \
               (SELECT json_agg(m.*) FROM pg_auth_members m WHERE m.member = r.oid OR m.roleid = r.oid), \
               (SELECT json_agg(s.setconfig) FROM pg_db_role_setting s WHERE s.setrole = r.oid), \
               (SELECT count(*) {sessions}) \
             FROM pg_authid r WHERE r.rolname = '{role}'"
        );
        self.admin.batch_execute(&look).await?;
        let kept = verifier(new);
        let change = format!(
            "ALTER ROLE {role} LOGIN PASSWORD '{kept}'; COMMENT ON ROLE {role} IS 'version={round}'; COMMIT; \
             SELECT clock_timestamp()"
        );
        self.admin.batch_execute(&change).await?;
        self.server.session(&role, new).await?;
        let end = format!(
            "{SETTINGS}; SELECT pid {sessions}; \
             SELECT pg_terminate_backend(pid) {sessions} AND backend_start < now() - interval '1 hour'"
        );
        self.admin.batch_execute(&end).await?;
        let list = format!("BEGIN READ ONLY; {SETTINGS}; SELECT * {sessions}; COMMIT");
        self.admin.batch_execute(&list).await?;
        match self.server.session(&role, old).await {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{role} is let in with its earlier value").into()),
        }
    }
}
