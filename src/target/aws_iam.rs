//! The access keys of a user of AWS IAM.
//!
//! A user may have two. A key has no place for a tag, so one that was made in vain is known by what it is not: it was
//! not there before, it is younger than the rotation, and it was never used. No key is ever deleted to make room.
//!
//! A key is proven by STS, signed with the key itself: who may call there needs no right for it. STS knows of a
//! change some seconds later; see [`SETTLING`].
//!
//! The service gives a key's last use by the hour or so, and a proof is a use: it is told to people and decides nothing
//! but whether a key that nobody has the value of was ever used.

mod answer;
mod keys;
mod preflight;
mod probe;

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Key, LastUse, MintRequest, Minted, PreflightRequest, Probe, ProbeDepth, RetireRequest, Retired, Target,
    Usage,
};
use crate::aws::Account;
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::Principal;
use crate::policy::spec::AwsIamSpec;
use crate::secret::Credential;
use crate::settings::AwsSettings;
use crate::target::Extent;

/// How long the service may go on refusing a new key and accepting one that was taken out. AWS promises no time;
/// copies of it follow within seconds.
const SETTLING: Duration = Duration::from_secs(15);

/// The keys of one user.
pub struct AwsIamTarget {
    spec: AwsIamSpec,
    account: std::sync::Arc<Account>,
    settling: Duration,
}

impl AwsIamTarget {
    /// A target with a login of its own.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub fn open(spec: AwsIamSpec, settings: &AwsSettings) -> Result<Self, Failure> {
        Ok(Self::new(spec, std::sync::Arc::new(Account::open(settings)?)))
    }

    pub(crate) const fn new(spec: AwsIamSpec, account: std::sync::Arc<Account>) -> Self {
        Self { spec, account, settling: SETTLING }
    }

    /// With another time to settle than the service's.
    #[must_use]
    pub const fn settling_within(mut self, settling: Duration) -> Self {
        self.settling = settling;
        self
    }

    /// Completes "cannot ...".
    fn doing(&self, verb: &str, key: impl std::fmt::Display) -> String {
        format!("{verb} {key} of IAM user {}", self.spec.user)
    }
}

#[async_trait]
impl Target for AwsIamTarget {
    async fn keys(&self, _: &Principal) -> Result<Vec<Key>, Failure> {
        keys::list(self).await
    }

    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        keys::make(self, &request).await
    }

    fn settling(&self) -> Duration {
        self.settling
    }

    async fn probe(&self, credential: &Credential, _: ProbeDepth) -> Probe {
        probe::probe(self, credential).await
    }

    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure> {
        let last = match keys::last_used(self, principal.as_str()).await {
            Ok(Some(at)) => LastUse::At(at),
            Ok(None) => LastUse::Never,
            // Of a key that is gone the service says one of these.
            Err(failure) if matches!(failure.class(), FailureClass::Invalid | FailureClass::Denied) => {
                LastUse::Untold
            }
            Err(failure) => return Err(failure),
        };
        Ok(Usage { sessions: Vec::new(), last })
    }

    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure> {
        match request.extent {
            Extent::Principal => keys::delete(self, request.principal).await?,
            Extent::Disabled => keys::disable(self, request.principal).await?,
            Extent::Attempt | Extent::OtherValues | Extent::SessionsBefore(_) => {
                let doing = self.doing("retire key", request.principal);
                let reason = "a key has one value, and goes as a whole";
                return Err(Failure::new(FailureClass::Invalid, doing, reason));
            }
        }
        Ok(Retired::Done { sessions_closed: 0 })
    }

    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding> {
        preflight::preflight(self, request).await
    }
}
