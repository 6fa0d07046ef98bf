//! Tokens of a service account of a Grafana, after
//! https://grafana.com/docs/grafana/latest/developers/http_api/serviceaccount/.

use serde_json::{Value, json};

use super::{Keys, Made, Provider, Reply, Request};

pub(crate) struct Grafana {
    pub(crate) admin: String,
}

impl Provider for Grafana {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let invalid = || {
            Reply::new(
                401,
                json!({"message": "Invalid API key", "messageId": "api-key.invalid", "statusCode": 401}),
            )
        };
        if (method, path.as_slice()) == ("GET", &["api", "org"]) {
            return match keys.is_used(request.bearer()) {
                Some(_) => Reply::new(200, json!({"id": 1, "name": "Main Org."})),
                None => invalid(),
            };
        }
        if request.bearer() != self.admin {
            return invalid();
        }
        let ["api", "serviceaccounts", "2", "tokens", rest @ ..] = path.as_slice() else {
            return Reply::nothing_there();
        };
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let Some(name) = body["name"].as_str() else { return Reply::nothing_there() };
                if keys.made.iter().any(|key| key.name == name) {
                    return Reply::new(
                        409,
                        json!({"message": "service account token with given name already exists"}),
                    );
                }
                let key = keys.make("9", "glsa_", name, Value::Null);
                Reply::new(200, json!({"id": number(&key), "name": key.name, "key": key.value}))
            }
            ("GET", []) => Reply::new(200, keys.made.iter().map(told).collect::<Vec<_>>().into()),
            ("DELETE", [id]) if keys.delete(id) => {
                Reply::new(200, json!({"message": "Service account token deleted"}))
            }
            ("DELETE", [_]) => Reply::new(404, json!({"message": "service account token not found"})),
            _ => Reply::nothing_there(),
        }
    }
}

fn number(key: &Made) -> u64 {
    key.id.parse().expect("a number")
}

fn told(key: &Made) -> Value {
    json!({"id": number(key), "name": key.name, "created": key.at.to_string(),
           "lastUsedAt": key.used.map(|at| at.to_string()), "expiration": null, "hasExpired": false, "isRevoked": false})
}
