//! API keys of Cohere, after https://docs.cohere.com/reference/checkapikey (API v1). There is no API for them
//! but this one.

use serde_json::json;

use super::{Keys, Provider, Reply, Request};

pub(crate) struct Cohere;

impl Provider for Cohere {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        match (method, path.as_slice()) {
            ("POST", ["v1", "check-api-key"]) => match keys.is_used(request.bearer()) {
                // One that says nothing else is of the organization that most are of.
                Some(key) => {
                    let of = key.said.as_str().unwrap_or("o1");
                    Reply::new(200, json!({"valid": true, "organization_id": of, "owner_id": "u1"}))
                }
                None => Reply::new(401, json!({"message": "invalid api token"})),
            },
            _ => Reply::nothing_there(),
        }
    }
}
