//! A program of others as a target: the sample plug-in, held to what every target promises.

mod answers;
mod programs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rekeyd::clock::{Clock as _, SystemClock};
use rekeyd::failure::Failure;
use rekeyd::ident::Principal;
use rekeyd::policy::load::load_policies;
use rekeyd::policy::spec::{ExecSpec, ExtraValue, TargetSpec};
use rekeyd::secret::{Credential, ValueSpec};
use rekeyd::target::exec::ExecTarget;
use rekeyd::target::{Extent, MintRequest, Probe, ProbeDepth, Retired, Target as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::dual_password_contract::{DualBench, dual_password_contract};
use crate::keys_contract::{KeysBench, Ways, keys_contract};
use crate::target_contract::{Bench, Open, target_contract};

mod alternating {
    use super::*;

    target_contract!(Toy::new(alternating()));
}

/// What of it is about one user.
mod in_place {
    use super::*;

    target_contract! { Toy::new(in_place());
        installing_the_same_candidate_again_is_right
        an_older_attempt_changes_nothing
        one_policy_does_not_take_anothers_principal
        only_sessions_before_the_moment_are_ended
        undoing_what_never_arrived_bars_its_arrival
    }
}

mod dual_password {
    use super::*;

    dual_password_contract!(Toy::new(json!({"dualPassword": {"user": "toy"}})));
}

mod dual_key {
    use super::*;

    keys_contract!(Toy::new(json!({"dualKey": {"owner": "toy"}})));
}

/// A key that takes the place of the one before.
mod reissued {
    use super::*;
    use crate::keys_contract::{Step, mint, retire};

    #[tokio::test]
    async fn its_making_is_the_end_of_the_one_before() {
        let bench = Toy::new(json!({"reissued": {"owner": "toy"}}));
        let first = mint(&bench, &Step::new(1), None).await;
        let step = Step::new(2);
        let second = mint(&bench, &step, Some(&first)).await;
        assert_eq!(bench.target.probe(&first, ProbeDepth::Login).await, Probe::Refused);
        // Asked again, and of a system where all keys of an owner have one id.
        let same_id = Credential::new(second.principal.clone(), first.value.duplicate());
        for outgoing in [&first, &first, &same_id] {
            let done = retire(&bench, &step, outgoing, Extent::OtherValues, Some(&second)).await;
            assert_eq!(done.expect("it is done"), Retired::Done { sessions_closed: 0 });
            assert_eq!(bench.target.probe(outgoing, ProbeDepth::Login).await, Probe::Refused);
            assert_eq!(bench.target.probe(&second, ProbeDepth::Login).await, Probe::Accepted);
        }
    }
}

fn alternating() -> Value {
    json!({"alternating": {"users": ["toy_a", "toy_b"]}})
}

fn in_place() -> Value {
    json!({"inPlace": {"user": "toy"}})
}

/// How many keys an owner may have.
const QUOTA: i64 = 2;

/// The sample plug-in, and its system.
struct Toy {
    folder: TempDir,
    spec: ExecSpec,
    target: ExecTarget,
}

impl Toy {
    fn new(strategy: Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sample = root().join("policies/plugins/toy");
        let program = install(folder.path(), "toy", &std::fs::read(sample).expect("the sample"));
        let mut spec = spec(&program, strategy);
        let state = folder.path().join("state.json").display().to_string();
        spec.config.insert("state".to_owned(), ExtraValue::Text(state));
        spec.config.insert("quota".to_owned(), ExtraValue::Number(QUOTA));
        let target = ExecTarget::new(spec.clone(), None);
        Self { folder, spec, target }
    }

    /// Changes the system as somebody does who has its file.
    fn change<R>(&self, change: impl FnOnce(&mut Value) -> R) -> R {
        let path = self.folder.path().join("state.json");
        let mut state = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("JSON"),
            Err(_) => json!({"users": {}, "keys": {}, "sessions": []}),
        };
        let result = change(&mut state);
        std::fs::write(path, state.to_string()).expect("the state can be written");
        result
    }

    fn make(&self, credential: &Credential) {
        self.change(|state| {
            let user = json!({"values": [hash(credential)], "rights": [], "marker": null});
            state["users"][credential.principal.as_str()] = user;
        });
    }

    async fn log_in(&self, credential: &Credential) -> Box<dyn Open> {
        let id = self.change(|state| {
            let user = &state["users"][credential.principal.as_str()];
            assert_eq!(
                user["values"].as_array().map(|values| values.contains(&hash(credential))),
                Some(true)
            );
            let sessions = state["sessions"].as_array_mut().expect("sessions");
            let id = uuid::Uuid::now_v7().to_string();
            sessions.push(json!({
                "id": id,
                "principal": credential.principal,
                "application": "orders",
                "client": "127.0.0.1",
                "since": format!("{:.9}", SystemClock.now()),
            }));
            id
        });
        Box::new(Session { state: self.folder.path().join("state.json"), id })
    }
}

struct Session {
    state: PathBuf,
    id: String,
}

#[async_trait]
impl Open for Session {
    async fn lives(&mut self) -> bool {
        let state: Value =
            serde_json::from_slice(&std::fs::read(&self.state).expect("the state")).expect("JSON");
        state["sessions"].as_array().expect("sessions").iter().any(|session| session["id"] == *self.id)
    }
}

#[async_trait]
impl Bench for Toy {
    type Target = ExecTarget;

    fn explains(&self) -> bool {
        false
    }

    fn target(&self) -> &ExecTarget {
        &self.target
    }

    fn pair(&self) -> [Principal; 2] {
        ["toy_a", "toy_b"].map(name)
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        self.log_in(credential).await
    }

    async fn by_hand(&self, credential: &Credential) {
        self.make(credential);
    }
}

#[async_trait]
impl DualBench for Toy {
    type Target = ExecTarget;

    fn explains(&self) -> bool {
        false
    }

    fn target(&self) -> &ExecTarget {
        &self.target
    }

    fn user(&self) -> Principal {
        name("toy")
    }

    async fn open(&self, credential: &Credential) -> Box<dyn Open> {
        self.log_in(credential).await
    }

    async fn by_hand(&self, credential: &Credential) {
        self.make(credential);
    }

    async fn slip(&self, credential: &Credential) {
        self.change(|state| {
            let values = state["users"]["toy"]["values"].as_array_mut().expect("values");
            values.push(hash(credential));
        });
    }
}

#[async_trait]
impl KeysBench for Toy {
    type Target = ExecTarget;

    fn target(&self) -> &ExecTarget {
        &self.target
    }

    fn owner(&self) -> Principal {
        name("toy")
    }

    fn ways(&self) -> Ways {
        let quota = usize::try_from(QUOTA).ok();
        Ways { quota, tags: true, disables: true, refuses_disabled: true }
    }

    async fn by_hand(&self) -> Credential {
        let made = Credential::new(name("key-by-hand"), ValueSpec::default().generate());
        self.change(|state| {
            state["keys"]["key-by-hand"] = json!({
                "owner": "toy",
                "value": hash(&made),
                "enabled": true,
                "madeAt": SystemClock.now().to_string(),
                "used": true,
                "tag": null,
            });
        });
        made
    }

    async fn lose_the_answer(&self, request: MintRequest<'_>) -> Failure {
        let script = format!("#!/bin/sh\n{} >/dev/null\n", self.spec.program.display());
        let program = install(self.folder.path(), "mute", script.as_bytes());
        let mut spec = spec(&program, json!({"dualKey": {"owner": "toy"}}));
        spec.config = self.spec.config.clone();
        ExecTarget::new(spec, None).mint(request).await.expect_err("no answer")
    }
}

/// The policies that are shipped pin the program that is shipped, and there is one for each strategy.
#[test]
fn the_sample_policies_pin_the_sample_program() {
    let settings = rekeyd::settings::load(&root().join("deploy/rekeyd.yaml")).expect("settings");
    let loaded = load_policies(Some(&root().join("policies")), &[], &settings, SystemClock.now());
    let mut strategies = Vec::new();
    for policy in &loaded.policies {
        let TargetSpec::Exec(exec) = &policy.spec().target else { continue };
        let program = root().join("policies/plugins").join(exec.program.file_name().expect("a name"));
        let digest = digest(&std::fs::read(&program).expect("the sample program"));
        assert_eq!(exec.sha256.to_string(), digest, "write this as the `sha256` of {}", policy.source());
        let mode = program.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "everybody may run it");
        strategies.push(exec.strategy.as_str());
    }
    strategies.sort_unstable();
    assert_eq!(strategies, ["alternating", "dualKey", "dualPassword", "inPlace", "reissued"]);
}

/// A program in a folder, as root would put it there.
fn install(folder: &Path, file: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(file);
    std::fs::write(&path, content).expect("the program can be written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    path
}

/// What a policy says that pins the program as it is now.
fn spec(program: &Path, strategy: Value) -> ExecSpec {
    let digest = digest(&std::fs::read(program).expect("the program"));
    let spec = json!({"program": program, "sha256": digest, "strategy": strategy});
    let mut spec: ExecSpec = serde_json::from_value(spec).expect("a target");
    spec.config = BTreeMap::new();
    spec
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a text takes everything");
        text
    })
}

/// As the toy keeps it.
fn hash(credential: &Credential) -> Value {
    Value::String(digest(credential.value.expose()))
}

fn name(text: &str) -> Principal {
    text.parse().expect("a principal")
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}
