//! What a place remembers of rekeyd, where it has room for a text that people read, too.
//!
//! `Orders service [rekeyd policy=orders/orders-db version=17]`
//!
//! The mark is written with the value in one request, so the two do not disagree. Text that people wrote around it is
//! kept. It says nothing of the value, from which it could be guessed.

use std::fmt;

use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, Version};

/// How a mark begins.
const OPENING: &str = "[rekeyd ";

/// Whose a place is, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) policy: PolicyName,
    pub(super) version: Version,
}

/// A person's text, and the mark if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) text: String,
    pub(super) mark: Option<Mark>,
}

/// It holds something that looks like a mark and cannot be read, or several of them: nothing follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnreadableMark;

impl Mark {
    /// Whether a place with this mark may be written with a version of a policy; whether it holds that already.
    ///
    /// # Errors
    /// `Conflict` where it is another policy's, or holds a later version.
    pub(super) fn stands(
        &self,
        policy: &PolicyName,
        version: Version,
        doing: &str,
        place: &str,
    ) -> Result<bool, Failure> {
        self.is_of(policy, doing, place)?;
        if self.version > version {
            let reason = format!("it holds {} already", self.version);
            return Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(format!(
                "see whether the store was restored; if the store is right, delete the {place}"
            )));
        }
        Ok(self.version == version)
    }

    /// # Errors
    /// `Conflict` where it is another policy's.
    pub(super) fn is_of(&self, policy: &PolicyName, doing: &str, place: &str) -> Result<(), Failure> {
        if self.policy == *policy {
            return Ok(());
        }
        let reason = format!("policy {} writes it already", self.policy);
        Err(Failure::new(FailureClass::Conflict, doing, reason).with_remedy(format!(
            "give each policy a {place} of its own; if {} is no more, take rekeyd's mark out of it",
            self.policy
        )))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OPENING}policy={} version={}]", self.policy, self.version.number())
    }
}

impl Description {
    pub(super) fn parse(text: &str) -> Result<Self, UnreadableMark> {
        let Some((before, rest)) = text.split_once(OPENING) else {
            return Ok(Self { text: text.trim_end().to_owned(), mark: None });
        };
        let (inside, after) = rest.split_once(']').ok_or(UnreadableMark)?;
        if after.contains(OPENING) {
            return Err(UnreadableMark);
        }
        let (before, after) = (before.trim_end(), after.trim());
        let gap = if before.is_empty() || after.is_empty() { "" } else { " " };
        let mark = parse_mark(inside).ok_or(UnreadableMark)?;
        Ok(Self { text: format!("{before}{gap}{after}"), mark: Some(mark) })
    }

    /// The same text under a mark of one's own.
    pub(super) fn under(&self, mark: &Mark) -> String {
        if self.text.is_empty() { mark.to_string() } else { format!("{} {mark}", self.text) }
    }
}

fn parse_mark(inside: &str) -> Option<Mark> {
    let (policy, version) = inside.strip_prefix("policy=")?.split_once(" version=")?;
    // A name without a namespace would be one of the default namespace, which is not how a mark is written.
    let policy = Some(policy).filter(|policy| policy.contains('/'))?;
    Some(Mark { policy: policy.parse().ok()?, version: Version::new(version.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark { policy: "orders/orders-db".parse().expect("a name"), version: Version::new(17) }
    }

    #[test]
    fn what_people_wrote_is_kept() {
        for text in ["", "Orders service", "line one\nline two", "a ] b [c]"] {
            let described = Description::parse(text).expect("no mark");
            assert_eq!(described, Description { text: text.into(), mark: None });
            let marked = described.under(&mark());
            let again = Description::parse(&marked).expect("a mark");
            assert_eq!(again, Description { text: text.into(), mark: Some(mark()) });
            assert_eq!(again.under(&mark()), marked);
        }
        let around = Description::parse(&format!("before {} after", mark())).expect("a mark");
        assert_eq!(around.text, "before after");
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_no_mark_to_build_on() {
        for text in [
            "[rekeyd ",
            "[rekeyd ]",
            "[rekeyd policy=orders/orders-db]",
            "[rekeyd policy=orders version=1]",
            "[rekeyd policy=orders/orders-db version=-1]",
            "[rekeyd policy=orders/orders-db version=1 x=2]",
            &format!("{}{}", mark(), mark()),
        ] {
            assert_eq!(Description::parse(text), Err(UnreadableMark), "{text}");
        }
    }

    #[test]
    fn who_may_write_over_it() {
        let own: PolicyName = "orders/orders-db".parse().expect("a name");
        let stands = |version| mark().stands(&own, Version::new(version), "write it", "credential");
        assert_eq!(stands(18), Ok(false));
        assert_eq!(stands(17), Ok(true));
        assert_eq!(stands(16).expect_err("a later one").class(), FailureClass::Conflict);
        let other = "billing/db".parse().expect("a name");
        let refused = mark().stands(&other, Version::new(99), "write it", "credential");
        assert_eq!(refused.expect_err("another's").class(), FailureClass::Conflict);
    }
}
