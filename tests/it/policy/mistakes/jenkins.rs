//! What is wrong with a credential of Jenkins.

use rekeyd::policy::load::parse_policies;

use super::{changed, now, sample_settings, takes, tells};
use crate::policy::sample;

fn deploy() -> String {
    sample("jenkins.yaml")
}

const AT: &str = "spec.consumers[0].jenkins";

#[test]
fn an_address_that_is_none_or_that_everybody_can_listen_to() {
    for wrong in ["ci.example.com", "ftp://ci.example.com", "https://ci.example.com/?x=y", "https://"] {
        tells(
            &deploy(),
            "url: https://ci.example.com/jenkins",
            &format!("url: «{wrong}"),
            &format!(
                "error: {AT}.url: this is not the address of a server (write `https://host/path`, and the login as `admin`)"
            ),
        );
    }
    tells(
        &deploy(),
        "url: https://ci.example.com/jenkins",
        "url: «http://ci.example.com/jenkins",
        &format!(
            "error: {AT}.url: without TLS, everybody on the way to ci.example.com can read the value (use https)"
        ),
    );
    // One with a login in it is shown to nobody.
    let text = changed(&deploy(), "https://ci.example.com/jenkins", "https://rekeyd:hunter2@ci.example.com/");
    let loaded = parse_policies("p.yaml", &text, &sample_settings(), now());
    let all = format!("{:?}{}", loaded.diagnostics, loaded.diagnostics[0]);
    assert!(loaded.has_errors() && !all.contains("hunter2"), "{all}");
}

#[test]
fn an_admin_that_may_not_be_used_there() {
    tells(
        &deploy(),
        "url: https://ci.example.com/jenkins",
        "url: «https://ci.evil.example.com/jenkins",
        &format!(
            "error: {AT}.url: the settings do not let the admin credential `jenkins-admin` be used at `ci.evil.example.com` (use an admin that is for this host, or have it added to the credential's `hosts`)"
        ),
    );
    tells(
        &deploy(),
        "admin: jenkins-admin",
        "admin: «orders-admin",
        &format!(
            "error: {AT}.admin: a login at this server hands it the value, and the settings let `orders-admin` be used at any (name the hosts that the credential is for, in its `hosts`)"
        ),
    );
}

#[test]
fn names_that_lead_elsewhere() {
    for wrong in ["delivery/..", "delivery//x", "''", "a?b", "delivery/re%2fleases", "a\\b"] {
        let shown = wrong.trim_matches('\'');
        tells(
            &deploy(),
            "folder: delivery/releases",
            &format!("folder: «{wrong}"),
            &format!(
                "error: {AT}.folder: `{shown}` is not a name that Jenkins takes (write it as Jenkins shows it in its own address)"
            ),
        );
    }
    for wrong in ["..", "a/b", "a b", "é"] {
        tells(
            &deploy(),
            "id: deploy-db\n",
            &format!("id: «{wrong}\n"),
            &format!(
                "error: {AT}.id: `{wrong}` is not the id of a credential: use letters, digits, `-`, `_` and `.` (write the credential's id, not its description)"
            ),
        );
    }
    takes(&deploy(), "folder: delivery/releases", "folder: Delivery Team/releases");
    takes(&deploy(), "        folder: delivery/releases\n", "        domain: db.example.com\n");
}

#[test]
fn content_without_the_value() {
    tells(
        &deploy(),
        "          usernamePassword: {}",
        "          secretText: {content: «\"{{ principal }}\"}",
        &format!(
            "warning: {AT}.credential.secretText.content: the template does not use the value (put `{{{{ value }}}}` where the value belongs)"
        ),
    );
    takes(&deploy(), "          usernamePassword: {}", "          secretText: {}");
}
