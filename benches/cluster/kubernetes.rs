//! A private Kubernetes, and what is asked of its API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Outcome;

/// A private cluster; it ends when this is dropped.
pub(super) struct Kubernetes {
    run: PathBuf,
    kubectl: PathBuf,
    pub(super) kubeconfig: PathBuf,
    audit_log: PathBuf,
}

impl Kubernetes {
    pub(super) fn start(run: &Path) -> Outcome<Self> {
        if run.join("kubernetes").exists() {
            // Of a benchmark that was killed.
            script("stop", run)?;
        }
        fs::create_dir_all(run)?;
        script("start", run)?;
        let described: Value = serde_json::from_slice(&fs::read(run.join("kubernetes.json"))?)?;
        let path = |field: &str| PathBuf::from(described[field].as_str().unwrap_or_default());
        Ok(Self {
            run: run.to_owned(),
            kubectl: path("kubectl"),
            kubeconfig: path("kubeconfig"),
            audit_log: path("auditLog"),
        })
    }

    /// What `kubectl` prints.
    pub(super) async fn kubectl(&self, arguments: &[&str], input: &str) -> Outcome<String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)?)
        } else {
            Err(format!("kubectl {arguments:?} failed").into())
        }
    }

    /// Requests of rekeyd's so far: those that were answered, and watches that began.
    pub(super) fn requests(&self) -> Outcome<usize> {
        let log = fs::read_to_string(&self.audit_log)?;
        let ours = log.lines().filter(|line| line.contains("\"userAgent\":\"rekeyd/"));
        // A watch is answered twice: when it begins and when it ends.
        Ok(ours
            .filter(|line| {
                let is_watch = line.contains("\"verb\":\"watch\"");
                line.contains(if is_watch {
                    "\"stage\":\"ResponseStarted\""
                } else {
                    "\"stage\":\"ResponseComplete\""
                })
            })
            .count())
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        let _ = script("stop", &self.run);
    }
}

fn script(verb: &str, run: &Path) -> Outcome<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/dev/kubernetes");
    let status = std::process::Command::new(program).arg(verb).arg(run).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("deploy/dev/kubernetes {verb} failed").into()) }
}
