//! Tokens of GitHub, after https://docs.github.com/en/rest/credentials/revoke and
//! https://docs.github.com/en/rest/apps/apps. Personal ones are made by hand. Deploy keys, after
//! https://docs.github.com/en/rest/deploy-keys/deploy-keys. All of API 2022-11-28.

use serde_json::{Value, json};

use super::{Keys, Provider, Reply, Request, jwt};

pub(crate) struct GitHub;

impl Provider for GitHub {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        match (method, path.as_slice()) {
            ("GET", ["user"]) => match keys.is_used(request.bearer()) {
                Some(_) => Reply::new(200, json!({"login": "orders-bot", "id": 1})),
                None => refused(),
            },
            ("GET", ["installation", "repositories"]) => match keys.is_used(request.bearer()) {
                Some(_) => Reply::new(200, json!({"total_count": 0, "repositories": []})),
                None => refused(),
            },
            // A login is refused here: only whoever has a token may have it revoked.
            ("POST", ["credentials", "revoke"]) if !request.header("authorization").is_empty() => {
                Reply::new(403, json!({"message": "Forbidden"}))
            }
            ("POST", ["credentials", "revoke"]) => match request.json()["credentials"].as_array() {
                Some(all) if (1..=1_000).contains(&all.len()) => {
                    keys.remove(|key| all.iter().any(|value| *value == key.value));
                    Reply::empty(202)
                }
                _ => Reply::new(422, json!({"message": "Validation Failed"})),
            },
            ("POST", ["app", "installations", "5", "access_tokens"])
                if !request.json()["permissions"].is_object() =>
            {
                Reply::new(422, json!({"message": "Invalid request. For 'properties/permissions'"}))
            }
            ("POST", ["app", "installations", "5", "access_tokens"]) => {
                match jwt::read(request.bearer()).filter(|(_, claims)| claims["iss"] == "admin") {
                    Some(_) => {
                        let key = keys.make("", "ghs_", "", Value::Null);
                        Reply::new(201, json!({"token": key.value, "expires_at": "2099-01-01T00:00:00Z"}))
                    }
                    None => {
                        let text = match jwt::judged(request.bearer()) {
                            Err(jwt::Wrong::Early) => {
                                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
                            }
                            Err(jwt::Wrong::Over) => {
                                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires"
                            }
                            _ => "A JSON web token could not be decoded",
                        };
                        Reply::new(401, json!({"message": text}))
                    }
                }
            }
            ("DELETE", ["installation", "token"]) => match keys.is_used(request.bearer()) {
                Some(key) if keys.delete(&key.id) => Reply::empty(204),
                _ => refused(),
            },
            _ => Reply::nothing_there(),
        }
    }
}

fn refused() -> Reply {
    Reply::new(401, json!({"message": "Bad credentials", "status": "401"}))
}

/// Deploy keys of a repository: of each it learns the public key, and no two are the same.
pub(crate) struct DeployKeys {
    pub(crate) admin: String,
}

impl Provider for DeployKeys {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if request.bearer() != self.admin {
            return refused();
        }
        let ["repos", "acme", "orders", "keys", rest @ ..] = path.as_slice() else {
            return Reply::new(404, json!({"message": "Not Found", "status": "404"}));
        };
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let (Some(title), Some(key)) = (body["title"].as_str(), body["key"].as_str()) else {
                    return invalid();
                };
                // The key and nothing of the private one.
                let is_key = key.starts_with("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI") && !key.contains('\n');
                if !is_key || !body["read_only"].is_boolean() || keys.made.iter().any(|one| one.said == *key)
                {
                    return invalid();
                }
                let made = keys.make("10", "", title, key.into());
                Reply::new(201, deployed(&made))
            }
            ("GET", []) => {
                let page = request.query.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1);
                let shown = keys.made.iter().skip((page - 1) * 2).take(2).map(deployed);
                Reply::new(200, shown.collect::<Vec<_>>().into())
            }
            ("DELETE", [id]) if keys.delete(id) => Reply::empty(204),
            ("DELETE", [_]) => Reply::new(404, json!({"message": "Not Found", "status": "404"})),
            _ => Reply::nothing_there(),
        }
    }
}

fn deployed(key: &super::Made) -> Value {
    let id: u64 = key.id.parse().expect("a number");
    json!({"id": id, "title": key.name, "key": key.said, "read_only": true, "verified": true,
           "created_at": key.at.to_string(), "last_used": key.used.map(|at| at.to_string())})
}

fn invalid() -> Reply {
    Reply::new(422, json!({"message": "Validation Failed", "status": "422"}))
}
