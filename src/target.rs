//! The system that accepts a credential.
//!
//! A [`Target`] takes a value that rekeyd made ([`install`](Target::install)), or makes one itself
//! ([`mint`](Target::mint)); the other verbs and the preflight are the same for both. No verb retries: the
//! engine does, deciding on [`FailureClass`](crate::failure::FailureClass) alone. All but `mint` are
//! idempotent. Every call ends within the deadlines that the adapter was built with.

pub mod aws_iam;
pub mod clickhouse;
pub mod dial;
pub mod exec;
pub mod http;
mod life;
mod marker;
pub mod mysql;
pub mod postgres;
mod probe;
pub mod rabbitmq;
pub mod redis;
pub mod service_account;
mod trial;
pub mod vault;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::probe::{Probe, ProbeDepth};
use crate::failure::{Failure, FailureClass, Finding};
use crate::ident::{Fence, PolicyName, Principal, RotationId, Version};
use crate::policy::spec::Interval;
pub use crate::secret::AdminCredential;
use crate::secret::Credential;
pub(in crate::target) use crate::tls;

/// What rekeyd's own sessions call themselves.
pub const APPLICATION: &str = "rekeyd";

/// A system that accepts credentials.
#[async_trait]
pub trait Target: Send + Sync {
    /// Makes the target accept the candidate and leaves the marker of this attempt with it, in one
    /// transaction where the target has them. Repeating it with the same candidate is always right.
    ///
    /// Returns [`Installed::Superseded`] and changes nothing when the marker shows a later attempt: the
    /// caller has lost its claim.
    ///
    /// Never asked of a target that makes values itself.
    async fn install(&self, request: InstallRequest<'_>) -> Result<Installed, Failure> {
        let doing = format!("install {}", request.candidate.principal);
        Err(Failure::new(FailureClass::Invalid, doing, "this target makes its values itself"))
    }

    /// The keys that an owner has now.
    async fn keys(&self, owner: &Principal) -> Result<Vec<Key>, Failure> {
        Err(mints_nothing(owner))
    }

    /// Has the target make a key for an owner, tagged with the attempt where the target has a place for that.
    /// Not idempotent: each call may make another one, and the answer is the only place where its value is ever
    /// shown. No key is deleted to make room: a target that has no place for another one says so, as a
    /// `Conflict` that names those that there are.
    async fn mint(&self, request: MintRequest<'_>) -> Result<Minted, Failure> {
        Err(mints_nothing(request.owner))
    }

    /// Whether a person makes its keys, and hands them over.
    fn is_by_hand(&self) -> bool {
        false
    }

    /// How long the target may go on refusing a new value and accepting one that was taken out.
    fn settling(&self) -> Duration {
        Duration::ZERO
    }

    /// Tries a real login. Never an error that could be mistaken for a refusal: all that is not a
    /// genuine verdict on the credential is [`Probe::Unknown`].
    async fn probe(&self, credential: &Credential, depth: ProbeDepth) -> Probe;

    /// Whether a key that works is of the same thing as the one in force, such as an organization, where the target can
    /// tell. One in force that is refused leaves nothing to compare it with, and that is none of its faults.
    ///
    /// # Errors
    /// `Invalid` where it is of another one, and whatever keeps from telling.
    async fn akin(&self, _made: &Credential, _in_force: &Credential) -> Result<(), Failure> {
        Ok(())
    }

    /// Who uses a principal.
    async fn usage(&self, principal: &Principal) -> Result<Usage, Failure>;

    /// Makes the target refuse a principal's value and closes its sessions. Already refused is success.
    ///
    /// Returns [`Retired::Superseded`] and changes nothing when a principal that is to be retired as a whole
    /// is held by a later attempt: its value may be in force elsewhere.
    async fn retire(&self, request: RetireRequest<'_>) -> Result<Retired, Failure>;

    /// How long a value lives at most, where retiring it would end more than it: then only a containment does that,
    /// and any other rotation leaves the outgoing value to its end.
    fn lapse(&self) -> Option<Interval> {
        None
    }

    /// Looks at everything a rotation will need, and changes nothing.
    async fn preflight(&self, request: PreflightRequest<'_>) -> Vec<Finding>;

    /// The same, of the life of what it makes, where that ends by itself: it has to last for so long, by the policy's
    /// schedule.
    async fn preflight_life(&self, _needed: Option<Duration>) -> Vec<Finding> {
        Vec::new()
    }
}

/// Identifies the attempt behind a change; the target remembers it as its marker.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub policy: &'a PolicyName,
    pub rotation: RotationId,
    pub version: Version,
    pub fence: Fence,
}

/// What to install.
#[derive(Debug, Clone, Copy)]
pub struct InstallRequest<'a> {
    pub attempt: Attempt<'a>,
    pub candidate: &'a Credential,
    /// The principal that the candidate takes turns with. The target makes the candidate's principal
    /// equal to it in rights and settings, or refuses; `None` when the value changes in place, and for
    /// the first version of a pair.
    pub peer: Option<&'a Principal>,
    /// Where a principal takes two values at a time: the one that must go on working.
    pub beside: Option<&'a Credential>,
    /// What becomes of sessions that the candidate's principal already has; where it takes two values, of
    /// one that is in the candidate's way and that nobody knows.
    pub occupancy: Occupancy,
}

/// What becomes of sessions that a principal already has when a value is installed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// Somebody uses the principal, or may: a value lets it in and no attempt left a marker, but for one that was
    /// undone. Nothing is changed, and that is a `Conflict`. Not looked at when an attempt repeats its own install:
    /// they are readers that have moved.
    Refuse,
    /// They are closed, after the change. So are readers that have moved, when an attempt repeats its
    /// own install: which of them came before it is not known.
    Close,
    /// They live on.
    Keep,
}

/// What an install did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// The target accepts the candidate. `at` is the target's own time after the change: sessions that
    /// began before it may have logged in with an earlier value.
    Done { at: Timestamp },
    /// A later attempt holds the principal.
    Superseded { by: Fence },
}

/// A key that a target made, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its public id.
    pub id: Principal,
    /// When it was made, by the target's clock.
    pub made_at: Option<Timestamp>,
    /// Whether it was ever used, where the target tells.
    pub used: Option<bool>,
    /// Who had it made, where the target has a place for that.
    pub tag: Option<Tag>,
}

/// What a key's name or description tells of the rotation that it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// `None` where names are too short for it.
    pub policy: Option<PolicyName>,
    pub rotation: RotationId,
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct MintRequest<'a> {
    pub attempt: Attempt<'a>,
    /// Whose key it is to be.
    pub owner: &'a Principal,
    /// The credential in force: it has to go on working, unless the target replaces it.
    pub outgoing: Option<&'a Credential>,
    /// An earlier call of this rotation may have had an effect.
    pub repeated: bool,
    /// It leaked: whoever has to do something is told that it is urgent.
    pub contains: bool,
    /// How long it has to live at least, by the policy's schedule. A target whose keys end by themselves makes none
    /// that ends sooner.
    pub life: Option<Duration>,
}

/// What a mint did.
#[derive(Debug, PartialEq, Eq)]
pub enum Minted {
    /// The target made it; its principal is the public id.
    Made(Credential),
    /// The same, and it ends earlier than it should, which is told here: kept because a leak cannot wait.
    Short(Credential, String),
    /// Somebody has to do it by hand; what, for people.
    Awaited(String),
}

fn mints_nothing(owner: &Principal) -> Failure {
    Failure::new(FailureClass::Invalid, format!("make a key of {owner}"), "this target makes no values")
}

/// Who uses a principal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub sessions: Vec<Session>,
    pub last: LastUse,
}

/// What is known of the last use, where there are no sessions to be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LastUse {
    /// Its sessions tell everything.
    #[default]
    BySessions,
    /// The sessions that the target lists tell something: there may be others, which it does not list.
    ByListed,
    /// The target does not tell.
    Untold,
    Never,
    At(Timestamp),
}

/// One open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// What the client calls itself; empty when it does not.
    pub application: String,
    /// The client's address; empty for a local socket.
    pub client: String,
    pub since: Timestamp,
}

/// What to retire.
#[derive(Debug, Clone, Copy)]
pub struct RetireRequest<'a> {
    pub attempt: Attempt<'a>,
    pub principal: &'a Principal,
    pub extent: Extent,
    /// The value to be refused, for targets that take one out only on sight of it. `None` where an attempt is
    /// undone that made none.
    pub outgoing: Option<&'a Credential>,
    /// The one that must go on working, where a principal takes two values at a time or the target makes keys.
    pub beside: Option<&'a Credential>,
}

/// How much of a principal is retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The principal as a whole: its value becomes an unknown one, it may not log in, all its sessions
    /// are closed.
    Principal,
    /// The sessions that began before the moment: their value was replaced in place.
    SessionsBefore(Timestamp),
    /// Every value of the principal but the one beside it, and all sessions that began before: which of
    /// them logged in with which value is not known.
    OtherValues,
    /// What this very attempt installed, and nothing if it installed nothing: the undoing of an
    /// install whose outcome may be unknown. An install of this attempt that arrives later is refused.
    Attempt,
    /// The principal's value is refused and can still be taken back: a target that has no such state does
    /// nothing.
    Disabled,
}

/// What a retire did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// The target refuses what it should.
    Done { sessions_closed: u64 },
    /// Somebody has to do it by hand; what, for people.
    Awaited(String),
    /// A later attempt holds the principal.
    Superseded { by: Fence },
}

/// What a preflight looks at.
#[derive(Debug, Clone, Copy)]
pub struct PreflightRequest<'a> {
    pub policy: &'a PolicyName,
    /// The credential in force, if the store has one.
    pub current: Option<&'a Credential>,
}

impl Probe {
    /// The class that an unknown or unfit probe carries.
    #[must_use]
    pub const fn failure_class(&self) -> Option<FailureClass> {
        match self {
            Self::Accepted | Self::Refused => None,
            Self::Unfit(failure) | Self::Unknown(failure) => Some(failure.class()),
        }
    }
}
