//! The shipped daemon as a process, and what it logs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Outcome;

/// Nothing that is waited for here takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running daemon; it is killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: mpsc::UnboundedReceiver<String>,
}

impl Daemon {
    pub(crate) fn start(settings: &Path) -> Outcome<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rekeyd"))
            .args(["run", "--log-format", "json", "--config"])
            .arg(settings)
            // As the manifests have it.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
        let (sender, log) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, log })
    }

    pub(crate) fn pid(&self) -> Outcome<u32> {
        self.child.id().ok_or_else(|| "the daemon ended".into())
    }

    /// The next log line with one of these messages, and the time it was written. Warnings are errors:
    /// they are not part of what is measured.
    pub(crate) async fn logs(&mut self, messages: &[&str]) -> Outcome<(Timestamp, Value)> {
        loop {
            let line = timeout(PATIENCE, self.log.recv())
                .await
                .map_err(|_| format!("the daemon does not log any of {messages:?}"))?
                .ok_or("the daemon ended")?;
            let entry: Value = serde_json::from_str(&line)?;
            if entry["level"] == "WARN" || entry["level"] == "ERROR" {
                return Err(format!("the daemon logged {line}").into());
            }
            if entry["message"].as_str().is_some_and(|message| messages.contains(&message)) {
                let at = entry["timestamp"].as_str().ok_or("no time in the log")?.parse()?;
                return Ok((at, entry));
            }
        }
    }

    pub(crate) async fn stop(mut self) -> Outcome<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()?)?).ok_or("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        timeout(PATIENCE, self.child.wait()).await??;
        Ok(())
    }

    /// Without a warning.
    #[allow(dead_code, reason = "not every benchmark kills")]
    pub(crate) async fn kill(mut self) -> Outcome<()> {
        Ok(self.child.kill().await?)
    }
}
