//! The credentials that rekeyd itself logs in with.

use async_trait::async_trait;

use super::Credential;
use crate::failure::Failure;

/// The credential that an adapter itself logs in with to change others.
///
/// It is asked for whenever a connection is opened and not kept beyond the login, so that a rotated
/// admin credential is picked up without a restart.
#[async_trait]
pub trait AdminCredential: Send + Sync {
    /// The credential as it is now.
    async fn credential(&self) -> Result<Credential, Failure>;
}
