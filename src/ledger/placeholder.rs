//! The placeholder file of a policy: what Git holds in place of the values in force. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;

use super::draft::SECRETS;
use super::record::{RECORD_API_VERSION, Record};
use crate::ident::{PolicyName, RotationId, Version};

/// The content of `secrets/<namespace>/<name>.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Placeholder {
    api_version: String,
    kind: Kind,
    pub(super) policy: PolicyName,
    pub(super) version: Version,
    pub(super) rotation: RotationId,
    closed_at: Timestamp,
    username: String,
    password: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Kind {
    Placeholder,
}

impl Placeholder {
    /// What the file says once the record is written; `None` when the record promoted nothing.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let field = |name| format!("rekeyd://{}#{name}@{}", record.policy, record.to);
        (record.to != record.from).then(|| Self {
            api_version: RECORD_API_VERSION.to_owned(),
            kind: Kind::Placeholder,
            policy: record.policy.clone(),
            version: record.to,
            rotation: record.rotation,
            closed_at: record.closed_at,
            username: field("username"),
            password: field("password"),
        })
    }

    pub(super) fn path(policy: &PolicyName) -> String {
        format!("{SECRETS}/{policy}.yaml")
    }

    /// The file's name in the folder of its namespace.
    pub(super) fn file_name(policy: &PolicyName) -> String {
        format!("{}.yaml", policy.name())
    }

    pub(super) fn render(&self) -> String {
        self.to_string()
    }

    /// `None` when the bytes are not a placeholder file.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_saphyr::from_str(std::str::from_utf8(bytes).ok()?).ok()
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "apiVersion: {}", self.api_version)?;
        writeln!(f, "kind: Placeholder")?;
        writeln!(f, "policy: {}", self.policy)?;
        writeln!(f, "version: {}", self.version.number())?;
        writeln!(f, "rotation: {}", self.rotation)?;
        writeln!(f, "closedAt: {}", self.closed_at)?;
        writeln!(f, "username: \"{}\"", self.username)?;
        writeln!(f, "password: \"{}\"", self.password)
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::tests::record;
    use super::*;

    #[test]
    fn a_placeholder_reads_back_as_it_was_written() {
        let placeholder = Placeholder::of(&record("orders/orders-db", 16, 17)).expect("a placeholder");
        let text = placeholder.render();
        assert!(text.contains("password: \"rekeyd://orders/orders-db#password@v17\"\n"), "{text}");
        assert_eq!(Placeholder::parse(text.as_bytes()), Some(placeholder));
    }

    #[test]
    fn nothing_promoted_changes_no_placeholder() {
        assert_eq!(Placeholder::of(&record("orders/orders-db", 16, 16)), None);
    }
}
