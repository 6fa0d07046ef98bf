//! The rules of a target.

mod aws_iam;
mod clickhouse;
pub(super) mod exec;
pub(in crate::policy) mod http;
mod mysql;
mod rabbitmq;
mod redis;
pub(super) mod service_account;
mod vault;

use std::net::IpAddr;

use super::{Breaches, Rule, field};
use crate::ident::{DnsLabel, Principal};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{
    AlternatingSpec, PostgresEndpoint, PostgresSpec, PostgresStrategy, TargetSpec, TlsMode, TlsSpec,
    is_loopback,
};
use crate::settings::{CredentialSource, Settings};

pub(super) fn rules(target: &TargetSpec, settings: &Settings, found: &mut Breaches) {
    match target {
        TargetSpec::Postgres(postgres) => postgres_rules(postgres, settings, found),
        TargetSpec::Mysql(mysql) => self::mysql::rules(mysql, settings, found),
        TargetSpec::Redis(redis) => self::redis::rules(redis, settings, found),
        TargetSpec::Rabbitmq(rabbitmq) => rabbitmq::rules(rabbitmq, settings, found),
        TargetSpec::Clickhouse(clickhouse) => self::clickhouse::rules(clickhouse, settings, found),
        TargetSpec::Http(http) => self::http::rules(http, found),
        TargetSpec::Vault(vault) => self::vault::rules(vault, settings, found),
        TargetSpec::AwsIam(iam) => self::aws_iam::rules(iam, settings, found),
        TargetSpec::KubernetesServiceAccount(account) => service_account::rules(account, settings, found),
        TargetSpec::Exec(exec) => self::exec::rules(exec, settings, found),
        TargetSpec::Generated(_) => {}
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(_) | TargetSpec::SimulatedKeys(_) => {}
    }
}

/// What rekeyd makes with its own login it would make for whoever names it.
pub(super) fn confined(target: &TargetSpec, found: &mut Breaches) {
    match target {
        TargetSpec::Vault(_) => {
            found.add(field(["spec", "target", "vault"]), Rule::LoginOfResource("secret ids and tokens"));
        }
        TargetSpec::AwsIam(_) => {
            found.add(field(["spec", "target", "awsIam"]), Rule::LoginOfResource("access keys"));
        }
        _ => {}
    }
}

fn postgres_rules(postgres: &PostgresSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "postgres"]);
    endpoint_rules(&at.join("endpoint"), &postgres.endpoint, found);
    for (index, endpoint) in postgres.also_verify.iter().enumerate() {
        endpoint_rules(&at.join("alsoVerify").join(index), endpoint, found);
    }
    check_rules(&at, postgres.check.as_deref(), found);
    let host = (at.join("endpoint").join("host"), &*postgres.endpoint.host);
    let admin = admin_rules(&at.join("admin"), &postgres.admin, [host], settings, found);
    let at = at.join("strategy");
    let users = match &postgres.strategy {
        PostgresStrategy::Alternating(pair) => pair_rules(&at.join("alternating"), pair, admin, found),
        PostgresStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), &one.user)],
    };
    let groups = match &postgres.strategy {
        PostgresStrategy::Alternating(pair) => pair.member_of.as_slice(),
        PostgresStrategy::InPlace(_) => &[],
    };
    let names = groups
        .iter()
        .enumerate()
        .map(|(index, group)| (at.join("alternating").join("memberOf").join(index), group));
    for (at, name) in names.chain(users.iter().map(|(at, user)| (at.clone(), *user))) {
        // It cuts longer ones silently.
        length_rule(&at, name, name.as_str().len() <= 63, "63 bytes", found);
    }
    for (at, user) in users {
        let name = user.as_str();
        if name.starts_with("pg_") || matches!(name, "public" | "none") {
            found.add(at.clone(), Rule::ReservedRole(user.clone()));
        }
        if Some(user) == admin {
            found.add(at, Rule::UserIsAdmin { user: user.clone(), admin: postgres.admin.clone() });
        }
    }
}

fn check_rules(at: &FieldPath, check: Option<&str>, found: &mut Breaches) {
    if check.is_some_and(|check| check.trim().is_empty()) {
        found.add(at.join("check"), Rule::Blank);
    }
}

/// The two users and where they stand.
fn pair_rules<'a>(
    at: &FieldPath,
    pair: &'a AlternatingSpec,
    admin: Option<&Principal>,
    found: &mut Breaches,
) -> Vec<(FieldPath, &'a Principal)> {
    if pair.users[0] == pair.users[1] {
        found.add(at.join("users").join(1), Rule::UsersEqual(pair.users[1].clone()));
    }
    for (index, role) in pair.member_of.iter().enumerate() {
        let at = at.join("memberOf").join(index);
        if pair.users.contains(role) {
            found.add(at.clone(), Rule::MemberOfUser(role.clone()));
        } else if pair.member_of[..index].contains(role) {
            found.add(at.clone(), Rule::MemberOfTwice(role.clone()));
        }
        if Some(role) == admin {
            found.add(at, Rule::MemberOfAdmin(role.clone()));
        }
    }
    vec![(at.join("users").join(0), &pair.users[0]), (at.join("users").join(1), &pair.users[1])]
}

/// A server has its own idea of how long a name may be.
fn length_rule(at: &FieldPath, name: &Principal, fits: bool, most: &'static str, found: &mut Breaches) {
    if !fits {
        found.add(at.clone(), Rule::NameTooLong { name: name.clone(), most });
    }
}

fn endpoint_rules(at: &FieldPath, endpoint: &PostgresEndpoint, found: &mut Breaches) {
    place_rules(at, &endpoint.host, endpoint.port, found);
    found.text(&at.join("database"), &endpoint.database);
    tls_rules(&at.join("tls"), &endpoint.tls, Way::to(&endpoint.host), found);
}

/// A host name, an address or the path of a Unix socket, and a port.
fn place_rules(at: &FieldPath, host: &str, port: u16, found: &mut Breaches) {
    if !is_host(host) {
        found.add(at.join("host"), Rule::NotAHost(host.chars().take(64).collect()));
    }
    port_rule(at, port, found);
}

/// The admin credential exists and is for the hosts that it is used at. The user behind it, where that is known.
pub(super) fn admin_rules<'a>(
    at: &FieldPath,
    admin: &DnsLabel,
    hosts: impl IntoIterator<Item = (FieldPath, &'a str)>,
    settings: &'a Settings,
    found: &mut Breaches,
) -> Option<&'a Principal> {
    let Some(source) = settings.credentials.get(admin) else {
        let known = settings.credentials.keys().cloned().collect();
        found.add(at.clone(), Rule::UnknownAdmin { name: admin.clone(), known });
        return None;
    };
    for (at, host) in hosts {
        if !source.is_for(host) {
            let host = host.chars().take(64).collect();
            found.add(at, Rule::AdminElsewhere { admin: admin.clone(), host });
        }
    }
    // The name behind a credential in a store is known to the daemon only when it reads it, and checked there.
    match source {
        CredentialSource::File(file) => Some(&file.username),
        CredentialSource::Store(_) => None,
    }
}

/// Whoever writes policies chooses the server. Where a login hands over the value itself, the settings have to say
/// where that may be.
pub(super) fn check_named_hosts(at: &FieldPath, admin: &DnsLabel, settings: &Settings, found: &mut Breaches) {
    if settings.credentials.get(admin).is_some_and(|source| source.hosts().is_empty()) {
        found.add(at.clone(), Rule::AdminAnywhere(admin.clone()));
    }
}

/// A host name or address, and a port.
fn host_rules(at: &FieldPath, host: &str, port: u16, found: &mut Breaches) {
    if !is_host(host) || host.starts_with('/') {
        found.add(at.join("host"), Rule::NotAHostName(host.chars().take(64).collect()));
    }
    port_rule(at, port, found);
}

fn port_rule(at: &FieldPath, port: u16, found: &mut Breaches) {
    if port == 0 {
        found.add(at.join("port"), Rule::PortZero);
    }
}

/// Where a connection leads.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    Socket,
    ThisMachine,
    Remote(&'a str),
}

impl<'a> Way<'a> {
    fn to(host: &'a str) -> Self {
        match host {
            host if host.starts_with('/') => Self::Socket,
            host if is_loopback(host) => Self::ThisMachine,
            host => Self::Remote(host),
        }
    }
}

fn tls_rules(at: &FieldPath, tls: &TlsSpec, way: Way<'_>, found: &mut Breaches) {
    match (way, tls.mode) {
        (Way::Socket, TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull) => {
            found.add(at.join("mode"), Rule::TlsOnSocket);
        }
        (Way::Remote(host), TlsMode::Disable) if !tls.allow_plaintext => {
            found.add(at.join("mode"), Rule::PlaintextToRemote(host.to_owned()));
        }
        (Way::Remote(host), TlsMode::Require) => {
            found.add(at.join("mode"), Rule::UncheckedCertificate(host.to_owned()));
        }
        _ => {}
    }
    if tls.ca_file.is_some() && matches!(tls.mode, TlsMode::Disable | TlsMode::Require) {
        found.add(at.join("caFile"), Rule::CaFileUnused(tls.mode));
    }
    if tls.allow_plaintext && (tls.mode != TlsMode::Disable || !matches!(way, Way::Remote(_))) {
        found.add(at.join("allowPlaintext"), Rule::AllowPlaintextUnused);
    }
}

/// A host name, an address without brackets, or an absolute path.
fn is_host(host: &str) -> bool {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.starts_with('/') {
        !host.chars().any(|char| char.is_control() || char.is_whitespace())
            && !host.split('/').any(|part| part == "..")
    } else {
        host.parse::<IpAddr>().is_ok()
            || ((1..=253).contains(&host.len()) && host.bytes().all(name) && !host.contains(".."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_and_folders() {
        for host in ["db", "db.example.com", "db_1", "10.0.0.1", "::1", "fe80::1", "/run/postgresql"] {
            assert!(is_host(host), "{host} was refused");
        }
        for host in [
            "",
            " ",
            "db:5432",
            "db..example.com",
            "postgres://db",
            "user@db",
            "a b",
            "a\nb",
            "db,db2",
            "[::1]",
            "/run/../tmp",
            "/a b",
            &"a".repeat(254),
        ] {
            assert!(!is_host(host), "{host:?} was taken");
        }
    }
}
