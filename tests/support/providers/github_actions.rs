//! Secrets and variables of GitHub Actions: of a repository, of an environment, of an organisation. After
//! https://docs.github.com/en/rest/actions/secrets and https://docs.github.com/en/rest/actions/variables
//! (API 2022-11-28).
//!
//! What is sent for a secret is opened with the private key: a box that cannot be opened is no secret.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crypto_box::SecretKey;
use crypto_box::aead::OsRng;
use jiff::Timestamp;
use rekeyd::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::{Keys, Provider, Reply, Request};

/// What the organisation, a repository or an environment has.
#[derive(Default)]
pub(crate) struct Site {
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) variables: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) value: Vec<u8>,
    /// In whole seconds, as GitHub tells it.
    pub(crate) updated_at: Timestamp,
    /// What the request said besides.
    pub(crate) said: Value,
}

pub(crate) type Sites = Arc<Mutex<BTreeMap<String, Site>>>;

pub(crate) struct GitHubActions {
    /// What `updated_at` is taken from.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admin: String,
    pub(crate) sites: Sites,
    key: SecretKey,
}

/// The repository of the tests.
pub(crate) const REPOSITORY: &str = "repos/acme/orders";
pub(crate) const ENVIRONMENT: &str = "repos/acme/orders/environments/production";
pub(crate) const ORGANISATION: &str = "orgs/acme";

impl GitHubActions {
    pub(crate) fn new(admin: &str) -> (Self, Sites) {
        let sites = [REPOSITORY, ENVIRONMENT, ORGANISATION].map(|site| (site.to_owned(), Site::default()));
        let sites: Sites = Arc::new(Mutex::new(sites.into()));
        let key = SecretKey::generate(&mut OsRng);
        (Self { clock: Arc::new(SystemClock), admin: admin.into(), sites: Arc::clone(&sites), key }, sites)
    }

    fn key_id(&self) -> String {
        let bytes = self.key.public_key();
        let id = bytes.as_bytes().iter().take(8).fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
        id.to_string()
    }
}

impl Provider for GitHubActions {
    fn answer(&mut self, _: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        if request.bearer() == "without-rights" {
            return said(403, "Resource not accessible by personal access token");
        }
        if request.bearer() != self.admin {
            return said(401, "Bad credentials");
        }
        if request.header("accept") != "application/vnd.github+json"
            || request.header("user-agent").is_empty()
        {
            return said(403, "Request forbidden by administrative rules.");
        }
        let (site, kind, rest) = match path.as_slice() {
            ["repos", owner, name, "environments", environment, kind, rest @ ..] => {
                (format!("repos/{owner}/{name}/environments/{environment}").to_lowercase(), *kind, rest)
            }
            ["repos", owner, name, "actions", kind, rest @ ..] => {
                (format!("repos/{owner}/{name}").to_lowercase(), *kind, rest)
            }
            ["orgs", name, "actions", kind, rest @ ..] => {
                (format!("orgs/{name}").to_lowercase(), *kind, rest)
            }
            _ => return said(404, "Not Found"),
        };
        let of_organisation = site.starts_with("orgs/");
        let (public, id) = (BASE64_STANDARD.encode(self.key.public_key().as_bytes()), self.key_id());
        let mut sites = self.sites.lock().expect("nothing panics while it holds them");
        let Some(site) = sites.get_mut(&site) else { return said(404, "Not Found") };
        match (method, kind, rest) {
            ("GET", "secrets", ["public-key"]) => Reply::new(200, json!({"key_id": id, "key": public})),
            ("GET", "secrets", [name]) => match site.secrets.get(&name.to_uppercase()) {
                Some(secret) => Reply::new(
                    200,
                    json!({"name": name.to_uppercase(), "created_at": "2026-01-01T00:00:00Z",
                           "updated_at": secret.updated_at.to_string()}),
                ),
                None => said(404, "Not Found"),
            },
            ("PUT", "secrets", [name]) => {
                let body = request.json();
                if body["key_id"] != json!(id) {
                    return said(422, "Validation Failed");
                }
                let sealed =
                    body["encrypted_value"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
                let Some(value) = sealed.and_then(|sealed| self.key.unseal(&sealed).ok()) else {
                    return said(422, "Could not decrypt the value");
                };
                if !is_name(name) || !is_visible(of_organisation, &body) {
                    return said(422, "Validation Failed");
                }
                let now = self.clock.now().as_second();
                let updated_at = Timestamp::from_second(now).expect("a time");
                let is_new = !site.secrets.contains_key(&name.to_uppercase());
                site.secrets.insert(name.to_uppercase(), Secret { value, updated_at, said: body });
                Reply::new(if is_new { 201 } else { 204 }, if is_new { json!({}) } else { Value::Null })
            }
            ("GET", "variables", [name]) => match site.variables.get(&name.to_uppercase()) {
                Some(variable) => Reply::new(200, variable.clone()),
                None => said(404, "Not Found"),
            },
            ("POST", "variables", []) => {
                let body = request.json();
                let name = body["name"].as_str().unwrap_or_default().to_uppercase();
                if !is_name(&name) || !body["value"].is_string() || !is_visible(of_organisation, &body) {
                    return said(422, "Validation Failed");
                }
                if site.variables.contains_key(&name) {
                    return said(409, "Already exists - Variable already exists");
                }
                site.variables.insert(name, body);
                Reply::new(201, json!({}))
            }
            ("PATCH", "variables", [name]) => match site.variables.get_mut(&name.to_uppercase()) {
                Some(variable) => {
                    let value = request.json()["value"].clone();
                    if !value.is_string() {
                        return said(422, "Validation Failed");
                    }
                    variable["value"] = value;
                    Reply::empty(204)
                }
                None => said(404, "Not Found"),
            },
            _ => said(404, "Not Found"),
        }
    }
}

fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.bytes().all(valid)
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.to_uppercase().starts_with("GITHUB_")
}

/// Who may use something of an organisation: it has to be said, and the repositories only where they are selected.
fn is_visible(of_organisation: bool, body: &Value) -> bool {
    let repositories = body.get("selected_repository_ids");
    match (of_organisation, body["visibility"].as_str()) {
        (false, _) => true,
        (true, Some("all" | "private")) => repositories.is_none(),
        (true, Some("selected")) => repositories.is_some_and(|ids| ids.is_array()),
        (true, _) => false,
    }
}

fn said(status: u16, message: &str) -> Reply {
    Reply::new(status, json!({"message": message, "status": status.to_string()}))
}
