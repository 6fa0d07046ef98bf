//! What a user remembers of rekeyd: the name of a settings profile that sets nothing.
//!
//! ```text
//! [rekeyd policy=orders/olap version=17 fence=21 rotation=0190... state=installed] orders_a
//! [rekeyd policy=orders/olap version=17 fence=21 rotation=0190... state=installed] claim orders_a
//! ```
//!
//! The user's name is in it because profiles are one set for all users. A claim says that an attempt is at the user,
//! and that it changed nothing yet.

use super::sql::idents;
use crate::failure::{Failure, FailureClass};
use crate::ident::{Fence, PolicyName, Principal};
use crate::policy::spec::ClickhouseNode;
use crate::target::Attempt;
use crate::target::marker::{Comment, Marker, OPENING, Standing as Plain, State};

/// A profile of rekeyd's that a user has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    marker: Marker,
    is_claim: bool,
}

const CLAIM: &str = "claim ";

impl Entry {
    pub(super) fn claim(attempt: &Attempt<'_>, user: &Principal) -> Self {
        let marker = Marker::new(attempt, State::Installed);
        Self { name: format!("{marker} {CLAIM}{user}"), marker, is_claim: true }
    }

    pub(super) fn new(attempt: &Attempt<'_>, state: State, user: &Principal) -> Self {
        let marker = Marker::new(attempt, state);
        Self { name: format!("{marker} {user}"), marker, is_claim: false }
    }

    /// `None` for a profile that is none of rekeyd's.
    ///
    /// # Errors
    /// When it looks like one and cannot be read.
    fn parse(name: &str) -> Result<Option<Self>, ()> {
        let comment = Comment::parse(name).map_err(drop)?;
        let is_claim = comment.text().starts_with(CLAIM);
        Ok(comment.marker().map(|marker| Self { name: name.to_owned(), marker: marker.clone(), is_claim }))
    }

    /// Whether a setting of a user, as the server shows it, is such a profile.
    pub(super) fn is_in_setting(setting: &str) -> bool {
        setting.starts_with("PROFILE ") && setting.contains(OPENING)
    }

    /// Of two that a user has, the greater one counts.
    fn weight(&self) -> (Fence, u8) {
        let state = match self.marker.state() {
            _ if self.is_claim => 0,
            State::Installed => 1,
            State::Retired => 2,
            State::Withdrawn => 3,
        };
        (self.marker.fence(), state)
    }
}

/// The profiles of rekeyd's that a user has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entries {
    all: Vec<Entry>,
    unreadable: Vec<String>,
}

/// How a user stands to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// No marker, or one of an earlier attempt of the same policy.
    Open,
    /// This attempt is at it, and changed nothing yet.
    Claimed,
    /// The marker is this attempt's own.
    Own(State),
    /// A later attempt of the same policy was here.
    Later(Fence),
}

impl Entries {
    pub(super) fn add(&mut self, profile: &str) {
        match Entry::parse(profile) {
            Ok(None) => {}
            Ok(Some(entry)) => self.all.push(entry),
            Err(()) => self.unreadable.push(profile.to_owned()),
        }
    }

    /// # Errors
    /// When another policy holds the user, or what stands there cannot be read.
    pub(super) fn standing(
        &self,
        attempt: &Attempt<'_>,
        user: &Principal,
        node: &ClickhouseNode,
        doing: &str,
    ) -> Result<Standing, Failure> {
        if !self.unreadable.is_empty() {
            let reason = "it has a settings profile that looks like a marker and cannot be read";
            return Err(Failure::new(FailureClass::Conflict, doing, reason)
                .with_remedy(format!("see who made it; to begin anew: {}", self.forget(node))));
        }
        if let Some(policy) = self.foreign(attempt.policy) {
            return Err(foreign(policy, user, &self.forget(node), doing));
        }
        let Some(entry) = self.strongest() else { return Ok(Standing::Open) };
        Ok(match Marker::standing(Some(&entry.marker), attempt) {
            Plain::Open | Plain::Foreign(_) => Standing::Open,
            Plain::Own(_) if entry.is_claim => Standing::Claimed,
            Plain::Own(state) => Standing::Own(state),
            Plain::Later(by) => Standing::Later(by),
        })
    }

    /// Another policy that holds the user.
    pub(super) fn foreign(&self, policy: &PolicyName) -> Option<&PolicyName> {
        self.all.iter().map(|entry| entry.marker.policy()).find(|other| *other != policy)
    }

    pub(super) fn strongest(&self) -> Option<&Entry> {
        self.all.iter().max_by_key(|entry| entry.weight())
    }

    /// Whether the user is one that rekeyd gives its values. A claim changed nothing.
    pub(super) fn vouch(&self) -> bool {
        let changes = self.all.iter().filter(|entry| !entry.is_claim);
        Marker::vouches(changes.max_by_key(|entry| entry.weight()).map(|entry| &entry.marker))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all.iter().any(|entry| entry.name == name)
    }

    /// The statement that drops all but this one; `None` where there is nothing to be dropped.
    pub(super) fn drop_all_but(&self, name: &str) -> Option<String> {
        let names: Vec<&str> =
            self.all.iter().map(|entry| entry.name.as_str()).filter(|other| *other != name).collect();
        (!names.is_empty()).then(|| format!("DROP SETTINGS PROFILE IF EXISTS {}", idents(names)))
    }

    /// The statement that takes all of them away.
    pub(super) fn forget(&self, node: &ClickhouseNode) -> String {
        let names = self.all.iter().map(|entry| &entry.name).chain(&self.unreadable).map(String::as_str);
        format!("on {node}: DROP SETTINGS PROFILE {}", idents(names))
    }
}

pub(super) fn foreign(policy: &PolicyName, user: &Principal, forget: &str, doing: &str) -> Failure {
    Failure::new(FailureClass::Conflict, doing, format!("policy {policy} holds user {user}"))
        .with_remedy(format!("let one policy alone rotate it; if {policy} no longer exists, {forget}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::{RotationId, Version};

    fn attempt(policy: &PolicyName, rotation: RotationId, fence: u64) -> Attempt<'_> {
        Attempt { policy, rotation, version: Version::new(17), fence: Fence::new(fence) }
    }

    #[test]
    fn of_several_the_latest_counts() {
        let (policy, user): (PolicyName, Principal) =
            ("orders/olap".parse().expect("a name"), "orders a".parse().expect("a user"));
        let (one, two) = (RotationId::generate(), RotationId::generate());
        let node = ClickhouseNode { host: "olap".into(), port: 8443 };
        let standing = |names: &[&Entry], attempt: &Attempt<'_>| {
            let mut entries = Entries::default();
            names.iter().for_each(|entry| entries.add(&entry.name));
            entries.add("readonly");
            entries.standing(attempt, &user, &node, "look")
        };
        let own = attempt(&policy, one, 21);
        let claim = Entry::claim(&own, &user);
        let installed = Entry::new(&own, State::Installed, &user);
        let withdrawn = Entry::new(&own, State::Withdrawn, &user);
        let later = Entry::claim(&attempt(&policy, two, 22), &user);
        assert_eq!(standing(&[], &own), Ok(Standing::Open));
        assert_eq!(standing(&[&claim], &own), Ok(Standing::Claimed));
        assert_eq!(standing(&[&installed, &claim], &own), Ok(Standing::Own(State::Installed)));
        assert_eq!(standing(&[&withdrawn, &installed], &own), Ok(Standing::Own(State::Withdrawn)));
        assert_eq!(standing(&[&installed, &later], &own), Ok(Standing::Later(Fence::new(22))));
        assert_eq!(standing(&[&installed], &attempt(&policy, two, 22)), Ok(Standing::Open));
        assert_eq!(standing(&[&installed], &attempt(&policy, two, 21)), Ok(Standing::Later(Fence::new(21))));
        let other = "billing/olap".parse().expect("a name");
        let failure = standing(&[&installed], &attempt(&other, two, 99)).expect_err("it was taken");
        assert_eq!(failure.class(), FailureClass::Conflict);
        let damaged = Entry { name: installed.name.replace("fence=21", "fence=x"), ..installed };
        assert_eq!(standing(&[&damaged], &own).expect_err("read").class(), FailureClass::Conflict);
    }
}
