//! What a plug-in answers, and how much of it is believed and told.

use std::fmt;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::call::MOST;
use crate::failure::{FailureClass, Finding};
use crate::ident::{Fence, PolicyName, Principal, RotationId};
use crate::policy::spec::Interval;
use crate::secret::SecretValue;
use crate::target::{Key, LastUse, Session, Tag, Usage};

/// The one document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Document<R> {
    Result(R),
    Failure(Told),
}

/// The result, or the failure that the plug-in tells.
pub(super) fn read<R: DeserializeOwned>(bytes: &[u8]) -> Result<Result<R, Told>, Unanswered> {
    // The reader's own words could quote what was read.
    match serde_json::from_slice(bytes) {
        Ok(Document::Result(result)) => Ok(Ok(result)),
        Ok(Document::Failure(told)) => Ok(Err(told)),
        Err(_) if bytes.is_empty() => Err(Unanswered::Nothing),
        Err(_) => Err(Unanswered::Garbage),
    }
}

/// Why a plug-in that ran has not answered.
#[derive(Debug)]
pub(super) enum Unanswered {
    Deadline(Interval),
    Died(std::process::ExitStatus),
    Io(std::io::ErrorKind),
    Flood,
    Nothing,
    Garbage,
    OlderFence,
    NoKey,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(limit) => write!(f, "the plug-in did not end within {limit}"),
            Self::Died(status) => write!(f, "the plug-in failed without an answer ({status})"),
            Self::Io(kind) => write!(f, "the plug-in cannot be talked to: {kind}"),
            Self::Flood => write!(f, "the plug-in answered with more than {MOST} bytes"),
            Self::Nothing => f.write_str("the plug-in answered nothing"),
            Self::Garbage => f.write_str("the plug-in's answer is not one of the protocol"),
            Self::OlderFence => f.write_str("the plug-in says that an earlier attempt came later"),
            Self::NoKey => f.write_str("the plug-in's answer holds no value, or holds it as the key's id"),
        }
    }
}

/// A failure that a plug-in tells. Whatever else stands beside is not looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) class: FailureClass,
    code: Code,
    /// The policy that holds what was to be changed.
    #[serde(default, deserialize_with = "parsed")]
    policy: Option<PolicyName>,
    /// The keys that leave no room for another.
    #[serde(default)]
    keys: Vec<Principal>,
}

impl Told {
    pub(super) fn words(&self, secrets: &[&SecretValue]) -> String {
        let mut words = self.code.words(secrets);
        if let Some(policy) = self.policy.as_ref().and_then(|policy| plain(&policy.to_string(), secrets)) {
            words += &format!(" (policy {policy})");
        }
        let keys: Vec<_> = self.keys.iter().filter_map(|key| plain(key.as_str(), secrets)).take(20).collect();
        if !keys.is_empty() {
            words += &format!(" (keys {})", keys.join(", "));
        }
        words
    }
}

/// A few plain letters: what is told of a plug-in's own words.
#[derive(Debug)]
pub(super) struct Code(String);

impl Code {
    /// Short as it is, it could still be a value.
    pub(super) fn words(&self, secrets: &[&SecretValue]) -> String {
        match plain(&self.0, secrets) {
            Some(code) => format!("`{code}`"),
            None => "what is not told, as it holds a value".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text))
        } else {
            Err(D::Error::custom("not a code"))
        }
    }
}

/// A text without anything but letters, digits and a few signs, and without a value.
fn plain(text: &str, secrets: &[&SecretValue]) -> Option<String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b" ._:/@-[]".contains(&b);
    let is_plain = text.len() <= 128 && text.bytes().all(valid);
    (is_plain && !secrets.iter().any(|secret| secret.occurs_in(text))).then(|| text.to_owned())
}

/// A name, parsed as everywhere.
fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(|_| D::Error::custom("not a name"))).transpose()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Installing {
    Done { at: Timestamp },
    Superseded { by: Fence },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Minting {
    Made { principal: Principal, value: String },
    Awaited { code: Code },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Probing {
    Accepted,
    Refused,
    Unfit { code: Code },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Retiring {
    Done { sessions_closed: u64 },
    Awaited { code: Code },
    Superseded { by: Fence },
}

#[derive(Deserialize)]
pub(super) struct UsageTold {
    sessions: Vec<SessionTold>,
    last: LastTold,
}

#[derive(Deserialize)]
struct SessionTold {
    #[serde(default)]
    application: String,
    #[serde(default)]
    client: String,
    since: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum LastTold {
    BySessions,
    Untold,
    Never,
    At(Timestamp),
}

impl UsageTold {
    pub(super) fn into_usage(self, secrets: &[&SecretValue]) -> Usage {
        let session = |told: SessionTold| Session {
            application: plain(&told.application, secrets).unwrap_or_default(),
            client: plain(&told.client, secrets).unwrap_or_default(),
            since: told.since,
        };
        let mut sessions: Vec<_> = self.sessions.into_iter().map(session).collect();
        sessions.sort_by_key(|session| session.since);
        let last = match self.last {
            LastTold::BySessions => LastUse::BySessions,
            LastTold::Untold => LastUse::Untold,
            LastTold::Never => LastUse::Never,
            LastTold::At(at) => LastUse::At(at),
        };
        Usage { sessions, last }
    }
}

#[derive(Deserialize)]
pub(super) struct Listing {
    keys: Vec<KeyTold>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyTold {
    id: Principal,
    #[serde(default)]
    made_at: Option<Timestamp>,
    #[serde(default)]
    used: Option<bool>,
    #[serde(default)]
    tag: Option<TagTold>,
}

#[derive(Deserialize)]
struct TagTold {
    #[serde(default, deserialize_with = "parsed")]
    policy: Option<PolicyName>,
    rotation: RotationId,
}

impl Listing {
    pub(super) fn into_keys(self) -> Vec<Key> {
        let tag = |told: TagTold| Tag { policy: told.policy, rotation: told.rotation };
        let key = |told: KeyTold| Key {
            id: told.id,
            made_at: told.made_at,
            used: told.used,
            tag: told.tag.map(tag),
        };
        self.keys.into_iter().map(key).collect()
    }
}

#[derive(Deserialize)]
pub(super) struct Preflighting {
    findings: Vec<FindingTold>,
}

#[derive(Deserialize)]
struct FindingTold {
    subject: Code,
    verdict: VerdictTold,
    code: Code,
    #[serde(default, deserialize_with = "parsed")]
    policy: Option<PolicyName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum VerdictTold {
    Pass,
    Warn,
    Fail,
}

impl Preflighting {
    pub(super) fn into_findings(self, secrets: &[&SecretValue]) -> Vec<Finding> {
        let remedy = "look the word up in the plug-in's documentation";
        let finding = |told: FindingTold| {
            let subject = format!("plug-in: {}", told.subject.words(secrets).trim_matches('`'));
            let mut detail = told.code.words(secrets);
            if let Some(policy) = told.policy.and_then(|policy| plain(&policy.to_string(), secrets)) {
                detail += &format!(" (policy {policy})");
            }
            match told.verdict {
                VerdictTold::Pass => Finding::pass(subject, detail),
                VerdictTold::Warn => Finding::warn(subject, detail, remedy),
                VerdictTold::Fail => Finding::fail(subject, detail, remedy),
            }
        };
        self.findings.into_iter().map(finding).collect()
    }
}
