//! API keys of a Twilio account, after https://www.twilio.com/docs/iam/api-keys/key-resource-v1 (IAM API v1).

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
        // An account that is suspended.
        if keys.down {
            return error(401, 20003);
        }
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
                if keys.is_full() {
                    return error(400, 70151);
                }
                let key = keys.make("SK", "tw", name, Value::Null);
                let mut said = told(&key);
                said["secret"] = key.value.into();
                Reply::new(201, said)
            }
            ("GET", ["Keys.json"]) => {
                // Pages of two, so that there is more than one. A page is known by its token, and not by its number.
                let start = match (request.query.get("Page"), request.query.get("PageToken")) {
                    (None, None) => 0,
                    (Some(_), Some(token)) => {
                        match keys.made.iter().position(|key| format!("PK{}", key.id) == *token) {
                            Some(last) => last + 1,
                            None => return error(400, 20001),
                        }
                    }
                    _ => return error(400, 20001),
                };
                let page: Vec<&Made> = keys.made.iter().skip(start).take(2).collect();
                let last = page.last().filter(|_| start + page.len() < keys.made.len());
                let next = last.map(|last| {
                    let number = start / 2 + 1;
                    format!(
                        "/2010-04-01/Accounts/AC1/Keys.json?PageSize=2&Page={number}&PageToken=PK{}",
                        last.id
                    )
                });
                let page: Vec<_> = page.into_iter().map(told).collect();
                Reply::new(200, json!({"keys": page, "next_page_uri": next}))
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
