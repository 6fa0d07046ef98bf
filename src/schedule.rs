//! When a policy rotates by itself: cron, time zone, jitter, window, freezes, age.
//!
//! Pure: time comes in as an argument and everything follows from the policy's text and a few durable
//! [`Facts`], so a daemon that died and came back, on this machine or another, decides the same.
//!
//! A **fire** is one occurrence of the cron expression. Its *nominal* time is the instant that cron names;
//! it *starts* at the policy's own jitter after that, or at the end of the freeze that this falls into; it
//! *closes* at the window after its nominal time and is lost if it could not start until then. Fires that
//! one freeze holds back start together, so only the last of them counts.
//!
//! What decides what:
//! - `grammar`: cron text → wall-clock times. `times`: wall-clock times → instants of a zone.
//! - this file: instants → fires. [`due`]: fires and facts → rotate now, later, never.
//! - [`check`]: what is wrong with a schedule before it runs.

mod check;
mod due;
mod expression;
mod freeze;
mod grammar;
mod times;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use self::check::{ScheduleProblem, Severity, needed_life};
pub use self::due::{Cause, Due, Facts, Idle};
pub use self::expression::CronExpression;
pub use self::freeze::Freeze;
use self::freeze::Freezes;
pub use self::grammar::{CronError, CronField};
use self::times::Times;
use crate::ident::PolicyName;
use crate::policy::spec::{CatchUp, Interval, ScheduleSpec};
use crate::settings::GlobalFreeze;

/// A policy's schedule, ready to be asked.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: CronExpression,
    zone: TimeZone,
    /// How long after its nominal time each fire of this policy starts; less than `window`.
    jitter: SignedDuration,
    window: Option<SignedDuration>,
    max_age: Option<SignedDuration>,
    catch_up: CatchUp,
    freezes: Freezes,
}

impl Schedule {
    /// Nothing is refused: what [`Self::check`] reports as an error makes fires impossible, never wrong.
    #[must_use]
    pub fn new(spec: &ScheduleSpec, policy: &PolicyName, frozen: &[GlobalFreeze]) -> Self {
        let zone = spec.time_zone.as_time_zone();
        Self {
            cron: spec.cron.clone(),
            zone: zone.clone(),
            jitter: jitter(spec, policy),
            window: spec.window.map(Interval::as_signed),
            // A value cannot be younger than nothing: rotating again and again would not make it so.
            max_age: spec.max_age.map(Interval::as_signed).filter(SignedDuration::is_positive),
            catch_up: spec.catch_up,
            freezes: Freezes::new(&spec.freezes, zone, frozen),
        }
    }

    /// The zone that its times are meant in.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first fire that starts later than `after`. `None` if there is none up to the year 2100.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Fire> {
        self.next_fire(&self.times(), after, Timestamp::MIN)
    }

    /// The fires that start from `from` on and before `until`, in order.
    pub fn occurrences(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = Fire> + '_ {
        let times = self.times();
        let mut after = just_before(from);
        std::iter::from_fn(move || {
            let fire = self.next_fire(&times, after, Timestamp::MIN)?;
            after = fire.start;
            (fire.start < until).then_some(fire)
        })
    }

    /// How many rotations it asks for within a time of up to a day, at most. Every day that cron names looks the same,
    /// so one tells.
    #[must_use]
    pub fn most_in(&self, within: std::time::Duration, now: Timestamp) -> u32 {
        let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
        let times = self.times();
        let by_cron = times.next(now).map_or(0, |first| {
            let midnight = self.zone.to_datetime(first).date().at(0, 0, 0, 0);
            let day = self.zone.to_ambiguous_timestamp(midnight).compatible().unwrap_or(first);
            let until = later(day, within);
            let mut at = just_before(day);
            let fires = std::iter::from_fn(|| {
                at = times.next(at)?;
                (at < until).then_some(at)
            });
            u32::try_from(fires.count()).unwrap_or(u32::MAX)
        });
        let by_age = self.max_age.map_or(0, |max_age| {
            u32::try_from(within.as_secs() / max_age.as_secs().max(1)).unwrap_or(u32::MAX)
        });
        by_cron.max(by_age)
    }

    /// The freeze that holds scheduled rotations back at `at`.
    #[must_use]
    pub fn frozen(&self, at: Timestamp) -> Option<&Freeze> {
        self.freezes.around(at)
    }

    fn times(&self) -> Times<'_> {
        Times { wall: self.cron.wall_clock(), zone: &self.zone }
    }

    /// The first fire that starts later than `after` and is nominally later than `floor`.
    fn next_fire(&self, times: &Times<'_>, after: Timestamp, floor: Timestamp) -> Option<Fire> {
        if self.window.is_some_and(|window| !window.is_positive()) {
            return None;
        }
        // What a freeze holds back at `after` starts at its end, and so later than `after`.
        let slots_after = self.freezes.around(after).map_or(after, |freeze| just_before(freeze.from));
        let mut nominal = earlier(slots_after, self.jitter).max(floor);
        loop {
            nominal = times.next(nominal)?;
            let slot = later(nominal, self.jitter);
            let Some(freeze) = self.freezes.around(slot) else {
                return Some(self.fire(nominal, slot));
            };
            // The last of those held back closes last: if it is lost, so are the others. There are as many
            // rounds as freezes at most.
            nominal = times.last(earlier(freeze.to, self.jitter)).unwrap_or(nominal);
            let fire = self.fire(nominal, freeze.to);
            if fire.is_open(fire.start) {
                return Some(fire);
            }
        }
    }

    /// The last fire whose start is not later than `at`, lost or not. `at` is in no freeze.
    fn last_fire(&self, times: &Times<'_>, at: Timestamp) -> Option<Fire> {
        let nominal = times.last(earlier(at, self.jitter))?;
        Some(self.fire(nominal, self.freezes.thaw(later(nominal, self.jitter))))
    }

    fn fire(&self, nominal: Timestamp, start: Timestamp) -> Fire {
        Fire { nominal, start, closes: self.window.map(|window| later(nominal, window)) }
    }
}

/// Whether the settings hold back what nobody asked for at `at`.
#[must_use]
pub fn is_frozen(frozen: &[GlobalFreeze], at: Timestamp) -> bool {
    Freezes::new(&[], &TimeZone::UTC, frozen).around(at).is_some()
}

/// One occurrence of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fire {
    /// The instant that cron names: this fire's identity.
    pub nominal: Timestamp,
    /// The first moment at which its rotation may start.
    pub start: Timestamp,
    /// The first moment at which its rotation may no longer start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closes: Option<Timestamp>,
}

impl Fire {
    fn is_open(&self, at: Timestamp) -> bool {
        self.closes.is_none_or(|closes| at < closes)
    }
}

/// The policy's own share of the jitter, in whole seconds: from its name, so that it is the same after a
/// restart and on every node. Kept below the window, or the fire could never start.
fn jitter(spec: &ScheduleSpec, policy: &PolicyName) -> SignedDuration {
    let Some(jitter) = spec.jitter.map(|jitter| spec.window.map_or(jitter, |window| jitter.min(window)))
    else {
        return SignedDuration::ZERO;
    };
    let seconds = share_of(jitter.as_duration().as_secs(), &format!("rekeyd jitter {policy}"));
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// A whole number below `whole` (or 0) that follows from the seed alone, any of them as likely as another.
pub(crate) fn share_of(whole: u64, seed: &str) -> u64 {
    let digest = Sha256::digest(seed);
    let share = digest.iter().take(8).fold(0_u64, |share, byte| share << 8 | u64::from(*byte));
    ((u128::from(whole) * u128::from(share)) >> 64) as u64
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

fn just_before(time: Timestamp) -> Timestamp {
    earlier(time, SignedDuration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schedule of policy `orders/db` with a specification in JSON.
    pub(super) fn schedule(spec: serde_json::Value) -> Schedule {
        of_policy(spec, "orders/db", &[])
    }

    pub(super) fn of_policy(spec: serde_json::Value, policy: &str, frozen: &[GlobalFreeze]) -> Schedule {
        let spec: ScheduleSpec = serde_json::from_value(spec).expect("a schedule");
        Schedule::new(&spec, &policy.parse().expect("a policy name"), frozen)
    }

    pub(super) fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn starts(schedule: &Schedule, from: &str, until: &str) -> Vec<String> {
        schedule.occurrences(at(from), at(until)).map(|fire| fire.start.to_string()).collect()
    }

    #[test]
    fn a_fire_starts_at_its_time_and_closes_with_its_window() {
        let weekly =
            schedule(serde_json::json!({"cron": "0 3 * * 0", "timeZone": "Europe/Berlin", "window": "4h"}));
        let fire = weekly.next(at("2026-11-24T00:00:00Z")).expect("a fire");
        assert_eq!(fire.nominal, at("2026-11-29T02:00:00Z"));
        assert_eq!(fire.start, fire.nominal);
        assert_eq!(fire.closes, Some(at("2026-11-29T06:00:00Z")));
        // Both ends of a range: the first belongs to it, the last does not.
        assert_eq!(starts(&weekly, "2026-11-29T02:00:00Z", "2026-12-06T02:00:00Z"), ["2026-11-29T02:00:00Z"]);
    }

    #[test]
    fn jitter_is_each_policys_own_and_stays_within_the_window() {
        let spec = serde_json::json!({"cron": "0 3 * * *", "jitter": "1h"});
        let offset = |spec: &serde_json::Value, policy: &str| {
            of_policy(spec.clone(), policy, &[]).next(at("2026-11-24T12:00:00Z")).map(|fire| fire.start)
        };
        assert_eq!(offset(&spec, "orders/db"), offset(&spec, "orders/db"));
        let offsets: std::collections::BTreeSet<_> =
            (0..100).map(|policy| offset(&spec, &format!("orders/db-{policy}"))).collect();
        assert!(offsets.len() > 90, "100 policies share {} moments of an hour", offsets.len());
        assert!(offsets.iter().flatten().all(|start| *start < at("2026-11-25T04:00:00Z")));
        // Written down once: a change of the rule would move every policy's fires at an upgrade.
        assert_eq!(offset(&spec, "orders/db"), Some(at("2026-11-25T03:47:27Z")));

        let narrow = serde_json::json!({"cron": "0 3 * * *", "jitter": "1h", "window": "1m"});
        for policy in 0..100 {
            let schedule = of_policy(narrow.clone(), &format!("orders/db-{policy}"), &[]);
            let fire = schedule.next(at("2026-11-24T12:00:00Z")).expect("a fire");
            assert!(fire.is_open(fire.start), "{fire:?}");
        }
    }

    #[test]
    fn a_freeze_that_ends_within_the_window_only_delays() {
        let frozen = schedule(serde_json::json!({
            "cron": "0 3 * * *", "window": "4h",
            "freezes": [{"from": "2026-12-20", "to": "2026-12-24T05:00"}],
        }));
        assert_eq!(
            starts(&frozen, "2026-12-19T00:00:00Z", "2026-12-26T00:00:00Z"),
            ["2026-12-19T03:00:00Z", "2026-12-24T05:00:00Z", "2026-12-25T03:00:00Z"]
        );
        // At the end of its window it is lost.
        let frozen = schedule(serde_json::json!({
            "cron": "0 3 * * *", "window": "4h",
            "freezes": [{"from": "2026-12-20", "to": "2026-12-24T07:00"}],
        }));
        assert_eq!(
            starts(&frozen, "2026-12-19T00:00:00Z", "2026-12-26T00:00:00Z"),
            ["2026-12-19T03:00:00Z", "2026-12-25T03:00:00Z"]
        );
    }

    #[test]
    fn fires_that_one_freeze_holds_back_are_one() {
        let frozen = schedule(serde_json::json!({
            "cron": "*/10 * * * *",
            "freezes": [{"from": "2026-12-20T00:05", "to": "2026-12-20T00:45"}],
        }));
        let fires: Vec<_> =
            frozen.occurrences(at("2026-12-20T00:00:00Z"), at("2026-12-20T01:00:00Z")).collect();
        let times: Vec<_> = fires.iter().map(|fire| (fire.nominal, fire.start)).collect();
        assert_eq!(
            times,
            [
                (at("2026-12-20T00:00:00Z"), at("2026-12-20T00:00:00Z")),
                (at("2026-12-20T00:40:00Z"), at("2026-12-20T00:45:00Z")),
                (at("2026-12-20T00:50:00Z"), at("2026-12-20T00:50:00Z")),
            ]
        );
        // Asked from within the freeze, the same; and the first moment of a freeze belongs to it.
        assert_eq!(frozen.next(at("2026-12-20T00:44:00Z")), fires.get(1).copied());
        let edge = schedule(serde_json::json!({
            "cron": "10 0 * * *", "freezes": [{"from": "2026-12-20T00:10", "to": "2026-12-20T00:45"}],
        }));
        assert_eq!(
            edge.next(at("2026-12-20T00:20:00Z")).map(|fire| fire.start),
            Some(at("2026-12-20T00:45:00Z"))
        );
    }

    #[test]
    fn freezes_of_the_settings_count_in_their_own_zone() {
        let global: GlobalFreeze = serde_json::from_value(serde_json::json!({
            "from": "2026-12-20", "to": "2026-12-21", "timeZone": "Asia/Tokyo", "reason": "moving",
        }))
        .expect("a freeze");
        let schedule = of_policy(
            serde_json::json!({"cron": "0 * * * *", "window": "30m", "timeZone": "Europe/Berlin"}),
            "orders/db",
            &[global],
        );
        let starts = starts(&schedule, "2026-12-19T14:00:00Z", "2026-12-20T17:00:00Z");
        assert_eq!(starts, ["2026-12-19T14:00:00Z", "2026-12-20T15:00:00Z", "2026-12-20T16:00:00Z"]);
        let freeze = schedule.frozen(at("2026-12-20T00:00:00Z")).expect("frozen");
        assert_eq!((freeze.to, freeze.reason.as_deref()), (at("2026-12-20T15:00:00Z"), Some("moving")));
        assert_eq!(schedule.frozen(freeze.to), None);
    }

    #[test]
    fn a_schedule_that_cannot_fire_says_so_at_once() {
        let from = at("2026-11-24T00:00:00Z");
        for spec in [
            serde_json::json!({"cron": "0 0 30 2 *"}),
            serde_json::json!({"cron": "* * * * *", "window": "0s"}),
            serde_json::json!({"cron": "* * * * *", "window": "1m", "freezes": [{"from": "2000-01-01", "to": "9999-01-01"}]}),
        ] {
            let schedule = schedule(spec.clone());
            assert_eq!(schedule.next(from), None, "{spec}");
            assert_eq!(schedule.occurrences(from, Timestamp::MAX).next(), None, "{spec}");
        }
    }
}
