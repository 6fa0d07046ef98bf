//! Personal access tokens of a Docker Hub account, after https://docs.docker.com/reference/api/hub/latest/ (API v2).

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct DockerHub {
    /// The account's password.
    pub(crate) admin: String,
}

/// What a login of the account yields.
const SESSION: &str = "session-of-the-account";

/// What a login with a token yields, which may do nothing with tokens.
const SESSION_OF_TOKEN: &str = "session-of-a-token";

impl Provider for DockerHub {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let body = request.json();
        if (method, path.as_slice()) == ("POST", &["v2", "auth", "token"]) {
            let secret = body["secret"].as_str().unwrap_or_default();
            return if secret == self.admin {
                Reply::new(200, json!({"access_token": SESSION}))
            } else if keys.is_used(secret).is_some() {
                Reply::new(200, json!({"access_token": SESSION_OF_TOKEN}))
            } else {
                Reply::new(401, json!({"detail": "Incorrect authentication credentials"}))
            };
        }
        if request.bearer() == SESSION_OF_TOKEN {
            let said = "token issued from personal access token is not allowed";
            return Reply::new(403, json!({"message": said, "errinfo": {}}));
        }
        if request.bearer() != SESSION {
            return Reply::new(401, json!({"detail": INMOST}));
        }
        match (method, path.as_slice()) {
            ("POST", ["v2", "access-tokens"]) => {
                let label = body["token_label"].as_str().filter(|label| label.len() <= 100);
                let (Some(label), true) = (label, body["scopes"].is_array()) else {
                    return Reply::new(400, json!({"detail": INMOST}));
                };
                let key = keys.make("a7a5ef25-", "dckr_pat_", label, Value::Null);
                let mut said = told(&key);
                said["token"] = key.value.into();
                Reply::new(201, said)
            }
            ("GET", ["v2", "access-tokens"]) => {
                // Pages of two, so that there is more than one, and no answer to who asks for one too many.
                let said = |name: &str| request.query.get(name).and_then(|said| said.parse::<usize>().ok());
                let (number, count) = (said("page").unwrap_or(1), keys.made.len());
                if number == 0 || (number > 1 && (number - 1) * 2 >= count) {
                    return Reply::new(404, json!({"detail": INMOST}));
                }
                let Some(size) = said("page_size") else { return Reply::new(400, json!({"detail": INMOST})) };
                let next =
                    format!("https://hub.docker.com/v2/access-tokens?page={}&page_size={size}", number + 1);
                let results: Vec<_> = keys.made.iter().skip((number - 1) * 2).take(2).map(told).collect();
                let next = Some(next).filter(|_| number * 2 < count);
                Reply::new(200, json!({"count": count, "next": next, "previous": null, "results": results}))
            }
            ("PATCH", ["v2", "access-tokens", id]) => match body["is_active"].as_bool() {
                Some(active) if keys.disable(id, !active) => {
                    Reply::new(200, json!({"uuid": id, "is_active": active}))
                }
                Some(_) => Reply::new(404, json!({"detail": INMOST})),
                None => Reply::new(400, json!({"detail": INMOST})),
            },
            ("DELETE", ["v2", "access-tokens", id]) if keys.delete(id) => Reply::empty(204),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"uuid": key.id, "token_label": key.name, "token": "***", "is_active": !key.disabled,
           "created_at": key.at.to_string(), "last_used": key.used.map(|at| at.to_string())})
}
