//! What is wrong with a schedule, before it runs.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{CronExpression, Schedule, Times, later};
use crate::ident::PolicyName;
use crate::policy::Spec;
use crate::policy::spec::Interval;

impl Schedule {
    /// What is wrong with this schedule from `now` on. Takes milliseconds at most, whatever it says.
    #[must_use]
    pub fn check(&self, now: Timestamp) -> Vec<ScheduleProblem> {
        let mut problems = Vec::new();
        let times = self.times();
        let Some(first) = times.next(now) else {
            problems.push(ScheduleProblem::NeverFires { cron: self.cron.clone() });
            return problems;
        };
        if self.can_fire() && self.next(now).is_none_or(|fire| fire.start >= later(first, FREEZE_HORIZON)) {
            problems.push(ScheduleProblem::AlwaysFrozen { first });
        }
        if let Some(max_age) = self.max_age {
            problems.extend(
                gap_beyond(&times, first, max_age).map(|(from, to)| ScheduleProblem::AgeBetweenFires {
                    max_age: interval(max_age),
                    from,
                    to,
                }),
            );
            let freezes = self.freezes.iter().filter(|freeze| freeze.to > now);
            let long = freezes.filter(|freeze| freeze.from.duration_until(freeze.to) > max_age);
            problems.extend(long.map(|freeze| ScheduleProblem::AgeInFreeze {
                max_age: interval(max_age),
                from: freeze.from,
                to: freeze.to,
            }));
        }
        problems
    }

    /// How long a value has to live for the next one to be in its place in time, and readers to have moved to that
    /// within the grace.
    #[must_use]
    pub fn needed_life(&self, grace: Duration, now: Timestamp) -> Duration {
        let between = self.max_age.unwrap_or_else(|| self.longest_gap(now)).unsigned_abs();
        let window = self.window.unwrap_or_default().unsigned_abs();
        between.saturating_add(window).saturating_add(grace)
    }

    /// The longest time between two times of cron.
    fn longest_gap(&self, now: Timestamp) -> SignedDuration {
        let times = self.times();
        let Some(first) = times.next(now) else { return SignedDuration::ZERO };
        let beyond = |least: SignedDuration| {
            let mut longest = least;
            while let Some((from, to)) = gap_beyond(&times, first, longest) {
                longest = from.duration_until(to);
            }
            longest
        };
        // In steps as short as the time between two minutes it would never come to the end of a busy day.
        match beyond(FAR_APART) {
            FAR_APART => beyond(SignedDuration::ZERO),
            longest => longest,
        }
    }

    fn can_fire(&self) -> bool {
        self.window.is_none_or(|window| window.is_positive())
    }
}

/// How long a policy's value has to live that ends by itself: see [`Schedule::needed_life`]. `None` without a schedule.
#[must_use]
pub fn needed_life(spec: &Spec, policy: &PolicyName, now: Timestamp) -> Option<Duration> {
    let schedule = Schedule::new(spec.schedule.as_ref()?, policy, &[]);
    Some(schedule.needed_life(spec.retire.grace.as_duration(), now))
}

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleProblem {
    /// The expression names no date that exists, such as 30 February.
    NeverFires { cron: CronExpression },
    /// The freezes leave no fire for years.
    AlwaysFrozen { first: Timestamp },
    /// Two fires are further apart than the maximum age.
    AgeBetweenFires { max_age: Interval, from: Timestamp, to: Timestamp },
    /// A freeze is longer than the maximum age.
    AgeInFreeze { max_age: Interval, from: Timestamp, to: Timestamp },
}

impl ScheduleProblem {
    /// Whether the schedule can do what it says.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NeverFires { .. } | Self::AlwaysFrozen { .. } => Severity::Error,
            Self::AgeBetweenFires { .. } | Self::AgeInFreeze { .. } => Severity::Warning,
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NeverFires { .. } => {
                "choose a day that exists in the month; leave the schedule out to rotate on request only"
            }
            Self::AlwaysFrozen { .. } => "shorten the freezes, or widen the window beyond their end",
            Self::AgeBetweenFires { .. } => {
                "raise maxAge above the longest time between two fires, or let cron fire more often, unless rotations outside of its times are meant"
            }
            Self::AgeInFreeze { .. } => {
                "shorten the freeze or raise maxAge: the value is reported as overdue in it"
            }
        }
    }
}

impl fmt::Display for ScheduleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverFires { cron } => write!(f, "cron `{cron}` matches no date up to the year 2100"),
            Self::AlwaysFrozen { first } => {
                write!(f, "freezes leave no time to start for years, the first lost one is {first}")
            }
            Self::AgeBetweenFires { max_age, from, to } => write!(
                f,
                "the maximum age of {max_age} is shorter than the time from {from} to {to}, which cron leaves between two rotations"
            ),
            Self::AgeInFreeze { max_age, from, to } => {
                write!(f, "the maximum age of {max_age} is shorter than the freeze from {from} to {to}")
            }
        }
    }
}

/// How bad a [`ScheduleProblem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It runs, but perhaps not as meant.
    Warning,
    /// It cannot do what it says.
    Error,
}

/// The first two neighbouring fires that are further apart than `most`. Jumps from a fire to the last one
/// within reach, so that the number of steps depends on `most` and not on how often cron fires.
fn gap_beyond(times: &Times<'_>, first: Timestamp, most: SignedDuration) -> Option<(Timestamp, Timestamp)> {
    let end = later(first, GAP_HORIZON);
    let mut fire = first;
    for _ in 0..GAP_STEPS {
        let reach = times.last(later(fire, most))?;
        if reach <= fire {
            return Some((fire, times.next(fire)?));
        }
        fire = reach;
        if fire > end {
            break;
        }
    }
    None
}

fn interval(duration: SignedDuration) -> Interval {
    Interval::from_duration(duration.unsigned_abs())
}

/// A schedule that has no fire for so long does not rotate, for all that anyone cares.
const FREEZE_HORIZON: SignedDuration = SignedDuration::from_hours(5 * 366 * 24);

/// Far enough to see every gap of a pattern that repeats each year.
const GAP_HORIZON: SignedDuration = SignedDuration::from_hours(400 * 24);

/// In steps of so long the search comes to the end of [`GAP_HORIZON`].
const FAR_APART: SignedDuration = SignedDuration::from_hours(10);

/// Bounds the search where the maximum age is minutes. Such a pattern repeats within days.
const GAP_STEPS: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use crate::schedule::tests::{at, schedule};

    fn problems(spec: serde_json::Value) -> Vec<String> {
        let problems = schedule(spec).check(at("2026-11-24T00:00:00Z"));
        problems.iter().map(|problem| format!("{:?}: {problem}", problem.severity())).collect()
    }

    #[test]
    fn an_ordinary_schedule_has_no_problem() {
        for spec in [
            json!({"cron": "0 3 * * 0", "timeZone": "Europe/Berlin", "window": "4h", "jitter": "30m", "maxAge": "30d",
                   "freezes": [{"from": "2026-12-20", "to": "2027-01-06"}]}),
            json!({"cron": "*/5 * * * *", "maxAge": "10m"}),
            json!({"cron": "0 0 29 2 *"}),
            json!({"cron": "0 3 * * *", "jitter": "1h", "window": "1h"}),
        ] {
            assert_eq!(problems(spec.clone()), [""; 0], "{spec}");
        }
    }

    #[test]
    fn a_value_has_to_live_until_the_next_one_is_in_its_place() {
        for (spec, hours) in [
            (json!({"cron": "0 3 1 */3 *", "timeZone": "UTC"}), 92 * 24),
            // From summer into winter.
            (json!({"cron": "0 3 1 */3 *", "timeZone": "Europe/Berlin"}), 92 * 24 + 1),
            (json!({"cron": "0 3 1 */3 *", "timeZone": "UTC", "window": "4h"}), 92 * 24 + 4),
            (json!({"cron": "0 3 1 */3 *", "window": "4h", "maxAge": "30d"}), 30 * 24 + 4),
            (json!({"cron": "0 */6 * * *"}), 6),
            // A busy day, and none for six.
            (json!({"cron": "* * * * 1", "timeZone": "UTC"}), 6 * 24),
        ] {
            let needed =
                schedule(spec.clone()).needed_life(Duration::from_secs(3_600), at("2026-11-24T00:00:00Z"));
            assert_eq!(needed.as_secs() / 3_600, hours + 1, "{spec}");
        }
    }

    #[test]
    fn what_cannot_work_is_an_error() {
        for (spec, text) in [
            (json!({"cron": "0 0 30 2 *"}), "cron `0 0 30 2 *` matches no date"),
            (
                json!({"cron": "0 3 24 12 *", "window": "4h", "freezes": [
                    {"from": "2026-12-20", "to": "2030-01-06"}, {"from": "2029-12-20", "to": "2033-01-06"},
                ]}),
                "freezes leave no time to start for years, the first lost one is 2026-12-24T03:00:00Z",
            ),
        ] {
            let found = problems(spec);
            assert!(found.len() == 1 && found[0].starts_with(&format!("Error: {text}")), "{found:?}");
        }
    }

    #[test]
    fn an_age_that_cron_does_not_keep_is_a_warning() {
        for (cron, max_age, text) in [
            ("0 3 * * 0", "5d", "from 2026-11-29T02:00:00Z to 2026-12-06T02:00:00Z"),
            // Seven days and one hour in the week in which winter time begins.
            ("0 3 * * 0", "7d", "from 2027-10-24T01:00:00Z to 2027-10-31T02:00:00Z"),
            ("0 9 * 1 *", "30d", "from 2027-01-31T08:00:00Z to 2028-01-01T08:00:00Z"),
            ("0 0 29 2 *", "30d", "from 2028-02-28T23:00:00Z to 2032-02-28T23:00:00Z"),
            ("*/5 * * * *", "4m", "from 2026-11-24T00:05:00Z to 2026-11-24T00:10:00Z"),
        ] {
            let found = problems(json!({"cron": cron, "timeZone": "Europe/Berlin", "maxAge": max_age}));
            assert!(
                found.len() == 1 && found[0].starts_with("Warning: ") && found[0].contains(text),
                "{found:?}"
            );
        }
        let found = problems(json!({
            "cron": "0 3 * * *", "maxAge": "14d", "freezes": [{"from": "2026-12-20", "to": "2027-01-06"}],
        }));
        assert!(found.len() == 1 && found[0].contains("14d is shorter than the freeze"), "{found:?}");
    }

    #[test]
    fn checking_ends_soon_whatever_the_schedule_says() {
        let freezes: Vec<_> = (1970..2100)
            .map(|year| json!({"from": format!("{year}-01-01T00:01"), "to": format!("{}-01-01", year + 1)}))
            .collect();
        let started = std::time::Instant::now();
        for cron in ["* * * * *", "0 0 29 2 *", "0 0 30 2 *", "*/2 * * * *", "59 23 31 12 *"] {
            for max_age in ["1s", "1m", "2m", "30d", "100000d"] {
                problems(json!({"cron": cron, "window": "1s", "maxAge": max_age, "freezes": freezes}));
            }
        }
        assert!(started.elapsed().as_secs() < 5, "took {:?}", started.elapsed());
    }
}
