//! What is written into the metadata of a key, and read back.

use std::collections::HashMap;

use uuid::Uuid;

use crate::ident::Principal;
use crate::target::{Attempt, Tag};

/// The metadata of a key or a token, as the server keeps it.
pub(super) type Metadata = HashMap<String, String>;

const POLICY: &str = "rekeyd_policy";
const ROTATION: &str = "rekeyd_rotation";
const KEY: &str = "rekeyd_key";
const OWNER: &str = "rekeyd_owner";

/// Metadata for a new key, unlike that of any other.
pub(super) fn written(attempt: &Attempt<'_>, owner: &Principal) -> Metadata {
    let pairs = [
        (POLICY, attempt.policy.to_string()),
        (ROTATION, attempt.rotation.to_string()),
        (KEY, Uuid::now_v7().simple().to_string()),
        (OWNER, owner.to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Whom a key was made for; `None` when rekeyd did not have it made.
pub(super) fn read(metadata: &Metadata) -> Option<Tag> {
    let rotation = metadata.get(ROTATION)?.parse().ok()?;
    Some(Tag { policy: metadata.get(POLICY).and_then(|policy| policy.parse().ok()), rotation })
}

/// The text that no other key has.
pub(super) fn key(metadata: &Metadata) -> Option<&str> {
    metadata.get(KEY).map(String::as_str)
}

pub(super) fn is_of(metadata: &Metadata, owner: &Principal) -> bool {
    metadata.get(OWNER).is_some_and(|name| name == owner.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{Fence, RotationId, Version};

    #[test]
    fn what_is_written_is_read() {
        let (policy, rotation) = ("shop/orders".parse().expect("a policy"), RotationId::generate());
        let attempt = Attempt { policy: &policy, rotation, version: Version::new(3), fence: Fence::new(4) };
        let owner: Principal = "orders".parse().expect("a name");
        let (one, other) = (written(&attempt, &owner), written(&attempt, &owner));
        assert_eq!(read(&one), Some(Tag { policy: Some(policy.clone()), rotation }));
        assert!(key(&one).is_some() && key(&one) != key(&other));
        assert!(is_of(&one, &owner) && !is_of(&one, &"shop".parse().expect("a name")));
        // What people write there is theirs.
        for foreign in [("team", "shop"), (ROTATION, "yesterday"), (POLICY, "shop/orders")] {
            let foreign = Metadata::from([(foreign.0.to_owned(), foreign.1.to_owned())]);
            assert_eq!(read(&foreign), None, "{foreign:?}");
            assert!(!is_of(&foreign, &owner));
        }
    }
}
