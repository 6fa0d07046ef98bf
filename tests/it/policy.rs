//! Policies from files: what is read, and what every mistake is told with.

mod conflicts;
mod directory;
mod mistakes;
mod rendering;

use std::path::{Path, PathBuf};

use rekeyd::policy::load::{Loaded, load_policies, parse_policies};
use rekeyd::settings::{self, CredentialSource, Settings};

#[test]
fn every_sample_is_read_without_a_word() {
    let loaded = load_policies(Some(&root().join("policies")), &[], &sample_settings(), now());
    assert_eq!(lines(&loaded), Vec::<String>::new());
    let names: Vec<String> = loaded.policies.iter().map(|policy| policy.name().to_string()).collect();
    assert_eq!(
        names,
        [
            "reports/exports-key",
            "accounts/accounts-db",
            "reports/reports-olap",
            "ingest/ingest-olap",
            "toys/toy-key",
            "toys/toy-passwords",
            "toys/toy-password",
            "toys/toy-token",
            "toys/toy-user",
            "orders/orders-tls",
            "shop/signing-key",
            "platform/backup-ssh",
            "shop/session-key",
            "delivery/releases-db",
            "delivery/signing-key",
            "platform/manifests-key",
            "search/embedding-api",
            "shop/mail-api",
            "chat/notifier",
            "delivery/deploy-db",
            "ci/backup-token",
            "ci/deployer-token",
            "warehouse/warehouse-db",
            "finance/ledger-db",
            "catalog/catalog-db",
            "search/search-db",
            "wiki/wiki-db",
            "payments/payments-db",
            "billing/invoices-db",
            "billing/reports-db",
            "orders/orders-db",
            "billing/billing-db",
            "reports/reports-db",
            "shop/shop-db",
            "shop/shop-queue",
            "shop/shop-cache",
            "stock/stock-db",
            "orders/orders-login",
            "metrics/metrics-token"
        ]
    );
    let is_orders = |policy: &&rekeyd::policy::Policy| policy.name().to_string() == "orders/orders-db";
    let orders = loaded.policies.iter().find(is_orders).expect("it was named above");
    let labels: Vec<String> = orders.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["team=payments"]);
    assert_eq!(orders.spec().owner.as_deref(), Some("payments@example.com"));
    assert!(orders.source().ends_with("policies/postgres-alternating.yaml:5"), "{}", orders.source());
}

/// Whoever copies the README's two files has what the README says.
#[test]
fn the_readme_is_read_without_a_word() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let blocks: Vec<&str> = readme
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("the block ends"))
        .collect();
    let [settings, policy] = blocks.as_slice() else { panic!("settings and a policy: {blocks:?}") };
    let settings = settings::parse("rekeyd.yaml", settings, Path::new("/etc/rekeyd")).expect("settings");
    let loaded = parse_policies("orders.yaml", policy, &settings, now());
    assert_eq!(lines(&loaded), Vec::<String>::new());
    assert_eq!(loaded.policies[0].name().to_string(), "orders/orders-db");
}

#[test]
fn the_hash_is_of_the_specification_and_not_of_its_writing() {
    let read = |text: &str| parse_policies("orders.yaml", text, &sample_settings(), now()).policies.remove(0);
    let one = read(&orders());
    assert_eq!(one.spec_hash(), read(&orders().replace("spec:\n", "spec: # what\n")).spec_hash());
    assert_eq!(one.spec_hash(), read(&orders().replace("  containment: keepServing\n", "")).spec_hash());
    assert_ne!(one.spec_hash(), read(&orders().replace("length: 40", "length: 41")).spec_hash());
    assert_eq!(one.spec_hash().len(), 64);
}

#[test]
fn the_documents_of_a_file_stand_alone() {
    let broken = "apiVersion: rekeyd.dev/v1alpha1\nkind: RotationPolicy\nmetadata: {name: [\n";
    let text = format!("---\n# nothing\n---\n{}---\n{broken}---\n{}...\n", orders(), generated());
    let loaded = parse_policies("all.yaml", &text, &sample_settings(), now());
    assert_eq!(loaded.policies.len(), 2, "{:?}", lines(&loaded));
    assert!(loaded.has_errors());
    let line = 1 + text[..text.find(broken).expect("the broken one")].matches('\n').count();
    let found = lines(&loaded);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&format!("all.yaml:{}:", line + 2)), "{found:?}");
    assert!(found[0].contains(": error: not YAML: "), "{found:?}");
}

#[test]
fn anchors_and_merges_are_read() {
    let text = orders()
        .replace("        tls:\n          mode: verify-full\n", "        tls: &tls\n          mode: verify-full\n")
        .replacen("          tls:\n            mode: verify-full\n            caFile: /etc/rekeyd/tls/databases.pem\n", "          tls: *tls\n", 1)
        .replace("  value:\n    length: 40\n", "  value:\n    <<: {length: 24}\n");
    assert!(text.contains("*tls") && text.contains("<<"));
    let loaded = parse_policies("orders.yaml", &text, &sample_settings(), now());
    assert_eq!(lines(&loaded), Vec::<String>::new());
    assert_eq!(loaded.policies[0].spec().value.length, 24);
}

#[test]
fn what_grows_without_bound_is_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e"), ("g", "f")] {
        text += &format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(", "));
    }
    for text in [text, "[".repeat(5_000), "- ".repeat(5_000)] {
        let loaded = parse_policies("bomb.yaml", &text, &sample_settings(), now());
        assert_eq!(loaded.policies.len(), 0);
        assert_eq!(lines(&loaded).len(), 1, "{:?}", lines(&loaded));
    }
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The sample's, with admin credentials of PostgreSQL that may be used anywhere.
fn sample_settings() -> Settings {
    let diagnostics = match settings::load(&root().join("deploy/rekeyd.yaml")) {
        Ok(mut settings) => {
            let files = settings.credentials.iter_mut();
            files.for_each(|(name, credential)| {
                if let (CredentialSource::File(file), "local-admin") = (credential, name.as_str()) {
                    file.hosts.clear();
                }
            });
            return settings;
        }
        Err(diagnostics) => diagnostics,
    };
    panic!("{}", diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

fn sample(name: &str) -> String {
    std::fs::read_to_string(root().join("policies").join(name)).expect("the sample can be read")
}

fn orders() -> String {
    sample("postgres-alternating.yaml")
}

fn generated() -> String {
    sample("generated.yaml")
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.diagnostics.iter().map(ToString::to_string).collect()
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("the folder can be made");
    std::fs::write(path, text).expect("the file can be written");
}

/// The moment that schedules are checked from.
fn now() -> jiff::Timestamp {
    "2026-11-24T00:00:00Z".parse().expect("a literal timestamp")
}
