//! Times in which no scheduled rotation starts.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::times::{Fold, instant};
use crate::policy::spec::FreezeSpec;
use crate::settings::GlobalFreeze;

/// A time in which no scheduled rotation starts. Freezes that overlap or touch are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// First moment.
    pub from: Timestamp,
    /// First moment after it.
    pub to: Timestamp,
    /// Why, in the words of the policy or the settings.
    pub reason: Option<Box<str>>,
}

impl Freeze {
    fn new(
        from: (&TimeZone, jiff::civil::DateTime),
        to: jiff::civil::DateTime,
        reason: Option<&str>,
    ) -> Self {
        let (zone, from) = from;
        // Of a moment that the clock shows twice, the one that freezes longer.
        Self {
            from: instant(zone, from, Fold::First),
            to: instant(zone, to, Fold::Second),
            reason: reason.map(Into::into),
        }
    }
}

/// All freezes of a schedule, in order and apart from each other.
#[derive(Debug, Clone)]
pub(super) struct Freezes(Box<[Freeze]>);

impl Freezes {
    /// Those of the policy are in the schedule's zone, those of the settings in their own.
    pub(super) fn new(own: &[FreezeSpec], zone: &TimeZone, frozen: &[GlobalFreeze]) -> Self {
        let own = own.iter().map(|f| Freeze::new((zone, f.from), f.to, f.reason.as_deref()));
        let global = frozen
            .iter()
            .map(|f| Freeze::new((f.time_zone.as_time_zone(), f.from), f.to, f.reason.as_deref()));
        let mut freezes: Vec<_> = own.chain(global).filter(|freeze| freeze.from < freeze.to).collect();
        freezes.sort_by_key(|freeze| freeze.from);
        freezes.dedup_by(|next, kept| {
            let touches = next.from <= kept.to;
            if touches {
                kept.to = kept.to.max(next.to);
                kept.reason = kept.reason.take().or_else(|| next.reason.take());
            }
            touches
        });
        Self(freezes.into())
    }

    /// The freeze that `at` is in.
    pub(super) fn around(&self, at: Timestamp) -> Option<&Freeze> {
        self.0.iter().find(|freeze| freeze.from <= at && at < freeze.to)
    }

    /// The first moment from `at` on that is in no freeze.
    pub(super) fn thaw(&self, at: Timestamp) -> Timestamp {
        self.around(at).map_or(at, |freeze| freeze.to)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Freeze> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use crate::schedule::tests::{at, schedule};

    fn until(freezes: &[(&str, &str)], now: &str) -> Option<String> {
        let freezes: Vec<_> = freezes
            .iter()
            .map(|(from, to)| serde_json::json!({"from": from, "to": to, "reason": from}))
            .collect();
        let spec = serde_json::json!({"cron": "@daily", "timeZone": "Europe/Berlin", "freezes": freezes});
        schedule(spec).frozen(at(now)).map(|freeze| freeze.to.to_string())
    }

    #[test]
    fn freezes_that_overlap_or_touch_are_one() {
        let freezes = [
            ("2026-12-24", "2026-12-27"),
            ("2026-12-20", "2026-12-31"),
            ("2026-12-31", "2027-01-02"),
            ("2027-02-01", "2027-02-02"),
        ];
        assert_eq!(until(&freezes, "2026-12-19T23:00:00Z").as_deref(), Some("2027-01-01T23:00:00Z"));
        assert_eq!(until(&freezes, "2026-12-28T00:00:00Z").as_deref(), Some("2027-01-01T23:00:00Z"));
        assert_eq!(until(&freezes, "2027-01-01T23:00:00Z"), None);
        assert_eq!(until(&freezes, "2026-12-19T22:59:59Z"), None);
    }

    #[test]
    fn of_a_moment_that_is_shown_twice_the_longer_freeze_is_meant() {
        // 02:00 to 03:00 is shown twice on 25 October 2026.
        let ends = [("2026-10-25", "2026-10-25T02:30")];
        assert_eq!(until(&ends, "2026-10-25T01:00:00Z").as_deref(), Some("2026-10-25T01:30:00Z"));
        let begins = [("2026-10-25T02:30", "2026-10-26")];
        assert_eq!(until(&begins, "2026-10-25T00:30:00Z").as_deref(), Some("2026-10-25T23:00:00Z"));
        // 02:00 to 03:00 is left out on 29 March 2026.
        let gap = [("2026-03-29", "2026-03-29T02:30")];
        assert_eq!(until(&gap, "2026-03-28T23:00:00Z").as_deref(), Some("2026-03-29T01:00:00Z"));
    }
}
