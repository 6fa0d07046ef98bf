//! The audit trail: one Git commit for each closed rotation, with placeholders and versions, never a value.

pub mod record;

use async_trait::async_trait;

pub use self::record::{Outcome, Proof, Record, TriggerKind};
use crate::failure::Failure;
use crate::secret::SecretValue;

/// Where closed rotations are recorded.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Makes the record durable, once: a second call with the same rotation id changes nothing. The
    /// record's bytes are searched for each of the `forbidden` values first; a hit refuses the record.
    async fn append(&self, record: &Record, forbidden: &[&SecretValue]) -> Result<(), Failure>;
}
