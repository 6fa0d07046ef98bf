//! New commits, built in memory and written to disk as one pack.
//!
//! As loose objects each commit would be seven files, each synced for itself. Here a batch of any size
//! costs three syncs: the pack, its index and their folder. A pack becomes visible only whole: both
//! files are on the disk before either is moved to where Git looks, the index last, since it is the
//! index that makes Git look. Whoever dies before leaves files in `incoming/`, which the next one clears.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};

use git2::{Commit, Config, FileMode, Indexer, Object, ObjectType, Odb, Oid, Repository, Signature, Time};

use super::draft::{Draft, RECORDS, SECRETS};
use super::placeholder::Placeholder;
use super::repository::{Location, WriterLock, sync_dir};
use crate::failure::Failure;
use crate::settings::AuthorSettings;

/// So much of a pack is written at once.
const PIECE: usize = 256 * 1024;

/// Commits that exist in memory only, on top of what is on disk.
///
/// They are built in a repository of their own that knows no disk: one that does looks through the folder
/// of packs for every object that it is given.
pub(super) struct Stage<'r> {
    disk: &'r Repository,
    memory: Repository,
    author: &'r AuthorSettings,
    head: Option<Oid>,
    /// What is new, in the order it was made.
    objects: Vec<Oid>,
}

impl<'r> Stage<'r> {
    pub(super) fn new(
        disk: &'r Repository,
        author: &'r AuthorSettings,
        head: Option<Oid>,
    ) -> Result<Self, git2::Error> {
        let odb = Odb::new()?;
        odb.add_new_mempack_backend(1)?;
        let memory = Repository::from_odb(odb)?;
        // Else it would look for the configuration of whoever runs it.
        memory.set_config(&Config::new()?)?;
        Ok(Self { disk, memory, author, head, objects: Vec::new() })
    }

    /// Adds one commit. The placeholder file changes only if the record is newer than it.
    pub(super) fn commit(&mut self, draft: &Draft) -> Result<(), git2::Error> {
        let parent = self.head;
        let root = match parent {
            Some(parent) => Some(self.brought(parent)?.peel_to_commit()?.tree_id()),
            None => None,
        };
        let path = &draft.path;
        let namespace = path.policy.namespace();
        let record = self.blob(&draft.record)?;
        let folder = [RECORDS, namespace, path.policy.name()];
        let mut entries = vec![(RECORDS, self.with_file(root, &folder, &path.file_name(), record)?)];
        if let Some(placeholder) = self.due_placeholder(root, draft)? {
            let file = self.blob(placeholder.render().as_bytes())?;
            let folder = [SECRETS, namespace];
            let name = Placeholder::file_name(&path.policy);
            entries.push((SECRETS, self.with_file(root, &folder, &name, file)?));
        }
        let tree = self.tree(root, &entries, FileMode::Tree)?;
        let tree = self.memory.find_tree(tree)?;
        let parent = parent.map(|parent| self.memory.find_commit(parent)).transpose()?;
        // Never before the parent's, so that a walk by date may stop early; no clock is read.
        let committed = parent.as_ref().map_or(draft.closed_at, |p| p.time().seconds().max(draft.closed_at));
        let author = self.signature(draft.closed_at)?;
        let committer = self.signature(committed)?;
        let parents: Vec<&Commit<'_>> = parent.iter().collect();
        let commit = self.memory.commit(None, &author, &committer, &draft.message, &tree, &parents)?;
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
        write_pack(location, lock, &self.memory, &self.objects).map(drop)
    }

    fn due_placeholder<'d>(
        &self,
        root: Option<Oid>,
        draft: &'d Draft,
    ) -> Result<Option<&'d Placeholder>, git2::Error> {
        let Some(placeholder) = &draft.placeholder else { return Ok(None) };
        let folder = self.entry(self.entry(root, SECRETS)?, draft.path.policy.namespace())?;
        let present = match self.entry(folder, &Placeholder::file_name(&draft.path.policy))? {
            Some(file) => Placeholder::parse(self.brought(file)?.peel_to_blob()?.content()),
            None => None,
        };
        // A record that arrives late, on top of the remote's newer ones, takes nothing back.
        let newer = present.is_none_or(|present| present.version < placeholder.version);
        Ok(newer.then_some(placeholder))
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<Oid, git2::Error> {
        let id = self.memory.odb()?.write(ObjectType::Blob, bytes)?;
        self.objects.push(id);
        Ok(id)
    }

    /// The tree of the first folder after the file was put into the last one; each folder is in the
    /// one before it, the first in `root`.
    fn with_file(
        &mut self,
        root: Option<Oid>,
        folders: &[&str],
        name: &str,
        file: Oid,
    ) -> Result<Oid, git2::Error> {
        let (first, rest) = folders.split_first().expect("a file is in a folder");
        let base = self.entry(root, first)?;
        match rest.first() {
            None => self.tree(base, &[(name, file)], FileMode::Blob),
            Some(next) => {
                let inner = self.with_file(base, rest, name, file)?;
                self.tree(base, &[(next, inner)], FileMode::Tree)
            }
        }
    }

    fn tree(
        &mut self,
        base: Option<Oid>,
        entries: &[(&str, Oid)],
        mode: FileMode,
    ) -> Result<Oid, git2::Error> {
        let id = {
            let base = base.map(|base| self.brought(base)?.peel_to_tree()).transpose()?;
            let mut builder = self.memory.treebuilder(base.as_ref())?;
            for (name, id) in entries {
                builder.insert(name, *id, mode.into())?;
            }
            builder.write()?
        };
        self.objects.push(id);
        Ok(id)
    }

    /// What a folder has under a name.
    fn entry(&self, folder: Option<Oid>, name: &str) -> Result<Option<Oid>, git2::Error> {
        let Some(folder) = folder else { return Ok(None) };
        let tree = self.brought(folder)?.peel_to_tree()?;
        Ok(tree.get_name(name).map(|entry| entry.id()))
    }

    /// An object, brought from the disk when it is not in memory yet.
    fn brought(&self, id: Oid) -> Result<Object<'_>, git2::Error> {
        let memory = self.memory.odb()?;
        if !memory.exists(id) {
            let disk = self.disk.odb()?;
            let object = disk.read(id)?;
            memory.write(object.kind(), object.data())?;
        }
        self.memory.find_object(id, None)
    }

    fn signature(&self, seconds: i64) -> Result<Signature<'static>, git2::Error> {
        Signature::new(&self.author.name, &self.author.email, &Time::new(seconds, 0))
    }
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
    let indexer = Indexer::new(None, &incoming, 0o444, false).map_err(git)?;
    // It maps the file anew for every piece that it is given, and the builder gives small ones.
    let mut pack = BufWriter::with_capacity(PIECE, indexer);
    let mut write_error = None;
    let built = builder.foreach(|chunk| match pack.write_all(chunk) {
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
    let indexer = pack.into_inner().map_err(|error| io(error.into_error()))?;
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
