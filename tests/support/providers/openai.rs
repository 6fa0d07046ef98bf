//! Keys of a service account of an OpenAI project, after
//! https://platform.openai.com/docs/api-reference/project-api-keys and .../project-service-accounts (API v1).

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct OpenAi {
    pub(crate) admin: String,
}

impl Provider for OpenAi {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if (method, path.as_slice()) == ("GET", &["v1", "models"]) {
            return match keys.is_used(request.bearer()) {
                Some(_) => Reply::new(200, json!({"object": "list", "data": [{"id": "gpt-5"}]})),
                None => refused(),
            };
        }
        if request.bearer() != self.admin {
            return refused();
        }
        match (method, path.as_slice()) {
            (
                "POST",
                ["v1", "organization", "projects", "proj_1", "service_accounts", "svc_acct_1", "api_keys"],
            ) => {
                let Some(name) = request.json()["name"].as_str().map(ToOwned::to_owned) else {
                    return error(400, "invalid_type");
                };
                let key = keys.make("key_", "sk-svcacct-", &name, Value::Null);
                let mut said = told(&key);
                said["value"] = key.value.into();
                Reply::new(200, said)
            }
            ("GET", ["v1", "organization", "projects", "proj_1", "api_keys"]) => {
                // Pages of two, so that there is more than one.
                if request.query.get("owner_project_access").is_none_or(|access| access != "any") {
                    // Which keys are left out then, it does not say.
                    return Reply::new(
                        200,
                        json!({"object": "list", "data": [], "last_id": null, "has_more": false}),
                    );
                }
                let after = request.query.get("after");
                // Whoever has been told that there is no more does not ask.
                if after.is_some_and(|after| keys.made.last().is_some_and(|last| last.id == *after)) {
                    return error(400, "invalid_value");
                }
                let start = after
                    .map_or(0, |after| 1 + keys.made.iter().position(|key| key.id == *after).unwrap_or(0));
                let page: Vec<&Made> = keys.made.iter().skip(start).take(2).collect();
                let has_more = start + page.len() < keys.made.len();
                let last = page.last().map(|key| key.id.clone());
                let data: Vec<Value> = page.into_iter().map(told).collect();
                Reply::new(
                    200,
                    json!({"object": "list", "data": data, "last_id": last, "has_more": has_more}),
                )
            }
            ("DELETE", ["v1", "organization", "projects", "proj_1", "api_keys", id]) => {
                if keys.delete(id) {
                    Reply::new(
                        200,
                        json!({"object": "organization.project.api_key.deleted", "id": id, "deleted": true}),
                    )
                } else {
                    error(404, "not_found")
                }
            }
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({
        "object": "organization.project.api_key", "id": key.id, "name": key.name, "redacted_value": "sk-...",
        "created_at": key.at.as_second(), "last_used_at": key.used.map(|at| at.as_second()),
    })
}

fn refused() -> Reply {
    error(401, "invalid_api_key")
}

fn error(status: u16, code: &str) -> Reply {
    Reply::new(
        status,
        json!({"error": {"message": INMOST, "type": "invalid_request_error", "param": null, "code": code}}),
    )
}
