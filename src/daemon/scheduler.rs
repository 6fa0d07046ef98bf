//! Decides when to attend to which policy. Holds nothing that a restart would miss: what is due follows
//! from what the stores keep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
use crate::policy::Policy;
use crate::service::{Attention, Hindrance, Service};

/// The longest sleep: a wall clock that jumped is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How often every policy is looked at, whatever is known of it: a process elsewhere may have died in the
/// middle of a rotation, or adopted a value.
const ROUND: Duration = Duration::from_secs(3_600);

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
    /// Few of thousands have one.
    pauses: BTreeMap<Hindrance, ExponentialBackoff>,
    /// The policy as it was attended to last; `None` when it was gone.
    seen: Option<Arc<Policy>>,
    /// The last attempt came to nothing and cost something: the next one has its time.
    rests: bool,
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
                    entry.seen = self.service.catalog().policy(&policy);
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
                            Attention::Later(Hindrance::InTheWay)
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
                        self.in_turn(policy, None);
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
            self.in_turn(policy.name().clone(), Some(policy));
        }
        // Also while an earlier search goes on: that one knows the policies as they were.
        let service = Arc::clone(&self.service);
        self.orphans.spawn(async move { service.orphans().await });
    }

    /// Like all the others: that shortens no pause of an attempt that costs something, unless it is another policy now.
    fn in_turn(&mut self, name: PolicyName, policy: Option<&Arc<Policy>>) {
        let is_known = |entry: &Entry| (entry.attended || entry.rests) && entry.seen.as_ref() == policy;
        if !self.entries.get(&name).is_some_and(is_known) {
            self.soon(name);
        }
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
        entry.rests = matches!(attention, Attention::Later(Hindrance::Counted | Hindrance::InVain));
        if !matches!(attention, Attention::Later(_)) {
            entry.pauses.clear();
        }
        let at = match attention {
            _ if again => Some(now),
            Attention::At(at) => Some(at),
            Attention::Later(hindrance) => {
                let pause = entry.pauses.entry(hindrance).or_insert_with(|| growing(hindrance)).next();
                now.checked_add(pause.unwrap_or(pauses_of(hindrance).1)).ok()
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

/// First and longest pause before a policy is attended to again, and how fast they grow. What happens in a day must fit
/// into what a store keeps that counts versions: about a hundred, one or two for each look at an open rotation, five or
/// six for each attempt.
const fn pauses_of(hindrance: Hindrance) -> (Duration, Duration, f32) {
    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    match hindrance {
        Hindrance::InTheWay => (seconds(5), seconds(15 * 60), 2.0),
        Hindrance::Counted => (seconds(5), seconds(3_600), 2.0),
        Hindrance::InVain => (seconds(30), seconds(3 * 3_600), 3.0),
    }
}

fn growing(hindrance: Hindrance) -> ExponentialBackoff {
    let (first, longest, factor) = pauses_of(hindrance);
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_factor(factor)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::VersionBudget;

    /// Rotations are to come and go on a store that counts versions while others are in trouble, and a containment must
    /// not meet a control document that takes no version any more.
    #[test]
    fn a_day_of_trouble_leaves_versions_over() {
        let budget = VersionBudget::SECRETS_MANAGER;
        let in_a_day = |hindrance| {
            let mut passed = Duration::ZERO;
            let pauses = growing(hindrance).take_while(|pause| {
                passed += *pause;
                passed < budget.within
            });
            1 + u32::try_from(pauses.count()).expect("a small number")
        };
        assert!(in_a_day(Hindrance::InVain) * budget.per_rotation < budget.versions);
        // Somebody takes it up, and says what came of it.
        assert!(in_a_day(Hindrance::Counted) * 2 < budget.versions);
        assert!(in_a_day(Hindrance::InTheWay) * 2 > budget.versions, "it need not be told apart");
    }
}
