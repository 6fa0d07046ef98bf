//! Which fields a mapping must have.
//!
//! Serde tells of the first missing field alone. The JSON Schema is derived from the same types and knows
//! them all.

use schemars::JsonSchema;
use serde_json::Value;

use super::{FieldPath, Step};

/// The fields that the mapping at `path` of a `T` must have.
pub(super) fn required<T: JsonSchema>(path: &FieldPath) -> Vec<String> {
    let root = schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    let mut schemas = flatten(&root, &root);
    for step in &path.0 {
        schemas = schemas
            .into_iter()
            .filter_map(|schema| match step {
                Step::Key(key) => {
                    schema["properties"].get(key.as_ref()).or_else(|| schema.get("additionalProperties"))
                }
                Step::Index(_) => schema.get("items"),
            })
            .flat_map(|schema| flatten(&root, schema))
            .collect();
    }
    schemas
        .into_iter()
        .filter_map(|schema| schema["required"].as_array())
        .flatten()
        .filter_map(|name| name.as_str().map(ToOwned::to_owned))
        .collect()
}

/// A schema with what it refers to and what it chooses among.
fn flatten<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut schemas = vec![schema];
    let reference = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    if let Some(target) = reference.and_then(|pointer| root.pointer(pointer)) {
        schemas.extend(flatten(root, target));
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        for schema in schema[choice].as_array().into_iter().flatten() {
            schemas.extend(flatten(root, schema));
        }
    }
    schemas
}
