//! The names of things: validated when they enter, so that no other module has to look at them again.
//!
//! Every name parses with [`FromStr`], prints with [`Display`](fmt::Display) and has no public field.
//! None of them can hold a path separator, a control character or `..`, which is what lets the ledger,
//! the stores and the consumers build paths from them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A policy's full name, `namespace/name`; both parts are DNS labels. Cloning one shares it: it stands in
/// several tables.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyName(Arc<(DnsLabel, DnsLabel)>);

impl PolicyName {
    #[must_use]
    pub fn new(namespace: DnsLabel, name: DnsLabel) -> Self {
        Self(Arc::new((namespace, name)))
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.0.as_str()
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.0.1.as_str()
    }
}

impl FromStr for PolicyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Ok(Self::new(namespace.parse()?, name.parse()?))
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

/// A DNS label after RFC 1123: up to 63 lower-case letters, digits and inner hyphens. Cloning one shares
/// its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsLabel(Arc<str>);

impl DnsLabel {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsLabel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotADnsLabel(printable(text))) }
    }
}

impl fmt::Display for DnsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a Kubernetes object: a DNS subdomain after RFC 1123, labels joined by dots, up to 253 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(Box<str>);

impl ObjectName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = text.len() <= 253 && text.split('.').all(|label| label.parse::<DnsLabel>().is_ok());
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotAnObjectName(printable(text))) }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that logs in at a target: a database user, an API key's public id. 1 to 255 bytes: what a system takes
/// may be much less, and is the target's to say.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Principal(Box<str>);

impl Principal {
    /// In bytes. A store keeps the length in one.
    pub const LONGEST: usize = 255;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Principal {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=Self::LONGEST).contains(&text.len())
            && !text.chars().any(char::is_control)
            && !text.contains("..")
            && text.trim() == text;
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotAPrincipal(printable(text))) }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a value lives in a store: segments of letters, digits, `.`, `_` and `-`, joined by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(Box<str>);

impl StorePath {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the folder or anything in it.
    #[must_use]
    pub fn is_within(&self, folder: &Self) -> bool {
        self.0.strip_prefix(&*folder.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for StorePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(byte);
        let valid = text.len() <= 512 && text.split('/').all(segment);
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotAStorePath(printable(text))) }
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A YAML file of a repository, by its path there: never a hidden one, so neither Git's own nor those that a forge
/// acts upon.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryFile(Box<str>);

impl RepositoryFile {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryFile {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let segment = |s: &str| !s.is_empty() && !s.starts_with(['.', '-']) && s.bytes().all(byte);
        let is_yaml = text.ends_with(".yaml") || text.ends_with(".yml");
        let valid = text.len() <= 512 && is_yaml && text.split('/').all(segment);
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotARepositoryFile(printable(text))) }
    }
}

impl fmt::Display for RepositoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One rotation's identity: a UUID of version 7, so ids sort by the time of opening.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RotationId(Uuid);

impl RotationId {
    /// A new id; unique without coordination.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl FromStr for RotationId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Uuid::parse_str(text).map(Self).map_err(|_| NameError::NotARotationId(printable(text)))
    }
}

impl fmt::Display for RotationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names the request behind a rotation, so that the same request never rotates twice: the scheduled
/// instant, a request id given by the caller, or a generated one.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(Box<str>);

impl RequestId {
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }
}

impl FromStr for RequestId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotARequestId(printable(text))) }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A policy's counter, one higher for each promotion. The first promoted value is version 1.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(u64);

impl Version {
    /// Nothing was promoted yet.
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The one before; of [`Version::NONE`] itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl FromStr for Version {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix('v').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| NameError::NotAVersion(printable(text)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// Orders every attempt to change a policy's credential, abandoned ones included. It only grows, so a
/// target that remembers the highest fence it has seen can refuse a late change by a daemon that lost
/// its claim. A [`Version`] cannot do this: an abandoned attempt and the next one share a version.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// Before the first attempt.
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a further part of a credential is called: `refreshToken`, `certificate`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartName(Box<str>);

impl PartName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PartName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric())
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        if valid { Ok(Self(text.into())) } else { Err(NameError::NotAPartName(printable(text))) }
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("`{0}` is not a DNS label: use 1 to 63 lower-case letters, digits and inner hyphens")]
    NotADnsLabel(String),
    #[error("`{0}` is not the name of an object: use DNS labels joined by dots, up to 253 characters")]
    NotAnObjectName(String),
    #[error("`{0}` is not a principal: use 1 to 255 bytes without control characters, outer spaces or `..`")]
    NotAPrincipal(String),
    #[error(
        "`{0}` is not a store path: use segments of letters, digits, `.`, `_`, `-` joined by `/`, none of them `.` or `..`"
    )]
    NotAStorePath(String),
    #[error(
        "`{0}` is not a file of a repository: write its path there, `apps/orders/rekeyd-versions.yaml`, without `..` and hidden parts"
    )]
    NotARepositoryFile(String),
    #[error("`{0}` is not the name of a part: use up to 32 letters and digits, a lower-case letter first")]
    NotAPartName(String),
    #[error("`{0}` is not a rotation id: use the UUID that `rekeyd status` prints")]
    NotARotationId(String),
    #[error("`{0}` is not a request id: use 1 to 128 printable ASCII characters without spaces")]
    NotARequestId(String),
    #[error("`{0}` is not a version: use a number such as `v17`")]
    NotAVersion(String),
}

/// Shortens and escapes a refused text, so that an error cannot carry a control sequence to a terminal.
fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
    if text.chars().count() > 64 {
        shown.push_str("...");
    }
    shown
}

/// `Debug` as `Display`, and the string conversions serde and schemars need.
macro_rules! text_form {
    ($($name:ident: $pattern:literal),+ $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    )+};
}

text_form! {
    PolicyName: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    DnsLabel: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    ObjectName: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$",
    Principal: "^\\S(.{0,253}\\S)?$",
    StorePath: "^\\.*[A-Za-z0-9_-][A-Za-z0-9._-]*(/\\.*[A-Za-z0-9_-][A-Za-z0-9._-]*)*$",
    RepositoryFile: "^([A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*\\.ya?ml$",
    RequestId: "^[!-~]{1,128}$",
    PartName: "^[a-z][A-Za-z0-9]{0,31}$",
}

macro_rules! debug_as_display {
    ($($name:ident),+ $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}

debug_as_display!(RotationId, Version, Fence);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["..", "../etc", "a/..", "a//b", "/a", "a/", "a b", "a\u{0}", ".", "a/./b", "é"] {
            assert!(bad.parse::<StorePath>().is_err(), "{bad:?} was taken as a store path");
        }
        for bad in [
            "",
            "a",
            "/a.yaml",
            "../a.yaml",
            "a/../b.yaml",
            ".git/a.yaml",
            ".github/workflows/a.yml",
            "a//b.yaml",
            ".a.yaml",
            "-a.yaml",
            "a\\b.yaml",
            "a b.yaml",
        ] {
            assert!(bad.parse::<RepositoryFile>().is_err(), "{bad:?} was taken as a repository's file");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "..", "a/b", &"a".repeat(64)] {
            assert!(bad.parse::<DnsLabel>().is_err(), "{bad:?} was taken as a DNS label");
        }
        for bad in ["", " a", "a\n", &"é".repeat(128)] {
            assert!(bad.parse::<Principal>().is_err(), "{bad:?} was taken as a principal");
        }
    }

    #[test]
    fn names_print_as_they_parse() {
        let account = "orders-of-the-shop-production@a-project-of-thirty-characters.iam.gserviceaccount.com";
        for good in [account, &"é".repeat(127)] {
            assert_eq!(good.parse::<Principal>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        for good in ["orders/orders-db", "a/b", "a1/0"] {
            assert_eq!(good.parse::<PolicyName>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        assert_eq!(
            "orders-db".parse::<PolicyName>().map(|n| n.to_string()).as_deref(),
            Ok("default/orders-db")
        );
        assert_eq!("v17".parse::<Version>(), Ok(Version::new(17)));
        assert_eq!(
            "apps/orders/db".parse::<StorePath>().map(|n| n.to_string()).as_deref(),
            Ok("apps/orders/db")
        );
    }

    #[test]
    fn a_folder_holds_whole_segments() {
        let path = |text: &str| text.parse::<StorePath>().expect("a store path");
        assert!(path("rekeyd").is_within(&path("rekeyd")));
        assert!(path("rekeyd/a").is_within(&path("rekeyd")));
        assert!(!path("rekeyd-apps/a").is_within(&path("rekeyd")));
    }

    #[test]
    fn a_refused_text_cannot_carry_a_control_sequence() {
        let error = "\u{1b}[31m".parse::<DnsLabel>().map_err(|e| e.to_string());
        assert!(error.is_err_and(|text| !text.contains('\u{1b}')));
    }
}
