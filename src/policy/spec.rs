//! The shape of a policy document's `spec`, shared by files, the JSON Schema and the run document.
//!
//! Fields whose form can be wrong have types that parse (`Interval`, `CronExpression`, ...), so that a
//! wrong one is reported with its own position. Rules that span fields are in [`super::validate`].

mod aws_iam;
mod by_hand;
mod clickhouse;
mod copy;
mod exec;
mod extra;
mod generated;
mod http;
mod jenkins;
mod kubernetes;
mod mysql;
mod place;
mod rabbitmq;
mod redis;
mod service_account;
mod text;
mod vault;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::aws_iam::AwsIamSpec;
pub use self::by_hand::ByHandSpec;
pub use self::clickhouse::{ClickhouseNode, ClickhouseSpec, ClickhouseStrategy};
pub use self::copy::{AwsCopySpec, CopyContent, VaultCopySpec};
pub use self::exec::{ExecSpec, ExecStrategy, OwnerSpec, ProgramDigest, ProgramDigestError};
pub use self::extra::{Extra, ExtraValue};
pub use self::generated::GeneratedSpec;
pub use self::http::HttpSpec;
pub use self::jenkins::{
    JenkinsCredential, JenkinsFile, JenkinsPair, JenkinsScope, JenkinsSpec, JenkinsText,
};
pub use self::kubernetes::{
    GitopsSpec, KubernetesSpec, RestartSpec, WorkloadKind, WorkloadName, WorkloadsSpec,
};
pub use self::mysql::{MysqlAuthentication, MysqlEndpoint, MysqlSpec, MysqlStrategy};
pub use self::place::HttpPlaceSpec;
pub use self::rabbitmq::{PairSpec, RabbitmqEndpoint, RabbitmqSpec, RabbitmqStrategy};
pub use self::redis::{DualPasswordSpec, RedisNode, RedisSpec, RedisStrategy};
pub use self::service_account::{BoundSpec, LongLivedSpec, ServiceAccountSpec, ServiceAccountStrategy};
pub use self::text::{FileMode, FileModeError, Interval, IntervalError, Zone, ZoneError};
pub use self::vault::{DerivedTokens, SecretIdSpec, TokenSpec, VaultSpec, VaultStrategy};
use crate::ident::{DnsLabel, PartName, Principal, StorePath};
use crate::schedule::CronExpression;
use crate::secret::{PREVIOUS, ValueSpec};

/// One rotated credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Who answers for the credential; stands in records and alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When it rotates by itself. Without one, it rotates only on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// The system that accepts the credential.
    pub target: TargetSpec,
    /// What a generated value looks like.
    #[serde(default)]
    pub value: ValueSpec,
    /// Where the value lives.
    pub store: StoreSpec,
    /// Who reads the value besides the store's own clients.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub consumers: Vec<ConsumerSpec>,
    /// How the outgoing value is taken out.
    #[serde(default)]
    pub retire: RetireSpec,
    #[serde(default, skip_serializing_if = "ByHandSpec::is_default")]
    pub by_hand: ByHandSpec,
    /// What a containment does first.
    #[serde(default)]
    pub containment: Containment,
    /// How the value in force is looked after between rotations.
    #[serde(default)]
    pub verify: VerifySpec,
}

impl Spec {
    /// Puts what names no namespace into the policy's own.
    pub(crate) fn settle(&mut self, namespace: &DnsLabel) {
        if let TargetSpec::KubernetesServiceAccount(account) = &mut self.target {
            account.namespace.get_or_insert_with(|| namespace.clone());
        }
        for consumer in &mut self.consumers {
            if let ConsumerSpec::Kubernetes(kubernetes) = consumer {
                kubernetes.namespace.get_or_insert_with(|| namespace.clone());
            }
        }
        self.name_parts();
    }

    /// Gives each part of the value a key in the store, where the policy names none.
    pub(crate) fn name_parts(&mut self) {
        for name in self.part_names() {
            let key = name.to_string();
            self.store.fields.parts.entry(name).or_insert(key);
        }
    }

    /// The further parts that the value has.
    #[must_use]
    pub fn part_names(&self) -> Vec<PartName> {
        match &self.target {
            TargetSpec::Generated(generated) => {
                let mut names = self.value.part_names();
                names.extend(generated.ring.then(|| PREVIOUS.parse().expect("a literal name")));
                names
            }
            TargetSpec::Http(http) => {
                http.definition.as_ref().map(|recipe| recipe.part_names()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// How long a value lives that nobody renews, and the field that says so, below `spec`.
    pub(crate) fn life(&self) -> Option<(Vec<&'static str>, Interval)> {
        if let Some(certificate) = &self.value.certificate {
            return Some((vec!["value", "certificate", "validFor"], certificate.valid_for));
        }
        let (at, life) = self.target.life()?;
        Some(([&["target"], at].concat(), life))
    }

    /// The consumer here that is the same place as one of another specification.
    #[must_use]
    pub fn consumer_like(&self, other: &ConsumerSpec) -> Option<&ConsumerSpec> {
        self.consumers.iter().find(|consumer| consumer.is_at(other))
    }
}

/// When a policy rotates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Five cron fields (minute, hour, day of month, month, day of week) of wall-clock time. Where both
    /// days are given, either matches, as in classic cron. 0 and 7 are Sunday.
    pub cron: CronExpression,
    /// The IANA zone the fields are read in.
    #[serde(default)]
    pub time_zone: Zone,
    /// How long after its time a rotation may still start. Unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Interval>,
    /// Spreads policies of one time: each starts at its own fixed moment within this interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Interval>,
    /// The oldest a value may become: it rotates then even if cron does not ask for it, and status and
    /// metrics report it as overdue beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Interval>,
    /// What happens to a time that passed while the daemon was down.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Times in which no scheduled rotation starts. Containment ignores them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freezes: Vec<FreezeSpec>,
}

/// What happens to a time that passed while the daemon was down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CatchUp {
    /// However many times were missed, rotate once, as soon as the window and the freezes allow.
    #[default]
    Once,
    /// Wait for the next time.
    Skip,
}

/// A time in which no scheduled rotation starts: from the first to the last moment, both in the
/// schedule's zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FreezeSpec {
    /// First moment, `2026-12-20` or `2026-12-20T18:00`.
    #[schemars(with = "String")]
    pub from: jiff::civil::DateTime,
    /// First moment after it.
    #[schemars(with = "String")]
    pub to: jiff::civil::DateTime,
    /// Why, for messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The system that accepts the credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TargetSpec {
    Postgres(PostgresSpec),
    Mysql(MysqlSpec),
    Redis(RedisSpec),
    Rabbitmq(RabbitmqSpec),
    Clickhouse(ClickhouseSpec),
    Http(HttpSpec),
    Vault(VaultSpec),
    AwsIam(AwsIamSpec),
    KubernetesServiceAccount(ServiceAccountSpec),
    Exec(ExecSpec),
    Generated(GeneratedSpec),
    /// A user that takes two values at a time, at a system that only a simulation has.
    #[cfg(feature = "proving")]
    #[schemars(skip)]
    Simulated(InPlaceSpec),
    /// A provider that makes keys, which only a simulation has.
    #[cfg(feature = "proving")]
    #[schemars(skip)]
    SimulatedKeys(InPlaceSpec),
}

impl TargetSpec {
    /// The principals that a rotation changes; where a provider makes keys and names them, their owner.
    #[must_use]
    pub fn principals(&self) -> Vec<&Principal> {
        match self {
            Self::Postgres(PostgresSpec { strategy: PostgresStrategy::Alternating(pair), .. }) => {
                pair.users.iter().collect()
            }
            Self::Postgres(PostgresSpec { strategy: PostgresStrategy::InPlace(one), .. }) => vec![&one.user],
            Self::Mysql(mysql) => mysql.strategy.users(),
            Self::Redis(redis) => vec![redis.user()],
            Self::Rabbitmq(rabbitmq) => rabbitmq.users().iter().collect(),
            Self::Clickhouse(clickhouse) => clickhouse.strategy.users(),
            Self::Http(http) => vec![&http.owner],
            Self::Vault(vault) => vec![vault.owner()],
            Self::AwsIam(iam) => vec![&iam.user],
            Self::KubernetesServiceAccount(account) => vec![&account.service_account],
            Self::Exec(exec) => exec.strategy.principals(),
            Self::Generated(generated) => vec![&generated.principal],
            #[cfg(feature = "proving")]
            Self::Simulated(one) | Self::SimulatedKeys(one) => vec![&one.user],
        }
    }

    /// How long a value lives that nobody renews, and the field that says so, below `spec.target`.
    pub(crate) fn life(&self) -> Option<(&'static [&'static str], Interval)> {
        match self {
            Self::KubernetesServiceAccount(ServiceAccountSpec {
                strategy: ServiceAccountStrategy::Bound(bound),
                ..
            }) => Some((&["kubernetesServiceAccount", "strategy", "bound", "expiration"], bound.expiration)),
            // One with a period is renewed by its reader.
            Self::Vault(VaultSpec { strategy: VaultStrategy::Token(token), .. })
                if token.period.is_none() =>
            {
                token.ttl.map(|ttl| (&["vault", "strategy", "token", "ttl"] as &[_], ttl))
            }
            _ => None,
        }
    }
}

/// A PostgreSQL role, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresSpec {
    /// The server that roles are changed on.
    pub endpoint: PostgresEndpoint,
    /// Further endpoints that must accept the candidate before it is promoted: replicas, poolers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_verify: Vec<PostgresEndpoint>,
    /// The admin credential, by its name in the settings.
    pub admin: DnsLabel,
    /// How the value changes.
    pub strategy: PostgresStrategy,
    /// A statement that must succeed with the candidate, besides the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
}

/// Where a PostgreSQL server is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresEndpoint {
    /// Host name, address, or the absolute folder of a Unix socket.
    pub host: String,
    /// The server's port.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The database that logins are tried on.
    pub database: String,
    #[serde(default)]
    pub tls: TlsSpec,
}

impl PostgresEndpoint {
    /// Whether the host is the folder of a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Whether the connection does not leave this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_socket() || is_loopback(&self.host)
    }
}

/// Whether a host name or address is this machine's own.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

impl fmt::Display for PostgresEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}

const fn postgres_port() -> u16 {
    5432
}

/// How a connection is protected. The modes are libpq's; one is never replaced by a weaker one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsSpec {
    #[serde(default)]
    pub mode: TlsMode,
    /// PEM file of the authorities to trust; the system's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Says that `disable` is meant even though the host is not this machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_plaintext: bool,
}

/// libpq's `sslmode`, without the modes that fall back (`allow`, `prefer`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS; the certificate is not checked.
    Require,
    /// TLS; the certificate must chain to a trusted authority.
    VerifyCa,
    /// TLS; the certificate must chain to a trusted authority and name the host.
    #[default]
    VerifyFull,
}

/// How a PostgreSQL value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PostgresStrategy {
    /// Two users take turns, so that the outgoing value works until every reader has moved.
    Alternating(AlternatingSpec),
    /// One user; readers fail between install and publish.
    InPlace(InPlaceSpec),
}

/// Two users that take turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlternatingSpec {
    /// The two users.
    pub users: [Principal; 2],
    /// The group roles that both belong to and through which they hold their rights.
    #[serde(default)]
    pub member_of: Vec<Principal>,
}

/// One user, changed in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InPlaceSpec {
    /// The user whose password changes.
    pub user: Principal,
}

/// Where the value lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoreSpec {
    /// The store, by its name in the settings.
    pub name: DnsLabel,
    /// Where in it applications read the current value.
    pub path: StorePath,
    /// The keys of the value's two parts, in stores that hold a map.
    #[serde(default)]
    pub fields: FieldNames,
    /// Further keys beside them, such as engine and host: for AWS Secrets Manager.
    #[serde(default, skip_serializing_if = "Extra::is_empty")]
    pub extra: Extra,
}

/// The keys under which a store that holds a map keeps a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FieldNames {
    /// The key of the name that logs in.
    pub principal: String,
    /// The key of the value.
    pub value: String,
    /// The keys of its further parts, where it has such: each under its own name when absent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    // API servers know no patterns of keys.
    #[schemars(with = "BTreeMap<String, String>")]
    pub parts: BTreeMap<PartName, String>,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self { principal: "username".into(), value: "password".into(), parts: BTreeMap::new() }
    }
}

/// A place that applications read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ConsumerSpec {
    File(FileSpec),
    Kubernetes(KubernetesSpec),
    Jenkins(JenkinsSpec),
    Vault(VaultCopySpec),
    AwsSecretsManager(AwsCopySpec),
    Http(HttpPlaceSpec),
}

impl ConsumerSpec {
    /// Whether both are one place, however it is told.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => one.path == other.path,
            (Self::Kubernetes(one), Self::Kubernetes(other)) => one.place() == other.place(),
            (Self::Jenkins(one), Self::Jenkins(other)) => one.place() == other.place(),
            (Self::Vault(one), Self::Vault(other)) => {
                (&one.store, &one.mount, &one.path) == (&other.store, &other.mount, &other.path)
            }
            (Self::AwsSecretsManager(one), Self::AwsSecretsManager(other)) => {
                (&one.store, &one.name) == (&other.store, &other.name)
            }
            (Self::Http(one), Self::Http(other)) => one.place() == other.place(),
            (
                Self::File(_)
                | Self::Kubernetes(_)
                | Self::Jenkins(_)
                | Self::Vault(_)
                | Self::AwsSecretsManager(_)
                | Self::Http(_),
                _,
            ) => false,
        }
    }

    /// Whether readers that fail with a new value get back what they had.
    #[must_use]
    pub const fn rolls_back(&self) -> bool {
        let on_failure = match self {
            Self::File(file) => file.on_failure,
            Self::Kubernetes(secret) => secret.workloads.on_failure,
            // Nobody says how those who read it fare.
            Self::Jenkins(_) | Self::Vault(_) | Self::AwsSecretsManager(_) | Self::Http(_) => OnFailure::Hold,
        };
        matches!(on_failure, OnFailure::RollBack)
    }
}

/// What follows when readers fail with a new value and did not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// The rotation waits, and both values work until somebody has mended the reader.
    Hold,
    /// What was in force comes back under a higher version, where it still works: not in place, and never in
    /// a containment.
    RollBack,
}

impl OnFailure {
    const fn is_hold(&self) -> bool {
        matches!(self, Self::Hold)
    }
}

/// A file on this machine and the command that makes its reader look again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileSpec {
    /// Absolute path.
    pub path: PathBuf,
    /// Permission bits in octal; no others may read it by default.
    #[serde(default)]
    pub mode: FileMode,
    /// `user` or `user:group`; rekeyd's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// A template. `principal`, `value`, `version`, `policy` and `namespace` are defined; any other name is an error.
    pub content: String,
    /// The command that makes the reader take the new content: program and arguments, no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reload: Vec<String>,
    /// How long the command may take.
    #[serde(default = "reload_timeout")]
    pub reload_timeout: Interval,
    /// What follows when the command says by its exit code that the reader fails with the new value.
    #[serde(default = "hold", skip_serializing_if = "OnFailure::is_hold")]
    pub on_failure: OnFailure,
    /// Takes over a file that rekeyd did not write. Without it such a file is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
}

const fn hold() -> OnFailure {
    OnFailure::Hold
}

fn reload_timeout() -> Interval {
    Interval::from_duration(Duration::from_secs(30))
}

/// How the outgoing value is taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetireSpec {
    /// How long sessions of the outgoing value may live on after every consumer has the new one. They
    /// are closed then; without any, nothing is waited for.
    pub grace: Interval,
    /// Where the target can disable a key before it deletes it: how long the outgoing one stays disabled, so that
    /// it can be enabled again should somebody turn up who still needs it. A containment deletes at once.
    #[serde(skip_serializing_if = "Interval::is_zero")]
    pub soak: Interval,
    /// How long a containment waits for consumers before it cuts the outgoing value off regardless.
    pub containment_deadline: Interval,
}

impl Default for RetireSpec {
    fn default() -> Self {
        Self {
            grace: Interval::from_duration(Duration::from_secs(600)),
            soak: Interval::from_duration(Duration::ZERO),
            containment_deadline: Interval::from_duration(Duration::from_secs(60)),
        }
    }
}

/// What a containment does first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Containment {
    /// Retires the outgoing value as soon as consumers have the new one, at the latest at the deadline.
    #[default]
    KeepServing,
    /// Retires the outgoing value before consumers are told: an outage is accepted.
    CutNow,
}

/// How the value in force is looked after between rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerifySpec {
    /// How often a running daemon proves by a login that the target accepts it: once in each such period, at a
    /// moment that differs from policy to policy. `0s` for never.
    pub every: Interval,
    /// What follows when the target refuses it.
    pub on_refusal: OnRefusal,
}

impl Default for VerifySpec {
    fn default() -> Self {
        Self {
            every: Interval::from_duration(Duration::from_secs(24 * 3_600)),
            on_refusal: OnRefusal::default(),
        }
    }
}

/// What follows when the target refuses the value in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnRefusal {
    /// Status, log and metrics tell of it, and nothing is changed.
    #[default]
    Report,
    /// They do, and a new value is brought in, unless a freeze holds it back: once a day at most.
    Rotate,
}
