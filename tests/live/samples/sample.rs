//! A sample in an installation of the test's own.
//!
//! What is of a place is replaced: hosts, ports, TLS, users, mounts, namespaces, files and their owners, commands. And
//! what takes days there takes no time here: grace, soak, the pause that pods have to be ready for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rekeyd::adapters::Wiring;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::policy::Policy;
use rekeyd::policy::load::load_policies;
use rekeyd::rotation::engine::Adapters as _;
use rekeyd::secret::Credential;
use rekeyd::settings::Settings;
use rekeyd::store::Place;
use rekeyd::target::{Probe, ProbeDepth, Target};
use serde_json::{Value, json};

use super::pipelines::Pipelines;
use super::stores::Bao;
use crate::installation::Installation;
use crate::jenkins::Jenkins;
use crate::kubernetes::{Cluster, Namespace};
use crate::moto::Account;
use crate::postgres_support::text;
use crate::site::write_secret;

pub(super) struct Sample {
    pub(super) at: Installation,
    /// Its name, `orders/orders-db`.
    pub(super) policy: String,
    /// How many versions there were.
    pub(super) version: u64,
    pub(super) bao: Option<Bao>,
    pub(super) aws: Option<Account>,
    pub(super) jenkins: Option<Jenkins>,
    pub(super) pipelines: Option<Pipelines>,
    /// The namespaces that it names, in the order in which it names them.
    pub(super) spaces: Vec<Namespace>,
}

pub(super) fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The samples there are.
pub(super) fn files() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("policies")).expect("the samples");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    names.filter(|name| name.ends_with(".yaml") || name.ends_with(".yml")).collect()
}

pub(super) fn read_yaml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a target lets a credential in. Anything but a verdict is a failed test.
pub(super) async fn accepts(target: &dyn Target, credential: &Credential) -> bool {
    match target.probe(credential, ProbeDepth::Login).await {
        Probe::Accepted => true,
        Probe::Refused => false,
        other => panic!("no verdict: {other:?}"),
    }
}

impl Sample {
    /// A file of `policies/` with the sample settings, all but its target in place.
    pub(super) async fn load(file: &str) -> Self {
        let at = Installation::new().await;
        let mut settings = read_yaml(&root().join("deploy/rekeyd.yaml"));
        settings["policies"]["directory"] = json!("policies");
        settings["stores"]["local"]["embedded"] = json!({"path": "store.db", "key": {"file": "store.key"}});
        settings["ledger"]["path"] = json!("ledger.git");
        settings["ledger"].as_object_mut().expect("an object").remove("remote");
        settings["socket"] = json!("rekeyd.sock");
        settings["plugins"]["directory"] = json!(at.path("plugins"));
        at.change_settings(|own| *own = settings);

        let mut policy = read_yaml(&root().join("policies").join(file));
        policy["spec"]["retire"]["grace"] = json!("0s");
        if !policy["spec"]["retire"]["soak"].is_null() {
            policy["spec"]["retire"]["soak"] = json!("1s");
        }
        let named = |field: &str| policy["metadata"][field].as_str().expect("a name").to_owned();
        let mut sample = Self {
            policy: format!("{}/{}", named("namespace"), named("name")),
            version: 0,
            bao: None,
            aws: None,
            jenkins: None,
            pipelines: None,
            spaces: Vec::new(),
            at,
        };
        sample.place_stores(&mut policy);
        sample.place_readers(&mut policy).await;
        sample.at.write_policy(&policy);
        sample
    }

    /// The document as it is now.
    pub(super) fn document(&self) -> Value {
        read_yaml(&self.at.path(&format!("policies/{}.yaml", self.name())))
    }

    fn name(&self) -> &str {
        self.policy.rsplit('/').next().expect("a name")
    }

    /// Changes what its target says: the one of this kind.
    pub(super) fn target(&self, kind: &str, change: impl FnOnce(&mut Value)) {
        self.at.change_policy(self.name(), |policy| {
            let target = &mut policy["spec"]["target"][kind];
            assert!(target.is_object(), "the sample is of another target: {policy:#}");
            change(target);
        });
    }

    /// Puts an admin credential where the settings say that it is, to be used at this host.
    pub(super) fn admin(&self, name: &str, admin: &Credential, host: &str) {
        let mut kept = None;
        self.at.change_settings(|settings| {
            let source = &mut settings["credentials"][name];
            assert!(source.is_object(), "the settings have no credential {name}");
            if source["file"].is_object() {
                let path = self.at.path(name);
                write_secret(&path, text(admin));
                source["file"] = json!({"username": admin.principal.as_str(), "path": path, "hosts": [host]});
                return;
            }
            let store = &mut source["store"];
            if !store["hosts"].is_null() {
                store["hosts"] = json!([host]);
            }
            kept = Some((store["name"].clone(), store["path"].as_str().expect("a path").to_owned()));
        });
        if let Some((store, path)) = kept {
            self.keep(store.as_str().expect("a store"), &path, admin);
        }
    }

    /// A namespace in the place of one that the sample names.
    pub(super) async fn space(&mut self, cluster: &str) -> &Namespace {
        let shared = Cluster::shared();
        self.at.change_settings(|settings| {
            assert!(settings["clusters"][cluster].is_object(), "the settings have no cluster {cluster}");
            settings["clusters"][cluster] = json!({"kubeconfig": {"path": shared.kubeconfig}});
        });
        self.spaces.push(shared.namespace().await);
        self.spaces.last().expect("it was made")
    }

    /// The settings and the policy, as rekeyd reads them.
    fn loaded(&self) -> (Settings, Policy) {
        let settings = rekeyd::settings::load(&self.at.path("rekeyd.yaml")).expect("settings");
        let folder = self.at.path("policies");
        let mut loaded = load_policies(Some(&folder), &[], &settings, SystemClock.now());
        assert_eq!(loaded.policies.len(), 1, "{:?}", loaded.diagnostics);
        (settings, loaded.policies.remove(0))
    }

    /// The credential in force.
    pub(super) async fn stored(&self) -> Credential {
        let (settings, policy) = self.loaded();
        let spec = &policy.spec().store;
        let store = rekeyd::store::build(&spec.name, &settings.stores[&spec.name]).expect("the store");
        let current = store.current(Place::from(spec)).await.expect("a reading");
        current.expect("a credential").credential
    }

    /// The target, as rekeyd asks it.
    pub(super) fn adapter(&self) -> Arc<dyn Target> {
        let (settings, policy) = self.loaded();
        Wiring::new(&settings).target(&policy.spec().target).expect("a target").expect("one that tells")
    }

    /// Runs a command that makes another version, and gives the credential in force, which every reader has.
    pub(super) async fn turn(&mut self, command: &str) -> Credential {
        let answer = self.at.run(&[command, &self.policy]).await.ended(0);
        let proves = self.document()["spec"]["target"]["generated"].is_null();
        if self.version > 0 && proves {
            answer.says(&["old value refused"]);
        }
        self.arrived().await
    }

    /// Another version is in force: the credential, which every reader has.
    pub(super) async fn arrived(&mut self) -> Credential {
        self.version += 1;
        let current = self.stored().await;
        self.readers_have(&current).await;
        current
    }

    pub(super) async fn check(&self) {
        self.at.run(&["check"]).await.ended(0).says(&["valid: 1 policy"]);
    }

    /// The whole life of a sample: its first version, another one, and a containment. `lets_in` asks the target, by other
    /// means than rekeyd's where there are some.
    pub(super) async fn lives(&mut self, lets_in: impl AsyncFn(&Credential) -> bool) {
        self.check().await;
        let mut outgoing: Vec<Credential> = Vec::new();
        for command in ["rotate", "rotate", "contain"] {
            let current = self.turn(command).await;
            assert!(lets_in(&current).await, "{command}: the value in force is refused");
            for old in &outgoing {
                assert!(!lets_in(old).await, "{command}: an earlier value is accepted");
            }
            outgoing.push(current);
        }
        self.at.run(&["audit", "verify"]).await.ended(0);
    }
}
