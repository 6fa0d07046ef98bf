//! CI/CD variables of a GitLab project, after `lib/api/ci/variables.rb`, `app/models/concerns/ci/maskable.rb` and
//! https://docs.gitlab.com/api/project_level_variables/ (API v4).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Keys, Provider, Reply, Request};

/// The variables of project 17, by key and scope.
pub(crate) type Variables = Arc<Mutex<BTreeMap<(String, String), Value>>>;

pub(crate) struct GitLabVariables {
    pub(crate) admin: String,
    pub(crate) variables: Variables,
}

impl Provider for GitLabVariables {
    fn answer(&mut self, _: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        match request.header("private-token") {
            token if token == self.admin => {}
            "a-developer" => return error(403, json!("403 Forbidden")),
            _ => return error(401, json!("401 Unauthorized")),
        }
        let ["api", "v4", "projects", project, "variables", rest @ ..] = path.as_slice() else {
            return Reply::new(404, json!({"error": "404 Not Found"}));
        };
        if *project != "17" {
            return error(404, json!("404 Project Not Found"));
        }
        let mut variables = self.variables.lock().expect("nothing panics while it holds them");
        let scope = request.query.get("filter[environment_scope]");
        let at = |key: &str| -> Result<(String, String), Reply> {
            let of_key: Vec<_> = variables
                .keys()
                .filter(|(other, of)| other == key && scope.is_none_or(|scope| scope == of))
                .cloned()
                .collect();
            match of_key.as_slice() {
                [] => Err(error(404, json!("404 Variable Not Found"))),
                [one] => Ok(one.clone()),
                _ => Err(error(
                    409,
                    json!(
                        "There are multiple variables with provided parameters. Please use 'filter[environment_scope]'"
                    ),
                )),
            }
        };
        match (method, rest) {
            ("GET", [key]) => match at(key) {
                Ok(at) => Reply::new(200, shown(&variables[&at])),
                Err(reply) => reply,
            },
            ("PUT", [key]) => match at(key) {
                Ok(at) => {
                    let mut draft = variables[&at].clone();
                    merge(&mut draft, &request.json());
                    if let Err(reply) = validate(&draft) {
                        return reply;
                    }
                    let scope = draft["environment_scope"].as_str().unwrap_or("*").to_owned();
                    variables.remove(&at);
                    variables.insert((at.0, scope), draft.clone());
                    Reply::new(200, shown(&draft))
                }
                Err(reply) => reply,
            },
            ("POST", []) => {
                let mut draft = json!({"variable_type": "env_var", "protected": false, "masked": false, "hidden": false,
                    "raw": false, "environment_scope": "*", "description": null});
                merge(&mut draft, &request.json());
                if let Err(reply) = validate(&draft) {
                    return reply;
                }
                let text = |name: &str| draft[name].as_str().unwrap_or_default().to_owned();
                let at = (text("key"), text("environment_scope"));
                if variables.contains_key(&at) {
                    let taken = format!("({}) has already been taken", at.0);
                    return error(400, json!({"key": [taken]}));
                }
                variables.insert(at, draft.clone());
                Reply::new(201, shown(&draft))
            }
            _ => Reply::nothing_there(),
        }
    }
}

fn merge(draft: &mut Value, said: &Value) {
    let known =
        ["key", "value", "protected", "masked", "variable_type", "environment_scope", "raw", "description"];
    for name in known {
        if let Some(value) = said.get(name) {
            draft[name] = value.clone();
        }
    }
}

fn validate(draft: &Value) -> Result<(), Reply> {
    let invalid = |field: &str, reason: &str| Err(error(400, json!({field: [reason]})));
    let (Some(key), Some(value)) = (draft["key"].as_str(), draft["value"].as_str()) else {
        return Err(Reply::new(400, json!({"error": "key is missing, value is missing"})));
    };
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return invalid("key", "can contain only letters, digits and '_'.");
    }
    for flag in ["protected", "masked", "raw"] {
        if !draft[flag].is_boolean() {
            return Err(Reply::new(400, json!({"error": format!("{flag} is invalid")})));
        }
    }
    if !["env_var", "file"].contains(&draft["variable_type"].as_str().unwrap_or_default()) {
        return Err(Reply::new(400, json!({"error": "variable_type does not have a valid value"})));
    }
    if draft["description"].as_str().is_some_and(|text| text.chars().count() > 255) {
        return invalid("description", "is too long (maximum is 255 characters)");
    }
    if value.chars().count() > 10_000 {
        return invalid("value", "is too long (maximum is 10000 characters)");
    }
    let plain = |char: char| char.is_ascii_alphanumeric() || "_+=/@:.~-".contains(char);
    let fits = value.chars().count() >= 8
        && if draft["raw"] == true { !value.contains(char::is_whitespace) } else { value.chars().all(plain) };
    if draft["masked"] == true && !fits {
        return invalid("value", "is invalid");
    }
    Ok(())
}

fn shown(variable: &Value) -> Value {
    let mut shown = variable.clone();
    if shown["hidden"] == true {
        shown["value"] = Value::Null;
    }
    shown
}

fn error(status: u16, message: Value) -> Reply {
    Reply::new(status, json!({"message": message}))
}
