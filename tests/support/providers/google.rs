//! Keys of a service account of Google Cloud, after
//! https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts.keys and
//! https://developers.google.com/identity/protocols/oauth2/service-account (IAM API v1). The two hosts of it are one
//! here.
//!
//! Every key is the same one under another id: a signature is checked with it, and the id says which key is meant.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request, jwt};

pub(crate) struct Google;

/// What a login of the admin yields.
const SESSION: &str = "session-of-the-admin";

/// Keys of an account.
const MOST: usize = 10;

impl Provider for Google {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if let ("POST", ["token"]) = (method, path.as_slice()) {
            let form = request.form();
            let read = form.get("assertion").and_then(|token| jwt::read(token));
            let refused = || {
                let text = match jwt::judged(form.get("assertion").map(String::as_str).unwrap_or_default()) {
                    Err(jwt::Wrong::Time) => {
                        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
                    }
                    _ => "Invalid JWT Signature.",
                };
                Reply::new(400, json!({"error": "invalid_grant", "error_description": text}))
            };
            let Some((header, claims)) = read else { return refused() };
            let token = match header["kid"].as_str() {
                None if claims["iss"] == "admin" => SESSION,
                Some(id) => {
                    let value = keys.made.iter().find(|key| key.id == id).map(|key| key.value.clone());
                    if value.is_none_or(|value| keys.is_used(&value).is_none()) {
                        return refused();
                    }
                    "session-of-the-account"
                }
                None => return refused(),
            };
            return Reply::new(
                200,
                json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}),
            );
        }
        if request.bearer() != SESSION {
            return error(401, "UNAUTHENTICATED");
        }
        let ["v1", "projects", "-", "serviceAccounts", "orders-bot", "keys", rest @ ..] = path.as_slice()
        else {
            return error(404, "NOT_FOUND");
        };
        match (method, rest) {
            ("POST", []) if keys.made.len() >= MOST => error(429, "RESOURCE_EXHAUSTED"),
            ("POST", []) => {
                let key = keys.make("9c1f", "", "", Value::Null);
                let file = json!({
                    "type": "service_account", "private_key_id": key.id, "private_key": jwt::KEY,
                    "client_email": "orders-bot",
                });
                let mut said = told(&key);
                said["privateKeyData"] = BASE64_STANDARD.encode(file.to_string()).into();
                Reply::new(200, said)
            }
            // Without a key the answer is an empty map.
            ("GET", []) if keys.made.is_empty() => Reply::new(200, json!({})),
            ("GET", []) => Reply::new(200, json!({"keys": keys.made.iter().map(told).collect::<Vec<_>>()})),
            ("POST", [id]) => match id.strip_suffix(":disable").is_some_and(|id| keys.disable(id, true)) {
                true => Reply::new(200, json!({})),
                false => error(404, "NOT_FOUND"),
            },
            ("DELETE", [id]) if keys.delete(id) => Reply::new(200, json!({})),
            ("DELETE", [_]) => error(404, "NOT_FOUND"),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"name": format!("projects/p/serviceAccounts/orders-bot/keys/{}", key.id),
           "validAfterTime": key.at.to_string(), "keyAlgorithm": "KEY_ALG_RSA_2048", "disabled": key.disabled})
}

fn error(status: u16, code: &str) -> Reply {
    Reply::new(status, json!({"error": {"code": status, "message": INMOST, "status": code}}))
}
