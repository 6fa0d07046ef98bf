//! What a user remembers of rekeyd: an entry among its password hashes that is no hash.
//!
//! ```text
//! 72656b6579 01 000000000015 8d1f...(8) 41c0...(6) 9b22...(6)
//! "rekey"  state   fence     policy   rotation  candidate
//! ```
//!
//! Policy and rotation are the heads of their SHA-256, the candidate is the head of what the server keeps of it,
//! so that an undo knows what to take back. To log in with such an entry one would need a value with exactly this
//! SHA-256, and a chosen policy name does not bring one nearer to it. A value whose hash looks like one by chance,
//! one in 2^46, is refused at install.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::ident::{Fence, PolicyName, RotationId};
use crate::secret::SecretValue;
use crate::target::Attempt;

/// An entry of a user's set of passwords.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry([u8; 32]);

impl Entry {
    /// What a server keeps of a value.
    pub(super) fn of(value: &SecretValue) -> Self {
        Self(Sha256::digest(value.expose()).into())
    }

    /// As a server prints it.
    pub(super) fn parse(hexadecimal: &str) -> Option<Self> {
        if hexadecimal.len() != 64 || !hexadecimal.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hexadecimal[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The modifier of `ACL SETUSER` that adds it.
    pub(super) fn add(self) -> String {
        format!("#{self}")
    }

    /// The modifier that removes it, and that fails where it is not.
    pub(super) fn remove(self) -> String {
        format!("!{self}")
    }

    fn head(self) -> [u8; 6] {
        part(&self.0)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(...)")
    }
}

/// The last attempt that changed a user, or one that is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    state: State,
    fence: u64,
    policy: [u8; 8],
    rotation: [u8; 6],
    candidate: [u8; 6],
}

/// What that attempt did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing yet: it compares with this.
    Begun = 0,
    /// The user accepts its value.
    Installed = 1,
    /// It was undone, or must not take effect any more.
    Withdrawn = 2,
    /// It took the user out of service.
    Retired = 3,
}

/// How a user's marker stands to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No marker, or one of an earlier attempt of the same policy.
    Open,
    /// The marker is this attempt's own.
    Own(State),
    /// A later attempt of the same policy was here.
    Later(Fence),
    /// Another policy holds the user.
    Foreign,
}

const MAGIC: &[u8; 5] = b"rekey";

/// As many attempts as a marker has room for.
pub(super) const LAST_FENCE: u64 = (1 << 48) - 1;

impl Marker {
    /// `candidate` is what the attempt installs or installed, if it is known to have installed anything.
    pub(super) fn new(attempt: &Attempt<'_>, state: State, candidate: Option<Entry>) -> Self {
        Self {
            state,
            fence: attempt.fence.number(),
            policy: digest(&attempt.policy.to_string()),
            rotation: digest(&attempt.rotation.to_string()),
            candidate: candidate.map(Entry::head).unwrap_or_default(),
        }
    }

    /// One that no other call has.
    pub(super) fn begun(attempt: &Attempt<'_>) -> Self {
        let call = RotationId::generate().to_string();
        Self {
            rotation: digest(&call),
            candidate: part(&Sha256::digest(call.as_bytes())[6..]),
            ..Self::new(attempt, State::Begun, None)
        }
    }

    /// The same attempt in another state.
    pub(super) const fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    pub(super) fn parse(entry: Entry) -> Option<Self> {
        let bytes = entry.0;
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let state = match bytes[5] {
            0 => State::Begun,
            1 => State::Installed,
            2 => State::Withdrawn,
            3 => State::Retired,
            _ => return None,
        };
        let mut fence = [0; 8];
        fence[2..].copy_from_slice(&bytes[6..12]);
        Some(Self {
            state,
            fence: u64::from_be_bytes(fence),
            policy: part(&bytes[12..]),
            rotation: part(&bytes[20..]),
            candidate: part(&bytes[26..]),
        })
    }

    pub(super) fn entry(&self) -> Entry {
        let mut bytes = [0; 32];
        bytes[..5].copy_from_slice(MAGIC);
        bytes[5] = self.state as u8;
        bytes[6..12].copy_from_slice(&self.fence.to_be_bytes()[2..]);
        bytes[12..20].copy_from_slice(&self.policy);
        bytes[20..26].copy_from_slice(&self.rotation);
        bytes[26..].copy_from_slice(&self.candidate);
        Entry(bytes)
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    pub(super) fn is_of(&self, policy: &PolicyName) -> bool {
        self.policy == digest(&policy.to_string())
    }

    /// Whether its attempt installed this.
    pub(super) fn installed(&self, entry: Entry) -> bool {
        self.candidate == entry.head()
    }

    /// A fence belongs to one rotation; the same number under another rotation means that the caller does not
    /// hold the claim it believes to hold.
    pub(super) fn standing(marker: Option<&Self>, attempt: &Attempt<'_>) -> Standing {
        let own = Self::new(attempt, State::Begun, None);
        match marker {
            None => Standing::Open,
            Some(marker) if marker.policy != own.policy => Standing::Foreign,
            Some(marker) if marker.fence < own.fence => Standing::Open,
            Some(marker) if marker.fence == own.fence && marker.rotation == own.rotation => {
                Standing::Own(marker.state)
            }
            Some(marker) => Standing::Later(Fence::new(marker.fence)),
        }
    }
}

fn digest<const N: usize>(text: &str) -> [u8; N] {
    part(&Sha256::digest(text.as_bytes()))
}

/// The head of some bytes, of which there are enough.
fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[..N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::Version;

    fn policy(name: &str) -> PolicyName {
        name.parse().expect("a policy name")
    }

    fn attempt(policy: &PolicyName, rotation: RotationId, fence: u64) -> Attempt<'_> {
        Attempt { policy, rotation, version: Version::new(17), fence: Fence::new(fence) }
    }

    fn value(text: &str) -> Entry {
        Entry::of(&SecretValue::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_value_is_kept_as_its_sha_256() {
        let printed = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(value("abc").to_string(), printed);
        assert_eq!(Entry::parse(printed), Some(value("abc")));
        assert_eq!(Marker::parse(value("abc")), None);
        for wrong in ["", "ba78", &printed.replace('b', "x"), &"é".repeat(32)] {
            assert_eq!(Entry::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_marker_survives_being_an_entry() {
        let name = policy("orders/cache");
        for state in [State::Begun, State::Installed, State::Withdrawn, State::Retired] {
            for fence in [1, 21, LAST_FENCE] {
                let attempt = attempt(&name, RotationId::generate(), fence);
                let marker = Marker::new(&attempt, state, Some(value("new")));
                let read = Entry::parse(&marker.entry().to_string()).and_then(Marker::parse);
                assert_eq!(read, Some(marker));
                assert!(marker.is_of(&name) && !marker.is_of(&policy("orders/other")));
                assert!(marker.installed(value("new")) && !marker.installed(value("old")));
            }
        }
    }

    #[test]
    fn no_two_calls_begin_with_the_same_entry() {
        let name = policy("orders/cache");
        let attempt = attempt(&name, RotationId::generate(), 1);
        assert_ne!(Marker::begun(&attempt).entry(), Marker::begun(&attempt).entry());
    }

    #[test]
    fn only_an_earlier_attempt_of_the_same_policy_gives_way() {
        let (ours, theirs) = (policy("orders/cache"), policy("billing/cache"));
        let (one, two) = (RotationId::generate(), RotationId::generate());
        let marker = Marker::new(&attempt(&ours, one, 21), State::Withdrawn, None);
        let standing = |attempt: Attempt<'_>| Marker::standing(Some(&marker), &attempt);
        assert_eq!(Marker::standing(None, &attempt(&ours, two, 1)), Standing::Open);
        assert_eq!(standing(attempt(&ours, two, 22)), Standing::Open);
        assert_eq!(standing(attempt(&ours, one, 21)), Standing::Own(State::Withdrawn));
        assert_eq!(standing(attempt(&ours, two, 21)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&ours, one, 20)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&theirs, two, 99)), Standing::Foreign);
    }
}
