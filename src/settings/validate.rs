//! The rules that span fields of the settings.

mod aws;
mod remote;
mod rule;

use std::os::unix::ffi::OsStrExt as _;

use url::Url;

pub(super) use self::rule::Rule;
use super::places::Usage;
use super::{
    AuthorSettings, CredentialSource, EmbeddedSettings, GlobalFreeze, KeySource, LedgerSettings,
    LimitSettings, RemoteSettings, Settings, StoreSettings, VaultAuth, VaultSettings,
};
use crate::ident::StorePath;
use crate::policy::shape::FieldPath;
use crate::policy::spec::{FieldNames, Interval, is_loopback};

/// The longest path that a Unix socket can have, in bytes.
const LONGEST_SOCKET: usize = 107;

/// The longest time that one request may take.
const LONGEST_TIMEOUT: Interval = Interval::from_duration(std::time::Duration::from_secs(600));

/// How long a holder of the Lease may be silent, at least and at most.
const SHORTEST_LEASE: Interval = Interval::from_duration(std::time::Duration::from_secs(3));
const LONGEST_LEASE: Interval = Interval::from_duration(std::time::Duration::from_secs(300));

/// A broken rule and the field that breaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) path: FieldPath,
    pub(super) rule: Rule,
}

/// Every rule that the settings break. Paths must be absolute already.
pub(super) fn breaches(settings: &Settings) -> Vec<Breach> {
    let mut found = Breaches(Vec::new());
    if settings.stores.is_empty() {
        found.add(["stores"].into(), Rule::NoStore);
    }
    for (name, store) in &settings.stores {
        let at = FieldPath::from(["stores"]).join(name.to_string());
        match store {
            StoreSettings::Embedded(embedded) => embedded_rules(&at.join("embedded"), embedded, &mut found),
            StoreSettings::Vault(vault) => vault_rules(&at.join("vault"), vault, &mut found),
            StoreSettings::AwsSecretsManager(aws) => {
                aws::rules(&at.join("awsSecretsManager"), aws, &mut found);
            }
        }
    }
    if settings.policies.directory.is_none() && settings.policies.resources.is_none() {
        found.add(["policies"].into(), Rule::NoPolicies);
    }
    let resources = settings.policies.resources.as_ref();
    let resources =
        resources.map(|resources| (FieldPath::from(["policies", "resources"]), &resources.cluster));
    let leader = settings.leader_election.as_ref();
    if let Some(leader) = leader {
        let at = FieldPath::from(["leaderElection", "duration"]);
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&leader.duration) {
            found.add(at, Rule::LeaseOutOfRange(leader.duration));
        }
    }
    let leader = leader.map(|leader| (FieldPath::from(["leaderElection"]), &leader.cluster));
    let argo_cd = settings.argo_cd.as_ref().map(|argo_cd| (FieldPath::from(["argoCd"]), &argo_cd.cluster));
    for (at, name) in resources.into_iter().chain(leader).chain(argo_cd) {
        if !settings.clusters.contains_key(name) {
            let known = settings.clusters.keys().cloned().collect();
            found.add(at.join("cluster"), Rule::UnknownCluster { name: name.clone(), known });
        }
    }
    credential_rules(settings, &mut found);
    for (name, authority) in &settings.authorities {
        let at = FieldPath::from(["authorities"]).join(name.to_string());
        if authority.usages.is_empty() {
            found.add(at.join("usages"), Rule::NoUsages);
        }
        let at = at.join("names");
        if authority.names.is_empty() {
            found.add(at.clone(), Rule::NoNames);
        }
        for (index, name) in authority.names.iter().enumerate() {
            found.text(&at.join(index), name);
        }
    }
    ledger_rules(&settings.ledger, &mut found);
    for (name, repository) in &settings.gitops {
        let at = FieldPath::from(["gitops"]).join(name.to_string());
        branch_rules(&at, &repository.branch, &repository.author, &mut found);
        remote_rules(&at.join("remote"), &repository.remote, &mut found);
    }
    place_rules(settings, &mut found);
    limit_rules(settings.limits, &mut found);
    for (index, freeze) in settings.freezes.iter().enumerate() {
        freeze_rules(&FieldPath::from(["freezes"]).join(index), freeze, &mut found);
    }
    found.0
}

fn embedded_rules(at: &FieldPath, embedded: &EmbeddedSettings, found: &mut Breaches) {
    if let KeySource::SystemdCredential(name) = &embedded.key {
        // After systemd: a file name, at most 255 bytes.
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_name = (1..=255).contains(&name.len()) && name.bytes().all(valid) && !name.starts_with('.');
        if !is_name {
            found.add(at.join("key").join("systemdCredential"), Rule::NotASystemdCredential);
        }
    }
}

fn vault_rules(at: &FieldPath, vault: &VaultSettings, found: &mut Breaches) {
    if let Some(rule) = address_rule(&vault.address) {
        found.add(at.join("address"), rule);
    }
    let mut segments = |at: FieldPath, text: &str| {
        if text.trim_matches('/').parse::<StorePath>().is_err() {
            found.add(at, Rule::NotAPath(text.chars().take(64).collect()));
        }
    };
    segments(at.join("mount"), &vault.mount);
    if let Some(namespace) = &vault.namespace {
        segments(at.join("namespace"), namespace);
    }
    let auth = at.join("auth");
    match &vault.auth {
        VaultAuth::Token(_) => {}
        VaultAuth::AppRole(role) => segments(auth.join("appRole").join("mount"), &role.mount),
        VaultAuth::Kubernetes(kubernetes) => {
            let auth = auth.join("kubernetes");
            segments(auth.join("mount"), &kubernetes.mount);
            found.text(&auth.join("role"), &kubernetes.role);
        }
    }
    found.timeout(at.join("timeout"), vault.timeout);
}

fn address_rule(address: &str) -> Option<Rule> {
    let Ok(url) = Url::parse(address) else { return Some(Rule::NotAnAddress) };
    let host = url.host_str().unwrap_or_default();
    if !url.username().is_empty() || url.password().is_some() {
        return Some(Rule::CredentialsInUrl);
    }
    match url.scheme() {
        _ if host.is_empty() || url.query().is_some() || url.fragment().is_some() => Some(Rule::NotAnAddress),
        "https" => None,
        "http" if is_loopback(host) => None,
        "http" => Some(Rule::PlainAddress(host.to_owned())),
        _ => Some(Rule::NotAnAddress),
    }
}

fn credential_rules(settings: &Settings, found: &mut Breaches) {
    for (name, credential) in &settings.credentials {
        let CredentialSource::Store(stored) = credential else { continue };
        let at = FieldPath::from(["credentials"]).join(name.to_string()).join("store");
        match settings.stores.get(&stored.name) {
            None => {
                let known = settings.stores.keys().cloned().collect();
                found.add(at.join("name"), Rule::UnknownStore { name: stored.name.clone(), known });
            }
            Some(store) if store.control_path().is_some_and(|folder| stored.path.is_within(folder)) => {
                found.add(at.join("path"), Rule::CredentialInControl(stored.path.clone()));
            }
            Some(_) => {}
        }
        field_name_rules(&at.join("fields"), &stored.fields, found);
    }
}

fn field_name_rules(at: &FieldPath, fields: &FieldNames, found: &mut Breaches) {
    found.text(&at.join("principal"), &fields.principal);
    found.text(&at.join("value"), &fields.value);
    if fields.principal == fields.value {
        found.add(at.join("value"), Rule::FieldNamesEqual(fields.value.clone()));
    }
}

fn ledger_rules(ledger: &LedgerSettings, found: &mut Breaches) {
    let at = FieldPath::from(["ledger"]);
    branch_rules(&at, &ledger.branch, &ledger.author, found);
    if let Some(remote) = &ledger.remote {
        remote_rules(&at.join("remote"), remote, found);
    }
}

fn branch_rules(at: &FieldPath, branch: &str, author: &AuthorSettings, found: &mut Breaches) {
    if !is_branch(branch) {
        found.add(at.join("branch"), Rule::NotABranch);
    }
    for (name, text) in [("name", &author.name), ("email", &author.email)] {
        let at = at.join("author").join(name);
        found.text(&at, text);
        if text.contains(['<', '>']) {
            found.add(at, Rule::NotAnAuthor);
        }
    }
}

fn remote_rules(at: &FieldPath, remote: &RemoteSettings, found: &mut Breaches) {
    remote::rules(at, remote, found);
    found.timeout(at.join("timeout"), remote.timeout);
}

/// Whether Git takes the name for a branch, after `git check-ref-format --branch`.
fn is_branch(name: &str) -> bool {
    let refused = |char: char| char.is_control() || " ~^:?*[\\".contains(char);
    let segment = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.len() <= 200
        && name.split('/').all(segment)
        && !name.chars().any(refused)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.starts_with('-')
        && !name.ends_with('.')
        && name != "@"
        && name != "HEAD"
}

fn place_rules(settings: &Settings, found: &mut Breaches) {
    let places = settings.places();
    for (index, place) in places.iter().enumerate() {
        if place.path.as_os_str().is_empty() {
            found.add(place.field.clone(), Rule::Blank);
        } else if place.path.to_string_lossy().chars().any(char::is_control) {
            found.add(place.field.clone(), Rule::ControlCharacter);
        }
        let is_owned = |usage| matches!(usage, Usage::Owns | Usage::OwnsFolder);
        let taken = places
            .iter()
            .take(index)
            .find(|other| place.path == other.path && (is_owned(place.usage) || is_owned(other.usage)));
        if let Some(other) = taken {
            found.add(place.field.clone(), Rule::PlaceTaken { what: place.what, other: other.what });
        }
    }
    let length = settings.socket.as_os_str().as_bytes().len();
    if length > LONGEST_SOCKET {
        found.add(["socket"].into(), Rule::SocketTooLong(length));
    }
}

fn limit_rules(limits: LimitSettings, found: &mut Breaches) {
    let at = FieldPath::from(["limits"]);
    let limits = [
        ("rotations", limits.rotations, 1024),
        ("perTarget", limits.per_target, 256),
        ("verificationsPerMinute", limits.verifications_per_minute, 6000),
        ("rollouts", limits.rollouts, 1000),
        ("restartingPods", limits.restarting_pods, 10_000),
    ];
    for (name, value, most) in limits {
        if !(1..=most).contains(&value) {
            found.add(at.join(name), Rule::LimitOutOfRange { value, most });
        }
    }
}

fn freeze_rules(at: &FieldPath, freeze: &GlobalFreeze, found: &mut Breaches) {
    if freeze.to <= freeze.from {
        found.add(at.join("to"), Rule::FreezeReversed);
    }
    if let Some(reason) = &freeze.reason {
        found.text(&at.join("reason"), reason);
    }
}

/// What was found so far.
struct Breaches(Vec<Breach>);

impl Breaches {
    fn add(&mut self, path: FieldPath, rule: Rule) {
        self.0.push(Breach { path, rule });
    }

    /// A text of one line that is not empty.
    fn text(&mut self, path: &FieldPath, text: &str) {
        if text.trim().is_empty() {
            self.add(path.clone(), Rule::Blank);
        } else if text.chars().any(char::is_control) {
            self.add(path.clone(), Rule::ControlCharacter);
        }
    }

    fn timeout(&mut self, path: FieldPath, timeout: Interval) {
        if timeout.as_duration().is_zero() || timeout > LONGEST_TIMEOUT {
            self.add(path, Rule::TimeoutOutOfRange(timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_those_of_git() {
        for name in ["main", "audit/2026", "a-b_c.d", "é"] {
            assert!(is_branch(name), "{name} was refused");
        }
        for name in
            ["", "-a", "a..b", "a b", "/a", "a/", "a//b", "a.lock", ".a", "a.", "a~1", "@", "a@{1}", "HEAD"]
        {
            assert!(!is_branch(name), "{name:?} was taken");
        }
    }

    #[test]
    fn addresses_are_encrypted_or_on_this_machine() {
        for address in [
            "https://bao.example.com:8200",
            "https://10.0.0.1/",
            "http://127.0.0.1:8200",
            "http://[::1]:8200",
            "http://localhost:8200/prefix",
        ] {
            assert_eq!(address_rule(address), None, "{address}");
        }
        assert_eq!(address_rule("http://bao:8200"), Some(Rule::PlainAddress("bao".into())));
        assert_eq!(address_rule("https://u:p@bao"), Some(Rule::CredentialsInUrl));
        for address in
            ["", "bao:8200", "bao.example.com", "ftp://bao", "https://", "https://bao?x=1", "unix:///x"]
        {
            assert_eq!(address_rule(address), Some(Rule::NotAnAddress), "{address:?}");
        }
    }
}
