//! What a server remembers of rekeyd about an account: the last attempt, and when sessions began.
//!
//! **MySQL** keeps it in the account's `ATTRIBUTE`, which the statement that changes the password sets, too.
//!
//! **MariaDB** has no place in an account, and a statement that changes one cannot be part of a transaction. So
//! it has a row in `rekeyd.accounts`, and the two are written one after the other under the account's lock, the
//! row first. What can happen between them:
//!
//! | the process or the server dies | the row says | the account has | what follows |
//! |---|---|---|---|
//! | before the row | the earlier attempt | the earlier value | the attempt is repeated |
//! | between row and account | this one, `installing` | the earlier value | the attempt is repeated, or undone: both write the account again |
//! | before the row's second writing | this one, `installing` | the candidate | the same |
//!
//! At every moment the row is of the attempt that changed the account last, or of a later one: whoever comes
//! late finds a fence that is not below its own. It cannot come between the two either, as it has to hold the
//! lock (`GET_LOCK`), which is the session's that runs both; a server runs nothing more for a session that
//! has lost it. A session that stays silent between reading and writing is ended by the server itself
//! (`wait_timeout`), and its lock with it.
//!
//! The lock is one server's: of a Galera cluster, one node alone has to be the endpoint. A proxy that
//! shares its sessions among clients must not be.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::connect::Flavor;
use super::sql::{account, literal};
use crate::ident::{Fence, PolicyName, RotationId, Version};
use crate::target::Attempt;

/// The last attempt that changed an account, and what is known of when its sessions began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    policy: PolicyName,
    version: Version,
    fence: Fence,
    rotation: RotationId,
    state: State,
    #[serde(default)]
    marks: Vec<Mark>,
}

/// What that attempt did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// It is about to make its value the account's, or has done so.
    Installing,
    /// Its value is the account's password.
    Installed,
    /// It was undone, or must not take effect any more.
    Withdrawn,
    /// It took the account out of service.
    Retired,
}

/// A moment, and the first session after it. A server does not tell when a session began; it numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When the server started, by its own clock: numbers begin anew then.
    pub(super) boot: i64,
    pub(super) session: u64,
    /// In microseconds.
    pub(super) at: i64,
}

/// Which of two sessions came first. Servers count them in four bytes and begin anew after the last number; so numbers are
/// compared by how far they are from a session that began just now. One that has lived through four billion others
/// would pass for a new one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    now: u32,
}

impl Numbers {
    /// Seen by a session that began just now.
    pub(super) const fn at(session: u64) -> Self {
        Self { now: session as u32 }
    }

    /// Before all that are counted, for whom nothing is before.
    const NONE: u64 = 0;

    pub(super) fn is_before(self, session: u64, first: u64) -> bool {
        first != Self::NONE && self.place(session) < self.place(first)
    }

    fn place(self, session: u64) -> i64 {
        /// So many may have come since.
        const LATER: u32 = 1 << 24;
        let ahead = (session as u32).wrapping_sub(self.now);
        if ahead < LATER { i64::from(ahead) } else { i64::from(ahead) - (1 << 32) }
    }
}

/// How an account's marker stands to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// No marker, or one of an earlier attempt of the same policy.
    Open,
    /// The marker is this attempt's own.
    Own(State),
    /// A later attempt of the same policy was here.
    Later(Fence),
    /// Another policy holds the account.
    Foreign(PolicyName),
}

/// How many moments are remembered. An earlier one is taken for the earliest of them, which ends more sessions
/// and never fewer.
const MARKS: usize = 8;

impl Marker {
    /// The marker of an attempt, in the place of another.
    pub(super) fn new(attempt: &Attempt<'_>, state: State, before: Option<&Self>) -> Self {
        Self {
            policy: attempt.policy.clone(),
            version: attempt.version,
            fence: attempt.fence,
            rotation: attempt.rotation,
            state,
            marks: before.map(|before| before.marks.clone()).unwrap_or_default(),
        }
    }

    /// With another moment, which is made to come after those before.
    pub(super) fn with_mark(mut self, mark: Mark) -> (Self, Timestamp) {
        let latest = self.marks.iter().map(|mark| mark.at).max();
        let at = mark.at.max(latest.map_or(i64::MIN, |latest| latest.saturating_add(1)));
        self.marks.push(Mark { at, ..mark });
        let surplus = self.marks.len().saturating_sub(MARKS);
        self.marks.drain(..surplus);
        (self, timestamp(at))
    }

    pub(super) fn parse(json: &str) -> Result<Self, UnreadableMarker> {
        serde_json::from_str(json).map_err(|_| UnreadableMarker)
    }

    pub(super) const fn policy(&self) -> &PolicyName {
        &self.policy
    }

    /// Whether the account is one that rekeyd gives its values. An attempt that was undone may have found somebody else's
    /// there, and left it.
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

    /// The statement that writes it: on MariaDB.
    pub(super) fn row(&self, user: &str, host: &str) -> String {
        format!(
            "REPLACE INTO rekeyd.accounts (user, host, marker) VALUES ({}, {}, {})",
            literal(user),
            literal(host),
            literal(&self.json())
        )
    }

    /// The clause that writes it: on MySQL, at the end of a statement about the account.
    pub(super) fn attribute(&self) -> String {
        format!(" ATTRIBUTE {}", literal(&format!("{{\"rekeyd\": {}}}", self.json())))
    }

    /// The statement that writes it and nothing else.
    pub(super) fn write(&self, flavor: Flavor, user: &str, host: &str) -> String {
        match flavor {
            Flavor::MariaDb => self.row(user, host),
            Flavor::MySql => format!("ALTER USER {}{}", account(user, host), self.attribute()),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }

    /// The first session that began after a moment, for sure; `None` if that is not known.
    pub(super) fn first_session_after(&self, boot: i64, moment: Timestamp, numbers: Numbers) -> Option<u64> {
        let moment = moment.as_microsecond();
        let marks = self.marks.iter().filter(|mark| mark.boot == boot && mark.at >= moment);
        if let Some(session) = marks.map(|mark| mark.session).min_by_key(|session| numbers.place(*session)) {
            return Some(session);
        }
        // The server started since then, so every session did.
        let restarted = self.marks.iter().any(|mark| mark.boot != boot && mark.at >= moment);
        restarted.then_some(Numbers::NONE)
    }

    /// A time by which a session had not begun, or one by which it had where that is after every moment that
    /// counts: either way it is on the right side of them.
    pub(super) fn since(
        marker: Option<&Self>,
        boot: i64,
        session: u64,
        latest: i64,
        numbers: Numbers,
    ) -> Timestamp {
        let marks = marker.map(|marker| marker.marks.as_slice()).unwrap_or_default();
        let ours = || marks.iter().filter(|mark| mark.boot == boot);
        let former = marks.iter().filter(|mark| mark.boot != boot).map(|mark| mark.at);
        let start = former.fold(boot.saturating_mul(1_000_000), i64::max);
        let is_after = |mark: &&Mark| !numbers.is_before(session, mark.session);
        let earliest = ours().filter(is_after).map(|mark| mark.at).max();
        let is_newest = ours().all(|mark| is_after(&mark)) && !marks.is_empty();
        let earliest = earliest.unwrap_or(start);
        timestamp(if is_newest { earliest.max(latest) } else { earliest })
    }
}

/// Where MariaDB keeps markers.
pub(super) const TABLE: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS rekeyd",
    "CREATE TABLE IF NOT EXISTS rekeyd.accounts (user VARCHAR(128) NOT NULL, host VARCHAR(255) NOT NULL, \
     marker TEXT NOT NULL, PRIMARY KEY (user, host)) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
];

fn timestamp(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX)
}

/// The marker of an account cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what rekeyd keeps of it at the server cannot be read")]
pub(super) struct UnreadableMarker;

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> PolicyName {
        name.parse().expect("a policy name")
    }

    fn attempt(policy: &PolicyName, rotation: RotationId, fence: u64) -> Attempt<'_> {
        Attempt { policy, rotation, version: Version::new(17), fence: Fence::new(fence) }
    }

    fn marked(marks: &[(i64, u64, i64)]) -> Marker {
        let name = policy("orders/db");
        let marker = Marker::new(&attempt(&name, RotationId::generate(), 21), State::Installed, None);
        let marks = marks.iter().map(|(boot, session, at)| Mark { boot: *boot, session: *session, at: *at });
        marks.fold(marker, |marker, mark| marker.with_mark(mark).0)
    }

    #[test]
    fn a_marker_is_read_as_it_was_written_and_nothing_is_concluded_from_a_damaged_one() {
        let marker = marked(&[(1, 2, 3)]);
        let json = marker.json();
        assert_eq!(Marker::parse(&json), Ok(marker));
        for damaged in ["", "{}", &json.replace("21", "\"many\""), &json.replace("installed", "gone")] {
            assert_eq!(Marker::parse(damaged), Err(UnreadableMarker), "{damaged}");
        }
    }

    #[test]
    fn only_an_earlier_attempt_of_the_same_policy_gives_way() {
        let (ours, theirs) = (policy("orders/db"), policy("billing/db"));
        let (one, two) = (RotationId::generate(), RotationId::generate());
        let marker = Marker::new(&attempt(&ours, one, 21), State::Withdrawn, None);
        let standing = |attempt: Attempt<'_>| Marker::standing(Some(&marker), &attempt);
        assert_eq!(Marker::standing(None, &attempt(&ours, two, 1)), Standing::Open);
        assert_eq!(standing(attempt(&ours, two, 22)), Standing::Open);
        assert_eq!(standing(attempt(&ours, one, 21)), Standing::Own(State::Withdrawn));
        assert_eq!(standing(attempt(&ours, two, 21)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&ours, one, 20)), Standing::Later(Fence::new(21)));
        assert_eq!(standing(attempt(&theirs, two, 99)), Standing::Foreign(ours));
    }

    #[test]
    fn a_session_is_on_the_right_side_of_every_moment() {
        const BOOT: i64 = 1_000;
        let numbers = Numbers::at(25);
        let marker = marked(&[(BOOT, 10, 2_000_000_000), (BOOT, 20, 3_000_000_000)]);
        let moments = [timestamp(2_000_000_000), timestamp(3_000_000_000)];
        let latest = 9_000_000_000;
        for (session, before) in
            [(5, [true, true]), (10, [false, true]), (19, [false, true]), (20, [false, false])]
        {
            let since = Marker::since(Some(&marker), BOOT, session, latest, numbers);
            assert_eq!(moments.map(|moment| since < moment), before, "{session}");
            let first =
                moments.map(|moment| marker.first_session_after(BOOT, moment, numbers).expect("known"));
            assert_eq!(first.map(|first| session < first), before, "{session}");
        }
        // A time that no moment is known for is taken for the next one, and a later one is not known.
        assert_eq!(marker.first_session_after(BOOT, timestamp(2_500_000_000), numbers), Some(20));
        assert_eq!(marker.first_session_after(BOOT, timestamp(3_000_000_001), numbers), None);
        // After a restart numbers begin anew, and all sessions are new, whatever the clock says.
        for boot in [BOOT - 500, BOOT + 5_000] {
            assert!(Marker::since(Some(&marker), boot, 3, latest, numbers) >= moments[1]);
            let first = marker.first_session_after(boot, moments[1], numbers).expect("known");
            assert!(!numbers.is_before(3, first));
        }
        // Nothing is known: every session may be an old one.
        assert_eq!(Marker::since(None, BOOT, 3, latest, numbers), timestamp(BOOT * 1_000_000));
    }

    /// Where the last number is near, an old session has a high one, and a new one may have a low one.
    #[test]
    fn numbers_that_begin_anew_are_on_the_right_side_too() {
        const BOOT: i64 = 1_000;
        const LAST: u64 = u32::MAX as u64;
        let moment = timestamp(2_000_000_000);
        for (mark, now, old, new) in [
            // The mark was set before the last number,
            (LAST - 5, 40, [7 << 29, LAST - 6], &[LAST - 5, LAST, 1, 39, 41][..]),
            // or after it,
            (30, 40, [7 << 29, 29], &[30, 41, 5_000]),
            // or that is still to come.
            (LAST - 5, LAST - 2, [1 << 25, LAST - 6], &[LAST - 5, LAST - 1, 3]),
            // Many came since.
            (3_000_000_000, LAST - 2, [1 << 25, 2_999_999_999], &[3_000_000_001, LAST, 1]),
        ] {
            let (marker, numbers) = (marked(&[(BOOT, mark, 2_000_000_000)]), Numbers::at(now));
            let first = marker.first_session_after(BOOT, moment, numbers).expect("known");
            for (session, is_old) in
                old.map(|old| (old, true)).into_iter().chain(new.iter().map(|new| (*new, false)))
            {
                assert_eq!(numbers.is_before(session, first), is_old, "{session} at {now}");
                let since = Marker::since(Some(&marker), BOOT, session, 9_000_000_000, numbers);
                assert_eq!(since < moment, is_old, "{session} at {now}");
            }
        }
    }

    #[test]
    fn moments_follow_one_another_whatever_the_clock_says_and_few_are_kept() {
        let marker = marked(&[(1, 10, 500), (1, 20, 400), (1, 30, 400)]);
        assert_eq!(marker.marks.iter().map(|mark| mark.at).collect::<Vec<_>>(), [500, 501, 502]);
        let many: Vec<_> = (1..=20).map(|number| (1, number, number as i64)).collect();
        let marker = marked(&many);
        assert_eq!(marker.marks.len(), MARKS);
        assert_eq!(
            marker.first_session_after(1, timestamp(2), Numbers::at(20)),
            Some(13),
            "more sessions, not fewer"
        );
    }
}
