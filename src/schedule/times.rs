//! Wall-clock times as instants of a zone.
//!
//! A time that the clock jumps over happens at the first instant after the gap. A time that the clock
//! shows twice happens the first time only. In one rule: a time has come once the wall clock has reached
//! it for the first time. So instants come in the order of their wall-clock times, and several times in one
//! gap are one instant.

use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};

use super::grammar::WallClock;

/// The instants of an expression in a zone.
pub(super) struct Times<'a> {
    pub(super) wall: WallClock,
    pub(super) zone: &'a TimeZone,
}

impl Times<'_> {
    /// The first instant later than `after`. `None` beyond the year 2100.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut wall = self.zone.to_datetime(after);
        loop {
            wall = self.wall.next(wall)?;
            // In the second pass through a fold, the rest of its times have been.
            let instant = instant(self.zone, wall, Fold::First);
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// The last instant that is not later than `at`.
    pub(super) fn last(&self, at: Timestamp) -> Option<Timestamp> {
        let shown = self.zone.to_datetime(at);
        // In the second pass through a fold, all its times have been: begin behind it.
        let mut wall = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Fold { before, after } => {
                let length = i64::from(before.seconds()) - i64::from(after.seconds());
                shown.saturating_add(SignedDuration::from_secs(length))
            }
            _ => shown,
        };
        loop {
            wall = self.wall.last(wall)?;
            let instant = instant(self.zone, wall, Fold::First);
            if instant <= at {
                return Some(instant);
            }
            wall = wall.saturating_sub(SignedDuration::from_secs(1));
        }
    }
}

/// Which of two instants a wall-clock time means that is shown twice.
#[derive(Clone, Copy)]
pub(super) enum Fold {
    First,
    Second,
}

/// When a zone's clock reaches `wall`; the ends of time for what lies beyond them.
pub(super) fn instant(zone: &TimeZone, wall: civil::DateTime, fold: Fold) -> Timestamp {
    let ambiguous = zone.to_ambiguous_timestamp(wall);
    let beyond = if wall.year() < 0 { Timestamp::MIN } else { Timestamp::MAX };
    match (ambiguous.offset(), fold) {
        (AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. }, Fold::First) => {
            ambiguous.earlier().unwrap_or(beyond)
        }
        (AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. }, Fold::Second) => {
            ambiguous.later().unwrap_or(beyond)
        }
        // Read with the offset from after the gap, the time lies before it, and read with the other behind it.
        (AmbiguousOffset::Gap { after, .. }, _) => {
            let before_gap = ambiguous.earlier().unwrap_or(beyond);
            let mut changes = zone.following(before_gap);
            changes.find(|change| change.offset() == after).map_or(beyond, |change| change.timestamp())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").expect("a zone")
    }

    fn times<'a>(expression: &str, zone: &'a TimeZone) -> Times<'a> {
        Times { wall: WallClock::parse(expression).expect("an expression"), zone }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    fn all(times: &Times<'_>, from: &str, count: usize) -> Vec<String> {
        let mut last = at(from);
        let next = std::iter::from_fn(|| {
            last = times.next(last)?;
            Some(last.to_string())
        });
        next.take(count).collect()
    }

    #[test]
    fn a_time_in_a_gap_comes_right_after_it() {
        let zone = berlin();
        // 02:00 to 03:00 is left out on 29 March 2026.
        assert_eq!(
            all(&times("30 2 * * *", &zone), "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // Four times in the gap are one.
        assert_eq!(
            all(&times("*/15 2 * * *", &zone), "2026-03-28T02:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]
        );
    }

    #[test]
    fn a_time_in_a_fold_comes_the_first_time_only() {
        let zone = berlin();
        // 02:00 to 03:00 is shown twice on 25 October 2026.
        assert_eq!(
            all(&times("30 2 * * *", &zone), "2026-10-24T22:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            all(&times("*/30 * * * *", &zone), "2026-10-24T23:40:00Z", 4),
            ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", "2026-10-25T02:30:00Z"]
        );
        // Asked in the second pass, at 02:10 and at 02:40.
        for now in ["2026-10-25T01:10:00Z", "2026-10-25T01:40:00.5Z"] {
            let times = times("*/30 * * * *", &zone);
            assert_eq!(times.next(at(now)), Some(at("2026-10-25T02:00:00Z")), "{now}");
            assert_eq!(times.last(at(now)), Some(at("2026-10-25T00:30:00Z")), "{now}");
        }
    }

    #[test]
    fn a_whole_day_that_a_zone_leaves_out_is_a_gap() {
        let apia = TimeZone::get("Pacific/Apia").expect("a zone");
        assert_eq!(
            all(&times("0 12 * * *", &apia), "2011-12-29T12:00:00Z", 3),
            ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]
        );
    }

    #[test]
    fn the_ends_of_time_are_answers() {
        let zone = berlin();
        let yearly = times("@yearly", &zone);
        assert_eq!(yearly.next(Timestamp::MIN), Some(at("1969-12-31T23:00:00Z")));
        assert_eq!(yearly.next(Timestamp::MAX), None);
        assert_eq!(yearly.last(Timestamp::MIN), None);
        assert_eq!(yearly.last(Timestamp::MAX), Some(at("2099-12-31T23:00:00Z")));
        for (wall, end) in [(civil::DateTime::MIN, Timestamp::MIN), (civil::DateTime::MAX, Timestamp::MAX)] {
            let instant = instant(&zone, wall, Fold::First);
            assert!(instant.duration_until(end).abs() <= SignedDuration::from_hours(24), "{instant}");
        }
    }
}
