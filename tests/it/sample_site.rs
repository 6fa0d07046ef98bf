//! A sample of `policies/` in an installation of its own, run by the shipped binary against servers that are in the test's
//! process.

use std::path::Path;
use std::process::{Output, Stdio};

use rekeyd::secret::{Credential, SecretValue};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// Who may change accounts.
pub(crate) struct Admin<'a> {
    /// What the sample calls it.
    pub(crate) name: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) host: &'a str,
}

pub(crate) struct Site {
    folder: TempDir,
    policy: String,
}

impl Site {
    /// `place` puts the servers into what the sample says of its target.
    pub(crate) async fn new(sample: &str, admin: Admin<'_>, place: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("policies").join(sample)).expect("the sample");
        let mut document: Value = serde_saphyr::from_str(&text).expect("YAML");
        let named = |field: &str| document["metadata"][field].as_str().expect("a name").to_owned();
        let policy = format!("{}/{}", named("namespace"), named("name"));
        let path = folder.path().join("credential");
        let spec = &mut document["spec"];
        let target = spec["target"].as_object_mut().expect("a target").values_mut().next().expect("one");
        assert_eq!(target["admin"], admin.name);
        place(target);
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
        write("admin", admin.password);
        let settings = json!({
            "policies": {"directory": "policies"},
            "stores": {"main": {"embedded": {"path": "store.db", "key": {"file": "store.key"}}}},
            "ledger": {"path": "ledger.git"},
            "credentials": {
                admin.name: {"file": {"username": admin.user, "path": "admin", "hosts": [admin.host]}},
            },
        });
        write("rekeyd.yaml", &settings.to_string());
        let site = Self { folder, policy };
        let key = site.folder.path().join("store.key");
        site.run(&["keygen", key.to_str().expect("a path")]).await;
        site
    }

    /// What it says on both streams of what it does.
    async fn run(&self, arguments: &[&str]) -> String {
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
        assert!(status.success(), "{arguments:?}: {said}");
        said
    }

    /// Does it to the policy.
    pub(crate) async fn does(&self, command: &str) -> String {
        self.run(&[command, &self.policy]).await
    }

    /// The credential that the reader finds in its file.
    pub(crate) fn delivered(&self) -> Credential {
        let text = std::fs::read_to_string(self.folder.path().join("credential")).expect("a credential");
        let (user, value) = text.trim_end().split_once('\n').expect("two lines");
        Credential::new(user.parse().expect("a principal"), SecretValue::new(value.into()))
    }
}
