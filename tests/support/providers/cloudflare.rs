//! API tokens of a Cloudflare account, after
//! https://developers.cloudflare.com/api/resources/accounts/subresources/tokens/ (API v4).

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Cloudflare {
    pub(crate) admin: String,
}

impl Provider for Cloudflare {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let ["client", "v4", "accounts", "acc1", "tokens", rest @ ..] = path.as_slice() else {
            return Reply::nothing_there();
        };
        if (method, rest) == ("GET", &["verify"]) {
            return match keys.is_used(request.bearer()) {
                Some(key) => done(200, json!({"id": key.id, "status": "active"})),
                None => error(401, 1000),
            };
        }
        if request.bearer() != self.admin {
            return error(401, 1000);
        }
        match (method, rest) {
            ("POST", []) => {
                let body = request.json();
                let is_policy =
                    |policy: &Value| policy["effect"] == "allow" && policy["permission_groups"].is_array();
                let policies =
                    body["policies"].as_array().filter(|all| !all.is_empty() && all.iter().all(is_policy));
                let (Some(name), Some(_)) = (body["name"].as_str(), policies) else {
                    return error(400, 1001);
                };
                let key = keys.make("ed17", "cf", name, body["policies"].clone());
                let mut said = told(&key);
                said["value"] = key.value.into();
                done(200, said)
            }
            ("GET", []) => {
                let number =
                    request.query.get("page").and_then(|number| number.parse::<usize>().ok()).unwrap_or(1);
                let page: Vec<_> = keys.made.iter().skip((number - 1) * 2).take(2).map(told).collect();
                done(200, page.into())
            }
            ("DELETE", [id]) if keys.delete(id) => done(200, json!({"id": id})),
            ("DELETE", [_]) => error(404, 1003),
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    json!({"id": key.id, "name": key.name, "status": "active", "issued_on": key.at.to_string(),
           "last_used_on": key.used.map(|at| at.to_string())})
}

fn done(status: u16, result: Value) -> Reply {
    Reply::new(status, json!({"success": true, "errors": [], "messages": [], "result": result}))
}

fn error(status: u16, code: u32) -> Reply {
    let errors = json!([{"code": code, "message": INMOST}]);
    Reply::new(status, json!({"success": false, "errors": errors, "messages": [], "result": null}))
}
