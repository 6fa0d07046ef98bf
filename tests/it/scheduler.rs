//! When the scheduler looks again at a policy whose store is away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rekeyd::clock::Clock;
use rekeyd::daemon::scheduler::{Nudge, Scheduler};
use rekeyd::failure::FailureClass;
use rekeyd::rotation::plan::Strategy;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::faults::{Fault, Script};
use crate::world::memory::{MemoryLedger, MemoryStore};
use crate::world::{Shape, World};

/// The time of the runtime, which stands still while anything runs and leaps when all wait.
struct RuntimeClock {
    began: Instant,
    wall: Timestamp,
}

#[async_trait]
impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        self.wall + self.began.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        pass(duration).await;
    }
}

async fn pass(duration: Duration) {
    let _ = tokio::time::timeout(duration, std::future::pending::<()>()).await;
}

fn looks(script: &Script) -> usize {
    script.calls().iter().filter(|call| **call == "store.control").count()
}

/// The pauses between looks until there were so many, in seconds.
async fn pauses(script: &Script, until: usize) -> Vec<u64> {
    let (mut pauses, mut seen, mut last) = (Vec::new(), looks(script), Instant::now());
    while looks(script) < until {
        pass(Duration::from_secs(1)).await;
        if looks(script) > seen {
            seen = looks(script);
            pauses.push(last.elapsed().as_secs());
            last = Instant::now();
        }
    }
    pauses
}

#[tokio::test]
async fn the_pause_grows_while_the_store_is_away_and_begins_anew_afterwards() {
    const LOOKS: usize = 8;
    let mut world = World::new();
    // One that answers at once: the runtime's time would leap while it waited for a disk.
    world.store = Arc::new(MemoryStore::default());
    let subject = world.subject(Shape::new(Strategy::Alternating));
    world.begin(&subject).await;
    tokio::time::pause();
    let process = world.process(&[&subject]);
    process.script.next("store.control", LOOKS, Fault::Fail(FailureClass::Unavailable));

    let clock = Arc::new(RuntimeClock { began: Instant::now(), wall: world.now() });
    let (nudge, nudges) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let scheduler = Scheduler::new(Arc::clone(&process.service), clock).run(nudges, stop.clone());
    let scheduler = tokio::spawn(scheduler);

    // The first look is at once, and the last one finds the store.
    let grown = pauses(&process.script, LOOKS + 1).await;
    assert_eq!(grown.len(), LOOKS + 1, "{grown:?}");
    for (pause, least) in grown[1..].iter().zip((0..).map(|doubled| 5 << doubled)) {
        // A second for the grain of this measure.
        assert!((least..=2 * least + 1).contains(pause), "{pause} of {grown:?}");
    }

    // Nothing is in its way now: it is looked at when somebody asks, and the pause is short again.
    pass(Duration::from_secs(60)).await;
    assert_eq!(looks(&process.script), LOOKS + 1);
    process.script.next("store.control", 1, Fault::Fail(FailureClass::Unavailable));
    nudge.send(Nudge::Policy(subject.policy.name().clone())).expect("it listens");
    let anew = pauses(&process.script, LOOKS + 3).await;
    assert!(anew[0] <= 1 && (5..=11).contains(&anew[1]), "{anew:?}");

    stop.cancel();
    scheduler.await.expect("it ends");
}

/// Each attempt writes to a store that may count what is written.
#[tokio::test]
async fn looking_at_all_policies_brings_no_attempt_in_vain_forward() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut world = World::new();
    world.store = Arc::new(MemoryStore::default());
    world.records = Arc::new(MemoryLedger::new(Arc::default()));
    let subject = world.subject(Shape { schedule: Some("0 * * * *"), ..Shape::new(Strategy::Alternating) });
    world.begin(&subject).await;
    world.clock.advance(Duration::from_secs(3_600));
    world.database.turn(|knobs| knobs.powerless = true);
    tokio::time::pause();
    let process = world.process(&[&subject]);
    let clock = Arc::new(RuntimeClock { began: Instant::now(), wall: world.now() });
    let (nudge, nudges) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let scheduler = Scheduler::new(Arc::clone(&process.service), clock).run(nudges, stop.clone());
    let scheduler = tokio::spawn(scheduler);
    let attempts = || process.script.calls().into_iter().filter(|call| *call == "target.install").count();

    for _ in 0..24 * 12 {
        pass(DAY / (24 * 12)).await;
        nudge.send(Nudge::PoliciesChanged).expect("it listens");
    }
    let in_a_day = attempts();
    assert!((8..=12).contains(&in_a_day), "{in_a_day}");
    // Somebody asks for it.
    nudge.send(Nudge::Policy(subject.policy.name().clone())).expect("it listens");
    pass(Duration::from_secs(1)).await;
    assert_eq!(attempts(), in_a_day + 1);

    stop.cancel();
    scheduler.await.expect("it ends");
}
