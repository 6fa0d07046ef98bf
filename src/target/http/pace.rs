//! Keeps requests to one host, with one admin credential, under the rate that the provider allows.
//!
//! Two rules at once. Requests are sent at even distances; and the one that is the n-th after another, where n may be
//! sent in a second, is not sent before a second has passed since that other one's *answer*. A provider counts what
//! arrives, and how long a request is on its way differs from one to the next: the answer is the proof that it has
//! arrived. So however requests are delayed on the way, no second ever sees more than n of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Clock;
use crate::ident::DnsLabel;

/// A little more than what is counted in: clocks differ.
const SECOND: Duration = Duration::from_millis(1_002);

/// However long a provider asks for, somebody has to learn of it before.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The paces of a process.
pub struct Paces {
    clock: Arc<dyn Clock>,
    known: Mutex<BTreeMap<(String, Option<DnsLabel>), Arc<Pace>>>,
}

/// The pace of one admin credential at one host.
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// As many as may be on their way.
    lanes: Semaphore,
}

struct State {
    /// Requests a second; unlimited when 0.
    rate: u32,
    /// Nothing is sent before.
    next: Duration,
    /// When the latest answers came, at most as many as may be sent in a second.
    answered: VecDeque<Duration>,
}

/// A request on its way.
pub(super) struct Lane<'a> {
    pace: &'a Pace,
    _permit: SemaphorePermit<'a>,
}

impl Paces {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The pace for a host and a credential. Recipes that differ about the rate share the slower one.
    pub(super) fn of(&self, host: &str, admin: Option<&DnsLabel>, rate: Option<u32>) -> Arc<Pace> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = known
            .entry((host.to_owned(), admin.cloned()))
            .or_insert_with(|| Arc::new(Pace::new(Arc::clone(&self.clock), rate.unwrap_or(0))));
        let mut state = pace.state();
        if let Some(rate) = rate
            && (state.rate == 0 || rate < state.rate)
        {
            state.rate = rate;
        }
        drop(state);
        Arc::clone(pace)
    }
}

impl Pace {
    fn new(clock: Arc<dyn Clock>, rate: u32) -> Self {
        let state = State { rate, next: Duration::ZERO, answered: VecDeque::new() };
        Self { clock, state: Mutex::new(state), lanes: Semaphore::new(64) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to send.
    pub(super) async fn turn(&self) -> Lane<'_> {
        // In the order in which they came.
        let permit = self.lanes.acquire().await.expect("it is never closed");
        loop {
            let now = self.clock.monotonic();
            let pause = {
                let mut state = self.state();
                let ready = state.ready();
                if ready <= now {
                    state.taken(now);
                    None
                } else {
                    Some(ready - now)
                }
            };
            match pause {
                None => return Lane { pace: self, _permit: permit },
                Some(pause) => self.clock.sleep(pause).await,
            }
        }
    }

    /// The provider asks for a pause.
    pub(super) fn pause(&self, pause: Duration) {
        let mut state = self.state();
        let until = self.clock.monotonic() + pause.min(LONGEST_PAUSE);
        state.next = state.next.max(until);
    }
}

impl State {
    fn ready(&self) -> Duration {
        let rate = self.rate as usize;
        let window = (rate > 0 && self.answered.len() >= rate).then(|| self.answered[0] + SECOND);
        self.next.max(window.unwrap_or_default())
    }

    fn taken(&mut self, now: Duration) {
        if self.rate > 0 {
            self.next = now + SECOND / self.rate;
        }
    }
}

impl Drop for Lane<'_> {
    /// An answer that never came counts from when it was given up.
    fn drop(&mut self) {
        let now = self.pace.clock.monotonic();
        let mut state = self.pace.state();
        let rate = state.rate as usize;
        state.answered.push_back(now);
        while state.answered.len() > rate {
            state.answered.pop_front();
        }
    }
}
