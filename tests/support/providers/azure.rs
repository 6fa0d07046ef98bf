//! Client secrets of an application of Microsoft Entra ID, after
//! https://learn.microsoft.com/en-us/graph/api/application-addpassword and .../application-removepassword (Microsoft
//! Graph v1.0, OAuth 2.0 endpoints v2.0). The two hosts of it are one here.

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Azure {
    /// The secret of the application that owns this one.
    pub(crate) admin: String,
}

/// What its login yields.
const SESSION: &str = "session-of-the-owner";

impl Provider for Azure {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if let ("POST", ["tenant-1", "oauth2", "v2.0", "token"]) = (method, path.as_slice()) {
            let form = request.form();
            let [client, secret] =
                ["client_id", "client_secret"].map(|name| form.get(name).map_or("", String::as_str));
            let token = match client {
                "admin" if secret == self.admin => Some(SESSION),
                "client-1" if keys.is_used(secret).is_some() => Some("session-of-the-application"),
                _ => None,
            };
            return match token {
                Some(token) => Reply::new(
                    200,
                    json!({"token_type": "Bearer", "expires_in": 3599, "access_token": token}),
                ),
                None => Reply::new(
                    401,
                    json!({"error": "invalid_client", "error_description": INMOST, "error_codes": [7_000_215]}),
                ),
            };
        }
        if request.bearer() != SESSION {
            return error(401, "InvalidAuthenticationToken", INMOST);
        }
        let ["v1.0", "applications", "object-1", rest @ ..] = path.as_slice() else {
            return error(404, "Request_ResourceNotFound", INMOST);
        };
        let body = request.json();
        match (method, rest) {
            ("POST", ["addPassword"]) => {
                let asked = &body["passwordCredential"];
                let until = asked["endDateTime"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
                let (Some(name), Some(_)) = (asked["displayName"].as_str(), until) else {
                    return error(400, "Request_BadRequest", INMOST);
                };
                if keys.is_full() {
                    let text = "The size of the object has exceeded its limit. Please reduce the number of values and retry your request.";
                    return error(403, "Directory_ResourceSizeExceeded", text);
                }
                let key = keys.make("f0b0b335-", "az~", name, Value::Null);
                let mut said = told(&key);
                said["secretText"] = key.value.into();
                Reply::new(200, said)
            }
            ("GET", []) => Reply::new(
                200,
                json!({"passwordCredentials": keys.listed().iter().map(told).collect::<Vec<_>>()}),
            ),
            ("POST", ["removePassword"]) => match keys.delete(body["keyId"].as_str().unwrap_or_default()) {
                true => Reply::empty(204),
                false => error(400, "Request_BadRequest", "No password credential found with keyId"),
            },
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"keyId": key.id, "displayName": key.name, "secretText": null, "hint": "az~", "startDateTime": key.at.to_string()})
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, json!({"error": {"code": code, "message": message}}))
}
