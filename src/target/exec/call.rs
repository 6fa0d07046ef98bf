//! One run of a plug-in: the request to its standard input, the answer from its standard output.

use std::os::fd::AsRawFd as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::answer::Unanswered;
use super::program;
use crate::failure::{FailureClass, IoReason};
use crate::policy::spec::ExecSpec;

/// The longest answer, in bytes.
pub(super) const MOST: u64 = 1 << 20;

/// How long a killed program may take to be gone.
const LAST_RITES: Duration = Duration::from_secs(1);

/// Why there is no answer.
pub(super) enum Trouble {
    /// Nothing ran.
    Unstarted { class: FailureClass, reason: String, remedy: &'static str },
    /// It ran, and whatever it did is done.
    Unanswered(Unanswered),
}

/// Runs the program and waits for its end. One that takes too long, or says too much, is killed with all that it
/// started; so is one whose waiting caller is dropped.
pub(super) async fn call(
    spec: &ExecSpec,
    request: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let (file, digest) = (spec.program.clone(), spec.sha256);
    let sealed = tokio::task::spawn_blocking(move || program::seal(&file, digest)).await;
    let sealed = sealed
        .map_err(|_| Trouble::Unstarted {
            class: FailureClass::Unavailable,
            reason: "its file cannot be read now".to_owned(),
            remedy: FailureClass::Unavailable.remedy(),
        })?
        .map_err(|unfit| Trouble::Unstarted {
            class: unfit.class(),
            reason: unfit.to_string(),
            remedy: unfit.remedy(),
        })?;
    let mut child = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
        .arg0(&spec.program)
        .args(&spec.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What it prints there could hold a value: nobody reads it.
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Trouble::Unstarted {
            class: match error.kind() {
                // The processes or the memory of this moment.
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::OutOfMemory => FailureClass::Unavailable,
                _ => FailureClass::Invalid,
            },
            reason: format!("the plug-in cannot be started: {}", IoReason(error.kind())),
            remedy: "see that it is a program of this machine, or that its first line names one",
        })?;
    drop(sealed);
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let ended = match tokio::time::timeout(spec.timeout.as_duration(), talk(&mut child, &request)).await {
        Ok(ended) => ended,
        Err(_) => Err(Unanswered::Deadline(spec.timeout)),
    };
    match ended {
        Ok(answer) => {
            // It is gone, and its number may soon be another's.
            group.0 = None;
            Ok(answer)
        }
        Err(unanswered) => {
            if matches!(unanswered, Unanswered::Died(_)) {
                group.0 = None;
            }
            drop(group);
            let _ = tokio::time::timeout(LAST_RITES, child.wait()).await;
            Err(Trouble::Unanswered(unanswered))
        }
    }
}

async fn talk(child: &mut Child, request: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unanswered> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that does not want to know may have an answer all the same.
            let _ = stdin.write_all(request).await;
        }
        Ok(())
    };
    let hear = async {
        let mut answer = Zeroizing::new(Vec::new());
        if let Some(stdout) = stdout {
            let heard = stdout.take(MOST + 1).read_to_end(&mut answer).await;
            heard.map_err(|error| Unanswered::Io(error.kind()))?;
        }
        if answer.len() as u64 > MOST { Err(Unanswered::Flood) } else { Ok(answer) }
    };
    let ((), answer) = tokio::try_join!(tell, hear)?;
    let status = child.wait().await.map_err(|error| Unanswered::Io(error.kind()))?;
    // One that failed after its answer may not have done what that says.
    if status.success() { Ok(answer) } else { Err(Unanswered::Died(status)) }
}

/// The processes that a plug-in started, itself included. Killed when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is what was wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
