//! Keeps the number of packs small: small ones are merged, large ones are left alone.
//!
//! The packs to merge are chosen as `git repack --geometric=2` does: afterwards each pack holds at least
//! twice as many objects as the next smaller one, so that an object is copied a logarithmic number of
//! times in the life of a ledger. The merged pack holds every object of its parts, reachable or not, and
//! is on the disk before the first of them is removed: dying at any point, even while another process
//! fetches or reads, loses nothing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use git2::Oid;

use super::repository::{Location, WriterLock, sync_dir};
use super::stage::write_pack;
use crate::failure::Failure;

/// So many packs may stand side by side.
const MOST_PACKS: usize = 64;

/// Merges packs if there are too many.
pub(super) fn consolidate(location: &Location, lock: &WriterLock) -> Result<(), Failure> {
    let io = |error: io::Error| location.io_failure(&error);
    let packs = location.packs();
    // With a multi-pack index, Git's own maintenance is at work here, and the index names the packs.
    if packs.join("multi-pack-index").exists() {
        return Ok(());
    }
    let mut found = list(&packs).map_err(io)?;
    if found.len() <= MOST_PACKS {
        return Ok(());
    }
    found.sort_by_key(|pack| pack.objects);
    let sizes: Vec<u64> = found.iter().map(|pack| pack.objects).collect();
    found.truncate(merged(&sizes));
    let mut objects = Vec::new();
    for pack in &found {
        objects.extend(pack.ids().map_err(io)?);
    }
    let repo = location.open()?;
    let name = write_pack(location, lock, &repo, &objects)?;
    between!("git.merge.placed");
    for pack in found.iter().filter(|pack| !pack.index.ends_with(format!("{name}.idx"))) {
        pack.remove().map_err(io)?;
    }
    sync_dir(&packs).map_err(io)
}

struct Pack {
    index: PathBuf,
    objects: u64,
}

impl Pack {
    /// The names in an index of version 2: a header of 8 bytes, 256 counters of 4, then 20 for each.
    fn ids(&self) -> io::Result<Vec<Oid>> {
        let bytes = fs::read(&self.index)?;
        let length = usize::try_from(self.objects).map_err(io::Error::other)? * 20;
        let names = bytes.get(NAMES..NAMES + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        names.chunks_exact(20).map(|name| Oid::from_bytes(name).map_err(io::Error::other)).collect()
    }

    /// The index last: Git takes no notice of one without a pack, but [`list`] does, so that whoever
    /// dies in between leaves nothing that the next merge does not clear away.
    fn remove(&self) -> io::Result<()> {
        for extension in ["pack", "rev", "bitmap", "mtimes", "idx"] {
            match fs::remove_file(self.index.with_extension(extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

const NAMES: usize = 8 + 256 * 4;

/// The packs that may be merged: those of version 2 that nobody asked to keep.
fn list(folder: &Path) -> io::Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let index = entry?.path();
        let kept = ["keep", "promisor"].iter().any(|mark| index.with_extension(mark).exists());
        if index.extension().is_none_or(|extension| extension != "idx") || kept {
            continue;
        }
        let mut header = [0; NAMES];
        File::open(&index)?.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        if header.starts_with(b"\xfftOc\0\0\0\x02") {
            packs.push(Pack { index, objects: u32::from_be_bytes([a, b, c, d]).into() });
        }
    }
    Ok(packs)
}

/// How many of the packs, smallest first, become one so that what is left is a progression by two.
fn merged(sizes: &[u64]) -> usize {
    let mut split = (1..sizes.len()).rev().find(|&at| sizes[at] < 2 * sizes[at - 1]).map_or(0, |at| at + 1);
    let mut total: u64 = sizes[..split].iter().sum();
    while split < sizes.len() && sizes[split] < 2 * total {
        total += sizes[split];
        split += 1;
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_progression() {
        assert_eq!(merged(&[7; 65]), 65);
        assert_eq!(merged(&[7, 7, 7, 100, 1000]), 3);
        assert_eq!(merged(&[7, 7, 7, 30, 1000]), 4);
        assert_eq!(merged(&[1, 2, 4, 8]), 0);
        let mut sizes = vec![7; 60];
        sizes.extend([500, 800, 100_000]);
        assert_eq!(merged(&sizes), 62);
    }
}
