//! Every history of two processes that serve one policy with two readers, with deaths, lost and late
//! messages, and readers that are away: exhaustively, over the real rules of
//! [`rekeyd::rotation::progress`] and a world that is reduced to what they decide about.
//!
//! A step is made of calls, each of them one event; between any two of them the other process may act, and
//! an effect that is on its way may come. From every state that is reached, a process that nothing happens
//! to must bring the policy to rest.

mod amend;
mod fate;
mod keys;
mod ledgers;
mod process;
mod role;
mod world;

use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rekeyd::proving::Mutant;
use rekeyd::rotation::plan::Strategy;
use stateright::{Checker as _, Model, Property};

use serde_json::json;

use self::fate::Fate;
use self::world::World;
use crate::figures;

/// What may go wrong in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    deaths: u8,
    late: u8,
    refusals: u8,
    /// Readers that fail while another one cannot be told.
    beside: u8,
    rotations: u8,
}

/// One strategy, with what may go wrong, and perhaps a seeded bug.
#[derive(Debug, Clone)]
struct Town {
    strategy: Strategy,
    contains: bool,
    budget: Budget,
    mutant: Option<Mutant>,
    /// Whether somebody may edit the policy: once, in the middle.
    edits: bool,
    /// Systems that were brought to rest already: which processes there were makes no difference to that.
    rested: Arc<Rested>,
}

#[derive(Debug, Default)]
struct Rested {
    hasher: std::hash::RandomState,
    seen: Mutex<HashSet<u64>>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Event {
    /// A process makes its next call, which goes so.
    Call { process: usize, fate: Fate },
    /// A process looks at the policy: it takes the open rotation up, or opens one.
    Begin { process: usize, fate: Fate },
    /// An effect arrives that was on its way.
    Arrive { message: usize },
    /// Somebody edits the policy: it names one reader less.
    Edit,
}

impl Model for Town {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if !world.violations.is_empty() {
            return;
        }
        events.extend((0..world.on_the_way.len()).map(|message| Event::Arrive { message }));
        if !world.edited && self.edits {
            events.push(Event::Edit);
        }
        for process in 0..world.processes.len() {
            let begins = world.processes[process].is_none();
            for fate in Mutant::within(self.mutant, || world.fates(process)) {
                events.push(if begins {
                    Event::Begin { process, fate }
                } else {
                    Event::Call { process, fate }
                });
            }
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        Mutant::within(self.mutant, || next.happen(event));
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no invariant is broken", |_, world: &World| world.violations.is_empty()),
            Property::always(
                "a process that nothing happens to brings it to rest",
                |town: &Self, world: &World| {
                    let systems = world.systems();
                    let hash = town.rested.hasher.hash_one(&systems);
                    !town.rested.seen.lock().expect("no panic").insert(hash)
                        || Mutant::within(town.mutant, || systems.comes_to_rest().is_ok())
                },
            ),
        ]
    }
}

/// What a search came to.
struct Searched {
    states: u64,
    /// The history that breaks an invariant, and which.
    broken: Option<String>,
}

impl Town {
    fn search(self) -> Searched {
        let mutant = self.mutant;
        let checker = self.checker().threads(1).timeout(PATIENCE).spawn_bfs().join();
        let broken = checker.discoveries().into_iter().next().map(|(property, path)| {
            let last = path.last_state().clone();
            let rest = Mutant::within(mutant, || last.systems().comes_to_rest().err());
            let events: Vec<String> = path.into_actions().iter().map(|event| format!("{event:?}")).collect();
            let what = last.violations.first().cloned().or(rest).unwrap_or_default();
            format!("{property}: {what}\n      {}", events.join("\n      "))
        });
        assert!(broken.is_some() || checker.is_done(), "the search did not end");
        Searched { states: checker.unique_state_count() as u64, broken }
    }
}

fn towns(budget: Budget) -> Vec<Town> {
    towns_of(&[Strategy::Alternating, Strategy::DualPassword, Strategy::InPlace, Strategy::Generated], budget)
}

fn towns_of(strategies: &[Strategy], budget: Budget) -> Vec<Town> {
    let all = strategies.iter().copied().flat_map(|strategy| [(strategy, false), (strategy, true)]);
    all.map(|(strategy, contains)| Town {
        strategy,
        contains,
        budget,
        mutant: None,
        edits: false,
        rested: Arc::default(),
    })
    .collect()
}

/// How long one search may take.
const PATIENCE: Duration = Duration::from_secs(600);

const FULL: Budget = Budget { deaths: 3, late: 2, refusals: 1, beside: 0, rotations: 2 };

/// Enough for each seeded bug.
const SMALL: Budget = Budget { deaths: 1, late: 1, refusals: 1, beside: 1, rotations: 2 };

/// Where the target makes the value there are more calls to a rotation.
const OF_KEYS: [Budget; 2] = [
    Budget { deaths: 1, late: 1, refusals: 0, beside: 0, rotations: 1 },
    Budget { deaths: 1, late: 0, refusals: 1, beside: 0, rotations: 1 },
];

/// `REKEYD_BUDGET=3,2,1,1,2`: deaths, late messages, refusals, failures beside one of those, rotations.
fn budget_asked_for() -> Budget {
    let Some(asked) = figures::asked("REKEYD_BUDGET") else { return FULL };
    let numbers: Vec<u8> = asked.split(',').map(|number| number.parse().expect("a number")).collect();
    let [deaths, late, refusals, beside, rotations] = numbers[..] else {
        panic!("REKEYD_BUDGET is five numbers")
    };
    Budget { deaths, late, refusals, beside, rotations }
}

#[test]
fn no_history_of_two_processes_breaks_an_invariant() {
    let mut towns = towns(budget_asked_for());
    // An edit makes twice as many histories of each.
    towns.extend(self::towns(SMALL).into_iter().map(|town| Town { edits: true, ..town }));
    search_all(&towns, "model");
}

/// Among two processes that have a key made, and a target that has room for one that was made in vain.
#[test]
fn no_history_of_keys_that_a_target_makes_breaks_an_invariant() {
    let budgets =
        OF_KEYS.map(|budget| figures::asked("REKEYD_BUDGET").map_or(budget, |_| budget_asked_for()));
    let towns: Vec<_> = budgets.iter().flat_map(|budget| towns_of(&[Strategy::DualKey], *budget)).collect();
    search_all(&towns, "model-keys");
}

fn search_all(towns: &[Town], figure: &str) {
    let (next, states, broken) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(town) = towns.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let searched = town.clone().search();
                    let Town { strategy, contains, edits, .. } = town;
                    println!("{strategy:?} contains={contains} edits={edits}: {} states", searched.states);
                    broken.lock().expect("no panic").extend(searched.broken);
                    states.fetch_add(searched.states, Ordering::Relaxed);
                }
            });
        }
    });
    let (states, broken) = (states.into_inner(), broken.into_inner().expect("no panic"));
    println!("{states} states in all");
    figures::write(figure, &json!({"states": states, "violations": broken.len()}));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_seeded_bug_is_found_by_a_small_search() {
    let (mut missed, mut caught) = (Vec::new(), serde_json::Map::new());
    let asked = figures::asked("REKEYD_SEEDED");
    let is_asked = |mutant: &Mutant| asked.as_ref().is_none_or(|asked| mutant.as_str() == asked);
    let of_keys = [Mutant::OF_KEYS, Mutant::OF_KEYS_IN_VAIN].concat();
    for mutant in Mutant::ALL.iter().chain(&of_keys).copied().filter(is_asked) {
        let towns =
            if of_keys.contains(&mutant) { towns_of(&[Strategy::DualKey], OF_KEYS[0]) } else { towns(SMALL) };
        let found = towns.into_iter().find_map(|town| {
            let strategy = town.strategy;
            let edits = mutant == Mutant::ResumeWithEditedPolicy;
            let searched = Town { mutant: Some(mutant), edits, ..town }.search();
            searched.broken.map(|broken| (strategy, searched.states, broken))
        });
        match found {
            Some((strategy, states, broken)) => {
                let what = broken.lines().next().unwrap_or_default();
                println!("{:<50} {strategy:?}, {states} states: {what}", mutant.as_str());
                caught
                    .insert(mutant.as_str().into(), json!(format!("{strategy:?}, {states} states: {what}")));
            }
            None => {
                println!("{:<50} NOT FOUND", mutant.as_str());
                missed.push(mutant);
            }
        }
    }
    let all = Mutant::ALL.len() + of_keys.len();
    figures::write(
        "model-mutants",
        &json!({
            "mutants": all, "mutantsCaught": all - missed.len(), "mutantsMissed": missed.len(), "caught": caught,
        }),
    );
    assert_eq!(missed, [], "not found");
}
