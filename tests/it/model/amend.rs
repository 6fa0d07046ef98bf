//! What a run document becomes when a rotation turns, and is frozen.

use rekeyd::rotation::plan::Strategy;
use rekeyd::rotation::progress::{Doubt, Walk};

use super::fate::Fate;
use super::process::Process;
use super::world::{Effect, Outcome, Run, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Amendment {
    Back,
    Forward,
    /// The values change places.
    Revert,
    /// If it still goes that way, under that fence.
    Frozen {
        doubt: Doubt,
        is_back: bool,
        fence: u8,
    },
}

impl World {
    /// A process changes its run document.
    pub(super) fn amend(&mut self, index: usize, mut process: Process, amendment: Amendment, fate: Fate) {
        let mut run = process.run;
        match amendment {
            Amendment::Back if !run.is_back && !run.reverts => {
                run.is_back = true;
                run.doubt = None;
                run.fence += u8::from(self.strategy == Strategy::InPlace);
            }
            Amendment::Back => {}
            Amendment::Forward => run.is_back = false,
            Amendment::Revert if process.may_revert(self) => {
                run = Run {
                    candidate: run.outgoing,
                    outgoing: run.candidate,
                    base: self.current_revision,
                    fence: run.fence + 1,
                    reverts: true,
                    is_installed: false,
                    ..run
                };
            }
            Amendment::Revert => {}
            Amendment::Frozen { doubt, is_back, fence } => {
                run.doubt = Some(doubt).filter(|_| (run.is_back, run.fence) == (is_back, fence));
            }
        }
        let outcome = self.send(index, Effect::Save { run, expected: process.revision }, fate);
        if self.processes[index].is_none() {
            return;
        }
        self.processes[index] = match outcome {
            Some(Outcome::Done) => {
                (process.run, process.revision) = (run, self.revision);
                (process.walk, process.at, process.amending) = (Walk::default(), 0, None);
                process.promoted = self.is_promoted(&run);
                Some(process).filter(|process| process.run.doubt.is_none())
            }
            Some(_) => process.refresh(self),
            // It is not known whether it is written: left for later.
            None => None,
        };
    }
}
