//! The way between processes and systems: what is sent arrives late, twice or never, and answers get lost.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use rekeyd::failure::{Failure, FailureClass};
use tokio::time::Instant;

use crate::world::checker::Checker;
use crate::world::faults::Witness as _;
use rekeyd::proving::calls::Way;

/// A caller gives up waiting for an answer after this time.
const DEADLINE: Duration = Duration::from_secs(15);

/// Waits; simulated time passes at once when nobody has anything to do.
#[expect(clippy::disallowed_methods, reason = "the runtime's time is simulated here")]
pub(super) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

pub(super) struct Network {
    /// When it began, if what happens is to be told.
    began: Option<Instant>,
    rng: Mutex<fastrand::Rng>,
    troubled: AtomicBool,
    /// Systems that do not answer, and until when.
    down: Mutex<BTreeMap<&'static str, Instant>>,
    /// Effects that were sent and have not happened.
    on_the_way: AtomicUsize,
    log: Mutex<Log>,
    checkers: Mutex<Vec<Arc<Checker>>>,
}

#[derive(Default)]
pub(super) struct Log {
    trace: DefaultHasher,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) violations: Vec<String>,
    /// The points that were reached.
    pub(super) points: BTreeSet<(&'static str, &'static str)>,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, Hash)]
enum Fate {
    /// It arrives, and so does the answer.
    Heard { there: Duration, back: Duration },
    /// It arrives a second time.
    Twice { there: Duration, again: Duration },
    /// It arrives, perhaps long after the caller has given up, and the answer does not.
    Unheard { there: Duration },
    /// It does not arrive.
    Lost,
    /// The system says at once that it cannot.
    TurnedAway,
    /// The system says at once that it may not: rights were taken away for a moment.
    Denied,
}

/// One process's way.
pub(super) struct Node {
    pub(super) network: Arc<Network>,
}

impl Network {
    pub(super) fn new(seed: u64, told: bool) -> Self {
        Self {
            began: told.then(Instant::now),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            troubled: AtomicBool::new(true),
            down: Mutex::default(),
            on_the_way: AtomicUsize::new(0),
            log: Mutex::default(),
            checkers: Mutex::default(),
        }
    }

    pub(super) fn watch(&self, checker: Arc<Checker>) {
        self.checkers.lock().expect("no panic").push(checker);
    }

    /// From now on everything arrives.
    pub(super) fn calm(&self) {
        self.troubled.store(false, Ordering::Relaxed);
        self.down.lock().expect("no panic").clear();
    }

    pub(super) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    pub(super) fn is_down(&self, system: &str) -> bool {
        self.down.lock().expect("no panic").get(system).is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.on_the_way.load(Ordering::Relaxed) == 0
    }

    /// A system does not answer for a while.
    pub(super) fn take_down(&self, system: &'static str, time: Duration) {
        self.count("outages");
        self.down.lock().expect("no panic").insert(system, Instant::now() + time);
    }

    /// A number from 0 to below the limit, by chance.
    pub(super) fn dice(&self, limit: u64) -> u64 {
        self.rng.lock().expect("no panic").u64(0..limit)
    }

    /// A time between two, by chance.
    pub(super) fn between(&self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_micros()).expect("a short time");
        least + Duration::from_micros(self.dice(span + 1))
    }

    pub(super) fn count(&self, what: &'static str) {
        *self.log.lock().expect("no panic").counts.entry(what).or_default() += 1;
    }

    pub(super) fn violated(&self, what: String) {
        self.tell(|| format!("VIOLATED {what}"));
        self.log.lock().expect("no panic").violations.push(what);
    }

    pub(super) fn close(&self) -> (u64, Log) {
        let log = std::mem::take(&mut *self.log.lock().expect("no panic"));
        (log.trace.finish(), log)
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(began) = self.began {
            println!("{:>10.3} {}", began.elapsed().as_secs_f64(), what());
        }
    }

    fn fate(&self, name: &'static str) -> Fate {
        let short = self.between(Duration::from_micros(200), Duration::from_millis(20));
        let back = self.between(Duration::from_micros(200), Duration::from_millis(20));
        let heard = Fate::Heard { there: short, back };
        if !self.is_troubled() {
            return heard;
        }
        if self.is_down(name.split_once('.').expect("a system's call").0) {
            return if self.dice(2) == 0 { Fate::TurnedAway } else { Fate::Lost };
        }
        match self.dice(1_000) {
            0..20 => Fate::Lost,
            20..40 => Fate::Unheard { there: short },
            40..55 => Fate::Unheard { there: self.between(Duration::from_secs(5), Duration::from_secs(180)) },
            55..70 => Fate::Twice {
                there: short,
                again: self.between(Duration::from_millis(1), Duration::from_secs(60)),
            },
            70..85 => Fate::TurnedAway,
            85..90 => Fate::Denied,
            90..110 => Fate::Heard { there: self.between(short, Duration::from_secs(10)), back },
            _ => heard,
        }
    }

    pub(super) fn note(&self, what: impl std::hash::Hash) {
        what.hash(&mut self.log.lock().expect("no panic").trace);
    }

    /// Holds every policy to the invariants. Nothing else runs meanwhile.
    async fn look(&self, after: &'static str) {
        if !self.log.lock().expect("no panic").violations.is_empty() {
            // The first one counts; a world that is broken breaks again and again.
            return;
        }
        let checkers = self.checkers.lock().expect("no panic").clone();
        for checker in checkers {
            if let Err(panic) = AssertUnwindSafe(checker.look(after)).catch_unwind().await {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.violated(format!("{}: {}", checker.policy.name(), text.unwrap_or_default()));
            }
        }
    }

    /// An effect that arrives after a time, whatever became of who sent it.
    pub(super) async fn arrive<T>(
        self: &Arc<Self>,
        name: &'static str,
        after: Duration,
        effect: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
    {
        let network = Arc::clone(self);
        network.on_the_way.fetch_add(1, Ordering::Relaxed);
        let arrival = tokio::spawn(async move {
            pass(after).await;
            let outcome = effect.await;
            network.note((name, outcome.as_ref().err().map(Failure::class)));
            network.tell(|| format!("    {name} arrives: {:?}", outcome.as_ref().map(drop)));
            network.look(name).await;
            network.on_the_way.fetch_sub(1, Ordering::Relaxed);
            outcome
        });
        arrival.await.expect("an effect does not panic")
    }
}

/// Calls that change nothing: one whose answer is lost had no effect.
fn only_looks(name: &str) -> bool {
    matches!(
        name,
        "store.current"
            | "store.control"
            | "store.policies"
            | "target.probe"
            | "target.usage"
            | "consumer.observe"
            | "consumer.rehearse"
            | "ledger.holds"
    )
}

impl Way for Node {
    async fn call<T: Send + 'static, E: Future<Output = Result<T, Failure>> + Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        effect: impl Fn() -> E + Send + Sync + 'static,
    ) -> Result<T, Failure> {
        let network = &self.network;
        let fate = network.fate(name);
        network.note((name, fate));
        network.tell(|| format!("    {name} is {fate:?}"));
        network.count("calls");
        network.log.lock().expect("no panic").points.insert((rekeyd::proving::phase(), name));
        let failed = |class| Err(Failure::new(class, format!("reach {name}"), "a fault of the simulation's"));
        let unheard = if only_looks(name) { FailureClass::Unavailable } else { FailureClass::Ambiguous };
        if !matches!(fate, Fate::Heard { .. }) {
            network.count("faults");
        }
        match fate {
            Fate::Heard { there, back } => {
                let outcome = network.arrive(name, there, effect()).await;
                pass(back).await;
                outcome
            }
            Fate::Twice { there, again } => {
                let (network, second) = (Arc::clone(network), effect());
                let outcome = network.arrive(name, there, effect()).await;
                tokio::spawn(async move { network.arrive(name, again, second).await.map(drop) });
                outcome
            }
            Fate::Unheard { there } => {
                let (network, effect) = (Arc::clone(network), effect());
                tokio::spawn(async move { network.arrive(name, there, effect).await.map(drop) });
                pass(DEADLINE).await;
                failed(unheard)
            }
            Fate::Lost => {
                pass(DEADLINE).await;
                failed(unheard)
            }
            Fate::TurnedAway | Fate::Denied => {
                pass(network.between(Duration::from_millis(1), Duration::from_secs(1))).await;
                failed(if matches!(fate, Fate::Denied) {
                    FailureClass::Denied
                } else {
                    FailureClass::Unavailable
                })
            }
        }
    }
}
