//! The audit trail: one Git commit for each closed rotation, with placeholders and versions, never a value.
//!
//! ```text
//! append:  record -> draft (bytes) -> gate (no value in them) -> writer (batches)
//!                 -> stage (commits in one pack, on disk) -> repository (branch moves) -> packs (merged)
//! push:    pusher (when) -> sync (what, on which base) -> git::transport (the `git` program)
//! ask:     lookup (is it recorded?)
//! read:    reader (log, versions) -> chain (one commit) -> verify (all of them)
//! ```
//!
//! A record lies at `records/<namespace>/<policy>/<version>-<rotation>.json` and is never changed or
//! removed; `secrets/<namespace>/<policy>.yaml` shows the version in force as placeholders. A rotation's
//! id is in the path of its record, which is how a second append is known, also after a crash and also
//! when the first one came back from the remote.

mod chain;
mod draft;
mod gate;
mod git;
#[cfg(feature = "proving")]
pub(crate) mod hostile;
mod lookup;
mod packs;
mod placeholder;
mod preflight;
mod pusher;
mod reader;
pub mod record;
mod repository;
mod stage;
mod sync;
mod verify;
mod writer;

use async_trait::async_trait;

pub use self::chain::{CommitId, Problem};
#[cfg(feature = "proving")]
pub(crate) use self::draft::committed;
pub use self::git::{GitLedger, PushState};
pub use self::reader::{Entry, LedgerReader, LogFilter};
pub use self::record::{Outcome, Proof, Record, TriggerKind};
pub use self::verify::{ChainFinding, VerifyReport};
use crate::failure::Failure;
use crate::secret::SecretValue;

/// Where closed rotations are recorded.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Makes the record durable, once: a second call with the same rotation id changes nothing. Returns what
    /// is recorded of the rotation: an earlier record may have been made under another view of it. The
    /// record's bytes are searched for each of the `forbidden` values first; a hit refuses the record.
    ///
    /// `after` is the policy's record before it. Where the ledger has lost that one, it is recorded again, in
    /// the same moment: no chain gets a gap, whenever the loss comes. One that holds a value now is left out.
    async fn append(
        &self,
        record: &Record,
        after: Option<&Record>,
        forbidden: &[&SecretValue],
    ) -> Result<Record, Failure>;

    /// Whether the record's rotation is recorded, be it under another view of it.
    async fn holds(&self, record: &Record) -> Result<bool, Failure>;
}
