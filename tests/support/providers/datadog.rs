//! API keys of a Datadog organization, after https://docs.datadoghq.com/api/latest/key-management/ (API v2, and v1 for
//! trying a key).

use serde_json::{Value, json};

use super::{Keys, Made, Provider, Reply, Request};

pub(crate) struct Datadog {
    /// An application key.
    pub(crate) admin: String,
    /// An API key that does not rotate.
    pub(crate) api: String,
}

impl Provider for Datadog {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if (method, path.as_slice()) == ("GET", &["api", "v1", "validate"]) {
            return match keys.is_used(request.header("dd-api-key")) {
                Some(_) => Reply::new(200, json!({"valid": true})),
                None => error(403, "Forbidden"),
            };
        }
        if request.header("dd-api-key") != self.api || request.header("dd-application-key") != self.admin {
            return error(403, "Forbidden");
        }
        match (method, path.as_slice()) {
            ("POST", ["api", "v2", "api_keys"]) => {
                let body = request.json();
                let Some(name) = body["data"]["attributes"]["name"].as_str() else {
                    return error(400, "Bad Request");
                };
                let key = keys.make("4f1c-", "dd", name, Value::Null);
                let mut said = told(&key);
                said["attributes"]["key"] = key.value.into();
                Reply::new(201, json!({"data": said}))
            }
            ("GET", ["api", "v2", "api_keys"]) => {
                let number =
                    request.query.get("page[number]").and_then(|number| number.parse::<usize>().ok());
                // Pages of two, so that there is more than one, and counted from 0.
                let keys = keys.listed();
                let page = keys.iter().skip(number.unwrap_or(0) * 2).take(2);
                Reply::new(200, json!({"data": page.map(told).collect::<Vec<_>>()}))
            }
            ("DELETE", ["api", "v2", "api_keys", id]) if keys.delete(id) => Reply::empty(204),
            ("DELETE", ["api", "v2", "api_keys", _]) => error(404, "Not Found"),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"type": "api_keys", "id": key.id, "attributes": {"name": key.name, "created_at": key.at.to_string(), "last4": "1234"}})
}

fn error(status: u16, text: &str) -> Reply {
    Reply::new(status, json!({"errors": [text]}))
}
