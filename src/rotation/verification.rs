//! Between rotations: whether the target still takes the value that readers are given.
//!
//! Somebody changes a password by hand, a database is restored from a backup, a role is dropped: nothing tells
//! rekeyd. So each policy's value is tried from time to time, and a value that is refused is reported, or
//! replaced where the policy says so.
//!
//! Nothing is kept of it. When a policy's turn comes follows from its name and the time alone, so a restart
//! brings no thousand logins at once, and a policy whose turn was missed has one in the next period, at
//! another moment of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::limits::Urgency;
use super::opening::moved;
use super::plan::target_label;
use super::run::Document;
use crate::failure::Failure;
use crate::ident::{PolicyName, Version};
use crate::policy::Policy;
use crate::schedule::share_of;
use crate::target::{Probe, ProbeDepth};

/// What came of trying the value in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    pub at: Timestamp,
    /// The version that was in force.
    pub version: Version,
    pub finding: Finding,
}

/// What the target says of a value that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Finding {
    /// It is taken everywhere.
    Accepted,
    /// It is refused: its readers cannot log in.
    Refused,
    /// The login works, but not everywhere, or not what the policy checks besides.
    Unfit,
}

impl Finding {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unfit => "unfit",
        }
    }

    /// Whether somebody has to look.
    #[must_use]
    pub const fn is_drift(self) -> bool {
        !matches!(self, Self::Accepted)
    }

    /// In words, and what to do about it.
    #[must_use]
    pub const fn problem(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Accepted => None,
            Self::Refused => Some((
                "the target refuses the value in force: it was changed there by somebody else",
                "`rekeyd rotate` brings a new one in; a value that was set on purpose is taken over with \
                 `rekeyd adopt --replace`",
            )),
            Self::Unfit => Some((
                "the value in force logs in, but not at every endpoint, or the policy's check fails with it",
                "see `rekeyd preflight` for what fails",
            )),
        }
    }
}

/// When a policy's value is tried next: once in each period of `every`, counted from 1970, at a moment that
/// the policy's name and the period give. The first one later than `after`.
#[must_use]
pub fn turn_after(policy: &PolicyName, every: Duration, after: Timestamp) -> Timestamp {
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
    let period = after.as_second().div_euclid(every);
    let turn = |period: i64| {
        let offset = share_of(every.unsigned_abs(), &format!("rekeyd verification {policy} {period}"));
        let second = i128::from(period) * i128::from(every) + i128::from(offset);
        i64::try_from(second)
            .ok()
            .and_then(|second| Timestamp::from_second(second).ok())
            .unwrap_or(Timestamp::MAX)
    };
    let this = turn(period);
    if this > after { this } else { turn(period.saturating_add(1)) }
}

impl Engine {
    /// Tries the value in force at the target. `None` when there is nothing to be said: no value of rekeyd's, no
    /// target that could be asked, a rotation that is open or that passed meanwhile.
    ///
    /// Changes nothing, so it may die anywhere.
    ///
    /// # Errors
    /// When the store cannot be read or the target gives no verdict: that is no drift.
    pub async fn verify(&self, policy: &Policy) -> Result<Option<Verification>, Failure> {
        let Some(target) = self.adapters.target(&policy.spec().target)? else { return Ok(None) };
        let before = self.look(policy.name(), &policy.spec().store).await?;
        let (Some(Document::Closed(marker)), Some(current)) = (&before.document, &before.current) else {
            return Ok(None);
        };
        // Nor of a value that somebody else wrote: that is another drift, and it is told of at each look.
        if marker.current.as_ref().is_none_or(|ours| ours.revision != current.revision) {
            return Ok(None);
        }
        if let Some(moved) = moved(policy, marker, &format!("verify {}", policy.name())) {
            return Err(moved);
        }
        let label = target_label(&policy.spec().target);
        let permit = self.limits.enter(Some(&label), Urgency::New).await;
        let finding = match target.probe(&current.credential, ProbeDepth::Check).await {
            Probe::Accepted => Finding::Accepted,
            Probe::Refused => Finding::Refused,
            Probe::Unfit(failure) => {
                tracing::warn!(policy = %policy.name(), %failure, "the value in force is not good for everything");
                Finding::Unfit
            }
            Probe::Unknown(failure) => return Err(failure),
        };
        drop(permit);
        if finding.is_drift() {
            // A rotation elsewhere may have replaced the value while it was tried.
            let after = self.look(policy.name(), &policy.spec().store).await?;
            let value = after.current.as_ref().map(|current| &current.revision);
            if after.revision != before.revision || value != Some(&current.revision) {
                return Ok(None);
            }
        }
        Ok(Some(Verification { at: self.clock.now(), version: marker.version, finding }))
    }
}

/// Gives turns, so many a minute.
#[derive(Debug)]
pub struct Pace {
    gap: Duration,
    next: Mutex<Duration>,
}

impl Pace {
    #[must_use]
    pub fn per_minute(count: u16) -> Self {
        Self { gap: Duration::from_secs(60) / u32::from(count.max(1)), next: Mutex::default() }
    }

    /// The next turn, not before `now`, both on the monotonic clock. Each is given once.
    pub fn turn(&self, now: Duration) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = (*next).max(now);
        *next = turn + self.gap;
        turn
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn turns(policy: &str, every: u64, from: &str, count: usize) -> Vec<Timestamp> {
        let policy = policy.parse().expect("a policy's name");
        let mut at: Timestamp = from.parse().expect("a timestamp");
        let mut turns = Vec::new();
        while turns.len() < count {
            at = turn_after(&policy, Duration::from_secs(every), at);
            turns.push(at);
        }
        turns
    }

    #[test]
    fn a_policy_has_one_turn_in_each_period_at_another_moment_of_it() {
        const DAY: i64 = 86_400;
        let turns = turns("orders/orders-db", 86_400, "2026-11-24T00:00:00Z", 100);
        let days: Vec<i64> = turns.iter().map(|turn| turn.as_second().div_euclid(DAY)).collect();
        assert!(days.windows(2).all(|two| two[1] == two[0] + 1), "{days:?}");
        let mut moments: Vec<i64> = turns.iter().map(|turn| turn.as_second().rem_euclid(DAY)).collect();
        moments.sort_unstable();
        moments.dedup();
        assert!(moments.len() > 95, "{moments:?}");
    }

    #[test]
    fn asking_again_gives_the_same_turn_until_it_is_over() {
        let policy: PolicyName = "orders/orders-db".parse().expect("a name");
        let every = Duration::from_secs(3_600);
        let turn = turn_after(&policy, every, "2026-11-24T07:00:00Z".parse().expect("a timestamp"));
        let before = turn - SignedDuration::from_nanos(1);
        assert_eq!(turn_after(&policy, every, before), turn);
        assert!(turn_after(&policy, every, turn) > turn);
    }

    #[test]
    fn thousands_of_policies_are_spread_over_the_period() {
        let from: Timestamp = "2026-11-24T00:00:00Z".parse().expect("a timestamp");
        let mut hours = [0; 24];
        for number in 0..2_400 {
            let policy: PolicyName = format!("team/p{number}").parse().expect("a name");
            let turn = turn_after(&policy, Duration::from_secs(86_400), from);
            hours[usize::try_from(turn.duration_since(from).as_hours()).expect("within the day")] += 1;
        }
        assert!(hours.iter().all(|hour| (60..=140).contains(hour)), "{hours:?}");
    }

    #[test]
    fn any_interval_and_any_time_have_a_turn() {
        let policy: PolicyName = "orders/orders-db".parse().expect("a name");
        for every in [0, 1, 60, u64::MAX] {
            for after in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                let turn = turn_after(&policy, Duration::from_secs(every), after);
                assert!(turn > after || turn == Timestamp::MAX, "{every} after {after}");
            }
        }
    }

    #[test]
    fn so_many_have_turns_in_a_minute_however_many_ask() {
        let (pace, now) = (Pace::per_minute(120), Duration::from_secs(1_000));
        let turns: Vec<Duration> = (0..240).map(|_| pace.turn(now)).collect();
        assert_eq!(turns[0], now);
        assert!(turns.windows(121).all(|some| some[120] - some[0] >= Duration::from_secs(60)));
        // Turns that nobody asked for are not saved up.
        let later = now + Duration::from_secs(3_600);
        assert_eq!([pace.turn(later), pace.turn(later)], [later, later + Duration::from_millis(500)]);
    }
}
