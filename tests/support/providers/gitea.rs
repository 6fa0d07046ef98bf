//! Access tokens of a user of a Gitea, after its API's description and `routers/api/v1/user/app.go`.

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Gitea {
    /// The user's password.
    pub(crate) admin: String,
}

impl Provider for Gitea {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if (method, path.as_slice()) == ("GET", &["api", "v1", "user"]) {
            let token = request.header("authorization").strip_prefix("token ").unwrap_or_default();
            return match keys.is_used(token) {
                Some(_) => Reply::new(200, json!({"id": 1, "login": "orders-bot"})),
                None => Reply::new(401, json!({"message": "invalid username, password or token"})),
            };
        }
        if request.basic().1 != self.admin {
            return Reply::new(401, json!({"message": INMOST}));
        }
        let ["api", "v1", "users", "orders-bot", "tokens", rest @ ..] = path.as_slice() else {
            return Reply::nothing_there();
        };
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let (Some(name), true) = (body["name"].as_str(), body["scopes"].is_array()) else {
                    return Reply::new(400, json!({"message": INMOST}));
                };
                if keys.made.iter().any(|key| key.name == name) {
                    return Reply::new(400, json!({"message": "access token name has been used already"}));
                }
                let key = keys.make("4", "", name, body["scopes"].clone());
                let mut said = told(&key);
                said["sha1"] = key.value.into();
                Reply::new(201, said)
            }
            ("GET", []) => {
                let number =
                    request.query.get("page").and_then(|number| number.parse::<usize>().ok()).unwrap_or(1);
                Reply::new(
                    200,
                    keys.made.iter().skip((number - 1) * 2).take(2).map(told).collect::<Vec<_>>().into(),
                )
            }
            ("DELETE", [id]) if keys.delete(id) => Reply::empty(204),
            ("DELETE", [_]) => Reply::nothing_there(),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    let id: u64 = key.id.parse().expect("a number");
    json!({"id": id, "name": key.name, "sha1": "", "token_last_eight": "12345678", "scopes": key.said})
}
