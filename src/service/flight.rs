//! The rotations that run in this process: one for each policy at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureClass};
use crate::ident::PolicyName;

/// The rotations that run in this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Flights {
    running: Arc<Mutex<HashMap<PolicyName, Running>>>,
    /// Told whenever one ends.
    count: Arc<watch::Sender<usize>>,
}

#[derive(Debug, Clone)]
struct Running {
    /// It makes way for whoever rotates.
    yields: bool,
    stop: CancellationToken,
    ended: watch::Receiver<()>,
}

/// The right to run one; given back when dropped.
#[derive(Debug)]
pub(super) struct Flight {
    policy: PolicyName,
    flights: Flights,
    stop: CancellationToken,
    /// Dropped with the flight, which ends every wait for it.
    _ended: watch::Sender<()>,
}

impl Flights {
    /// Begins, unless one runs already that does not make way.
    pub(super) async fn take_off(
        &self,
        policy: &PolicyName,
        parent: &CancellationToken,
    ) -> Result<Flight, Failure> {
        loop {
            match self.try_take_off(policy, parent, false) {
                Ok(flight) => return Ok(flight),
                Err(running) if running.yields => running.make_way().await,
                Err(_) => {
                    let doing = format!("rotate {policy}");
                    return Err(Failure::new(FailureClass::Conflict, doing, "a rotation of it is running")
                        .with_remedy("see `rekeyd status` for its step"));
                }
            }
        }
    }

    /// Begins something that makes way for whoever rotates, unless something runs already.
    pub(super) fn take_off_lightly(&self, policy: &PolicyName, parent: &CancellationToken) -> Option<Flight> {
        self.try_take_off(policy, parent, true).ok()
    }

    /// Begins; one that runs already is stopped after its running step first.
    pub(super) async fn take_over(&self, policy: &PolicyName, parent: &CancellationToken) -> Flight {
        loop {
            match self.try_take_off(policy, parent, false) {
                Ok(flight) => return flight,
                Err(running) => running.make_way().await,
            }
        }
    }

    /// Whether one runs that does not make way.
    pub(super) fn is_running(&self, policy: &PolicyName) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(policy).is_some_and(|running| !running.yields)
    }

    /// Waits until none runs.
    pub(super) async fn landed(&self) {
        let mut count = self.count.subscribe();
        let _ = count.wait_for(|count| *count == 0).await;
    }

    fn try_take_off(
        &self,
        policy: &PolicyName,
        parent: &CancellationToken,
        yields: bool,
    ) -> Result<Flight, Running> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = running.get(policy) {
            return Err(other.clone());
        }
        let (sender, ended) = watch::channel(());
        let stop = parent.child_token();
        running.insert(policy.clone(), Running { yields, stop: stop.clone(), ended });
        self.count.send_replace(running.len());
        Ok(Flight { policy: policy.clone(), flights: self.clone(), stop, _ended: sender })
    }
}

impl Running {
    async fn make_way(mut self) {
        self.stop.cancel();
        // Nothing is ever sent: the wait ends when the flight does.
        let _ = self.ended.changed().await;
    }
}

impl Flight {
    pub(super) const fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut running = self.flights.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.policy);
        self.flights.count.send_replace(running.len());
    }
}
