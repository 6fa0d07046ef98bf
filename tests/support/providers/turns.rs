//! Which of several processes goes on is decided here: each waits at every request, and wherever it would sleep, until it is
//! its turn. What comes of a seed comes of it every time.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use jiff::Timestamp;
use rekeyd::clock::Clock;
use tokio::sync::{Notify, oneshot};

/// A process, until it is done.
pub(crate) type Process<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Notify,
}

/// Until when one sleeps; the path of a request, which waits for its turn alone.
type Waiting = (Option<Duration>, String);

#[derive(Default)]
struct State {
    now: Duration,
    /// Whose turn it may be: a request, or a sleep until then.
    waiting: Vec<(Waiting, oneshot::Sender<()>)>,
    /// How many processes are not done.
    live: usize,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the turns")
    }

    async fn wait(&self, until: Option<Duration>, of: &str) {
        let (turn, is_there) = oneshot::channel();
        self.state().waiting.push(((until, of.to_owned()), turn));
        self.changed.notify_one();
        is_there.await.expect("somebody decides");
    }

    /// A request arrived, and waits to be answered. By its path it is told from another process's.
    pub(crate) async fn arrive(&self, path: &str) {
        self.wait(None, path).await;
    }

    /// Runs processes until all of them are done. No answer takes longer than `longest`. The first one, by its path, has so
    /// many turns, then the last one, and so on; after that it is chance.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        turns: &[usize],
        random: &mut Rng,
        longest: Duration,
        processes: Vec<Process<T>>,
    ) -> Vec<T> {
        self.state().live = processes.len();
        let begin = |process: Process<T>| {
            let turns = Arc::clone(self);
            tokio::spawn(async move {
                let came = process.await;
                turns.state().live -= 1;
                turns.changed.notify_one();
                came
            })
        };
        let processes: Vec<_> = processes.into_iter().map(begin).collect();
        let mut plan =
            turns.iter().enumerate().flat_map(|(at, turns)| std::iter::repeat_n(at % 2 == 0, *turns));
        loop {
            let (waiting, live) = {
                let state = self.state();
                (state.waiting.len(), state.live)
            };
            if live == 0 {
                break;
            }
            if waiting < live {
                self.changed.notified().await;
                continue;
            }
            let mut state = self.state();
            // In the order in which they came they would differ from run to run.
            state.waiting.sort_by(|(one, _), (other, _)| one.cmp(other));
            let last = state.waiting.len() - 1;
            let at = plan.next().map_or_else(|| random.usize(..=last), |first| if first { 0 } else { last });
            let ((until, _), turn) = state.waiting.swap_remove(at);
            state.now = match until {
                Some(until) => until.max(state.now),
                None => state.now + longest.mul_f64(random.f64()),
            };
            drop(state);
            turn.send(()).expect("it waits");
        }
        let mut came = Vec::new();
        for process in processes {
            came.push(process.await.expect("no panic"));
        }
        came
    }
}

/// Everything happens within what a system counts time in.
#[async_trait]
impl Clock for Turns {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_767_225_600).expect("a time")
    }

    fn monotonic(&self) -> Duration {
        self.state().now
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.state().now + duration;
        self.wait(Some(until), "").await;
    }
}
