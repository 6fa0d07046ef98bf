//! One rekeyd as a person installs it: a folder with settings, policies, key, store and ledger, and the
//! shipped binary's commands and daemon in it.
//!
//! Settings and policies are written as JSON, which is YAML too, so that a test changes a field of them
//! instead of a text.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::processes::{Answer, Daemon, Running, answer, in_time, words};

/// The shipped binary.
const REKEYD: &str = env!("CARGO_BIN_EXE_rekeyd");

/// The user `nobody`.
pub(crate) const NOBODY: u32 = 65_534;

/// A folder that rekeyd is installed in.
pub(crate) struct Installation {
    folder: TempDir,
    binary: PathBuf,
    /// The program, with its arguments, that the binary is run under; empty for none.
    under: Vec<String>,
}

impl Installation {
    /// With an embedded store, its key, a ledger and no policy.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("rekeyd-").tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("policies")).expect("a folder");
        let installation = Self { folder, binary: REKEYD.into(), under: Vec::new() };
        installation.write(
            "rekeyd.yaml",
            &json!({
                "policies": {"directory": "policies"},
                "stores": {"main": {"embedded": {"path": "store.db", "key": {"file": "store.key"}}}},
                "ledger": {"path": "ledger.git"},
                "socket": "rekeyd.sock",
            }),
        );
        let key = installation.path("store.key");
        installation.run(&["keygen", key.to_str().expect("a path")]).await.ended(0);
        installation
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the binary under another program from now on.
    pub(crate) fn run_under(&mut self, program: &[&str]) {
        self.under = program.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Gives all files to the user `nobody`, who runs the binary from now on.
    pub(crate) fn hand_over_to_nobody(&mut self) {
        chown(self.folder.path(), NOBODY);
        self.run_as_nobody();
    }

    /// Ends what [`Installation::hand_over_to_nobody`] began.
    pub(crate) fn take_back(&mut self) {
        chown(self.folder.path(), rustix::process::geteuid().as_raw());
        self.under.clear();
    }

    /// Runs the binary as the user `nobody` from now on.
    pub(crate) fn run_as_nobody(&mut self) {
        // A copy: the folder that it was built in may be closed to others.
        self.binary = self.path("rekeyd");
        std::fs::copy(REKEYD, &self.binary).expect("a copy");
        let id = NOBODY.to_string();
        let home = format!("HOME={}", self.folder.path().display());
        self.run_under(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "env", &home]);
    }

    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut Value)) {
        self.change("rekeyd.yaml", change);
    }

    /// Writes the settings to a second file, changed.
    pub(crate) fn copy_settings(&self, name: &str, change: impl FnOnce(&mut Value)) {
        std::fs::copy(self.path("rekeyd.yaml"), self.path(name)).expect("a copy");
        self.change(name, change);
    }

    /// Writes a policy document to a file of its own name.
    pub(crate) fn write_policy(&self, document: &Value) {
        self.write(&policy_file(document["metadata"]["name"].as_str().expect("a name")), document);
    }

    pub(crate) fn change_policy(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.change(&policy_file(name), change);
    }

    pub(crate) fn remove_policy(&self, name: &str) {
        std::fs::remove_file(self.path(&policy_file(name))).expect("a policy");
    }

    /// The binary with these arguments, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_by("rekeyd.yaml", arguments)
    }

    /// The same, by another settings file.
    pub(crate) fn command_by(&self, settings: &str, arguments: &[&str]) -> Command {
        let binary = self.binary.to_str().expect("a path");
        let mut words = self.under.iter().map(String::as_str).chain([binary]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command.args(words).arg("--config").arg(self.path(settings)).args(arguments);
        command.env_remove("REKEYD_CONFIG").env("TZ", "UTC").stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Answer {
        answer(self.command(arguments)).await
    }

    /// The same, with something on its standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut command = self.command(arguments);
        let words = words(&command);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("rekeyd starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that does not read it has ended by then.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = in_time(&words, child.wait_with_output()).await.expect("output");
        Answer::new(words, &output)
    }

    /// Starts a command that prints JSON lines.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.spawn(self.command(arguments))
    }

    /// The same, of a command that [`Installation::command`] made.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        let words = words(&command);
        Running::new(words, command.spawn().expect("rekeyd starts"))
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) async fn daemon(&self) -> Daemon {
        self.daemon_with(&["--log", "rekeyd=debug"]).await
    }

    pub(crate) async fn daemon_with(&self, arguments: &[&str]) -> Daemon {
        let arguments = [&["run", "--log-format", "json"], arguments].concat();
        let mut daemon = Daemon::new(self.command(&arguments).spawn().expect("rekeyd starts"));
        daemon.says("ready").await;
        daemon
    }

    fn write(&self, name: &str, document: &Value) {
        // Whole at once: a daemon may be watching.
        let draft = self.path(".draft");
        std::fs::write(&draft, serde_json::to_string_pretty(document).expect("JSON")).expect("written");
        std::fs::rename(draft, self.path(name)).expect("moved");
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(self.path(name)).expect("a document");
        let mut document = serde_json::from_str(&text).expect("JSON");
        change(&mut document);
        self.write(name, &document);
    }
}

fn policy_file(name: &str) -> String {
    format!("policies/{name}.yaml")
}

/// Gives a folder and all below it to a user.
pub(crate) fn chown(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).expect("a new owner: run the tests as root");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            chown(&entry.expect("an entry").path(), user);
        }
    }
}

/// The text of a file.
#[track_caller]
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
