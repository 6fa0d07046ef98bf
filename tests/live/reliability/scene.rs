//! How a process gets to a point.

use super::{Kind, Pair};

/// Points that are not reached here: those that only readers in a cluster lead to (some move while others cannot be
/// told, or are mended), those of keys and of a containment that is given up, which the simulation plays, and those of other systems. `super::elsewhere` looks
/// whether somebody does play them.
pub(super) const PLAYED_ELSEWHERE: [&str; 21] = [
    "copy.",
    "forgive/",
    "http.",
    "jenkins.",
    "kubernetes.",
    "mend/",
    "publish/store.",
    "mint/",
    "mint.",
    "retire/target.keys",
    "retire/target.usage",
    "retire/store.",
    "withdraw/target.keys",
    "withdraw/store.",
    "mysql.",
    "rabbitmq.",
    "redis.",
    "clickhouse.",
    "aws.",
    "vault.probe.",
    "vault.retire.",
];

/// What leads to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// A rotation.
    Rotate,
    /// A leak is contained.
    Contain,
    /// One while a session of the outgoing value lives on, longer than its grace.
    Lingering,
    /// One of two readers is away until the process is gone.
    OneAway,
    /// The first of a policy.
    First,
    /// One is taken up that was killed when the target had the candidate.
    Resume,
    /// The policy's check fails with the candidate.
    Back,
    /// The same, taken up by another process: whoever opened it knows that there is nothing to bar.
    BackAgain,
    /// The same, after somebody else wrote to the store.
    BackForeign,
    /// One that was killed is given up.
    Abandon,
    /// Somebody else wrote to the store, so that a rotation that is taken up is in doubt.
    Doubted,
    /// Somebody else set a value at the target too, and a person keeps it.
    Kept,
    /// It stands still at another point first, and somebody else finishes the rotation.
    Raced(&'static str),
    /// The same in a policy's first rotation.
    RacedFirst(&'static str),
    /// Somebody deletes what the reader was given, while the rotation stands still.
    Deleted,
    /// A daemon starts.
    Attend,
    /// A daemon tries the value in force from time to time.
    Verify,
    /// A daemon starts, and the ledger has lost its last record.
    AttendLost,
    /// The ledger has as many packs as may be.
    Merge,
    /// Somebody else pushed to the remote.
    Rebase,
    /// The ledger's folder is lost; the remote is not.
    Fetch,
}

impl Scene {
    /// What leads to a point; `None` where this pair does not have it.
    pub(super) fn of(point: &str, pair: Pair) -> Option<Self> {
        let Pair { in_openbao, kind } = pair;
        let in_place = kind == Kind::InPlace;
        if kind == Kind::Generated && needs_a_target(point) {
            return None;
        }
        Some(match point {
            // Played in tests of its own.
            _ if PLAYED_ELSEWHERE.iter().any(|on| point.starts_with(on)) => return None,
            "look/ledger.append" => Self::AttendLost,
            "look/target.probe" => Self::Verify,
            _ if point.starts_with("look/") => Self::Attend,
            _ if point.starts_with("reopen/") => Self::Resume,
            "turn/store.save" | "hold/store.current" | "hold/store.promote" if kind == Kind::Generated => {
                Self::Abandon
            }
            "install/store.save" | "install/store.control" | "install/store.current" if !in_place => {
                return None;
            }
            "install/store.control" | "install/store.current" => Self::Raced("install/store.save"),
            "publish/consumer.reload" | "publish/consumer.reach" => Self::OneAway,
            "promote/store.save" | "file.publish.noted" => Self::First,
            "promote/store.control" => Self::RacedFirst("promote/store.save"),
            "promote/store.current" => Self::Raced("promote/store.promote"),
            "converge/consumer.reload" => Self::Deleted,
            "converge/store.save" | "converge/store.control" | "converge/store.current" => Self::Lingering,
            "turn/store.control" | "turn/store.current" => Self::Abandon,
            "turn/target.probe" => Self::Doubted,
            "turn/consumer.observe" => Self::Kept,
            "hold/store.promote" => Self::BackAgain,
            "hold/consumer.observe" => Self::BackForeign,
            _ if point.starts_with("withdraw/") && in_place => return None,
            _ if point.starts_with("restore/") && !in_place => return None,
            _ if ["turn/", "hold/", "withdraw/", "restore/"].iter().any(|on| point.starts_with(on)) => {
                Self::Back
            }
            "close/store.control" | "close/store.current" => Self::Raced("close/store.save"),
            _ if point.starts_with("embedded.") && in_openbao => return None,
            _ if point.starts_with("vault.") && !in_openbao => return None,
            // No pair has its value there: played on the strict service of `tests/it/aws`.
            "vault.save.limited" => Self::Rotate,
            // In place nobody is retired as a whole.
            _ if point.starts_with("postgres.retire.") && in_place => return None,
            "git.merge.placed" => Self::Merge,
            "git.push.rebased" => Self::Rebase,
            "git.push.fetched" => Self::Fetch,
            // A containment does not ask whether it may begin, nor waits for those who are slow.
            "open/consumer.rehearse"
            | "converge/target.usage"
            | "retire/consumer.publish"
            | "retire/consumer.reload"
            | "retire/consumer.reach" => Self::Rotate,
            // Either of the two in half of the pairs.
            _ if in_openbao => Self::Contain,
            _ => Self::Rotate,
        })
    }

    /// Whether it leaves a stage that others cannot play on.
    pub(super) const fn needs_a_stage_of_its_own(self) -> bool {
        use Scene::{AttendLost, BackForeign, Doubted, First, Kept, Merge, OneAway, RacedFirst};
        matches!(self, First | OneAway | RacedFirst(_) | AttendLost | Merge | BackForeign | Doubted | Kept)
    }

    pub(super) const fn begins_without_a_value(self) -> bool {
        matches!(self, Self::First | Self::RacedFirst(_))
    }

    pub(super) const fn has_a_remote(self) -> bool {
        !matches!(self, Self::AttendLost | Self::Merge)
    }

    /// Where the process stands still before it gets to the point.
    pub(super) const fn halt(self) -> Option<&'static str> {
        match self {
            Self::Raced(at) | Self::RacedFirst(at) => Some(at),
            Self::Deleted => Some("restart/consumer.reload"),
            _ => None,
        }
    }
}

/// Whether only a rotation gets there whose value a server accepts or refuses.
fn needs_a_target(point: &str) -> bool {
    const PHASES: [&str; 7] =
        ["install/", "verify/", "converge/", "retire/", "prove/", "withdraw/", "restore/"];
    point.contains("/target.")
        || point.starts_with("postgres.")
        || PHASES.iter().any(|phase| point.starts_with(phase))
        // A person has nothing to choose from.
        || ["turn/consumer.observe", "hold/consumer.observe"].contains(&point)
}
