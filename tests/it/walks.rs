//! A fault at every call of rotations whose systems a test plays: walks by `tests/support/walk.rs`, as rekeyd is
//! composed for policies and settings, each with an embedded store and a ledger of its own.

mod readers;
mod recipes;

use std::path::PathBuf;

use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::policy::load::parse_policies;
use rekeyd::settings::Settings;
use rekeyd::store::embedded::EmbeddedStore;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults_walk::Walk;

/// Settings and what they name.
struct Ground {
    folder: TempDir,
    settings: Value,
}

impl Ground {
    fn new() -> Self {
        // In memory where that is possible: nothing here asks what a power cut leaves.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
        let at = |name: &str| folder.path().join(name);
        EmbeddedStore::generate_key_file(&at("key")).expect("a key");
        let settings = json!({
            "policies": {"directory": at("policies")},
            "stores": {"main": {"embedded": {"path": at("store.db"), "key": {"file": at("key")}}}},
            "credentials": {},
            "ledger": {"path": at("ledger")},
            "outbound": {"privateHosts": ["127.0.0.1"]},
        });
        Self { folder, settings }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A credential of the settings, for this host alone.
    fn with_admin(mut self, name: &str, (user, value): (&str, &str), host: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.at(name);
        std::fs::write(&path, value).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("closed");
        self.settings["credentials"][name] =
            json!({"file": {"username": user, "path": path, "hosts": [host]}});
        self
    }

    /// A policy of this target with these readers; `documents` beside it are recipes. The walk keeps the ground.
    fn walk(&self, target: &Value, readers: &[Value], documents: &[String]) -> Walk {
        let settings: Settings = serde_json::from_value(self.settings.clone()).expect("settings");
        let file = json!({"file": {"path": self.at("reader"), "content": "{{ principal }}\n{{ value }}\n"}});
        let policy = json!({
            "apiVersion": "rekeyd.dev/v1alpha1", "kind": "RotationPolicy",
            "metadata": {"name": "api", "namespace": "orders"},
            "spec": {
                "target": target,
                "store": {"name": "main", "path": "orders/api"},
                "consumers": if readers.is_empty() { vec![file] } else { readers.to_vec() },
                "retire": {"grace": "0s"},
            },
        });
        let documents = [&[policy.to_string()], documents].concat().join("\n---\n");
        let mut loaded = parse_policies("walk.yaml", &documents, &settings, SystemClock.now());
        assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
        Walk::new(settings, loaded.policies.remove(0))
    }
}
