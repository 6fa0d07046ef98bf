//! Users of RabbitMQ as a target, over its management API.
//!
//! A change hands the server a salted SHA-256 hash, computed here. A login hands over the value itself, as every
//! login at RabbitMQ does: use TLS, and a credential that says its `hosts`.
//!
//! Two users take turns. The candidate's permissions, topic permissions, limits and tags are made those of its peer
//! before its value is set. The first of a pair has what somebody gives it.
//!
//! # Marker
//!
//! The marker is one of the user's tags. Tags and hash are set by one request, `PUT /api/users/<user>`, so the two
//! do not disagree, and the broker replicates them as one. A tag that the broker does not know gives no right. A
//! global parameter would be another request, and stay when its user goes.
//!
//! The API has no compare-and-set: between the request that reads the marker and the one that writes it, one round
//! trip, somebody else may write. Whoever wrote reads again, and knows when it was overtaken; all that a late
//! attempt can set is the value of its own rotation, which is in the store. What is left is a request that a network
//! delivers after its sender gave up, after the next rotation set the same user again: verification then finds the
//! value in force refused, and says so.
//!
//! # Sessions
//!
//! Connections by user are counted by the broker itself, at once; when they began comes from its statistics, which
//! are up to five seconds late. So a session that is not in them yet counts as one that has just begun.
//!
//! The admin needs the tag `administrator`. Tested on RabbitMQ 3.10.

mod api;
mod install;
mod preflight;
mod probe;
mod retire;
mod sessions;
mod user;

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    AdminCredential, InstallRequest, Installed, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired,
    Target, Usage,
};
use crate::failure::{Failure, Finding};
pub use crate::http::Deadlines;
use crate::ident::Principal;
use crate::policy::spec::RabbitmqSpec;
use crate::secret::Credential;

/// A pair of users of one broker.
pub struct RabbitmqTarget {
    spec: RabbitmqSpec,
    admin: Arc<dyn AdminCredential>,
    deadlines: Deadlines,
}

impl RabbitmqTarget {
    /// `admin` yields the credential that the policy names.
    #[must_use]
    pub fn new(spec: RabbitmqSpec, admin: Arc<dyn AdminCredential>) -> Self {
        Self { spec, admin, deadlines: Deadlines::default() }
    }

    /// With other deadlines than the default ones.
    #[must_use]
    pub const fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, user: &Principal) -> String {
        format!("{verb} user {user} on {}", self.spec.endpoint)
    }
}

#[async_trait]
impl Target for RabbitmqTarget {
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        install::install(self, request).await
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        probe::probe(self, credential).await
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
