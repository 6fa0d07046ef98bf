//! What only a person can do: they are told at once, reminded, and told that it is overdue. A rotation waits on all the same:
//! it is no state of its own, and whoever takes it up tells them again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Awaited, Report, SETTLING};
use crate::clock::Clock;
use crate::policy::spec::ByHandSpec;
use crate::rotation::progress::{Step, StepResult};
use crate::rotation::sitting::Sitting;

/// How often it is looked at the least whether a person has done what only a person can.
pub(super) const LOOKED: Duration = Duration::from_secs(60);

/// A person has to do something, and was told of it before.
pub(super) fn awaits(what: String, pause: Duration) -> Report {
    Report {
        result: StepResult::NotYet,
        detail: Some(what),
        pause: Some(pause),
        awaits: Some(Awaited::Person),
        ..Report::done()
    }
}

/// Somebody has to do something by hand; what.
pub(super) fn by_hand(sitting: &mut Sitting, what: String, clock: &dyn Clock) -> Report {
    let (now, run) = (clock.now(), &sitting.run);
    let asked = Asked {
        of: run.plan.spec.by_hand,
        since: run.opened_at,
        contains: run.contains(),
        reminded_at: sitting.asking.reminded_at,
    };
    let Told { what, aloud, look_after } = asked.told(what, now);
    if aloud {
        sitting.asking.reminded_at = Some(now);
        let (policy, rotation) = (&sitting.run.plan.policy, sitting.run.rotation);
        tracing::warn!(%policy, %rotation, what, "a person has to act");
    }
    awaits(what, look_after)
}

/// Soon after it began, and then less and less often: some providers count every look.
pub(super) fn look_after(since: Timestamp, now: Timestamp) -> Duration {
    let waited = now.duration_since(since).max(SignedDuration::ZERO);
    Duration::try_from(waited / 10).unwrap_or_default().clamp(SETTLING, LOOKED)
}

/// What is waited for, and since when in this sitting. Each wait has a patience of its own.
#[derive(Default)]
pub(in crate::rotation) struct Awaiting(Option<(Step, Awaited, Duration)>);

impl Awaiting {
    /// For how long that is waited for at a step.
    pub(in crate::rotation) fn lasts(&mut self, step: Step, awaited: Awaited, now: Duration) -> Duration {
        let same = self.0.filter(|(at, what, _)| (*at, *what) == (step, awaited));
        let (.., since) = *self.0.insert(same.unwrap_or((step, awaited, now)));
        now.saturating_sub(since)
    }
}

/// What a person was asked, and when.
#[derive(Clone, Copy)]
struct Asked {
    of: ByHandSpec,
    since: Timestamp,
    contains: bool,
    reminded_at: Option<Timestamp>,
}

/// What is told now.
struct Told {
    what: String,
    /// It is time that they are reminded.
    aloud: bool,
    look_after: Duration,
}

impl Asked {
    fn told(self, what: String, now: Timestamp) -> Told {
        let until = self.of.until(self.since, self.contains);
        let late = now > until;
        let every = if late || self.contains {
            self.of.remind_every.as_signed() / 6
        } else {
            self.of.remind_every.as_signed()
        };
        let what = match (self.contains, late) {
            // It says itself how urgent it is.
            (true, _) => what,
            (false, true) => format!("overdue since {until:.0}: {what}"),
            (false, false) => format!("by {until:.0}: {what}"),
        };
        let aloud = self.reminded_at.is_none_or(|at| now.duration_since(at) >= every);
        Told { what, aloud, look_after: look_after(self.since, now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a person who does nothing for so long: when they were told aloud, and the words of each time.
    fn followed(mut asked: Asked, hours: i64) -> Vec<(f64, String)> {
        let end = asked.since.saturating_add(SignedDuration::from_hours(hours)).expect("a time");
        let (mut now, mut told) = (asked.since, Vec::new());
        while now <= end {
            let said = asked.told("make a key".into(), now);
            if said.aloud {
                asked.reminded_at = Some(now);
                told.push((now.duration_since(asked.since).as_secs_f64() / 3_600.0, said.what));
            }
            assert!(said.look_after >= SETTLING && said.look_after <= LOOKED);
            now = now
                .saturating_add(SignedDuration::try_from(said.look_after).expect("short"))
                .expect("a time");
        }
        told
    }

    fn asked(of: ByHandSpec, contains: bool) -> Asked {
        Asked { of, since: "2026-11-02T09:00:00Z".parse().expect("a time"), contains, reminded_at: None }
    }

    /// Each time is the right one, to the minute in which it is looked at.
    #[track_caller]
    fn at(told: &[(f64, String)], hours: &[f64]) {
        let near = |((at, _), wanted): (&(f64, String), &f64)| (at - wanted).abs() < 0.02 * (1.0 + wanted);
        assert!(told.len() == hours.len() && told.iter().zip(hours).all(near), "{told:?} at {hours:?}");
    }

    #[test]
    fn a_person_is_told_at_once_then_at_the_interval_and_more_often_once_it_is_late() {
        let told = followed(asked(ByHandSpec::default(), false), 74);
        let mut hours: Vec<f64> = (0..12).map(|turn| f64::from(turn) * 6.0).collect();
        // Overdue from 72 hours on: from then on every hour.
        hours.extend([72.0, 73.0]);
        at(&told[..hours.len()], &hours);
        assert!(told[..12].iter().all(|(_, what)| what == "by 2026-11-05T09:00:00Z: make a key"), "{told:?}");
        assert!(
            told[12..].iter().all(|(_, what)| what == "overdue since 2026-11-05T09:00:00Z: make a key"),
            "{told:?}"
        );
    }

    #[test]
    fn each_wait_has_a_patience_of_its_own() {
        let mut awaiting = Awaiting::default();
        let mut lasts =
            |step, awaited, now| awaiting.lasts(step, awaited, Duration::from_secs(now)).as_secs();
        assert_eq!((lasts(Step::Mint, Awaited::Person, 5), lasts(Step::Mint, Awaited::Person, 65)), (0, 60));
        assert_eq!(
            (lasts(Step::Retire, Awaited::Person, 70), lasts(Step::Retire, Awaited::Person, 90)),
            (0, 20)
        );
        assert_eq!(lasts(Step::Retire, Awaited::Lapse, 100), 0);
    }

    #[test]
    fn a_policy_says_how_long_and_how_often() {
        let of = serde_json::from_value(serde_json::json!({"deadline": "4h", "remindEvery": "2h"}));
        let told = followed(asked(of.expect("a specification"), false), 5);
        at(&told, &[0.0, 2.0, 4.0, 4.34, 4.68]);
        assert!(
            told[1].1.starts_with("by 2026-11-02T13:00:00Z: ") && told[4].1.starts_with("overdue"),
            "{told:?}"
        );
    }

    #[test]
    fn a_containment_is_urgent_from_the_first_moment_on() {
        let told = followed(asked(ByHandSpec::default(), true), 3);
        at(&told, &[0.0, 1.0, 2.0]);
        assert!(
            told.iter().all(|(_, what)| what == "make a key"),
            "what the target says is not watered down"
        );
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_silence_anybody_for_longer_than_it_was_set_back() {
        let mut asked = asked(ByHandSpec::default(), false);
        let earlier = asked.since.saturating_sub(SignedDuration::from_hours(1)).expect("a time");
        asked.reminded_at = Some(asked.since);
        assert!(!asked.told("make a key".into(), earlier).aloud);
        let later = asked.since.saturating_add(SignedDuration::from_hours(6)).expect("a time");
        assert!(asked.told("make a key".into(), later).aloud);
    }
}
