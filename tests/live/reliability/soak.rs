//! SIGKILL at random moments: of a command, of a daemon that does what a command asked for, and of one of two
//! daemons that serve the same policy, neither elected.
//!
//! `REKEYD_KILLS=10000` kills that often. The moments are a process's own and do not come out the same twice.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::scene::Scene;
use super::stage::{HEIR, Stage};
use super::{AT_ONCE, PAIRS, Pair, runtime, said};
use crate::figures;
use crate::processes::Running;
use crate::site::POLICY;

/// So often every run of the tests kills.
const KILLS: usize = 300;

/// So many kills are one piece of work.
const PIECE: usize = 25;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Command,
    Daemon,
    OneOfTwoDaemons,
}

const VICTIMS: [Victim; 3] = [Victim::Command, Victim::Daemon, Victim::OneOfTwoDaemons];

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Daemon => "daemon",
            Self::OneOfTwoDaemons => "one of two daemons",
        })
    }
}

#[derive(Clone, Copy)]
struct Piece {
    victim: Victim,
    pair: Pair,
    kills: usize,
}

/// The kills, spread over who is killed and on which servers.
fn pieces(kills: usize) -> VecDeque<Piece> {
    let mut lanes = VICTIMS.iter().flat_map(|&victim| PAIRS.map(|pair| (victim, pair))).cycle();
    let lanes_in_all = VICTIMS.len() * PAIRS.len();
    let piece = PIECE.min(kills.div_ceil(lanes_in_all)).max(1);
    let (mut left, mut pieces) = (kills, VecDeque::new());
    while left > 0 {
        let (victim, pair) = lanes.next().expect("it goes round");
        let kills = piece.min(left);
        pieces.push_back(Piece { victim, pair, kills });
        left -= kills;
    }
    pieces
}

#[derive(Default)]
struct Results {
    kills: BTreeMap<Victim, usize>,
    violations: Vec<String>,
}

#[test]
fn no_kill_at_any_moment_breaks_an_invariant() {
    let asked = figures::asked("REKEYD_KILLS");
    let kills = asked.map_or(KILLS, |text| text.parse().expect("REKEYD_KILLS is a number"));
    let (queue, results) = (Mutex::new(pieces(kills)), Mutex::new(Results::default()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| runtime().block_on(work(&queue, &results)));
        }
    });
    let Results { kills, violations } = results.into_inner().expect("no panic");
    for (victim, kills) in &kills {
        println!("{kills:>6} kills: {victim}");
    }
    let total: usize = kills.values().sum();
    // The share of kills that could go wrong, if none of so many did, with 95 % certainty.
    let bound = 1.0 - 0.05_f64.powf(1.0 / total as f64);
    println!(
        "{total} kills, {} violations: below {:.3} % with 95 % certainty",
        violations.len(),
        bound * 100.0
    );
    for violation in &violations {
        println!("VIOLATED {violation}");
    }
    figures::write("kills", &json!({"kills": total, "violations": violations.len(), "bound95": bound}));
    assert!(violations.is_empty(), "{} pieces of work break an invariant", violations.len());
}

async fn work(queue: &Mutex<VecDeque<Piece>>, results: &Mutex<Results>) {
    loop {
        let Some(piece) = queue.lock().expect("no panic").pop_front() else { return };
        let mut done = 0;
        let played = AssertUnwindSafe(async {
            let mut stage = Stage::new(piece.pair, Scene::Rotate).await;
            stage.witness.knows_all = false;
            match piece.victim {
                Victim::Command => commands(&mut stage, piece.kills, &mut done).await,
                Victim::Daemon => daemons(&mut stage, piece.kills, &mut done).await,
                Victim::OneOfTwoDaemons => two_daemons(&mut stage, piece.kills, &mut done).await,
            }
            stage.finish().await;
        });
        let played = played.catch_unwind().await;
        let mut results = results.lock().expect("no panic");
        *results.kills.entry(piece.victim).or_default() += done;
        if let Err(panic) = played {
            results.violations.push(format!("{} {}: {}", piece.victim, piece.pair, said(&*panic)));
        }
    }
}

/// What is asked for: a containment every fourth time.
fn request() -> &'static str {
    if fastrand::u8(0..4) == 0 { "contain" } else { "rotate" }
}

/// A moment within the time that one rotation takes, and a little later.
fn moment(whole: Duration) -> Duration {
    whole.mul_f64(fastrand::f64() * 1.2)
}

/// Lets a process run for a time. Whether it has ended meanwhile.
async fn ends_within(running: &mut Running, time: Duration) -> bool {
    timeout(time, async { while running.next().await.is_some() {} }).await.is_ok()
}

/// How long a rotation takes here.
async fn pace(stage: &mut Stage) -> Duration {
    let began = Instant::now();
    stage.command(&["rotate", POLICY]).await.ended(0);
    began.elapsed()
}

async fn commands(stage: &mut Stage, kills: usize, done: &mut usize) {
    let whole = pace(stage).await;
    while *done < kills {
        let mut running = stage.start("rekeyd.yaml", &[request(), POLICY]);
        let ended = ends_within(&mut running, moment(whole)).await;
        let seen = running.kill().await;
        stage.heed_lines(&seen);
        stage.witness.between(&stage.site, "after the kill").await;
        stage.finish_what_is_open().await;
        stage.witness.at_rest(&stage.site, "when the next one was there").await;
        *done += usize::from(!ended);
    }
}

async fn daemons(stage: &mut Stage, kills: usize, done: &mut usize) {
    let whole = pace(stage).await;
    let mut daemon = stage.daemon("rekeyd.yaml").await;
    while *done < kills {
        let mut running = stage.start("rekeyd.yaml", &[request(), POLICY]);
        let ended = ends_within(&mut running, moment(whole)).await;
        daemon.kill().await;
        let answer = running.end().await;
        stage.heed(&answer);
        stage.witness.between(&stage.site, "after the kill").await;
        daemon = stage.daemon("rekeyd.yaml").await;
        stage.witness.comes_to_rest(&stage.site).await;
        stage.witness.at_rest(&stage.site, "when the next daemon was there").await;
        *done += usize::from(!ended);
    }
    daemon.stop().await;
}

/// What each daemon is asked for may be refused: the other one is at it.
async fn two_daemons(stage: &mut Stage, kills: usize, done: &mut usize) {
    const BOTH: [&str; 2] = ["rekeyd.yaml", HEIR];
    let whole = pace(stage).await;
    let mut daemons = [Some(stage.daemon(BOTH[0]).await), Some(stage.daemon(BOTH[1]).await)];
    while *done < kills {
        let mut one = stage.start(BOTH[0], &[request(), POLICY]);
        let other = stage.start(BOTH[1], &[request(), POLICY]);
        let ended = ends_within(&mut one, moment(whole)).await;
        let victim = fastrand::usize(0..2);
        daemons[victim].take().expect("both run").kill().await;
        daemons[victim] = Some(stage.daemon(BOTH[victim]).await);
        for running in [one, other] {
            let answer = running.end().await;
            stage.heed(&answer);
        }
        stage.witness.comes_to_rest(&stage.site).await;
        stage.witness.at_rest(&stage.site, "when both had done what was asked").await;
        *done += usize::from(!ended);
    }
    for daemon in daemons.into_iter().flatten() {
        daemon.stop().await;
    }
}
