//! Access tokens of a user of a Gitea, as Gitea 1.26 answers, and after https://docs.gitea.com/api/ (API v1):
//! `tests/live/recipes/gitea.rs` has the same recipe at it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Gitea {
    /// The user's password.
    pub(crate) admin: String,
}

/// What it says of whoever it does not let in, and of everybody while it cannot reach its database.
const REFUSED: &str = "invalid username, password or token";

impl Provider for Gitea {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if (method, path.as_slice()) == ("GET", &["api", "healthz"]) {
            let (status, told) = if keys.down { (424, "fail") } else { (200, "pass") };
            return Reply::new(status, json!({"status": told, "description": INMOST, "checks": {}}));
        }
        if (method, path.as_slice()) == ("GET", &["api", "v1", "user"]) {
            let Some(token) = request.header("authorization").strip_prefix("token ") else {
                return told(401, "token is required");
            };
            return match keys.is_used(token).filter(|_| !keys.down) {
                Some(_) => Reply::new(200, json!({"id": 1, "login": "orders-bot"})),
                None => told(401, REFUSED),
            };
        }
        let ["api", "v1", "users", "orders-bot", "tokens", rest @ ..] = path.as_slice() else {
            return told(404, INMOST);
        };
        if request.basic().1 != self.admin || keys.down {
            return told(401, REFUSED);
        }
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let (Some(name), Some(scopes)) = (body["name"].as_str(), body["scopes"].as_array()) else {
                    return told(422, INMOST);
                };
                if keys.made.iter().any(|key| key.name == name) {
                    return told(400, "access token name has been used already");
                }
                if scopes.is_empty() {
                    return told(400, "access token must have a scope");
                }
                let key = keys.make("4", "", name, body["scopes"].clone());
                let mut said = listed(&key);
                said["sha1"] = key.value.into();
                // It does not say there when that was.
                said["created_at"] = "0001-01-01T00:00:00Z".into();
                said["last_used_at"] = "0001-01-01T00:00:00Z".into();
                Reply::new(201, said)
            }
            ("GET", []) => {
                // Pages of two, as a server that is set up so gives them, however many are asked for.
                let number = |name: &str| request.query.get(name).and_then(|said| said.parse::<usize>().ok());
                let size = number("limit").map_or(2, |limit| limit.min(2));
                let page = number("page").unwrap_or(1).max(1) - 1;
                let page = keys.made.iter().skip(page * size).take(size);
                Reply::new(200, page.map(listed).collect())
            }
            ("DELETE", [id]) if keys.delete(id) => Reply::empty(204),
            ("DELETE", [_]) => Reply::new(404, json!({"errors": null, "message": "not found", "url": ""})),
            _ => told(405, INMOST),
        }
    }
}

fn listed(key: &Made) -> Value {
    let id: u64 = key.id.parse().expect("a number");
    // The last use is that of its making, as long as there was none; seconds alone are kept.
    let second = |at: Timestamp| Timestamp::from_second(at.as_second()).expect("a time").to_string();
    json!({
        "id": id, "name": key.name, "sha1": "", "token_last_eight": "12345678", "scopes": key.said,
        "created_at": second(key.at), "last_used_at": second(key.used.unwrap_or(key.at)),
    })
}

fn told(status: u16, message: &str) -> Reply {
    Reply::new(status, json!({"message": message, "url": ""}))
}
