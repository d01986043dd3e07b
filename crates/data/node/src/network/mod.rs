//! The node's own network namespace: no route to the host, no route between instances.
//!
//! Each instance has one tap and a routed segment of its own. The tap has no persistence: it lives exactly as long as
//! the QEMU that holds its descriptor, so a crash leaves none. The namespace forwards nothing, and the firewall
//! ([`firewall`]) admits from a tap only what bears its instance's addresses and answers a connection that the node
//! opened: tunnels.

pub(crate) mod firewall;
pub(crate) mod namespace;
pub(crate) mod tap;

use std::net::Ipv4Addr;

use lambda_types::guest::GuestNetwork;

/// Why an instance has no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The namespace cannot be made or entered.
    #[error(
        "cannot set up the node's network namespace: {operation}: {source}; CAP_SYS_ADMIN and CAP_NET_ADMIN are needed"
    )]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The tap cannot be made.
    #[error("cannot set up tap {tap}: {operation}: {source}")]
    Tap {
        /// Which one.
        tap: String,
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// nft did not run.
    #[error("cannot run {program}: {source}; install the package nftables")]
    Nft {
        /// The program.
        program: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// nft refused the rules.
    #[error("nft refused the rules: {0}")]
    Rules(String),
    /// The addresses make no segment.
    #[error("the assigned addresses do not form a segment: {0}")]
    Addresses(&'static str),
    /// The namespace's thread is gone.
    #[error("the network namespace's worker has ended; restart the node agent")]
    Worker,
}

/// One instance's segment, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) mac: [u8; 6],
    pub(crate) guest: Ipv4Addr,
    pub(crate) node: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl Segment {
    /// Checks what the control plane assigned: two distinct host addresses of one private link, a unicast MAC.
    pub(crate) fn parse(network: &GuestNetwork) -> Result<Self, NetworkError> {
        let mac = parse_mac(&network.mac).ok_or(NetworkError::Addresses("the MAC address is malformed"))?;
        if mac[0] & 1 == 1 {
            return Err(NetworkError::Addresses("the MAC address is a group address"));
        }
        if !(16..=30).contains(&network.prefix) {
            return Err(NetworkError::Addresses("the prefix length is not between 16 and 30"));
        }
        let segment = Self { mac, guest: network.address, node: network.gateway, prefix: network.prefix };
        let mask = segment.mask();
        let (guest, node) = (u32::from(segment.guest), u32::from(segment.node));
        if guest & mask != node & mask || guest == node {
            return Err(NetworkError::Addresses("guest and node are not two addresses of one link"));
        }
        if [guest, node].iter().any(|address| address & !mask == 0 || address & !mask == !mask) {
            return Err(NetworkError::Addresses("an address is the link's network or broadcast address"));
        }
        if !segment.guest.is_private() {
            return Err(NetworkError::Addresses("the link is not in a private range"));
        }
        Ok(segment)
    }

    pub(crate) fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// Whether two segments share an address: their routes would collide.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        u32::from(self.guest) & mask == u32::from(other.guest) & mask
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// A MAC address as QEMU and nft write it.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod packet_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn network(mac: &str, address: [u8; 4], prefix: u8, gateway: [u8; 4]) -> GuestNetwork {
        GuestNetwork { mac: mac.into(), address: address.into(), prefix, gateway: gateway.into() }
    }

    #[test]
    fn a_slash_thirty_with_two_hosts_is_a_segment() {
        let segment = Segment::parse(&network("02:00:00:0a:00:02", [10, 1, 2, 2], 30, [10, 1, 2, 1])).unwrap();
        assert_eq!(mac_text(segment.mac), "02:00:00:0a:00:02");
    }

    #[test]
    fn addresses_that_make_no_link_are_refused() {
        for bad in [
            network("02:00:00:0a:00", [10, 1, 2, 2], 30, [10, 1, 2, 1]),
            network("02:00:00:0a:00:+2", [10, 1, 2, 2], 30, [10, 1, 2, 1]),
            network("03:00:00:0a:00:02", [10, 1, 2, 2], 30, [10, 1, 2, 1]),
            network("02:00:00:0a:00:02", [10, 1, 2, 2], 30, [10, 1, 2, 2]),
            network("02:00:00:0a:00:02", [10, 1, 2, 2], 30, [10, 1, 2, 5]),
            network("02:00:00:0a:00:02", [10, 1, 2, 3], 30, [10, 1, 2, 1]),
            network("02:00:00:0a:00:02", [10, 1, 2, 2], 30, [10, 1, 2, 0]),
            network("02:00:00:0a:00:02", [10, 1, 2, 2], 31, [10, 1, 2, 3]),
            network("02:00:00:0a:00:02", [10, 1, 2, 2], 0, [10, 1, 2, 1]),
            network("02:00:00:0a:00:02", [8, 8, 8, 2], 30, [8, 8, 8, 1]),
        ] {
            assert!(Segment::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn overlapping_links_are_seen() {
        let parse =
            |address, prefix, gateway| Segment::parse(&network("02:00:00:00:00:01", address, prefix, gateway)).unwrap();
        let one = parse([10, 1, 2, 2], 30, [10, 1, 2, 1]);
        assert!(one.overlaps(parse([10, 1, 2, 9], 24, [10, 1, 2, 1])));
        assert!(!one.overlaps(parse([10, 1, 2, 6], 30, [10, 1, 2, 5])));
    }
}
