//! The files and stores that settings name: where they are, and which of them are the same.

use std::path::{Component, Path, PathBuf};

use super::{
    AwsSettings, ClusterSettings, CredentialSource, KeySource, Settings, StoreSettings, VaultAuth,
    VaultSettings,
};
use crate::ident::{DnsLabel, StorePath};
use crate::policy::shape::FieldPath;

/// The files and folders that the settings name.
#[derive(Debug)]
pub(crate) struct Places(Vec<Place<PathBuf>>);

/// A file or folder that the settings name.
#[derive(Debug)]
pub(super) struct Place<P> {
    pub(super) field: FieldPath,
    pub(super) path: P,
    pub(super) what: &'static str,
    pub(super) usage: Usage,
}

/// What rekeyd does with a [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Reads a file.
    Reads,
    /// Reads a folder.
    ReadsFolder,
    /// Writes a file, and is the only one to.
    Owns,
    /// Writes a folder, and is the only one to.
    OwnsFolder,
}

impl Places {
    /// What the file at a path is to rekeyd, if it is anything: nothing else may be written there.
    pub(crate) fn meaning_of(&self, path: &Path) -> Option<&'static str> {
        let holds = |place: &&Place<PathBuf>| match place.usage {
            Usage::Reads | Usage::Owns => path == place.path,
            Usage::ReadsFolder | Usage::OwnsFolder => path.starts_with(&place.path),
        };
        self.0.iter().find(holds).map(|place| place.what)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place<PathBuf>> {
        self.0.iter()
    }
}

/// A path without `.` and `..`, read as it is written: the file need not exist yet.
fn without_detours(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

fn vault_identity(vault: &VaultSettings) -> String {
    let VaultSettings { address, namespace, mount, .. } = vault;
    let address = address.trim_end_matches('/').to_ascii_lowercase();
    let namespace = namespace.as_deref().unwrap_or_default().trim_matches('/');
    format!("vault {address} {namespace} {}", mount.trim_matches('/'))
}

impl Settings {
    pub(crate) fn places(&self) -> Places {
        let mut copy = self.clone();
        let owned = |place: Place<&mut PathBuf>| Place {
            field: place.field,
            path: std::mem::take(place.path),
            what: place.what,
            usage: place.usage,
        };
        Places(copy.places_mut().into_iter().map(owned).collect())
    }

    /// With every relative path made absolute, from `folder`.
    pub(super) fn resolved(mut self, folder: &Path) -> Self {
        for place in self.places_mut() {
            // An empty path is a mistake, which joining would hide.
            if !place.path.as_os_str().is_empty() {
                *place.path = folder.join(&place.path);
            }
        }
        self
    }

    /// Whether two names stand for one store.
    pub(crate) fn same_store(&self, one: &DnsLabel, other: &DnsLabel) -> bool {
        one == other || self.store_identity(one) == self.store_identity(other)
    }

    /// The same for a mount of a store's server, where it has mounts.
    pub(crate) fn copy_identity(&self, name: &DnsLabel, mount: Option<&StorePath>) -> String {
        match (self.stores.get(name), mount) {
            (Some(StoreSettings::Vault(vault)), Some(mount)) => {
                vault_identity(&VaultSettings { mount: mount.to_string(), ..vault.clone() })
            }
            _ => self.store_identity(name),
        }
    }

    /// One text for all the names of a store.
    pub(crate) fn store_identity(&self, name: &DnsLabel) -> String {
        match self.stores.get(name) {
            Some(StoreSettings::Embedded(embedded)) => {
                format!("embedded {}", without_detours(&embedded.path).display())
            }
            Some(StoreSettings::Vault(vault)) => vault_identity(vault),
            // Two profiles may be of one account or of two: what is said of the account decides.
            Some(StoreSettings::AwsSecretsManager(aws)) => {
                let AwsSettings { region, account, profile, credentials_file, endpoint, .. } = aws;
                let place = endpoint.as_deref().unwrap_or(region).trim_end_matches('/').to_ascii_lowercase();
                match (account, profile, credentials_file) {
                    (Some(account), _, _) => format!("aws {place} {account}"),
                    (None, profile, file) => format!("aws {place} {profile:?} {file:?}"),
                }
            }
            None => format!("unknown {name}"),
        }
    }

    /// One text for all the names of the server behind a store, whatever it keeps there.
    pub(crate) fn server_identity(&self, name: &DnsLabel) -> String {
        match self.stores.get(name) {
            Some(StoreSettings::Vault(VaultSettings { address, namespace, .. })) => {
                let address = address.trim_end_matches('/').to_ascii_lowercase();
                let namespace = namespace.as_deref().unwrap_or_default().trim_matches('/');
                format!("vault {address} {namespace}").trim_end().to_owned()
            }
            // Users are one for all regions of a partition.
            Some(StoreSettings::AwsSecretsManager(aws)) => {
                let AwsSettings { account, profile, credentials_file, iam_endpoint, .. } = aws;
                let place = iam_endpoint.as_deref().unwrap_or_else(|| aws.partition().id);
                match account {
                    Some(account) => format!("iam {place} {account}"),
                    None => format!("iam {place} {profile:?} {credentials_file:?}"),
                }
            }
            _ => self.store_identity(name),
        }
    }

    fn places_mut(&mut self) -> Vec<Place<&mut PathBuf>> {
        let directory = self.policies.directory.as_mut().map(|path| Place {
            field: ["policies", "directory"].into(),
            path,
            what: "the policy directory",
            usage: Usage::ReadsFolder,
        });
        let plugins = self.plugins.as_mut().map(|plugins| Place {
            field: ["plugins", "directory"].into(),
            path: &mut plugins.directory,
            what: "the directory of plug-ins",
            usage: Usage::ReadsFolder,
        });
        let mut places: Vec<_> = directory.into_iter().chain(plugins).collect();
        let ledger = self.ledger.remote.as_mut();
        let ledger = ledger
            .map(|remote| (FieldPath::from(["ledger", "remote"]), remote, "a file of the ledger's remote"));
        let mut remotes: Vec<_> = ledger.into_iter().collect();
        places.extend([
            Place {
                field: ["ledger", "path"].into(),
                path: &mut self.ledger.path,
                what: "the ledger",
                usage: Usage::OwnsFolder,
            },
            Place {
                field: ["socket"].into(),
                path: &mut self.socket,
                what: "its socket",
                usage: Usage::Owns,
            },
        ]);
        for (name, repository) in &mut self.gitops {
            let at = FieldPath::from(["gitops"]).join(name.to_string());
            places.push(Place {
                field: at.join("path"),
                path: &mut repository.path,
                what: "what is fetched of a GitOps repository",
                usage: Usage::OwnsFolder,
            });
            remotes.push((
                at.join("remote"),
                &mut repository.remote,
                "a file of a GitOps repository's remote",
            ));
        }
        let mut reads = |field: FieldPath, path, what| {
            places.push(Place { field, path, what, usage: Usage::Reads });
        };
        for (at, remote, what) in remotes {
            for (name, path) in [
                ("tokenFile", &mut remote.token_file),
                ("caFile", &mut remote.ca_file),
                ("identityFile", &mut remote.identity_file),
                ("knownHostsFile", &mut remote.known_hosts_file),
            ] {
                if let Some(path) = path {
                    reads(at.join(name), path, what);
                }
            }
        }
        for (name, credential) in &mut self.credentials {
            if let CredentialSource::File(file) = credential {
                let at = FieldPath::from(["credentials"]).join(name.to_string()).join("file");
                reads(at.join("path"), &mut file.path, "a credential");
            }
        }
        for (name, authority) in &mut self.authorities {
            let at = FieldPath::from(["authorities"]).join(name.to_string());
            reads(
                at.join("certificateFile"),
                &mut authority.certificate_file,
                "the certificate of an authority",
            );
            reads(at.join("keyFile"), &mut authority.key_file, "the key of an authority");
        }
        for (name, cluster) in &mut self.clusters {
            if let ClusterSettings::Kubeconfig(kubeconfig) = cluster {
                let at = FieldPath::from(["clusters"]).join(name.to_string()).join("kubeconfig");
                reads(at.join("path"), &mut kubeconfig.path, "the account at a cluster");
            }
        }
        let mut databases = Vec::new();
        for (name, store) in &mut self.stores {
            let at = FieldPath::from(["stores"]).join(name.to_string());
            match store {
                StoreSettings::Embedded(embedded) => {
                    let at = at.join("embedded");
                    databases.push((at.join("path"), &mut embedded.path));
                    if let KeySource::File(path) = &mut embedded.key {
                        reads(at.join("key").join("file"), path, "the key of a store");
                    }
                }
                StoreSettings::AwsSecretsManager(aws) => {
                    let at = at.join("awsSecretsManager");
                    if let Some(path) = &mut aws.ca_file {
                        reads(at.join("caFile"), path, "the authorities of a store");
                    }
                    if let Some(path) = &mut aws.credentials_file {
                        reads(at.join("credentialsFile"), path, "the login of a store");
                    }
                }
                StoreSettings::Vault(vault) => {
                    let at = at.join("vault");
                    if let Some(path) = &mut vault.ca_file {
                        reads(at.join("caFile"), path, "the authorities of a store");
                    }
                    let what = "the login of a store";
                    let at = at.join("auth");
                    match &mut vault.auth {
                        VaultAuth::Token(token) => {
                            reads(at.join("token").join("file"), &mut token.file, what)
                        }
                        VaultAuth::AppRole(role) => {
                            let at = at.join("appRole");
                            reads(at.join("roleIdFile"), &mut role.role_id_file, what);
                            reads(at.join("secretIdFile"), &mut role.secret_id_file, what);
                        }
                        VaultAuth::Kubernetes(kubernetes) => {
                            reads(at.join("kubernetes").join("tokenFile"), &mut kubernetes.token_file, what);
                        }
                    }
                }
            }
        }
        places.extend(databases.into_iter().map(|(field, path)| Place {
            field,
            path,
            what: "the database of a store",
            usage: Usage::Owns,
        }));
        places
    }
}
