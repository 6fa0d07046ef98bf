//! What the proofs measured, for whoever puts it together: one file for each level.

use std::path::Path;

use serde_json::Value;

/// Writes the figures of one level to `target/prove/<level>.json`.
pub(crate) fn write(level: &str, figures: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/prove");
    std::fs::create_dir_all(&folder).expect("a folder");
    let text = serde_json::to_string_pretty(figures).expect("JSON");
    std::fs::write(folder.join(format!("{level}.json")), text + "\n").expect("written");
}

/// What the environment asks of a proof.
#[expect(clippy::disallowed_methods, reason = "no settings are read here")]
pub(crate) fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
