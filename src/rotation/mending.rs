//! Between rotations: readers that lost the value in force, or were given another one, get it back.
//!
//! Somebody edits a Secret, deletes it, or a tool writes what stands in Git over it. It is written again under
//! the same version, which is no rotation: nothing is new, so nobody restarts but those who may have found
//! something else. Dying anywhere: whoever looks next finds it as it is.

use futures_util::future::join_all;

use super::engine::Engine;
use super::run::Document;
use crate::consumer::{PublishRequest, Published};
use crate::failure::Failure;
use crate::ledger::TriggerKind;
use crate::policy::Policy;

impl Engine {
    /// Writes the value in force to readers that do not hold it, and tells those who may have read something
    /// else. The readers that were mended. None while a rotation is open, which does the same, and none
    /// where the store's value is not rekeyd's: whose it is has to be found out first.
    ///
    /// # Errors
    /// When the store cannot be read, or a reader cannot be written to; the others are mended all the same.
    pub async fn mend_readers(&self, policy: &Policy) -> Result<Vec<String>, Failure> {
        let slots = self.look(policy.name(), &policy.spec().store).await?;
        let (Some(Document::Closed(marker)), Some(current)) = (slots.document, slots.current) else {
            return Ok(Vec::new());
        };
        // An adoption tells nobody: its readers have the value already.
        if marker.record.as_ref().is_some_and(|record| record.trigger == TriggerKind::Adopt) {
            return Ok(Vec::new());
        }
        if marker.current.as_ref().is_none_or(|ours| ours.revision != current.revision) {
            return Ok(Vec::new());
        }
        let request = PublishRequest {
            policy: policy.name(),
            version: marker.version,
            credential: &current.credential,
            restores: None,
            is_urgent: false,
        };
        let consumers = &policy.spec().consumers;
        let consumers: Vec<_> =
            consumers.iter().map(|spec| self.adapters.consumer(spec)).collect::<Result<_, _>>()?;
        let mended =
            join_all(consumers.iter().map(async |consumer| match consumer.publish(request).await? {
                Published::Already => Ok(None),
                Published::Now => {
                    consumer.reload(request).await?;
                    Ok(Some(consumer.label()))
                }
            }));
        let mended: Vec<Result<Option<String>, Failure>> = mended.await;
        mended.into_iter().filter_map(Result::transpose).collect()
    }
}
