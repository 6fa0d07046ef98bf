//! From a record to the bytes of its commit: paths, files, message. Pure.
//!
//! Texts from outside (reason, owner, failure) reach a commit message as one line each, shortened, with
//! every control and formatting character replaced: none of them can begin a line, so none can forge a
//! trailer. In the record's JSON the same characters stand as `\u` escapes, so that nothing hides from a
//! reader's terminal.

use std::fmt::Write as _;

use super::placeholder::Placeholder;
use super::record::{Outcome, Record, TriggerKind};
use crate::failure::{Failure, FailureClass};
use crate::git::{is_hidden, one_line};
use crate::ident::{PolicyName, RotationId, Version};

/// Folder of the append-only records.
pub(super) const RECORDS: &str = "records";
/// Folder of the placeholder files, one for each policy.
pub(super) const SECRETS: &str = "secrets";

/// What a commit adds to the ledger.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) path: RecordPath,
    pub(super) record: Vec<u8>,
    /// What the policy's placeholder file becomes; `None` when no value was promoted.
    pub(super) placeholder: Option<Placeholder>,
    pub(super) message: String,
    /// Seconds since 1970: the author time of the commit.
    pub(super) closed_at: i64,
}

impl Draft {
    /// # Errors
    /// `Invalid` when the record goes back in versions.
    pub(super) fn new(record: &Record) -> Result<Self, Failure> {
        if record.to < record.from {
            let reason = format!("it leads from {} back to {}", record.from, record.to);
            return Err(Failure::new(FailureClass::Invalid, describe(record), reason));
        }
        Ok(Self::carried(record, render(record), message(record)))
    }

    /// A commit that exists already and is made again on another parent, byte for byte.
    pub(super) fn carried(record: &Record, bytes: Vec<u8>, message: String) -> Self {
        Self {
            path: RecordPath::of(record),
            record: bytes,
            placeholder: Placeholder::of(record),
            message,
            closed_at: record.closed_at.as_second(),
        }
    }

    /// Everything that reaches the repository, named for messages.
    pub(super) fn parts(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut parts = vec![
            ("record", self.record.clone()),
            ("path", self.path.to_string().into_bytes()),
            ("commit message", self.message.clone().into_bytes()),
        ];
        if let Some(placeholder) = &self.placeholder {
            parts.push(("placeholder", placeholder.render().into_bytes()));
        }
        parts
    }
}

/// What a record becomes: its path, its file and the message of its commit; `None` where it is refused.
#[cfg(feature = "proving")]
pub(crate) fn committed(record: &Record) -> Option<(String, Vec<u8>, String)> {
    let draft = Draft::new(record).ok()?;
    Some((draft.path.to_string(), draft.record, draft.message))
}

/// Completes "cannot ...".
pub(super) fn describe(record: &Record) -> String {
    format!("record rotation {} of {}", record.rotation, record.policy)
}

/// Where a record lies: `records/<namespace>/<name>/<version>-<rotation>.json`, the version of eight
/// digits at least, so that a listing is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordPath {
    pub(super) policy: PolicyName,
    pub(super) version: Version,
    pub(super) rotation: RotationId,
}

impl RecordPath {
    pub(super) fn of(record: &Record) -> Self {
        Self { policy: record.policy.clone(), version: record.to, rotation: record.rotation }
    }

    pub(super) fn file_name(&self) -> String {
        format!("{:08}-{}.json", self.version.number(), self.rotation)
    }

    /// `None` when the text is not exactly what a record's path prints as.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let (policy, file) = path.strip_prefix(RECORDS)?.strip_prefix('/')?.rsplit_once('/')?;
        let (version, rotation) = file.strip_suffix(".json")?.split_once('-')?;
        let parsed = Self {
            policy: policy.parse().ok()?,
            version: version.parse().ok()?,
            rotation: rotation.parse().ok()?,
        };
        (parsed.to_string() == path).then_some(parsed)
    }
}

impl std::fmt::Display for RecordPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{RECORDS}/{}/{}", self.policy, self.file_name())
    }
}

/// The first line of a record's commit: `rotate(orders/orders-db): v16 -> v17 [scheduled]`.
pub(super) fn subject(record: &Record) -> String {
    let verb = match (record.outcome, record.trigger) {
        (Outcome::RolledBack, _) => "roll-back",
        (Outcome::Abandoned, _) => "abandon",
        (Outcome::Rotated, TriggerKind::Contain) => "contain",
        (Outcome::Rotated, TriggerKind::Adopt) => "adopt",
        (Outcome::Rotated, TriggerKind::Scheduled | TriggerKind::Manual | TriggerKind::Drift) => "rotate",
    };
    let course = if record.from == record.to {
        format!("stays {}", record.to)
    } else {
        format!("{} -> {}", record.from, record.to)
    };
    format!("{verb}({}): {course} [{}]", record.policy, record.trigger)
}

/// The Git trailers of a record's commit, in order.
pub(super) fn trailers(record: &Record) -> Vec<(&'static str, String)> {
    let old_value = match record.proof.old_refused {
        None => "none",
        Some(true) => "refused",
        Some(false) => "not refused",
    };
    let mut trailers = vec![
        ("Rotation", record.rotation.to_string()),
        ("Policy", record.policy.to_string()),
        ("Outcome", record.outcome.to_string()),
        ("Requested-By", one_line(&record.requested_by)),
        ("Request", record.request.to_string()),
    ];
    let mut optional = |key, text: Option<&String>| {
        if let Some(text) = text {
            trailers.push((key, one_line(text)));
        }
    };
    optional("Owner", record.owner.as_ref());
    optional("Reason", record.reason.as_ref());
    optional("Failure", record.failure.as_ref());
    trailers.extend([
        ("Target", one_line(&record.target)),
        ("Principal", one_line(record.principal.as_str())),
        ("Policy-Hash", one_line(&record.policy_hash)),
        ("Old-Value", old_value.to_owned()),
        ("Closed-At", record.closed_at.to_string()),
        ("Writer", one_line(&record.writer)),
    ]);
    trailers
}

/// A record's file: pretty JSON, keys in the order of the type, a final newline.
fn render(record: &Record) -> Vec<u8> {
    let json = serde_json::to_string_pretty(record).expect("a record has only string keys");
    let mut text = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        // Beyond ASCII these only occur inside strings, where an escape means the same.
        if is_hidden(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text.into_bytes()
}

fn message(record: &Record) -> String {
    let mut message = subject(record);
    message.push_str("\n\n");
    for (key, value) in trailers(record) {
        let _ = writeln!(message, "{key}: {value}");
    }
    message
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as the engine writes them.
    pub(in crate::ledger) fn record(policy: &str, from: u64, to: u64) -> Record {
        let rotation = RotationId::generate();
        serde_json::from_value(serde_json::json!({
            "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationRecord",
            "rotation": rotation, "policy": policy, "trigger": "scheduled",
            "request": "2026-01-04T02:00:00Z", "requestedBy": "schedule", "outcome": "rotated",
            "from": from, "to": to, "strategy": "alternating", "target": "postgres db:5432/orders",
            "principal": "app_b", "outgoing": "app_a", "store": "main:apps/orders/db", "consumers": [],
            "policyHash": "ab".repeat(32), "openedAt": "2026-01-04T02:00:00Z",
            "closedAt": "2026-01-04T02:01:00Z", "writer": "rekeyd 0.1.0",
            "proof": {"newAccepted": true, "oldRefused": true, "sessionsClosed": 1, "sessionsLeft": 0},
        }))
        .expect("a record")
    }

    #[test]
    fn subjects_say_what_happened() {
        let mut one = record("orders/orders-db", 16, 17);
        assert_eq!(subject(&one), "rotate(orders/orders-db): v16 -> v17 [scheduled]");
        one.trigger = TriggerKind::Contain;
        assert_eq!(subject(&one), "contain(orders/orders-db): v16 -> v17 [contain]");
        one.trigger = TriggerKind::Adopt;
        assert_eq!(subject(&one), "adopt(orders/orders-db): v16 -> v17 [adopt]");
        one.trigger = TriggerKind::Manual;
        one.to = one.from;
        one.outcome = Outcome::Abandoned;
        assert_eq!(subject(&one), "abandon(orders/orders-db): stays v16 [manual]");
        one.outcome = Outcome::RolledBack;
        assert_eq!(subject(&one), "roll-back(orders/orders-db): stays v16 [manual]");
    }

    #[test]
    fn paths_parse_only_as_they_print() {
        let path = RecordPath::of(&record("orders/orders-db", 16, 17));
        assert_eq!(RecordPath::parse(&path.to_string()).as_ref(), Some(&path));
        for bad in [
            path.to_string().replace("00000017", "17"),
            path.to_string().replace("records/", "records//"),
            path.to_string().replace(".json", ".yaml"),
            path.to_string().replace("records/orders/", "records/"),
        ] {
            assert_eq!(RecordPath::parse(&bad), None, "{bad} was taken");
        }
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        let mut one = record("orders/orders-db", 16, 17);
        one.reason = Some("x\r\nOutcome: refused\u{2028}Rotation: y\u{202e}\n\n---\u{9b}31m".into());
        one.owner = Some("\n".into());
        let draft = Draft::new(&one).expect("a draft");
        assert_eq!(draft.message.lines().count(), 2 + trailers(&one).len());
        assert!(draft.message.contains("\nOwner: -\n"));
        assert!(!draft.message.chars().any(|c| is_hidden(c) && c != '\n'));
        let text = String::from_utf8(draft.record).expect("UTF-8");
        assert!(!text.chars().any(|c| is_hidden(c) && c != '\n'));
        assert_eq!(serde_json::from_str::<Record>(&text).expect("a record"), one);
    }

    #[test]
    fn a_record_that_goes_back_is_refused() {
        let failure = Draft::new(&record("orders/orders-db", 17, 16)).expect_err("a refusal");
        assert_eq!(failure.class(), FailureClass::Invalid);
    }
}
