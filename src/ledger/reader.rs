//! Reading a ledger, by whoever has a copy: the daemon's own folder, or an auditor's clone.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use git2::{Commit, ErrorCode, Oid, Repository, RepositoryOpenFlags, TreeWalkMode, TreeWalkResult};
use jiff::Timestamp;
use serde::Serialize;

use super::chain::{self, CommitId, Link};
use super::draft::SECRETS;
use super::placeholder::Placeholder;
use super::record::Record;
use crate::failure::{Failure, FailureClass};
use crate::ident::{PolicyName, RotationId, Version};

/// A ledger to be read; nothing here writes. Calls block on the disk.
#[derive(Debug, Clone)]
pub struct LedgerReader {
    path: PathBuf,
    /// The full name of the branch's ref.
    head: String,
}

impl LedgerReader {
    /// Names a repository, bare or not, and the branch to read; the one that is checked out when `None`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, branch: Option<&str>) -> Self {
        Self {
            path: path.into(),
            head: branch.map_or("HEAD".into(), |branch| format!("refs/heads/{branch}")),
        }
    }

    /// Records, the newest commit first.
    ///
    /// # Errors
    /// When there is no repository or its objects cannot be read.
    pub fn log(&self, filter: &LogFilter) -> Result<Vec<Entry>, Failure> {
        let repo = self.open()?;
        let mut entries = Vec::new();
        let mut next = self.tip(&repo)?;
        while let Some(id) = next {
            let commit = repo.find_commit(id).map_err(|e| self.failure(&e))?;
            // A commit is dated no earlier than its record and its parents.
            let past = filter.since.is_some_and(|since| commit.time().seconds() < since.as_second());
            if past || filter.limit.is_some_and(|limit| entries.len() >= limit) {
                break;
            }
            let link = Link::read(&repo, &commit).map_err(|e| self.failure(&e))?;
            if let Some((record, _)) = link.record
                && filter.takes(&record)
            {
                entries.push(Entry { commit: id.into(), record });
            }
            next = commit.parent_id(0).ok();
        }
        Ok(entries)
    }

    /// The version in force of each policy, and the rotation that brought it, as the placeholders say.
    ///
    /// # Errors
    /// As for [`log`](Self::log).
    pub fn current_versions(&self) -> Result<BTreeMap<PolicyName, (Version, RotationId)>, Failure> {
        let repo = self.open()?;
        let Some(head) = self.tip(&repo)? else { return Ok(BTreeMap::new()) };
        let placeholders = repo.find_commit(head).and_then(|commit| placeholders(&repo, &commit));
        let placeholders = placeholders.map_err(|e| self.failure(&e))?;
        Ok(placeholders
            .into_values()
            .flatten()
            .map(|shown| (shown.policy, (shown.version, shown.rotation)))
            .collect())
    }

    /// The record of a rotation of a policy.
    ///
    /// # Errors
    /// As for [`log`](Self::log).
    pub fn record(&self, policy: &PolicyName, rotation: RotationId) -> Result<Option<Record>, Failure> {
        let repo = self.open()?;
        let Some(head) = self.tip(&repo)? else { return Ok(None) };
        chain::record_of(&repo, head, policy, rotation).map_err(|e| self.failure(&e))
    }

    /// The rotations that are recorded.
    ///
    /// # Errors
    /// As for [`log`](Self::log).
    pub fn rotations(&self) -> Result<HashSet<RotationId>, Failure> {
        let repo = self.open()?;
        let Some(head) = self.tip(&repo)? else { return Ok(HashSet::new()) };
        chain::recorded(&repo, head).map_err(|e| self.failure(&e))
    }

    /// Whether there is no ledger yet: the first rotation makes it.
    #[must_use]
    pub fn is_vacant(&self) -> bool {
        !self.path.exists()
    }

    pub(super) fn open(&self) -> Result<Repository, Failure> {
        let none: [&Path; 0] = [];
        Repository::open_ext(&self.path, RepositoryOpenFlags::NO_SEARCH, none).map_err(|error| {
            let class = match error.code() {
                ErrorCode::NotFound => FailureClass::Invalid,
                ErrorCode::Owner => FailureClass::Denied,
                _ => FailureClass::Unavailable,
            };
            let failure = Failure::new(class, self.doing(), error.message());
            if class == FailureClass::Invalid {
                return failure.with_remedy("the first rotation makes it; name its folder in the settings");
            }
            failure
        })
    }

    /// The newest commit; `None` before the first.
    pub(super) fn tip(&self, repo: &Repository) -> Result<Option<Oid>, Failure> {
        match repo.refname_to_id(&self.head) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    pub(super) fn failure(&self, error: &git2::Error) -> Failure {
        Failure::new(FailureClass::Unavailable, self.doing(), error.message())
    }

    fn doing(&self) -> String {
        format!("read the ledger {}", self.path.display())
    }
}

/// Which records a log shows.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    pub policy: Option<PolicyName>,
    /// Closed at this moment or later.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl LogFilter {
    fn takes(&self, record: &Record) -> bool {
        self.policy.as_ref().is_none_or(|policy| *policy == record.policy)
            && self.since.is_none_or(|since| record.closed_at >= since)
    }
}

/// A record and the commit that brought it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub commit: CommitId,
    pub record: Record,
}

/// The placeholder files of a commit by path; `None` where one cannot be read.
pub(super) fn placeholders(
    repo: &Repository,
    commit: &Commit<'_>,
) -> Result<BTreeMap<String, Option<Placeholder>>, git2::Error> {
    let mut found = BTreeMap::new();
    let tree = commit.tree()?;
    let Some(secrets) = tree.get_name(SECRETS) else { return Ok(found) };
    let mut files = Vec::new();
    repo.find_tree(secrets.id())?.walk(TreeWalkMode::PreOrder, |folder, entry| {
        if entry.kind() != Some(git2::ObjectType::Tree) {
            let name = String::from_utf8_lossy(entry.name_bytes());
            files.push((format!("{SECRETS}/{folder}{name}"), entry.id()));
        }
        TreeWalkResult::Ok
    })?;
    for (path, id) in files {
        let placeholder = repo.find_blob(id).ok().and_then(|blob| Placeholder::parse(blob.content()));
        found.insert(path, placeholder);
    }
    Ok(found)
}
