//! The one thread that appends.
//!
//! Records that wait together are committed together: one commit for each, one pack and one move of the
//! branch for all. While a batch is being synced the next one gathers, so that the number of syncs does
//! not grow with the number of callers.
//!
//! Dying anywhere in a batch leaves the branch where it was, or at the last commit of the batch with
//! everything it needs on disk. A caller that got no answer appends again; the rotation id decides.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::chain;
use super::draft::{Draft, RecordPath};
use super::packs;
use super::repository::Location;
use super::stage::Stage;
use crate::failure::{Failure, FailureClass};
use crate::ident::RotationId;
use crate::settings::AuthorSettings;

/// So many records at most are held in memory and committed at once.
const LARGEST_BATCH: usize = 512;

/// How long a batch waits for company if the one before had some. A batch costs several times what one
/// more record in it does; whoever comes alone does not wait.
const GATHERING: Duration = Duration::from_millis(20);

/// A record on its way to disk.
pub(super) struct Append {
    pub(super) draft: Draft,
    /// The policy's record before it, in case the ledger has lost that.
    pub(super) after: Option<Draft>,
    pub(super) done: oneshot::Sender<Result<Appended, Failure>>,
}

/// When a record came to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    Now,
    /// Its rotation was recorded before.
    Before,
}

/// Starts the thread; it ends when every sender is gone and what they sent is written.
/// `written` is called after each batch, before the callers hear of it.
pub(super) fn start(
    location: Location,
    author: AuthorSettings,
    written: impl Fn() + Send + 'static,
) -> std::io::Result<mpsc::Sender<Append>> {
    let (sender, mut receiver) = mpsc::channel::<Append>(LARGEST_BATCH);
    std::thread::Builder::new().name("ledger-writer".into()).spawn(move || {
        let writer = Writer { location, author };
        let mut batch = Vec::new();
        let mut busy = false;
        while let Some(first) = receiver.blocking_recv() {
            batch.push(first);
            if busy {
                std::thread::park_timeout(GATHERING);
            }
            while batch.len() < LARGEST_BATCH
                && let Ok(next) = receiver.try_recv()
            {
                batch.push(next);
            }
            busy = batch.len() > 1;
            let (drafts, callers): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|a| ((a.after, a.draft), a.done)).unzip();
            let outcome = writer.write(&drafts);
            written();
            for (index, caller) in callers.into_iter().enumerate() {
                // A caller that stopped waiting will ask again.
                let _ = caller.send(outcome.clone().map(|appended| appended[index]));
            }
        }
    })?;
    Ok(sender)
}

struct Writer {
    location: Location,
    author: AuthorSettings,
}

impl Writer {
    /// Says of each draft when it came to the ledger. Beside each is the one before it.
    fn write(&self, drafts: &[(Option<Draft>, Draft)]) -> Result<Vec<Appended>, Failure> {
        let git = |error: git2::Error| self.location.failure(&error);
        let lock = self.location.lock()?;
        let repo = self.location.open()?;
        let head = self.location.head(&repo)?;
        let mut stage = Stage::new(&repo, &self.author, head).map_err(git)?;
        let mut fresh = Vec::new();
        let holds = |fresh: &[RotationId], path: &RecordPath| {
            let known = head.map_or(Ok(false), |head| chain::holds(&repo, head, path));
            known.map(|known| known || fresh.contains(&path.rotation)).map_err(git)
        };
        let mut appended = Vec::with_capacity(drafts.len());
        for (after, draft) in drafts {
            if holds(&fresh, &draft.path)? {
                appended.push(Appended::Before);
                continue;
            }
            if let Some(after) = after
                && !holds(&fresh, &after.path)?
            {
                stage.commit(after).map_err(git)?;
                fresh.push(after.path.rotation);
                let (policy, rotation) = (&after.path.policy, after.path.rotation);
                tracing::warn!(%policy, %rotation, "rotation recorded again: the ledger had lost it");
            }
            stage.commit(draft).map_err(git)?;
            fresh.push(draft.path.rotation);
            appended.push(Appended::Now);
        }
        let Some(to) = stage.head().filter(|_| !fresh.is_empty()) else { return Ok(appended) };
        stage.write(&self.location, &lock)?;
        between!("git.append.packed");
        if let Err(failure) = self.location.advance(&lock, &repo, head, to) {
            // The move may have reached the disk or not, if the error came after it.
            let moved = self.location.open().and_then(|repo| self.location.head(&repo));
            return Err(if moved == Ok(head) { failure } else { ambiguous(&failure) });
        }
        between!("git.append.moved");
        if let Err(failure) = packs::consolidate(&self.location, &lock) {
            tracing::warn!(%failure, "the ledger's packs were not merged; the next batch tries again");
        }
        Ok(appended)
    }
}

fn ambiguous(failure: &Failure) -> Failure {
    Failure::new(FailureClass::Ambiguous, "say whether the ledger took the records", failure.reason())
}
