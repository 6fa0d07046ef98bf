//! Between rotations: readers that lost the value in force, or were given another one, get it back.
//!
//! Somebody edits a Secret, deletes it, or a tool writes what stands in Git over it. It is written again under
//! the same version, which is no rotation: nothing is new, so nobody restarts but those who may have found
//! something else. Dying anywhere: whoever looks next finds it as it is; what was written after the last rotation
//! had closed says that its readers may still have to be told.

use futures_util::future::join_all;

use super::engine::Engine;
use super::run::Document;
use crate::consumer::{PublishRequest, Published};
use crate::failure::Failure;
use crate::ledger::TriggerKind;
use crate::policy::Policy;
use crate::policy::spec::ConsumerSpec;

impl Engine {
    /// Writes the value in force to readers that do not hold it, and tells those who may have read something
    /// else. None while a rotation is open, which does the same, and none
    /// where the store's value is not rekeyd's: whose it is has to be found out first.
    ///
    /// # Errors
    /// When the store cannot be read, or a reader cannot be written to; the others are mended all the same.
    pub async fn mend_readers(&self, policy: &Policy) -> Result<Mending, Failure> {
        let slots = self.look(policy.name(), &policy.spec().store).await?;
        let (Some(Document::Closed(marker)), Some(current)) = (slots.document, slots.current) else {
            return Ok(Mending::default());
        };
        // An adoption tells nobody: its readers have the value already.
        if marker.record.as_ref().is_some_and(|record| record.trigger == TriggerKind::Adopt) {
            return Ok(Mending::default());
        }
        if marker.current.as_ref().is_none_or(|ours| ours.revision != current.revision) {
            return Ok(Mending::default());
        }
        let request = PublishRequest {
            policy: policy.name(),
            version: marker.version,
            credential: &current.credential,
            restores: None,
            is_urgent: false,
        };
        let closed = marker.record.as_ref().map(|record| record.closed_at);
        let consumers: Vec<_> = policy
            .spec()
            .consumers
            .iter()
            .map(|spec| self.adapters.consumer(&untried(spec)))
            .collect::<Result<_, _>>()?;
        let mended = join_all(consumers.iter().map(async |consumer| {
            let published = consumer.publish(request).await?;
            let may_wait = match published {
                Published::Now => true,
                Published::Already(since) => since.is_some_and(|since| closed.is_none_or(|at| since > at)),
            };
            let mut is_told = true;
            if may_wait {
                consumer.reload(request).await?;
                // Some wait for their turn.
                is_told = consumer.observe(request.policy).await?.reloaded >= request.version;
            }
            Ok((is_told, (published == Published::Now).then(|| consumer.label())))
        }));
        let mended = during!("mend", mended).await;
        let mended: Vec<(bool, Option<String>)> = mended.into_iter().collect::<Result<_, Failure>>()?;
        let (told, readers): (Vec<bool>, Vec<Option<String>>) = mended.into_iter().unzip();
        Ok(Mending {
            readers: readers.into_iter().flatten().collect(),
            is_whole: told.into_iter().all(|is_told| is_told),
        })
    }
}

/// What came of looking at readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mending {
    /// Those that were given the value in force again.
    pub readers: Vec<String>,
    /// Nobody has to be told any more.
    pub is_whole: bool,
}

impl Default for Mending {
    fn default() -> Self {
        Self { readers: Vec::new(), is_whole: true }
    }
}

/// The value is in force: nobody has to try it first.
fn untried(spec: &ConsumerSpec) -> ConsumerSpec {
    let mut spec = spec.clone();
    if let ConsumerSpec::Kubernetes(kubernetes) = &mut spec {
        kubernetes.workloads.canary_pod = None;
    }
    spec
}
