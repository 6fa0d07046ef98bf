//! A remote's URL, checked before any program sees it.

use std::net::IpAddr;
use std::path::Path;

use reqwest::Url;

use crate::failure::{Failure, FailureClass};
use crate::settings::RemoteSettings;

/// A remote that may be talked to. Holds no secret; prints as it was written.
#[derive(Debug, Clone)]
pub(crate) struct RemoteUrl {
    text: String,
    scheme: Scheme,
}

/// How a remote is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// A path on this machine.
    File,
    Ssh,
    Https,
    /// On loopback only.
    Http,
}

impl Scheme {
    /// As in Git's `protocol.<name>.allow`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Ssh => "ssh",
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

impl RemoteUrl {
    /// `field` is where it stands in the settings.
    ///
    /// # Errors
    /// `Invalid`, with what to write instead. The message never repeats the URL, which may hold what
    /// it should not.
    pub(crate) fn parse(settings: &RemoteSettings, field: &str) -> Result<Self, Failure> {
        let refuse = |reason: &str, remedy: &str| {
            Failure::new(FailureClass::Invalid, format!("use `{field}.url`"), reason)
                .with_remedy(remedy.to_owned())
        };
        let text = settings.url.as_str();
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) || text.is_empty() {
            return Err(refuse("it is empty or holds white space", FORMS));
        }
        let scheme = if text.starts_with('/') {
            Scheme::File
        } else if let Some((scheme, _)) = text.split_once("://") {
            let url = Url::parse(text).map_err(|_| refuse("it is not a URL", FORMS))?;
            if url.password().is_some() {
                return Err(refuse("it holds a password", &format!("put the token in `{field}.tokenFile`")));
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err(refuse("it has a query or a fragment", FORMS));
            }
            let host = url.host_str().unwrap_or_default();
            match scheme {
                "ssh" if is_host(host) && is_user(url.username()) && url.path().len() > 1 => Scheme::Ssh,
                "https" | "http" if !url.username().is_empty() => {
                    let remedy = format!("put the user name in `{field}.username`");
                    return Err(refuse("it holds a user name", &remedy));
                }
                "https" if is_host(host) => Scheme::Https,
                "http" if is_loopback(host) => Scheme::Http,
                "http" => {
                    return Err(refuse("plain http reaches beyond this machine", "use https or ssh"));
                }
                _ => return Err(refuse("its scheme or its host cannot be used", FORMS)),
            }
        } else {
            let (place, path) = text.split_once(':').unwrap_or_default();
            let (user, host) = place.split_once('@').unwrap_or(("", place));
            let valid = is_host(host) && is_user(user) && !path.is_empty() && !path.starts_with([':', '-']);
            if !valid {
                return Err(refuse("it is no URL, no absolute path and not `user@host:path`", FORMS));
            }
            Scheme::Ssh
        };
        check_files(settings, field)?;
        Ok(Self { text: text.to_owned(), scheme })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) const fn scheme(&self) -> Scheme {
        self.scheme
    }
}

const FORMS: &str = "write `https://host/path`, `ssh://user@host/path`, `user@host:path` or an absolute path";

/// ssh reads these two as lists with quoting and `%` tokens of its own; a plain path means one thing.
fn check_files(settings: &RemoteSettings, field: &str) -> Result<(), Failure> {
    let plain = |path: &Path| {
        let byte = |b: u8| b.is_ascii_alphanumeric() || b"/._@+=,:-".contains(&b);
        path.is_absolute() && path.to_str().is_some_and(|text| text.bytes().all(byte))
    };
    let files = [("identityFile", &settings.identity_file), ("knownHostsFile", &settings.known_hosts_file)];
    for (name, path) in files {
        if path.as_deref().is_some_and(|path| !plain(path)) {
            let reason = "it is not absolute, or holds characters that ssh gives a meaning";
            return Err(Failure::new(FailureClass::Invalid, format!("use `{field}.{name}`"), reason)
                .with_remedy("use an absolute path of letters, digits and `/._@+=,:-`"));
        }
    }
    Ok(())
}

/// Names and addresses; nothing that a program could take for an option.
fn is_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) => address.parse::<IpAddr>().is_ok(),
        None => {
            let byte = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_';
            !host.is_empty() && host.bytes().all(byte) && !host.starts_with('-')
        }
    }
}

fn is_user(user: &str) -> bool {
    user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && !user.starts_with('-')
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Scheme, Failure> {
        let settings = serde_json::from_value(serde_json::json!({ "url": url })).expect("settings");
        RemoteUrl::parse(&settings, "ledger.remote").map(|url| url.scheme())
    }

    #[test]
    fn each_form_has_its_scheme() {
        for (url, scheme) in [
            ("/srv/ledger.git", Scheme::File),
            ("https://git.example.com/audit.git", Scheme::Https),
            ("https://git.example.com:8443/audit.git", Scheme::Https),
            ("ssh://git@git.example.com:2222/audit.git", Scheme::Ssh),
            ("git@git.example.com:team/audit.git", Scheme::Ssh),
            ("git.example.com:audit.git", Scheme::Ssh),
            ("http://127.0.0.1:3000/audit.git", Scheme::Http),
            ("http://[::1]:3000/audit.git", Scheme::Http),
        ] {
            assert_eq!(parse(url).ok(), Some(scheme), "{url}");
        }
    }

    #[test]
    fn what_could_leak_or_run_something_is_refused() {
        for url in [
            "",
            "audit.git",
            "../audit.git",
            "ext::sh -c true",
            "ext::sh%20-c%20true",
            "file:///srv/ledger.git",
            "git://git.example.com/audit.git",
            "http://git.example.com/audit.git",
            "http://127.0.0.1.example.com/audit.git",
            "https://rekeyd:hunter2@git.example.com/audit.git",
            "https://ghp_hunter2@git.example.com/audit.git",
            "https://git.example.com/audit.git?token=hunter2",
            "ssh://-oProxyCommand=x/audit.git",
            "ssh://-oProxyCommand@host/audit.git",
            "ssh://git:hunter2@host/audit.git",
            "-oProxyCommand=x:audit.git",
            "git@-host:audit.git",
            "git@host:-audit.git",
            "git@host;x:audit.git",
            "https://host/audit.git\nx",
        ] {
            let failure = parse(url).expect_err(url);
            assert!(!failure.to_string().contains("hunter2"), "{failure}");
            assert!(failure.remedy().is_some(), "{url}");
        }
    }

    #[test]
    fn files_for_ssh_are_plain_paths() {
        for file in ["relative", "/with space", "/with%h", "/with\"quote"] {
            let settings = serde_json::json!({ "url": "git@host:a.git", "identityFile": file });
            let settings = serde_json::from_value(settings).expect("settings");
            assert!(RemoteUrl::parse(&settings, "ledger.remote").is_err(), "{file} was taken");
        }
    }
}
