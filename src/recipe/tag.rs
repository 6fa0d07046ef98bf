//! How a key's name tells which rotation had it made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ident::{PolicyName, RotationId};
use crate::target::Tag;

/// How a key's name tells which rotation had it made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Tagging {
    /// `rekeyd orders/orders-api 0199b2f6-...-1f3a90c2`: up to 180 characters.
    #[default]
    Full,
    /// `rekeyd-0199b2f6-...-1f3a90c2`: 52 letters, digits and hyphens, for providers whose names may have no others.
    Short,
    /// There is no place for it. What is new since the rotation began and was never used counts as its own, so
    /// `list` has to tell when a key was made and when it was used last.
    None,
}

/// What a key is called that a rotation has made. No two requests give one name: where the name is the key's id, a
/// request that arrives late would put its own value into the place of one that is in force.
#[must_use]
pub fn write_tag(tagging: Tagging, policy: &PolicyName, rotation: RotationId) -> String {
    // The last digits of such an id are random.
    let random = RotationId::generate().to_string();
    let request = &random[random.len() - 8..];
    match tagging {
        Tagging::Full => format!("rekeyd {policy} {rotation}-{request}"),
        Tagging::Short | Tagging::None => format!("rekeyd-{rotation}-{request}"),
    }
}

/// What a key's name tells; `None` of a name that rekeyd did not give.
#[must_use]
pub fn read_tag(name: &str) -> Option<Tag> {
    let rotation_of = |text: &str| text.rsplit_once('-')?.0.parse().ok();
    if let Some(rotation) = name.strip_prefix("rekeyd-") {
        return Some(Tag { policy: None, rotation: rotation_of(rotation)? });
    }
    let (policy, rotation) = name.strip_prefix("rekeyd ")?.split_once(' ')?;
    Some(Tag { policy: Some(policy.parse().ok()?), rotation: rotation_of(rotation)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (policy, rotation): (PolicyName, _) =
            ("orders/orders-api".parse().expect("a name"), RotationId::generate());
        let full = write_tag(Tagging::Full, &policy, rotation);
        assert_eq!(read_tag(&full), Some(Tag { policy: Some(policy.clone()), rotation }));
        let short = write_tag(Tagging::Short, &policy, rotation);
        assert_eq!(short.len(), 52);
        assert_ne!(short, write_tag(Tagging::Short, &policy, rotation), "two requests");
        assert_eq!(read_tag(&short), Some(Tag { policy: None, rotation }));
        for foreign in ["", "ci", "rekeyd", "rekeyd ", "rekeyd orders/orders-api x", "rekeyd-1", "Rekeyd-"] {
            assert_eq!(read_tag(foreign), None, "{foreign}");
        }
    }
}
