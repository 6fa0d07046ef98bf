//! Where requests go: one reading of addresses, for those who check them and for the one who sends.
//!
//! What a URL is taken for by lenient readers is more than what it looks like: `https:/host`, `HTTPS:\\host` and
//! `//host` lead somewhere, too. Here an address is one that leaves no choice, and anything else is none.

use std::fmt;

use url::Url;

use crate::policy::spec::is_loopback;

/// What requests go to: two of them are the same where scheme, host and port are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// With the brackets of an address of version 6.
    host: String,
    port: u16,
    is_tls: bool,
}

impl Server {
    /// The server of an address of which all but the server may be a template; `None` of anything that is no address in
    /// full.
    pub(crate) fn of(address: &str) -> Option<Self> {
        let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"))?;
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        // No login, no template, nothing escaped, and a name as DNS has it.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(is_plain) {
            return None;
        }
        let scheme = &address[..address.len() - rest.len()];
        Self::at(&Url::parse(&format!("{scheme}{authority}/")).ok()?)
    }

    fn at(url: &Url) -> Option<Self> {
        let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
        Some(Self { host, port, is_tls: url.scheme() == "https" })
    }

    /// Without brackets.
    pub(crate) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether nobody on the way can read what is sent: by TLS, or to this machine.
    pub(crate) fn is_private(&self) -> bool {
        self.is_tls || is_loopback(&self.host)
    }
}

/// With its port where that is not the usual one.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.is_tls && self.port == 443 { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Whether requests can go there: TLS, or this machine, without a login, a query or a fragment.
pub(crate) fn is_base(base: &str) -> bool {
    Server::of(base).is_some_and(|server| server.is_private())
        && !base.contains(['?', '#', '{', '}'])
        && leads_on(base)
}

/// Whether a request can have this path: one below the base, or an address whose server is no template.
pub(crate) fn is_path(template: &str) -> bool {
    let is_below = template.starts_with('/');
    let is_there = is_below || Server::of(template).is_some_and(|server| server.is_private());
    is_there && leads_on(&literal(template))
}

/// Where a request goes whose path is `template` and, with everything filled in, `path`.
///
/// # Errors
/// When that is nowhere, or not where the template leads to, in words.
pub(crate) fn destination(base: Option<&str>, template: &str, path: &str) -> Result<Url, &'static str> {
    // What is filled in is escaped, and dots lead elsewhere all the same.
    if !leads_on(path) {
        return Err("its path leads elsewhere");
    }
    let (server, text) = if template.starts_with('/') && path.starts_with('/') {
        let base = base.ok_or("nothing says where requests go")?;
        if !leads_on(base) {
            return Err("its address is none");
        }
        (Server::of(base), format!("{}{path}", base.trim_end_matches('/')))
    } else {
        (Server::of(template), path.to_owned())
    };
    let server = server.ok_or("its address is none")?;
    let url = Url::parse(&text).map_err(|_| "its address is none")?;
    if Server::at(&url).as_ref() != Some(&server) || !url.username().is_empty() || url.password().is_some() {
        return Err("its address is not the one that was looked at");
    }
    if server.is_private() { Ok(url) } else { Err("it would be sent without TLS") }
}

/// Whether a path, or an address, says what it means: nothing in it is read as something else, or left out.
fn leads_on(address: &str) -> bool {
    let is_odd = |c: char| c == '\\' || c.is_control() || c.is_whitespace();
    if address.contains(is_odd) || address.starts_with("//") {
        return false;
    }
    let path = address.split(['?', '#']).next().unwrap_or_default();
    !path.split('/').any(|part| matches!(&*part.to_ascii_lowercase().replace("%2e", "."), "." | ".."))
}

/// What a template says itself, with a letter in the place of what is filled in.
fn literal(template: &str) -> String {
    let (mut text, mut rest) = (String::new(), template);
    while let Some(from) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        text.push_str(&rest[..from]);
        text.push('x');
        let end = match rest.as_bytes()[from + 1] {
            b'{' => "}}",
            b'%' => "%}",
            _ => "#}",
        };
        rest = rest[from..].find(end).map_or("", |at| &rest[from + at + 2..]);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &str) -> Option<String> {
        Server::of(address).map(|server| server.to_string())
    }

    #[test]
    fn one_server_has_one_name() {
        for (address, server) in [
            ("https://api.example.com", "api.example.com"),
            ("https://API.example.COM:443/v1", "api.example.com"),
            ("https://api.example.com:/v1", "api.example.com"),
            ("https://api.example.com:8443?a=b", "api.example.com:8443"),
            ("https://api.example.com:80", "api.example.com:80"),
            ("https://xn--bcher-kva.example/{{ id }}", "xn--bcher-kva.example"),
            ("https://[0:0::1]/", "[::1]"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://2130706433:80/", "127.0.0.1:80"),
            ("http://0x7f.1:7792/", "127.0.0.1:7792"),
        ] {
            assert_eq!(told(address).as_deref(), Some(server), "{address}");
        }
        // What answers for the one may be somebody else's than what answers for the other.
        assert_ne!(told("https://api.example.com"), told("https://api.example.com."));
        assert_ne!(Server::of("https://localhost:7792"), Server::of("http://localhost:7792"));
        assert_ne!(told("https://localhost"), told("http://localhost"));
        assert_eq!(Server::of("https://[::1]:7792").expect("a server").host(), "::1");
    }

    /// Readers of URLs take all of these for an address of `evil.example.com`, or leave a choice.
    #[test]
    fn what_only_lenient_readers_take_for_an_address_is_none() {
        for address in ODD {
            assert_eq!(told(address), None, "{address:?}");
            assert!(!is_base(address), "{address:?}");
            assert!(!is_path(address), "{address:?}");
            for base in [None, Some(*address)] {
                assert!(destination(base, address, address).is_err(), "{address:?}");
                assert!(destination(Some(address), "/v1", "/v1").is_err(), "{address:?}");
            }
        }
        // The checks would be for nothing if nobody did.
        let read = ODD.iter().filter(|odd| Url::parse(odd).is_ok_and(|url| url.host().is_some())).count();
        assert!(read > 15, "{read}");
    }

    const ODD: &[&str] = &[
        "https:/evil.example.com/v1",
        "https:evil.example.com/v1",
        "https:\\\\evil.example.com/v1",
        "https:/\\evil.example.com/v1",
        "https:///evil.example.com/v1",
        "https://\\evil.example.com/v1",
        "HTTPS://evil.example.com/v1",
        "HTTP:/127.0.0.1:7792/v1",
        "http:/127.0.0.1:7792/v1",
        "ht\ntps://evil.example.com/v1",
        "https:/\t/evil.example.com/v1",
        " https://evil.example.com/v1",
        "https://evil.example.com\\@api.example.com/v1",
        "https://api.example.com@evil.example.com/v1",
        "https://api.example.com:443@evil.example.com/v1",
        "https://:@evil.example.com/v1",
        "https://%65vil.example.com/v1",
        "https://evil\u{3002}example.com/v1",
        "https://b\u{fc}cher.example/v1",
        "https://{{ owner }}/v1",
        "https://evil.example.com{{ owner }}/v1",
        "https://evil.example.com:{{ owner }}/v1",
        "{{ owner }}://evil.example.com/v1",
        "https://evil.example.com:99999/v1",
        "https://",
        "https://:443/v1",
        "https://[::1/v1",
        "//evil.example.com/v1",
        "\\\\evil.example.com/v1",
        "wss://evil.example.com/v1",
        "file:///etc/passwd",
        "evil.example.com/v1",
        "",
    ];

    #[test]
    fn a_path_leads_on_from_the_base_and_nowhere_else() {
        let base = Some("https://api.example.com/v1/");
        let to = |template: &str, path: &str| destination(base, template, path).map(String::from);
        assert_eq!(
            to("/keys/{{ id }}", "/keys/a%2F..").as_deref(),
            Ok("https://api.example.com/v1/keys/a%2F..")
        );
        let further = "https://login.example.com/{{ id }}/token?a=..";
        assert!(is_path(further));
        assert_eq!(
            to(further, "https://login.example.com/7/token?a=..").as_deref(),
            Ok("https://login.example.com/7/token?a=..")
        );
        for path in [
            "//evil.example.com/keys",
            "/\\evil.example.com/keys",
            "/../keys",
            "/keys/..",
            "/keys/%2e%2E/x",
            "/keys/.%2e/x",
            "/./keys",
            "/../keys?a=://b",
            "/ke\tys",
            "/keys\n",
            "/a b",
            "https://login.example.com/../x",
        ] {
            assert!(!is_path(path), "{path:?}");
            assert!(to(path, path).is_err(), "{path:?}");
        }
        // What a template yields is not what it says: neither a server of its own, nor another one.
        for (template, path) in [
            ("/{{ id }}/keys", "//keys"),
            ("/{{ id }}/keys", "/../keys"),
            ("/{{ id }}", "https://evil.example.com/keys"),
            ("https://login.example.com/{{ id }}", "https://evil.example.com/keys"),
            ("https://login.example.com/{{ id }}", "https://login.example.com.evil.example.com/keys"),
            ("https://login.example.com/{{ id }}", "https://a@login.example.com/keys"),
            ("https://login.example.com/{{ id }}", "/keys"),
        ] {
            assert!(is_path(template), "{template}");
            assert!(to(template, path).is_err(), "{template} {path}");
        }
        for (template, is_one) in [
            ("/{% if true %}\\evil{% endif %}", false),
            ("/{{ id }}/../{{ id }}", false),
            ("/{# \\ #}/{{ id }}?a={{ id }}", true),
        ] {
            assert_eq!(is_path(template), is_one, "{template}");
        }
        assert!(destination(None, "/keys", "/keys").is_err());
        assert!(destination(Some("http://api.example.com"), "/keys", "/keys").is_err());
        assert!(destination(Some("http://[::1]:80"), "/keys", "/keys").is_ok());
    }

    #[test]
    fn a_base_is_a_server_and_the_beginning_of_a_path() {
        for base in [
            "https://api.example.com",
            "https://api.example.com/v1/",
            "http://localhost:1",
            "http://127.0.0.1",
        ] {
            assert!(is_base(base), "{base}");
        }
        for base in [
            "http://api.example.com",
            "https://api.example.com/?a=b",
            "https://api.example.com/#a",
            "https://api.example.com/{{ owner }}",
            "https://api.example.com/v1/..",
            "https://api.example.com/%2e%2e/v1",
            "https://api.example.com/a\\b",
            "https://api.example.com/a b",
            "/v1",
        ] {
            assert!(!is_base(base), "{base}");
        }
    }
}
