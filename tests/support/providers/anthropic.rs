//! API keys of an Anthropic organization, after https://docs.anthropic.com/en/api/administration-api. They are made by
//! hand.

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Anthropic {
    pub(crate) admin: String,
}

impl Provider for Anthropic {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if request.header("anthropic-version").is_empty() {
            return error(400, "invalid_request_error");
        }
        let key = request.header("x-api-key");
        if (method, path.as_slice()) == ("GET", &["v1", "models"]) {
            return match keys.is_used(key) {
                Some(_) => Reply::new(200, json!({"data": [], "has_more": false})),
                None => error(401, "authentication_error"),
            };
        }
        if key != self.admin {
            return error(401, "authentication_error");
        }
        match (method, path.as_slice()) {
            ("GET", ["v1", "organizations", "api_keys"]) => {
                let active: Vec<_> = keys.made.iter().filter(|key| !key.disabled).map(told).collect();
                Reply::new(200, json!({"data": active, "has_more": false}))
            }
            ("POST", ["v1", "organizations", "api_keys", id]) => {
                let body = request.json();
                let known = match body["status"].as_str() {
                    Some("inactive") => keys.disable(id, true),
                    Some("archived") => keys.disable(id, true),
                    _ => return error(400, "invalid_request_error"),
                };
                if known {
                    Reply::new(200, json!({"id": id, "status": body["status"]}))
                } else {
                    error(404, "not_found_error")
                }
            }
            _ => error(404, "not_found_error"),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"type": "api_key", "id": key.id, "name": key.name, "status": "active", "created_at": key.at.to_string()})
}

fn error(status: u16, kind: &str) -> Reply {
    Reply::new(status, json!({"type": "error", "error": {"type": kind, "message": INMOST}}))
}
