//! Whole daemons in a simulated world: simulated time, systems in memory, a network that loses, delays,
//! repeats and reorders, processes that die, clocks that jump. A seed is one history, and comes out the
//! same each time. After every effect the world is held to the invariants; at the end faults stop, and
//! everything has to come to rest.
//!
//! `REKEYD_SEEDS=7` replays one history and tells it, `REKEYD_SEEDS=0..1000000` runs that many.

mod contracts;
mod network;
mod people;
mod town;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::town::Town;

/// Histories that every run of the tests looks at.
const SEEDS: u64 = 10_000;

/// How long things go wrong in a history.
const TROUBLE: Duration = Duration::from_secs(600);

/// How long a history may take to come to rest when nothing goes wrong any more.
const REST: Duration = Duration::from_secs(6 * 3_600);

/// What a history came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct History {
    /// A digest of every call, its fate and its outcome.
    trace: u64,
    /// What happened how often.
    counts: BTreeMap<&'static str, u64>,
    /// Invariants that did not hold.
    violations: Vec<String>,
}

/// `told`: everything that happens is printed.
fn history(seed: u64, told: bool) -> History {
    // Whatever draws by chance on this thread follows from the seed.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let town = Town::new(seed, told);
        let lives = town.populate();
        network::pass(TROUBLE).await;
        drop(lives);
        town.network.calm();
        town.settle(REST).await;
        town.history()
    })
}

/// What many histories came to.
#[derive(Debug, Default)]
struct Histories {
    /// What happened how often in all of them.
    counts: BTreeMap<&'static str, u64>,
    /// The seeds of those that went wrong, and how.
    broken: BTreeMap<u64, Vec<String>>,
}

/// The histories of these seeds, on all cores.
fn histories(seeds: Range<u64>) -> Histories {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let told = seeds.end - seeds.start == 1;
    let results = Mutex::new(Histories::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let History { counts, violations, .. } = history(seed, told);
                    let mut results = results.lock().expect("no panic");
                    for (what, count) in counts {
                        *results.counts.entry(what).or_default() += count;
                    }
                    if !violations.is_empty() {
                        results.broken.insert(seed, violations);
                    }
                }
            });
        }
    });
    results.into_inner().expect("no panic")
}

#[expect(clippy::disallowed_methods, reason = "no settings are read here")]
fn seeds_asked_for() -> Range<u64> {
    let Ok(asked) = std::env::var("REKEYD_SEEDS") else { return 0..SEEDS };
    let number = |text: &str| text.parse::<u64>().expect("REKEYD_SEEDS is a seed, or two with `..` between");
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

#[test]
fn no_history_breaks_an_invariant() {
    let seeds = seeds_asked_for();
    let Histories { counts, broken } = histories(seeds.clone());
    println!("{} histories: {counts:?}", seeds.end - seeds.start);
    for (seed, violations) in broken.iter().take(10) {
        println!("seed {seed}: {}", violations.join("\n    "));
    }
    assert!(
        broken.is_empty(),
        "{} of {} histories break an invariant",
        broken.len(),
        seeds.end - seeds.start
    );
}

#[test]
fn a_seed_comes_out_the_same_each_time() {
    for seed in 0..50 {
        assert_eq!(history(seed, false), history(seed, false), "seed {seed}");
    }
}
