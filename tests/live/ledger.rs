//! The ledger's push through a real `sshd` (Debian: `openssh-server`) and the OpenSSH client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rekeyd::failure::FailureClass;
use rekeyd::ident::RotationId;
use rekeyd::ledger::{GitLedger, Ledger as _, Record};
use tempfile::TempDir;

use crate::sshd::{Server, run};

fn open(dir: &Path, url: &str, key: &str) -> GitLedger {
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let settings = serde_json::json!({
        "path": path("ledger"),
        "remote": {
            "url": url,
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
    let server = Server::start(dir, "127.0.0.1");
    let (url, deadline) = (server.url(&dir.join("remote")), Duration::from_secs(30));

    std::fs::write(dir.join("known_hosts"), "").expect("a file");
    let ledger = open(dir, &url, "key");
    ledger.append(&record(), None, &[]).await.expect("the record is taken");
    let state = ledger.flush(deadline).await.expect("a state");
    let unknown = state.last_error.expect("an unknown host");
    assert_eq!(unknown.class(), FailureClass::Denied, "{unknown}");
    assert!(unknown.to_string().contains("Host key verification failed"), "{unknown}");

    std::fs::write(dir.join("known_hosts"), server.known_host()).expect("a file");
    drop(ledger);
    let stranger = open(dir, &url, "other");
    let state = stranger.flush(deadline).await.expect("a state");
    let denied = state.last_error.expect("a refused key");
    assert_eq!(denied.class(), FailureClass::Denied, "{denied}");
    assert_eq!(state.ahead, 1);
    drop(stranger);

    let ledger = open(dir, &url, "key");
    let state = ledger.flush(deadline).await.expect("a state");
    assert!(state.is_settled(), "{state:?}");
    let head =
        |name: &str| run(Command::new("git").arg("-C").arg(dir.join(name)).args(["rev-parse", "main"]));
    assert_eq!(head("remote"), head("ledger"));
}
