//! Real frames through real taps: each test plays the guest at the other end of the tap's descriptor.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::firewall::{self, Guest};
use super::namespace::{self, Namespace};
use super::{Segment, tap};

const NFT: &str = "/usr/sbin/nft";
const SYN_ACK: u8 = 0x12;
const BROADCAST: [u8; 6] = [0xff; 6];

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(300);

/// How long an expected frame may take.
const PATIENCE: Duration = Duration::from_secs(10);

struct Wire {
    device: std::fs::File,
    segment: Segment,
    name: String,
}

struct Node {
    namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        namespace::remove(&self.folder.path().join("netns")).unwrap();
    }
}

impl Node {
    async fn new(guests: u8) -> (Self, Vec<Wire>) {
        let folder = tempfile::tempdir().unwrap();
        let namespace = Namespace::open(&folder.path().join("netns")).unwrap();
        let node = Self { namespace, folder };
        node.apply(firewall::replace_all(&[])).await;
        let mut wires = Vec::new();
        for number in 1..=guests {
            let guest = guest(number);
            node.apply(firewall::admit(&guest)).await;
            let (name, segment) = (guest.tap.clone(), guest.segment);
            let device: OwnedFd = node.namespace.run(move || tap::create(&name, segment)).await.unwrap().unwrap();
            wires.push(Wire { device: device.into(), segment, name: guest.tap });
        }
        (node, wires)
    }

    async fn apply(&self, rules: String) {
        self.namespace.run(move || firewall::apply(NFT.as_ref(), &rules)).await.unwrap().unwrap();
    }

    /// Opens a connection as a tunnel does.
    async fn dial(&self, guest: Ipv4Addr) -> std::thread::JoinHandle<std::io::Result<TcpStream>> {
        let connecting =
            move || std::thread::spawn(move || TcpStream::connect_timeout(&SocketAddr::from((guest, 22)), PATIENCE));
        // A thread started inside the namespace lives in it.
        self.namespace.run(connecting).await.unwrap()
    }

    async fn shell(&self, script: &'static str) -> String {
        let running = move || std::process::Command::new("/bin/sh").args(["-c", script]).output().unwrap().stdout;
        String::from_utf8(self.namespace.run(running).await.unwrap()).unwrap()
    }
}

fn guest(number: u8) -> Guest {
    let segment = Segment {
        mac: [2, 0, 0, 0, 0, number],
        guest: [10, 88, 0, number * 4 + 2].into(),
        node: [10, 88, 0, number * 4 + 1].into(),
        prefix: 30,
    };
    Guest { tap: tap::name(number.into()), segment }
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

fn arp(frame_from: [u8; 6], operation: u16, sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(sender.0);
    body.extend(sender.1.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(BROADCAST, frame_from, 0x0806, &body)
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&[&header]).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// The SYN-ACK to a SYN frame, sent from this address.
fn syn_ack(syn: &[u8], from: Ipv4Addr) -> Vec<u8> {
    let (node, tcp) = (Ipv4Addr::from(<[u8; 4]>::try_from(&syn[26..30]).unwrap()), &syn[34..]);
    let acknowledged = u32::from_be_bytes(tcp[4..8].try_into().unwrap()).wrapping_add(1);
    let mut segment = [&tcp[2..4], &tcp[0..2], &7u32.to_be_bytes(), &acknowledged.to_be_bytes()].concat();
    segment.extend([0x50, SYN_ACK, 0xff, 0xff, 0, 0, 0, 0]);
    let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
    let sum = checksum(&[&from.octets(), &node.octets(), &[0, 6], &length, &segment]).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    ipv4(from, node, 6, &segment)
}

impl Wire {
    fn send(&mut self, frame: &[u8]) {
        self.device.write_all(&[&[0; 10], frame].concat()).unwrap();
    }

    fn receive(&mut self, bound: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + bound;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match self.device.read(&mut buffer) {
                Ok(length) if wanted(&buffer[10..length]) => return Some(buffer[10..length].to_vec()),
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }

    /// Asks for an address as this sender.
    fn ask(&mut self, frame_from: [u8; 6], sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr, bound: Duration) -> bool {
        self.send(&arp(frame_from, 1, sender, target));
        let answers = |frame: &[u8]| frame[12..14] == [8, 6] && frame[21] == 2 && frame[28..32] == target.octets();
        self.receive(bound, answers).is_some()
    }

    /// Answers the node's ARP request and returns its SYN.
    fn meet(&mut self) -> Vec<u8> {
        let Segment { mac, guest, node, .. } = self.segment;
        self.receive(PATIENCE, |frame| frame[12..14] == [8, 6] && frame[21] == 1).unwrap();
        self.send(&arp(mac, 2, (mac, guest), node));
        self.receive(PATIENCE, |frame| frame[12..14] == [8, 0] && frame[23] == 6).unwrap()
    }
}

#[tokio::test]
async fn the_node_reaches_a_guest_and_only_an_honest_answer_completes_the_connection() {
    let (node, mut wires) = Node::new(1).await;
    let wire = &mut wires[0];
    let Segment { mac, guest, .. } = wire.segment;
    let connecting = node.dial(guest).await;
    let syn = wire.meet();
    let from_node: [u8; 6] = syn[6..12].try_into().unwrap();
    let forged = [2, 9, 9, 9, 9, 9];
    wire.send(&ethernet(from_node, forged, 0x0800, &syn_ack(&syn, guest)));
    wire.send(&ethernet(from_node, mac, 0x0800, &syn_ack(&syn, [10, 88, 0, 99].into())));
    std::thread::sleep(SILENCE);
    assert!(!connecting.is_finished());
    wire.send(&ethernet(from_node, mac, 0x0800, &syn_ack(&syn, guest)));
    connecting.join().unwrap().unwrap();
}

#[tokio::test]
async fn arp_is_answered_to_the_instances_own_addresses_and_to_nothing_forged() {
    let (node, mut wires) = Node::new(2).await;
    let other = wires[1].segment;
    let wire = &mut wires[0];
    let Segment { mac, guest, node: gateway, .. } = wire.segment;
    assert!(wire.ask(mac, (mac, guest), gateway, PATIENCE), "the honest question has no answer");
    assert!(!wire.ask(mac, (mac, other.guest), gateway, SILENCE), "another's IPv4 address was believed");
    assert!(!wire.ask(mac, (other.mac, guest), gateway, SILENCE), "another's MAC address was believed");
    assert!(!wire.ask(other.mac, (mac, guest), gateway, SILENCE), "a forged frame address was believed");
    assert!(!wire.ask(mac, (mac, guest), other.guest, SILENCE), "the neighbour was found");
    assert!(!wire.ask(mac, (mac, guest), other.node, SILENCE), "the neighbour's gateway was found");
    let known = node.shell("ip neigh").await;
    assert!(!known.contains(&other.guest.to_string()), "{known}");
}

#[tokio::test]
async fn a_guest_reaches_neither_its_neighbour_nor_the_node() {
    let (node, mut wires) = Node::new(2).await;
    let _listener = node.namespace.run(|| std::net::TcpListener::bind("0.0.0.0:22").unwrap()).await.unwrap();
    let [first, second] = &mut wires[..] else { unreachable!() };
    let Segment { mac, guest, node: gateway, .. } = first.segment;
    let tap_mac = node.shell("cat /sys/class/net/lam1/address || ip -o link show lam1").await;
    assert!(!tap_mac.is_empty());
    first.send(&arp(mac, 1, (mac, guest), gateway));
    let answer = first.receive(PATIENCE, |frame| frame[12..14] == [8, 6]).unwrap();
    let to: [u8; 6] = answer[6..12].try_into().unwrap();
    let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let syn = [0x12, 0x34, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    for target in [gateway, second.segment.node, second.segment.guest] {
        first.send(&ethernet(to, mac, 0x0800, &ipv4(guest, target, 1, &echo)));
        first.send(&ethernet(to, mac, 0x0800, &ipv4(guest, target, 6, &syn)));
    }
    let multicast: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let mut six = vec![0x60, 0, 0, 0, 0, 8, 58, 255];
    six.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    six.extend(multicast.octets());
    six.extend([128, 0, 0, 0, 0, 0, 0, 0]);
    first.send(&ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd, &six));
    first.send(&ethernet(second.segment.mac, mac, 0x0800, &ipv4(guest, second.segment.guest, 1, &echo)));
    assert_eq!(first.receive(SILENCE, |frame| frame[12..14] != [8, 6]), None, "something answered");
    assert_eq!(second.receive(SILENCE, |_| true), None, "something crossed to the neighbour");
}

#[tokio::test]
async fn the_namespace_reaches_nothing_of_the_host() {
    let (node, _wires) = Node::new(1).await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let refused = node.namespace.run(move || TcpStream::connect_timeout(&address, SILENCE).is_err()).await.unwrap();
    assert!(refused);
    assert!(TcpStream::connect_timeout(&address, PATIENCE).is_ok());
}

#[tokio::test]
async fn a_tap_ends_with_its_descriptor_and_rules_can_be_removed_twice() {
    let (node, mut wires) = Node::new(1).await;
    assert!(node.shell("ip -o link").await.contains("lam1"));
    let wire = wires.pop().unwrap();
    let gone = Guest { tap: wire.name.clone(), segment: wire.segment };
    drop(wire);
    node.apply(firewall::remove(&gone)).await;
    node.apply(firewall::remove(&gone)).await;
    assert!(!node.shell("ip -o link").await.contains("lam1"));
    assert!(!node.shell("nft list ruleset").await.contains("lam1"));
    node.apply(firewall::admit(&gone)).await;
    node.apply(firewall::admit(&gone)).await;
    node.apply(firewall::replace_all(&[])).await;
    assert!(!node.shell("nft list ruleset").await.contains("lam1"));
}
