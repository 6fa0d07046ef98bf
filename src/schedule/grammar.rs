//! Five-field cron: the text into sets of wall-clock times.
//!
//! The `cron` crate does the fields and the calendar. It reads six or seven fields, numbers days of the
//! week from 1, wants both days to match, and lets a field run into the next one; what goes in here is
//! classic cron, so the text is checked and rewritten field by field before the crate sees it. The crate
//! only ever works on wall-clock time, dressed up as UTC: over a zone it loses times in a gap and repeats
//! them in a fold. [`super::times`] does the zone.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr as _;

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, TimeDelta, Timelike as _};
use jiff::civil;

/// The wall-clock times that an expression names, in whole minutes, from 1970 to 2100: the years that the
/// `cron` crate knows.
pub(super) struct WallClock {
    times: cron::Schedule,
    /// Where both days are restricted either may match: `times` has the day of the month, this the day of
    /// the week.
    or: Option<cron::Schedule>,
}

impl WallClock {
    /// Reads five fields or a nickname such as `@daily`.
    pub(super) fn parse(text: &str) -> Result<Self, CronError> {
        Self::read(text, true)
    }

    /// Reads what was read before without fault: takes a fifth of the time.
    pub(super) fn parse_again(text: &str) -> Result<Self, CronError> {
        Self::read(text, false)
    }

    fn read(text: &str, each_alone: bool) -> Result<Self, CronError> {
        if text.len() > LONGEST {
            return Err(CronError::TooLong);
        }
        let text = match text.trim() {
            nickname if nickname.starts_with('@') => expand(nickname)?,
            fields => fields,
        };
        let written: Vec<&str> = text.split_whitespace().collect();
        let Ok(written) = <[&str; 5]>::try_from(written.as_slice()) else {
            return Err(CronError::FieldCount(written.len()));
        };
        let [minute, hour, day, month, weekday] = normalise(written, each_alone)?;
        if is_every(&day) || is_every(&weekday) {
            return Ok(Self { times: compile([&minute, &hour, &day, &month, &weekday])?, or: None });
        }
        // Vixie cron reads a stepped `*` as no restriction, Kubernetes as one.
        if [written[2], written[4]].iter().any(|days| days.contains(['*', '?'])) {
            return Err(CronError::AmbiguousDays);
        }
        Ok(Self {
            times: compile([&minute, &hour, &day, &month, EVERY])?,
            or: Some(compile([&minute, &hour, EVERY, &month, &weekday])?),
        })
    }

    /// The first time later than `after`.
    pub(super) fn next(&self, after: civil::DateTime) -> Option<civil::DateTime> {
        let after = to_chrono(after).max(first_second() - TimeDelta::seconds(1)).and_utc();
        let of = |schedule: &cron::Schedule| schedule.after(&after).next();
        let times = of(&self.times).into_iter().chain(self.or.as_ref().and_then(of));
        times.min().map(|time| from_chrono(time.naive_utc()))
    }

    /// The last time that is not later than `at`.
    pub(super) fn last(&self, at: civil::DateTime) -> Option<civil::DateTime> {
        // Outside the years that it knows the crate answers wrongly instead of not at all.
        let at = Some(to_chrono(at)).filter(|at| *at >= first_second())?;
        // It looks for earlier times only, hence the second.
        let before = (at + TimeDelta::seconds(1)).min(last_second()).and_utc();
        let of = |schedule: &cron::Schedule| schedule.after(&before).next_back();
        let times = of(&self.times).into_iter().chain(self.or.as_ref().and_then(of));
        times.max().map(|time| from_chrono(time.naive_utc()))
    }
}

/// No expression that a person wrote is longer, and a policy must not be able to fill memory.
const LONGEST: usize = 256;

const EVERY: &str = "*";

fn is_every(field: &str) -> bool {
    matches!(field, "*" | "?")
}

fn expand(nickname: &str) -> Result<&'static str, CronError> {
    match nickname {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        _ => Err(CronError::Nickname(printable(nickname))),
    }
}

/// Puts days of the week as the crate wants them, and checks each field for itself.
fn normalise(written: [&str; 5], each_alone: bool) -> Result<[Cow<'_, str>; 5], CronError> {
    let mut fields = written.map(Cow::Borrowed);
    for (place, field) in CronField::ALL.into_iter().enumerate() {
        let wrong = || CronError::Field { field, text: printable(written[place]) };
        if field == CronField::DayOfWeek && !is_every(written[place]) {
            fields[place] = weekdays(written[place]).ok_or_else(wrong)?.into();
        }
        if !each_alone || written[place] == EVERY {
            continue;
        }
        // All seven fields are given, so that one that falls apart into two makes eight and is refused,
        // and all others are `*`, to which no field can attach itself.
        let mut alone = [EVERY; 7];
        alone[place + 1] = &fields[place];
        cron::Schedule::from_str(&alone.join(" ")).map_err(|_| wrong())?;
    }
    Ok(fields)
}

/// Days of the week as the numbers 1 to 7, 1 being Sunday. Takes numbers 0 to 7 (0 and 7 are Sunday), names,
/// ranges that may end on a Sunday, steps and lists. `None` if it is none of these.
fn weekdays(field: &str) -> Option<String> {
    let mut chosen = [false; 7];
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| (1..=7).contains(step))?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if is_every(range) => (0, 6),
            Some((first, last)) => match (weekday(first)?, weekday(last)?) {
                (first, 0) if first > 0 => (first, 7),
                range => range,
            },
            // `2/3` starts on Tuesday and goes on to the end of the week.
            None => weekday(range).map(|day| (day, if step.is_some() { 6 } else { day }))?,
        };
        if first > last {
            return None;
        }
        for day in (first..=last).step_by(step.unwrap_or(1)) {
            chosen[day % 7] = true;
        }
    }
    let numbers = (1..=7).filter(|number| chosen[number - 1]).map(|number| number.to_string());
    Some(numbers.collect::<Vec<_>>().join(","))
}

fn weekday(text: &str) -> Option<usize> {
    const NAMES: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    let name = text.to_ascii_lowercase();
    let named = NAMES.iter().position(|full| name == *full || name == full[..3]);
    named.or_else(|| number(text).filter(|number| *number <= 7))
}

fn number(text: &str) -> Option<usize> {
    // `parse` alone would take a sign.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn compile(fields: [&str; 5]) -> Result<cron::Schedule, CronError> {
    let text = format!("0 {} *", fields.join(" "));
    // Each field passed alone, so the crate takes them together; were that ever wrong, it is an error and
    // not another schedule.
    cron::Schedule::from_str(&text).map_err(|_| CronError::FieldCount(fields.len()))
}

/// Shortens and escapes a refused text, so that an error cannot carry a control sequence to a terminal.
fn printable(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_default).collect()
}

fn first_second() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(1970, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0)).expect("a literal date")
}

fn last_second() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2100, 12, 31).and_then(|day| day.and_hms_opt(23, 59, 59)).expect("a literal date")
}

/// Without the fraction of a second: no expression names one.
fn to_chrono(time: civil::DateTime) -> NaiveDateTime {
    let part = |value: i8| u32::try_from(value).expect("parts of a date and a time are not negative");
    NaiveDate::from_ymd_opt(time.year().into(), part(time.month()), part(time.day()))
        .and_then(|day| day.and_hms_opt(part(time.hour()), part(time.minute()), part(time.second())))
        .expect("chrono has every date and time that jiff has")
}

fn from_chrono(time: NaiveDateTime) -> civil::DateTime {
    let part = |value: u32| i8::try_from(value).expect("parts of a date and a time are below 60");
    let year = i16::try_from(time.year()).expect("a year between 1970 and 2100");
    civil::date(year, part(time.month()), part(time.day())).at(
        part(time.hour()),
        part(time.minute()),
        part(time.second()),
        0,
    )
}

/// A field of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CronField {
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

impl CronField {
    const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    const fn forms(self) -> &'static str {
        match self {
            Self::Minute => "0 to 59, `*`, lists `0,30`, ranges `0-29` or steps `*/15`",
            Self::Hour => "0 to 23, `*`, lists `6,18`, ranges `9-17` or steps `*/6`",
            Self::DayOfMonth => "1 to 31, `*`, lists `1,15`, ranges `1-7` or steps `1-31/2`; not `L` or `W`",
            Self::Month => "1 to 12 or JAN to DEC, `*`, lists `1,7`, ranges `JAN-MAR` or steps `*/3`",
            Self::DayOfWeek => {
                "0 to 7 (0 and 7 are Sunday) or SUN to SAT, `*`, lists `1,4` or ranges `MON-FRI`; not `L` or `#`"
            }
        }
    }
}

impl fmt::Display for CronField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day-of-month",
            Self::Month => "month",
            Self::DayOfWeek => "day-of-week",
        })
    }
}

/// Why a text is not a [`CronExpression`](super::CronExpression).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// A field is not in its form, or out of its range.
    #[error("the {field} field `{text}` is not valid: use {}", field.forms())]
    Field { field: CronField, text: String },
    #[error("{}", field_count(*.0))]
    FieldCount(usize),
    #[error("`{0}` is not known: use @hourly, @daily, @weekly, @monthly, @yearly or five fields")]
    Nickname(String),
    /// Both days are restricted and one of them holds a `*`: cron implementations disagree on what it means.
    #[error(
        "both days are restricted and one holds a `*`, which cron implementations read differently: write it as a range such as `1-31/2`, or leave the other day `*`"
    )]
    AmbiguousDays,
    #[error("a cron expression has at most {LONGEST} bytes: use ranges and steps instead of long lists")]
    TooLong,
}

fn field_count(count: usize) -> String {
    let remedy = match count {
        6 => ": leave out the field for seconds (or years)",
        7 => ": leave out the fields for seconds and years",
        _ => ": write for example `0 3 * * 0` for Sundays at 03:00",
    };
    format!(
        "a cron expression has five fields (minute, hour, day of month, month, day of week), not {count}{remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        WallClock::parse(text)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_else(|| panic!("{text:?} was taken"))
    }

    #[test]
    fn a_refusal_names_the_field_and_the_remedy() {
        for (text, field) in [
            ("60 * * * *", "minute field `60`"),
            ("*/60 * * * *", "minute field `*/60`"),
            ("0 24 * * *", "hour field `24`"),
            ("0 5-2 * * *", "hour field `5-2`"),
            ("0 0 0 * *", "day-of-month field `0`"),
            ("0 0 32 * *", "day-of-month field `32`"),
            ("0 0 L * *", "day-of-month field `L`"),
            ("0 0 * 13 *", "month field `13`"),
            ("0 0 * JAM *", "month field `JAM`"),
            ("0 0 * * 8", "day-of-week field `8`"),
            ("0 0 * * FRI-MON", "day-of-week field `FRI-MON`"),
            ("0 0 * * 1#2", "day-of-week field `1#2`"),
            ("0 0 * * +1", "day-of-week field `+1`"),
            ("0 0 * * 1/0", "day-of-week field `1/0`"),
            ("0 0 * * ,", "day-of-week field `,`"),
        ] {
            let error = error(text);
            assert!(error.contains(field) && error.contains("use "), "{text}: {error}");
        }
    }

    #[test]
    fn a_field_cannot_run_into_its_neighbour() {
        // The crate would read each of these, as some other schedule.
        for text in ["*5 * * * *", "** * * * *", "1, 5 * * *", "0 ,1 * * *", "1- 5 * * *", "0 * * * *,"] {
            error(text);
        }
    }

    #[test]
    fn seconds_and_years_are_refused_by_name() {
        assert!(error("0 0 3 * * 0").contains("not 6: leave out the field for seconds"));
        assert!(error("0 0 3 * * 0 2026").contains("not 7: leave out the fields for seconds and years"));
        assert!(error("").contains("not 0: write for example"));
        assert!(error("@reboot").contains("@daily"));
        assert!(error(&"1,".repeat(200)).contains("at most 256 bytes"));
    }

    #[test]
    fn days_of_the_week_count_from_sunday_as_0_and_7() {
        for (text, days) in [
            ("0", "1"),
            ("7", "1"),
            ("SUN", "1"),
            ("sunday", "1"),
            ("1-5", "2,3,4,5,6"),
            ("MON-FRI", "2,3,4,5,6"),
            ("5-7", "1,6,7"),
            ("FRI-SUN", "1,6,7"),
            ("0-2", "1,2,3"),
            ("SUN-TUE", "1,2,3"),
            ("0-7", "1,2,3,4,5,6,7"),
            ("*/2", "1,3,5,7"),
            ("1-6/2", "2,4,6"),
            ("2/3", "3,6"),
            ("MON,3,sat", "2,4,7"),
        ] {
            assert_eq!(weekdays(text).as_deref(), Some(days), "{text}");
        }
    }

    #[test]
    fn a_star_in_restricted_days_is_refused_rather_than_guessed() {
        for text in ["0 0 */2 * 1", "0 0 1 * */2", "0 0 *,1 * 1"] {
            assert!(error(text).contains("1-31/2"), "{text}");
        }
        for text in ["0 0 */2 * *", "0 0 * * */2", "0 0 1-31/2 * 1", "0 0 ? * 1", "0 0 1 * ?"] {
            assert!(WallClock::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn either_day_matches_where_both_are_restricted() {
        let wall = WallClock::parse("0 12 13 * 5").expect("an expression");
        let mut at = civil::date(2026, 11, 10).at(0, 0, 0, 0);
        let days = std::iter::from_fn(|| {
            at = wall.next(at)?;
            Some((at.month(), at.day()))
        });
        let days: Vec<_> = days.take(6).collect();
        assert_eq!(days, [(11, 13), (11, 20), (11, 27), (12, 4), (12, 11), (12, 13)]);
        assert_eq!(wall.last(at).map(|last| last.day()), Some(13));
    }

    #[test]
    fn the_ends_of_the_known_years_are_not_passed() {
        let wall = WallClock::parse("0 0 1 1 *").expect("an expression");
        let day = |year| civil::date(year, 1, 1).at(0, 0, 0, 0);
        assert_eq!(wall.next(civil::DateTime::MIN), Some(day(1970)));
        assert_eq!(wall.next(day(2100)), None);
        assert_eq!(wall.next(civil::DateTime::MAX), None);
        assert_eq!(wall.last(civil::DateTime::MAX), Some(day(2100)));
        assert_eq!(wall.last(day(1970)), Some(day(1970)));
        assert_eq!(wall.last(civil::DateTime::MIN), None);
    }
}
