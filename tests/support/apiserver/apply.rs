//! Who owns which field of an object, and what server-side apply makes of that. By leaf: a list is one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::objects::{Refusal, Stored};

/// A field, from the top of the object.
type Path = Vec<String>;

/// The fields of each manager; `true` for one who applies, `false` for one who updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers(BTreeMap<(String, bool), BTreeSet<Path>>);

/// What nobody owns.
const COMMON: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["status"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "managedFields"],
];

/// The object as it is once a manager has applied a body.
pub(super) fn apply(live: &Stored, manager: &str, force: bool, body: &Value) -> Result<Stored, Refusal> {
    let mut next = live.clone();
    let applied = leaves(body);
    let who = (manager.to_owned(), true);
    for (path, value) in &applied {
        let differs = at(&live.object, path) != Some(value);
        let owners = live.managers.0.iter().filter(|(other, fields)| **other != who && fields.contains(path));
        for (other, _) in owners.filter(|_| differs) {
            if !force {
                let message = format!("conflict with {:?}: .{}", other.0, path.join("."));
                return Err(Refusal::new(409, "Conflict", message));
            }
            next.managers.0.entry(other.clone()).or_default().remove(path);
        }
        put(&mut next.object, path, value.clone());
    }
    let before = next.managers.0.insert(who, applied.into_keys().collect()).unwrap_or_default();
    for path in before {
        if !next.managers.0.values().any(|fields| fields.contains(&path)) {
            take(&mut next.object, &path);
        }
    }
    next.managers.0.retain(|_, fields| !fields.is_empty());
    Ok(next)
}

impl Managers {
    /// A manager has written the whole object: what changed is its own from now on.
    pub(super) fn updated(&mut self, manager: &str, before: &Value, after: &Value) {
        let (before, after) = (leaves(before), leaves(after));
        let changed: BTreeSet<Path> = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(value))
            .map(|(p, _)| p.clone())
            .collect();
        for fields in self.0.values_mut() {
            fields.retain(|path| after.contains_key(path) && !changed.contains(path));
        }
        self.0.entry((manager.to_owned(), false)).or_default().extend(changed);
        self.0.retain(|_, fields| !fields.is_empty());
    }

    /// As an API server shows them.
    pub(super) fn shown(&self, time: &str) -> Value {
        let entries = self.0.iter().map(|((manager, applies), fields)| {
            let mut tree = Value::Object(Map::new());
            for path in fields {
                let path: Path = path.iter().map(|part| format!("f:{part}")).collect();
                put(&mut tree, &path, json!({}));
            }
            json!({
                "manager": manager, "operation": if *applies { "Apply" } else { "Update" },
                "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1", "fieldsV1": tree,
            })
        });
        entries.collect()
    }
}

/// Every field of an object that somebody may own.
fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    fn walk(value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
        if COMMON.iter().any(|common| path.iter().map(String::as_str).eq(common.iter().copied())) {
            return;
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    path.push(name.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            value => drop(found.insert(path.clone(), value.clone())),
        }
    }
    let mut found = BTreeMap::new();
    walk(object, &mut Vec::new(), &mut found);
    found
}

fn at<'a>(object: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, part| value.get(part))
}

fn put(object: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    put(&mut object[first.as_str()], rest, value);
}

/// Takes a field away, and what is empty without it.
fn take(object: &mut Value, path: &[String]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), object.as_object_mut()) else { return };
    if rest.is_empty() {
        fields.remove(first);
    } else if let Some(within) = fields.get_mut(first) {
        take(within, rest);
        if within.as_object().is_some_and(Map::is_empty) {
            fields.remove(first);
        }
    }
}

/// RFC 7386.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let fields = object.as_object_mut().expect("it was made one");
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
