//! The rules of a ClickHouse target.

use super::{
    Breaches, Rule, Way, admin_rules, check_named_hosts, check_rules, field, host_rules, pair_rules,
    tls_rules,
};
use crate::policy::spec::{ClickhouseSpec, ClickhouseStrategy, is_loopback};
use crate::settings::Settings;

pub(super) fn rules(clickhouse: &ClickhouseSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "clickhouse"]);
    if clickhouse.nodes.is_empty() {
        found.add(at.join("nodes"), Rule::NoNode);
    }
    for (index, node) in clickhouse.nodes.iter().enumerate() {
        let at = at.join("nodes").join(index);
        host_rules(&at, &node.host, node.port, found);
        if clickhouse.nodes[..index].contains(node) {
            found.add(at, Rule::NodeTwice(node.to_string()));
        }
    }
    // The way to the node that is farthest away counts.
    let remote = clickhouse.nodes.iter().find(|node| !is_loopback(&node.host));
    let way = remote.map_or(Way::ThisMachine, |node| Way::Remote(&node.host));
    tls_rules(&at.join("tls"), &clickhouse.tls, way, found);
    check_rules(&at, clickhouse.check.as_deref(), found);

    let hosts = clickhouse.nodes.iter().enumerate();
    let hosts = hosts.map(|(index, node)| (at.join("nodes").join(index).join("host"), &*node.host));
    let admin = admin_rules(&at.join("admin"), &clickhouse.admin, hosts, settings, found);
    check_named_hosts(&at.join("admin"), &clickhouse.admin, settings, found);
    let at = at.join("strategy");
    let users = match &clickhouse.strategy {
        ClickhouseStrategy::Alternating(pair) => pair_rules(&at.join("alternating"), pair, admin, found),
        ClickhouseStrategy::DualPassword(one) => vec![(at.join("dualPassword").join("user"), &one.user)],
    };
    for (at, user) in users {
        // Between name and value of a login stands a colon.
        if user.as_str().contains(':') {
            found.add(at.clone(), Rule::UserWithColon(user.clone()));
        }
        if Some(user) == admin {
            found.add(at, Rule::UserIsAdmin { user: user.clone(), admin: clickhouse.admin.clone() });
        }
    }
}
