//! What a principal remembers of rekeyd, where it has room for a text: a marker at the end of a role's comment, or
//! among a user's tags.
//!
//! `Orders service [rekeyd policy=orders/orders-db version=17 fence=21 rotation=0197... state=installed]`
//!
//! The marker is written with the password, so the two do not disagree. It is
//! what refuses a daemon that lost its claim: see [`Marker::standing`]. Text that people wrote around it
//! is kept.

use std::fmt;

use crate::ident::{Fence, PolicyName, RotationId, Version};
use crate::target::Attempt;

/// The last attempt that changed a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    policy: PolicyName,
    version: Version,
    fence: Fence,
    rotation: RotationId,
    state: State,
}

/// What that attempt did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its value is the role's password.
    Installed,
    /// It was undone, or must not take effect any more.
    Withdrawn,
    /// It took the role out of service.
    Retired,
}

/// How a role's marker stands to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// No marker, or one of an earlier attempt of the same policy.
    Open,
    /// The marker is this attempt's own.
    Own(State),
    /// A later attempt of the same policy was here.
    Later(Fence),
    /// Another policy holds the role.
    Foreign(PolicyName),
}

impl Marker {
    pub(super) fn new(attempt: &Attempt<'_>, state: State) -> Self {
        Self {
            policy: attempt.policy.clone(),
            version: attempt.version,
            fence: attempt.fence,
            rotation: attempt.rotation,
            state,
        }
    }

    pub(super) const fn policy(&self) -> &PolicyName {
        &self.policy
    }

    pub(super) const fn fence(&self) -> Fence {
        self.fence
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// Whether the principal is one that rekeyd gives its values. An attempt that was undone may have found somebody
    /// else's there, and left it.
    pub(super) fn vouches(marker: Option<&Self>) -> bool {
        marker.is_some_and(|marker| marker.state != State::Withdrawn)
    }

    /// A fence belongs to one rotation; the same number under another rotation means that the caller
    /// does not hold the claim it believes to hold.
    pub(super) fn standing(marker: Option<&Self>, attempt: &Attempt<'_>) -> Standing {
        match marker {
            None => Standing::Open,
            Some(marker) if marker.policy != *attempt.policy => Standing::Foreign(marker.policy.clone()),
            Some(marker) if marker.fence < attempt.fence => Standing::Open,
            Some(marker) if marker.fence == attempt.fence && marker.rotation == attempt.rotation => {
                Standing::Own(marker.state)
            }
            Some(marker) => Standing::Later(marker.fence),
        }
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, version, fence, rotation, state } = self;
        let state = match state {
            State::Installed => "installed",
            State::Withdrawn => "withdrawn",
            State::Retired => "retired",
        };
        let version = version.number();
        write!(
            f,
            "{OPENING}policy={policy} version={version} fence={fence} rotation={rotation} state={state}]"
        )
    }
}

/// A role's comment: a person's text, and the marker if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment {
    text: String,
    marker: Option<Marker>,
}

/// How a marker begins.
pub(super) const OPENING: &str = "[rekeyd ";

impl Comment {
    /// # Errors
    /// When it holds something that looks like a marker and cannot be read, or more than one: nothing
    /// can be concluded from it then.
    pub(super) fn parse(comment: &str) -> Result<Self, UnreadableMarker> {
        let Some(start) = comment.find(OPENING) else {
            return Ok(Self { text: comment.trim_end().to_owned(), marker: None });
        };
        let inside = &comment[start + OPENING.len()..];
        let (inside, after) = inside.split_once(']').ok_or(UnreadableMarker)?;
        if after.contains(OPENING) {
            return Err(UnreadableMarker);
        }
        let marker = parse_marker(inside).ok_or(UnreadableMarker)?;
        let (before, after) = (comment[..start].trim_end(), after.trim());
        let gap = if before.is_empty() || after.is_empty() { "" } else { " " };
        Ok(Self { text: format!("{before}{gap}{after}"), marker: Some(marker) })
    }

    pub(super) const fn marker(&self) -> Option<&Marker> {
        self.marker.as_ref()
    }

    /// What people wrote around it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The comment with another marker.
    pub(super) fn with(&self, marker: &Marker) -> String {
        let gap = if self.text.is_empty() { "" } else { " " };
        format!("{}{gap}{marker}", self.text)
    }
}

/// A role's comment holds a marker that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the marker in its comment cannot be read")]
pub(super) struct UnreadableMarker;

fn parse_marker(inside: &str) -> Option<Marker> {
    let field =
        |name: &str| inside.split_whitespace().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    Some(Marker {
        policy: field("policy")?.parse().ok()?,
        version: field("version")?.parse().ok()?,
        fence: field("fence")?.parse().map(Fence::new).ok()?,
        rotation: field("rotation")?.parse().ok()?,
        state: match field("state")? {
            "installed" => State::Installed,
            "withdrawn" => State::Withdrawn,
            "retired" => State::Retired,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> PolicyName {
        name.parse().expect("a policy name")
    }

    fn attempt(policy: &PolicyName, rotation: RotationId, fence: u64) -> Attempt<'_> {
        Attempt { policy, rotation, version: Version::new(17), fence: Fence::new(fence) }
    }

    #[test]
    fn a_persons_text_survives_around_the_marker() {
        let name = policy("orders/db");
        let marker = Marker::new(&attempt(&name, RotationId::generate(), 21), State::Installed);
        for text in ["", "Orders service", "with ] brackets [ and 'quotes'", "two\nlines"] {
            let written = Comment::parse(text).expect("no marker").with(&marker);
            let read = Comment::parse(&written).expect("its own text");
            assert_eq!(read.marker(), Some(&marker));
            assert_eq!(read.text, text);
            assert_eq!(read.with(&marker), written, "writing it again changes nothing");
        }
        let appended = format!("before {marker} after");
        assert_eq!(Comment::parse(&appended).map(|c| c.text).as_deref(), Ok("before after"));
    }

    #[test]
    fn nothing_is_concluded_from_a_damaged_marker() {
        let name = policy("orders/db");
        let marker = Marker::new(&attempt(&name, RotationId::generate(), 21), State::Installed).to_string();
        for damaged in [
            "[rekeyd ]".to_owned(),
            "[rekeyd policy=orders/db".to_owned(),
            marker.replace("fence=21", "fence=many"),
            marker.replace("state=installed", "state=gone"),
            marker.replace("version=17 ", ""),
            format!("{marker} {marker}"),
        ] {
            assert_eq!(Comment::parse(&damaged), Err(UnreadableMarker), "{damaged}");
        }
    }

    #[test]
    fn only_an_earlier_attempt_of_the_same_policy_gives_way() {
        let (ours, theirs) = (policy("orders/db"), policy("billing/db"));
        let (one, two) = (RotationId::generate(), RotationId::generate());
        let marker = Marker::new(&attempt(&ours, one, 21), State::Withdrawn);
        let standing = |attempt: Attempt<'_>| Marker::standing(Some(&marker), &attempt);
        assert_eq!(Marker::standing(None, &attempt(&ours, two, 1)), Standing::Open);
        assert_eq!(standing(attempt(&ours, two, 22)), Standing::Open);
        assert_eq!(standing(attempt(&ours, one, 21)), Standing::Own(State::Withdrawn));
        assert_eq!(standing(attempt(&ours, two, 21)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&ours, one, 20)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&theirs, two, 99)), Standing::Foreign(ours));
    }
}
