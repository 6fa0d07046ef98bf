//! The rules of the source tree that a compiler does not check: which way dependencies point, where a
//! driver crate may appear, where a value may be exposed.

use std::fs;
use std::path::{Path, PathBuf};

struct File {
    /// Below `src/`, such as `store/vault.rs`.
    path: String,
    text: String,
}

impl File {
    /// The code without comments and without its tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines
            .take_while(|(_, line)| *line != "#[cfg(test)]")
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_below(&self, module: &str) -> bool {
        self.path == format!("{module}.rs") || self.path.starts_with(&format!("{module}/"))
    }

    /// Lines of code with one of the words, as `path:line: text`.
    fn hits(&self, words: &[&str]) -> Vec<String> {
        self.code()
            .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
            .map(|(number, line)| format!("src/{}:{number}: {}", self.path, line.trim()))
            .collect()
    }
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a source folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("a source file");
                let path = path.strip_prefix(&root).expect("below src").display().to_string();
                files.push(File { path, text });
            }
        }
    }
    assert!(files.len() > 40, "only {} source files were found", files.len());
    files
}

fn assert_none(what: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{what}:\n{}", offences.join("\n"));
}

const PURE: [&str; 16] = [
    "ident",
    "failure",
    "status",
    "schedule",
    "policy/spec",
    "policy/validate",
    "policy/node",
    "rotation/plan",
    "rotation/run",
    "rotation/progress",
    "ledger/record",
    "rollout/hold",
    "rollout/pods",
    "rollout/reference",
    "rollout/versions",
    "rollout/workload",
];

#[test]
fn pure_modules_do_no_io_and_read_no_clock() {
    let words = [
        "tokio",
        "std::fs",
        "std::net::Tcp",
        "std::process",
        "std::env",
        "clock::",
        "Timestamp::now",
        "Instant",
        "async fn",
    ];
    let files = sources();
    for module in PURE {
        assert!(files.iter().any(|file| file.is_below(module)), "{module} is not a module any more");
    }
    let pure = files.iter().filter(|file| PURE.iter().any(|module| file.is_below(module)));
    assert_none("pure modules are not", pure.flat_map(|file| file.hits(&words)).collect());
}

#[test]
fn adapters_know_their_own_family_only() {
    let families = ["target", "store", "consumer", "ledger"];
    let mut offences = Vec::new();
    for file in sources() {
        for family in families.into_iter().filter(|family| file.is_below(family)) {
            offences.extend(file.hits(&[
                "crate::rotation",
                "crate::service",
                "crate::daemon",
                "crate::cli",
                "crate::adapters",
            ]));
            for other in families.into_iter().filter(|other| *other != family) {
                offences.extend(file.hits(&[&format!("crate::{other}::")]));
            }
        }
    }
    assert_none("an adapter knows more than its family", offences);
}

#[test]
fn the_library_does_not_know_the_command_line() {
    let files = sources().into_iter().filter(|file| !file.is_below("cli") && file.path != "main.rs");
    assert_none("the command line is known", files.flat_map(|file| file.hits(&["crate::cli"])).collect());
}

#[test]
fn a_driver_crate_appears_in_its_adapter_only() {
    let homes: [(&str, &[&str]); 27] = [
        ("tokio_postgres::", &["target/postgres"]),
        ("postgres_protocol::", &["target/postgres"]),
        ("mysql_common::", &["target/mysql"]),
        ("curve25519_dalek::", &["target/mysql"]),
        ("redis::", &["target/redis"]),
        ("combine::", &["target/redis"]),
        ("vaultrs::", &["vault", "store/vault", "target/vault"]),
        ("rusqlite::", &["store/embedded"]),
        ("chacha20poly1305::", &["store/embedded"]),
        ("git2::", &["ledger", "git"]),
        ("reqwest::", &["vault", "aws", "reach", "git", "http"]),
        ("aws_config::", &["aws"]),
        ("aws_credential_types::", &["aws", "store/aws"]),
        ("aws_runtime::", &["aws"]),
        ("aws_sdk_secretsmanager::", &["store/aws"]),
        ("aws_smithy_runtime_api::", &["aws", "store/aws"]),
        ("aws_smithy_types::", &["aws", "store/aws"]),
        ("aws_sigv4::", &["aws"]),
        ("aws_smithy_xml::", &["aws"]),
        ("aws_sdk_sts::", &[]),
        ("minijinja::", &["template", "recipe/template", "recipe/assertion", "recipe/sealed"]),
        ("crypto_box::", &["recipe/sealed"]),
        ("cron::", &["schedule"]),
        (
            "serde_saphyr::",
            &[
                "policy",
                "recipe/shipped",
                "settings",
                "ledger/placeholder",
                "rollout/versions",
                "cli/manifests",
            ],
        ),
        ("axum::", &["daemon"]),
        ("kube::", &["kubernetes", "consumer/kubernetes", "rollout", "leader", "target/service_account"]),
        (
            "k8s_openapi::",
            &["kubernetes", "consumer/kubernetes", "rollout", "leader", "target/service_account"],
        ),
    ];
    let files = sources();
    let mut offences = Vec::new();
    for (word, homes) in homes {
        for file in files.iter().filter(|file| !homes.iter().any(|home| file.is_below(home))) {
            // A module may have its driver's name.
            let own = ["crate::", "self::", "target::", "_"].map(|before| format!("{before}{word}"));
            let alone = |hit: &String| !own.iter().any(|own| hit.contains(own));
            offences.extend(file.hits(&[word]).into_iter().filter(alone));
        }
    }
    assert_none("a driver crate is outside its adapter", offences);
}

#[test]
fn values_are_exposed_by_adapters_only() {
    let homes = [
        "secret",
        "target",
        "store",
        "consumer",
        "ledger",
        "template",
        "recipe/template",
        "rotation/run",
        "http",
    ];
    let files = sources();
    let others = files.iter().filter(|file| !homes.iter().any(|home| file.is_below(home)));
    let offences = others.flat_map(|file| file.hits(&[".expose(", ".expose_str("])).collect();
    assert_none("a value is exposed outside adapters", offences);
    assert!(
        files.iter().any(|file| !file.hits(&[".expose("]).is_empty()),
        "the word to look for has changed"
    );
}

#[test]
fn every_file_says_what_it_is_and_is_of_readable_size() {
    let mut offences = Vec::new();
    for file in sources() {
        if !file.text.starts_with("//!") {
            offences.push(format!("src/{} does not open with //!", file.path));
        }
        let lines = file.text.lines().count();
        if lines > 600 {
            offences.push(format!("src/{} has {lines} lines", file.path));
        }
        let name = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if ["util", "utils", "common", "helpers", "misc", "types"].contains(&name) {
            offences.push(format!("src/{} is named after nothing", file.path));
        }
    }
    assert_none("the tree is not tidy", offences);
}

/// Fault points and seeded bugs are for tests: nothing that is on by default has them.
#[test]
fn no_release_has_the_proving_feature() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("a manifest");
    let features = manifest.split("[features]").nth(1).expect("features");
    let lines: Vec<&str> = features.lines().take_while(|line| !line.starts_with('[')).collect();
    assert!(lines.iter().any(|line| line.starts_with("proving")), "the feature is gone");
    assert!(!lines.iter().any(|line| line.starts_with("default")), "something is on by default: look at it");
    let naming: Vec<_> = sources()
        .iter()
        .filter(|file| !file.is_below("proving"))
        .flat_map(|file| file.hits(&["REKEYD_DISTURB", "REKEYD_MUTANT"]))
        .collect();
    assert_none("a switch for proofs outside of `proving`", naming);
}
