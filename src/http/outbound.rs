//! Where requests may go.
//!
//! A policy, and a recipe, name the server that is sent a credential. Whoever may write one of them must not reach by it
//! what only this machine or its network can reach: the metadata service of a cloud, a database on loopback, a router.
//! So the name is resolved here, each address is looked at, and the connection is made to an address that was looked
//! at and to no other; no redirect is followed and no proxy of the environment is used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
pub(super) struct Guard(pub(super) Outbound);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let outbound = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let mut barred = None;
            let mut open = Vec::new();
            for address in found {
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
        // Alibaba's metadata service.
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
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => kind_v4(inner(high, low)),
        [0x2002, high, low, ..] => kind_v4(inner(high, low)),
        // AWS's metadata service.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Kind::LinkLocal,
        [0x64, 0xff9b, 1, ..] | [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Kind::Private,
        [0xfe80..=0xfebf, ..] => Kind::LinkLocal,
        [0xff00..=0xffff, ..] | [0x100, 0, 0, 0, ..] | [0x2001, 0xdb8, ..] => Kind::Nobody,
        _ => Kind::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(private: &[&str], host: &str, address: &str) -> Result<(), Barred> {
        let private: Vec<String> = private.iter().map(ToString::to_string).collect();
        Outbound::new(&private).check(host, address.parse().expect("an address"))
    }

    #[test]
    fn public_addresses_are_open() {
        for address in
            ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "64:ff9b::101:101"]
        {
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
        for metadata in ["169.254.169.254", "fd00:ec2::254", "100.100.100.200"] {
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
