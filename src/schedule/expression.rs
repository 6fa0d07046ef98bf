//! A cron expression as a person wrote it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grammar::{CronError, WallClock};

/// Five cron fields or a nickname such as `@daily`, known to be valid. Prints as it was written, with
/// single spaces.
///
/// Holds the text alone: the parsed form takes up to three kilobytes, which ten thousand policies would
/// keep for ever, and parsing again takes microseconds.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CronExpression(Box<str>);

impl CronExpression {
    pub(super) fn wall_clock(&self) -> WallClock {
        WallClock::parse_again(&self.0).expect("was parsed when it was made")
    }
}

impl FromStr for CronExpression {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        WallClock::parse(text)?;
        Ok(Self(text.split_whitespace().collect::<Vec<_>>().join(" ").into()))
    }
}

impl fmt::Display for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for CronExpression {
    type Error = CronError;

    fn try_from(text: String) -> Result<Self, CronError> {
        text.parse()
    }
}

impl From<CronExpression> for String {
    fn from(expression: CronExpression) -> Self {
        expression.0.into()
    }
}

impl JsonSchema for CronExpression {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CronExpression".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Five cron fields (minute, hour, day of month, month, day of week), or @hourly, @daily, \
                            @weekly, @monthly, @yearly. Where both days are given, either matches. 0 and 7 are Sunday.",
            "examples": ["0 3 * * 0", "30 2 1,15 * *", "@daily"],
            "maxLength": 256,
            "pattern": PATTERN,
        })
    }
}

const PATTERN: &str = r"^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|[0-9*,/-]+\s+[0-9*,/-]+\s+[0-9*,/?-]+\s+[0-9A-Za-z*,/-]+\s+[0-9A-Za-z*,/?-]+)\s*$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_written_with_single_spaces() {
        for (text, printed) in [
            (" 0  3\t* * SUN\n", "0 3 * * SUN"),
            ("@daily", "@daily"),
            ("5-5 05 ? JAN */2", "5-5 05 ? JAN */2"),
        ] {
            let expression: CronExpression = text.parse().expect("an expression");
            assert_eq!(expression.to_string(), printed);
            assert_eq!(printed.parse(), Ok(expression));
        }
    }

    #[test]
    fn a_wrong_one_is_refused_by_serde_with_the_same_words() {
        let error = serde_json::from_str::<CronExpression>(r#""0 25 * * *""#).expect_err("25 is no hour");
        assert!(error.to_string().contains("hour field `25`"), "{error}");
    }

    #[test]
    fn takes_no_more_than_its_text() {
        assert_eq!(size_of::<CronExpression>(), size_of::<Box<str>>());
    }
}
