//! How many rotations work at the same time, in all and on one target.
//!
//! A rotation that waits (for a grace, for a back-off) holds no permit. Permits of the target come
//! first: rotations that queue for one slow database hold none of the common ones, so they delay no
//! other database's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::LimitSettings;

/// The permits of one process.
#[derive(Debug)]
pub struct Limits {
    all: Arc<Semaphore>,
    per_target: usize,
    targets: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to work; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _target: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Limits {
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(usize::from(settings.rotations))),
            per_target: usize::from(settings.per_target),
            targets: Mutex::default(),
        }
    }

    /// Waits for a permit to work on a target.
    pub async fn enter(&self, target: &str) -> Permit {
        let semaphore = {
            let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            match targets.get(target) {
                Some(semaphore) => Arc::clone(semaphore),
                None => Arc::clone(
                    targets
                        .entry(target.to_owned())
                        .or_insert_with(|| Arc::new(Semaphore::new(self.per_target))),
                ),
            }
        };
        let open = "the semaphores are never closed";
        let target = semaphore.acquire_owned().await.expect(open);
        let all = Arc::clone(&self.all).acquire_owned().await.expect(open);
        Permit { _target: target, _all: all }
    }
}
