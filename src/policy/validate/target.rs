//! The rules of a target.

use std::net::IpAddr;

use super::{Breaches, Rule, field};
use crate::ident::{DnsLabel, Principal};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{
    AlternatingSpec, MysqlEndpoint, MysqlSpec, MysqlStrategy, PostgresEndpoint, PostgresSpec,
    PostgresStrategy, TargetSpec, TlsMode, TlsSpec,
};
use crate::settings::{CredentialSource, Settings};

pub(super) fn rules(target: &TargetSpec, settings: &Settings, found: &mut Breaches) {
    match target {
        TargetSpec::Postgres(postgres) => postgres_rules(postgres, settings, found),
        TargetSpec::Mysql(mysql) => mysql_rules(mysql, settings, found),
        TargetSpec::Generated(_) => {}
        #[cfg(feature = "proving")]
        TargetSpec::Simulated(_) => {}
    }
}

fn postgres_rules(postgres: &PostgresSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "postgres"]);
    endpoint_rules(&at.join("endpoint"), &postgres.endpoint, found);
    for (index, endpoint) in postgres.also_verify.iter().enumerate() {
        endpoint_rules(&at.join("alsoVerify").join(index), endpoint, found);
    }
    check_rules(&at, postgres.check.as_deref(), found);
    let admin = admin_rules(&at, &postgres.admin, &postgres.endpoint.host, settings, found);
    let at = at.join("strategy");
    let users = match &postgres.strategy {
        PostgresStrategy::Alternating(pair) => pair_rules(&at.join("alternating"), pair, admin, found),
        PostgresStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), &one.user)],
    };
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

fn mysql_rules(mysql: &MysqlSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "mysql"]);
    mysql_endpoint_rules(&at.join("endpoint"), &mysql.endpoint, found);
    for (index, endpoint) in mysql.also_verify.iter().enumerate() {
        mysql_endpoint_rules(&at.join("alsoVerify").join(index), endpoint, found);
    }
    check_rules(&at, mysql.check.as_deref(), found);
    let admin = admin_rules(&at, &mysql.admin, &mysql.endpoint.host, settings, found);
    if !is_account_host(&mysql.account_host) {
        let host = mysql.account_host.chars().take(64).collect();
        found.add(at.join("accountHost"), Rule::NotAnAccountHost(host));
    }
    let at = at.join("strategy");
    let users = match &mysql.strategy {
        MysqlStrategy::Alternating(pair) => pair_rules(&at.join("alternating"), pair, admin, found),
        MysqlStrategy::DualPassword(one) => vec![(at.join("dualPassword").join("user"), &one.user)],
        MysqlStrategy::InPlace(one) => vec![(at.join("inPlace").join("user"), &one.user)],
    };
    for (at, user) in users {
        let name = user.as_str();
        if name.starts_with("mysql.") || name.starts_with("mariadb.") || name == "PUBLIC" {
            found.add(at.clone(), Rule::ReservedRole(user.clone()));
        }
        if Some(user) == admin {
            found.add(at, Rule::UserIsAdmin { user: user.clone(), admin: mysql.admin.clone() });
        }
    }
}

fn check_rules(at: &FieldPath, check: Option<&str>, found: &mut Breaches) {
    if check.is_some_and(|check| check.trim().is_empty()) {
        found.add(at.join("check"), Rule::Blank);
    }
}

/// The admin's user, where the settings tell it.
fn admin_rules<'a>(
    at: &FieldPath,
    name: &DnsLabel,
    host: &str,
    settings: &'a Settings,
    found: &mut Breaches,
) -> Option<&'a Principal> {
    let Some(admin) = settings.credentials.get(name) else {
        let known = settings.credentials.keys().cloned().collect();
        found.add(at.join("admin"), Rule::UnknownAdmin { name: name.clone(), known });
        return None;
    };
    if !admin.is_for(host) {
        let (admin, host) = (name.clone(), host.chars().take(64).collect());
        found.add(at.join("endpoint").join("host"), Rule::AdminElsewhere { admin, host });
    }
    // The name behind a credential in a store is known to the daemon only when it reads it, and checked there.
    match admin {
        CredentialSource::File(file) => Some(&file.username),
        _ => None,
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

fn endpoint_rules(at: &FieldPath, endpoint: &PostgresEndpoint, found: &mut Breaches) {
    host_rules(at, &endpoint.host, endpoint.port, found);
    found.text(&at.join("database"), &endpoint.database);
    tls_rules(&at.join("tls"), &endpoint.host, endpoint.is_local(), &endpoint.tls, found);
}

fn mysql_endpoint_rules(at: &FieldPath, endpoint: &MysqlEndpoint, found: &mut Breaches) {
    host_rules(at, &endpoint.host, endpoint.port, found);
    if let Some(database) = &endpoint.database {
        found.text(&at.join("database"), database);
    }
    tls_rules(&at.join("tls"), &endpoint.host, endpoint.is_local(), &endpoint.tls, found);
}

fn host_rules(at: &FieldPath, host: &str, port: u16, found: &mut Breaches) {
    if !is_host(host) {
        found.add(at.join("host"), Rule::NotAHost(host.chars().take(64).collect()));
    }
    if port == 0 {
        found.add(at.join("port"), Rule::PortZero);
    }
}

fn tls_rules(at: &FieldPath, host: &str, is_local: bool, tls: &TlsSpec, found: &mut Breaches) {
    if host.starts_with('/') {
        if tls.mode != TlsMode::Disable {
            found.add(at.join("mode"), Rule::TlsOnSocket);
        }
    } else if !is_local {
        match tls.mode {
            TlsMode::Disable if !tls.allow_plaintext => {
                found.add(at.join("mode"), Rule::PlaintextToRemote(host.to_owned()));
            }
            TlsMode::Require => {
                found.add(at.join("mode"), Rule::UncheckedCertificate(host.to_owned()));
            }
            _ => {}
        }
    }
    if tls.ca_file.is_some() && matches!(tls.mode, TlsMode::Disable | TlsMode::Require) {
        found.add(at.join("caFile"), Rule::CaFileUnused(tls.mode));
    }
    if tls.allow_plaintext && (tls.mode != TlsMode::Disable || is_local) {
        found.add(at.join("allowPlaintext"), Rule::AllowPlaintextUnused);
    }
}

/// The host part of an account: a name, an address or a network, with `%` and `_` as wildcards.
fn is_account_host(host: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%' | b':' | b'/');
    (1..=255).contains(&host.len()) && host.bytes().all(byte)
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
    fn account_hosts_cannot_be_anything() {
        for host in ["%", "10.0.0.%", "localhost", "192.168.0.0/255.255.0.0", "db_1.example.com", "::1"] {
            assert!(is_account_host(host), "{host} was refused");
        }
        for host in ["", " ", "'", "a`b", "a\\b", "a b", "é", &"a".repeat(256)] {
            assert!(!is_account_host(host), "{host:?} was taken");
        }
    }

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
