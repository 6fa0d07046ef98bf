//! A fault at every call that a rotation makes: the process dies before or after it, its answer is lost,
//! it arrives late, it fails. Whatever comes, the next processes bring the rotation to its end, once, with
//! the same candidate.

use rekeyd::failure::FailureClass;
use rekeyd::rotation::plan::Strategy;
use rekeyd::service::{Ending, EndingKind};

use crate::world::faults::Fault;
use crate::world::{Process, Shape, Subject, World, credential};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// The first rotation of a policy.
    First,
    Rotate,
    Schedule,
    Contain,
    Adopt,
}

/// What a rotation begins with.
#[derive(Debug, Clone, Copy)]
struct Case {
    shape: Shape,
    ask: Ask,
    /// A reader stays with the value in force, so that its grace has to end.
    stays: bool,
}

const DEATHS: [Fault; 2] = [Fault::DieBefore, Fault::DieAfter];

const TROUBLES: [Fault; 3] = [Fault::AnswerLost, Fault::Late(3), Fault::Fail(FailureClass::Unavailable)];

impl Case {
    fn new(strategy: Strategy, ask: Ask) -> Self {
        let schedule = (ask == Ask::Schedule).then_some("0 * * * *");
        // A short grace: a few looks at the sessions that are left.
        Self { shape: Shape { schedule, grace: "1s", ..Shape::new(strategy) }, ask, stays: true }
    }

    /// A policy as it is before; a reader has the value in force and a session open.
    async fn prepare(&self, world: &World) -> Subject {
        let subject = world.subject(self.shape);
        match self.ask {
            Ask::First if self.shape.strategy == Strategy::InPlace => {
                world.database.make(subject.policy.principals()[0]);
            }
            Ask::First => {}
            Ask::Adopt => {
                let live = live(&subject);
                subject.checker.by_hand(&live);
                world.database.set(&live);
            }
            Ask::Rotate | Ask::Schedule | Ask::Contain => {
                world.begin(&subject).await;
                if self.stays && !matches!(self.shape.strategy, Strategy::Generated | Strategy::DualKey) {
                    let current = world.in_force(&subject).await;
                    world.database.log_in(&current, "reader").expect("a session");
                }
                if self.ask == Ask::Schedule {
                    world.clock.advance(std::time::Duration::from_secs(3600));
                }
            }
        }
        subject
    }

    async fn ask(&self, process: &Process, subject: &Subject) -> Option<Ending> {
        match self.ask {
            Ask::First | Ask::Rotate => Some(process.rotate(subject, "asked").await),
            Ask::Contain => Some(process.contain(subject, "asked").await),
            Ask::Adopt => Some(process.adopt(subject, &live(subject), false).await),
            Ask::Schedule => {
                process.attend(subject).await;
                None
            }
        }
    }

    /// The version that it comes to.
    fn version(&self) -> u64 {
        if matches!(self.ask, Ask::First | Ask::Adopt) { 1 } else { 2 }
    }
}

fn live(subject: &Subject) -> rekeyd::secret::Credential {
    credential(subject, 0, "chosen-by-hand-long-ago")
}

/// Says where a walk was when it fails.
struct At(String);

impl Drop for At {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Walks a fault over every call of a case.
async fn walk(case: Case, faults: &[Fault]) {
    let world = World::new();
    let subject = case.prepare(&world).await;
    let process = world.process(&[&subject]);
    let ending = case.ask(&process, &subject).await;
    assert!(ending.is_none_or(|ending| ending.ending == EndingKind::Rotated));
    let records = subject.checker.at_rest().await;
    assert_eq!(records.last().map(|record| record.to.number()), Some(case.version()));
    let calls = process.script.calls();
    assert!(calls.len() >= 6, "{calls:?}");

    for (index, call) in calls.iter().enumerate() {
        for fault in faults {
            let _at = At(format!("{case:?}: {fault:?} at call {index}, {call} of {calls:?}"));
            let subject = case.prepare(&world).await;
            let process = world.process(&[&subject]);
            process.script.at(index, *fault);
            process.run(case.ask(&process, &subject)).await;
            finish(&world, &subject, &case).await;
        }
    }
    subject.checker.ledger_is_whole().await;
}

/// What follows a fault: a daemon looks after it, and whoever asked asks again.
async fn finish(world: &World, subject: &Subject, case: &Case) {
    world.settle(subject).await;
    world.wire.deliver_all().await;
    world.settle(subject).await;
    let ending = case.ask(&world.process(&[subject]), subject).await;
    if let Some(ending) = ending {
        let fine = matches!(ending.ending, EndingKind::Rotated | EndingKind::Repeated);
        assert!(fine || case.ask == Ask::Adopt, "asked again: {ending:?}");
    }
    world.settle(subject).await;
    let records = subject.checker.at_rest().await;
    assert_eq!(records.last().map(|record| record.to.number()), Some(case.version()), "{records:?}");
}

/// Two deaths in one rotation: the second while the first is made up for.
async fn walk_twice(case: Case) {
    let world = World::new();
    let subject = case.prepare(&world).await;
    let process = world.process(&[&subject]);
    case.ask(&process, &subject).await;
    let calls = process.script.calls().len();
    for first in 0..calls {
        for second in (first % 7..calls + 4).step_by(7) {
            let _at = At(format!("{case:?}: deaths at calls {first} and {second} of {calls}"));
            let subject = case.prepare(&world).await;
            let process = world.process(&[&subject]);
            process.script.at(first, Fault::DieAfter);
            process.run(case.ask(&process, &subject)).await;
            let process = world.process(&[&subject]);
            process.script.at(second, Fault::DieAfter);
            process.run(process.attend(&subject)).await;
            finish(&world, &subject, &case).await;
        }
    }
}

macro_rules! walks {
    ($($strategy:ident $ask:ident: $deaths:ident $troubles:ident;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $deaths() {
            walk(Case::new(Strategy::$strategy, Ask::$ask), &DEATHS).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $troubles() {
            let stays = Ask::$ask == Ask::Contain;
            walk(Case { stays, ..Case::new(Strategy::$strategy, Ask::$ask) }, &TROUBLES).await;
        }
    )+};
}

walks! {
    Alternating First: a_first_of_a_pair_survives_deaths a_first_of_a_pair_survives_troubles;
    Alternating Rotate: a_pair_survives_deaths a_pair_survives_troubles;
    Alternating Contain: a_contained_pair_survives_deaths a_contained_pair_survives_troubles;
    Alternating Adopt: an_adopted_pair_survives_deaths an_adopted_pair_survives_troubles;
    DualPassword First: a_first_of_two_values_survives_deaths a_first_of_two_values_survives_troubles;
    DualPassword Rotate: two_values_survive_deaths two_values_survive_troubles;
    DualPassword Contain: two_contained_values_survive_deaths two_contained_values_survive_troubles;
    DualPassword Adopt: two_adopted_values_survive_deaths two_adopted_values_survive_troubles;
    InPlace First: a_first_in_place_survives_deaths a_first_in_place_survives_troubles;
    InPlace Rotate: one_in_place_survives_deaths one_in_place_survives_troubles;
    InPlace Contain: one_contained_in_place_survives_deaths one_contained_in_place_survives_troubles;
    InPlace Adopt: one_adopted_in_place_survives_deaths one_adopted_in_place_survives_troubles;
    DualKey First: a_first_key_survives_deaths a_first_key_survives_troubles;
    DualKey Rotate: a_key_survives_deaths a_key_survives_troubles;
    DualKey Contain: a_contained_key_survives_deaths a_contained_key_survives_troubles;
    Generated First: a_first_generated_survives_deaths a_first_generated_survives_troubles;
    Generated Rotate: a_generated_survives_deaths a_generated_survives_troubles;
    Generated Contain: a_contained_generated_survives_deaths a_contained_generated_survives_troubles;
    Generated Adopt: an_adopted_generated_survives_deaths an_adopted_generated_survives_troubles;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scheduled_survives_deaths() {
    for strategy in [Strategy::Alternating, Strategy::InPlace, Strategy::DualKey, Strategy::Generated] {
        walk(Case { stays: false, ..Case::new(strategy, Ask::Schedule) }, &DEATHS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_is_cut_survives_deaths() {
    let case = Case::new(Strategy::Alternating, Ask::Contain);
    walk(Case { shape: Shape { cuts: true, ..case.shape }, ..case }, &DEATHS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cut_in_place_survives_deaths() {
    let case = Case::new(Strategy::InPlace, Ask::Contain);
    walk(Case { shape: Shape { cuts: true, ..case.shape }, ..case }, &DEATHS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_survives_two_deaths() {
    walk_twice(Case { stays: false, ..Case::new(Strategy::Alternating, Ask::Rotate) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_survives_two_deaths() {
    walk_twice(Case { stays: false, ..Case::new(Strategy::DualKey, Ask::Rotate) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_place_survives_two_deaths() {
    walk_twice(Case { stays: false, ..Case::new(Strategy::InPlace, Ask::Rotate) }).await;
}
