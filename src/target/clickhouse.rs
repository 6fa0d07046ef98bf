//! Users of ClickHouse as a target, over its HTTP interface.
//!
//! A user has a list of ways to log in. A change gives the whole list that is wanted, as salted SHA-256 hashes
//! that are computed here: no value is in a statement, and so in no query log, and nothing depends on which of two
//! values came first. What goes on working is hashed anew from the value itself, since a server shows no hash.
//! A login hands over the value itself, in a header: use TLS, and a credential that says its `hosts`.
//!
//! # Who is let in
//!
//! A server tells how many ways a user has and of which kind, and not with which value. So a value is looked for
//! with a login, and what is left over when the known ones are counted is somebody else's.
//!
//! # Marker
//!
//! A ClickHouse user has no comment. The marker is the name of a settings profile that sets nothing and that the
//! user has ([`marker`]): `ALTER USER` changes ways to log in and profiles in one statement, and fails where a
//! profile that it names is not there. So a profile is a fence, too:
//!
//! 1. an attempt makes a profile of its own and gives it to the user (its *claim*), and reads again;
//! 2. it drops the profiles of all earlier attempts: what these still have on the way names one of them, and fails;
//! 3. it sets the ways to log in, and puts the marker in the place of its claim, in one statement that names both;
//! 4. it reads again whether that holds.
//!
//! Dying between two of them leaves a claim, which means that this attempt changed nothing, or a profile without a
//! user, which means nothing.
//!
//! # Nodes
//!
//! Every node is asked and changed for itself, one after another, once all of them were read. Where they replicate
//! their users, the later ones find it done. `ON CLUSTER` is not used: its queue keeps statements, and it answers
//! for nodes that nobody asked.
//!
//! # Sessions
//!
//! What a server lists are running queries: these are `sessions` here, and are killed. A request over HTTP logs in
//! anew; a connection of the native protocol stays logged in until it ends, idle ones are listed nowhere and cannot
//! be ended. A connection is bound to its user's id. So with `alternating` the user that is retired is replaced in
//! one statement by one of the same name and rights and of another id, and every connection of the one before is
//! useless. With `dualPassword` that would hit the readers that have moved, too: there a connection that logged in
//! with the outgoing value lives on until its client or `idle_connection_timeout` ends it. Where that may be,
//! [`LastUse::ByListed`](super::LastUse::ByListed) says so, and so does the record.
//!
//! The server's verdict on a login is the same (`AUTHENTICATION_FAILED`, 516) for a wrong value, an expired one and a
//! host from which the user may not log in. The candidate is tried from the same place first.
//!
//! The admin needs `ALTER USER, CREATE SETTINGS PROFILE, DROP SETTINGS PROFILE, SHOW ACCESS, KILL QUERY` on `*.*` and
//! `SELECT` on `system.*`; for a pair also `CREATE USER` and `DROP USER`, since replacing a user drops one, and what the
//! pair has, with `GRANT OPTION` or `ADMIN OPTION`. Users of a configuration file cannot be changed. ClickHouse 24.12 or
//! later.
//!
//! Tested on the engine of ClickHouse 26.9 as a library (chdb), which listens and is made to keep users
//! (`deploy/dev/python/clickhouse.py`), and on a scripted server that keeps the same promises. Replicated users, users on
//! a disk and the server's TLS were not had.

mod api;
mod change;
mod clauses;
mod decide;
mod grants;
mod marker;
mod pair;
mod preflight;
mod probe;
mod seen;
mod sessions;
mod sql;

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    AdminCredential, Extent, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest,
    Retired, Target, Usage,
};
use crate::failure::{Failure, FailureClass, Finding};
pub use crate::http::Deadlines;
use crate::ident::Principal;
use crate::policy::spec::{ClickhouseNode, ClickhouseSpec, ClickhouseStrategy};
use crate::secret::Credential;

use self::api::Api;
use self::change::Changed;
use self::decide::Asked;

/// A user or a pair of users, on every node that has them.
pub struct ClickhouseTarget {
    spec: ClickhouseSpec,
    admin: Arc<dyn AdminCredential>,
    deadlines: Deadlines,
}

impl ClickhouseTarget {
    /// `admin` yields the credential that the policy names.
    #[must_use]
    pub fn new(spec: ClickhouseSpec, admin: Arc<dyn AdminCredential>) -> Self {
        Self { spec, admin, deadlines: Deadlines::default() }
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Completes "cannot ...".
    fn doing(verb: &str, user: &Principal, node: &ClickhouseNode) -> String {
        format!("{verb} user {user} on {node}")
    }

    /// The admin's way to a node, to change this user.
    async fn admin_at(&self, node: &ClickhouseNode, user: &Principal) -> Result<Api, Failure> {
        let name = &self.spec.admin;
        let credential = self.admin.credential().await?;
        let doing = format!("log in at {node} with the admin credential {name}");
        if credential.principal == *user {
            let reason = "it is the user that is to be changed";
            return Err(Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy("give rekeyd an admin of its own and rotate that under another admin"));
        }
        Api::new(&self.spec, node, credential, self.deadlines, &doing).await
    }

    const fn is_pair(&self) -> bool {
        matches!(self.spec.strategy, ClickhouseStrategy::Alternating(_))
    }

    /// The roles that a pair has in any case.
    fn groups(&self) -> &[Principal] {
        match &self.spec.strategy {
            ClickhouseStrategy::Alternating(pair) => &pair.member_of,
            ClickhouseStrategy::DualPassword(_) => &[],
        }
    }
}

#[async_trait]
impl Target for ClickhouseTarget {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let Credential { principal, value, .. } = request.candidate;
        if value.is_empty() {
            let doing = format!("install user {principal}");
            return Err(Failure::new(FailureClass::Refused, doing, "ClickHouse takes no empty value"));
        }
        match change::everywhere(self, &Asked::Install(&request)).await? {
            Changed::Superseded(by) => Ok(Installed::Superseded { by }),
            // Of clocks that differ, the one that is behind: a query that came later is not taken for an earlier one.
            Changed::Done { at, .. } => Ok(Installed::Done { at }),
        }
    }

    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe {
        probe::probe(self, credential, depth).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        sessions::usage(self, principal).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        if request.extent == Extent::Disabled {
            return Ok(Retired::Done { sessions_closed: 0 });
        }
        match change::everywhere(self, &Asked::Retire(&request)).await? {
            Changed::Superseded(by) => Ok(Retired::Superseded { by }),
            Changed::Done { ended, .. } => Ok(Retired::Done { sessions_closed: ended }),
        }
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }
}
