//! API keys of a SendGrid account, after https://www.twilio.com/docs/sendgrid/api-reference/api-keys (API v3).

use serde_json::{Value, json};

use super::{Keys, Provider, Reply, Request};

pub(crate) struct SendGrid {
    pub(crate) admin: String,
}

impl Provider for SendGrid {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if (method, path.as_slice()) == ("GET", &["v3", "scopes"]) {
            return match keys.is_used(request.bearer()) {
                Some(key) => Reply::new(200, json!({"scopes": key.said})),
                None => refused(),
            };
        }
        if request.bearer() != self.admin {
            return refused();
        }
        match (method, path.as_slice()) {
            ("POST", ["v3", "api_keys"]) => {
                let body = request.json();
                let Some(name) = body["name"].as_str() else {
                    return error(400, "missing required argument");
                };
                if keys.is_full() {
                    return error(403, "maximum number of api keys reached");
                }
                // Without scopes a key may do everything.
                let scopes = if body["scopes"].is_array() { body["scopes"].clone() } else { json!(["*"]) };
                let key = keys.make("Kq", "SG.", name, scopes);
                let told =
                    json!({"api_key": key.value, "api_key_id": key.id, "name": key.name, "scopes": key.said});
                Reply::new(201, told)
            }
            ("GET", ["v3", "api_keys"]) => {
                let told: Vec<Value> =
                    keys.made.iter().map(|key| json!({"name": key.name, "api_key_id": key.id})).collect();
                Reply::new(200, json!({"result": told}))
            }
            ("DELETE", ["v3", "api_keys", id]) if keys.delete(id) => Reply::empty(204),
            ("DELETE", ["v3", "api_keys", _]) => error(404, "unable to find API Key"),
            _ => Reply::nothing_there(),
        }
    }
}

fn refused() -> Reply {
    error(401, "The provided authorization grant is invalid, expired, or revoked")
}

fn error(status: u16, message: &str) -> Reply {
    Reply::new(status, json!({"errors": [{"field": null, "message": message}]}))
}
