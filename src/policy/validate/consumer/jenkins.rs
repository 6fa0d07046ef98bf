//! The rules of a credential of Jenkins.

use super::super::target::{admin_rules, check_named_hosts};
use super::{Breaches, Rule};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{JenkinsCredential, JenkinsSpec, is_loopback};
use crate::settings::Settings;
use crate::template::Template;

pub(super) fn rules(at: &FieldPath, jenkins: &JenkinsSpec, settings: &Settings, found: &mut Breaches) {
    let host = address_rules(at, jenkins, found);
    let host = host.as_deref().map(|host| (at.join("url"), host));
    admin_rules(&at.join("admin"), &jenkins.admin, host, settings, found);
    check_named_hosts(&at.join("admin"), &jenkins.admin, settings, found);
    if let Some(folder) = &jenkins.folder
        && !jenkins.folders().all(is_part)
    {
        found.add(at.join("folder"), Rule::NotAJenkinsName(folder.chars().take(64).collect()));
    }
    if !is_part(&jenkins.domain) {
        found.add(at.join("domain"), Rule::NotAJenkinsName(jenkins.domain.chars().take(64).collect()));
    }
    if !is_id(&jenkins.id) {
        found.add(at.join("id"), Rule::NotAJenkinsId(jenkins.id.chars().take(64).collect()));
    }
    let at = at.join("credential");
    match &jenkins.credential {
        JenkinsCredential::UsernamePassword(_) => {}
        JenkinsCredential::SecretText(text) => {
            content_rules(&at.join("secretText").join("content"), &text.content, found);
        }
        JenkinsCredential::File(file) => {
            let at = at.join("file");
            if !is_part(&file.name) {
                found.add(at.join("name"), Rule::NotAJenkinsName(file.name.chars().take(64).collect()));
            }
            content_rules(&at.join("content"), &file.content, found);
        }
    }
}

/// The host, where the address is one.
fn address_rules(at: &FieldPath, jenkins: &JenkinsSpec, found: &mut Breaches) -> Option<String> {
    let at = at.join("url");
    let url = jenkins.address().filter(|url| {
        let has_login = !url.username().is_empty() || url.password().is_some();
        !has_login && url.query().is_none() && url.fragment().is_none()
    });
    // What was written there may be a login: it is not repeated.
    let Some(url) = url else {
        found.add(at, Rule::NotAJenkinsUrl);
        return None;
    };
    let host = jenkins.host()?;
    if url.scheme() == "http" && !is_loopback(&host) {
        found.add(at, Rule::JenkinsWithoutTls(host.chars().take(64).collect()));
    }
    Some(host)
}

fn content_rules(at: &FieldPath, content: &str, found: &mut Breaches) {
    match Template::parse(content) {
        Err(error) => found.add(at.clone(), Rule::Template(error)),
        Ok(template) if !template.uses_value() => found.add(at.clone(), Rule::TemplateWithoutValue),
        Ok(_) => {}
    }
}

/// A part of a path: a folder, a domain, the name of a file. Jenkins takes none of these characters in a name.
fn is_part(name: &str) -> bool {
    let wrong = |c: char| c.is_control() || "?*/\\%!@#$^&|<>[]:;".contains(c);
    (1..=255).contains(&name.len()) && name != "." && name != ".." && !name.contains(wrong)
}

/// As the form of Jenkins takes one.
fn is_id(id: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=255).contains(&id.len()) && id.bytes().all(valid) && id != "." && id != ".."
}
