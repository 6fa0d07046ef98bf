//! What only one policy may have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{Rule, field};
use crate::ident::{DnsLabel, ObjectName, PolicyName, Principal, StorePath};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{
    ConsumerSpec, PostgresEndpoint, PostgresSpec, PostgresStrategy, RabbitmqSpec, RedisSpec, Spec,
    TargetSpec, is_loopback,
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
}

/// What a policy claims, and with which field.
pub(crate) fn claims(name: &PolicyName, spec: &Spec, settings: &Settings) -> Vec<(FieldPath, Claim)> {
    let mut claims = vec![(field(["metadata", "name"]), Claim::Name(name.clone()))];
    let store = settings.store_identity(&spec.store.name);
    claims
        .push((field(["spec", "store", "path"]), Claim::StorePath { store, path: spec.store.path.clone() }));
    match &spec.target {
        TargetSpec::Postgres(postgres) => claims.extend(users(postgres)),
        TargetSpec::Redis(redis) => claims.extend(users_of_nodes(redis)),
        TargetSpec::Rabbitmq(rabbitmq) => claims.extend(users_of_broker(rabbitmq)),
        TargetSpec::Generated(_) => {}
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(_) => {}
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
        }
    }
}

fn users(postgres: &PostgresSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "postgres", "strategy"]);
    let server = server(&postgres.endpoint);
    let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
    match &postgres.strategy {
        PostgresStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), claim(&one.user))],
        PostgresStrategy::Alternating(pair) => {
            let at = at.join("alternating").join("users");
            let mut claims = vec![(at.join(0), claim(&pair.users[0]))];
            // Equal users are a mistake of their own, and reported as that.
            if pair.users[0] != pair.users[1] {
                claims.push((at.join(1), claim(&pair.users[1])));
            }
            claims
        }
    }
}

fn users_of_broker(rabbitmq: &RabbitmqSpec) -> Vec<(FieldPath, Claim)> {
    let at = field(["spec", "target", "rabbitmq", "strategy", "alternating", "users"]);
    let server = place(&rabbitmq.endpoint.host, rabbitmq.endpoint.port);
    let users = rabbitmq.users();
    let claim = |user: &Principal| Claim::User { server: server.clone(), user: user.clone() };
    let mut claims = vec![(at.join(0), claim(&users[0]))];
    // Equal users are a mistake of their own, and reported as that.
    if users[0] != users[1] {
        claims.push((at.join(1), claim(&users[1])));
    }
    claims
}

/// The user of each node is one of its own.
fn users_of_nodes(redis: &RedisSpec) -> impl Iterator<Item = (FieldPath, Claim)> {
    let at = field(["spec", "target", "redis", "strategy", "dualPassword", "user"]);
    // A node that stands there twice is a mistake of its own, and reported as that.
    let servers: BTreeSet<String> = redis.nodes.iter().map(|node| place(&node.host, node.port)).collect();
    servers.into_iter().map(move |server| (at.clone(), Claim::User { server, user: redis.user().clone() }))
}

/// One text for all the ways to write a server.
fn server(endpoint: &PostgresEndpoint) -> String {
    place(&endpoint.host, endpoint.port)
}

fn place(host: &str, port: u16) -> String {
    let host = match host {
        host if is_loopback(host) => "localhost".to_owned(),
        host if host.starts_with('/') => match host.trim_end_matches('/') {
            // Where servers of this machine have their sockets, unless told otherwise.
            "/run/postgresql" | "/var/run/postgresql" | "/tmp" => "localhost".to_owned(),
            other => other.to_owned(),
        },
        host => match host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
        },
    };
    format!("{host}:{port}")
}
