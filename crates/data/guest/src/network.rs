//! Static configuration of the guest's one interface over rtnetlink (`linux/rtnetlink.h`).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use lambda_types::guest::GuestNetwork;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Why the network is not configured.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No interface has the MAC address that the node told.
    #[error("no interface has the MAC address {wanted}; seen: {seen}")]
    NoInterface {
        /// The address told.
        wanted: String,
        /// What `/sys/class/net` shows.
        seen: String,
    },
    /// The address makes no sense.
    #[error("the node's network configuration is refused: {0}")]
    Refused(&'static str),
    /// The kernel refused a request.
    #[error("{request}: {error}")]
    Kernel {
        /// What was asked.
        request: &'static str,
        /// The answer.
        error: std::io::Error,
    },
}

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
const CREATE_OR_REPLACE: u16 = 0x100 | 0x400;
const ERROR: u16 = 2;
const FAMILY_INET: u8 = 2;
const INTERFACE_UP: u32 = 1;
const LOOPBACK_INDEX: u32 = 1;

/// Brings up loopback and the interface with the told MAC address, and sets address and default route.
///
/// # Errors
/// When no interface matches, the configuration makes no sense or the kernel refuses.
pub fn configure(network: &GuestNetwork) -> Result<(), NetworkError> {
    let GuestNetwork { mac, address, prefix, gateway } = network;
    if *prefix > 32 || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(NetworkError::Refused("address or prefix"));
    }
    let index = find_interface(Path::new("/sys/class/net"), mac)?;
    let mut kernel = Netlink::open()?;
    kernel.request("bring up loopback", NEW_LINK, 0, &link_up(LOOPBACK_INDEX))?;
    kernel.request("bring up the interface", NEW_LINK, 0, &link_up(index))?;
    kernel.request("set the address", NEW_ADDRESS, CREATE_OR_REPLACE, &address_message(index, *address, *prefix))?;
    kernel.request("set the default route", NEW_ROUTE, CREATE_OR_REPLACE, &route_message(index, *gateway))
}

fn find_interface(folder: &Path, mac: &str) -> Result<u32, NetworkError> {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let address = read("address");
        if address.trim().eq_ignore_ascii_case(mac) {
            return read("ifindex").trim().parse().map_err(|_| NetworkError::Refused("interface index"));
        }
        seen.push(address.trim().to_owned());
    }
    Err(NetworkError::NoInterface { wanted: mac.to_owned(), seen: seen.join(", ") })
}

fn link_up(index: u32) -> Vec<u8> {
    let mut message = vec![0u8; 4];
    message.extend_from_slice(&index.to_ne_bytes());
    message.extend_from_slice(&INTERFACE_UP.to_ne_bytes());
    message.extend_from_slice(&INTERFACE_UP.to_ne_bytes());
    message
}

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let mut message = vec![FAMILY_INET, prefix, 0, 0];
    message.extend_from_slice(&index.to_ne_bytes());
    attribute(&mut message, LOCAL, &address.octets());
    attribute(&mut message, ADDRESS, &address.octets());
    message
}

fn route_message(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    const OUTPUT: u16 = 4;
    const GATEWAY: u16 = 5;
    const MAIN_TABLE: u8 = 254;
    const BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let mut message = vec![FAMILY_INET, 0, 0, 0, MAIN_TABLE, BOOT, 0, UNICAST, 0, 0, 0, 0];
    attribute(&mut message, GATEWAY, &gateway.octets());
    attribute(&mut message, OUTPUT, &index.to_ne_bytes());
    message
}

/// Appends an attribute whose value is four bytes long, so that no padding arises.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8; 4]) {
    message.extend_from_slice(&8u16.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
}

struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self, NetworkError> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|error| NetworkError::Kernel { request: "open a netlink socket", error: error.into() })?;
        Ok(Self { socket, sequence: 0 })
    }

    fn request(&mut self, request: &'static str, kind: u16, flags: u16, body: &[u8]) -> Result<(), NetworkError> {
        let refuse = |error: std::io::Error| NetworkError::Kernel { request, error };
        self.sequence += 1;
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST_AND_ACKNOWLEDGE | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .map_err(|error| refuse(error.into()))?;
        let mut answer = [0u8; 4096];
        let (length, _) =
            recv(&self.socket, answer.as_mut_slice(), RecvFlags::empty()).map_err(|error| refuse(error.into()))?;
        if length < 20 || u16::from_ne_bytes([answer[4], answer[5]]) != ERROR {
            return Err(refuse(std::io::ErrorKind::InvalidData.into()));
        }
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            code => Err(refuse(std::io::Error::from_raw_os_error(-code))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_mac_address_is_refused_and_the_message_says_what_was_seen() {
        let network = GuestNetwork {
            mac: "02:00:00:00:00:99".into(),
            address: Ipv4Addr::new(10, 0, 0, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
        };
        assert!(matches!(configure(&network), Err(NetworkError::NoInterface { .. })));
    }

    #[test]
    fn senseless_addresses_are_refused_before_anything_is_touched() {
        let good = GuestNetwork {
            mac: "02:00:00:00:00:99".into(),
            address: Ipv4Addr::new(10, 0, 0, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
        };
        for bad in [
            GuestNetwork { prefix: 33, ..good.clone() },
            GuestNetwork { address: Ipv4Addr::UNSPECIFIED, ..good.clone() },
            GuestNetwork { address: Ipv4Addr::LOCALHOST, ..good },
        ] {
            assert!(matches!(configure(&bad), Err(NetworkError::Refused(_))));
        }
    }
}
