//! Whether a policy's rotation is due, from durable facts alone.
//!
//! | rule | why |
//! |---|---|
//! | a policy without a value in force is never due | switching rekeyd on must not change a credential: somebody adopts it or asks for the first rotation |
//! | a fire is done once it was handled, or once a value was promoted at or after its nominal time | whoever asked for that value: rotating again minutes later is a restart without a reason |
//! | of several fires that were missed, the last one alone counts | one rotation catches up with all of them, and it closes last |
//! | fires before `watched_since` do not count | a new policy does not catch up with times before it |
//! | with `catchUp: skip` a fire counts for ten minutes after its start | nothing durable says whether the daemon was up, and a restart or a failover must not cost a fire |
//! | a value that came back because readers failed with the next one is left alone for a day, and for the fires handled by then | each try restarts readers; they fail until somebody has mended them |
//! | where cron and age both ask, cron is the answer | it marks the fire as handled and renews the value: one rotation instead of two |
//!
//! **Clocks that jump.** A fire that was handled stays handled however far the clock is set back: the next
//! one is the next after it, since a rotation too many is a change that nobody asked for. Whether the clock
//! is wrong now or was wrong then, nothing tells; [`Facts::ahead_of`] says that one of the two is, for
//! somebody to look. A value promoted in the future counts as promoted then, which puts its rotation off by
//! its maximum age at most; if it lies even further ahead, its age is unknown, and a value of unknown age is
//! taken to be too old: one rotation puts that right.
//!
//! If the process dies after an answer of [`Due::Now`], it gives the same answer again; the request named
//! after [`Cause::nominal`] is what makes two answers one rotation.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Fire, Schedule, just_before, later};
use crate::policy::spec::CatchUp;

/// What the decision rests on. Each is durable, so that a restart changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// When the value in force was promoted, by whatever trigger, or adopted.
    pub promoted_at: Option<Timestamp>,
    /// The nominal time of the last fire that was acted upon.
    pub handled: Option<Timestamp>,
    /// From when on the schedule counts for this policy: when the policy was first loaded.
    pub watched_since: Timestamp,
    /// When readers failed with a new value and got the earlier one back, if that was the latest.
    pub rolled_back_at: Option<Timestamp>,
}

impl Facts {
    /// The latest of these moments, if it lies more than a day ahead of `now`: the clock was wrong then or is
    /// wrong now, and until that moment only age asks for rotations.
    #[must_use]
    pub fn ahead_of(&self, now: Timestamp) -> Option<Timestamp> {
        let facts = [self.promoted_at, self.handled, Some(self.watched_since)];
        facts.into_iter().flatten().max().filter(|latest| *latest > later(now, CLOCK_SLACK))
    }
}

/// Whether a scheduled rotation is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Now(Cause),
    /// Not before this moment, if the facts stay as they are.
    At(Timestamp, Cause),
    /// Not until the facts or the policy change.
    Never(Idle),
}

/// What asks for a scheduled rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    Cron(Fire),
    /// When the value in force reaches its maximum age.
    MaxAge(Timestamp),
}

impl Cause {
    /// Names the request, among those of its kind: one rotation for each.
    #[must_use]
    pub const fn nominal(&self) -> Timestamp {
        match self {
            Self::Cron(fire) => fire.nominal,
            Self::MaxAge(reached) => *reached,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(fire) => write!(f, "scheduled for {}", fire.nominal),
            Self::MaxAge(reached) => write!(f, "maximum age reached at {reached}"),
        }
    }
}

/// Why no scheduled rotation is due at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// There is no value in force.
    NothingPromoted,
    /// The schedule has no fire left.
    NoFires,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingPromoted => {
                f.write_str("there is no value in force yet: adopt the present one or request a rotation")
            }
            Self::NoFires => f.write_str("the schedule has no time left at which it could start"),
        }
    }
}

impl Schedule {
    /// Whether and when a rotation is due; stable while the facts are.
    #[must_use]
    pub fn due(&self, facts: &Facts, now: Timestamp) -> Due {
        let Some(promoted) = facts.promoted_at else {
            return Due::Never(Idle::NothingPromoted);
        };
        let (time, cause) =
            match (self.due_by_cron(facts, promoted, now), self.due_by_age(facts, promoted, now)) {
                (Some(cron), Some(age)) => {
                    if age.0 < cron.0 {
                        age
                    } else {
                        cron
                    }
                }
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => return Due::Never(Idle::NoFires),
            };
        if time <= now { Due::Now(cause) } else { Due::At(time, cause) }
    }

    /// Whether the value in force is older than the policy allows, or of unknown age.
    #[must_use]
    pub fn overdue(&self, facts: &Facts, now: Timestamp) -> bool {
        let (Some(promoted), Some(max_age)) = (facts.promoted_at, self.max_age) else {
            return false;
        };
        now.duration_since(promoted) > max_age || is_unbelievable(promoted, max_age, now)
    }

    fn due_by_cron(&self, facts: &Facts, promoted: Timestamp, now: Timestamp) -> Option<(Timestamp, Cause)> {
        let done = just_before(facts.watched_since).max(facts.handled.unwrap_or(Timestamp::MIN));
        let done = if promoted <= now { done.max(promoted) } else { done };

        let at = self.freezes.thaw(now);
        let times = self.times();
        let late = self.last_fire(&times, at).filter(|fire| {
            fire.nominal > done
                && fire.is_open(at)
                && (self.catch_up == CatchUp::Once || at < later(fire.start, PUNCTUAL))
        });
        late.map(|fire| (at, fire))
            .or_else(|| self.next_fire(&times, at, done).map(|fire| (fire.start, fire)))
            .map(|(time, fire)| (time, Cause::Cron(fire)))
    }

    fn due_by_age(&self, facts: &Facts, promoted: Timestamp, now: Timestamp) -> Option<(Timestamp, Cause)> {
        let max_age = self.max_age?;
        let reached = later(promoted, max_age);
        let time = if is_unbelievable(promoted, max_age, now) { now } else { reached.max(now) };
        // One that lies ahead comes from a clock that was wrong.
        let rolled_back = facts.rolled_back_at.filter(|at| *at <= now);
        let time = rolled_back.map_or(time, |at| time.max(later(at, AFTER_ROLL_BACK)));
        Some((self.freezes.thaw(time), Cause::MaxAge(reached)))
    }
}

/// How long after its start a fire counts as on time: a restart, a failover and a full queue fit in.
const PUNCTUAL: SignedDuration = SignedDuration::from_mins(10);

/// How far ahead something may lie that is past. More than time servers ever correct, and than a wrong zone does.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_hours(24);

/// For so long a value that came back is not replaced because of its age.
const AFTER_ROLL_BACK: SignedDuration = SignedDuration::from_hours(24);

/// Whether `promoted` lies so far ahead that waiting for it would put a rotation off beyond measure.
fn is_unbelievable(promoted: Timestamp, max_age: SignedDuration, now: Timestamp) -> bool {
    promoted > later(now, max_age)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schedule::tests::{at, schedule};

    /// A value promoted on 1 November, a daemon that watches since then, and nothing handled yet.
    fn facts() -> Facts {
        Facts {
            promoted_at: Some(at("2026-11-01T00:00:00Z")),
            handled: None,
            watched_since: at("2026-11-01T00:00:00Z"),
            rolled_back_at: None,
        }
    }

    fn now(due: Due) -> Timestamp {
        match due {
            Due::Now(cause) => cause.nominal(),
            other => panic!("not due now but {other:?}"),
        }
    }

    fn later_on(due: Due) -> (Timestamp, Timestamp) {
        match due {
            Due::At(time, cause) => (time, cause.nominal()),
            other => panic!("not due later but {other:?}"),
        }
    }

    #[test]
    fn nothing_is_due_without_a_value_in_force() {
        let schedule = schedule(json!({"cron": "* * * * *", "maxAge": "1d"}));
        let facts = Facts { promoted_at: None, ..facts() };
        assert_eq!(schedule.due(&facts, at("2026-11-24T00:00:00Z")), Due::Never(Idle::NothingPromoted));
        assert!(!schedule.overdue(&facts, at("2026-11-24T00:00:00Z")));
    }

    #[test]
    fn a_fire_is_due_from_its_start_until_it_is_handled() {
        let schedule = schedule(json!({"cron": "0 3 * * 0"}));
        let sunday = at("2026-11-01T03:00:00Z");
        assert_eq!(later_on(schedule.due(&facts(), at("2026-11-01T02:59:59.999Z"))), (sunday, sunday));
        for time in ["2026-11-01T03:00:00Z", "2026-11-01T03:00:01Z", "2026-11-05T00:00:00Z"] {
            assert_eq!(now(schedule.due(&facts(), at(time))), sunday, "{time}");
        }
        let handled = Facts { handled: Some(sunday), ..facts() };
        let next = at("2026-11-08T03:00:00Z");
        assert_eq!(later_on(schedule.due(&handled, sunday)), (next, next));
    }

    #[test]
    fn many_missed_times_are_caught_up_with_once() {
        let schedule = schedule(json!({"cron": "0 3 * * *"}));
        let time = at("2026-11-24T10:00:00Z");
        let last = now(schedule.due(&facts(), time));
        assert_eq!(last, at("2026-11-24T03:00:00Z"));
        let handled = Facts { handled: Some(last), ..facts() };
        assert_eq!(later_on(schedule.due(&handled, time)).1, at("2026-11-25T03:00:00Z"));
    }

    #[test]
    fn times_before_the_policy_was_watched_are_never_caught_up_with() {
        let schedule = schedule(json!({"cron": "0 3 * * *"}));
        let facts = |watched_since| Facts {
            promoted_at: Some(at("2026-01-01T00:00:00Z")),
            handled: None,
            watched_since: at(watched_since),
            rolled_back_at: None,
        };
        let now = at("2026-11-24T10:00:00Z");
        assert_eq!(later_on(schedule.due(&facts("2026-11-24T09:00:00Z"), now)).1, at("2026-11-25T03:00:00Z"));
        // The first moment counts.
        let due = schedule.due(&facts("2026-11-24T03:00:00Z"), now);
        assert!(matches!(due, Due::Now(cause) if cause.nominal() == at("2026-11-24T03:00:00Z")), "{due:?}");
    }

    #[test]
    fn once_its_window_has_passed_a_missed_time_waits_for_the_next() {
        let schedule = schedule(json!({"cron": "0 3 * * *", "window": "4h"}));
        let today = at("2026-11-24T03:00:00Z");
        assert_eq!(now(schedule.due(&facts(), at("2026-11-24T06:59:59Z"))), today);
        let tomorrow = at("2026-11-25T03:00:00Z");
        assert_eq!(later_on(schedule.due(&facts(), at("2026-11-24T07:00:00Z"))), (tomorrow, tomorrow));
    }

    #[test]
    fn skip_waits_for_the_next_but_not_for_want_of_a_second() {
        let schedule = schedule(json!({"cron": "0 3 * * *", "catchUp": "skip"}));
        let today = at("2026-11-24T03:00:00Z");
        for time in ["2026-11-24T03:00:00Z", "2026-11-24T03:09:59Z"] {
            assert_eq!(now(schedule.due(&facts(), at(time))), today, "{time}");
        }
        let tomorrow = at("2026-11-25T03:00:00Z");
        assert_eq!(later_on(schedule.due(&facts(), at("2026-11-24T03:10:00Z"))).1, tomorrow);
    }

    #[test]
    fn skip_counts_from_the_end_of_a_freeze() {
        let schedule = schedule(json!({
            "cron": "0 3 * * *", "catchUp": "skip", "window": "12h",
            "freezes": [{"from": "2026-11-24T02:00", "to": "2026-11-24T10:00"}],
        }));
        let today = at("2026-11-24T03:00:00Z");
        let thaw = at("2026-11-24T10:00:00Z");
        assert_eq!(later_on(schedule.due(&facts(), at("2026-11-24T04:00:00Z"))), (thaw, today));
        assert_eq!(now(schedule.due(&facts(), at("2026-11-24T10:09:00Z"))), today);
        assert_eq!(
            later_on(schedule.due(&facts(), at("2026-11-24T10:10:00Z"))).1,
            at("2026-11-25T03:00:00Z")
        );
    }

    #[test]
    fn what_was_missed_before_a_freeze_starts_behind_it_if_its_window_allows() {
        let frozen = json!([{"from": "2026-11-24T04:00", "to": "2026-11-24T10:00"}]);
        let unlimited = schedule(json!({"cron": "0 3 * * *", "freezes": frozen}));
        let inside = at("2026-11-24T05:00:00Z");
        let (today, thaw) = (at("2026-11-24T03:00:00Z"), at("2026-11-24T10:00:00Z"));
        assert_eq!(later_on(unlimited.due(&facts(), inside)), (thaw, today));
        assert_eq!(now(unlimited.due(&facts(), thaw)), today);

        let limited = schedule(json!({"cron": "0 3 * * *", "window": "4h", "freezes": frozen}));
        assert_eq!(later_on(limited.due(&facts(), inside)).1, at("2026-11-25T03:00:00Z"));
    }

    #[test]
    fn a_value_promoted_at_or_after_a_time_answers_it() {
        // A leak was contained in the freeze: the held-back fire would rotate the new value for nothing.
        let schedule = schedule(json!({
            "cron": "0 3 * * *", "freezes": [{"from": "2026-11-24", "to": "2026-11-25"}],
        }));
        let tomorrow = at("2026-11-25T03:00:00Z");
        let contained = Facts { promoted_at: Some(at("2026-11-24T03:00:00Z")), ..facts() };
        assert_eq!(later_on(schedule.due(&contained, at("2026-11-24T12:00:00Z"))), (tomorrow, tomorrow));
        let before = Facts { promoted_at: Some(at("2026-11-24T02:59:59Z")), ..facts() };
        assert_eq!(later_on(schedule.due(&before, at("2026-11-24T12:00:00Z"))).0, at("2026-11-25T00:00:00Z"));
    }

    #[test]
    fn an_old_value_rotates_even_if_cron_does_not_ask() {
        let schedule = schedule(json!({"cron": "0 0 1 1 *", "maxAge": "30d"}));
        let old = at("2026-12-01T00:00:00Z");
        assert_eq!(later_on(schedule.due(&facts(), at("2026-11-24T00:00:00Z"))), (old, old));
        let due = schedule.due(&facts(), at("2026-12-01T00:00:00Z"));
        assert_eq!(due, Due::Now(Cause::MaxAge(old)));
        // Asked again after a restart, it names the same request.
        assert_eq!(schedule.due(&facts(), at("2026-12-02T00:00:00Z")), due);
        assert!(!schedule.overdue(&facts(), old));
        assert!(schedule.overdue(&facts(), at("2026-12-01T00:00:00.001Z")));
    }

    #[test]
    fn a_value_that_came_back_is_left_alone_for_a_day() {
        let schedule = schedule(json!({"cron": "0 0 1 1 *", "maxAge": "30d"}));
        let (now, tomorrow) = (at("2026-12-05T10:00:00Z"), at("2026-12-06T10:00:00Z"));
        let facts = Facts { rolled_back_at: Some(now), ..facts() };
        assert_eq!(later_on(schedule.due(&facts, now)), (tomorrow, at("2026-12-01T00:00:00Z")));
        assert!(schedule.overdue(&facts, now));
        assert!(matches!(schedule.due(&facts, tomorrow), Due::Now(Cause::MaxAge(_))));
    }

    #[test]
    fn an_old_value_waits_for_the_end_of_a_freeze_and_no_longer() {
        let schedule = schedule(json!({
            "cron": "0 3 * * *", "window": "1h", "maxAge": "30d",
            "freezes": [{"from": "2026-11-30", "to": "2026-12-10T12:00"}],
        }));
        let handled = Facts { handled: Some(at("2026-11-29T03:00:00Z")), ..facts() };
        let (reached, thaw) = (at("2026-12-01T00:00:00Z"), at("2026-12-10T12:00:00Z"));
        assert_eq!(later_on(schedule.due(&handled, at("2026-12-05T00:00:00Z"))), (thaw, reached));
        assert_eq!(schedule.due(&handled, thaw), Due::Now(Cause::MaxAge(reached)));
        assert!(schedule.overdue(&handled, at("2026-12-05T00:00:00Z")));
    }

    #[test]
    fn where_cron_and_age_both_ask_one_rotation_answers_both() {
        let schedule = schedule(json!({"cron": "0 3 * * *", "maxAge": "10d"}));
        let time = at("2026-11-24T10:00:00Z");
        let last = now(schedule.due(&facts(), time));
        assert_eq!(last, at("2026-11-24T03:00:00Z"));
        let after = Facts { promoted_at: Some(time), handled: Some(last), ..facts() };
        assert_eq!(later_on(schedule.due(&after, time)).1, at("2026-11-25T03:00:00Z"));
    }

    #[test]
    fn a_clock_set_back_does_not_repeat_what_was_handled() {
        let schedule = schedule(json!({"cron": "0 3 * * *"}));
        let last = at("2026-11-24T03:00:00Z");
        let handled = Facts { promoted_at: Some(last), handled: Some(last), ..facts() };
        for time in ["2026-11-24T02:59:00Z", "2026-11-23T03:00:00Z", "2001-01-01T00:00:00Z"] {
            assert_eq!(later_on(schedule.due(&handled, at(time))).1, at("2026-11-25T03:00:00Z"), "{time}");
        }
        // That it was set back by much can be seen.
        assert_eq!(handled.ahead_of(at("2026-11-23T03:00:00Z")), None);
        assert_eq!(handled.ahead_of(at("2026-11-23T02:59:59Z")), Some(last));
    }

    #[test]
    fn a_promotion_in_the_future_neither_starves_nor_panics() {
        let schedule = schedule(json!({"cron": "0 0 1 1 *", "maxAge": "30d"}));
        let time = at("2026-11-24T00:00:00Z");
        let promoted = |at| Facts { promoted_at: Some(at), ..facts() };
        // Within the maximum age, it is waited for.
        let soon = at("2026-11-25T00:00:00Z");
        assert_eq!(later_on(schedule.due(&promoted(soon), time)).0, at("2026-12-25T00:00:00Z"));
        assert!(!schedule.overdue(&promoted(soon), time));
        // Beyond it, the age is unknown, and the one rotation that follows puts it right.
        for far in [at("2027-11-24T00:00:00Z"), Timestamp::MAX] {
            assert!(matches!(schedule.due(&promoted(far), time), Due::Now(Cause::MaxAge(_))), "{far}");
            assert!(schedule.overdue(&promoted(far), time));
        }
        // It answers no fire before it has been.
        let daily = crate::schedule::tests::schedule(json!({"cron": "0 3 * * *"}));
        assert_eq!(now(daily.due(&promoted(soon), time)), at("2026-11-23T03:00:00Z"));
    }

    #[test]
    fn the_ends_of_time_are_answers() {
        let schedule = schedule(json!({
            "cron": "0 3 * * *", "timeZone": "Pacific/Apia", "maxAge": "100000d", "window": "100000d", "jitter": "100000d",
        }));
        for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            for fact in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
                let facts = Facts {
                    promoted_at: Some(fact),
                    handled: Some(fact),
                    watched_since: fact,
                    rolled_back_at: Some(fact),
                };
                let _ = (schedule.due(&facts, now), schedule.overdue(&facts, now), schedule.check(now));
            }
        }
        let ended = Facts { handled: Some(at("2100-12-31T03:00:00Z")), ..facts() };
        let daily = crate::schedule::tests::schedule(json!({"cron": "0 3 * * *"}));
        assert_eq!(daily.due(&ended, at("2100-12-31T03:00:00Z")), Due::Never(Idle::NoFires));
    }
}
