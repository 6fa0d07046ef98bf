//! The shipped binary rotates what the samples say, on two servers.

use std::path::Path;
use std::process::{Output, Stdio};

use rekeyd::secret::{Credential, SecretValue};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::{ADMIN, PASSWORD, name};
use crate::clickhouse_server::{Clickhouse, Client};

/// A sample in an installation of its own.
struct Site {
    servers: [Clickhouse; 2],
    folder: TempDir,
    policy: &'static str,
}

impl Site {
    async fn new(sample: &str, policy: &'static str) -> Self {
        let servers = [Clickhouse::start(ADMIN, PASSWORD).await, Clickhouse::start(ADMIN, PASSWORD).await];
        let folder = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("policies").join(sample)).expect("the sample");
        let mut document: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
        let path = folder.path().join("credential");
        let spec = &mut document["spec"];
        let target = &mut spec["target"]["clickhouse"];
        target["nodes"] =
            servers.iter().map(|server| json!({"host": "127.0.0.1", "port": server.port})).collect();
        target["tls"] = json!({"mode": "disable"});
        spec["store"]["name"] = json!("main");
        spec["consumers"] = json!([{"file": {"path": path, "content": "{{ principal }}\n{{ value }}\n"}}]);
        spec["retire"] = json!({"grace": "0s"});
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("closed");
        };
        std::fs::create_dir(folder.path().join("policies")).expect("a folder");
        write("policies/sample.yaml", &document.to_string());
        write("admin", PASSWORD);
        let settings = json!({
            "policies": {"directory": "policies"},
            "stores": {"main": {"embedded": {"path": "store.db", "key": {"file": "store.key"}}}},
            "ledger": {"path": "ledger.git"},
            "credentials": {"cache-admin": {"file": {"username": ADMIN, "path": "admin", "hosts": ["127.0.0.1"]}}},
        });
        write("rekeyd.yaml", &settings.to_string());
        let site = Self { servers, folder, policy };
        let key = site.folder.path().join("store.key");
        site.run(&["keygen", key.to_str().expect("a path")], 0).await;
        site
    }

    /// What it says on both streams.
    async fn run(&self, arguments: &[&str], code: i32) -> String {
        let command = Command::new(env!("CARGO_BIN_EXE_rekeyd"))
            .arg("--config")
            .arg(self.folder.path().join("rekeyd.yaml"))
            .args(arguments)
            .stdin(Stdio::null())
            .env("TZ", "UTC")
            .kill_on_drop(true)
            .output();
        let Output { status, stdout, stderr } = command.await.expect("rekeyd starts");
        let said = [stdout, stderr].map(|text| String::from_utf8(text).expect("text")).concat();
        assert_eq!(status.code(), Some(code), "{arguments:?}: {said}");
        said
    }

    /// The credential that the reader finds in its file.
    fn delivered(&self) -> Credential {
        let text = std::fs::read_to_string(self.folder.path().join("credential")).expect("a credential");
        let (user, value) = text.trim_end().split_once('\n').expect("two lines");
        Credential::new(name(user), SecretValue::new(value.into()))
    }

    async fn is_let_in(&self, credential: &Credential) -> [bool; 2] {
        let [one, other] = &self.servers;
        [
            Client::run(one.port, credential).await.is_some(),
            Client::run(other.port, credential).await.is_some(),
        ]
    }

    /// First a value, then another, then a leak: each is let in on both nodes, and the one before is dead.
    async fn live(&self) {
        self.run(&["preflight", self.policy], 0).await;
        self.run(&["rotate", self.policy], 0).await;
        assert_eq!(self.is_let_in(&self.delivered()).await, [true; 2]);
        for command in ["rotate", "contain"] {
            let outgoing = self.delivered();
            let mut reader = Client::run(self.servers[1].port, &outgoing).await.expect("it is let in");
            let said = self.run(&[command, self.policy], 0).await;
            assert!(said.contains("old value refused"), "{said}");
            assert!(!reader.runs().await, "its query was ended");
            assert_eq!(self.is_let_in(&outgoing).await, [false; 2]);
            assert_eq!(self.is_let_in(&self.delivered()).await, [true; 2]);
        }
        self.run(&["preflight", self.policy], 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_users_take_turns() {
    let site = Site::new("clickhouse-alternating.yaml", "reports/reports-olap").await;
    for server in &site.servers {
        server.tables().roles.insert("reports_reader".into());
        server.make("reports_a");
        let mut tables = server.tables();
        let user = tables.users.get_mut("reports_a").expect("the user");
        user.grants.extend(["GRANT SELECT ON shop.* TO {}".into(), "GRANT reports_reader TO {}".into()]);
    }
    site.live().await;
    for server in &site.servers {
        assert_eq!(server.user("reports_a").grants, server.user("reports_b").grants);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_takes_both() {
    let site = Site::new("clickhouse-dual-password.yaml", "ingest/ingest-olap").await;
    site.servers.iter().for_each(|server| server.make("ingest"));
    site.live().await;
    assert!(site.servers.iter().all(|server| server.user("ingest").ways.len() == 1));
}
