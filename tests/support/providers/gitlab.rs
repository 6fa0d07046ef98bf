//! Access tokens of a GitLab project, after https://docs.gitlab.com/api/project_access_tokens/ (API v4).

use serde_json::{Value, json};

use super::{Keys, Made, Provider, Reply, Request};

pub(crate) struct GitLab {
    pub(crate) admin: String,
}

impl Provider for GitLab {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let token = request.header("private-token");
        if (method, path.as_slice()) == ("GET", &["api", "v4", "personal_access_tokens", "self"]) {
            return match keys.is_used(token) {
                Some(key) => Reply::new(200, told(&key)),
                None => error(401, "401 Unauthorized"),
            };
        }
        if token != self.admin {
            return error(401, "401 Unauthorized");
        }
        let ["api", "v4", "projects", "17", "access_tokens", rest @ ..] = path.as_slice() else {
            return error(404, "404 Project Not Found");
        };
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let until = body["expires_at"].as_str().and_then(|day| day.parse::<jiff::civil::Date>().ok());
                let (Some(name), Some(_), true) = (body["name"].as_str(), until, body["scopes"].is_array())
                else {
                    return error(400, "400 Bad request");
                };
                let key = keys.make("5", "glpat-", name, body["scopes"].clone());
                let mut said = told(&key);
                said["token"] = key.value.into();
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
            ("DELETE", [_]) => error(404, "404 Could not find project access token"),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    let id: u64 = key.id.parse().expect("a number");
    json!({"id": id, "name": key.name, "revoked": false, "active": true, "scopes": key.said,
           "created_at": key.at.to_string(), "last_used_at": key.used.map(|at| at.to_string())})
}

fn error(status: u16, message: &str) -> Reply {
    Reply::new(status, json!({"message": message}))
}
