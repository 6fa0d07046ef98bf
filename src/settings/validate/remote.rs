//! The rules of a remote.

use std::path::Path;

use url::Url;

use super::{Breaches, Rule};
use crate::policy::shape::FieldPath;
use crate::policy::spec::is_loopback;
use crate::settings::RemoteSettings;

/// How a remote is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http,
    Ssh,
    Local,
}

pub(super) fn rules(at: &FieldPath, remote: &RemoteSettings, found: &mut Breaches) {
    let transport = match transport(&remote.url) {
        Ok(transport) => transport,
        Err(rule) => return found.add(at.join("url"), rule),
    };
    for (name, is_set, belongs_to, kind) in [
        ("tokenFile", remote.token_file.is_some(), Transport::Http, "https"),
        ("caFile", remote.ca_file.is_some(), Transport::Http, "https"),
        ("identityFile", remote.identity_file.is_some(), Transport::Ssh, "ssh"),
        ("knownHostsFile", remote.known_hosts_file.is_some(), Transport::Ssh, "ssh"),
    ] {
        if is_set && transport != belongs_to {
            found.add(at.join(name), Rule::RemoteOptionUnused { kind });
        }
    }
    if transport == Transport::Http {
        found.text(&at.join("username"), &remote.username);
    }
}

fn transport(remote: &str) -> Result<Transport, Rule> {
    if remote.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err(Rule::NotARemote);
    }
    if !remote.contains("://") {
        return short_form(remote);
    }
    let url = Url::parse(remote).map_err(|_| Rule::NotARemote)?;
    let host = url.host_str().unwrap_or_default();
    let has_user = !url.username().is_empty();
    // A token is often put where the name belongs.
    if url.password().is_some() || (has_user && url.scheme() != "ssh") {
        return Err(Rule::CredentialsInUrl);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Rule::NotARemote);
    }
    match url.scheme() {
        "file" => Ok(Transport::Local),
        _ if host.is_empty() => Err(Rule::NotARemote),
        "https" => Ok(Transport::Http),
        "http" if is_loopback(host) => Ok(Transport::Http),
        "ssh" => Ok(Transport::Ssh),
        scheme @ ("http" | "git" | "ftp") => Err(Rule::UnprotectedRemote(scheme.to_owned())),
        _ => Err(Rule::NotARemote),
    }
}

/// A path, or scp's `user@host:path`.
fn short_form(remote: &str) -> Result<Transport, Rule> {
    if Path::new(remote).is_absolute() {
        return Ok(Transport::Local);
    }
    let (login, rest) = remote.split_once('@').ok_or(Rule::NotARemote)?;
    if login.contains(':') {
        return Err(Rule::CredentialsInUrl);
    }
    match rest.split_once(':') {
        Some((host, path)) if !login.is_empty() && !host.is_empty() && !path.is_empty() => Ok(Transport::Ssh),
        _ => Err(Rule::NotARemote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_remote_is_known() {
        for (remote, expected) in [
            ("https://git.example.com/audit.git", Transport::Http),
            ("http://127.0.0.1:3000/audit.git", Transport::Http),
            ("ssh://git@git.example.com:22/audit.git", Transport::Ssh),
            ("git@git.example.com:team/audit.git", Transport::Ssh),
            ("/srv/git/audit.git", Transport::Local),
            ("file:///srv/git/audit.git", Transport::Local),
        ] {
            assert_eq!(transport(remote), Ok(expected), "{remote}");
        }
    }

    #[test]
    fn remotes_with_credentials_or_without_protection_are_refused() {
        for remote in [
            "https://me:hunter2@git.example.com/a.git",
            "https://ghp_token@git.example.com/a.git",
            "ssh://git:hunter2@git.example.com/a.git",
            "git:hunter2@git.example.com:a.git",
        ] {
            assert_eq!(transport(remote), Err(Rule::CredentialsInUrl), "{remote}");
        }
        for remote in ["http://git.example.com/a.git", "git://git.example.com/a.git"] {
            assert!(matches!(transport(remote), Err(Rule::UnprotectedRemote(_))), "{remote}");
        }
        for remote in [
            "",
            "a.git",
            "../a.git",
            "git.example.com",
            "https://",
            "https://h/a?token=x",
            "@h:p",
            "u@h",
            "u@h:",
            "svn://h/a",
            "a b",
        ] {
            assert_eq!(transport(remote), Err(Rule::NotARemote), "{remote:?}");
        }
    }
}
