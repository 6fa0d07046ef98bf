//! Process settings: `rekeyd.yaml`, flags and environment. The only reader of the environment.
//!
//! Holds no value: credentials are named by the store path or the file they are in. Relative paths are
//! relative to the settings file.

mod authority;
mod aws;
mod load;
mod partition;
mod places;
mod validate;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::authority::AuthoritySettings;
pub use self::aws::{AwsSettings, VersionBudget};
pub use self::load::{Reviewed, load, locate, parse, review};
pub(crate) use self::partition::Partition;
pub(crate) use self::places::Places;
use crate::ident::{DnsLabel, Principal, StorePath};
use crate::policy::spec::{FieldNames, Interval, Zone};

/// The content of `rekeyd.yaml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "rekeyd.yaml")]
pub struct Settings {
    /// Where policies are read from.
    pub policies: PoliciesSettings,
    /// The stores that policies may name.
    pub stores: BTreeMap<DnsLabel, StoreSettings>,
    /// The credentials that targets may name as their admin.
    #[serde(default)]
    pub credentials: BTreeMap<DnsLabel, CredentialSource>,
    /// The Kubernetes clusters that policies may name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<DnsLabel, ClusterSettings>,
    /// The audit repository.
    pub ledger: LedgerSettings,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; not at all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub listen: Option<std::net::SocketAddr>,
    /// The Unix socket through which the command line reaches the daemon.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// How several daemons agree on who works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_election: Option<LeaderSettings>,
    /// Where Argo CD keeps its Applications, if it keeps Secrets of these policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argo_cd: Option<ArgoCdSettings>,
    /// The GitOps repositories that policies may name to have workloads restarted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gitops: BTreeMap<DnsLabel, GitopsSettings>,
    /// What requests of recipes may reach.
    #[serde(default, skip_serializing_if = "OutboundSettings::is_default")]
    pub outbound: OutboundSettings,
    /// The programs of others that policies may name as a target; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<PluginsSettings>,
    /// Who signs certificates that policies ask for; nobody when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub authorities: BTreeMap<DnsLabel, AuthoritySettings>,
    /// How much runs at once.
    #[serde(default)]
    pub limits: LimitSettings,
    /// Times in which no policy rotates by schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<GlobalFreeze>,
    /// How long a stopping daemon lets running steps finish.
    #[serde(default = "default_shutdown")]
    pub shutdown_deadline: Interval,
}

fn default_socket() -> PathBuf {
    "/run/rekeyd/rekeyd.sock".into()
}

fn default_shutdown() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(20))
}

/// What requests of recipes may reach besides public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutboundSettings {
    /// Hosts that may have an address of this machine or of a private network; `*.example.com` for all below. A link-local address,
    /// where clouds have their metadata service, only if it stands here itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_hosts: Vec<String>,
}

impl OutboundSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The programs of others that policies may name as a target. They run as rekeyd does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginsSettings {
    /// The folder that they are in, or below.
    pub directory: PathBuf,
    /// The credentials that they may be handed as their admin: none of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<DnsLabel>,
}

/// Where policies are read from: files, custom resources, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoliciesSettings {
    /// Every `*.yaml` and `*.yml` below it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The `RotationPolicy` resources of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourcesSettings>,
}

/// The `RotationPolicy` resources of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourcesSettings {
    /// The cluster, by its name under `clusters`.
    #[serde(default = "default_cluster")]
    pub cluster: DnsLabel,
    /// The namespaces that they are read from; all of them when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<DnsLabel>,
    /// Whether a policy reaches no reader but Secrets of its own namespace in this cluster. Without it whoever may
    /// write policies writes to Secrets of others, and runs programs as rekeyd.
    #[serde(default = "confined")]
    pub confined: bool,
}

const fn confined() -> bool {
    true
}

/// The Lease by which several daemons agree on who works. Without it each of them works, which is safe and asks
/// systems more often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaderSettings {
    /// The cluster, by its name under `clusters`.
    #[serde(default = "default_cluster")]
    pub cluster: DnsLabel,
    /// Where the Lease is.
    #[serde(default = "default_leader_name")]
    pub namespace: DnsLabel,
    /// What the Lease is called.
    #[serde(default = "default_leader_name")]
    pub name: DnsLabel,
    /// After so long without a sign of its holder another daemon takes over.
    #[serde(default = "default_lease")]
    pub duration: Interval,
}

/// Where Argo CD keeps its Applications: their options say whether it leaves a Secret's content alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArgoCdSettings {
    /// The cluster, by its name under `clusters`.
    #[serde(default = "default_cluster")]
    pub cluster: DnsLabel,
    /// Where they are, unless the mark on an object says otherwise.
    #[serde(default = "default_argo_cd")]
    pub namespace: DnsLabel,
}

fn default_argo_cd() -> DnsLabel {
    "argocd".parse().expect("a literal label")
}

fn default_cluster() -> DnsLabel {
    "main".parse().expect("a literal label")
}

fn default_leader_name() -> DnsLabel {
    "rekeyd".parse().expect("a literal label")
}

fn default_lease() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(15))
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StoreSettings {
    Embedded(EmbeddedSettings),
    Vault(VaultSettings),
    AwsSecretsManager(AwsSettings),
}

/// A database file of rekeyd's own, every value sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbeddedSettings {
    /// The database file; created when missing.
    pub path: PathBuf,
    pub key: KeySource,
}

/// Where the 32-byte sealing key is: 64 hexadecimal digits or 44 characters of base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeySource {
    /// A file that only its owner may read (0600 or 0400).
    File(PathBuf),
    /// A systemd credential, by name (`LoadCredential=`, `LoadCredentialEncrypted=`).
    SystemdCredential(String),
}

/// The folder in which systemd hands over the unit's credentials; `None` outside such a unit.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// OpenBao or Vault, a KV version 2 mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultSettings {
    /// `https://bao.example.com:8200`; plain http only on loopback.
    pub address: String,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The namespace of OpenBao or Vault Enterprise; the root when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The KV version 2 mount.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// The folder in the mount that rekeyd keeps its control documents in.
    #[serde(default = "default_control_path")]
    pub control_path: StorePath,
    pub auth: VaultAuth,
    /// How long one request may take.
    #[serde(default = "default_vault_timeout")]
    pub timeout: Interval,
}

fn default_mount() -> String {
    "secret".into()
}

fn default_control_path() -> StorePath {
    "rekeyd".parse().expect("a literal path")
}

fn default_vault_timeout() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(10))
}

/// How rekeyd logs in at OpenBao or Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VaultAuth {
    /// A token in a file; read again when it is refused.
    Token(TokenAuth),
    AppRole(AppRoleAuth),
    Kubernetes(KubernetesAuth),
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenAuth {
    /// The file that the token is in.
    pub file: PathBuf,
}

/// A role with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppRoleAuth {
    /// Where the method is mounted.
    #[serde(default = "default_approle_mount")]
    pub mount: String,
    /// The file that the role's id is in.
    pub role_id_file: PathBuf,
    /// The file that the secret's id is in; read again when it is refused.
    pub secret_id_file: PathBuf,
}

fn default_approle_mount() -> String {
    "approle".into()
}

/// The pod's own service account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesAuth {
    /// Where the method is mounted.
    #[serde(default = "default_kubernetes_mount")]
    pub mount: String,
    /// The role to log in as.
    pub role: String,
    /// The file that the service account's token is in.
    #[serde(default = "default_service_account_token")]
    pub token_file: PathBuf,
}

fn default_kubernetes_mount() -> String {
    "kubernetes".into()
}

fn default_service_account_token() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

/// Where a credential that rekeyd uses itself is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CredentialSource {
    /// The value is the content of a file that only its owner may read, less a final newline.
    File(FileCredential),
    /// The value is at a path of a store.
    Store(StoredCredential),
}

/// A credential in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileCredential {
    /// The name that logs in.
    pub username: Principal,
    /// The file that the value is in.
    pub path: PathBuf,
    /// The hosts that policies may use it at, as `endpoint.host` names them; `*.example.com` for all below. Any
    /// when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

/// A credential in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoredCredential {
    /// The store, by its name.
    pub name: DnsLabel,
    /// Where in the store it is.
    pub path: StorePath,
    #[serde(default)]
    pub fields: FieldNames,
    /// The hosts that policies may use it at, as `endpoint.host` names them; `*.example.com` for all below. Any
    /// when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
}

impl CredentialSource {
    /// The hosts that policies may use it at; any when empty.
    #[must_use]
    pub fn hosts(&self) -> &[String] {
        match self {
            Self::File(file) => &file.hosts,
            Self::Store(stored) => &stored.hosts,
        }
    }

    /// Whether a policy may use it at a host.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        self.hosts().is_empty() || names_host(self.hosts(), host)
    }
}

/// Whether one of these patterns names a host: by its name, or as `*.example.com` for all below.
pub(crate) fn names_host(patterns: &[String], host: &str) -> bool {
    let plain = |host: &str| host.trim_end_matches('.').to_ascii_lowercase();
    let host = plain(host);
    patterns.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(below) if below.starts_with('.') => {
            host.strip_suffix(&plain(below)).is_some_and(|head| !head.is_empty() && !head.starts_with('.'))
        }
        _ => host == plain(pattern),
    })
}

/// A Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClusterSettings {
    /// The one that rekeyd runs in, as its pod's service account.
    InCluster(InClusterSettings),
    Kubeconfig(KubeconfigSettings),
}

/// The cluster that rekeyd runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InClusterSettings {}

/// A cluster and an account there, as `kubectl` takes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigSettings {
    /// The file.
    pub path: PathBuf,
    /// The context in it; its current one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// The audit repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerSettings {
    /// A bare Git repository of rekeyd's own; created when missing.
    pub path: PathBuf,
    /// The branch that records go to.
    #[serde(default = "default_branch")]
    pub branch: String,
    /// Where records are pushed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteSettings>,
    /// Stands as author and committer.
    #[serde(default)]
    pub author: AuthorSettings,
}

fn default_branch() -> String {
    "main".into()
}

/// A repository that Argo CD or Flux follows: rekeyd commits versions to files of it that are for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitopsSettings {
    /// A folder of rekeyd's own for what is fetched; created when missing. Nothing is lost with it.
    pub path: PathBuf,
    /// The branch that is followed.
    #[serde(default = "default_branch")]
    pub branch: String,
    /// Where the repository is.
    pub remote: RemoteSettings,
    /// Stands as author and committer.
    #[serde(default)]
    pub author: AuthorSettings,
}

/// A Git repository that is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteSettings {
    /// `https://...`, `ssh://user@host/path`, `user@host:path`, or a path on this machine. Never with a password in it.
    pub url: String,
    /// https: a file with the token that is sent as the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// https: the user name sent with the token.
    #[serde(default = "default_git_user")]
    pub username: String,
    /// https: PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// ssh: the private key; the agent's or the user's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_file: Option<PathBuf>,
    /// ssh: the known host keys; an unknown host is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts_file: Option<PathBuf>,
    /// How long one fetch or push may take.
    #[serde(default = "default_push_timeout")]
    pub timeout: Interval,
}

fn default_git_user() -> String {
    "rekeyd".into()
}

fn default_push_timeout() -> Interval {
    Interval::from_duration(std::time::Duration::from_secs(30))
}

/// Author and committer of what rekeyd commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorSettings {
    /// As Git prints it.
    pub name: String,
    /// As Git prints it.
    pub email: String,
}

impl Default for AuthorSettings {
    fn default() -> Self {
        Self { name: "rekeyd".into(), email: "rekeyd@localhost".into() }
    }
}

/// How much runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Rotations that work at the same time, 1 to 1024; a rotation that only waits does not count.
    #[schemars(range(min = 1, max = 1024))]
    pub rotations: u16,
    /// Rotations that work at the same time on one target, 1 to 256. Each holds up to two connections.
    #[schemars(range(min = 1, max = 256))]
    pub per_target: u16,
    /// Values in force that are proven by a login between rotations, in a minute, 1 to 6000.
    #[schemars(range(min = 1, max = 6000))]
    pub verifications_per_minute: u16,
    /// Workloads that restart at the same time, in all clusters, 1 to 1000. A containment does not wait for it.
    #[schemars(range(min = 1, max = 1000))]
    pub rollouts: u16,
    /// Their pods, 1 to 10000. A workload that has more restarts alone.
    #[schemars(range(min = 1, max = 10000))]
    pub restarting_pods: u16,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            rotations: 64,
            per_target: 8,
            verifications_per_minute: 300,
            rollouts: 10,
            restarting_pods: 200,
        }
    }
}

/// A time in which no policy rotates by schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GlobalFreeze {
    /// First moment, `2026-12-20` or `2026-12-20T18:00`.
    #[schemars(with = "String")]
    pub from: jiff::civil::DateTime,
    /// First moment after it.
    #[schemars(with = "String")]
    pub to: jiff::civil::DateTime,
    /// The IANA zone the two are read in.
    #[serde(default)]
    pub time_zone: Zone,
    /// Why, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Those of the named variables that are set: what a child program is given of this environment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the module that reads the environment")]
pub fn inherited(names: &[&str]) -> Vec<(OsString, OsString)> {
    names.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_for_the_hosts_that_it_names() {
        let credential = |hosts: &[&str]| -> CredentialSource {
            let file = serde_json::json!({"username": "admin", "path": "/a", "hosts": hosts});
            serde_json::from_value(serde_json::json!({"file": file})).expect("a credential")
        };
        assert!(credential(&[]).is_for("anything"));
        let some = credential(&["db.example.com", "*.eu.example.com", "/run/postgresql"]);
        for host in
            ["db.example.com", "DB.example.com.", "a.eu.example.com", "a.b.eu.EXAMPLE.com", "/run/postgresql"]
        {
            assert!(some.is_for(host), "{host}");
        }
        for host in
            ["eu.example.com", ".eu.example.com", "xeu.example.com", "db.example.com.evil", "*", "", "/tmp"]
        {
            assert!(!some.is_for(host), "{host}");
        }
        // A lone star is a name that no host has, not a hole.
        assert!(!credential(&["*"]).is_for("db"));
    }
}
