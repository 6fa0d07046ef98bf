//! The rules of a RabbitMQ target.

use super::{Breaches, Rule, Way, admin_rules, check_named_hosts, field, host_rules, tls_rules};
use crate::policy::spec::{RabbitmqSpec, is_loopback};
use crate::settings::Settings;

pub(super) fn rules(rabbitmq: &RabbitmqSpec, settings: &Settings, found: &mut Breaches) {
    let at = field(["spec", "target", "rabbitmq"]);
    let endpoint = &rabbitmq.endpoint;
    let at_endpoint = at.join("endpoint");
    host_rules(&at_endpoint, &endpoint.host, endpoint.port, found);
    let way = if is_loopback(&endpoint.host) { Way::ThisMachine } else { Way::Remote(&endpoint.host) };
    tls_rules(&at_endpoint.join("tls"), &endpoint.tls, way, found);

    let host = (at_endpoint.join("host"), &*endpoint.host);
    let admin = admin_rules(&at.join("admin"), &rabbitmq.admin, [host], settings, found);
    check_named_hosts(&at.join("admin"), &rabbitmq.admin, settings, found);
    let at = at.join("strategy").join("alternating").join("users");
    let users = rabbitmq.users();
    if users[0] == users[1] {
        found.add(at.join(1), Rule::UsersEqual(users[1].clone()));
    }
    for (index, user) in users.iter().enumerate() {
        if Some(user) == admin {
            let rule = Rule::UserIsAdmin { user: user.clone(), admin: rabbitmq.admin.clone() };
            found.add(at.join(index), rule);
        }
    }
}
