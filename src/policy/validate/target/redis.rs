//! The rules of a Redis target.

use super::{Breaches, Rule, Way, admin_rules, check_named_hosts, field, host_rules, tls_rules};
use crate::policy::spec::{RedisSpec, is_loopback};
use crate::settings::Settings;

pub(super) fn rules(redis: &RedisSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "redis"]);
    if redis.nodes.is_empty() {
        found.add(at.join("nodes"), Rule::NoNode);
    }
    for (index, node) in redis.nodes.iter().enumerate() {
        let at = at.join("nodes").join(index);
        host_rules(&at, &node.host, node.port, found);
        if redis.nodes[..index].contains(node) {
            found.add(at, Rule::NodeTwice(node.to_string()));
        }
    }
    // The way to the node that is farthest away counts.
    let remote = redis.nodes.iter().find(|node| !is_loopback(&node.host));
    let way = remote.map_or(Way::ThisMachine, |node| Way::Remote(&node.host));
    tls_rules(&at.join("tls"), &redis.tls, way, found);

    let hosts = redis.nodes.iter().enumerate();
    let hosts = hosts.map(|(index, node)| (at.join("nodes").join(index).join("host"), &*node.host));
    let admin = admin_rules(&at.join("admin"), &redis.admin, hosts, settings, found);
    check_named_hosts(&at.join("admin"), &redis.admin, settings, found);
    let user = redis.user();
    let at_user = at.join("strategy").join("dualPassword").join("user");
    if Some(user) == admin {
        found.add(at_user.clone(), Rule::UserIsAdmin { user: user.clone(), admin: redis.admin.clone() });
    }
    if user.as_str().contains(char::is_whitespace) {
        found.add(at_user.clone(), Rule::UserWithSpace(user.clone()));
    }
    // A node lists connections that have not logged in as its sessions: they would be waited for, and ended.
    if user.as_str() == "default" {
        found.add(at_user, Rule::UserOfEverybody);
    }
    for (index, word) in redis.check.iter().enumerate() {
        found.text(&at.join("check").join(index), word);
    }
}
