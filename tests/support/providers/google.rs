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

impl Provider for Google {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if let ("POST", ["token"]) = (method, path.as_slice()) {
            let form = request.form();
            let read = form.get("assertion").and_then(|token| jwt::read(token));
            let refused = || {
                let text = match jwt::judged(form.get("assertion").map(String::as_str).unwrap_or_default()) {
                    Err(jwt::Wrong::Early | jwt::Wrong::Over) => {
                        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
                    }
                    _ => "Invalid JWT Signature.",
                };
                Reply::new(400, json!({"error": "invalid_grant", "error_description": text}))
            };
            let Some((header, claims)) = read else { return refused() };
            let token = match header["kid"].as_str() {
                None if claims["iss"] == "admin" => SESSION,
                Some(_) => {
                    let value = header["kid"].as_str().and_then(|id| keys.ever(id)).map(|key| key.value);
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
        // The Policy Analyzer, of which the same holds.
        if let (
            "GET",
            ["v1", "projects", "p", "locations", "global", "activityTypes", kind, "activities:query"],
        ) = (method, path.as_slice())
        {
            let filter = request.query.get("filter").map(String::as_str).unwrap_or_default();
            let id = filter
                .strip_prefix("activities.full_resource_name = \"//iam.googleapis.com/projects/p/serviceAccounts/orders-bot/keys/")
                .and_then(|rest| rest.strip_suffix('"'));
            let (Some(id), "serviceAccountKeyLastAuthentication") = (id, *kind) else {
                return error(400, "INVALID_ARGUMENT");
            };
            let used = keys.made.iter().find(|key| key.id == id).and_then(|key| key.used);
            let said = |at: jiff::Timestamp| json!({"activityType": kind, "fullResourceName": filter, "activity": {"lastAuthenticatedTime": at.to_string()}});
            return Reply::new(200, used.map_or_else(|| json!({}), |at| json!({"activities": [said(at)]})));
        }
        let ["v1", "projects", "-", "serviceAccounts", "orders-bot", "keys", rest @ ..] = path.as_slice()
        else {
            return error(404, "NOT_FOUND");
        };
        match (method, rest) {
            // Of what it is that fails, Google says no more.
            ("POST", []) if keys.is_full() => Reply::new(
                400,
                json!({"error": {"code": 400, "message": "Precondition check failed.", "status": "FAILED_PRECONDITION"}}),
            ),
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
            ("GET", []) => match keys.listed() {
                none if none.is_empty() => Reply::new(200, json!({})),
                keys => Reply::new(200, json!({"keys": keys.iter().map(told).collect::<Vec<_>>()})),
            },
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
