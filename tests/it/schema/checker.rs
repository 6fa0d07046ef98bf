//! As much of JSON Schema draft 7 as our schemas use. It stops at a keyword that it does not know, so that
//! none is passed over.

use regex::Regex;
use serde_json::Value;

/// What of the document the schema refuses.
pub(super) fn faults(schema: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, document, "", &mut found);
    found
}

fn check(root: &Value, schema: &Value, document: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else {
        if schema == &Value::Bool(false) {
            found.push(format!("{at}: not allowed"));
        }
        return;
    };
    let passes = |schema: &Value| {
        let mut faults = Vec::new();
        check(root, schema, document, at, &mut faults);
        faults.is_empty()
    };
    let mut refuse = |holds: bool, keyword: &str| {
        if !holds {
            found.push(format!("{at}: {keyword}"));
        }
    };
    for (keyword, value) in keywords {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" | "format" | "examples" => {}
            "properties" | "items" | "$ref" => {}
            // Of API servers.
            "x-kubernetes-int-or-string" => refuse(document.is_i64() || document.is_string(), keyword),
            "type" => {
                let holds = match value {
                    Value::Array(names) => names.iter().any(|name| is_type(document, name)),
                    name => is_type(document, name),
                };
                refuse(holds, keyword);
            }
            "const" => refuse(document == value, keyword),
            "enum" => refuse(value.as_array().is_some_and(|values| values.contains(document)), keyword),
            "pattern" => {
                let pattern = Regex::new(value.as_str().expect("a text")).expect("a pattern");
                refuse(document.as_str().is_none_or(|text| pattern.is_match(text)), keyword);
            }
            "maxLength" => refuse(
                document
                    .as_str()
                    .is_none_or(|text| text.chars().count() as u64 <= value.as_u64().expect("a number")),
                keyword,
            ),
            "minimum" => refuse(
                document.as_f64().is_none_or(|number| number >= value.as_f64().expect("a number")),
                keyword,
            ),
            "maximum" => refuse(
                document.as_f64().is_none_or(|number| number <= value.as_f64().expect("a number")),
                keyword,
            ),
            "minItems" => refuse(
                document.as_array().is_none_or(|list| list.len() as u64 >= value.as_u64().expect("a number")),
                keyword,
            ),
            "maxItems" => refuse(
                document.as_array().is_none_or(|list| list.len() as u64 <= value.as_u64().expect("a number")),
                keyword,
            ),
            "required" => {
                for name in value.as_array().expect("names").iter().filter_map(Value::as_str) {
                    refuse(document.as_object().is_none_or(|object| object.contains_key(name)), name);
                }
            }
            "oneOf" => {
                refuse(value.as_array().expect("schemas").iter().filter(|s| passes(s)).count() == 1, keyword)
            }
            "anyOf" => refuse(value.as_array().expect("schemas").iter().any(passes), keyword),
            "allOf" => refuse(value.as_array().expect("schemas").iter().all(passes), keyword),
            "additionalProperties" | "patternProperties" | "x-kubernetes-preserve-unknown-fields" => {}
            other => panic!("the checker does not know `{other}`"),
        }
    }
    if let Some(pointer) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        check(root, root.pointer(pointer).expect("a definition"), document, at, found);
    }
    if let (Some(items), Some(list)) = (schema.get("items"), document.as_array()) {
        list.iter()
            .enumerate()
            .for_each(|(index, item)| check(root, items, item, &format!("{at}/{index}"), found));
    }
    for (name, value) in document.as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        let named = schema["properties"].get(name);
        let matching = schema["patternProperties"].as_object().into_iter().flatten();
        let matching: Vec<&Value> = matching
            .filter(|(pattern, _)| Regex::new(pattern).expect("a pattern").is_match(name))
            .map(|(_, schema)| schema)
            .collect();
        if named.is_none() && matching.is_empty() {
            check(root, schema.get("additionalProperties").unwrap_or(&Value::Bool(true)), value, &at, found);
        }
        named.into_iter().chain(matching).for_each(|schema| check(root, schema, value, &at, found));
    }
}

fn is_type(document: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type's name") {
        "null" => document.is_null(),
        "boolean" => document.is_boolean(),
        "string" => document.is_string(),
        "integer" => document.is_i64() || document.is_u64(),
        "number" => document.is_number(),
        "array" => document.is_array(),
        "object" => document.is_object(),
        other => panic!("the checker does not know the type `{other}`"),
    }
}
