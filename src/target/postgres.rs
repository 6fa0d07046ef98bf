//! PostgreSQL roles as a target.
//!
//! A value never travels to the server: the SCRAM verifier is computed here, and logins prove knowledge
//! of the value. Each change is one transaction on one role:
//!
//! 1. wait for the role's lock, read what there is to know about it ([`facts`], one round trip);
//! 2. decide ([`marker`] says whether this attempt still holds its claim, [`pair`] what is to be mended);
//! 3. password, marker and commit together (one more round trip).
//!
//! If the process dies before 3, the server rolls back. If it dies in 3, the marker tells the next one
//! whether it happened. The lock spares two attempts from meeting; what makes a late one harmless is the
//! marker. Advisory locks are per database: should two attempts reach one role through different
//! databases, the server lets the second fail with "tuple concurrently updated", which is retried.
//!
//! The admin role needs `CREATEROLE` (from PostgreSQL 16 on with `ADMIN OPTION` on the roles and their
//! groups) and membership in `pg_signal_backend` and `pg_read_all_stats`. Superuser is not needed.
//! Tested on PostgreSQL 15; where 16 and later differ, the code says so.

mod connect;
mod error;
mod facts;
mod farewell;
mod install;
mod pair;
mod planned;
mod pool;
mod preflight;
mod probe;
mod retire;
mod sessions;
mod sql;
mod witness;

use std::sync::Arc;

use async_trait::async_trait;

use self::pool::Lease;
pub use self::pool::Pool;
pub use super::dial::Deadlines;
use super::{
    AdminCredential, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired,
    Target, Usage,
};
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::{PostgresSpec, PostgresStrategy};
use crate::secret::Credential;

/// A role or a pair of roles on one server.
pub struct PostgresTarget {
    spec: PostgresSpec,
    admin: Arc<dyn AdminCredential>,
    pool: Arc<Pool>,
    deadlines: Deadlines,
}

impl PostgresTarget {
    /// `admin` yields the credential that the policy names, `pool` is shared by all targets.
    #[must_use]
    pub fn new(spec: PostgresSpec, admin: Arc<dyn AdminCredential>, pool: Arc<Pool>) -> Self {
        Self { spec, admin, pool, deadlines: Deadlines::default() }
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    async fn lease(&self) -> Result<Lease, Failure> {
        let Self { spec, admin, pool, deadlines } = self;
        pool.lease(&spec.endpoint, &spec.admin, &**admin, deadlines).await
    }

    /// Waits until no session of rekeyd's own is left of a role.
    async fn settled(&self, principal: &Principal) {
        self.pool.farewells().settled(&self.spec.endpoint, principal).await;
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, role: &Principal) -> String {
        format!("{verb} role {role} on {}", self.spec.endpoint)
    }

    fn groups(&self) -> &[Principal] {
        match &self.spec.strategy {
            PostgresStrategy::Alternating(pair) => &pair.member_of,
            PostgresStrategy::InPlace(_) => &[],
        }
    }
}

#[async_trait]
impl Target for PostgresTarget {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        install::install(self, request).await
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        probe::probe(self, credential, depth).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let doing = self.doing("list sessions of", principal);
        self.settled(principal).await;
        let lease = self.lease().await?;
        let usage = sessions::usage(lease.session(), principal, &self.deadlines, &doing).await?;
        lease.give_back();
        Ok(usage)
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        retire::retire(self, request).await
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }
}

/// A role's name as it stands in statements.
#[cfg(feature = "proving")]
pub(crate) fn quoted(role: &crate::ident::Principal) -> String {
    sql::ident(role.as_str())
}
