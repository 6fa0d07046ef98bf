//! A program of others as a target.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Extra, InPlaceSpec, Interval, PairSpec};
use crate::ident::{DnsLabel, Principal};

/// A program that changes credentials at a system that rekeyd does not know: a plug-in. It is asked in JSON, as
/// `docs/exec-plugin.md` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecSpec {
    /// The program's file, below the `plugins.directory` of the settings.
    pub program: PathBuf,
    /// SHA-256 of the file's content: another content is not run.
    pub sha256: ProgramDigest,
    /// What it is started with, the same at each call. Everybody on the machine can see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub arguments: Vec<String>,
    /// The credential that it changes others with, by its name in the settings; `plugins.credentials` has to name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<DnsLabel>,
    /// How the value changes.
    pub strategy: ExecStrategy,
    /// What the program wants to know of its system. Never a secret.
    #[serde(default, skip_serializing_if = "Extra::is_empty")]
    pub config: Extra,
    /// How long one call may take.
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: Interval,
    /// How long the system may go on refusing a new value and accepting one that was taken out.
    #[serde(default = "no_time", skip_serializing_if = "is_zero")]
    pub settling: Interval,
}

const DEFAULT_TIMEOUT: Interval = Interval::from_duration(Duration::from_secs(30));

const fn default_timeout() -> Interval {
    DEFAULT_TIMEOUT
}

fn is_default_timeout(timeout: &Interval) -> bool {
    *timeout == DEFAULT_TIMEOUT
}

const fn no_time() -> Interval {
    Interval::from_duration(Duration::ZERO)
}

fn is_zero(interval: &Interval) -> bool {
    interval.as_duration().is_zero()
}

/// How the value of a plug-in's system changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ExecStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(PairSpec),
    /// One user, whose outgoing value works beside the new one until every reader has moved.
    DualPassword(InPlaceSpec),
    /// One user; readers fail between install and publish.
    InPlace(InPlaceSpec),
    /// The system makes a key beside the one that there is.
    DualKey(OwnerSpec),
    /// The system makes a key in the place of the one that there is, which is dead from then on.
    Reissued(OwnerSpec),
}

/// Whose keys they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerSpec {
    /// Whose keys they are, in the system's words.
    pub owner: Principal,
}

impl ExecStrategy {
    /// The users that take turns, the one, or the owner of keys.
    #[must_use]
    pub fn principals(&self) -> Vec<&Principal> {
        match self {
            Self::Alternating(pair) => pair.users.iter().collect(),
            Self::DualPassword(one) | Self::InPlace(one) => vec![&one.user],
            Self::DualKey(key) | Self::Reissued(key) => vec![&key.owner],
        }
    }

    /// Whether the system makes the value, and names its principal.
    #[must_use]
    pub const fn mints(&self) -> bool {
        matches!(self, Self::DualKey(_) | Self::Reissued(_))
    }

    /// As plug-ins are told it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Alternating(_) => "alternating",
            Self::DualPassword(_) => "dualPassword",
            Self::InPlace(_) => "inPlace",
            Self::DualKey(_) => "dualKey",
            Self::Reissued(_) => "reissued",
        }
    }
}

impl ExecSpec {
    /// Whether the program is below a folder, as it is written: without a detour.
    #[must_use]
    pub fn is_within(&self, folder: &Path) -> bool {
        let plain = |path: &Path| path.components().all(|part| part != Component::ParentDir);
        folder.is_absolute() && plain(&self.program) && self.program.starts_with(folder)
    }
}

/// By its program.
impl fmt::Display for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())
    }
}

/// SHA-256 of a program, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProgramDigest([u8; 32]);

impl ProgramDigest {
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for ProgramDigest {
    type Err = ProgramDigestError;

    fn from_str(text: &str) -> Result<Self, ProgramDigestError> {
        let error = || ProgramDigestError(text.chars().take(72).flat_map(char::escape_default).collect());
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for ProgramDigest {
    type Error = ProgramDigestError;

    fn try_from(text: String) -> Result<Self, ProgramDigestError> {
        text.parse()
    }
}

impl From<ProgramDigest> for String {
    fn from(digest: ProgramDigest) -> Self {
        digest.to_string()
    }
}

impl JsonSchema for ProgramDigest {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProgramDigest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

/// Why a text is not a [`ProgramDigest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a SHA-256: write the 64 digits that `sha256sum` prints")]
pub struct ProgramDigestError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_print_as_they_parse() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.parse::<ProgramDigest>().map(|digest| digest.to_string()).as_deref(), Ok(&*text));
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<ProgramDigest>().is_err(), "{text:?} was taken");
        }
    }
}
