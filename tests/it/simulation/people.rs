//! Who lives in a town: daemons that die and come back, operators, applications, and mishaps.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use rekeyd::daemon::scheduler::Scheduler;
use rekeyd::ledger::TriggerKind;
use rekeyd::rotation::decision::Decision;
use rekeyd::service::{Action, EndingKind, Request};
use rekeyd::status::State;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cluster;
use super::network::pass;
use super::readership::Readership;
use super::town::Town;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A daemon, until it is dropped.
pub(super) async fn daemon(town: Arc<Town>) {
    let service = Arc::new(town.process());
    let (_nudge, nudges) = mpsc::unbounded_channel();
    let scheduler = Scheduler::new(Arc::clone(&service), Arc::clone(&town.clock) as _);
    let runs = scheduler.run(nudges, CancellationToken::new());
    if town.systems.cluster.is_none() {
        return runs.await;
    }
    tokio::select! {
        biased;
        () = runs => {}
        () = cluster::watchman(&town, &service) => {}
    }
}

/// One daemon after the other: each is killed after a while.
pub(super) async fn daemons(town: Arc<Town>) {
    loop {
        let life = town.network.between(seconds(1), seconds(240));
        let _ = timeout(life, daemon(Arc::clone(&town))).await;
        town.network.count("kills");
        town.network.tell(|| "a daemon is killed".into());
        pass(town.network.between(seconds(0), seconds(60))).await;
    }
}

/// People at command lines, who sometimes lose patience.
pub(super) async fn operators(town: Arc<Town>) {
    loop {
        pass(town.network.between(seconds(0), seconds(80))).await;
        let who = town.network.dice(town.inhabitants.len() as u64) as usize;
        let action = match town.network.dice(10) {
            0..5 => Action::Rotate,
            5..7 => Action::Contain,
            7..9 => Action::Resume { decision: Decision::GoOn },
            _ => Action::Resume { decision: Decision::Abandon },
        };
        let life = town.network.between(seconds(0), seconds(120));
        tokio::spawn({
            let town = Arc::clone(&town);
            async move {
                if timeout(life, ask(&town, who, action)).await.is_err() {
                    town.network.count("kills");
                    town.network.tell(|| format!("an operator's {action:?} of {who} is killed"));
                }
            }
        });
    }
}

async fn ask(town: &Town, who: usize, action: Action) -> EndingKind {
    let service = town.process();
    town.network.tell(|| format!("an operator asks {action:?} of {who}"));
    let policy = town.inhabitants[who].policy.name().clone();
    let request = Request { policy, action, request: None, reason: None, patience_seconds: 30 };
    let (events, _) = mpsc::unbounded_channel();
    let ending = service.perform(&request, "operator", events).await.ending;
    if ending == EndingKind::InDoubt {
        town.network.count("doubts");
    }
    ending
}

/// Somebody looks at what is in doubt, and lets it go on.
pub(super) async fn decide(town: &Town) {
    let service = town.process();
    for (who, inhabitant) in town.inhabitants.iter().enumerate() {
        let status = service.status(Some(inhabitant.policy.name())).await.expect("it is in force");
        if status[0].state == State::InDoubt {
            town.network.count("doubts");
            let decisions =
                [Decision::GoOn, Decision::KeepCurrent, Decision::UseCandidate, Decision::SetBoth];
            let decision = decisions[town.network.dice(4) as usize];
            ask(town, who, Action::Resume { decision }).await;
        } else if status[0].last.as_ref().is_some_and(|last| last.trigger == TriggerKind::Drift)
            && status[0].open.is_none()
            && town.is_refused(inhabitant).await
        {
            // It was mended once and that came to nothing: from then on it is told of, for somebody to look.
            town.network.count("drifts left to people");
            ask(town, who, Action::Rotate).await;
        }
    }
}

/// An application that logs in with what it finds, and stays for a while.
pub(super) async fn application(town: Arc<Town>, reader: Arc<Readership>) {
    loop {
        pass(town.network.between(seconds(1), seconds(30))).await;
        let Some(credential) = reader.found(&town.network) else { continue };
        let Some(session) = town.systems.database.log_in(&credential, "application") else { continue };
        let stay = town.network.between(seconds(1), seconds(90));
        tokio::spawn({
            let town = Arc::clone(&town);
            async move {
                pass(stay).await;
                town.systems.database.log_out(session);
            }
        });
    }
}

/// Systems go down for a while, and clocks are set.
pub(super) async fn mishaps(town: Arc<Town>) {
    loop {
        pass(town.network.between(seconds(10), seconds(120))).await;
        let time = town.network.between(seconds(1), seconds(90));
        match town.network.dice(12) {
            10 | 11 => town.break_reader(time),
            6 => town.edit(),
            7 => town.lose_record(),
            8 => town.add_by_hand(),
            9 => town.change_by_hand().await,
            0 => town.network.take_down("store", time),
            1 => town.network.take_down("target", time),
            2 => town.network.take_down("consumer", time),
            3 => town.network.take_down("ledger", time),
            _ => {
                town.network.count("clocks set");
                let by = SignedDuration::from_secs(town.network.dice(7_200) as i64 - 3_600);
                town.clock.set(by);
            }
        }
    }
}
