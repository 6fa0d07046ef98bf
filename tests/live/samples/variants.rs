//! What there is to show in a sample, by the schema of policies: each target with each of its strategies, and each
//! consumer.

use std::collections::BTreeSet;

use serde_json::Value;

use super::sample::{read_yaml, root};

/// Everything that the schemas know: `target postgres alternating`, `consumer jenkins file`.
pub(super) fn all() -> BTreeSet<String> {
    let schema = read_json("schemas/rotationpolicy.schema.json");
    let strategies = |schema: &Value| definition(schema, "RecipeStrategy")["oneOf"].clone();
    let of_recipes = strategies(&read_json("schemas/recipe.schema.json"));
    let of_recipes = of_recipes.as_array().expect("strategies").iter();
    let mut all: BTreeSet<String> =
        of_recipes.map(|one| format!("target http {}", one["const"].as_str().expect("a strategy"))).collect();
    for (target, inner) in variants(&schema, "TargetSpec") {
        match field(&schema, &inner, "strategy") {
            Some(strategy) => {
                let names = variants(&schema, &strategy).into_iter();
                all.extend(names.map(|(name, _)| format!("target {target} {name}")));
            }
            // Its recipes have them.
            None if target == "http" => {}
            None => _ = all.insert(format!("target {target}")),
        }
    }
    for (consumer, inner) in variants(&schema, "ConsumerSpec") {
        match field(&schema, &inner, "credential").filter(|of| !variants(&schema, of).is_empty()) {
            Some(kinds) => {
                let names = variants(&schema, &kinds).into_iter();
                all.extend(names.map(|(name, _)| format!("consumer {consumer} {name}")));
            }
            None => _ = all.insert(format!("consumer {consumer}")),
        }
    }
    all
}

/// What a file of `policies/` shows.
pub(super) fn of_sample(file: &str) -> Vec<String> {
    let policy = read_yaml(&root().join("policies").join(file));
    let (target, spec) = only(&policy["spec"]["target"]);
    let target = match (target.as_str(), &spec["strategy"]) {
        ("http", _) => {
            let recipe = spec["recipe"].as_str().expect("a recipe");
            let recipe = read_yaml(&root().join(format!("policies/recipes/{recipe}.yaml")));
            format!("target http {}", recipe["spec"]["strategy"].as_str().expect("a strategy"))
        }
        (target, Value::Null) => format!("target {target}"),
        (target, strategy) => format!("target {target} {}", only(strategy).0),
    };
    let consumers = policy["spec"]["consumers"].as_array().expect("consumers").iter().map(|consumer| {
        let (kind, spec) = only(consumer);
        match &spec["credential"] {
            Value::Object(_) => format!("consumer {kind} {}", only(&spec["credential"]).0),
            _ => format!("consumer {kind}"),
        }
    });
    consumers.chain([target]).collect()
}

/// The one field of an object, and what it holds.
pub(super) fn only(object: &Value) -> (String, &Value) {
    let mut fields = object.as_object().expect("an object").iter();
    let (Some((name, value)), None) = (fields.next(), fields.next()) else { panic!("one field: {object}") };
    (name.clone(), value)
}

fn read_json(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).expect("a schema");
    serde_json::from_str(&text).expect("JSON")
}

fn definition<'a>(schema: &'a Value, name: &str) -> &'a Value {
    &schema["definitions"][name]
}

/// The variants of a definition, each with the definition of what it holds.
fn variants(schema: &Value, name: &str) -> Vec<(String, String)> {
    let Some(variants) = definition(schema, name)["oneOf"].as_array() else { return Vec::new() };
    let properties = variants.iter().filter(|one| one["properties"].is_object()).map(|one| {
        let (name, value) = only(&one["properties"]);
        (name, reference(value).expect("a definition"))
    });
    properties.collect()
}

/// The definition of a field.
fn field(schema: &Value, name: &str, field: &str) -> Option<String> {
    reference(&definition(schema, name)["properties"][field])
}

fn reference(value: &Value) -> Option<String> {
    let name = value["$ref"].as_str().or(value["allOf"][0]["$ref"].as_str())?;
    name.strip_prefix("#/definitions/").map(ToOwned::to_owned)
}
