//! One commit of the chain, held against what rekeyd writes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use git2::{Commit, Delta, DiffOptions, ErrorCode, FileMode, Oid, Repository};
use serde::{Serialize, Serializer};

use super::draft::{self, Draft, RECORDS, RecordPath};
use super::placeholder::Placeholder;
use super::record::{RECORD_API_VERSION, Record};
use crate::git::one_line;
use crate::ident::{PolicyName, RotationId, Version};

/// The id of a commit, as Git prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(Oid);

impl From<Oid> for CommitId {
    fn from(id: Oid) -> Self {
        Self(id)
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for CommitId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is wrong with the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The commit has more than one parent.
    Merge,
    /// The commit adds so many records instead of one.
    Records(usize),
    /// A file that was there is gone.
    Removed(String),
    /// A record that was there is different.
    Rewritten(String),
    /// A file that is no record and no placeholder of the commit's record.
    Foreign(String),
    /// The file cannot be read as a record.
    Unreadable(String),
    /// The record's content belongs at another path.
    Misplaced(String),
    /// The first line of the message is not the record's.
    Subject { expected: String },
    /// A trailer of the message is missing or says something else than the record.
    Trailer(&'static str),
    /// The message cannot be read as text.
    Message,
    /// Somebody else made the commit.
    Identity(String),
    /// The rotation was recorded before.
    Again { rotation: RotationId, first: CommitId },
    /// The policy's versions do not follow on each other.
    Gap { policy: PolicyName, expected: Version, found: Version },
    /// Two records brought the same version.
    Twice { policy: PolicyName, version: Version },
    /// The placeholder file is missing or does not show the newest record.
    Placeholder { policy: PolicyName },
    /// What the remote was last seen to have is not part of the chain.
    NotPushedChain(CommitId),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Merge => f.write_str("it is a merge"),
            Self::Records(0) => f.write_str("it adds no record"),
            Self::Records(number) => write!(f, "it adds {number} records instead of one"),
            Self::Removed(path) => write!(f, "it removes {path}"),
            Self::Rewritten(path) => write!(f, "it changes the record {path}"),
            Self::Foreign(path) => write!(f, "it changes {path}, which is not its record's"),
            Self::Unreadable(path) => write!(f, "{path} is not a record"),
            Self::Misplaced(path) => write!(f, "the content of {path} belongs to another path"),
            Self::Subject { expected } => write!(f, "its first line is not `{expected}`"),
            Self::Trailer(key) => write!(f, "its trailer {key} is not what the record says"),
            Self::Message => f.write_str("its message is not text"),
            Self::Identity(who) => write!(f, "it was made by {who}"),
            Self::Again { rotation, first } => {
                write!(f, "rotation {rotation} is recorded in {first} already")
            }
            Self::Gap { policy, expected, found } => {
                write!(f, "{policy} goes on from {found}, but {expected} was in force")
            }
            Self::Twice { policy, version } => write!(f, "{policy} comes to {version} a second time"),
            Self::Placeholder { policy } => {
                write!(f, "the placeholder of {policy} does not show the newest record")
            }
            Self::NotPushedChain(id) => write!(f, "{id}, which was pushed, is not part of the chain"),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A commit as it was read.
pub(super) struct Link {
    /// The record, if there is exactly one that can be read.
    pub(super) record: Option<(Record, Vec<u8>)>,
    pub(super) problems: Vec<Problem>,
}

impl Link {
    /// Reads what a commit did to its first parent's files.
    pub(super) fn read(repo: &Repository, commit: &Commit<'_>) -> Result<Self, git2::Error> {
        let mut link = Self { record: None, problems: Vec::new() };
        if commit.parent_count() > 1 {
            link.problems.push(Problem::Merge);
        }
        let before = match commit.parent(0) {
            Ok(parent) => Some(parent.tree()?),
            Err(error) if error.code() == ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut options = DiffOptions::new();
        options.include_typechange(true);
        let diff = repo.diff_tree_to_tree(before.as_ref(), Some(&commit.tree()?), Some(&mut options))?;
        let mut added = Vec::new();
        let mut placeholders = Vec::new();
        for delta in diff.deltas() {
            let path =
                String::from_utf8_lossy(delta.new_file().path_bytes().unwrap_or_default()).into_owned();
            let record = path.strip_prefix(RECORDS).is_some_and(|rest| rest.starts_with('/'));
            let file = delta.new_file().mode() == FileMode::Blob;
            match delta.status() {
                Delta::Deleted => link.problems.push(Problem::Removed(one_line(&path))),
                Delta::Added if record && file => added.push((path, delta.new_file().id())),
                _ if record => link.problems.push(Problem::Rewritten(one_line(&path))),
                Delta::Added | Delta::Modified if file => placeholders.push((path, delta.new_file().id())),
                _ => link.problems.push(Problem::Foreign(one_line(&path))),
            }
        }
        match added.as_slice() {
            [(path, id)] => link.read_record(repo.find_blob(*id)?.content(), path),
            _ => link.problems.push(Problem::Records(added.len())),
        }
        for (path, id) in placeholders {
            let blob = repo.find_blob(id)?;
            let due = link.record.as_ref().and_then(|(record, _)| Placeholder::of(record));
            let shown = Placeholder::parse(blob.content());
            if due.as_ref().is_none_or(|due| path != Placeholder::path(&due.policy)) {
                link.problems.push(Problem::Foreign(one_line(&path)));
            } else if let Some(due) = due
                && shown.as_ref() != Some(&due)
            {
                link.problems.push(Problem::Placeholder { policy: due.policy });
            }
        }
        link.check_message(commit);
        Ok(link)
    }

    /// The commit again, for another parent.
    pub(super) fn carry(self, commit: &Commit<'_>) -> Result<Draft, Vec<Problem>> {
        match (self.record, commit.message()) {
            (Some((record, bytes)), Ok(message)) if self.problems.is_empty() => {
                Ok(Draft::carried(&record, bytes, message.to_owned()))
            }
            _ => Err(self.problems),
        }
    }

    fn read_record(&mut self, bytes: &[u8], path: &str) {
        match serde_json::from_slice::<Record>(bytes) {
            Ok(record) if record.api_version == RECORD_API_VERSION => {
                if RecordPath::of(&record).to_string() != path {
                    self.problems.push(Problem::Misplaced(one_line(path)));
                }
                self.record = Some((record, bytes.to_vec()));
            }
            _ => self.problems.push(Problem::Unreadable(one_line(path))),
        }
    }

    fn check_message(&mut self, commit: &Commit<'_>) {
        let Some((record, _)) = &self.record else { return };
        let Ok(message) = commit.message() else {
            self.problems.push(Problem::Message);
            return;
        };
        let expected = draft::subject(record);
        if message.lines().next() != Some(expected.as_str()) {
            self.problems.push(Problem::Subject { expected });
        }
        let found: HashMap<&str, &str> =
            message.lines().skip(2).filter_map(|line| line.split_once(": ")).collect();
        for (key, value) in draft::trailers(record) {
            if found.get(key) != Some(&value.as_str()) {
                self.problems.push(Problem::Trailer(key));
            }
        }
    }
}

/// The rotations that have a record in the tree of a commit.
pub(super) fn recorded(repo: &Repository, head: Oid) -> Result<HashSet<RotationId>, git2::Error> {
    let tree = repo.find_commit(head)?.tree()?;
    let mut rotations = HashSet::new();
    let Some(records) = tree.get_name(RECORDS) else { return Ok(rotations) };
    repo.find_tree(records.id())?.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
        let path = entry.name().ok().and_then(|name| RecordPath::parse(&format!("{RECORDS}/{folder}{name}")));
        rotations.extend(path.map(|path| path.rotation));
        git2::TreeWalkResult::Ok
    })?;
    Ok(rotations)
}

/// Whether a rotation is recorded in the tree of a commit, in whatever version it ended.
pub(super) fn holds(repo: &Repository, head: Oid, path: &RecordPath) -> Result<bool, git2::Error> {
    Ok(blob_of(repo, head, &path.policy, path.rotation)?.is_some())
}

/// The record of a rotation in the tree of a commit, if it can be read.
pub(super) fn record_of(
    repo: &Repository,
    head: Oid,
    policy: &PolicyName,
    rotation: RotationId,
) -> Result<Option<Record>, git2::Error> {
    let Some(blob) = blob_of(repo, head, policy, rotation)? else { return Ok(None) };
    Ok(serde_json::from_slice(repo.find_blob(blob)?.content()).ok())
}

fn blob_of(
    repo: &Repository,
    head: Oid,
    policy: &PolicyName,
    rotation: RotationId,
) -> Result<Option<Oid>, git2::Error> {
    let folder = format!("{RECORDS}/{policy}");
    let root = repo.find_commit(head)?.tree()?;
    let folder = match root.get_path(Path::new(&folder)) {
        Ok(entry) => repo.find_tree(entry.id())?,
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = format!("-{rotation}.json");
    Ok(folder.iter().find(|entry| entry.name_bytes().ends_with(name.as_bytes())).map(|entry| entry.id()))
}
