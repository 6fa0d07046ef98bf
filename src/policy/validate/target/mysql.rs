//! The rules of a MariaDB or MySQL target.

use std::net::{Ipv4Addr, Ipv6Addr};

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

/// The host part of an account: a name or an address, with `%` and `_` as wildcards; or a network of IPv4, with a mask
/// or, for MySQL since 8.0.23, its length. Servers take any text, and let nobody in whom it does not fit.
fn is_account_host(host: &str) -> bool {
    if !(1..=255).contains(&host.len()) || host.contains("%%") {
        return false;
    }
    if let Some((address, mask)) = host.split_once('/') {
        return is_network(address, mask);
    }
    let is_pattern = host.contains(['%', '_']);
    if host.contains(':') {
        let byte = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%' | b'_');
        return host.bytes().all(byte) && (is_pattern || host.parse::<Ipv6Addr>().is_ok());
    }
    let byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'%');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(byte);
    let is_address = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.split('.').all(is_label) && (!is_address || host.parse::<Ipv4Addr>().is_ok())
}

/// Servers compare the address with what the mask leaves of a client's: no other bit may be set in it.
fn is_network(address: &str, mask: &str) -> bool {
    let Ok(address) = address.parse::<Ipv4Addr>() else { return false };
    let mask = match (mask.parse::<Ipv4Addr>(), mask.parse::<u32>()) {
        (Ok(mask), _) => mask.to_bits(),
        (_, Ok(length @ 0..=32)) => u32::MAX.checked_shl(32 - length).unwrap_or(0),
        _ => return false,
    };
    mask.leading_ones() + mask.trailing_zeros() == 32 && address.to_bits() & !mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_hosts_cannot_be_anything() {
        let networks = ["192.168.0.0/255.255.0.0", "10.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "10.16.0.0/12"];
        let patterns = ["%", "10.0.0.%", "10.0.0._", "%.example.com", "app-%", "fe80::%"];
        let names = ["localhost", "db_1.example.com", "10.0.0.7", "::1"];
        for host in networks.iter().chain(&patterns).chain(&names) {
            assert!(is_account_host(host), "{host} was refused");
        }
        for host in [
            "",
            " ",
            "'",
            "a`b",
            "a\\b",
            "a b",
            "é",
            &"a".repeat(256),
            "%%",
            "10.%%",
            "a..b",
            ".a",
            "10.0.0.",
            "300.1.1.1",
            "1.2.3",
            "a:b",
            "::1::",
            "10.0.0.0/33",
            "10.0.0.0/",
            "/8",
            "10.0.0.1/8",
            "10.0.0.1/255.0.0.0",
            "10.0.0.0/255.0.255.0",
            "10.%/8",
            "a/8",
            "::/64",
            "10.0.0.0/8/8",
        ] {
            assert!(!is_account_host(host), "{host:?} was taken");
        }
    }
}
