//! What only one policy may have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{Rule, field};
use crate::ident::{DnsLabel, ObjectName, PolicyName, Principal, StorePath};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{
    AlternatingSpec, ClickhouseSpec, ClickhouseStrategy, ConsumerSpec, ExecSpec, ExecStrategy, MysqlSpec,
    MysqlStrategy, PostgresSpec, PostgresStrategy, RabbitmqSpec, RedisSpec, Spec, TargetSpec, VaultSpec,
    VaultStrategy, is_loopback,
};
use crate::settings::Settings;

/// Something that belongs to one policy alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    Name(PolicyName),
    StorePath {
        store: String,
        path: StorePath,
    },
    User {
        server: String,
        user: Principal,
    },
    /// Paths that differ in doubled separators or in `.` are equal.
    File(PathBuf),
    Secret {
        cluster: DnsLabel,
        namespace: String,
        name: ObjectName,
    },
    Jenkins {
        /// One text for all the ways to write it.
        place: String,
        id: String,
    },
    Place {
        /// One text for all the ways to write it.
        place: String,
        name: String,
    },
}

/// What a policy claims, and with which field.
pub(crate) fn claims(name: &PolicyName, spec: &Spec, settings: &Settings) -> Vec<(FieldPath, Claim)> {
    let mut claims = vec![(field(["metadata", "name"]), Claim::Name(name.clone()))];
    let store = settings.store_identity(&spec.store.name);
    claims
        .push((field(["spec", "store", "path"]), Claim::StorePath { store, path: spec.store.path.clone() }));
    match &spec.target {
        TargetSpec::Postgres(postgres) => claims.extend(users(postgres)),
        TargetSpec::Mysql(mysql) => claims.extend(accounts(mysql)),
        TargetSpec::Redis(redis) => claims.extend(users_of_nodes(redis)),
        TargetSpec::Rabbitmq(rabbitmq) => claims.extend(users_of_broker(rabbitmq)),
        TargetSpec::Clickhouse(clickhouse) => claims.extend(users_of_clickhouse(clickhouse)),
        TargetSpec::Http(http) => {
            let server = format!("{} of recipe {}", http.server(), http.recipe);
            let claim = Claim::User { server, user: http.owner.clone() };
            claims.push((field(["spec", "target", "http", "owner"]), claim));
        }
        TargetSpec::Vault(vault) => claims.push(login_of_vault(vault, settings)),
        TargetSpec::AwsIam(iam) => {
            let server = settings.server_identity(&iam.store);
            let user = iam.user.clone();
            claims.push((field(["spec", "target", "awsIam", "user"]), Claim::User { server, user }));
        }
        TargetSpec::KubernetesServiceAccount(account) => {
            let namespace = account.namespace.as_ref().map_or(name.namespace(), DnsLabel::as_str);
            let server = format!("cluster {} namespace {namespace}", account.cluster);
            let at = field(["spec", "target", "kubernetesServiceAccount", "serviceAccount"]);
            claims.push((at, Claim::User { server, user: account.service_account.clone() }));
        }
        TargetSpec::Exec(exec) => claims.extend(principals_of_program(exec)),
        TargetSpec::Generated(_) => {}
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(_) | TargetSpec::SimulatedKeys(_) => {}
    }
    for (index, consumer) in spec.consumers.iter().enumerate() {
        let at = field(["spec", "consumers"]).join(index);
        claims.push(match consumer {
            ConsumerSpec::File(file) => (at.join("file").join("path"), Claim::File(file.path.clone())),
            ConsumerSpec::Kubernetes(kubernetes) => {
                let namespace = kubernetes.namespace.as_ref().map_or(name.namespace(), DnsLabel::as_str);
                let claim = Claim::Secret {
                    cluster: kubernetes.cluster.clone(),
                    namespace: namespace.to_owned(),
                    name: kubernetes.secret.clone(),
                };
                (at.join("kubernetes").join("secret"), claim)
            }
            ConsumerSpec::Jenkins(jenkins) => {
                let claim = Claim::Jenkins { place: jenkins.place(), id: jenkins.id.clone() };
                (at.join("jenkins").join("id"), claim)
            }
            ConsumerSpec::Vault(copy) => {
                let store = settings.copy_identity(&copy.store, copy.mount.as_ref());
                (at.join("vault").join("path"), Claim::StorePath { store, path: copy.path.clone() })
            }
            ConsumerSpec::AwsSecretsManager(copy) => {
                let store = settings.store_identity(&copy.store);
                let at = at.join("awsSecretsManager").join("name");
                (at, Claim::StorePath { store, path: copy.name.clone() })
            }
            ConsumerSpec::Http(http) => {
                (at.join("http"), Claim::Place { place: http.place(), name: http.name() })
            }
        });
    }
    claims
}

impl Claim {
    /// The rule that a second one breaks, where the first one is of `policy` at `other`.
    pub(crate) fn taken(&self, policy: &PolicyName, other: String) -> Rule {
        let policy = policy.clone();
        match self {
            Self::Name(name) => Rule::NameTaken { name: name.clone(), other },
            Self::StorePath { path, .. } => Rule::StorePathTaken { path: path.clone(), policy, other },
            Self::User { server, user } => {
                Rule::UserTaken { user: user.clone(), server: server.clone(), policy, other }
            }
            Self::File(path) => Rule::FileTaken { path: path.clone(), policy, other },
            Self::Secret { namespace, name, .. } => {
                Rule::SecretTaken { secret: format!("{namespace}/{name}"), policy, other }
            }
            Self::Jenkins { id, .. } => Rule::JenkinsTaken { id: id.clone(), policy, other },
            Self::Place { name, .. } => Rule::PlaceTaken { place: name.clone(), policy, other },
        }
    }
}

fn users(postgres: &PostgresSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "postgres", "strategy"]);
    let endpoint = &postgres.endpoint;
    // Where servers of this machine have their sockets, unless told otherwise.
    let usual = ["/run/postgresql", "/var/run/postgresql", "/tmp"];
    let server = server(&endpoint.host, endpoint.port, usual.contains(&endpoint.host.trim_end_matches('/')));
    let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
    match &postgres.strategy {
        PostgresStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), claim(&one.user))],
        PostgresStrategy::Alternating(pair) => pair_claims(&at, pair, claim),
    }
}

/// A user is one, whatever hosts it has accounts for: its sessions cannot be told apart by them.
fn accounts(mysql: &MysqlSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "mysql", "strategy"]);
    let endpoint = &mysql.endpoint;
    // Where servers of this machine have their sockets, unless told otherwise.
    let usual = ["/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/tmp/mysql.sock"];
    let server = server(&endpoint.host, endpoint.port, usual.contains(&&*endpoint.host));
    let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
    match &mysql.strategy {
        MysqlStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), claim(&one.user))],
        MysqlStrategy::DualPassword(one) => vec![(at.join("dualPassword").join("user"), claim(&one.user))],
        MysqlStrategy::Alternating(pair) => pair_claims(&at, pair, claim),
    }
}

fn pair_claims(
    at: &FieldPath,
    pair: &AlternatingSpec,
    claim: impl Fn(&Principal) -> Claim,
) -> Vec<(FieldPath, Claim)> {
    let at = at.join("alternating").join("users");
    let mut claims = vec![(at.join(0), claim(&pair.users[0]))];
    // Equal users are a mistake of their own, and reported as that.
    if pair.users[0] != pair.users[1] {
        claims.push((at.join(1), claim(&pair.users[1])));
    }
    claims
}

fn users_of_broker(rabbitmq: &RabbitmqSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "rabbitmq", "strategy", "alternating", "users"]);
    let server = server(&rabbitmq.endpoint.host, rabbitmq.endpoint.port, false);
    let users = rabbitmq.users();
    let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
    let mut claims = vec![(at.join(0), claim(&users[0]))];
    // Equal users are a mistake of their own, and reported as that.
    if users[0] != users[1] {
        claims.push((at.join(1), claim(&users[1])));
    }
    claims
}

/// What a program is told of its system makes the system: another text for it is another one.
fn principals_of_program(exec: &ExecSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "exec", "strategy"]);
    let config = exec.config.iter().map(|(key, value)| format!(" {key}={value}")).collect::<String>();
    let server = format!("{}{config}", exec.program.display());
    let claim = |principal: &Principal| Claim::User { server: server.clone(), user: principal.clone() };
    match &exec.strategy {
        ExecStrategy::Alternating(pair) => {
            let at = at.join("alternating").join("users");
            let mut claims = vec![(at.join(0), claim(&pair.users[0]))];
            // Equal users are a mistake of their own, and reported as that.
            if pair.users[0] != pair.users[1] {
                claims.push((at.join(1), claim(&pair.users[1])));
            }
            claims
        }
        ExecStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), claim(&one.user))],
        ExecStrategy::DualPassword(one) => vec![(at.join("dualPassword").join("user"), claim(&one.user))],
        ExecStrategy::DualKey(key) => vec![(at.join("dualKey").join("owner"), claim(&key.owner))],
        ExecStrategy::Reissued(key) => vec![(at.join("reissued").join("owner"), claim(&key.owner))],
    }
}

/// The owner of what is made, at the server behind the store.
fn login_of_vault(vault: &VaultSpec, settings: &Settings) -> (FieldPath, Claim) {
    let at = field(["spec", "target", "vault", "strategy"]);
    let server = settings.server_identity(&vault.store);
    match &vault.strategy {
        VaultStrategy::SecretId(secret) => {
            let server = format!("{server} auth/{}", secret.mount);
            (at.join("secretId").join("role"), Claim::User { server, user: secret.role.clone() })
        }
        VaultStrategy::Token(token) => {
            let server = format!("{server} auth/token");
            (at.join("token").join("name"), Claim::User { server, user: token.name.clone() })
        }
    }
}

/// The user of each node is one of its own.
fn users_of_nodes(redis: &RedisSpec) -> impl Iterator<Item = (FieldPath, Claim)> {
    let at = field(["spec", "target", "redis", "strategy", "dualPassword", "user"]);
    // A node that stands there twice is a mistake of its own, and reported as that.
    let servers: BTreeSet<String> =
        redis.nodes.iter().map(|node| server(&node.host, node.port, false)).collect();
    servers.into_iter().map(move |server| (at.clone(), Claim::User { server, user: redis.user().clone() }))
}

/// Whether nodes have their users in common is theirs to know: each user of each node is claimed.
fn users_of_clickhouse(clickhouse: &ClickhouseSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "clickhouse", "strategy"]);
    let servers: BTreeSet<String> =
        clickhouse.nodes.iter().map(|node| server(&node.host, node.port, false)).collect();
    let claims = servers.into_iter().flat_map(|server| {
        let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
        match &clickhouse.strategy {
            ClickhouseStrategy::Alternating(pair) => pair_claims(&at, pair, claim),
            ClickhouseStrategy::DualPassword(one) => {
                vec![(at.join("dualPassword").join("user"), claim(&one.user))]
            }
        }
    });
    claims.collect()
}

/// One text for all the ways to write a server.
fn server(host: &str, port: u16, is_usual_socket: bool) -> String {
    let host = match host {
        host if is_loopback(host) || is_usual_socket => "localhost".to_owned(),
        host if host.starts_with('/') => host.trim_end_matches('/').to_owned(),
        host => match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
        },
    };
    format!("{host}:{port}")
}
