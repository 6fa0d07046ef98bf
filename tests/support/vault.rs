//! A role of an AppRole mount of a test's own, and a token role, on the shared OpenBao.

use std::path::PathBuf;

use rekeyd::policy::spec::{DerivedTokens, Interval, SecretIdSpec, TokenSpec, VaultSpec, VaultStrategy};
use rekeyd::secret::{Credential, SecretValue};
use rekeyd::settings::{TokenAuth, VaultAuth, VaultSettings};
use rekeyd::target::vault::VaultTarget;
use serde_json::{Value, json};

use crate::openbao::{Policy, Server, unique};

/// The rights of the documentation, for this mount and this role.
pub(crate) fn rights(of: &str, mount: &str, role: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/openbao/{of}.hcl"));
    let text = std::fs::read_to_string(path).expect("rights");
    let text = text.replace("auth/approle/role/orders", &format!("auth/{mount}/role/{role}"));
    let text = text.replace("lookup/auth/approle/login", &format!("lookup/auth/{mount}/login"));
    let text = text.replace("roles/orders", &format!("roles/{role}"));
    text.replace("create/orders", &format!("create/{role}"))
}

/// A mount with the role `app`, a token role of the mount's name, and a token of rekeyd's with the documented rights.
pub(crate) struct World {
    pub(crate) server: Server,
    /// The name of the mount, and of the token role.
    pub(crate) name: String,
    policy: Policy,
    folder: tempfile::TempDir,
}

impl World {
    /// For the secret ids of the role.
    pub(crate) fn of_secret_ids() -> Self {
        Self::new("secret-ids")
    }

    /// For tokens of the token role.
    pub(crate) fn of_tokens() -> Self {
        Self::new("tokens")
    }

    /// The same, on another server.
    pub(crate) fn of_tokens_on(server: &Server) -> Self {
        Self::on(server.clone(), "tokens")
    }

    fn new(of: &str) -> Self {
        Self::on(Server::shared(), of)
    }

    fn on(server: Server, of: &str) -> Self {
        let name = unique("keys");
        server.make("POST", &format!("sys/auth/{name}"), json!({"type": "approle"}));
        let role = json!({"token_ttl": "10m", "token_policies": ["default"]});
        server.make("POST", &format!("auth/{name}/role/app"), role);
        let allowed = json!({"orphan": true, "allowed_policies": ["default"]});
        server.make("POST", &format!("auth/token/roles/{name}"), allowed);
        let role = if of == "tokens" { name.as_str() } else { "app" };
        let policy = server.policy(&rights(of, &name, role));
        let world = Self { server, name, policy, folder: tempfile::tempdir().expect("a folder") };
        world.write_token(&world.token());
        world
    }

    /// A token with the documented rights.
    pub(crate) fn token(&self) -> String {
        self.server.token(&self.policy, json!({}))
    }

    pub(crate) fn write_token(&self, token: &str) {
        std::fs::write(self.token_file(), token).expect("a token file");
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub(crate) fn settings(&self) -> VaultSettings {
        VaultSettings {
            address: self.server.address.clone(),
            ca_file: self.server.ca_file.clone(),
            namespace: None,
            mount: "secret".into(),
            control_path: "rekeyd".parse().expect("a path"),
            auth: VaultAuth::Token(TokenAuth { file: self.token_file() }),
            timeout: Interval::from_duration(std::time::Duration::from_secs(5)),
        }
    }

    pub(crate) fn secret_ids(&self, tokens: DerivedTokens) -> VaultSpec {
        let (mount, role) = (self.name.parse().expect("a mount"), "app".parse().expect("a role"));
        spec(VaultStrategy::SecretId(SecretIdSpec { mount, role, tokens }))
    }

    /// Tokens of the token role.
    pub(crate) fn tokens(&self) -> VaultSpec {
        self.tokens_with(vec!["default".into()])
    }

    pub(crate) fn tokens_with(&self, policies: Vec<String>) -> VaultSpec {
        let name = format!("of-{}", self.name).parse().expect("a name");
        let ttl = Some(Interval::from_duration(std::time::Duration::from_secs(600)));
        let role = Some(self.name.parse().expect("a role"));
        spec(VaultStrategy::Token(TokenSpec { name, role, policies, ttl, period: None }))
    }

    pub(crate) fn target(&self, spec: VaultSpec) -> VaultTarget {
        VaultTarget::open(spec, &self.settings()).expect("a target")
    }

    /// Calls the API of the role.
    #[track_caller]
    pub(crate) fn make(&self, method: &str, rest: &str, body: Value) -> Value {
        self.server.make(method, &format!("auth/{}/role/app{rest}", self.name), body)
    }

    /// Somebody makes a secret id by hand.
    pub(crate) fn secret_id_by_hand(&self) -> Credential {
        let made = self.make("POST", "/secret-id", json!({}));
        let text = |field: &str| made["data"][field].as_str().expect("a text").to_owned();
        let id = text("secret_id_accessor").parse().expect("an accessor");
        Credential::new(id, SecretValue::new(text("secret_id").into_bytes()))
    }

    /// Logs in as programs do; the accessor of the token.
    #[track_caller]
    pub(crate) fn log_in(&self, secret_id: &Credential) -> String {
        let role = self.make("GET", "/role-id", json!({}))["data"]["role_id"].clone();
        let body = json!({"role_id": role, "secret_id": text(secret_id)});
        let answer = self.server.make("POST", &format!("auth/{}/login", self.name), body);
        answer["auth"]["accessor"].as_str().expect("an accessor").to_owned()
    }

    pub(crate) fn lives(&self, accessor: &str) -> bool {
        self.server.call("POST", "auth/token/lookup-accessor", json!({"accessor": accessor})).0 == 200
    }

    /// How many tokens of the mount there are.
    pub(crate) fn logins(&self) -> usize {
        let path = format!("sys/leases/lookup/auth/{}/login/", self.name);
        let (_, answer) = self.server.call("LIST", &path, json!({}));
        answer["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.call("DELETE", &format!("sys/auth/{}", self.name), json!({}));
        self.server.call("DELETE", &format!("auth/token/roles/{}", self.name), json!({}));
    }
}

fn spec(strategy: VaultStrategy) -> VaultSpec {
    VaultSpec { store: "bao".parse().expect("a name"), strategy }
}

/// The value itself, for those who send it themselves.
pub(crate) fn text(credential: &Credential) -> &str {
    credential.value.expose_str().expect("text")
}
