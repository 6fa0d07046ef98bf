//! New commits, built in memory and written to disk as one pack.
//!
//! As loose objects each commit would be seven files, each synced for itself. Here a batch of any size
//! costs three syncs: the pack, its index and their folder. A pack becomes visible only whole: both
//! files are on the disk before either is moved to where Git looks, the index last, since it is the
//! index that makes Git look. Whoever dies before leaves files in `incoming/`, which the next one clears.

use std::fs::{self, File};
use std::io::Write as _;

use git2::{Commit, FileMode, Indexer, ObjectType, Oid, Repository, Signature, Time, Tree};

use super::draft::{Draft, RECORDS, SECRETS};
use super::placeholder::Placeholder;
use super::repository::{Location, WriterLock, sync_dir};
use crate::failure::{Failure, FailureClass};
use crate::settings::AuthorSettings;

/// Commits that exist in memory only, on top of what is on disk.
pub(super) struct Stage<'r> {
    repo: &'r Repository,
    author: &'r AuthorSettings,
    head: Option<Oid>,
    objects: Vec<Oid>,
}

impl<'r> Stage<'r> {
    /// From here on the handle's writes go to memory; it must not outlive the batch.
    pub(super) fn new(
        repo: &'r Repository,
        author: &'r AuthorSettings,
        head: Option<Oid>,
    ) -> Result<Self, git2::Error> {
        repo.odb()?.add_new_mempack_backend(1000)?;
        Ok(Self { repo, author, head, objects: Vec::new() })
    }

    /// Adds one commit. The placeholder file changes only if the record is newer than it.
    pub(super) fn commit(&mut self, draft: &Draft) -> Result<(), git2::Error> {
        let parent = self.head.map(|id| self.repo.find_commit(id)).transpose()?;
        let base = parent.as_ref().map(Commit::tree).transpose()?;
        let path = &draft.path;
        let namespace = path.policy.namespace();
        let record = self.blob(&draft.record)?;
        let folder = [RECORDS, namespace, path.policy.name()];
        let mut tree = vec![(RECORDS, self.with_file(base.as_ref(), &folder, &path.file_name(), record)?)];
        if let Some(placeholder) = self.due_placeholder(base.as_ref(), draft)? {
            let file = self.blob(placeholder.render().as_bytes())?;
            let folder = [SECRETS, namespace];
            tree.push((SECRETS, self.with_file(base.as_ref(), &folder, &placeholder.file_name(), file)?));
        }
        let tree = self.tree(base.as_ref(), &tree, FileMode::Tree)?;
        let tree = self.repo.find_tree(tree)?;
        // Never before the parent's, so that a walk by date may stop early; no clock is read.
        let committed = parent.as_ref().map_or(draft.closed_at, |p| p.time().seconds().max(draft.closed_at));
        let author = self.signature(draft.closed_at)?;
        let committer = self.signature(committed)?;
        let parents: Vec<&Commit<'_>> = parent.iter().collect();
        let commit = self.repo.commit(None, &author, &committer, &draft.message, &tree, &parents)?;
        self.objects.push(commit);
        self.head = Some(commit);
        Ok(())
    }

    pub(super) fn head(&self) -> Option<Oid> {
        self.head
    }

    /// Writes everything staged as one pack, durable when this returns.
    pub(super) fn write(&self, location: &Location, lock: &WriterLock) -> Result<(), Failure> {
        if self.objects.is_empty() {
            return Ok(());
        }
        write_pack(location, lock, self.repo, &self.objects).map(drop)
    }

    fn due_placeholder<'d>(
        &self,
        base: Option<&Tree<'_>>,
        draft: &'d Draft,
    ) -> Result<Option<&'d Placeholder>, git2::Error> {
        let (Some(placeholder), Some(base)) = (&draft.placeholder, base) else {
            return Ok(draft.placeholder.as_ref());
        };
        let present = match base.get_path(Placeholder::path(&placeholder.policy).as_ref()) {
            Ok(entry) => Placeholder::parse(self.repo.find_blob(entry.id())?.content()),
            Err(error) if error.code() == git2::ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        // A record that arrives late, on top of the remote's newer ones, takes nothing back.
        let newer = present.is_none_or(|present| present.version < placeholder.version);
        Ok(newer.then_some(placeholder))
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<Oid, git2::Error> {
        let id = self.repo.odb()?.write(ObjectType::Blob, bytes)?;
        self.objects.push(id);
        Ok(id)
    }

    /// The tree of the first folder after the file was put into the last one; each folder is in the
    /// one before it, the first in `root`.
    fn with_file(
        &mut self,
        root: Option<&Tree<'_>>,
        folders: &[&str],
        name: &str,
        file: Oid,
    ) -> Result<Oid, git2::Error> {
        let (first, rest) = folders.split_first().expect("a file is in a folder");
        let base = match root.and_then(|tree| tree.get_name(first)) {
            Some(entry) => Some(self.repo.find_tree(entry.id())?),
            None => None,
        };
        match rest.first() {
            None => self.tree(base.as_ref(), &[(name, file)], FileMode::Blob),
            Some(next) => {
                let inner = self.with_file(base.as_ref(), rest, name, file)?;
                self.tree(base.as_ref(), &[(next, inner)], FileMode::Tree)
            }
        }
    }

    fn tree(
        &mut self,
        base: Option<&Tree<'_>>,
        entries: &[(&str, Oid)],
        mode: FileMode,
    ) -> Result<Oid, git2::Error> {
        let mut builder = self.repo.treebuilder(base)?;
        for (name, id) in entries {
            builder.insert(name, *id, mode.into())?;
        }
        let id = builder.write()?;
        self.objects.push(id);
        Ok(id)
    }

    fn signature(&self, seconds: i64) -> Result<Signature<'static>, git2::Error> {
        Signature::new(&self.author.name, &self.author.email, &Time::new(seconds, 0))
    }
}

/// Refuses an author whom Git would write differently, or not at all.
pub(super) fn check_author(author: &AuthorSettings) -> Result<(), Failure> {
    let kept = |written: Signature<'_>| {
        written.name_bytes() == author.name.as_bytes() && written.email_bytes() == author.email.as_bytes()
    };
    if Signature::new(&author.name, &author.email, &Time::new(0, 0)).is_ok_and(kept) {
        return Ok(());
    }
    let reason = "Git cannot write the name or the address as they are";
    Err(Failure::new(FailureClass::Invalid, "use `ledger.author`", reason)
        .with_remedy("use one line each, without `<`, `>` and outer spaces or punctuation"))
}

/// Writes the objects as one pack and returns its name without extension.
pub(super) fn write_pack(
    location: &Location,
    _: &WriterLock,
    repo: &Repository,
    objects: &[Oid],
) -> Result<String, Failure> {
    let incoming = location.incoming();
    let io = |error: std::io::Error| location.io_failure(&error);
    let git = |error: git2::Error| location.failure(&error);
    for left in fs::read_dir(&incoming).map_err(io)? {
        fs::remove_file(left.map_err(io)?.path()).map_err(io)?;
    }
    let mut builder = repo.packbuilder().map_err(git)?;
    builder.set_threads(1);
    for id in objects {
        builder.insert_object(*id, None).map_err(git)?;
    }
    let mut indexer = Indexer::new(None, &incoming, 0o444, false).map_err(git)?;
    let mut write_error = None;
    let built = builder.foreach(|chunk| match indexer.write_all(chunk) {
        Ok(()) => true,
        Err(error) => {
            write_error = Some(error);
            false
        }
    });
    if let Some(error) = write_error {
        return Err(io(error));
    }
    built.map_err(git)?;
    let name = format!("pack-{}", indexer.commit().map_err(git)?);
    let packs = location.packs();
    for extension in ["pack", "idx"] {
        let file = format!("{name}.{extension}");
        File::open(incoming.join(&file)).and_then(|file| file.sync_all()).map_err(io)?;
    }
    for extension in ["pack", "idx"] {
        let file = format!("{name}.{extension}");
        fs::rename(incoming.join(&file), packs.join(&file)).map_err(io)?;
    }
    sync_dir(&packs).map_err(io)?;
    Ok(name)
}
