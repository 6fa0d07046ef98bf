//! Gives Secrets back what they should hold, as soon as somebody changes or deletes one.
//!
//! Whoever writes something else over it again and again is not fought: each time it is given back later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ident::PolicyName;
use crate::kubernetes::Clusters;
use crate::kubernetes::secrets::SecretPlace;
use crate::policy::spec::ConsumerSpec;
use crate::service::{Mended, Service};

/// First and longest pause between two times that readers of one policy are mended.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// After so long without a change nobody is at it any more.
const QUIET: Duration = Duration::from_secs(600);

/// After so long what could not be looked at is tried again; twice that after the next failure.
const AGAIN: Duration = Duration::from_secs(15);

/// How often Secrets of single versions are looked at: they can be watched by no name that rights could say.
const ROUND: Duration = Duration::from_secs(30);

/// Policies whose readers are looked at at the same time.
const TOGETHER: usize = 16;

/// Watches the Secrets of all policies while this process leads.
pub(super) struct Watchman {
    pub(super) service: Arc<Service>,
    pub(super) clusters: Arc<Clusters>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) leads: watch::Receiver<bool>,
}

/// How it stands with the readers of one policy.
#[derive(Default)]
struct Case {
    /// Somebody is looking at them.
    at_work: bool,
    /// Something changed since.
    again: bool,
    /// When they were mended the last time, and how long the next time is put off.
    mended: Option<Duration>,
    pause: Duration,
    /// Times in a row that they could not be looked at.
    failures: u32,
}

/// Who is looking at the readers of which policy.
struct Work {
    looks: JoinSet<Mended>,
    names: HashMap<tokio::task::Id, PolicyName>,
    turns: Arc<Semaphore>,
}

impl Watchman {
    /// Until stopped. `read` changes when policies were read anew.
    pub(super) async fn run(mut self, mut read: watch::Receiver<()>, stop: CancellationToken) {
        let (changed, mut changes) = mpsc::unbounded_channel::<PolicyName>();
        let mut watching: HashMap<SecretPlace, (PolicyName, AbortHandle)> = HashMap::new();
        let mut watches = JoinSet::new();
        let mut cases: HashMap<PolicyName, Case> = HashMap::new();
        let mut work =
            Work { looks: JoinSet::new(), names: HashMap::new(), turns: Arc::new(Semaphore::new(TOGETHER)) };
        let mut frozen = self.follow(&mut watching, &mut watches, &changed);
        let mut next_round = self.clock.monotonic() + ROUND;
        loop {
            let pause = next_round.saturating_sub(self.clock.monotonic());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = read.changed() => frozen = self.follow(&mut watching, &mut watches, &changed),
                Ok(()) = self.leads.changed() => frozen = self.follow(&mut watching, &mut watches, &changed),
                Some(policy) = changes.recv() => self.begin(policy, &mut cases, &mut work),
                () = self.clock.sleep(pause), if !frozen.is_empty() => {
                    next_round = self.clock.monotonic() + ROUND;
                    frozen.iter().for_each(|policy| self.begin(policy.clone(), &mut cases, &mut work));
                }
                // Those that are not wanted any more.
                Some(_) = watches.join_next() => {}
                Some(done) = work.looks.join_next_with_id() => {
                    let (id, mended) = match done {
                        Ok((id, mended)) => (id, mended),
                        // A panic is told by its hook; looked at again like any other failure.
                        Err(panicked) => (panicked.id(), Mended::Later),
                    };
                    let Some(policy) = work.names.remove(&id) else { continue };
                    let now = self.clock.monotonic();
                    let case = cases.entry(policy.clone()).or_default();
                    case.at_work = false;
                    match mended {
                        Mended::Nothing => case.failures = 0,
                        Mended::Readers { is_whole } => {
                            case.failures = 0;
                            case.again |= !is_whole;
                            case.mended = Some(now);
                            case.pause = (case.pause * 2).clamp(PAUSE.0, PAUSE.1);
                        }
                        Mended::Later => {
                            case.failures += 1;
                            case.again = true;
                        }
                    }
                    if std::mem::take(&mut case.again) {
                        self.begin(policy, &mut cases, &mut work);
                    } else if case.mended.is_none() {
                        cases.remove(&policy);
                    }
                }
            }
        }
    }

    /// Looks at the readers of a policy as soon as may be; not where another process leads, which looks itself.
    fn begin(&self, policy: PolicyName, cases: &mut HashMap<PolicyName, Case>, work: &mut Work) {
        if !*self.leads.borrow() {
            cases.remove(&policy);
            return;
        }
        let now = self.clock.monotonic();
        let case = cases.entry(policy.clone()).or_default();
        if case.at_work {
            case.again = true;
            return;
        }
        case.at_work = true;
        if case.mended.is_some_and(|at| now.saturating_sub(at) > QUIET) {
            (case.mended, case.pause) = (None, Duration::ZERO);
        }
        let quiet = case.mended.map_or(Duration::ZERO, |at| (at + case.pause).saturating_sub(now));
        let back_off = match case.failures {
            0 => Duration::ZERO,
            failures => (AGAIN * 2_u32.saturating_pow(failures - 1)).min(PAUSE.1),
        };
        let wait = quiet.max(back_off);
        let (service, clock) = (Arc::clone(&self.service), Arc::clone(&self.clock));
        let (clusters, turns, name) = (Arc::clone(&self.clusters), Arc::clone(&work.turns), policy.clone());
        let look = work.looks.spawn(async move {
            if !wait.is_zero() {
                clock.sleep(wait).await;
            }
            let _turn = turns.acquire().await;
            let mended = service.mend_readers(&name).await;
            if matches!(mended, Mended::Readers { .. }) {
                tell(&service, &clusters, &name, clock.now()).await;
            }
            mended
        });
        work.names.insert(look.id(), policy);
    }

    /// Watches what the policies in force name, and nothing else. Gives those with Secrets of single versions.
    fn follow(
        &self,
        watching: &mut HashMap<SecretPlace, (PolicyName, AbortHandle)>,
        watches: &mut JoinSet<()>,
        changed: &mpsc::UnboundedSender<PolicyName>,
    ) -> Vec<PolicyName> {
        let mut frozen = Vec::new();
        let mut named: HashMap<SecretPlace, PolicyName> = HashMap::new();
        if *self.leads.borrow() {
            for policy in self.service.catalog().policies() {
                let (name, consumers) = (policy.name(), &policy.spec().consumers);
                named.extend(places(consumers).map(|place| (place, name.clone())));
                frozen.extend(consumers.iter().any(freezes).then(|| name.clone()));
            }
        }
        watching.retain(|place, (policy, watch)| {
            let stays = named.get(place) == Some(policy);
            if !stays {
                watch.abort();
            }
            stays
        });
        for (place, policy) in named {
            if watching.contains_key(&place) {
                continue;
            }
            let (sender, name) = (changed.clone(), policy.clone());
            let watch = place.clone().watch(Arc::clone(&self.clusters), move || {
                let _ = sender.send(name.clone());
            });
            watching.insert(place, (policy, watches.spawn(watch)));
        }
        frozen
    }
}

/// Says of each Secret of a policy that it was mended.
async fn tell(service: &Service, clusters: &Clusters, policy: &PolicyName, now: jiff::Timestamp) {
    let Some(policy) = service.catalog().policy(policy) else { return };
    let note = format!("somebody changed it: policy {} has written the value in force again", policy.name());
    for place in places(&policy.spec().consumers) {
        if let Err(failure) = place.tell(clusters, &note, now).await {
            tracing::debug!(policy = %policy.name(), %failure, "an Event is not told");
        }
    }
}

/// Whether each version has a Secret of its own.
fn freezes(consumer: &ConsumerSpec) -> bool {
    matches!(consumer, ConsumerSpec::Kubernetes(spec) if spec.immutable)
}

fn places(consumers: &[ConsumerSpec]) -> impl Iterator<Item = SecretPlace> {
    consumers.iter().filter_map(|consumer| {
        let ConsumerSpec::Kubernetes(spec) = consumer else { return None };
        Some(SecretPlace {
            cluster: spec.cluster.clone(),
            namespace: spec.namespace.clone()?,
            name: spec.secret.clone(),
        })
    })
}
