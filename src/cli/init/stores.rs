//! Where values live.

use std::path::PathBuf;

use super::ask::Asker;
use super::flags::{Flags, Login, StoreKind};
use super::target::Settled;
use super::yaml::Map;
use super::{Answer, Home, Owed, Stop};

pub(super) struct Stores {
    /// By their names.
    pub(super) nodes: Vec<(String, Store)>,
    /// The sealing key that is made.
    pub(super) key: Option<PathBuf>,
    /// What a person puts into files.
    pub(super) owed: Vec<Owed>,
    /// Whether applications can ask the store themselves.
    pub(super) are_read: bool,
}

pub(super) enum Store {
    Embedded { path: PathBuf, key: PathBuf },
    Vault { address: Answer, mount: Answer, ca_file: Option<Answer>, login: Entrance },
    Aws { region: Answer, account: Option<Answer> },
}

pub(super) enum Entrance {
    AppRole { role_id: PathBuf, secret_id: PathBuf },
    Token(PathBuf),
    Kubernetes(Answer),
}

/// Where the value lives.
pub(super) fn kind(ask: &Asker, flags: &mut Flags) -> Result<StoreKind, Stop> {
    let kinds = [StoreKind::Embedded, StoreKind::Vault, StoreKind::Aws];
    ask.choice(flags.store.take(), "--store", "Where the value lives", &kinds, Some(0))
}

impl Stores {
    pub(super) fn ask(
        ask: &Asker,
        flags: &mut Flags,
        home: &Home,
        kind: StoreKind,
        target: &Settled,
    ) -> Result<Self, Stop> {
        let mut stores =
            Self { nodes: Vec::new(), key: None, owed: Vec::new(), are_read: kind != StoreKind::Embedded };
        stores.add("main", kind, ask, flags, home)?;
        // A target of that kind says by a store where it is and how rekeyd logs in.
        if let Some(needed) = target.needs_store.filter(|needed| *needed != kind) {
            stores.add(target_store(needed), needed, ask, flags, home)?;
        }
        Ok(stores)
    }

    fn add(
        &mut self,
        name: &str,
        kind: StoreKind,
        ask: &Asker,
        flags: &mut Flags,
        home: &Home,
    ) -> Result<(), Stop> {
        let store = match kind {
            StoreKind::Embedded => {
                let key = home.path("store.key");
                self.key = Some(key.clone());
                Store::Embedded { path: home.state("store.db"), key }
            }
            StoreKind::Vault => {
                let address = ask.text(
                    flags.vault_address.take(),
                    "--vault-address",
                    "Address of OpenBao or Vault",
                    None,
                )?;
                let question = "Its KV version 2 mount";
                let mount =
                    ask.text(flags.vault_mount.take(), "--vault-mount", question, Some("secret".into()))?;
                let ca_file =
                    ask.optional(flags.vault_ca_file.take(), "PEM file of the authorities to trust there")?;
                let login = self.login(ask, flags, home)?;
                Store::Vault { address, mount, ca_file, login }
            }
            StoreKind::Aws => {
                let region = ask.text(flags.aws_region.take(), "--aws-region", "Region of AWS", None)?;
                let account = ask.optional(flags.aws_account.take(), "The 12 digits of the account")?;
                Store::Aws { region, account }
            }
        };
        self.nodes.push((name.to_owned(), store));
        Ok(())
    }

    fn login(&mut self, ask: &Asker, flags: &mut Flags, home: &Home) -> Result<Entrance, Stop> {
        let logins = [Login::AppRole, Login::Token, Login::Kubernetes];
        let question = "How rekeyd logs in there";
        let login = ask.choice(flags.vault_auth.take(), "--vault-auth", question, &logins, Some(0))?;
        let mut owe = |what: &str, name: &str| {
            let file = home.path(name);
            self.owed.push(Owed { what: what.to_owned(), file: file.clone() });
            file
        };
        Ok(match login {
            Login::AppRole => Entrance::AppRole {
                role_id: owe("the id of rekeyd's AppRole", "bao-role-id"),
                secret_id: owe("a secret id of rekeyd's AppRole", "bao-secret-id"),
            },
            Login::Token => Entrance::Token(owe("rekeyd's token", "bao-token")),
            Login::Kubernetes => Entrance::Kubernetes(ask.text(
                flags.vault_role.take(),
                "--vault-role",
                "The role to log in as",
                None,
            )?),
        })
    }
}

/// What the store of a target is called, where it is not the value's.
pub(super) const fn target_store(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Embedded => "main",
        StoreKind::Vault => "bao",
        StoreKind::Aws => "aws",
    }
}

impl Store {
    pub(super) fn node(&self) -> Map {
        match self {
            Self::Embedded { path, key } => {
                let key = Map::new().text("file", key.display());
                let embedded = Map::new()
                    .text("path", path.display())
                    .map("key", key)
                    .remark("Keep a copy of it elsewhere: without it the store cannot be read.");
                Map::new().map("embedded", embedded)
            }
            Self::Vault { address, mount, ca_file, login } => {
                let auth = match login {
                    Entrance::AppRole { role_id, secret_id } => Map::new().map(
                        "appRole",
                        Map::new()
                            .text("roleIdFile", role_id.display())
                            .text("secretIdFile", secret_id.display()),
                    ),
                    Entrance::Token(file) => Map::new().map("token", Map::new().text("file", file.display())),
                    Entrance::Kubernetes(role) => Map::new().map("kubernetes", Map::new().text("role", role)),
                };
                let vault = Map::new()
                    .text("address", address)
                    .with_some("caFile", ca_file.as_ref())
                    .text("mount", mount)
                    .map("auth", auth);
                Map::new().map("vault", vault)
            }
            Self::Aws { region, account } => {
                let aws = Map::new().text("region", region).with_some("account", account.as_ref());
                let rights = match account {
                    Some(_) => {
                        "rekeyd logs in as AWS's own tools do. `rekeyd iam-policy` prints the rights that it needs."
                    }
                    None => {
                        "rekeyd logs in as AWS's own tools do. Add `account`, its twelve digits in quotes: without it \
                         `rekeyd iam-policy` cannot print the rights that rekeyd needs."
                    }
                };
                Map::new().map("awsSecretsManager", aws).remark(rights)
            }
        }
    }
}
