//! The ledger in the model: a folder for each process, and the remote that both push to.

use rekeyd::proving::Mutant;

/// The folders of both processes, and the remote that they push to: rotations in the order of records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ledgers {
    pub(super) folders: [Vec<Record>; 2],
    pub(super) remote: Vec<Record>,
}

/// What the ledger says of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) rotation: u8,
    /// Its values changed places.
    pub(super) reverts: bool,
}

impl Ledgers {
    /// Appends to a process's folder and pushes it. Says whether the remote has lost a record.
    pub(super) fn append(&mut self, process: usize, record: Record) -> bool {
        let folder = &mut self.folders[process];
        if !holds(folder, record.rotation) {
            folder.push(record);
        }
        let before = self.remote.clone();
        if !folder.starts_with(&self.remote) && !Mutant::ForcePush.is_on() {
            // Own records go on top of the remote's.
            let own: Vec<_> = folder.iter().filter(|own| !holds(&before, own.rotation)).copied().collect();
            *folder = before.iter().copied().chain(own).collect();
        }
        self.remote = folder.clone();
        !before.iter().all(|record| self.remote.contains(record))
    }
}

fn holds(records: &[Record], rotation: u8) -> bool {
    records.iter().any(|record| record.rotation == rotation)
}
