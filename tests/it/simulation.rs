//! Whole daemons in a simulated world: simulated time, systems in memory, a network that loses, delays,
//! repeats and reorders, processes that die, clocks that jump. A seed is one history, and comes out the
//! same each time. After every effect the world is held to the invariants; at the end faults stop, and
//! everything has to come to rest.
//!
//! `REKEYD_SEEDS=7` replays one history and tells it, `REKEYD_SEEDS=0..1000000` runs that many.

mod cluster;
mod contracts;
mod network;
mod people;
mod readership;
mod town;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rekeyd::proving::Mutant;
use rekeyd::proving::point::{IN_NO_HISTORY, POINTS};
use serde_json::json;

use self::town::{Ground, Town};
use crate::figures;

/// Histories that every run of the tests looks at.
const SEEDS: u64 = 10_000;

/// The same with a cluster: each request is a call, so that a history of them has many more.
const CLUSTER_SEEDS: u64 = 300;

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
    /// The points that were reached: phase and call.
    points: BTreeSet<(&'static str, &'static str)>,
}

/// `told`: everything that happens is printed. `mutant`: a seeded bug that all processes have.
fn history(seed: u64, ground: Ground, told: bool, mutant: Option<Mutant>) -> History {
    Mutant::within(mutant, || live(seed, ground, told))
}

fn live(seed: u64, ground: Ground, told: bool) -> History {
    // Whatever draws by chance on this thread follows from the seed.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let town = Town::new(seed, told, ground);
        let lives = town.populate();
        network::pass(ground.trouble()).await;
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
    points: BTreeSet<(&'static str, &'static str)>,
    /// The seeds of those that went wrong, and how.
    broken: BTreeMap<u64, Vec<String>>,
}

/// The histories of these seeds, on all cores.
fn histories(seeds: Range<u64>, ground: Ground) -> Histories {
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
                    let History { counts, violations, points, .. } = history(seed, ground, told, None);
                    let mut results = results.lock().expect("no panic");
                    results.points.extend(points);
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

/// `7`, or `0..100`.
fn range(asked: &str) -> Range<u64> {
    let number = |text: &str| text.parse::<u64>().expect("REKEYD_SEEDS is a seed, or two with `..` between");
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(asked)..number(asked) + 1,
    }
}

#[test]
fn no_history_breaks_an_invariant() {
    let asked = figures::asked("REKEYD_SEEDS");
    let seeds = asked.as_deref().map_or(0..SEEDS, range);
    let Histories { counts, broken, points } = histories(seeds.clone(), Ground::Files);
    let run = seeds.end - seeds.start;
    tell(run, &counts, &broken);
    if asked.is_none() || run >= SEEDS {
        let rotations = counts.get("rotations");
        figures::write(
            "simulation",
            &json!({"histories": run, "rotations": rotations, "violations": broken.len()}),
        );
    }
    hold_against_the_list(&points, run >= SEEDS);
    assert!(run < SEEDS || counts.contains_key("drifts mended"), "nobody notices what is changed by hand");
    assert!(run < SEEDS || counts.contains_key("values brought back"), "no reader gets back what it had");
    assert!(broken.is_empty(), "{} of {run} histories break an invariant", broken.len());
}

#[test]
fn no_history_of_a_cluster_breaks_an_invariant() {
    let asked = figures::asked("REKEYD_SEEDS");
    let seeds = asked.as_deref().map_or(0..CLUSTER_SEEDS, range);
    let Histories { counts, broken, .. } = histories(seeds.clone(), Ground::Cluster);
    let run = seeds.end - seeds.start;
    tell(run, &counts, &broken);
    if asked.is_none() || run >= CLUSTER_SEEDS {
        let (rotations, requests) = (counts.get("rotations"), counts.get("requests"));
        figures::write(
            "simulation-cluster",
            &json!({"histories": run, "rotations": rotations, "requests": requests, "violations": broken.len()}),
        );
        for what in [
            "stale reads",
            "requests overtaken",
            "watches too old",
            "requests throttled",
            "values brought back",
        ] {
            assert!(counts.contains_key(what), "no history has {what}");
        }
    }
    assert!(broken.is_empty(), "{} of {run} histories break an invariant", broken.len());
}

fn tell(run: u64, counts: &BTreeMap<&'static str, u64>, broken: &BTreeMap<u64, Vec<String>>) {
    println!("{run} histories: {counts:?}");
    for (seed, violations) in broken.iter().take(10) {
        println!("seed {seed}: {}", violations.join("\n    "));
    }
}

/// Every call that is made is a listed point, and enough histories reach every one that is listed.
fn hold_against_the_list(reached: &BTreeSet<(&str, &str)>, all: bool) {
    let reached: BTreeSet<String> = reached.iter().map(|(phase, call)| format!("{phase}/{call}")).collect();
    let listed: BTreeSet<String> =
        POINTS.iter().filter(|point| point.is_call()).map(|point| point.name.to_owned()).collect();
    let unlisted: Vec<_> = reached.difference(&listed).collect();
    assert!(unlisted.is_empty(), "calls that are no listed point: {unlisted:?}");
    let in_no_history = |point: &str| IN_NO_HISTORY.iter().any(|on| point.starts_with(on));
    let unreached: Vec<_> = listed.difference(&reached).filter(|point| !in_no_history(point)).collect();
    println!("{} of {} points at calls reached", reached.len(), listed.len());
    assert!(!all || unreached.is_empty(), "points that no history reaches: {unreached:?}");
}

#[test]
fn a_seed_comes_out_the_same_each_time() {
    for seed in 0..50 {
        let again = || history(seed, Ground::Files, false, None);
        assert_eq!(again(), again(), "seed {seed}");
    }
    for seed in 0..5 {
        let again = || history(seed, Ground::Cluster, false, None);
        assert_eq!(again(), again(), "seed {seed} of a cluster");
    }
}

/// So many histories at most are looked at for one seeded bug, and with a cluster.
const SEARCHED: (u64, u64) = (3_000, 600);

#[test]
fn every_seeded_bug_is_found() {
    search(&[&Mutant::ALL[..], &Mutant::OF_KEYS].concat(), Ground::Files, SEARCHED.0, "simulation-mutants");
}

#[test]
fn every_seeded_bug_of_a_cluster_is_found() {
    search(&Mutant::OF_CLUSTERS, Ground::Cluster, SEARCHED.1, "simulation-cluster-mutants");
}

fn search(mutants: &[Mutant], ground: Ground, searched: u64, level: &str) {
    let asked = figures::asked("REKEYD_SEEDED");
    let is_asked = |mutant: &&Mutant| asked.as_ref().is_none_or(|asked| mutant.as_str() == asked);
    let mutants: Vec<_> = mutants.iter().filter(is_asked).collect();
    let next = AtomicU64::new(0);
    let found = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let caught = (0..searched).find_map(|seed| {
                        let violation =
                            history(seed, ground, false, Some(**mutant)).violations.into_iter().next()?;
                        Some((seed, violation))
                    });
                    found.lock().expect("no panic").insert(**mutant, caught);
                }
            });
        }
    });
    let found = found.into_inner().expect("no panic");
    for (mutant, caught) in &found {
        match caught {
            Some((seed, violation)) => println!("{:<50} seed {seed:>5}: {violation}", mutant.as_str()),
            None => println!("{:<50} NOT FOUND in {searched} histories", mutant.as_str()),
        }
    }
    let missed: Vec<_> =
        found.iter().filter(|(_, caught)| caught.is_none()).map(|(mutant, _)| mutant).collect();
    figures::write(
        level,
        &json!({
            "mutants": found.len(), "mutantsCaught": found.len() - missed.len(), "mutantsMissed": missed.len(),
            "caught": found.iter().filter_map(|(mutant, caught)| {
                let (seed, violation) = caught.as_ref()?;
                Some((mutant.as_str().to_owned(), json!(format!("seed {seed}: {violation}"))))
            }).collect::<serde_json::Map<_, _>>(),
        }),
    );
    assert!(missed.is_empty(), "{missed:?} are not found");
}
