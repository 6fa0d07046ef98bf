//! The rules of a MariaDB or MySQL target.

use super::{
    Breaches, Rule, Way, admin_rules, check_rules, field, length_rule, pair_rules, place_rules, tls_rules,
};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{MysqlEndpoint, MysqlSpec, MysqlStrategy};
use crate::settings::Settings;

pub(super) fn rules(mysql: &MysqlSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "mysql"]);
    endpoint_rules(&at.join("endpoint"), &mysql.endpoint, found);
    for (index, endpoint) in mysql.also_verify.iter().enumerate() {
        endpoint_rules(&at.join("alsoVerify").join(index), endpoint, found);
    }
    check_rules(&at, mysql.check.as_deref(), found);
    let host = (at.join("endpoint").join("host"), &*mysql.endpoint.host);
    let admin = admin_rules(&at.join("admin"), &mysql.admin, [host], settings, found);
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
        // Of MariaDB. MySQL takes 32, and says so: which of them it is shows only there.
        length_rule(&at, user, name.chars().count() <= 80, "80 characters", found);
        if name.starts_with("mysql.") || name.starts_with("mariadb.") || name == "PUBLIC" {
            found.add(at.clone(), Rule::ReservedRole(user.clone()));
        }
        if Some(user) == admin {
            found.add(at, Rule::UserIsAdmin { user: user.clone(), admin: mysql.admin.clone() });
        }
    }
}

fn endpoint_rules(at: &FieldPath, endpoint: &MysqlEndpoint, found: &mut Breaches) {
    place_rules(at, &endpoint.host, endpoint.port, found);
    if let Some(database) = &endpoint.database {
        found.text(&at.join("database"), database);
    }
    tls_rules(&at.join("tls"), &endpoint.tls, Way::to(&endpoint.host), found);
}

/// The host part of an account: a name, an address or a network, with `%` and `_` as wildcards.
fn is_account_host(host: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'%' | b':' | b'/');
    (1..=255).contains(&host.len()) && host.bytes().all(byte)
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
}
