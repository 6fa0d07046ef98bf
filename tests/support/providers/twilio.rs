//! API keys of a Twilio account, after https://www.twilio.com/docs/iam/api-keys/key-resource-v1.

use serde_json::{Value, json};

use super::{INMOST, Keys, Made, Provider, Reply, Request};

pub(crate) struct Twilio {
    /// The account's auth token.
    pub(crate) admin: String,
}

impl Provider for Twilio {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let (user, password) = request.basic();
        let ["2010-04-01", "Accounts", "AC1", rest @ ..] = path.as_slice() else {
            return Reply::nothing_there();
        };
        if (method, rest) == ("GET", &["Messages.json"]) {
            return match keys.is_used(&password).filter(|key| key.id == user) {
                Some(_) => Reply::new(200, json!({"messages": [], "page": 0})),
                None => error(401, 20003),
            };
        }
        if password != self.admin {
            return error(401, 20003);
        }
        match (method, rest) {
            ("POST", ["Keys.json"]) => {
                let form = request.form();
                let name = form.get("FriendlyName").filter(|name| name.len() <= 64);
                let Some(name) = name else { return error(400, 20001) };
                let key = keys.make("SK", "tw", name, Value::Null);
                let mut said = told(&key);
                said["secret"] = key.value.into();
                Reply::new(201, said)
            }
            ("GET", ["Keys.json"]) => {
                Reply::new(200, json!({"keys": keys.made.iter().map(told).collect::<Vec<_>>()}))
            }
            ("DELETE", ["Keys", id]) => match id.strip_suffix(".json").is_some_and(|id| keys.delete(id)) {
                true => Reply::empty(204),
                false => error(404, 20404),
            },
            _ => Reply::nothing_there(),
        }
    }
}

fn told(key: &Made) -> Value {
    let at =
        jiff::fmt::rfc2822::to_string(&key.at.to_zoned_datetime(jiff::tz::TimeZone::UTC)).expect("a time");
    json!({"sid": key.id, "friendly_name": key.name, "date_created": at})
}

fn error(status: u16, code: u32) -> Reply {
    Reply::new(status, json!({"code": code, "message": INMOST, "more_info": "", "status": status}))
}
