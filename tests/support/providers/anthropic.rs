//! API keys of an Anthropic organization, after https://docs.anthropic.com/en/api/administration-api (API v1). They are
//! made by hand.

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
                // Pages of two, so that there is more than one.
                let active: Vec<&Made> = keys.made.iter().filter(|key| !key.disabled).collect();
                let after = request.query.get("after_id");
                let start = match after.map(|after| active.iter().position(|key| key.id == *after)) {
                    None => 0,
                    Some(Some(last)) => last + 1,
                    Some(None) => return error(400, "invalid_request_error"),
                };
                // Whoever has been told that there is no more does not ask.
                if start > 0 && start == active.len() {
                    return error(400, "invalid_request_error");
                }
                let page: Vec<&&Made> = active.iter().skip(start).take(2).collect();
                let id = |key: Option<&&&Made>| key.map(|key| key.id.clone());
                let (first, last) = (id(page.first()), id(page.last()));
                let has_more = start + page.len() < active.len();
                let data: Vec<_> = page.into_iter().map(|key| told(key)).collect();
                Reply::new(
                    200,
                    json!({"data": data, "has_more": has_more, "first_id": first, "last_id": last}),
                )
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
