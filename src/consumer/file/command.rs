//! The command that makes a reader take what was published.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::failure::{Failure, FailureClass, Finding, IoReason};
use crate::policy::spec::{FileSpec, OnFailure};

/// Where programs named without a folder are looked for. Nothing else is in the command's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a killed command may take to be gone.
const LAST_RITES: Duration = Duration::from_secs(1);

/// Runs the reload command, if there is one, and waits for its end. One that takes too long is killed with
/// all that it started; so is one whose waiting caller is dropped.
pub(super) async fn run(spec: &FileSpec) -> Result<(), Failure> {
    let Some((program, arguments)) = spec.reload.split_first() else { return Ok(()) };
    let failed = |reason: &dyn std::fmt::Display| {
        let doing = format!("run `{program}` for file {}", spec.path.display());
        Failure::new(FailureClass::Unavailable, doing, reason)
    };
    // Whoever hears that a reader refuses a value may take that back.
    let refused = match spec.on_failure {
        OnFailure::Hold => FailureClass::Unavailable,
        OnFailure::RollBack => FailureClass::Refused,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        // What it prints could hold the value it reads: it is not shown.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            failed(&IoReason(error.kind())).with_remedy("name a program that exists and that rekeyd may run")
        })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let limit = spec.reload_timeout;
    match tokio::time::timeout(limit.as_duration(), child.wait()).await {
        Ok(Ok(status)) => {
            // What it leaves running on purpose lives on; its number may soon be another's.
            group.0 = None;
            if status.success() {
                return Ok(());
            }
            Err(failed(&format_args!("it failed ({status})"))
                .reclassified(refused)
                .with_remedy("run it by hand to see why; it is tried again"))
        }
        Ok(Err(error)) => Err(failed(&IoReason(error.kind()))),
        Err(_) => {
            drop(group);
            let _ = tokio::time::timeout(LAST_RITES, child.wait()).await;
            Err(failed(&format_args!("it did not end within {limit}"))
                .with_remedy("raise `reloadTimeout`, or find out why it hangs"))
        }
    }
}

/// What is wrong with the program, if that can be told without running it.
pub(super) fn preflight(spec: &FileSpec, label: &str) -> Option<Finding> {
    let program = spec.reload.first().filter(|program| program.contains('/'))?;
    rustix::fs::access(program.as_str(), rustix::fs::Access::EXEC_OK).err()?;
    Some(Finding::fail(label, format!("`{program}` cannot be run"), "name a program that rekeyd may run"))
}

/// The processes that a command started, itself included. Killed when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is what was wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
