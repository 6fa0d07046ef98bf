//! How many rotations work at the same time, in all and on one target.
//!
//! A rotation that waits (for a grace, for a back-off) holds no permit. A permit of the target is held for
//! the steps that ask the target alone: while some rotations write to the store and the ledger, where many
//! share one sync of the disk, others use the target. It comes before the common one: rotations that queue
//! for one slow database hold none of the common ones, so they delay no other database's.
//!
//! Whoever waits is served by urgency and then in order: a containment before all others, and a rotation
//! that has begun before one that has not, so that what is changed is finished soon.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::settings::LimitSettings;

/// How long a sitting goes on with what does not succeed.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A step that fails is tried again for so long.
    pub failing: Duration,
    /// A person who has to act, or the end of a value's own life, is waited for so long.
    pub person: Duration,
}

impl Patience {
    /// Of a daemon: it tries for a while, and again later. It waits for people, however long they take.
    pub const DAEMON: Self = Self { failing: Duration::from_secs(30), person: Duration::MAX };

    /// Of somebody who asked, and is told what is left to do.
    #[must_use]
    pub const fn of_request(patience: Duration) -> Self {
        Self { failing: patience, person: patience }
    }

    /// At least so long for what fails.
    #[must_use]
    pub fn at_least(self, failing: Duration) -> Self {
        Self { failing: self.failing.max(failing), ..self }
    }
}

/// The permits of one process.
#[derive(Debug)]
pub struct Limits {
    all: Arc<Gate>,
    per_target: usize,
    targets: Mutex<HashMap<String, Arc<Gate>>>,
}

/// Who is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    Containment,
    /// The target may have seen its candidate.
    Begun,
    New,
}

/// The right to work; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    target: Option<Pass>,
    _all: Pass,
}

impl Limits {
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        Self {
            all: Gate::new(usize::from(settings.rotations)),
            per_target: usize::from(settings.per_target),
            targets: Mutex::default(),
        }
    }

    /// Waits for a permit to work, on a target if there is one.
    pub async fn enter(&self, target: Option<&str>, urgency: Urgency) -> Permit {
        let target = match target {
            Some(target) => Some(self.gate(target).enter(urgency).await),
            None => None,
        };
        Permit { target, _all: Arc::clone(&self.all).enter(urgency).await }
    }

    fn gate(&self, target: &str) -> Arc<Gate> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        match targets.get(target) {
            Some(gate) => Arc::clone(gate),
            None => {
                Arc::clone(targets.entry(target.to_owned()).or_insert_with(|| Gate::new(self.per_target)))
            }
        }
    }
}

impl Permit {
    /// Whether it is good for work on the target.
    #[must_use]
    pub const fn reaches_target(&self) -> bool {
        self.target.is_some()
    }

    /// Lets another rotation work on the target.
    pub fn leave_target(&mut self) {
        self.target = None;
    }
}

/// So many may pass; the others wait.
#[derive(Debug)]
struct Gate {
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// By urgency and then in order of arrival. Some may have gone away.
    waiting: BTreeMap<(Urgency, u64), oneshot::Sender<Pass>>,
    arrivals: u64,
}

/// The right to be past a gate; given on when dropped.
#[derive(Debug)]
struct Pass(Option<Arc<Gate>>);

impl Gate {
    fn new(free: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::new(Queue { free, waiting: BTreeMap::new(), arrivals: 0 }) })
    }

    /// Whoever drops the future while a pass is on its way drops the pass with it.
    async fn enter(self: Arc<Self>, urgency: Urgency) -> Pass {
        let turn = {
            let mut queue = self.queue();
            if let Some(free) = queue.free.checked_sub(1) {
                queue.free = free;
                drop(queue);
                return Pass(Some(self));
            }
            let (sender, turn) = oneshot::channel();
            let place = (urgency, queue.arrivals);
            queue.arrivals += 1;
            queue.waiting.insert(place, sender);
            turn
        };
        turn.await.expect("a gate does not forget who waits")
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(gate) = self.0.take() else { return };
        let mut queue = gate.queue();
        let mut pass = Self(Some(Arc::clone(&gate)));
        while let Some((_, next)) = queue.waiting.pop_first() {
            match next.send(pass) {
                Ok(()) => return,
                // It went away: the one after it is next.
                Err(back) => pass = back,
            }
        }
        pass.0 = None;
        queue.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn limits(rotations: u16, per_target: u16) -> Limits {
        Limits::new(LimitSettings { rotations, per_target, ..LimitSettings::default() })
    }

    fn enter(limits: &Limits, urgency: Urgency) -> Option<Permit> {
        limits.enter(Some("db"), urgency).now_or_never()
    }

    #[tokio::test]
    async fn the_urgent_are_served_first_and_the_others_in_order() {
        let limits = limits(9, 1);
        let first = enter(&limits, Urgency::New).expect("a free permit");
        let urgencies = [Urgency::New, Urgency::Begun, Urgency::New, Urgency::Containment];
        let mut waiting: Vec<_> =
            urgencies.into_iter().map(|urgency| Box::pin(limits.enter(Some("db"), urgency))).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none(), "there was no permit left");
        }
        let mut held = Some(first);
        let mut order = Vec::new();
        while order.len() < waiting.len() {
            drop(held.take());
            for (at, one) in
                waiting.iter_mut().enumerate().filter(|(at, _)| !order.contains(at)).collect::<Vec<_>>()
            {
                if let Some(permit) = one.now_or_never() {
                    assert!(held.replace(permit).is_none(), "one permit let two in");
                    order.push(at);
                }
            }
        }
        assert_eq!(order, [3, 1, 0, 2]);
    }

    #[tokio::test]
    async fn one_that_gives_up_waiting_keeps_no_permit() {
        let limits = limits(1, 1);
        let permit = enter(&limits, Urgency::New).expect("a free permit");
        {
            let mut gone = pin!(limits.enter(Some("db"), Urgency::Begun));
            assert!((&mut gone).now_or_never().is_none());
            let mut late = pin!(limits.enter(Some("db"), Urgency::New));
            assert!((&mut late).now_or_never().is_none());
            // Both are on their way out when the pass comes to the first of them.
            drop(permit);
        }
        assert!(enter(&limits, Urgency::New).is_some());
    }

    #[tokio::test]
    async fn a_queue_for_one_target_delays_no_other() {
        let limits = limits(3, 1);
        let _first = enter(&limits, Urgency::New).expect("a free permit");
        let mut queued: Vec<_> = (0..5).map(|_| Box::pin(limits.enter(Some("db"), Urgency::Begun))).collect();
        for one in &mut queued {
            assert!(one.now_or_never().is_none());
        }
        assert!(limits.enter(Some("another"), Urgency::New).now_or_never().is_some());
        assert!(limits.enter(None, Urgency::New).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_leaves_the_target_lets_another_in() {
        let limits = limits(2, 1);
        let mut first = enter(&limits, Urgency::New).expect("a free permit");
        assert!(first.reaches_target() && enter(&limits, Urgency::New).is_none());
        first.leave_target();
        let second = enter(&limits, Urgency::New).expect("the target is free");
        assert!(!first.reaches_target() && second.reaches_target());
        assert!(limits.enter(None, Urgency::New).now_or_never().is_none(), "two work");
    }
}
