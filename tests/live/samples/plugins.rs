//! Samples of plug-ins, with the toy that is shipped as one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rekeyd::secret::Credential;
use serde_json::{Value, json};

use super::sample::{Sample, root};
use crate::postgres_support::text;
use crate::redis_support::hash;

/// Installs the plug-in, and gives the file that is its system.
fn install(sample: &Sample) -> PathBuf {
    let (folder, state) = (sample.at.path("plugins"), sample.at.path("toys.json"));
    std::fs::create_dir(&folder).expect("a folder");
    let program = folder.join("toy");
    std::fs::copy(root().join("policies/plugins/toy"), &program).expect("a copy");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    sample.target("exec", |exec| {
        exec["program"] = json!(program);
        exec["config"]["state"] = json!(state);
    });
    state
}

fn read(state: &PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(state).expect("the toy's state")).expect("JSON")
}

/// The toy keeps hashes.
fn is_hash_of(kept: &Value, credential: &Credential) -> bool {
    *kept == hash(text(credential))
}

pub(super) async fn users(mut sample: Sample) {
    let state = install(&sample);
    let lets_in = async |credential: &Credential| {
        let users = read(&state);
        let values = users["users"][credential.principal.as_str()]["values"].as_array();
        values.into_iter().flatten().any(|kept| is_hash_of(kept, credential))
    };
    sample.lives(lets_in).await;
    crate::walk::walk_in_short(&sample.at, &sample.policy).await;
}

pub(super) async fn keys(mut sample: Sample) {
    let state = install(&sample);
    let lets_in = async |credential: &Credential| {
        let keys = read(&state);
        let key = &keys["keys"][credential.principal.as_str()];
        key["enabled"] == true && is_hash_of(&key["value"], credential)
    };
    sample.lives(lets_in).await;
    crate::walk::walk_in_short(&sample.at, &sample.policy).await;
    let keys = read(&state)["keys"].as_object().map(serde_json::Map::len);
    assert_eq!(keys, Some(1), "keys are left over");
}
