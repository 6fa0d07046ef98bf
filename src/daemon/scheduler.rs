//! Decides when to attend to which policy. Holds nothing that a restart would miss: what is due follows
//! from what the stores keep.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ident::PolicyName;
use crate::service::{Attention, Service};

/// The longest sleep: a wall clock that jumped is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How often every policy is looked at, whatever is known of it: a process elsewhere may have died in the
/// middle of a rotation, or adopted a value.
const ROUND: Duration = Duration::from_secs(3_600);

/// First and longest pause before a policy with something in its way is attended to again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15 * 60));

/// Policies whose state is being read at the same time.
const LOOKING: u32 = 64;

/// How long a look keeps its place among these. One that takes longer waits for a store that does not answer,
/// and must not delay the policies of others.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that the scheduler has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nudge {
    PoliciesChanged,
    Policy(PolicyName),
}

/// Decides when to attend to which policy.
pub struct Scheduler {
    service: Arc<Service>,
    clock: Arc<dyn Clock>,
    /// When to attend to whom, soonest first; each policy at most once.
    queue: BTreeSet<(Timestamp, PolicyName)>,
    entries: HashMap<PolicyName, Entry>,
    looking: Arc<Semaphore>,
    /// Finds the policies that are gone and that a store still knows. A store may not answer.
    orphans: JoinSet<Vec<PolicyName>>,
}

#[derive(Default)]
struct Entry {
    queued: Option<Timestamp>,
    attended: bool,
    /// Asked for while it was being attended to.
    again: bool,
    /// Apart, since few of thousands have one.
    pause: Option<Box<ExponentialBackoff>>,
}

impl Scheduler {
    #[must_use]
    pub fn new(service: Arc<Service>, clock: Arc<dyn Clock>) -> Self {
        let looking = Arc::new(Semaphore::new(LOOKING as usize));
        let (queue, entries, orphans) = (BTreeSet::new(), HashMap::new(), JoinSet::new());
        Self { service, clock, queue, entries, looking, orphans }
    }

    /// Runs until stopped; rotations that run come to the end of their step first.
    pub async fn run(mut self, mut nudges: mpsc::UnboundedReceiver<Nudge>, stop: CancellationToken) {
        let mut attending: JoinSet<(PolicyName, Attention)> = JoinSet::new();
        self.take_all();
        let mut round = self.clock.monotonic() + ROUND;
        let mut scheduled = false;
        loop {
            if self.clock.monotonic() >= round {
                self.take_all();
                round = self.clock.monotonic() + ROUND;
            }
            let now = self.clock.now();
            let next = self.queue.first().map(|(at, _)| *at);
            let due = next.is_some_and(|at| at <= now);
            let pause = next.map_or(LONGEST_SLEEP, |at| {
                Duration::try_from(at.duration_since(now)).unwrap_or_default().min(LONGEST_SLEEP)
            });
            tokio::select! {
                // In this order each time, so that a simulation runs twice in the same way.
                biased;
                () = stop.cancelled() => break,
                // A policy becomes a task only when it may be looked at: there may be thousands due at once.
                permit = Arc::clone(&self.looking).acquire_owned(), if due => {
                    let permit = permit.expect("the semaphore is never closed");
                    let (_, policy) = self.queue.pop_first().expect("one is due");
                    let entry = self.entries.entry(policy.clone()).or_default();
                    (entry.queued, entry.attended) = (None, true);
                    let service = Arc::clone(&self.service);
                    let (clock, looked) = (Arc::clone(&self.clock), CancellationToken::new());
                    let looking = looked.clone().drop_guard();
                    tokio::spawn(async move {
                        let _permit = permit;
                        tokio::select! {
                            () = looked.cancelled() => {}
                            () = clock.sleep(PATIENCE) => {}
                        }
                    });
                    attending.spawn(async move {
                        // A panic must not keep its policy from ever being looked at again.
                        let attending = AssertUnwindSafe(service.attend(&policy, looking)).catch_unwind();
                        let attention = attending.await.unwrap_or_else(|_| {
                            tracing::error!(%policy, "attending to the policy failed");
                            Attention::Later
                        });
                        (policy, attention)
                    });
                }
                Some(done) = attending.join_next() => {
                    let (policy, attention) = done.expect("a panic is caught, and nothing is aborted");
                    self.attended(&policy, attention);
                }
                Some(found) = self.orphans.join_next() => {
                    for policy in found.unwrap_or_default() {
                        self.soon(policy);
                    }
                }
                Some(nudge) = nudges.recv() => match nudge {
                    Nudge::PoliciesChanged => self.take_all(),
                    Nudge::Policy(policy) => self.soon(policy),
                },
                // Every look is over, or waits for a store that does not answer.
                _ = Arc::clone(&self.looking).acquire_many_owned(LOOKING), if !scheduled && !due => {
                    scheduled = true;
                    tracing::info!(policies = self.entries.len(), "scheduled");
                }
                () = self.clock.sleep(pause), if !due => {}
            }
        }
        // Rotations that run come to their end; a look that waits for a store does not keep the daemon.
        self.service.landed().await;
    }

    /// Looks at every policy in force, and at every open rotation whose policy is gone.
    fn take_all(&mut self) {
        let catalog = self.service.catalog();
        for policy in catalog.policies() {
            self.soon(policy.name().clone());
        }
        // Also while an earlier search goes on: that one knows the policies as they were.
        let service = Arc::clone(&self.service);
        self.orphans.spawn(async move { service.orphans().await });
    }

    fn soon(&mut self, policy: PolicyName) {
        let now = self.clock.now();
        let entry = self.entries.entry(policy.clone()).or_default();
        if entry.attended {
            entry.again = true;
        } else {
            self.enqueue(&policy, now);
        }
    }

    fn attended(&mut self, policy: &PolicyName, attention: Attention) {
        let now = self.clock.now();
        let Some(entry) = self.entries.get_mut(policy) else { return };
        entry.attended = false;
        let again = std::mem::take(&mut entry.again);
        if attention != Attention::Later {
            entry.pause = None;
        }
        let at = match attention {
            _ if again => Some(now),
            Attention::At(at) => Some(at),
            Attention::Later => {
                let pause =
                    entry.pause.get_or_insert_with(|| Box::new(growing_pause())).next().unwrap_or(PAUSE.1);
                now.checked_add(pause).ok()
            }
            Attention::Idle => None,
        };
        match at {
            Some(at) => self.enqueue(policy, at),
            None => {
                self.entries.remove(policy);
            }
        }
    }

    fn enqueue(&mut self, policy: &PolicyName, at: Timestamp) {
        let entry = self.entries.entry(policy.clone()).or_default();
        if let Some(before) = entry.queued.replace(at) {
            self.queue.remove(&(before, policy.clone()));
        }
        self.queue.insert((at, policy.clone()));
    }
}

fn growing_pause() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_jitter()
        .without_max_times()
        .build()
}
