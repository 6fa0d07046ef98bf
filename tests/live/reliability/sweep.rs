//! Every fault point, disturbed in every way, on real servers: the shipped binary is killed, stands still,
//! hears an error, or is heard late or twice at one point; another process takes the rotation over; and a
//! witness with eyes of its own looks at the servers.
//!
//! `REKEYD_SWEEP=retire` runs the cases whose names hold that text.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use rekeyd::proving::Mutant;
use rekeyd::proving::point::{POINTS, Point};
use serde_json::json;

use super::scene::{ELSEWHERE, Scene};
use super::stage::Stage;
use super::{AT_ONCE, PAIRS, Pair, runtime, said};
use crate::figures;

/// What happens at a call.
const AT_A_CALL: [Deed; 7] =
    [Deed::KillBefore, Deed::KillAfter, Deed::Error, Deed::Late, Deed::Twice, Deed::Stop, Deed::Down];

/// How a violation begins.
const INVARIANTS: [&str; 9] = ["I1: ", "I2: ", "I3: ", "I4: ", "I5: ", "I6: ", "I7: ", "I8: ", "I9: "];

/// What happens between two writes.
const BETWEEN: [Deed; 2] = [Deed::KillBefore, Deed::Stop];

/// So many cases that only wait run at once.
const WAITING: usize = 64;

/// What happens to the process at the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    KillBefore,
    KillAfter,
    Error,
    Late,
    Twice,
    /// It stands still, another process does what is left, and it goes on: its claim is lost.
    Stop,
    /// The system does not answer for a minute.
    Down,
}

impl Deed {
    /// As the disturbance is told.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::KillBefore => "killBefore",
            Self::KillAfter => "killAfter",
            Self::Error => "error",
            Self::Late => "late",
            Self::Twice => "twice",
            Self::Stop => "stop",
            Self::Down => "down60",
        }
    }

    pub(super) const fn kills(self) -> bool {
        matches!(self, Self::KillBefore | Self::KillAfter)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Case {
    pub(super) point: &'static Point,
    pub(super) deed: Deed,
    pair: Pair,
    pub(super) scene: Scene,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} {}", self.point.name, self.deed.word(), self.pair)
    }
}

/// Every point that a pair has, with everything that may happen there.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for pair in PAIRS {
        for point in POINTS {
            let Some(scene) = Scene::of(point.name, pair) else { continue };
            let deeds: &[Deed] = if point.is_call() { &AT_A_CALL } else { &BETWEEN };
            cases.extend(deeds.iter().map(|&deed| Case { point, deed, pair, scene }));
        }
    }
    cases
}

/// What came of the cases.
#[derive(Default)]
struct Results {
    run: BTreeMap<Deed, usize>,
    /// How long each took.
    times: Vec<(Duration, String)>,
    reached: BTreeSet<String>,
    /// How often another process went on with the policy while one stood still.
    taken_over: usize,
    /// By the name of the case.
    violations: BTreeMap<String, String>,
}

#[test]
fn no_fault_at_any_point_breaks_an_invariant() {
    let asked = figures::asked("REKEYD_SWEEP");
    let wanted = |case: &Case| asked.as_ref().is_none_or(|text| case.to_string().contains(text.as_str()));
    let cases: Vec<Case> = cases().into_iter().filter(wanted).collect();
    let (waiting, busy): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| case.deed == Deed::Down);
    let (queue, results) = (Mutex::new(VecDeque::from(busy)), Mutex::new(Results::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| runtime().block_on(work(&queue, &results)));
        }
        let alone = async |case| work(&Mutex::new(VecDeque::from([case])), &results).await;
        runtime().block_on(stream::iter(waiting).map(alone).buffer_unordered(WAITING).collect::<Vec<()>>());
    });

    let mut results = results.into_inner().expect("no panic");
    results.times.sort_unstable_by(|one, other| other.cmp(one));
    for (time, case) in results.times.iter().filter(|(_, case)| !case.contains(Deed::Down.word())).take(5) {
        println!("{:>8.1} s {case}", time.as_secs_f64());
    }
    let total: usize = results.run.values().sum();
    for (deed, number) in &results.run {
        println!("{:<10} {number:>5} cases", deed.word());
    }
    println!("{} times another process went on while one stood still", results.taken_over);
    println!("{total} cases, {} points, {} violations", results.reached.len(), results.violations.len());
    for (case, violation) in &results.violations {
        println!("VIOLATED {case}: {violation}");
    }
    let unreached: Vec<_> =
        POINTS.iter().map(|point| point.name).filter(|name| !results.reached.contains(*name)).collect();
    // Those of a cluster and of other targets are played in their own tests.
    let (_, unreached): (Vec<_>, Vec<_>) =
        unreached.into_iter().partition(|name| ELSEWHERE.iter().any(|on| name.starts_with(on)));
    if asked.is_none() {
        figures::write(
            "sweep",
            &json!({
                "cases": total, "points": results.reached.len(), "pointsUnreached": unreached.len(),
                "takenOver": results.taken_over, "violations": results.violations.len(),
            }),
        );
        assert!(unreached.is_empty(), "points that no case reaches: {unreached:?}");
    }
    assert!(results.violations.is_empty(), "{} cases break an invariant", results.violations.len());
}

/// The witness can fail: bugs of the protocol are seen by it, with the same binary and the same servers.
#[test]
fn a_seeded_bug_is_seen_on_real_servers() {
    let controls = [
        (Mutant::SetBeforeDurable, "open/store.save", Deed::KillBefore),
        (Mutant::FreshValueOnRetry, "reopen/store.save", Deed::KillAfter),
        (Mutant::RetireBeforeConvergence, "publish/consumer.publish", Deed::KillBefore),
        (Mutant::ClosedBeforePromote, "promote/store.promote", Deed::KillBefore),
        (Mutant::TimeoutAsRefusal, "install/target.install", Deed::Late),
    ];
    let (mut missed, mut caught) = (Vec::new(), serde_json::Map::new());
    for (mutant, name, deed) in controls {
        let pair = PAIRS[0];
        let point = POINTS.iter().find(|point| point.name == name).expect("it is listed");
        let scene = Scene::of(name, pair).expect("the pair has it");
        let played = runtime().block_on(async {
            let mut stage = Stage::new(pair, scene).await;
            stage.mutant = Some(mutant);
            AssertUnwindSafe(stage.play(&Case { point, deed, pair, scene })).catch_unwind().await
        });
        match played {
            // An invariant has to be named: a process that ends otherwise shows nothing.
            Err(panic) if INVARIANTS.iter().any(|id| said(&*panic).contains(id)) => {
                println!("{:<50} {name}: {}", mutant.as_str(), said(&*panic));
                caught.insert(mutant.as_str().into(), json!(format!("{name}: {}", said(&*panic))));
            }
            Ok(_) | Err(_) => missed.push(mutant.as_str()),
        }
    }
    figures::write(
        "sweep-mutants",
        &json!({
            "mutants": controls.len(), "mutantsCaught": controls.len() - missed.len(),
            "mutantsMissed": missed.len(), "caught": caught,
        }),
    );
    assert!(missed.is_empty(), "not seen: {missed:?}");
}

/// Plays cases until there are no more, on one stage as long as they are of the same pair.
async fn work(queue: &Mutex<VecDeque<Case>>, results: &Mutex<Results>) {
    let mut stage: Option<(Pair, Stage)> = None;
    loop {
        let Some(case) = queue.lock().expect("no panic").pop_front() else { break };
        let own = case.scene.needs_a_stage_of_its_own();
        let played = async {
            let (_, mut at) = match stage.take() {
                Some((pair, at)) if pair == case.pair && !own => (pair, at),
                Some((_, mut other)) => {
                    other.finish().await;
                    (case.pair, Stage::new(case.pair, case.scene).await)
                }
                None => (case.pair, Stage::new(case.pair, case.scene).await),
            };
            let before = at.taken_over();
            let reached = at.play(&case).await;
            let taken_over = at.taken_over() - before;
            if own {
                at.finish().await;
                return (reached, taken_over, None);
            }
            (reached, taken_over, Some((case.pair, at)))
        };
        let began = Instant::now();
        let played = AssertUnwindSafe(played).catch_unwind().await;
        let mut results = results.lock().expect("no panic");
        *results.run.entry(case.deed).or_default() += 1;
        results.times.push((began.elapsed(), case.to_string()));
        match played {
            Ok((reached, taken_over, kept)) => {
                results.reached.extend(reached);
                results.taken_over += taken_over;
                stage = kept;
            }
            // Its stage is not used again.
            Err(panic) => {
                results.violations.insert(case.to_string(), said(&*panic));
            }
        }
    }
    if let Some((_, mut stage)) = stage {
        let finished = AssertUnwindSafe(stage.finish()).catch_unwind().await;
        if let Err(panic) = finished {
            results.lock().expect("no panic").violations.insert("at the end".into(), said(&*panic));
        }
    }
}
