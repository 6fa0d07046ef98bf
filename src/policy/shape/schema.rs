//! What the JSON Schema knows of a part of a document: the fields it must have, and a value to stand in for
//! it.
//!
//! Serde tells of the first missing field alone, and has no value for a part that is wrong. The schema is
//! derived from the same types and knows both.

use schemars::JsonSchema;
use serde_json::Value;

use super::{FieldPath, Step};

/// The schema of a type.
pub(super) struct Schema(Value);

impl Schema {
    pub(super) fn of<T: JsonSchema>() -> Self {
        Self(schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value())
    }

    /// The fields that the mapping at `path` must have.
    pub(super) fn required(&self, path: &FieldPath) -> Vec<String> {
        let required = self.at(path).into_iter().filter_map(|schema| schema["required"].as_array()).flatten();
        required.filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect()
    }

    /// A value that the part at `path` may have: its default, an example, or any other.
    pub(super) fn stand_in(&self, path: &FieldPath) -> Option<Value> {
        self.at(path).into_iter().find_map(|schema| self.value(schema))
    }

    /// What describes a part.
    fn at(&self, path: &FieldPath) -> Vec<&Value> {
        let mut schemas = self.flat(&self.0);
        for step in &path.0 {
            let children = schemas.into_iter().filter_map(|schema| child(schema, step));
            schemas = children.flat_map(|schema| self.flat(schema)).collect();
        }
        schemas
    }

    /// A schema with what it refers to and what it chooses among.
    fn flat<'a>(&'a self, schema: &'a Value) -> Vec<&'a Value> {
        let mut schemas = vec![schema];
        let choices = ["oneOf", "anyOf", "allOf"].into_iter();
        let choices = choices.flat_map(|choice| schema[choice].as_array().into_iter().flatten());
        for schema in self.referred(schema).into_iter().chain(choices) {
            schemas.extend(self.flat(schema));
        }
        schemas
    }

    fn referred(&self, schema: &Value) -> Option<&Value> {
        self.0.pointer(schema["$ref"].as_str()?.strip_prefix('#')?)
    }

    fn value(&self, schema: &Value) -> Option<Value> {
        let said = [&schema["default"], &schema["examples"][0], &schema["const"], &schema["enum"][0]];
        if let Some(value) = said.into_iter().find(|value| !value.is_null()) {
            return Some(value.clone());
        }
        let kinds = &schema["type"];
        match kinds.as_str().or_else(|| kinds[0].as_str()) {
            Some("string") => Some("stand-in".into()),
            Some("integer") => Some(schema.get("minimum").cloned().unwrap_or_else(|| 1.into())),
            Some("boolean") => Some(false.into()),
            Some("array") => {
                let least = schema["minItems"].as_u64().unwrap_or(0);
                (0..least).map(|_| self.any_of(schema.get("items")?)).collect()
            }
            Some("object") => {
                let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let entry = |name: &str| Some((name.to_owned(), self.any_of(&schema["properties"][name])?));
                required.map(entry).collect::<Option<serde_json::Map<_, _>>>().map(Value::Object)
            }
            _ => None,
        }
    }

    fn any_of(&self, schema: &Value) -> Option<Value> {
        self.flat(schema).into_iter().find_map(|schema| self.value(schema))
    }
}

fn child<'a>(schema: &'a Value, step: &Step) -> Option<&'a Value> {
    match step {
        Step::Key(key) => schema["properties"].get(key.as_ref()).or_else(|| {
            // The names of a map have a pattern. Whether this one fits it was seen by its type.
            let patterns = schema["patternProperties"].as_object();
            patterns
                .and_then(|patterns| patterns.values().next())
                .or_else(|| schema.get("additionalProperties"))
        }),
        Step::Index(_) => schema.get("items"),
    }
}
