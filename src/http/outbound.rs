//! Where requests may go.
//!
//! A policy, and a recipe, name the server that is sent a credential. Whoever may write one of them must not reach by it
//! what only this machine or its network can reach: the metadata service of a cloud, a database on loopback, a router.
//! So the name is resolved here, each address is looked at, and the connection is made to an address that was looked
//! at and to no other; no redirect is followed and no proxy of the environment is used.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What the settings let requests reach besides public addresses.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    private: Arc<[String]>,
}

/// Why an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Barred {
    #[error("its address is one of this machine")]
    Loopback,
    #[error("its address is one of a private network")]
    Private,
    #[error("its address is a link-local one, where clouds have their metadata service")]
    LinkLocal,
    #[error("its address is one that no server has")]
    Nobody,
}

impl Outbound {
    /// `private`: hosts that may have addresses of this machine or of private networks; `*.example.com` for all below.
    #[must_use]
    pub fn new(private: &[String]) -> Self {
        Self { private: private.into() }
    }

    /// Whether a host may be reached at an address.
    pub(crate) fn check(&self, host: &str, address: IpAddr) -> Result<(), Barred> {
        match kind(address) {
            Kind::Public => Ok(()),
            Kind::Loopback if self.names(host) => Ok(()),
            Kind::Loopback => Err(Barred::Loopback),
            Kind::Private if self.names(host) => Ok(()),
            Kind::Private => Err(Barred::Private),
            // No name leads there, whatever the settings say of it: only the address itself.
            Kind::LinkLocal if self.names(host) && host.parse() == Ok(address) => Ok(()),
            Kind::LinkLocal => Err(Barred::LinkLocal),
            Kind::Nobody => Err(Barred::Nobody),
        }
    }

    fn names(&self, host: &str) -> bool {
        crate::settings::names_host(&self.private, host)
    }
}

/// Resolves names for connections, and yields only addresses that may be connected to.
///
/// Each connection is made to what one look-up yielded and was looked at; what the name leads to a moment later is the
/// business of the next connection.
pub(super) struct Guard {
    outbound: Outbound,
    names: Names,
}

/// Looks up the addresses of a name.
type Names = Box<dyn Fn(String) -> Found + Send + Sync>;
type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

impl Guard {
    /// By the system's own resolver.
    pub(super) fn new(outbound: Outbound) -> Self {
        let names = |host: String| -> Found {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
        };
        Self { outbound, names: Box::new(names) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let outbound = self.outbound.clone();
        let host = name.as_str().to_owned();
        let found = (self.names)(host.clone());
        Box::pin(async move {
            let mut barred = None;
            let mut open = Vec::new();
            for address in found.await? {
                match outbound.check(&host, address.ip()) {
                    Ok(()) => open.push(address),
                    Err(reason) => barred = Some(reason),
                }
            }
            match (open.is_empty(), barred) {
                (true, Some(reason)) => Err(reason.into()),
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    Private,
    LinkLocal,
    Nobody,
}

/// What an address is, after the registries of special addresses of IANA.
fn kind(address: IpAddr) -> Kind {
    match address.to_canonical() {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, ..) => Kind::Loopback,
        (169, 254, _) => Kind::LinkLocal,
        // Azure's, of each machine, and Alibaba's metadata service.
        (168, 63, 129) if address.octets()[3] == 16 => Kind::LinkLocal,
        (100, 100, 100) if address.octets()[3] == 200 => Kind::LinkLocal,
        // 100.64.0.0/10 is what providers share among their customers; AWS and Alibaba have metadata services there.
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) => {
            Kind::Private
        }
        (0, ..) | (224..=255, ..) | (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) => Kind::Nobody,
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let parts = address.segments();
    let inner = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        [0, 0, 0, 0, 0, 0, ..] => Kind::Nobody,
        // Addresses that hold one of version 4.
        [0, 0, 0, 0, 0xffff, 0, high, low] => kind_v4(inner(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => kind_v4(inner(high, low)),
        [0x2002, high, low, ..] => kind_v4(inner(high, low)),
        // AWS's and Google's metadata services.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Kind::LinkLocal,
        // Teredo: what is at the other end of a tunnel, whose addresses are hidden in it.
        [0x2001, 0, ..] => Kind::Private,
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        [0xff00..=0xffff, ..] | [0x100, 0, 0, 0, ..] | [0x2001, 0xdb8, ..] => Kind::Nobody,
        _ => Kind::Public,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::{Deadlines, Http, Lost, Method};
    use super::*;
    use crate::policy::spec::{TlsMode, TlsSpec};

    /// A name whose addresses change: those of each look-up, and then none.
    fn changing(private: &[&str], lookups: &[&[&str]]) -> Guard {
        let private: Vec<String> = private.iter().map(ToString::to_string).collect();
        let address = |text: &&str| SocketAddr::new(text.parse().expect("an address"), 0);
        let lookups: VecDeque<Vec<_>> =
            lookups.iter().map(|found| found.iter().map(address).collect()).collect();
        let lookups = Mutex::new(lookups);
        let names = move |_| -> Found {
            let found = lookups.lock().expect("no panic").pop_front();
            Box::pin(std::future::ready(Ok(found.unwrap_or_default())))
        };
        Guard { outbound: Outbound::new(&private), names: Box::new(names) }
    }

    async fn resolved(guard: &Guard) -> Result<Vec<String>, String> {
        let found = guard.resolve("api.example.com".parse().expect("a name")).await;
        found
            .map(|found| found.map(|address| address.ip().to_string()).collect())
            .map_err(|error| error.downcast::<Barred>().expect("it is barred").to_string())
    }

    #[tokio::test]
    async fn each_look_up_is_looked_at() {
        let guard = changing(
            &[],
            &[
                &["1.1.1.1"],
                &["10.0.0.1"],
                &["1.1.1.1"],
                &["127.0.0.1"],
                &["10.0.0.1", "1.1.1.1", "::1"],
                &[],
            ],
        );
        assert_eq!(resolved(&guard).await, Ok(vec!["1.1.1.1".to_owned()]));
        assert_eq!(resolved(&guard).await, Err(Barred::Private.to_string()));
        assert_eq!(resolved(&guard).await, Ok(vec!["1.1.1.1".to_owned()]));
        assert_eq!(resolved(&guard).await, Err(Barred::Loopback.to_string()));
        assert_eq!(resolved(&guard).await, Ok(vec!["1.1.1.1".to_owned()]), "the others are left out");
        assert_eq!(resolved(&guard).await, Ok(vec![]), "a name without an address");
    }

    /// A server that ends each connection after one answer; its port, and how many requests it got.
    async fn server() -> (u16, Arc<Mutex<usize>>) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let (port, count) = (listener.local_addr().expect("an address").port(), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let read = stream.read(&mut [0; 4_096]).await;
                *counted.lock().expect("no panic") += usize::from(read.is_ok_and(|read| read > 0));
                let answer = b"HTTP/1.1 204 Done\r\nconnection: close\r\n\r\n";
                drop(stream.write_all(answer).await);
            }
        });
        (port, count)
    }

    /// A name that led to one place when it was looked at leads nowhere else for that.
    #[tokio::test]
    async fn a_connection_goes_where_its_own_look_up_led() {
        let (port, count) = server().await;
        let guard = changing(
            &["api.example.com"],
            // What a second look-up for the first connection would find is what the second connection finds.
            &[&["127.0.0.1"], &["169.254.169.254"], &["127.0.0.1"], &["127.0.0.1", "169.254.169.254"]],
        );
        let client = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(Arc::new(guard))
            .tls_backend_preconfigured(crate::tls::closed());
        let client = client.build().expect("a client");
        let url = format!("http://api.example.com:{port}/");
        let asked = async || client.get(&url).send().await.map(|answer| answer.status().as_u16());
        assert_eq!(asked().await.expect("an answer"), 204);
        let lost = Lost::of(&asked().await.expect_err("it is not connected to"));
        assert!(matches!(lost, Lost::Barred(Barred::LinkLocal)), "{lost:?}");
        assert_eq!(*count.lock().expect("no panic"), 1);
        for _ in 0..2 {
            assert_eq!(asked().await.expect("an answer"), 204);
        }
        assert_eq!(*count.lock().expect("no panic"), 3);
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_one_whatever_it_is_called() {
        let (port, count) = server().await;
        for (private, open) in [(vec![], false), (vec!["127.0.0.1"], false), (vec!["localhost"], true)] {
            let private: Vec<String> = private.into_iter().map(ToOwned::to_owned).collect();
            let url: super::super::Url = format!("http://localhost:{port}/").parse().expect("an address");
            let tls = TlsSpec { mode: TlsMode::Disable, ca_file: None, allow_plaintext: false };
            let outbound = Outbound::new(&private);
            let http = Http::guarded(url.clone(), &tls, Deadlines::default(), 4_096, outbound).await;
            let http = http.expect("a client");
            let request = http.request_to(Method::GET, url).expect("a name is looked at later");
            match http.send(request).await {
                Ok(answer) => assert!(open && answer.status.as_u16() == 204, "{private:?}"),
                Err(lost) => assert!(!open && matches!(lost, Lost::Barred(Barred::Loopback)), "{lost:?}"),
            }
        }
        assert_eq!(*count.lock().expect("no panic"), 1);
    }

    fn verdict(private: &[&str], host: &str, address: &str) -> Result<(), Barred> {
        let private: Vec<String> = private.iter().map(ToString::to_string).collect();
        Outbound::new(&private).check(host, address.parse().expect("an address"))
    }

    #[test]
    fn public_addresses_are_open() {
        for address in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "168.63.129.15",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "::ffff:0:1.1.1.1",
            "2001:4860::8888",
        ] {
            assert_eq!(verdict(&[], "api.example.com", address), Ok(()), "{address}");
        }
    }

    #[test]
    fn whatever_only_the_inside_can_reach_is_closed() {
        for (address, barred) in [
            ("127.0.0.1", Barred::Loopback),
            ("::1", Barred::Loopback),
            ("::ffff:127.0.0.1", Barred::Loopback),
            ("64:ff9b::7f00:1", Barred::Loopback),
            ("fd00:ec2::254", Barred::LinkLocal),
            ("fd20:ce::254", Barred::LinkLocal),
            ("168.63.129.16", Barred::LinkLocal),
            ("::ffff:0:127.0.0.1", Barred::Loopback),
            ("::ffff:0:10.0.0.1", Barred::Private),
            ("::ffff:0:169.254.169.254", Barred::LinkLocal),
            ("64:ff9b::168.63.129.16", Barred::LinkLocal),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Barred::Private),
            ("100.100.100.200", Barred::LinkLocal),
            ("10.1.2.3", Barred::Private),
            ("192.168.0.1", Barred::Private),
            ("::ffff:10.0.0.1", Barred::Private),
            ("2002:0a00:0001::1", Barred::Private),
            ("169.254.169.254", Barred::LinkLocal),
            ("fe80::1", Barred::LinkLocal),
            ("64:ff9b::a9fe:a9fe", Barred::LinkLocal),
            ("0.0.0.0", Barred::Nobody),
            ("::", Barred::Nobody),
            ("255.255.255.255", Barred::Nobody),
        ] {
            assert_eq!(verdict(&[], "api.example.com", address), Err(barred), "{address}");
        }
    }

    #[test]
    fn the_settings_open_private_networks_for_a_name_and_link_local_ones_for_no_name() {
        let private = ["git.example.com", "*.corp.example.com", "169.254.0.9"];
        for metadata in
            ["169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"]
        {
            assert_eq!(verdict(&private, "git.example.com", metadata), Err(Barred::LinkLocal), "{metadata}");
        }
        assert_eq!(verdict(&private, "git.example.com", "10.0.0.1"), Ok(()));
        assert_eq!(verdict(&private, "ci.corp.example.com", "192.168.1.1"), Ok(()));
        assert_eq!(verdict(&private, "git.example.org", "10.0.0.1"), Err(Barred::Private));
        assert_eq!(verdict(&private, "git.example.com", "169.254.169.254"), Err(Barred::LinkLocal));
        assert_eq!(verdict(&private, "169.254.0.9", "169.254.0.9"), Ok(()));
        assert_eq!(verdict(&[], "127.0.0.1", "127.0.0.1"), Err(Barred::Loopback));
        assert_eq!(verdict(&["127.0.0.1"], "127.0.0.1", "127.0.0.1"), Ok(()));
    }
}
