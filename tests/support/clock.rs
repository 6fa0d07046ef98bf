//! Time that a test owns: waiting moves it, at once. Things can be arranged to happen at a moment.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use rekeyd::clock::Clock;

pub(crate) struct TestClock(Mutex<State>);

struct State {
    wall: Timestamp,
    elapsed: Duration,
    alarms: Vec<(Duration, BoxFuture<'static, ()>)>,
}

impl TestClock {
    /// Begins on a Monday, half past six in the morning.
    pub(crate) fn new() -> Self {
        let wall = "2026-03-02T06:30:00Z".parse().expect("a moment");
        Self(Mutex::new(State { wall, elapsed: Duration::ZERO, alarms: Vec::new() }))
    }

    /// Lets time pass without anybody waiting for it.
    pub(crate) fn advance(&self, duration: Duration) {
        let mut state = self.0.lock().expect("no panic");
        state.pass(duration);
    }

    /// Somebody sets the wall clock. Nothing has to wait for it.
    pub(crate) fn set_wall(&self, by: SignedDuration) {
        self.0.lock().expect("no panic").wall += by;
    }

    /// Arranges something for a moment from now. It happens while somebody waits past it.
    pub(crate) fn after(&self, duration: Duration, what: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.0.lock().expect("no panic");
        let at = state.elapsed + duration;
        state.alarms.push((at, Box::pin(what)));
    }

    /// What happens next on the way to a moment; time has moved there.
    fn next_alarm(&self, until: Duration) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.0.lock().expect("no panic");
        let due = state.alarms.iter().enumerate().filter(|(_, (at, _))| *at <= until);
        let (index, at) = due.map(|(index, (at, _))| (index, *at)).min_by_key(|(_, at)| *at)?;
        let forward = at.saturating_sub(state.elapsed);
        state.pass(forward);
        Some(state.alarms.remove(index).1)
    }
}

impl State {
    fn pass(&mut self, duration: Duration) {
        self.elapsed += duration;
        self.wall += duration;
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.0.lock().expect("no panic").wall
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().expect("no panic").elapsed
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        while let Some(alarm) = self.next_alarm(until) {
            alarm.await;
        }
        let left = until.saturating_sub(self.monotonic());
        self.advance(left);
        tokio::task::yield_now().await;
    }
}
