//! Users as the API tells of them: hash, tags, marker, permissions, limits.

use std::collections::BTreeMap;

use crate::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::api::{Answer, Api, odd};
use crate::failure::{Failure, FailureClass};
use crate::ident::Principal;
use crate::secret::SecretValue;
use crate::target::marker::{Comment, Marker, OPENING};

/// A user.
#[derive(Debug, Default)]
pub(super) struct User {
    /// Without one it cannot log in by a value.
    pub(super) has_hash: bool,
    hash: String,
    /// Those that are not rekeyd's.
    pub(super) tags: Vec<String>,
    pub(super) marker: Option<Marker>,
    /// How many connections and channels it may have. None where the server knows no limits: before 3.8.10.
    limits: Limits,
}

/// By name, such as `max-connections`.
type Limits = BTreeMap<String, i64>;

/// What a user may do: by virtual host, and in it by exchange for topics; and how much of it at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    /// `configure`, `write` and `read`.
    permissions: BTreeMap<String, [String; 3]>,
    /// `write` and `read`.
    topics: BTreeMap<(String, String), [String; 2]>,
    limits: Limits,
}

/// A request that makes one user's rights those of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repair {
    pub(super) what: String,
    method: Method,
    path: Vec<String>,
    body: Option<Value>,
}

impl User {
    pub(super) async fn read(api: &Api<'_>, user: &Principal, doing: &str) -> Result<Option<Self>, Failure> {
        let answer = api.get(&["users", user.as_str()], "", doing).await?;
        answer.map(|answer| Self::parse(&answer.body, user, doing)).transpose()
    }

    fn parse(body: &Value, user: &Principal, doing: &str) -> Result<Self, Failure> {
        let all: Vec<String> = match &body["tags"] {
            Value::Array(tags) => tags.iter().filter_map(|tag| tag.as_str()).map(ToOwned::to_owned).collect(),
            // Before 3.9.
            Value::String(tags) => tags.split(',').map(|tag| tag.trim().to_owned()).collect(),
            _ => return Err(odd("a user", doing)),
        };
        let hash = body["password_hash"].as_str().unwrap_or_default().to_owned();
        let (marks, tags): (Vec<String>, Vec<String>) =
            all.into_iter().partition(|tag| tag.starts_with(OPENING));
        let unreadable = || {
            Failure::new(FailureClass::Conflict, doing, "the marker among its tags cannot be read")
                .with_remedy(format!(
                    "see who edited the tags, and set them without it: rabbitmqctl set_user_tags {user} ..."
                ))
        };
        let marker = match marks.as_slice() {
            [] => None,
            [one] => Comment::parse(one).map_err(|_| unreadable())?.marker().cloned(),
            _ => return Err(unreadable()),
        };
        let limits = limits(&body["limits"]).ok_or_else(|| odd("the limits of a user", doing))?;
        Ok(Self { has_hash: !hash.is_empty(), hash, tags, marker, limits })
    }

    /// Whether the user is let in with this value.
    pub(super) fn takes(&self, value: &SecretValue) -> bool {
        let Ok(bytes) = STANDARD.decode(&self.hash) else { return false };
        if bytes.len() != 36 {
            return false;
        }
        let digest = Sha256::new_with_prefix(&bytes[..4]).chain_update(value.expose()).finalize();
        bytes[4..] == digest[..]
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

/// `None` is no answer of RabbitMQ.
fn limits(told: &Value) -> Option<Limits> {
    match told {
        // Left out by servers that know none; some of its JSON writes an empty map so.
        Value::Null => Some(Limits::new()),
        Value::Array(none) if none.is_empty() => Some(Limits::new()),
        Value::Object(told) => {
            told.iter().map(|(name, limit)| Some((name.clone(), limit.as_i64()?))).collect()
        }
        _ => None,
    }
}

/// What the broker is to keep of a value: a salt of four bytes, and the SHA-256 of salt and value.
/// https://www.rabbitmq.com/docs/passwords#computing-password-hash
pub(super) fn hash(value: &SecretValue, salt: [u8; 4]) -> String {
    let mut bytes = salt.to_vec();
    bytes.extend(Sha256::new_with_prefix(salt).chain_update(value.expose()).finalize());
    STANDARD.encode(bytes)
}

/// Hash, tags and marker in one request: whatever is left out of it is taken from the user.
pub(super) fn body(hash: &str, tags: &[String], marker: &Marker) -> Value {
    let mut tags = tags.to_vec();
    tags.push(marker.to_string());
    json!({
        "password_hash": hash,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags.join(","),
    })
}

impl Rights {
    /// Those of a user that is there.
    pub(super) async fn read(
        api: &Api<'_>,
        name: &Principal,
        user: &User,
        doing: &str,
    ) -> Result<Self, Failure> {
        let mut rights = Self { limits: user.limits.clone(), ..Self::default() };
        let text = |entry: &Value, name: &str| entry[name].as_str().map(ToOwned::to_owned);
        let permissions = api.get(&["users", name.as_str(), "permissions"], "", doing).await?;
        for entry in entries(permissions.as_ref(), "permissions", doing)? {
            let part = |name| text(entry, name).ok_or_else(|| odd("permissions", doing));
            rights.permissions.insert(part("vhost")?, [part("configure")?, part("write")?, part("read")?]);
        }
        let topics = api.get(&["users", name.as_str(), "topic-permissions"], "", doing).await?;
        for entry in entries(topics.as_ref(), "topic permissions", doing)? {
            let part = |name| text(entry, name).ok_or_else(|| odd("topic permissions", doing));
            rights.topics.insert((part("vhost")?, part("exchange")?), [part("write")?, part("read")?]);
        }
        Ok(rights)
    }

    /// Whether there is no virtual host that the user may enter.
    pub(super) fn are_none(&self) -> bool {
        self.permissions.is_empty()
    }

    /// What makes these rights of a user those of its peer.
    pub(super) fn repairs(&self, user: &Principal, peer: &Self) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let path = |words: [&str; 3]| words.map(ToOwned::to_owned).to_vec();
        for (vhost, [configure, write, read]) in &peer.permissions {
            if self.permissions.get(vhost) != peer.permissions.get(vhost) {
                repairs.push(Repair {
                    what: format!("the permissions in {vhost}"),
                    method: Method::PUT,
                    path: path(["permissions", vhost, user.as_str()]),
                    body: Some(json!({"configure": configure, "write": write, "read": read})),
                });
            }
        }
        for vhost in self.permissions.keys().filter(|vhost| !peer.permissions.contains_key(*vhost)) {
            repairs.push(Repair {
                what: format!("no permissions in {vhost}"),
                method: Method::DELETE,
                path: path(["permissions", vhost, user.as_str()]),
                body: None,
            });
        }
        for ((vhost, exchange), [write, read]) in &peer.topics {
            let key = (vhost.clone(), exchange.clone());
            if self.topics.get(&key) != peer.topics.get(&key) {
                repairs.push(Repair {
                    what: format!("the topic permissions for {exchange} in {vhost}"),
                    method: Method::PUT,
                    path: path(["topic-permissions", vhost, user.as_str()]),
                    body: Some(json!({"exchange": exchange, "write": write, "read": read})),
                });
            }
        }
        for (vhost, exchange) in self.topics.keys().filter(|key| !peer.topics.contains_key(*key)) {
            let mut path = path(["topic-permissions", vhost, user.as_str()]);
            path.push(exchange.clone());
            repairs.push(Repair {
                what: format!("no topic permissions for {exchange} in {vhost}"),
                method: Method::DELETE,
                path,
                body: None,
            });
        }
        for (limit, most) in &peer.limits {
            if self.limits.get(limit) != Some(most) {
                repairs.push(Repair {
                    what: format!("the limit {limit} of {most}"),
                    method: Method::PUT,
                    path: path(["user-limits", user.as_str(), limit]),
                    body: Some(json!({"value": most})),
                });
            }
        }
        for limit in self.limits.keys().filter(|limit| !peer.limits.contains_key(*limit)) {
            repairs.push(Repair {
                what: format!("no limit {limit}"),
                method: Method::DELETE,
                path: path(["user-limits", user.as_str(), limit]),
                body: None,
            });
        }
        repairs
    }
}

impl Repair {
    pub(super) async fn perform(&self, api: &Api<'_>, doing: &str) -> Result<(), Failure> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        api.change(self.method.clone(), &path, self.body.as_ref(), doing).await.map(drop)
    }
}

/// Of a user that is not there, none.
fn entries<'a>(answer: Option<&'a Answer>, what: &str, doing: &str) -> Result<&'a [Value], Failure> {
    match answer {
        Some(answer) => answer.list(what, doing),
        None => Ok(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec())
    }

    #[test]
    fn a_value_is_kept_with_its_salt() {
        // The documentation's example: salt 908DC60A, value "test12".
        let kept = hash(&value("test12"), [0x90, 0x8d, 0xc6, 0x0a]);
        assert_eq!(kept, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
        let user = User { hash: kept, ..User::default() };
        assert!(user.takes(&value("test12")) && !user.takes(&value("test13")));
        assert!(!User::default().takes(&value("")));
    }

    #[test]
    fn rights_become_those_of_the_peer() {
        let rights = |permissions: &[(&str, &str)], topics: &[(&str, &str)], limited: Value| Rights {
            permissions: permissions
                .iter()
                .map(|(vhost, read)| {
                    ((*vhost).to_owned(), [String::new(), String::new(), (*read).to_owned()])
                })
                .collect(),
            topics: topics
                .iter()
                .map(|(exchange, read)| {
                    (("/".to_owned(), (*exchange).to_owned()), [String::new(), (*read).to_owned()])
                })
                .collect(),
            limits: limits(&limited).expect("limits"),
        };
        let user = "b".parse().expect("a principal");
        let own = rights(
            &[("/", ".*"), ("old", ".*"), ("same", "x")],
            &[("logs", "a"), ("gone", "a")],
            json!({"max-connections": 1, "max-channels": 7}),
        );
        let peer = rights(&[("/", "^q"), ("same", "x")], &[("logs", "b")], json!({"max-connections": 9}));
        let whats: Vec<String> = own.repairs(&user, &peer).into_iter().map(|repair| repair.what).collect();
        assert_eq!(
            whats,
            [
                "the permissions in /",
                "no permissions in old",
                "the topic permissions for logs in /",
                "no topic permissions for gone in /",
                "the limit max-connections of 9",
                "no limit max-channels",
            ]
        );
        assert_eq!(peer.repairs(&user, &peer), []);
    }

    #[test]
    fn a_server_that_knows_no_limits_tells_none_and_anything_else_is_odd() {
        assert_eq!(limits(&Value::Null), Some(Limits::new()));
        assert_eq!(limits(&json!([])), Some(Limits::new()));
        assert_eq!(limits(&json!({"max-channels": -1})), Some([("max-channels".into(), -1)].into()));
        for odd in
            [json!("none"), json!(["a"]), json!({"max-channels": "many"}), json!({"max-channels": null})]
        {
            assert_eq!(limits(&odd), None, "{odd}");
        }
    }
}
