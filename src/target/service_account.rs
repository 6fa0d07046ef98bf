//! The tokens of a service account of a cluster.
//!
//! Each token belongs to a Secret that rekeyd makes, and dies when that is deleted: one that Kubernetes fills with a
//! token without an end, or an empty one that a token of the token API is bound to. The Secret's name is the key's
//! public id, and its annotations say which rotation it was made for.
//!
//! # Deaths
//!
//! | dies | what is left | who finds it |
//! |---|---|---|
//! | after the Secret was made, before the token is kept | a Secret that nobody was told of | whoever asks next, by its annotations |
//!
//! An API server remembers for some seconds that it took a token: see [`SETTLING`]. Nothing but a Secret that carries
//! the account's name in rekeyd's label or in Kubernetes' own annotation is ever deleted.
//!
//! Rights: `get`, `list`, `create` and `delete` of Secrets in the namespace, `get` of the account, and `create` of its
//! `token`. A Role cannot say that Secrets are made of one kind alone: who has these rights has the tokens of every
//! account of the namespace.

mod keys;
mod preflight;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Key, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target, Usage,
};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::Principal;
use crate::kubernetes::Clusters;
use crate::policy::spec::ServiceAccountSpec;
use crate::secret::Credential;
use crate::target::Extent;

/// How long an API server may go on accepting a token that is dead: ten seconds, as it is built, and some for caches
/// that are filled by watches.
const SETTLING: Duration = Duration::from_secs(15);

/// The tokens of one account.
pub struct ServiceAccountTarget {
    spec: ServiceAccountSpec,
    clusters: Arc<Clusters>,
}

impl ServiceAccountTarget {
    #[must_use]
    pub const fn new(spec: ServiceAccountSpec, clusters: Arc<Clusters>) -> Self {
        Self { spec, clusters }
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, object: impl std::fmt::Display) -> String {
        let ServiceAccountSpec { cluster, service_account, .. } = &self.spec;
        let namespace = self.spec.namespace();
        format!("{verb} {object} of service account {namespace}/{service_account} in cluster {cluster}")
    }
}

#[async_trait]
impl Target for ServiceAccountTarget {
    async fn keys(&self, _: &Principal) -> Result<Vec<Key>, Failure> {
        keys::list(self).await
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        keys::make(self, &request).await
    }

    fn settling(&self) -> Duration {
        SETTLING
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        probe::probe(self, credential).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        keys::usage(self, principal).await
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        match request.extent {
            Extent::Principal => keys::delete(self, request.principal).await?,
            // There is no such state.
            Extent::Disabled => {}
            Extent::Attempt | Extent::OtherValues | Extent::SessionsBefore(_) => {
                let doing = self.doing("retire token", request.principal);
                let reason = "a token has one value, and goes as a whole";
                return Err(Failure::new(FailureClass::Invalid, doing, reason));
            }
        }
        Ok(Retired::Done { sessions_closed: 0 })
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }
}
