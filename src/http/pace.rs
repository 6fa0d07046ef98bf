//! Keeps requests to one host, with one admin credential, under the rate that the provider allows.
//!
//! Two rules at once. Requests keep half of an even distance; and one is sent only while fewer than a second's worth are
//! on their way or were answered within the last second. A provider counts what arrives, and how long a request is on its
//! way differs from one to the next: it arrives after it was sent and before it was answered. So however requests are
//! delayed, no second ever sees more than are allowed. They go out in the order in which they came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

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
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by whoever is next.
    queue: tokio::sync::Mutex<()>,
    /// An answer came.
    answered: Notify,
}

struct State {
    /// Requests a second; unlimited when 0.
    rate: u32,
    /// Nothing is sent before.
    next: Duration,
    /// Requests on their way.
    under_way: usize,
    /// When the latest answers came.
    answered: VecDeque<Duration>,
}

/// When the next request may be sent.
enum Ready {
    Now,
    After(Duration),
    /// When another one was answered.
    AfterAnswer,
}

/// A request on its way.
pub(crate) struct Lane<'a>(&'a Pace);

impl Paces {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Mutex::default() }
    }

    /// The pace for a host and a credential. Recipes that differ about the rate share the slower one.
    pub(crate) fn of(&self, host: &str, admin: Option<&DnsLabel>, rate: Option<u32>) -> Arc<Pace> {
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
        let state = State { rate, next: Duration::ZERO, under_way: 0, answered: VecDeque::new() };
        Self { clock, state: Mutex::new(state), queue: tokio::sync::Mutex::new(()), answered: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to send.
    pub(crate) async fn turn(&self) -> Lane<'_> {
        let _first = self.queue.lock().await;
        loop {
            let now = self.clock.monotonic();
            let ready = self.state().ready(now);
            match ready {
                Ready::Now => return Lane(self),
                Ready::After(pause) => self.clock.sleep(pause).await,
                // One that comes before this line was reached is remembered.
                Ready::AfterAnswer => self.answered.notified().await,
            }
        }
    }

    /// The provider asks for a pause.
    pub(crate) fn pause(&self, pause: Duration) {
        let mut state = self.state();
        let until = self.clock.monotonic() + pause.min(LONGEST_PAUSE);
        state.next = state.next.max(until);
    }
}

impl State {
    /// When a request may be sent; if now, it counts as sent.
    fn ready(&mut self, now: Duration) -> Ready {
        if self.next > now {
            return Ready::After(self.next - now);
        }
        let rate = self.rate as usize;
        if rate > 0 {
            while self.answered.front().is_some_and(|at| *at + SECOND <= now) {
                self.answered.pop_front();
            }
            if self.under_way + self.answered.len() >= rate {
                return match self.answered.front() {
                    Some(at) => Ready::After(*at + SECOND - now),
                    None => Ready::AfterAnswer,
                };
            }
            // Half of an even distance: who was held up catches up, and nobody sends all of a second's at once.
            self.next = now + SECOND / self.rate / 2;
        }
        self.under_way += 1;
        Ready::Now
    }
}

impl Drop for Lane<'_> {
    /// An answer that never came counts from when it was given up.
    fn drop(&mut self) {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state();
        state.under_way -= 1;
        if state.rate > 0 {
            state.answered.push_back(now);
        }
        drop(state);
        self.0.answered.notify_one();
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

    /// However many are on their way at once, and wherever they are held up together.
    #[tokio::test]
    async fn requests_that_are_held_up_and_arrive_together_are_no_more_than_are_allowed() {
        let clock = Arc::new(Still::default());
        let pace = Arc::new(Pace::new(Arc::clone(&clock) as _, 10));
        let mut lanes = Vec::new();
        for _ in 0..10 {
            lanes.push(pace.turn().await);
        }
        assert!(clock.monotonic() < Duration::from_millis(600), "ten may be under way");
        // All of them may arrive now. The next one waits for an answer, and for the second after it.
        let held_up = clock.monotonic() + Duration::from_secs(60);
        let next = pace.turn();
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        clock.sleep(Duration::from_secs(60)).await;
        drop(lanes.pop());
        drop(next.await);
        assert!(
            clock.monotonic() >= held_up + Duration::from_secs(1),
            "it arrives within a second of ten others"
        );
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
