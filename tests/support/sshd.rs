//! A real `sshd` (Debian: `openssh-server`) that a ledger is pushed through.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// An `sshd` for one key, on a port of its own. Its folder holds that key as `key`, and another as `other`.
pub(crate) struct Server {
    child: Child,
    host: String,
    port: u16,
    dir: PathBuf,
}

impl Server {
    pub(crate) fn start(dir: &Path, host: &str) -> Self {
        for key in ["host", "key", "other"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)));
        }
        // sshd separates privileges in this folder and does not start without it.
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let port = TcpListener::bind((host, 0)).and_then(|l| l.local_addr()).expect("a port").port();
        let config = format!(
            "ListenAddress {host}:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/key.pub\nPidFile none\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n",
            dir.display()
        );
        std::fs::write(dir.join("sshd_config"), config).expect("a file");
        let mut child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("sshd runs");
        let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.contains("Server listening")), "sshd does not listen");
        // Keeps the pipe empty, so that sshd never waits for it.
        std::thread::spawn(move || lines.count());
        Self { child, host: host.to_owned(), port, dir: dir.to_owned() }
    }

    /// Where a folder of this machine is for whoever has the key.
    pub(crate) fn url(&self, folder: &Path) -> String {
        let user = run(Command::new("id").arg("-un"));
        format!("ssh://{user}@{}:{}{}", self.host, self.port, folder.display())
    }

    /// A line for `known_hosts`.
    pub(crate) fn known_host(&self) -> String {
        let key = std::fs::read_to_string(self.dir.join("host.pub")).expect("a key");
        format!("[{}]:{} {key}", self.host, self.port)
    }
}

impl Server {
    /// Whether it lets somebody in with a private key.
    pub(crate) fn log_in(&self, key: &Path) -> bool {
        let known = self.dir.join("known");
        std::fs::write(&known, self.known_host()).expect("a file");
        let user = run(Command::new("id").arg("-un"));
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p"])
            .arg(self.port.to_string());
        command.arg("-o").arg(format!("UserKnownHostsFile={}", known.display())).arg("-i").arg(key);
        let output = command.arg(format!("{user}@{}", self.host)).arg("true").output().expect("ssh runs");
        output.status.success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command prints, which has to go well.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
