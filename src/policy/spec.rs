//! The shape of a policy document's `spec`, shared by files, the JSON Schema and the run document.
//!
//! Fields whose form can be wrong have types that parse (`Interval`, `CronExpression`, ...), so that a
//! wrong one is reported with its own position. Rules that span fields are in [`super::validate`].

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SpanRelativeTo, Unit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{DnsLabel, Principal, StorePath};
use crate::schedule::CronExpression;
use crate::secret::ValueSpec;

/// One rotated credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Who answers for the credential; stands in records and alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When it rotates by itself. Without one, it rotates only on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// The system that accepts the credential.
    pub target: TargetSpec,
    /// What a generated value looks like.
    #[serde(default)]
    pub value: ValueSpec,
    /// Where the value lives.
    pub store: StoreSpec,
    /// Who reads the value besides the store's own clients.
    #[serde(default)]
    pub consumers: Vec<ConsumerSpec>,
    /// How the outgoing value is taken out.
    #[serde(default)]
    pub retire: RetireSpec,
    /// What a containment does first.
    #[serde(default)]
    pub containment: Containment,
}

/// When a policy rotates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Five cron fields (minute, hour, day of month, month, day of week) of wall-clock time. Where both
    /// days are given, either matches, as in classic cron. 0 and 7 are Sunday.
    pub cron: CronExpression,
    /// The IANA zone the fields are read in.
    #[serde(default)]
    pub time_zone: Zone,
    /// How long after its time a rotation may still start. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Interval>,
    /// Spreads policies of one time: each starts at its own fixed moment within this interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Interval>,
    /// The oldest a value may become: it rotates then even if cron does not ask for it, and status and
    /// metrics report it as overdue beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Interval>,
    /// What happens to a time that passed while the daemon was down.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Times in which no scheduled rotation starts. Containment ignores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<FreezeSpec>,
}

/// What happens to a time that passed while the daemon was down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CatchUp {
    /// However many times were missed, rotate once, as soon as the window and the freezes allow.
    #[default]
    Once,
    /// Wait for the next time.
    Skip,
}

/// A time in which no scheduled rotation starts: from the first to the last moment, both in the
/// schedule's zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeSpec {
    /// First moment, `2026-12-20` or `2026-12-20T18:00`.
    #[schemars(with = "String")]
    pub from: jiff::civil::DateTime,
    /// First moment after it.
    #[schemars(with = "String")]
    pub to: jiff::civil::DateTime,
    /// Why, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The system that accepts the credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TargetSpec {
    Postgres(PostgresSpec),
    Generated(GeneratedSpec),
}

impl TargetSpec {
    /// The principals that a rotation changes.
    #[must_use]
    pub fn principals(&self) -> Vec<&Principal> {
        match self {
            Self::Postgres(PostgresSpec { strategy: PostgresStrategy::Alternating(pair), .. }) => {
                pair.users.iter().collect()
            }
            Self::Postgres(PostgresSpec { strategy: PostgresStrategy::InPlace(one), .. }) => vec![&one.user],
            Self::Generated(generated) => vec![&generated.principal],
        }
    }
}

/// A PostgreSQL role, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresSpec {
    /// The server that roles are changed on.
    pub endpoint: PostgresEndpoint,
    /// Further endpoints that must accept the candidate before it is promoted: replicas, poolers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_verify: Vec<PostgresEndpoint>,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// How the value changes.
    pub strategy: PostgresStrategy,
    /// A statement that must succeed with the candidate, besides the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Where a PostgreSQL server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresEndpoint {
    /// Host name, address, or the absolute folder of a Unix socket.
    pub host: String,
    /// The server's port.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The database that logins are tried on.
    pub database: String,
    #[serde(default)]
    pub tls: TlsSpec,
}

impl PostgresEndpoint {
    /// Whether the host is the folder of a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether the connection does not leave this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_socket() || is_loopback(&self.host)
    }
}

/// Whether a host name or address is this machine's own.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

impl fmt::Display for PostgresEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

const fn postgres_port() -> u16 {
    5432
}

/// How a connection is protected. The modes are libpq's; one is never replaced by a weaker one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSpec {
    #[serde(default)]
    pub mode: TlsMode,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Says that `disable` is meant even though the host is not this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_plaintext: bool,
}

/// libpq's `sslmode`, without the modes that fall back (`allow`, `prefer`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS; the certificate is not checked.
    Require,
    /// TLS; the certificate must chain to a trusted authority.
    VerifyCa,
    /// TLS; the certificate must chain to a trusted authority and name the host.
    #[default]
    VerifyFull,
}

/// How a PostgreSQL value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PostgresStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(AlternatingSpec),
    /// One user; readers fail between install and publish.
    InPlace(InPlaceSpec),
}

/// Two users that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlternatingSpec {
    /// The two users.
    pub users: [Principal; 2],
    /// The group roles that both belong to and through which they hold their rights.
    #[serde(default)]
    pub member_of: Vec<Principal>,
}

/// One user, changed in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InPlaceSpec {
    /// The user whose password changes.
    pub user: Principal,
}

/// No target: a random value that only its readers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratedSpec {
    /// The name beside the value, for stores and templates that carry one.
    #[serde(default = "generated_principal")]
    pub principal: Principal,
}

fn generated_principal() -> Principal {
    "generated".parse().expect("a literal principal")
}

/// Where the value lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreSpec {
    /// The store, by its name in the settings.
    pub name: DnsLabel,
    /// Where in it applications read the current value.
    pub path: StorePath,
    /// The keys of the value's two parts, in stores that hold a map.
    #[serde(default)]
    pub fields: FieldNames,
}

/// The keys under which a store that holds a map keeps a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FieldNames {
    /// The key of the name that logs in.
    pub principal: String,
    /// The key of the value.
    pub value: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self { principal: "username".into(), value: "password".into() }
    }
}

/// A place that applications read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ConsumerSpec {
    File(FileSpec),
}

/// A file on this machine and the command that makes its reader look again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSpec {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits in octal; no others may read it by default.
    #[serde(default)]
    pub mode: FileMode,
    /// `user` or `user:group`; rekeyd's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// A template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other name is an error.
    pub content: String,
    /// The command that makes the reader take the new content: program and arguments, no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reload: Vec<String>,
    /// How long the command may take.
    #[serde(default = "reload_timeout")]
    pub reload_timeout: Interval,
    /// Takes over a file that rekeyd did not write. Without it such a file is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
}

fn reload_timeout() -> Interval {
    Interval(Duration::from_secs(30))
}

/// How the outgoing value is taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetireSpec {
    /// How long sessions of the outgoing value may live on after every consumer has the new one. They
    /// are closed then; without any, nothing is waited for.
    pub grace: Interval,
    /// How long a containment waits for consumers before it cuts the outgoing value off regardless.
    pub containment_deadline: Interval,
}

impl Default for RetireSpec {
    fn default() -> Self {
        Self {
            grace: Interval(Duration::from_secs(600)),
            containment_deadline: Interval(Duration::from_secs(60)),
        }
    }
}

/// What a containment does first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Containment {
    /// Retires the outgoing value as soon as consumers have the new one, at the latest at the deadline.
    #[default]
    KeepServing,
    /// Retires the outgoing value before consumers are told: an outage is accepted.
    CutNow,
}

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
