//! MariaDB and MySQL accounts as a target.
//!
//! A value never travels in a statement: what the server keeps of it is computed here ([`verifier`]), and
//! logins prove knowledge of the value. Each change of an account goes the same way, on a session that holds the
//! account's lock from 1 to 4:
//!
//! 1. take the lock, read what there is to know ([`facts`]);
//! 2. decide ([`marker`] says whether this attempt still holds its claim, [`pair`] what is to be mended);
//! 3. write marker, changes and password in one round trip ([`account`] has the statements);
//! 4. note the first session that begins after that, and that it is done.
//!
//! These servers know no transaction around such statements. [`marker`] tells what a death between two of
//! them means. None of them loses a value or lets a late attempt through.
//!
//! A server does not tell when a session began, but numbers its sessions. So a session opened after a
//! change divides them: what was numbered before it may have logged in before ([`marker::Mark`], [`marker::Numbers`]).
//!
//! A user's sessions are told apart by its name alone, so a user that has accounts for several hosts is refused:
//! one of them would have its sessions ended for the other, and a login would prove nothing about it.
//!
//! The admin needs `CREATE USER`, `PROCESS` and `CONNECTION ADMIN` (MySQL: `CONNECTION_ADMIN`), `SELECT` on
//! `mysql.*`, on MariaDB `UPDATE` on it too (for default roles) and everything on `rekeyd.*`, on MySQL `SYSTEM_USER`
//! if an account has it; and what it is to grant to a pair, with `GRANT OPTION` or `ADMIN OPTION` ([`rights`] finds
//! what is missing before a rotation does). `CREATE USER` alone can change any account,
//! `root` too: the admin's credential is worth as much as that one's.
//!
//! Nothing here touches `sql_log_bin`: changes are replicated as any others are.
//!
//! Tested on MariaDB 10.11 and MySQL 8.0.31.

mod account;
mod connect;
mod error;
mod facts;
mod hashing;
mod install;
mod marker;
mod pair;
mod pool;
mod preflight;
mod probe;
mod retire;
mod rights;
mod sessions;
mod sql;
mod verifier;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;

use self::connect::Session;
use self::facts::{Facts, Locking, Question};
use self::pool::Lease;
pub use self::pool::Pool;
pub use super::dial::Deadlines;
use super::{
    AdminCredential, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired,
    Target, Usage,
};
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::{MysqlEndpoint, MysqlSpec, MysqlStrategy};
use crate::secret::Credential;

/// An account or a pair of accounts on one server.
pub struct MysqlTarget {
    spec: MysqlSpec,
    admin: Arc<dyn AdminCredential>,
    pool: Arc<Pool>,
    deadlines: Deadlines,
    /// Hosts that the settings name.
    vouched: Vec<String>,
}

impl MysqlTarget {
    /// `admin` yields the credential that the policy names, `pool` is shared by all targets.
    #[must_use]
    pub fn new(spec: MysqlSpec, admin: Arc<dyn AdminCredential>, pool: Arc<Pool>) -> Self {
        Self { spec, admin, pool, deadlines: Deadlines::default(), vouched: Vec::new() }
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// That knows which hosts the settings name: to no other is a value itself handed, whoever asks for it.
    #[must_use]
    pub fn vouched(mut self, is_named: impl Fn(&str) -> bool) -> Self {
        let endpoints = std::iter::once(&self.spec.endpoint).chain(&self.spec.also_verify);
        self.vouched = endpoints.map(|at| at.host.clone()).filter(|host| is_named(host)).collect();
        self
    }

    fn vouches_for(&self, endpoint: &MysqlEndpoint) -> bool {
        self.vouched.contains(&endpoint.host)
    }

    async fn lease(&self) -> Result<Lease, Failure> {
        let Self { spec, admin, pool, deadlines, .. } = self;
        let vouched = self.vouches_for(&spec.endpoint);
        pool.lease(&spec.endpoint, &spec.admin, &**admin, vouched, deadlines).await
    }

    /// Another session of the admin's, for a moment.
    async fn beside(&self) -> Result<Session, Failure> {
        let Self { spec, admin, deadlines, .. } = self;
        let vouched = self.vouches_for(&spec.endpoint);
        pool::enter(&spec.endpoint, &spec.admin, &**admin, vouched, deadlines).await
    }

    /// Waits until no session of rekeyd's own is left of a user.
    async fn settled(&self, principal: &Principal) {
        self.pool.farewells().settled(&self.spec.endpoint, principal).await;
    }

    /// What the server knows, without sessions of rekeyd's own that it lists a moment too long.
    async fn facts(
        &self,
        session: &mut Session,
        question: &Question<'_>,
        locking: Locking,
        doing: &str,
    ) -> Result<Facts, Failure> {
        let mut facts = Facts::read(session, question, locking, self.deadlines.statement, doing).await?;
        let farewells = self.pool.farewells();
        facts.sessions.retain(|thread| !farewells.has_ended(&self.spec.endpoint, thread.id));
        Ok(facts)
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, principal: &Principal) -> String {
        format!("{verb} account {principal} on {}", self.spec.endpoint)
    }

    fn question<'a>(&'a self, principal: &'a Principal, peer: Option<&'a Principal>) -> Question<'a> {
        let groups = match &self.spec.strategy {
            MysqlStrategy::Alternating(pair) => pair.member_of.as_slice(),
            MysqlStrategy::DualPassword(_) | MysqlStrategy::InPlace(_) => &[],
        };
        Question { principal, host: &self.spec.account_host, peer, groups }
    }
}

/// Whether what a server keeps is of this value.
#[cfg(feature = "proving")]
#[must_use]
pub fn accepts(plugin: &str, kept: &[u8], value: &crate::secret::SecretValue) -> bool {
    verifier::holds(plugin, kept, value)
}

/// What a server keeps of this value; nothing where the plugin is not known.
#[cfg(feature = "proving")]
#[must_use]
pub fn kept(plugin: &str, value: &crate::secret::SecretValue) -> Vec<u8> {
    let method = crate::policy::spec::MysqlAuthentication::of_plugin(plugin);
    method
        .map(|method| verifier::verifier(method, value, verifier::Rounds::LEAST).to_vec())
        .unwrap_or_default()
}

#[async_trait]
impl Target for MysqlTarget {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        install::install(self, request).await
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        probe::probe(self, credential, depth).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        sessions::usage(self, principal).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        retire::retire(self, request).await
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }
}
