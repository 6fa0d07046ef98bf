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
    known: Mutex<BTreeMap<Whose, Arc<Pace>>>,
}

/// A host, and the admin credential that is used there.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Whose {
    host: String,
    admin: Option<DnsLabel>,
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
            .entry(Whose { host: host.to_owned(), admin: admin.cloned() })
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use jiff::Timestamp;

    use super::*;

    /// Time that goes on only when somebody waits for it.
    #[derive(Default)]
    struct Still(Mutex<Duration>);

    #[async_trait]
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            *self.0.lock().expect("no panic")
        }

        async fn sleep(&self, duration: Duration) {
            *self.0.lock().expect("no panic") += duration;
        }
    }

    /// When each of so many requests arrives, of which each is on its way for another time.
    async fn arrivals(rate: u32, requests: usize, on_the_way: impl Fn(usize) -> Duration) -> Vec<Duration> {
        let clock = Arc::new(Still::default());
        let pace = Pace::new(Arc::clone(&clock) as _, rate);
        let mut arrived = Vec::new();
        for number in 0..requests {
            let lane = pace.turn().await;
            clock.sleep(on_the_way(number)).await;
            arrived.push(clock.monotonic());
            drop(lane);
        }
        arrived
    }

    fn most_in_a_second(arrived: &[Duration]) -> usize {
        let within = |from: Duration| {
            arrived.iter().filter(|at| (from..from + Duration::from_secs(1)).contains(*at)).count()
        };
        arrived.iter().map(|from| within(*from)).max().unwrap_or_default()
    }

    #[tokio::test]
    async fn no_second_sees_more_than_are_allowed_and_nearly_all_of_them_are_used() {
        let delays = |number: usize| Duration::from_millis([2, 40, 3, 90, 1, 15, 4][number % 7]);
        let arrived = arrivals(10, 1_000, delays).await;
        assert!(most_in_a_second(&arrived) <= 10, "{}", most_in_a_second(&arrived));
        let took = arrived[999].as_secs_f64();
        assert!(took < 100.0 / 0.95, "{took} s for 1,000 requests at 10 a second");
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        let arrived = arrivals(0, 100, |_| Duration::ZERO).await;
        assert_eq!(arrived[99], Duration::ZERO);
    }

    #[tokio::test]
    async fn a_pause_that_the_provider_asks_for_is_kept() {
        let clock = Arc::new(Still::default());
        let pace = Pace::new(Arc::clone(&clock) as _, 0);
        drop(pace.turn().await);
        pace.pause(Duration::from_secs(7));
        drop(pace.turn().await);
        assert_eq!(clock.monotonic(), Duration::from_secs(7));
        pace.pause(Duration::from_secs(1_000_000));
        drop(pace.turn().await);
        assert_eq!(clock.monotonic(), Duration::from_secs(7) + LONGEST_PAUSE);
    }

    #[test]
    fn recipes_that_differ_share_the_slower_rate() {
        let paces = Paces::new(Arc::new(Still::default()));
        let admin = "admin".parse().expect("a label");
        let pace = paces.of("api.example.com", Some(&admin), Some(10));
        paces.of("api.example.com", Some(&admin), Some(3));
        paces.of("api.example.com", Some(&admin), None);
        paces.of("api.example.com", None, Some(1));
        assert_eq!(pace.state().rate, 3);
    }
}
