//! A command that stops in the middle until the test lets it go: what holds a step open without a sleep.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::processes::PATIENCE;

/// Two named pipes: through one the command says that it is there, through the other it is let go.
pub(crate) struct Gate {
    here: (PathBuf, pipe::Receiver),
    go: (PathBuf, pipe::Sender),
}

impl Gate {
    pub(crate) fn new(folder: &Path) -> Self {
        // Held open for both directions, neither end ever waits for the other one to open its own. A command
        // that outlives the test finds the pipe closed, and ends.
        let mut both = pipe::OpenOptions::new();
        both.read_write(true);
        let pipe = |name| {
            let path = folder.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
            path
        };
        let (here, go) = (pipe("here"), pipe("go"));
        let receiver = both.open_receiver(&here).expect("a pipe");
        let sender = both.open_sender(&go).expect("a pipe");
        Self { here: (here, receiver), go: (go, sender) }
    }

    /// The command, as a policy's `reload` has it.
    pub(crate) fn command(&self) -> Value {
        json!(["/bin/sh", "-c", "echo >\"$0\" && read -r line <\"$1\"", self.here.0, self.go.0])
    }

    /// Makes a repository's hook of the command.
    pub(crate) fn become_hook(&self, hook: &Path) {
        let (here, go) = (self.here.0.display(), self.go.0.display());
        std::fs::write(hook, format!("#!/bin/sh\necho >'{here}' && read -r line <'{go}'\n"))
            .expect("written");
        std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).expect("a changed mode");
    }

    /// Waits until the command is there.
    pub(crate) async fn reached(&mut self) {
        let line = self.here.1.read_u8();
        timeout(PATIENCE, line).await.expect("the command runs").expect("a line");
    }

    /// Lets the command that is there, or the next one, go.
    pub(crate) async fn open(&mut self) {
        self.go.1.write_all(b"\n").await.expect("written");
    }
}
