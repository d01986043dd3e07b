//! How stored rows look to customers and to nodes.

use std::net::Ipv4Addr;

use lambda_types::guest::GuestNetwork;
use lambda_types::instance::{Instance, state};
use lambda_types::mailbox::Message;
use lambda_types::node::DesiredInstance;

use crate::conditions::{conditions, effective_phase};
use crate::store::instance::InstanceRow;

/// First address of the pool of /30 links: 10.64.0.0/10.
const POOL: u32 = u32::from_be_bytes([10, 64, 0, 0]);

/// Links in the pool.
pub(crate) const LINKS: u32 = 1 << 20;

const LINK_PREFIX: u8 = 30;

/// An instance as the API shows it. `node_seen_ms` is when its node was last heard from.
pub(crate) fn instance(row: &InstanceRow, node_seen_ms: Option<u64>, now_ms: u64) -> Instance {
    let current = row.observed.epoch == row.epoch;
    Instance {
        id: row.id,
        etag: row.version.to_string(),
        generation: row.generation,
        shape: row.shape,
        image: row.image,
        profile: row.profile,
        volume: row.volume,
        volume_gib: row.volume_gib,
        node: row.node,
        boot: if current { row.observed.boot } else { None },
        desired: row.power,
        state: state(row.power, row.node.is_some(), effective_phase(row)),
        conditions: conditions(row, node_seen_ms, now_ms),
        phases: if current { row.observed.phases.clone() } else { Vec::new() },
        created_ms: row.created_ms,
        secrets: row.secrets.clone(),
        metadata: row.metadata.clone(),
    }
}

/// An instance as its node is told to have it; `None` while it has no address, which a placed one always has.
pub(crate) fn desired(row: &InstanceRow, broker: Option<Message>) -> Option<DesiredInstance> {
    Some(DesiredInstance {
        id: row.id,
        generation: row.generation,
        power: row.power,
        epoch: row.epoch,
        shape: row.shape,
        image: row.image,
        profile: row.profile,
        launch: row.launch.clone(),
        volume: row.volume,
        volume_gib: row.volume_gib,
        network: network(&row.mac, row.address?),
        broker,
    })
}

fn network(mac: &str, link: u32) -> GuestNetwork {
    let base = POOL.wrapping_add(link.wrapping_mul(4));
    GuestNetwork {
        mac: mac.into(),
        address: Ipv4Addr::from(base.wrapping_add(2)),
        prefix: LINK_PREFIX,
        gateway: Ipv4Addr::from(base.wrapping_add(1)),
    }
}

/// A random, locally administered, unicast MAC address.
pub(crate) fn random_mac() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 6];
    getrandom::fill(&mut bytes)?;
    bytes[0] = (bytes[0] & 0xfc) | 0x02;
    Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_overlap_and_stay_in_the_pool() {
        let (first, second, last) = (network("", 0), network("", 1), network("", LINKS - 1));
        assert_eq!((first.gateway.to_string(), first.address.to_string()), ("10.64.0.1".into(), "10.64.0.2".into()));
        assert_eq!(second.address.to_string(), "10.64.0.6");
        assert_eq!(last.address.to_string(), "10.127.255.254");
    }

    #[test]
    fn mac_addresses_are_local_and_unicast() {
        for _ in 0..64 {
            let mac = random_mac().unwrap();
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!((first & 3, mac.len()), (2, 17), "{mac}");
        }
    }
}
