//! Bugs that rotation software is known for, each one switch.

use std::cell::Cell;
use std::sync::LazyLock;

/// A seeded bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// Whoever takes a rotation up makes a value of his own.
    FreshValueOnRetry,
    /// The target is told before the candidate is durable.
    SetBeforeDurable,
    /// The candidate becomes durable in a transaction that ends after the target was told.
    IntentInTransaction,
    /// The outgoing value is retired before its readers have moved.
    RetireBeforeConvergence,
    /// No answer to an install counts as a refusal.
    TimeoutAsRefusal,
    /// The rotation is closed before its value is in force.
    ClosedBeforePromote,
    /// The control document is written whatever it has become.
    BlindDocument,
    /// A remote ledger that went another way is overwritten.
    ForcePush,
    /// Readers are told by the time of day instead of the version.
    TimestampRestart,
    /// The candidate replaces whatever the store holds.
    PromoteWithoutCompare,
    /// The outgoing value is retired when its time is over, whoever still needs it.
    RetireByTimer,
    /// Whoever takes a rotation up follows the policy as it is now.
    ResumeWithEditedPolicy,
    /// A second value is set in an account without a look at what it has: the earlier one is pushed out.
    BlindRetain,
    /// Where an account is full, its oldest value makes room.
    DeleteOldest,
    /// A value is brought back although somebody else may be about to retire it.
    RevertUnbarred,
    /// Keys are listed for deletion when the claim was last looked at, not before.
    ListedLate,
    /// What was made in vain is left.
    OrphansStay,
    /// Whoever has a key keeps it, although somebody else has asked since.
    KeptWhoeverAsked,
    /// A key that was made is used before the run document has it.
    KeptInMemory,
    /// A workload's template is written whatever it has become meanwhile.
    BlindRestart,
    /// A Secret is written whatever it has become meanwhile.
    BlindSecret,
    /// A workload that was told of a version is taken for one whose pods have it.
    ToldIsMoved,
}

/// The bug that the whole process was asked to have: `REKEYD_MUTANT=set before durable`.
static ASKED: LazyLock<Option<Mutant>> = LazyLock::new(Mutant::asked_for);

thread_local! {
    static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
}

impl Mutant {
    /// All of them that any target and any reader shows.
    pub const ALL: [Self; 15] = [
        Self::FreshValueOnRetry,
        Self::SetBeforeDurable,
        Self::IntentInTransaction,
        Self::RetireBeforeConvergence,
        Self::TimeoutAsRefusal,
        Self::ClosedBeforePromote,
        Self::BlindDocument,
        Self::ForcePush,
        Self::TimestampRestart,
        Self::PromoteWithoutCompare,
        Self::RetireByTimer,
        Self::ResumeWithEditedPolicy,
        Self::BlindRetain,
        Self::DeleteOldest,
        Self::RevertUnbarred,
    ];

    /// Those that only a target shows which makes its values itself.
    pub const OF_KEYS: [Self; 2] = [Self::ListedLate, Self::KeptInMemory];

    /// Those of keys that histories from seeds have not been seen to find, and an exhaustive search does.
    pub const OF_KEYS_IN_VAIN: [Self; 2] = [Self::OrphansStay, Self::KeptWhoeverAsked];

    /// Those that only a cluster shows.
    pub const OF_CLUSTERS: [Self; 3] = [Self::BlindRestart, Self::BlindSecret, Self::ToldIsMoved];

    /// As reports name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FreshValueOnRetry => "a fresh value on retry",
            Self::SetBeforeDurable => "set before durable",
            Self::IntentInTransaction => "intent inside a transaction that spans the call",
            Self::RetireBeforeConvergence => "retire before convergence",
            Self::TimeoutAsRefusal => "a timeout read as a refusal",
            Self::ClosedBeforePromote => "closed before promote",
            Self::BlindDocument => "control document written blindly (ABA)",
            Self::ForcePush => "force push",
            Self::TimestampRestart => "restart by timestamp",
            Self::PromoteWithoutCompare => "promote without compare-and-set",
            Self::RetireByTimer => "retire by timer alone",
            Self::ResumeWithEditedPolicy => "resume with the edited policy",
            Self::BlindRetain => "a second password set blindly (RETAIN)",
            Self::DeleteOldest => "the oldest key deleted to make room",
            Self::RevertUnbarred => "a value brought back while it is being retired",
            Self::ListedLate => "keys listed for deletion after the last look at the claim",
            Self::OrphansStay => "keys that were made in vain left",
            Self::KeptWhoeverAsked => "a key kept whoever asked last",
            Self::KeptInMemory => "a key used before it is durable",
            Self::BlindRestart => "a workload restarted at whatever revision",
            Self::BlindSecret => "a Secret written at whatever revision",
            Self::ToldIsMoved => "a changed template taken for changed pods",
        }
    }

    /// Whether it is switched on in this thread, or in the process.
    #[must_use]
    pub fn is_on(self) -> bool {
        ON.get().or(*ASKED) == Some(self)
    }

    #[expect(clippy::disallowed_methods, reason = "no settings are read here")]
    fn asked_for() -> Option<Self> {
        let name = std::env::var("REKEYD_MUTANT").ok()?;
        let of_keys = Self::OF_KEYS.into_iter().chain(Self::OF_KEYS_IN_VAIN);
        let mut all = Self::ALL.into_iter().chain(of_keys).chain(Self::OF_CLUSTERS);
        let known = all.find(|mutant| mutant.as_str() == name);
        Some(known.unwrap_or_else(|| panic!("REKEYD_MUTANT names no seeded bug: `{name}`")))
    }

    /// Runs work in this thread with one bug switched on, or with none.
    pub fn within<T>(mutant: Option<Self>, work: impl FnOnce() -> T) -> T {
        struct Restore(Option<Mutant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ON.set(self.0);
            }
        }
        let _restore = Restore(ON.replace(mutant));
        work()
    }
}
