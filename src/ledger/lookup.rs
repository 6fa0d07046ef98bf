//! Tells which rotations are recorded.
//!
//! A daemon that starts asks for the last rotation of each policy, and nearly all of them are recorded. A
//! placeholder file that shows a rotation came with its record in one commit, and its hash tells what it
//! shows: the hashes of all, read once, answer for thousands of policies. What was recorded stays recorded.
//! Whatever they do not answer is looked up in the branch as it is then.

use std::collections::HashSet;

use git2::{ObjectType, Oid, Repository, TreeWalkMode, TreeWalkResult};
use tokio::sync::OnceCell;

use super::chain;
use super::draft::{RecordPath, SECRETS};
use super::git::blocking;
use super::placeholder::Placeholder;
use super::record::Record;
use super::repository::Location;
use crate::failure::Failure;

/// Tells which rotations are recorded.
#[derive(Debug)]
pub(super) struct Lookup {
    location: Location,
    /// The placeholder files when the first question came.
    shown: OnceCell<HashSet<Oid>>,
}

impl Lookup {
    pub(super) const fn new(location: Location) -> Self {
        Self { location, shown: OnceCell::const_new() }
    }

    /// Whether the record's rotation is recorded.
    pub(super) async fn holds(&self, record: &Record) -> Result<bool, Failure> {
        let shown = self.shown.get_or_try_init(|| self.at_head(HashSet::new(), placeholders)).await?;
        let placeholder = Placeholder::of(record)
            .and_then(|due| Oid::hash_object(ObjectType::Blob, due.render().as_bytes()).ok());
        if placeholder.is_some_and(|placeholder| shown.contains(&placeholder)) {
            return Ok(true);
        }
        let path = RecordPath::of(record);
        self.at_head(false, move |repo, head| chain::holds(repo, head, &path)).await
    }

    /// Reads something at the branch's head; `none` where there is no branch yet.
    async fn at_head<T: Send + 'static>(
        &self,
        none: T,
        read: impl FnOnce(&Repository, Oid) -> Result<T, git2::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let location = self.location.clone();
        blocking(&self.location, move || {
            let repo = location.open()?;
            let Some(head) = location.head(&repo)? else { return Ok(none) };
            read(&repo, head).map_err(|error| location.failure(&error))
        })
        .await
    }
}

/// The hashes of all placeholder files of a commit.
fn placeholders(repo: &Repository, head: Oid) -> Result<HashSet<Oid>, git2::Error> {
    let tree = repo.find_commit(head)?.tree()?;
    let mut found = HashSet::new();
    if let Some(secrets) = tree.get_name(SECRETS) {
        repo.find_tree(secrets.id())?.walk(TreeWalkMode::PreOrder, |_, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                found.insert(entry.id());
            }
            TreeWalkResult::Ok
        })?;
    }
    Ok(found)
}
