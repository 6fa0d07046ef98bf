//! Brings the remote to what the ledger holds.
//!
//! What is still to be pushed is what the branch has and the pinned commit does not: the queue is the
//! chain itself and survives everything that the chain survives. The remote may only ever grow. One that
//! went back, lost its branch or was rewritten is left as it is, and so are the local records, until
//! somebody has looked. One that grew by records of others is taken as the base, and only the records
//! that it lacks are made again on top of it. A ledger whose folder was lost begins there in the same way.

use git2::{Oid, Repository, Sort};

use super::chain::{self, CommitId, Link};
use super::repository::Location;
use super::stage::Stage;
use crate::failure::{Failure, FailureClass};
use crate::git::transport::{Depth, FETCHED, Pushed, Transport};
use crate::settings::AuthorSettings;

/// How often the remote may move under our hands before the next try is put off.
const ROUNDS: usize = 5;

const REPLACED: &str = "find out who changed the remote; put the lost commits back there, or, if it was \
     replaced on purpose, run `git update-ref -d refs/rekeyd/pushed` in the ledger's folder";

/// A ledger and its remote.
#[derive(Debug)]
pub(super) struct Sync {
    pub(super) location: Location,
    pub(super) author: AuthorSettings,
    pub(super) transport: Transport,
}

impl Sync {
    /// Pushes what is there to push.
    pub(super) async fn push(&self) -> Result<(), Failure> {
        for _ in 0..ROUNDS {
            let local = self.at(Location::head)?;
            if let Some(remote) = self.transport.head().await? {
                if !self.extends_pin(remote)? {
                    // Unknown here, or not what it was: only its commits can tell.
                    self.transport.fetch(Depth::All).await?;
                    between!("git.push.fetched");
                }
                let remote = if self.extends_pin(remote)? { remote } else { self.fetched()? };
                self.refuse_rewritten(remote)?;
                let whole = match local {
                    Some(local) => self.extends(local, remote)?,
                    None => false,
                };
                if !whole {
                    self.rebase(local, remote)?;
                    continue;
                }
                self.pin(remote)?;
                if local == Some(remote) {
                    return Ok(());
                }
            } else if let Some(pinned) = self.at(Location::pinned)? {
                let reason = format!("it has lost the branch that had {pinned}");
                return Err(self.conflict(reason).with_remedy(REPLACED));
            }
            let Some(local) = local else { return Ok(()) };
            if self.transport.push(local).await? == Pushed::Done {
                between!("git.push.pushed");
                return self.pin(local);
            }
        }
        Err(Failure::new(
            FailureClass::Unavailable,
            self.transport.doing("push to"),
            "others keep pushing to it",
        ))
    }

    /// How many commits the remote is not known to have.
    pub(super) fn ahead(location: &Location) -> Result<usize, Failure> {
        let repo = location.open()?;
        let Some(head) = location.head(&repo)? else { return Ok(0) };
        let base = location.pinned(&repo)?;
        missing(&repo, head, base).map(|ids| ids.len()).map_err(|e| location.failure(&e))
    }

    /// Whether a commit is the pinned one or comes after it, as far as this folder knows.
    fn extends_pin(&self, commit: Oid) -> Result<bool, Failure> {
        match self.at(Location::pinned)? {
            Some(pinned) => self.extends(commit, pinned),
            None => Ok(self.location.open()?.find_commit(commit).is_ok()),
        }
    }

    fn refuse_rewritten(&self, remote: Oid) -> Result<(), Failure> {
        let Some(pinned) = self.at(Location::pinned)? else { return Ok(()) };
        if self.extends(remote, pinned)? {
            return Ok(());
        }
        let reason = if self.extends(pinned, remote)? {
            format!("it went back to {remote} and lost commits up to {pinned}")
        } else {
            format!("its history was rewritten: {remote} does not contain {pinned}")
        };
        Err(self.conflict(reason).with_remedy(REPLACED))
    }

    /// Makes what the remote lacks again on top of it, or nothing if others wrote in the meantime. The
    /// branch moves before the pin: who dies between the two finds the remote's head in the branch and
    /// moves the pin then.
    fn rebase(&self, local: Option<Oid>, remote: Oid) -> Result<(), Failure> {
        let git = |error: git2::Error| self.location.failure(&error);
        let repo = self.location.open()?;
        // Before the lock: there may be years of them.
        for id in missing(&repo, remote, local).map_err(git)? {
            let link = repo.find_commit(id).and_then(|commit| Link::read(&repo, &commit)).map_err(git)?;
            if let Some(problem) = link.problems.first() {
                return Err(self.not_a_record(id, problem));
            }
        }
        let lock = self.location.lock()?;
        if self.location.head(&repo)? != local {
            return Ok(());
        }
        let own = local.map(|local| missing(&repo, local, Some(remote))).transpose().map_err(git)?;
        let known = chain::recorded(&repo, remote).map_err(git)?;
        let mut drafts = Vec::new();
        for id in own.unwrap_or_default() {
            let commit = repo.find_commit(id).map_err(git)?;
            let draft = Link::read(&repo, &commit).map_err(git)?.carry(&commit);
            let draft = draft.map_err(|problems| self.not_a_record(id, &problems[0]))?;
            if !known.contains(&draft.path.rotation) {
                drafts.push(draft);
            }
        }
        let mut stage = Stage::new(&repo, &self.author, Some(remote)).map_err(git)?;
        for draft in &drafts {
            stage.commit(draft).map_err(git)?;
        }
        stage.write(&self.location, &lock)?;
        let head = stage.head().expect("it began at the remote's head");
        self.location.advance(&lock, &repo, local, head)?;
        between!("git.push.rebased");
        tracing::info!(%remote, records = drafts.len(), "put own records on top of the remote's");
        self.location.pin(&repo, remote)
    }

    fn not_a_record(&self, id: Oid, problem: &chain::Problem) -> Failure {
        let reason = format!("commit {} is not as rekeyd makes them: {problem}", CommitId::from(id));
        self.conflict(reason).with_remedy(
            "keep `ledger.remote` for records alone: take the commit away there, with whoever made it",
        )
    }

    fn conflict(&self, reason: String) -> Failure {
        Failure::new(FailureClass::Conflict, self.transport.doing("push to"), reason)
    }

    fn fetched(&self) -> Result<Oid, Failure> {
        let repo = self.location.open()?;
        self.location.read_ref(&repo, FETCHED)?.ok_or_else(|| {
            let doing = self.transport.doing("fetch from");
            Failure::new(FailureClass::Unavailable, doing, "its branch is gone again")
        })
    }

    fn extends(&self, commit: Oid, base: Oid) -> Result<bool, Failure> {
        let repo = self.location.open()?;
        Ok(commit == base
            || (repo.find_commit(commit).is_ok()
                && repo.graph_descendant_of(commit, base).map_err(|e| self.location.failure(&e))?))
    }

    fn pin(&self, to: Oid) -> Result<(), Failure> {
        self.location.pin(&self.location.open()?, to)
    }

    fn at(
        &self,
        read: impl Fn(&Location, &Repository) -> Result<Option<Oid>, Failure>,
    ) -> Result<Option<Oid>, Failure> {
        read(&self.location, &self.location.open()?)
    }
}

/// The commits that `head` has and `base` does not, the oldest first.
fn missing(repo: &Repository, head: Oid, base: Option<Oid>) -> Result<Vec<Oid>, git2::Error> {
    let mut walk = repo.revwalk()?;
    walk.set_sorting(Sort::TOPOLOGICAL | Sort::REVERSE)?;
    walk.push(head)?;
    if let Some(base) = base {
        walk.hide(base)?;
    }
    walk.collect()
}
