//! The ledger's push through a real `sshd` (Debian: `openssh-server`) and the OpenSSH client.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::ident::RotationId;
use rekeyd::ledger::{GitLedger, Ledger as _, Record};
use tempfile::TempDir;

/// An `sshd` for one key, on a port of its own.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Self {
        for key in ["host", "key", "other"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)));
        }
        // sshd separates privileges in this folder and does not start without it.
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/key.pub\nPidFile none\n\
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
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn open(dir: &Path, port: u16, key: &str) -> GitLedger {
    let user = run(Command::new("id").arg("-un"));
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let settings = serde_json::json!({
        "path": path("ledger"),
        "remote": {
            "url": format!("ssh://{user}@127.0.0.1:{port}{}", path("remote").display()),
            "identityFile": path(key),
            "knownHostsFile": path("known_hosts"),
            "timeout": "20s",
        },
    });
    GitLedger::open(&serde_json::from_value(settings).expect("settings")).expect("a ledger")
}

fn record() -> Record {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationRecord",
        "rotation": RotationId::generate(), "policy": "orders/orders-db", "trigger": "manual",
        "request": "r-1", "requestedBy": "uid 1000", "outcome": "rotated", "from": 0, "to": 1,
        "strategy": "alternating", "target": "postgres db:5432/orders", "principal": "app_a",
        "store": "main:apps/orders/db", "consumers": [], "policyHash": "ab".repeat(32),
        "openedAt": "2026-01-04T02:00:00Z", "closedAt": "2026-01-04T02:01:00Z", "writer": "rekeyd 0.1.0",
        "proof": {"newAccepted": true, "sessionsClosed": 0, "sessionsLeft": 0},
    }))
    .expect("a record")
}

#[tokio::test]
async fn records_are_pushed_over_ssh_to_a_known_host_only() {
    let folder = TempDir::new().expect("a temporary folder");
    let dir = folder.path();
    run(Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(dir.join("remote")));
    let server = Server::start(dir);
    let deadline = Duration::from_secs(30);

    std::fs::write(dir.join("known_hosts"), "").expect("a file");
    let ledger = open(dir, server.port, "key");
    ledger.append(&record(), None, &[]).await.expect("the record is taken");
    let state = ledger.flush(deadline).await.expect("a state");
    let unknown = state.last_error.expect("an unknown host");
    assert_eq!(unknown.class(), FailureClass::Denied, "{unknown}");
    assert!(unknown.to_string().contains("Host key verification failed"), "{unknown}");

    let key = std::fs::read_to_string(dir.join("host.pub")).expect("a key");
    std::fs::write(dir.join("known_hosts"), format!("[127.0.0.1]:{} {key}", server.port)).expect("a file");
    drop(ledger);
    let stranger = open(dir, server.port, "other");
    let state = stranger.flush(deadline).await.expect("a state");
    let denied = state.last_error.expect("a refused key");
    assert_eq!(denied.class(), FailureClass::Denied, "{denied}");
    assert_eq!(state.ahead, 1);
    drop(stranger);

    let ledger = open(dir, server.port, "key");
    let state = ledger.flush(deadline).await.expect("a state");
    assert!(state.is_settled(), "{state:?}");
    let head =
        |name: &str| run(Command::new("git").arg("-C").arg(dir.join(name)).args(["rev-parse", "main"]));
    assert_eq!(head("remote"), head("ledger"));
}
