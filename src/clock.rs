//! The one place that reads a clock or waits.
//!
//! Wall-clock time decides what is due and stands in records. Waits and deadlines run on the monotonic
//! clock, so that a jump of the wall clock neither fires nor starves them. Pure modules take a
//! [`Timestamp`] as an argument instead of a clock.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;

/// Time as the engine and the daemon see it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Wall-clock time, to the microsecond.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;

    /// Waits on the monotonic clock.
    async fn sleep(&self, duration: Duration);
}

/// Time that begins as another clock's and goes on with its monotonic one: whoever sets the wall clock
/// meanwhile neither fires nor starves a deadline.
pub struct Steady<'a> {
    clock: &'a dyn Clock,
    wall: Timestamp,
    began: Duration,
}

impl<'a> Steady<'a> {
    #[must_use]
    pub fn new(clock: &'a dyn Clock) -> Self {
        Self { clock, wall: clock.now(), began: clock.monotonic() }
    }
}

#[async_trait]
impl Clock for Steady<'_> {
    fn now(&self) -> Timestamp {
        let passed = self.clock.monotonic().saturating_sub(self.began);
        self.wall.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the module that reads the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the module that waits")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
