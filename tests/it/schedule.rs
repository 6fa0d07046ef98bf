//! Schedules against an oracle and against random input.
//!
//! The oracle is croner for which wall-clock times an expression names, and a plain rule for when they
//! come, that shares nothing with the code under test: *a time has come at the first minute of UTC at which
//! the local clock has reached it.* The rule is applied by walking through UTC minute by minute and looking
//! at the local clock. Where the clock leaps, several times are reached in one minute and fire once; where
//! it goes back, it reaches nothing new until it has caught up with itself.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use croner::errors::CronError;
use croner::time::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rekeyd::policy::spec::ScheduleSpec;
use rekeyd::schedule::{Cause, CronExpression, Due, Facts, Fire, Schedule};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What the wall clock does around a change matters to these in different ways.
const EXPRESSIONS: [&str; 12] = [
    "30 2 * * *",
    "30 1 * * *",
    "0 0 * * *",
    "59 23 * * *",
    "*/30 * * * *",
    "7,37 0-4 * * *",
    "0 3 * * 0",
    "0 2 * * SAT-SUN",
    "15 */6 1,15 * *",
    "0 2 29 3 7",
    "30 1 1-7 * MON",
    "0 12 25-31 3,10 *",
];

#[test]
fn every_clock_change_of_ten_years_in_every_zone_is_met_as_the_oracle_says() {
    let zones = zones_by_their_changes(at("2025-01-01T00:00:00Z"), at("2035-01-01T00:00:00Z"));
    let names: usize = zones.values().map(Vec::len).sum();
    assert!(names > 300, "the time zone database knows {names} zones only: install tzdata");
    assert!(zones.keys().filter(|changes| changes.len() > 5).count() > 20, "hardly a zone changes its clock");

    let crons = EXPRESSIONS.map(|text| (text, text.parse().expect("an expression that croner takes")));
    for (changes, names) in zones {
        let zone = TimeZone::get(&names[0]).expect("a zone that the database lists");
        for change in changes.iter().map(|(change, _)| *change) {
            assert_eq!(change.as_second() % 60, 0, "{}: the oracle walks by minutes", names[0]);
            let (from, until) = (change - DAY * 2, change + DAY * 2);
            // Begins a day early, so that it has not just missed the first pass through a fold.
            let clock = LocalClock::watch(&zone, from - DAY, until);
            for (text, cron) in &crons {
                let named = croner_from(cron, clock.furthest[0].1);
                let expected: Vec<_> =
                    clock.reaches(named).into_iter().filter(|time| (from..until).contains(time)).collect();
                let fires = nominals(text, &names[0], from, until);
                assert_eq!(fires, expected, "`{text}` in {names:?} around {change}");
            }
        }
    }
}

/// The wall-clock times later than `after` that croner says an expression names.
fn croner_from(cron: &croner::Cron, after: DateTime) -> impl Iterator<Item = DateTime> + '_ {
    let mut last = Wall(after);
    std::iter::from_fn(move || {
        last = cron.find_next_occurrence(&last, false).ok()?;
        Some(last.0)
    })
}

/// All zones of the database, those with the same changes in a span together. The first change stands for
/// the offset at the beginning.
fn zones_by_their_changes(from: Timestamp, until: Timestamp) -> BTreeMap<Vec<(Timestamp, i32)>, Vec<String>> {
    let mut zones = BTreeMap::<_, Vec<_>>::new();
    for name in jiff::tz::db().available() {
        let zone = TimeZone::get(name.as_str()).expect("a zone that the database lists");
        let beginning = (from, zone.to_offset(from).seconds());
        let changes = zone.following(from).map(|change| (change.timestamp(), change.offset().seconds()));
        let changes = changes.take_while(|(change, _)| *change < until);
        let changes: Vec<_> = std::iter::once(beginning).chain(changes).collect();
        zones.entry(changes).or_default().push(name.to_string());
    }
    zones
}

/// A local clock as somebody saw it who looked at it every minute and noted the furthest it had shown.
struct LocalClock {
    furthest: Vec<(Timestamp, DateTime)>,
}

impl LocalClock {
    fn watch(zone: &TimeZone, from: Timestamp, until: Timestamp) -> Self {
        let mut furthest = DateTime::MIN;
        let minutes = std::iter::successors(Some(from), |time| Some(*time + MINUTE));
        let notes = minutes.take_while(|time| *time < until).map(|time| {
            furthest = furthest.max(zone.to_datetime(time));
            (time, furthest)
        });
        Self { furthest: notes.collect() }
    }

    /// The minutes at which it reached these times, which come in order.
    fn reaches(&self, times: impl Iterator<Item = DateTime>) -> Vec<Timestamp> {
        let reached = |time| self.furthest.get(self.furthest.partition_point(|(_, shown)| *shown < time));
        let mut minutes: Vec<_> = times.map_while(reached).map(|(minute, _)| *minute).collect();
        minutes.dedup();
        minutes
    }
}

/// Wall-clock time without a zone, for croner.
#[derive(Clone, Copy)]
struct Wall(DateTime);

impl CronDateTime for Wall {
    fn to_civil(&self) -> CivilDateTime {
        let part = |value: i8| u32::try_from(value).expect("not negative");
        let (date, time) = (self.0.date(), self.0.time());
        CivilDateTime::new(
            CivilDate::from_ymd_opt(date.year().into(), part(date.month()), part(date.day()))
                .expect("a date"),
            CivilTime::from_hms_opt(part(time.hour()), part(time.minute()), part(time.second()))
                .expect("a time"),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        let days = self.0.weekday().to_sunday_zero_offset();
        Weekday::from_days_from_sunday(u32::try_from(days).expect("not negative"))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let part = |value: u32| i8::try_from(value).expect("a part of a date");
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let date = jiff::civil::date(year, part(civil.month()), part(civil.day()));
        let time = date.at(part(civil.hour()), part(civil.minute()), part(civil.second()), 0);
        Ok(Resolution::Single(Self(time)))
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_expression_fires_when_the_clock_reaches_a_minute_that_its_fields_name(
        fields in fields(), zone in zone(), from in minute(),
    ) {
        let tz = TimeZone::get(zone).expect("a zone");
        let until = from + DAY * 20;
        let clock = LocalClock::watch(&tz, from - DAY, until);
        let first = clock.furthest[0].1;
        let minutes = std::iter::successors(Some(first), |time| Some(*time + MINUTE));
        let minutes = minutes.take(24 * 60 * 22).filter(|time| fields.name(*time));
        let expected: Vec<_> =
            clock.reaches(minutes).into_iter().filter(|time| (from..until).contains(time)).collect();
        prop_assert_eq!(nominals(&fields.text(), zone, from, until), expected);
    }

    #[test]
    fn an_expression_prints_as_it_was_written(fields in fields()) {
        let text = fields.text();
        let expression: CronExpression = text.parse().expect("an expression");
        let printed = expression.to_string();
        prop_assert_eq!(&printed, &text);
        let json = serde_json::to_string(&expression).expect("a string");
        prop_assert_eq!(&json, &serde_json::to_string(&text).expect("a string"));
        prop_assert_eq!(serde_json::from_str::<CronExpression>(&json).expect("its own text"), expression);
    }

    #[test]
    fn any_text_is_taken_or_refused_and_what_is_taken_stays_what_it_was(
        text in "[@0-9a-zA-Z*?,/ -]{0,12}|([0-9*?,/-]{1,4} ){4,6}[A-Z0-7*-]{1,5}"
    ) {
        if let Ok(expression) = text.parse::<CronExpression>() {
            prop_assert_eq!(expression.to_string().parse(), Ok(expression));
            let fires = nominals(&text, "UTC", at("2026-01-01T00:00:00Z"), at("2026-01-01T12:00:00Z"));
            prop_assert!(fires.iter().all(|fire| fire.as_second() % 60 == 0));
        }
    }

    #[test]
    fn fires_are_in_order_outside_freezes_within_windows_and_moved_by_one_jitter(
        case in case(), now in minute(),
    ) {
        let schedule = case.schedule();
        let (from, until) = (at("2026-01-01T00:00:00Z"), at("2026-12-31T00:00:00Z"));
        let fires: Vec<Fire> = schedule.occurrences(from, until).take(400).collect();
        let in_order = |pair: &[Fire]| pair[0].nominal < pair[1].nominal && pair[0].start < pair[1].start;
        prop_assert!(fires.windows(2).all(in_order));
        for fire in &fires {
            prop_assert!(!case.freezes(fire.start), "{:?} starts in a freeze", fire);
            prop_assert!(fire.closes.is_none_or(|closes| fire.start < closes));
        }
        let held_back = |fire: &&Fire| schedule.frozen(fire.start - SignedDuration::from_nanos(1)).is_some();
        let free = fires.iter().filter(|fire| !held_back(fire));
        let jitters: Vec<_> = free.map(|fire| fire.nominal.duration_until(fire.start)).collect();
        prop_assert!(jitters.windows(2).all(|pair| pair[0] == pair[1]));
        prop_assert!(jitters.iter().all(|jitter| !jitter.is_negative()));
        prop_assert!(jitters.iter().all(|jitter| case.jitter == 0 || jitter.as_mins() < case.jitter));
        prop_assert!(jitters.iter().all(|jitter| case.jitter > 0 || jitter.is_zero()));

        // One asked for by itself is the same.
        if fires.last().is_some_and(|last| now < last.start) && now >= from {
            prop_assert_eq!(schedule.next(now), fires.iter().find(|fire| fire.start > now).copied());
        }
    }

    #[test]
    fn what_is_due_later_is_due_then_and_not_before(
        case in case(), now in minute(), age in 0_i64..60 * 24 * 60, handled in proptest::option::of(minute()),
        watched_since in minute(),
    ) {
        let schedule = case.schedule();
        let facts = Facts { promoted_at: Some(now - SignedDuration::from_mins(age)), handled, watched_since, rolled_back_at: None };
        match schedule.due(&facts, now) {
            Due::Now(_) => prop_assert!(!case.freezes(now)),
            Due::At(time, cause) => {
                prop_assert!(time > now);
                prop_assert!(!case.freezes(time));
                prop_assert_eq!(schedule.due(&facts, time), Due::Now(cause));
                let before = time - SignedDuration::from_nanos(1);
                prop_assert_eq!(schedule.due(&facts, before), Due::At(time, cause));
            }
            Due::Never(idle) => prop_assert!(false, "{}", idle),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_daemon_that_comes_and_goes_answers_each_time_once_and_misses_none_that_is_open(
        case in case(), outages in proptest::collection::vec((0_i64..1_920, 1_i64..400), 0..4),
    ) {
        let schedule = case.schedule();
        let begin = at("2026-03-15T00:00:00Z");
        let fires: Vec<_> = schedule.occurrences(begin, begin + DAY * 20).collect();
        let mut facts = Facts { promoted_at: Some(begin), handled: None, watched_since: begin, rolled_back_at: None };
        let mut answered = std::collections::BTreeSet::new();
        for tick in 0..1_920_i64 {
            if outages.iter().any(|(from, length)| (*from..from + length).contains(&tick)) {
                continue;
            }
            let now = begin + SignedDuration::from_mins(tick * 15);
            if let Due::Now(cause) = schedule.due(&facts, now) {
                prop_assert!(!case.freezes(now));
                prop_assert!(answered.insert(cause.nominal()), "{} answered twice", cause);
                if let Cause::Cron(fire) = cause {
                    prop_assert!(fires.contains(&fire), "{:?} is none of the fires", fire);
                    prop_assert!(fire.start <= now && fire.closes.is_none_or(|closes| now < closes));
                    facts.handled = Some(fire.nominal);
                }
                facts.promoted_at = Some(now);
                prop_assert!(!matches!(schedule.due(&facts, now), Due::Now(_)));
            }
            let done = facts.handled.max(facts.promoted_at);
            let waiting = fires.iter().filter(|fire| {
                Some(fire.nominal) > done
                    && (fire.start..fire.closes.unwrap_or(Timestamp::MAX)).contains(&now)
                    && (!case.skip || now < fire.start + SignedDuration::from_mins(10))
            });
            let frozen = schedule.frozen(now).is_some();
            prop_assert!(frozen || waiting.count() == 0, "{} has an open fire and is not due", now);
            prop_assert!(frozen || !schedule.overdue(&facts, now));
        }
    }
}

/// A schedule's text.
#[derive(Debug, Clone)]
struct Case {
    cron: String,
    zone: &'static str,
    window: Option<i64>,
    /// In minutes; 0 is none.
    jitter: i64,
    max_age: Option<i64>,
    skip: bool,
    /// Day of the year 2026, hour, and length in hours.
    freezes: Vec<(i64, i64, i64)>,
}

impl Case {
    /// By the local clock alone.
    fn freezes(&self, time: Timestamp) -> bool {
        let shown = TimeZone::get(self.zone).expect("a zone").to_datetime(time);
        self.frozen().any(|(from, to)| (from..to).contains(&shown))
    }

    fn frozen(&self) -> impl Iterator<Item = (DateTime, DateTime)> + '_ {
        let year = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
        self.freezes.iter().map(move |(day, hour, length)| {
            let from = year + SignedDuration::from_hours(day * 24 + hour);
            (from, from + SignedDuration::from_hours(*length))
        })
    }

    fn schedule(&self) -> Schedule {
        let freezes = self.frozen().map(|(from, to)| serde_json::json!({"from": from, "to": to}));
        let mut spec = serde_json::json!({
            "cron": self.cron, "timeZone": self.zone, "freezes": freezes.collect::<Vec<_>>(),
            "catchUp": if self.skip { "skip" } else { "once" },
        });
        let mut set = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                spec[key] = value.into();
            }
        };
        set("window", self.window.map(|minutes| format!("{minutes}m")));
        set("jitter", Some(self.jitter).filter(|minutes| *minutes > 0).map(|minutes| format!("{minutes}m")));
        set("maxAge", self.max_age.map(|hours| format!("{hours}h")));
        schedule(&spec)
    }
}

fn case() -> impl Strategy<Value = Case> {
    let cron = prop_oneof![
        Just("30 2 * * *".to_owned()),
        Just("0 */3 * * *".to_owned()),
        Just("0 3 * * 0".to_owned()),
        Just("*/20 1-3 * * *".to_owned()),
        Just("15 4 1,15 * 3".to_owned()),
        fields().prop_map(|fields| fields.text()),
    ];
    let freeze = (0_i64..365, 0_i64..24, 1_i64..24 * 20);
    (
        cron,
        zone(),
        proptest::option::of(20_i64..600),
        prop_oneof![Just(0_i64), 1_i64..240],
        proptest::option::of(3_i64..24 * 40),
        any::<bool>(),
        proptest::collection::vec(freeze, 0..5),
    )
        .prop_map(|(cron, zone, window, jitter, max_age, skip, freezes)| Case {
            cron,
            zone,
            window,
            jitter,
            max_age,
            skip,
            freezes,
        })
}

/// The five fields of an expression, each as its text and the numbers it names.
#[derive(Debug, Clone)]
struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Fields {
    fn text(&self) -> String {
        [&self.minute, &self.hour, &self.day, &self.month, &self.weekday].map(|f| f.text.as_str()).join(" ")
    }

    fn name(&self, time: DateTime) -> bool {
        let day = self.day.has(time.day());
        let weekday = self.weekday.has(time.weekday().to_sunday_zero_offset())
            || self.weekday.has(time.weekday().to_sunday_zero_offset() + 7);
        let days = match (self.day.is_star(), self.weekday.is_star()) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        days && self.month.has(time.month()) && self.hour.has(time.hour()) && self.minute.has(time.minute())
    }
}

#[derive(Debug, Clone)]
struct Field {
    text: String,
    numbers: Vec<i8>,
}

impl Field {
    fn has(&self, number: i8) -> bool {
        self.numbers.contains(&number)
    }

    fn is_star(&self) -> bool {
        self.text == "*"
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    let days = prop_oneof![
        (field(1, 31), Just(star(0, 6))),
        (Just(star(1, 31)), field(0, 7)),
        (restricted(1, 31), restricted(0, 7)),
    ];
    (field(0, 59), field(0, 23), days, prop_oneof![3 => Just(star(1, 12)), 1 => field(1, 12)])
        .prop_map(|(minute, hour, (day, weekday), month)| Fields { minute, hour, day, month, weekday })
}

fn star(first: i8, last: i8) -> Field {
    Field { text: "*".into(), numbers: (first..=last).collect() }
}

fn field(first: i8, last: i8) -> impl Strategy<Value = Field> {
    // 7 is one more name for Sunday, not one more day for a step to count.
    let end = if last == 7 { 6 } else { last };
    let stepped = (2..=end.max(2)).prop_map(move |step| Field {
        text: format!("*/{step}"),
        numbers: (first..=end).step_by(usize::try_from(step).expect("positive")).collect(),
    });
    prop_oneof![2 => Just(star(first, end)), 1 => stepped, 4 => restricted(first, last)]
}

/// A list of numbers, ranges and stepped ranges.
fn restricted(first: i8, last: i8) -> impl Strategy<Value = Field> {
    let item = (first..=last, first..=last, 1_i8..=5).prop_map(|(a, b, step)| {
        let (low, high) = (a.min(b), a.max(b));
        match (low == high, step) {
            (true, _) => Field { text: low.to_string(), numbers: vec![low] },
            (false, 1) => Field { text: format!("{low}-{high}"), numbers: (low..=high).collect() },
            _ => Field {
                text: format!("{low}-{high}/{step}"),
                numbers: (low..=high).step_by(usize::try_from(step).expect("positive")).collect(),
            },
        }
    });
    proptest::collection::vec(item, 1..4).prop_map(|items| Field {
        text: items.iter().map(|item| item.text.as_str()).collect::<Vec<_>>().join(","),
        numbers: items.into_iter().flat_map(|item| item.numbers).collect(),
    })
}

fn zone() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("UTC"),
        Just("Europe/Berlin"),
        Just("America/New_York"),
        Just("Australia/Lord_Howe"),
        Just("Africa/Casablanca"),
        Just("Asia/Kathmandu"),
    ]
}

/// A minute of 2026.
fn minute() -> impl Strategy<Value = Timestamp> {
    (0_i64..365 * 24 * 60).prop_map(|minute| at("2026-01-01T00:00:00Z") + SignedDuration::from_mins(minute))
}

fn nominals(cron: &str, zone: &str, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let schedule = schedule(&serde_json::json!({"cron": cron, "timeZone": zone}));
    schedule.occurrences(from, until).map(|fire| fire.nominal).collect()
}

fn schedule(spec: &serde_json::Value) -> Schedule {
    let spec: ScheduleSpec = serde_json::from_value(spec.clone()).expect("a schedule");
    Schedule::new(&spec, &"orders/db".parse().expect("a policy name"), &[])
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}
