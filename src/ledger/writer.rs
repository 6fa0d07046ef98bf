//! The one thread that appends.
//!
//! Records that wait together are committed together: one commit for each, one pack and one move of the
//! branch for all. While a batch is being synced the next one gathers, so that the number of syncs does
//! not grow with the number of callers.
//!
//! Dying anywhere in a batch leaves the branch where it was, or at the last commit of the batch with
//! everything it needs on disk. A caller that got no answer appends again; the rotation id decides.

use std::collections::HashSet;
use std::time::Duration;

use git2::Oid;
use tokio::sync::{mpsc, oneshot};

use super::chain;
use super::draft::Draft;
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
    pub(super) done: oneshot::Sender<Result<(), Failure>>,
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
        let mut writer = Writer { location, author, known: Known::default() };
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
            let (drafts, callers): (Vec<_>, Vec<_>) = batch.drain(..).map(|a| (a.draft, a.done)).unzip();
            let outcome = writer.write(&drafts);
            written();
            for caller in callers {
                // A caller that stopped waiting will ask again.
                let _ = caller.send(outcome.clone());
            }
        }
    })?;
    Ok(sender)
}

struct Writer {
    location: Location,
    author: AuthorSettings,
    known: Known,
}

/// The rotations that are recorded below a head.
#[derive(Default)]
struct Known {
    head: Option<Oid>,
    rotations: HashSet<RotationId>,
}

impl Writer {
    fn write(&mut self, drafts: &[Draft]) -> Result<(), Failure> {
        let git = |error: git2::Error| self.location.failure(&error);
        let lock = self.location.lock()?;
        let repo = self.location.open()?;
        let head = self.location.head(&repo)?;
        if head != self.known.head {
            let rotations = head.map(|head| chain::recorded(&repo, head)).transpose().map_err(git)?;
            self.known = Known { head, rotations: rotations.unwrap_or_default() };
        }
        let mut stage = Stage::new(&repo, &self.author, head).map_err(git)?;
        let mut fresh = Vec::new();
        for draft in drafts {
            let rotation = draft.path.rotation;
            if !self.known.rotations.contains(&rotation) && !fresh.contains(&rotation) {
                stage.commit(draft).map_err(git)?;
                fresh.push(rotation);
            }
        }
        let Some(to) = stage.head().filter(|_| !fresh.is_empty()) else { return Ok(()) };
        stage.write(&self.location, &lock)?;
        if let Err(failure) = self.location.advance(&lock, &repo, head, to) {
            // The move may have reached the disk or not, if the error came after it.
            let moved = self.location.open().and_then(|repo| self.location.head(&repo));
            return Err(if moved == Ok(head) { failure } else { ambiguous(&failure) });
        }
        self.known.head = Some(to);
        self.known.rotations.extend(fresh);
        if let Err(failure) = packs::consolidate(&self.location, &lock) {
            tracing::warn!(%failure, "the ledger's packs were not merged; the next batch tries again");
        }
        Ok(())
    }
}

fn ambiguous(failure: &Failure) -> Failure {
    Failure::new(FailureClass::Ambiguous, "say whether the ledger took the records", failure.reason())
}
