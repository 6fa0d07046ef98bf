//! The committed JSON Schemas are those of the types, and say what they can of good and bad files.

mod checker;

use std::path::{Path, PathBuf};

use rekeyd::proving::point::{POINTS, Row};
use rekeyd::schema;
use serde_json::Value;

use self::checker::faults;

#[test]
fn the_committed_schemas_are_those_of_the_types() {
    for (name, schema) in [
        ("rotationpolicy.schema.json", schema::rotation_policy()),
        ("recipe.schema.json", schema::recipe()),
        ("consumerrecipe.schema.json", schema::consumer_recipe()),
        ("rekeyd.schema.json", schema::settings()),
    ] {
        let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
        is_committed(&format!("schemas/{name}"), &text);
    }
}

/// What is written from the code is in the repository as the code has it.
pub(crate) fn is_committed(file: &str, text: &str) {
    let path = root().join(file);
    #[expect(clippy::disallowed_methods, reason = "a person asks the test to write it")]
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, text).expect("it can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "{file} is another; run `UPDATE_SCHEMAS=1 cargo test --test it -- schema rights`"
    );
}

#[test]
fn the_committed_resource_definition_is_that_of_the_types() {
    let definition = serde_json::to_value(rekeyd::kubernetes::resource::definition()).expect("JSON");
    let text = "# Written from the types of rekeyd: UPDATE_SCHEMAS=1 cargo test --test it schema\n"
        .to_owned()
        + &serde_saphyr::to_string(&definition).expect("YAML");
    is_committed("deploy/kubernetes/base/crd.yaml", &text);
}

#[test]
fn the_documented_fault_points_are_those_of_the_code() {
    const MARK: &str = "<!-- points -->\n";
    const PAGE: &str = "docs/reliability.md";
    let page = std::fs::read_to_string(root().join(PAGE)).expect("a page");
    let (head, _) = page.split_once(MARK).expect("a mark");
    let rows = Row::ALL.map(|row| {
        let points = POINTS.iter().filter(|point| point.row == row);
        let names: Vec<String> = points.map(|point| format!("`{}`", point.name)).collect();
        format!("| {} | {} |\n", row.describe(), names.join(" "))
    });
    let text = format!("{head}{MARK}| the world | points |\n|---|---|\n{}", rows.concat());
    is_committed(PAGE, &text);
}

#[test]
fn the_example_of_a_cluster_has_the_rights_of_its_policies_and_no_others() {
    let example = root().join("deploy/kubernetes/overlays/example");
    let settings = rekeyd::settings::load(&example.join("rekeyd.yaml")).expect("settings");
    let now = "2026-03-01T00:00:00Z".parse().expect("a moment");
    let policies = rekeyd::policy::load::load_policies(Some(&example.join("policies")), &[], &settings, now);
    assert!(!policies.has_errors(), "{:?}", policies.diagnostics);
    let (cluster, label) = ("main".parse().expect("a name"), || "rekeyd".parse().expect("a name"));
    let account = rekeyd::kubernetes::rights::Account { namespace: label(), name: label() };
    let manifests = rekeyd::kubernetes::rights::manifests(&settings, &policies.policies, &cluster, &account);
    let texts = manifests.iter().map(|one| format!("---\n{}", serde_saphyr::to_string(one).expect("YAML")));
    is_committed("deploy/kubernetes/overlays/example/rbac.yaml", &texts.collect::<String>());

    // Of Secrets, each by its name.
    for rule in manifests.iter().filter_map(|manifest| manifest["rules"].as_array()).flatten() {
        let resources = rule["resources"].as_array().expect("resources");
        let is_secret = resources.iter().any(|resource| resource == "secrets" || resource == "*");
        let names = rule["resourceNames"].as_array().map_or(0, Vec::len);
        assert!(!is_secret || names > 0, "{rule}");
        assert!(rule["verbs"].as_array().expect("verbs").iter().all(|verb| verb != "*"), "{rule}");
    }
}

#[test]
fn the_sample_for_a_gitops_repository_is_what_the_secret_of_a_policy_without_its_value() {
    let example = root().join("deploy/kubernetes/overlays/example");
    let settings = rekeyd::settings::load(&example.join("rekeyd.yaml")).expect("settings");
    let now = "2026-03-01T00:00:00Z".parse().expect("a moment");
    let text = std::fs::read_to_string(example.join("policies/orders.yaml")).expect("a policy");
    let written = |text: &str, cluster: &str| {
        let loaded = rekeyd::policy::load::parse_policies("orders.yaml", text, &settings, now);
        assert!(!loaded.has_errors(), "{:?}", loaded.diagnostics);
        rekeyd::kubernetes::placeholders::manifests(&loaded.policies, &cluster.parse().expect("a name"))
    };
    let sample = std::fs::read_to_string(root().join("deploy/gitops/secret.yaml")).expect("a sample");
    let sample: Value = serde_saphyr::from_str(&sample).expect("YAML");
    assert_eq!(written(&text, "main").manifests, [sample]);
    assert!(written(&text, "other").manifests.is_empty());
    // An API server takes none of these without its keys.
    let typed =
        text.replace("secret: orders-db\n", "secret: orders-db\n        type: kubernetes.io/basic-auth\n");
    let found = written(&typed, "main");
    assert!(found.manifests.is_empty());
    assert_eq!(found.left_out, [("orders/orders-db".into(), "kubernetes.io/basic-auth".into())]);
}

/// A GitOps tool changes them.
#[test]
fn whose_workloads_restart_by_git_needs_no_right_to_change_them() {
    let settings = rekeyd::settings::load(&root().join("deploy/rekeyd.yaml")).expect("settings");
    let now = "2026-03-01T00:00:00Z".parse().expect("a moment");
    let read = |names: &[&str]| {
        let policies =
            rekeyd::policy::load::load_policies(Some(&root().join("policies")), &[], &settings, now);
        let is_asked = |policy: &rekeyd::policy::Policy| names.contains(&policy.name().name());
        let policies: Vec<_> = policies.policies.into_iter().filter(is_asked).collect();
        assert_eq!(policies.len(), names.len());
        let (cluster, label) = ("main".parse().expect("a name"), || "rekeyd".parse().expect("a name"));
        let account = rekeyd::kubernetes::rights::Account { namespace: label(), name: label() };
        let manifests = rekeyd::kubernetes::rights::manifests(&settings, &policies, &cluster, &account);
        let rules: Vec<Value> = manifests[0]["rules"].as_array().expect("rules").clone();
        rules.into_iter().filter(|rule| rule["resources"][0] == "deployments").collect::<Vec<_>>()
    };
    let rule = |verbs: &[&str]| serde_json::json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": verbs});
    assert_eq!(read(&["billing-db"]), [rule(&["list", "get"])]);
    assert_eq!(read(&["shop-db"]), [rule(&["list", "get", "patch"])]);
}

#[test]
fn the_schemas_take_every_sample() {
    let (policies, recipes) = (schema::rotation_policy(), schema::recipe());
    let of_consumers = schema::consumer_recipe();
    for folder in ["policies", "policies/recipes"] {
        for file in std::fs::read_dir(root().join(folder)).expect("the samples") {
            let path = file.expect("a file").path();
            if path.is_file() {
                let document = read(&path);
                let schema = match document["kind"].as_str().expect("a kind") {
                    "Recipe" => &recipes,
                    "ConsumerRecipe" => &of_consumers,
                    _ => &policies,
                };
                assert_eq!(faults(schema, &document), Vec::<String>::new(), "{}", path.display());
            }
        }
    }
    let settings = read(&root().join("deploy/rekeyd.yaml"));
    assert_eq!(faults(&schema::settings(), &settings), Vec::<String>::new());
}

#[test]
fn the_schemas_refuse_what_a_schema_can_refuse() {
    let policy = read(&root().join("policies/postgres-alternating.yaml"));
    for (pointer, wrong) in [
        ("/apiVersion", serde_json::json!("v1")),
        ("/kind", serde_json::json!("Secret")),
        ("/metadata/name", serde_json::json!("../orders")),
        ("/metadata/labels/team", serde_json::json!("a b")),
        ("/spec/schedule/window", serde_json::json!("soon")),
        ("/spec/target/postgres/endpoint/port", serde_json::json!(70_000)),
        ("/spec/target/postgres/endpoint/port", serde_json::json!(0)),
        ("/spec/target/postgres/endpoint/tls/mode", serde_json::json!("prefer")),
        ("/spec/target/postgres/strategy/alternating/users", serde_json::json!(["a"])),
        ("/spec/value/length", serde_json::json!(8)),
        ("/spec/store/path", serde_json::json!("../other")),
        ("/spec/store/unknown", serde_json::json!("x")),
        ("/spec/consumers/0/file/mode", serde_json::json!(600)),
        ("/spec/containment", serde_json::json!("wait")),
        ("/spec/store", Value::Null),
    ] {
        let mut bad = policy.clone();
        set(&mut bad, pointer, wrong);
        assert_ne!(faults(&schema::rotation_policy(), &bad), Vec::<String>::new(), "{pointer} was taken");
    }
    let settings = read(&root().join("deploy/rekeyd.yaml"));
    for (pointer, wrong) in [
        ("/stores/Bao", serde_json::json!({"embedded": {"path": "a", "key": {"file": "b"}}})),
        ("/stores/bao/vault/token", serde_json::json!("hvs.x")),
        ("/credentials/local-admin/file/password", serde_json::json!("x")),
        ("/limits/rotations", serde_json::json!(0)),
        ("/ledger/path", serde_json::json!(1)),
    ] {
        let mut bad = settings.clone();
        set(&mut bad, pointer, wrong);
        assert_ne!(faults(&schema::settings(), &bad), Vec::<String>::new(), "{pointer} was taken");
    }
}

#[test]
fn every_field_is_described_for_the_editor() {
    fn walk(schema: &Value, path: &str, bare: &mut Vec<String>) {
        // A choice is one property, described beside it.
        let is_choice =
            schema["description"].is_string() && schema["required"].as_array().is_some_and(|r| r.len() == 1);
        if let (Some(properties), false) = (schema["properties"].as_object(), is_choice) {
            for (name, property) in properties {
                let is_described = property["description"].is_string()
                    || property["$ref"].is_string()
                    || property["allOf"].is_array();
                if !is_described {
                    bare.push(format!("{path}/{name}"));
                }
            }
        }
        match schema {
            Value::Object(object) => {
                object.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}"), bare));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, bare)),
            _ => {}
        }
    }
    let mut bare = Vec::new();
    walk(&schema::rotation_policy(), "policy", &mut bare);
    walk(&schema::settings(), "settings", &mut bare);
    let definition = serde_json::to_value(rekeyd::kubernetes::resource::definition()).expect("JSON");
    let status = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    assert!(status["properties"].is_object(), "{definition:#}");
    walk(status, "status", &mut bare);
    assert_eq!(bare, Vec::<String>::new());
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The file as other YAML tools see it, not by way of the code under test.
fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the sample can be read");
    serde_saphyr::from_str(&text).expect("the sample is YAML")
}

fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = document.pointer_mut(parent).and_then(Value::as_object_mut).expect("the parent");
    parent.insert(name.to_owned(), value);
}
