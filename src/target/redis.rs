//! Users of Redis and Valkey as a target.
//!
//! A user has a set of passwords, of which a server keeps SHA-256 hashes. So both values work until every
//! reader has moved, and a change hands the server hashes alone, computed here. A login hands over the value
//! itself: there is no other in this protocol, so TLS and a credential that says its `hosts` matter more than
//! elsewhere.
//!
//! # Nodes
//!
//! Users are not replicated. A policy names every node, and each is changed for itself: all of them are read
//! before any is changed, so a node that is down leaves all of them as they were, and a change is done when the
//! last node has it, in memory and in the file that it starts from. What came over some nodes only is
//! `Ambiguous`, and repeating it is right.
//!
//! # Marker
//!
//! A Redis user has no comment. The marker is an entry in the user's own set of passwords: 32 bytes that say
//! policy, fence, rotation, state and candidate, and that are the hash of nothing anybody could find
//! ([`marker`]). That is the one place with a compare-and-set. A single `ACL SETUSER` applies all its
//! modifiers or none, and removing an entry that is not there is an error, so
//!
//! ```text
//! ACL SETUSER orders !<marker that was read> #<own marker> #<candidate>
//! ```
//!
//! changes nothing where anybody else was meanwhile. It works on replicas too, needs no right to any key, and
//! lives and dies with what it protects: in `ACL LIST`, in the ACL file, over a restart. A key beside the user
//! does none of this: replicas take no write, an eviction or a `FLUSHALL` takes it away, and neither `WATCH` nor
//! a script reaches users. A second user, with the marker in its key patterns, has no condition on it.
//!
//! Where there is no marker yet there is nothing to compare with. An attempt then first adds an entry that no
//! other call has ([`State::Begun`](marker::State::Begun)), reads again, and removes all such entries that it
//! read along with its change: of two that overlap, whichever is first takes the other's away. If the process
//! dies in between, such an entry is left, means nothing, and goes with the next change.
//!
//! Who removes the marker by hand (`resetpass`) lifts the bar against late attempts, as who empties a comment
//! does elsewhere.
//!
//! # Sessions
//!
//! A session does not tell which value it logged in with. Retiring a value lists the user's sessions in the same
//! transaction that removes its hash, and closes these: whoever comes after the removal had the value that
//! stays. Ages are whole seconds, so a session that is younger than the install by less than two seconds may
//! count as one that came after it; no session is taken for an earlier one than it is.
//!
//! # Check
//!
//! A policy's command is run as the user if it only reads, by what the node lists ([`check`]): the admin asks, with the
//! right that it has.
//!
//! The admin needs `+acl +client +config|get +config|rewrite +info +time +multi +exec +discard`; who may change
//! users may do anything. Sentinels, and replicas that log in at their master as the user (`masteruser`), keep
//! the value in a file of their own: a preflight refuses the second and tells of the first. Tested on Redis 7.0 and
//! Valkey 9.1.

mod account;
mod answer;
mod change;
mod check;
mod connect;
mod install;
mod marker;
mod preflight;
mod probe;
mod retire;
mod sessions;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    AdminCredential, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired,
    Target, Usage,
};
use crate::failure::{Failure, Finding};
use crate::ident::Principal;
use crate::policy::spec::{RedisNode, RedisSpec};
use crate::secret::Credential;

/// A user on one server or on every node of a replicated set.
pub struct RedisTarget {
    spec: RedisSpec,
    admin: Arc<dyn AdminCredential>,
    deadlines: Deadlines,
}

/// How long the parts of a call may take, at each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Finding the host, and reaching one of its addresses.
    pub connect: Duration,
    /// A whole login, from the first packet on the wire to a usable session.
    pub login: Duration,
    /// A round trip with commands, and the closing of sessions.
    pub command: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            login: Duration::from_secs(10),
            command: Duration::from_secs(15),
        }
    }
}

impl RedisTarget {
    /// `admin` yields the credential that the policy names.
    #[must_use]
    pub fn new(spec: RedisSpec, admin: Arc<dyn AdminCredential>) -> Self {
        Self { spec, admin, deadlines: Deadlines::default() }
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Completes "cannot ...".
    fn doing(verb: &str, user: &Principal, node: &RedisNode) -> String {
        format!("{verb} user {user} on {node}")
    }
}

#[async_trait]
impl Target for RedisTarget {
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
