//! The flags of `rekeyd init`.

use clap::{Args, ValueEnum, ValueHint};

use super::ask::invalid;
use super::{Answer, Stop};
use crate::ident::{DnsLabel, Principal};
use crate::policy::spec::{Interval, Zone};

/// What says an answer; the rest is asked for on a terminal.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where rekeyd.yaml and the folder of the policies go [default: /etc/rekeyd]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) directory: Option<Answer>,
    /// What accepts the value
    #[arg(long, value_name = "KIND")]
    pub(super) target: Option<Kind>,
    /// How the value changes [default: the one that locks nobody out]
    #[arg(long)]
    pub(super) strategy: Option<Way>,
    /// The server: a name, an address, or a folder or file of a Unix socket
    #[arg(long)]
    pub(super) host: Option<Answer>,
    /// Its port [default: the usual one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
    /// The database that logins are tried on
    #[arg(long)]
    pub(super) database: Option<Answer>,
    /// PEM file of the authorities that the server is checked by [default: the system's own]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca_file: Option<Answer>,
    /// Whose value it is: a user, an AppRole, a token's name, a service account, an owner
    #[arg(long, value_name = "NAME")]
    pub(super) user: Option<Principal>,
    /// The two users that take turns
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub(super) users: Vec<Principal>,
    /// The roles that the two users have their rights by
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub(super) member_of: Vec<Principal>,
    /// Who changes it: the name that rekeyd itself logs in with
    #[arg(long, value_name = "NAME")]
    pub(super) admin_user: Option<Principal>,
    /// The file that its value will be in [default: the policy's name with -admin, beside the settings]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) admin_file: Option<Answer>,
    /// http: the recipe, of those for keys that `rekeyd recipe list` shows
    #[arg(long, value_name = "NAME")]
    pub(super) recipe: Option<DnsLabel>,
    /// http: what the recipe asks for; once for each
    #[arg(long, value_name = "K=V")]
    pub(super) parameter: Vec<Pair>,
    /// http: where requests go, such as https://git.example.com
    #[arg(long, value_name = "URL")]
    pub(super) base: Option<Answer>,
    /// vault with `token`: the token role that it is made with
    #[arg(long, value_name = "ROLE")]
    pub(super) token_role: Option<Principal>,
    /// vault with `token`: the policies that it has [default: those of the role]
    #[arg(long, value_name = "POLICY", value_delimiter = ',')]
    pub(super) token_policies: Vec<Answer>,
    /// kubernetesServiceAccount with `bound`: how long a token lives
    #[arg(long, value_name = "TIME")]
    pub(super) expiration: Option<Interval>,
    /// The cluster's kubeconfig [default: the one that rekeyd runs in]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) kubeconfig: Option<Answer>,
    /// Where the value lives
    #[arg(long, value_name = "KIND")]
    pub(super) store: Option<StoreKind>,
    /// OpenBao or Vault: its address
    #[arg(long, value_name = "URL")]
    pub(super) vault_address: Option<Answer>,
    /// OpenBao or Vault: the KV version 2 mount [default: secret]
    #[arg(long, value_name = "MOUNT")]
    pub(super) vault_mount: Option<Answer>,
    /// OpenBao or Vault: how rekeyd logs in [default: appRole]
    #[arg(long, value_name = "WAY")]
    pub(super) vault_auth: Option<Login>,
    /// OpenBao or Vault with `kubernetes`: the role
    #[arg(long, value_name = "ROLE")]
    pub(super) vault_role: Option<Answer>,
    /// OpenBao or Vault: PEM file of the authorities to trust [default: the system's own]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) vault_ca_file: Option<Answer>,
    /// AWS: the region
    #[arg(long, value_name = "REGION")]
    pub(super) aws_region: Option<Answer>,
    /// AWS: the 12 digits of the account
    #[arg(long, value_name = "ACCOUNT")]
    pub(super) aws_account: Option<Answer>,
    /// Who reads the value: `file:PATH`, `kubernetes:NAMESPACE/SECRET` or `none`; may be repeated
    #[arg(long, value_name = "READER")]
    pub(super) consumer: Vec<Answer>,
    /// What the policy is called
    #[arg(long)]
    pub(super) name: Option<DnsLabel>,
    /// Its namespace [default: default]
    #[arg(long)]
    pub(super) namespace: Option<DnsLabel>,
    /// Who answers for the credential
    #[arg(long)]
    pub(super) owner: Option<Answer>,
    /// When it rotates, five fields of cron, or `none` [default: 0 3 * * 0]
    #[arg(long, value_name = "CRON")]
    pub(super) schedule: Option<Answer>,
    /// The zone that the schedule is in [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub(super) time_zone: Option<Zone>,
    /// Take what is usual for whatever no flag says, and do not ask before writing
    #[arg(long)]
    pub(super) yes: bool,
}

/// What accepts a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(super) enum Kind {
    Postgres,
    Mysql,
    Redis,
    Rabbitmq,
    Clickhouse,
    Http,
    Vault,
    AwsIam,
    KubernetesServiceAccount,
    Generated,
}

/// How a value changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(super) enum Way {
    Alternating,
    DualPassword,
    InPlace,
    SecretId,
    Token,
    LongLived,
    Bound,
}

/// Where a value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(super) enum StoreKind {
    Embedded,
    Vault,
    Aws,
}

/// How rekeyd logs in at OpenBao or Vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(super) enum Login {
    AppRole,
    Token,
    Kubernetes,
}

/// A parameter of a recipe.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: String,
}

impl std::str::FromStr for Pair {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) =
            text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write it as NAME=VALUE")?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl Flags {
    /// Every flag that was given was asked for: a flag without an effect is a misunderstanding.
    pub(super) fn check_used(&self) -> Result<(), Stop> {
        let left = [
            ("--strategy", self.strategy.is_some()),
            ("--host", self.host.is_some()),
            ("--port", self.port.is_some()),
            ("--database", self.database.is_some()),
            ("--ca-file", self.ca_file.is_some()),
            ("--user", self.user.is_some()),
            ("--users", !self.users.is_empty()),
            ("--member-of", !self.member_of.is_empty()),
            ("--admin-user", self.admin_user.is_some()),
            ("--admin-file", self.admin_file.is_some()),
            ("--recipe", self.recipe.is_some()),
            ("--parameter", !self.parameter.is_empty()),
            ("--base", self.base.is_some()),
            ("--token-role", self.token_role.is_some()),
            ("--token-policies", !self.token_policies.is_empty()),
            ("--expiration", self.expiration.is_some()),
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--vault-address", self.vault_address.is_some()),
            ("--vault-mount", self.vault_mount.is_some()),
            ("--vault-auth", self.vault_auth.is_some()),
            ("--vault-role", self.vault_role.is_some()),
            ("--vault-ca-file", self.vault_ca_file.is_some()),
            ("--aws-region", self.aws_region.is_some()),
            ("--aws-account", self.aws_account.is_some()),
            ("--time-zone", self.time_zone.is_some()),
        ];
        let left: Vec<&str> = left.iter().filter(|(_, is_left)| *is_left).map(|(flag, _)| *flag).collect();
        if left.is_empty() {
            return Ok(());
        }
        let reason = format!("{} would have no effect with the other answers", left.join(", "));
        Err(Stop::Usage(invalid(&reason, "leave it out")))
    }
}
