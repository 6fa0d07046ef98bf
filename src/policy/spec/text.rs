//! Values that are written as text: lengths of time, time zones, file modes. Each prints as it parses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SpanRelativeTo, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A length of time, written `90s`, `15m`, `2h`, `30d` or `1h 30m`. A day is 24 hours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(Duration);

impl Interval {
    #[must_use]
    pub const fn from_duration(duration: Duration) -> Self {
        Self(duration)
    }

    #[must_use]
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    /// As a length of time that can be added to a [`jiff::Timestamp`].
    #[must_use]
    pub fn as_signed(self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.0).unwrap_or(jiff::SignedDuration::MAX)
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let wrong = || IntervalError(text.chars().take(32).flat_map(char::escape_default).collect());
        let span: jiff::Span = text.parse().map_err(|_| wrong())?;
        // Months and years have no fixed length: they are refused here rather than guessed.
        let days = SpanRelativeTo::days_are_24_hours();
        let nanoseconds = span.total((Unit::Nanosecond, days)).map_err(|_| wrong())?;
        if !(0.0..=1e19).contains(&nanoseconds) {
            return Err(wrong());
        }
        let signed = span.to_duration(days).map_err(|_| wrong())?;
        Duration::try_from(signed).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let (mut seconds, mut separator) = (self.0.as_secs(), "");
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if seconds >= size {
                write!(f, "{separator}{}{unit}", seconds / size)?;
                seconds %= size;
                separator = " ";
            }
        }
        match self.0.subsec_millis() {
            0 => Ok(()),
            milliseconds => write!(f, "{separator}{milliseconds}ms"),
        }
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Interval {
    type Error = IntervalError;

    fn try_from(text: String) -> Result<Self, IntervalError> {
        text.parse()
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.to_string()
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time, written 90s, 15m, 2h, 30d or 1h 30m. A day is 24 hours.",
            "pattern": "^[0-9]",
        })
    }
}

/// Why a text is not an [`Interval`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a length of time: write for example 90s, 15m, 2h or 30d")]
pub struct IntervalError(String);

/// An IANA time zone that this machine's database knows.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

impl Zone {
    #[must_use]
    pub const fn as_time_zone(&self) -> &TimeZone {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        TimeZone::get(text)
            .map(Self)
            .map_err(|_| ZoneError(text.chars().take(64).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Zone {
    type Error = ZoneError;

    fn try_from(text: String) -> Result<Self, ZoneError> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.to_string()
    }
}

impl JsonSchema for Zone {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Zone".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "description": "An IANA time zone, for example Europe/Berlin."})
    }
}

/// Why a text is not a [`Zone`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time zone of the IANA database: write for example Europe/Berlin or UTC")]
pub struct ZoneError(String);

/// Permission bits, written in octal as a string: `"0600"`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

impl FileMode {
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for FileMode {
    type Err = FileModeError;

    fn from_str(text: &str) -> Result<Self, FileModeError> {
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777 && bits & 0o400 != 0);
        bits.map(Self)
            .ok_or_else(|| FileModeError(text.chars().take(16).flat_map(char::escape_default).collect()))
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for FileMode {
    type Error = FileModeError;

    fn try_from(text: String) -> Result<Self, FileModeError> {
        text.parse()
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        mode.to_string()
    }
}

impl JsonSchema for FileMode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FileMode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Permission bits in octal, quoted: \"0600\".",
            "pattern": "^0?[0-7]{3}$",
        })
    }
}

/// Why a text is not a [`FileMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a file mode: write octal permission bits that let the owner read, in quotes, for example \"0600\""
)]
pub struct FileModeError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_print_as_they_parse() {
        for (text, seconds) in
            [("90s", 90), ("15m", 900), ("2h", 7_200), ("30d", 2_592_000), ("1h 30m", 5_400), ("0s", 0)]
        {
            let interval: Interval = text.parse().expect("an interval");
            assert_eq!(interval.as_duration(), Duration::from_secs(seconds), "{text}");
            let again: Interval = interval.to_string().parse().expect("its own text");
            assert_eq!(again, interval);
        }
        assert_eq!("1500ms".parse::<Interval>().map(|i| i.to_string()).as_deref(), Ok("1s 500ms"));
    }

    #[test]
    fn lengths_that_are_not_fixed_or_not_forward_are_refused() {
        for text in ["", "1mo", "1y", "-5m", "5m ago", "soon", "5", "999999999999999d"] {
            assert!(text.parse::<Interval>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn file_modes_are_octal_and_readable_by_the_owner() {
        assert_eq!("0640".parse::<FileMode>().map(FileMode::bits), Ok(0o640));
        for text in ["", "0x1f", "1777", "0000", "0200", "9"] {
            assert!(text.parse::<FileMode>().is_err(), "{text:?} was taken");
        }
    }
}
