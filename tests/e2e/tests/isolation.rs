//! What instances can reach: nothing but their owner.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use lambda_e2e::capture::{Capture, inside, packets};
use lambda_e2e::customer::finish;
use lambda_e2e::{Cloud, Customer};

/// Runs a probe in the guest to its end; the probe prints `reached` when it got through.
fn reaches(customer: &Customer, name: &str, what: &str, script: &str) -> bool {
    let output = customer.ssh(name, &format!("{script}; echo probed"));
    assert_eq!(output.code, 0, "the probe for {what} did not run:\n{}", output.all());
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.last(), Some(&"probed"), "the probe for {what} did not end:\n{}", output.all());
    lines.contains(&"reached")
}

fn must_not_reach(customer: &Customer, name: &str, what: &str, script: &str) {
    assert!(!reaches(customer, name, what, script), "{what} was reached by: {script}");
}

fn tcp(address: &str, port: u16) -> String {
    format!("timeout 3 bash -c 'echo > /dev/tcp/{address}/{port}' && echo reached")
}

fn udp(address: &str, port: u16, text: &str) -> String {
    format!(
        "timeout 3 bash -c 'exec 3<>/dev/udp/{address}/{port}; echo {text} >&3; timeout 2 head -n 1 <&3 | grep -qx {text}' \
         && echo reached"
    )
}

fn ping(address: &str) -> String {
    format!("ping -c 1 -W 2 {address} && echo reached")
}

/// How an instance sees its network.
struct Seat {
    address: String,
    link_local: String,
    mac: String,
    gateway: String,
    gateway_mac: String,
    tap: String,
}

impl Seat {
    fn of(cloud: &Cloud, customer: &Customer, name: &str) -> Self {
        let ask = |script: &str| {
            let text = customer.ssh(name, script).ok().trim().to_owned();
            assert!(!text.is_empty(), "{name} answers: {script}");
            text
        };
        let address = ask("ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
        let link_local = ask("ip -6 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1 | head -1");
        let mac = ask("cat /sys/class/net/eth0/address");
        let gateway = ask("ip route show default | awk '{print $3}'");
        let gateway_mac = ask(&format!("ip neigh show {gateway} | awk '{{print $5}}'"));
        let mut command = inside(Some(&cloud.data().join("node/netns")), "ip");
        command.args(["-4", "-o", "addr"]);
        let taps = finish(command, None, Duration::from_secs(10)).ok();
        let tap = taps.lines().find(|line| mentions(line, &gateway)).and_then(|line| line.split_whitespace().nth(1));
        let tap = tap.expect("the instance has a tap").to_owned();
        Self { address, link_local, mac, gateway, gateway_mac, tap }
    }
}

/// True when the line holds this address, and not merely one that begins or ends with it.
fn mentions(line: &str, address: &str) -> bool {
    line.match_indices(address).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + address.len()..].chars().next();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.' || c == ':')
            && !after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

/// A TCP or UDP service inside the node's network namespace; ended on drop. UDP is echoed, and each datagram written down.
struct Listener {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Listener {
    fn tcp(cloud: &Cloud, address: &str, port: u16) -> Self {
        let family = if address.contains(':') { "AF_INET6, dualstack_ipv6=True" } else { "AF_INET" };
        let script = format!(
            "import socket\ns = socket.create_server(('{address}', {port}), family=socket.{family})\n\
             print(s.getsockname()[1], flush=True)\nwhile True: s.accept()[0].close()"
        );
        Self::start(cloud, &script)
    }

    fn udp(cloud: &Cloud) -> Self {
        let script = "import socket, sys\ns = socket.socket(type=socket.SOCK_DGRAM)\ns.bind(('0.0.0.0', 0))\n\
                      print(s.getsockname()[1], flush=True)\nwhile True:\n data, sender = s.recvfrom(99)\n \
                      sys.stderr.buffer.write(data)\n sys.stderr.flush()\n s.sendto(data, sender)";
        Self::start(cloud, script)
    }

    fn start(cloud: &Cloud, script: &str) -> Self {
        let log = tempfile::NamedTempFile::new_in(cloud.scratch()).expect("a file");
        let (file, log) = log.keep().expect("kept");
        let mut command = inside(Some(&cloud.data().join("node/netns")), "/usr/bin/python3");
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().expect("python3 starts");
        let mut line = String::new();
        let _ = BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a port");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("no port from the listener: {line:?} {}", said()));
        Self { child, port, log }
    }

    /// The lines that came by UDP.
    fn received(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).expect("readable").lines().map(str::to_owned).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of this host that is not loopback, if it has one with a route. Sends nothing.
fn host_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// An address of the host for as long as this lives, on a host that has none beside loopback.
struct LentAddress;

impl LentAddress {
    /// RFC 5737: nobody's.
    const ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(203, 0, 113, 77);

    fn ip(action: &str) -> lambda_e2e::Output {
        let mut command = inside(None, "ip");
        command.args(["address", action, &format!("{}/32", Self::ADDRESS), "dev", "lo"]);
        finish(command, None, Duration::from_secs(10))
    }

    fn add() -> Self {
        let _ = Self::ip("add").ok();
        Self
    }
}

impl Drop for LentAddress {
    fn drop(&mut self) {
        let removed = Self::ip("del");
        assert!(removed.code == 0 || std::thread::panicking(), "{}", removed.all());
    }
}

/// The probes' means work: they reach what is open to them.
fn the_probes_can_reach(customer: &Customer, name: &str, seat: &Seat) {
    let own = format!("{}%eth0", seat.link_local);
    assert!(reaches(customer, name, "itself", &tcp(&own, 22)), "positive control: TCP over IPv6");
    assert!(reaches(customer, name, "itself", &ping(&own)), "positive control: ping over IPv6");
    assert!(reaches(customer, name, "itself", &tcp("127.0.0.1", 22)), "positive control: TCP");
    for loopback in ["127.0.0.1", "::1"] {
        assert!(reaches(customer, name, "itself", &ping(loopback)), "positive control: ping {loopback}");
    }
}

/// Everything an instance could try against its neighbours, from a plain connection to a forged source.
fn probe_neighbours(ada: &Customer, one: &Seat, two: &Seat, three: &Seat) {
    for (what, target) in [("a neighbour of the same tenant", two), ("another tenant", three)] {
        must_not_reach(ada, "one", what, &tcp(&target.address, 22));
        must_not_reach(ada, "one", what, &ping(&target.address));
    }
    let (net, target) = (neighbour(&two.address), &two.address);
    let arp = format!(
        "sudo ip addr add {net}/24 dev eth0; ping -c 1 -W 2 {target} >/dev/null; \
         ip neigh show {target} | grep -q lladdr && echo reached; sudo ip addr del {net}/24 dev eth0"
    );
    must_not_reach(ada, "one", "a neighbour by ARP", &arp);
    let v6 = format!(
        "for i in 1 2; do ping -6 -c 1 -W 2 ff02::1%eth0; done | grep 'bytes from' | grep -v '{}' && echo reached",
        one.link_local
    );
    must_not_reach(ada, "one", "anything by IPv6", &v6);
    let (forged, gateway) = (&three.address, &one.gateway);
    let spoof = format!(
        "sudo ip addr add {forged}/32 dev eth0; ping -c 1 -W 2 -I {forged} {gateway} && echo reached; \
         sudo ip addr del {forged}/32 dev eth0"
    );
    must_not_reach(ada, "one", "the host with a spoofed address", &spoof);
}

/// A forged MAC, that of another machine: the guest keeps it for one command, and knows its gateway's all the while.
fn with_forged_mac(one: &Seat, command: &str) -> String {
    let (gateway, to) = (&one.gateway, &one.gateway_mac);
    let (mac, forged) = (&one.mac, FORGED_MAC);
    format!(
        "sudo ip link set eth0 address {forged}; sudo ip neigh replace {gateway} lladdr {to} nud permanent dev eth0; \
         {command}; sudo ip link set eth0 address {mac}; sudo ip neigh replace {gateway} lladdr {to} nud reachable dev eth0"
    )
}

/// Of no instance.
const FORGED_MAC: &str = "02:00:5e:10:00:66";

/// The neighbours by their own IPv6 addresses, their MACs known so that nothing waits for an answer; then with the address of
/// another as the source.
fn probe_neighbours_by_ipv6(ada: &Customer, two: &Seat, three: &Seat) {
    for (what, target) in [("a neighbour of the same tenant", two), ("another tenant", three)] {
        let to = format!("{}%eth0", target.link_local);
        let known =
            format!("sudo ip -6 neigh replace {} lladdr {} nud permanent dev eth0", target.link_local, target.mac);
        must_not_reach(ada, "one", what, &format!("{known}; {}", ping(&to)));
        must_not_reach(ada, "one", what, &tcp(&to, 22));
    }
    let (forged, target) = (&three.link_local, &two.link_local);
    let spoof = format!(
        "sudo ip -6 addr add {forged}/128 dev eth0 nodad; ping -6 -c 1 -W 2 -I {forged}%eth0 {target}%eth0 && echo reached; \
         sudo ip -6 addr del {forged}/128 dev eth0"
    );
    must_not_reach(ada, "one", "a neighbour with a spoofed IPv6 address", &spoof);
}

/// Services of the host, each of them listening: on its own address, and in the namespace that the guest's packets enter.
fn probe_host(cloud: &Cloud, ada: &Customer, one: &Seat) {
    probe_host_address(ada);
    let gateway_port = cloud.endpoint()["gateway"].as_str().expect("url").rsplit(':').next().expect("port").to_owned();
    let services = [
        ("a listener on the gateway's port", Listener::tcp(cloud, "0.0.0.0", gateway_port.parse().expect("a port"))),
        ("a listener on SSH's port", Listener::tcp(cloud, "0.0.0.0", 22)),
        ("a listener in the namespace", Listener::tcp(cloud, "0.0.0.0", 0)),
        ("a listener on every address of both families", Listener::tcp(cloud, "::", 0)),
    ];
    let datagrams = Listener::udp(cloud);
    let (to, port) = (&one.gateway, datagrams.port);
    for (what, listener) in &services {
        must_not_reach(ada, "one", what, &tcp(to, listener.port));
    }
    must_not_reach(ada, "one", "a UDP listener in the namespace", &udp(to, port, "closed"));
    must_not_reach(ada, "one", "UDP with a forged MAC", &with_forged_mac(one, &udp(to, port, "forged-closed")));

    // Only the firewall stands in between: without it the same probes get through.
    open(cloud, "input");
    for (what, listener) in &services {
        assert!(reaches(ada, "one", what, &tcp(to, listener.port)), "{what} is there");
    }
    assert!(reaches(ada, "one", "the opened UDP listener", &udp(to, port, "open")), "the UDP listener is there");
    must_not_reach(ada, "one", "UDP with a forged MAC", &with_forged_mac(one, &udp(to, port, "forged")));
    assert_eq!(datagrams.received(), ["open"], "what a forged MAC sends is dropped before");
    open(cloud, "source");
    let _ = reaches(ada, "one", "UDP with a forged MAC", &with_forged_mac(one, &udp(to, port, "forged-open")));
    assert_eq!(datagrams.received(), ["open", "forged-open"], "the check of the source is what drops it");
}

/// Accepts everything in a chain of the node's firewall.
fn open(cloud: &Cloud, chain: &str) {
    let mut command = inside(Some(&cloud.data().join("node/netns")), "nft");
    command.args(["insert", "rule", "inet", "lambda", chain, "accept"]);
    let _ = finish(command, None, Duration::from_secs(10)).ok();
}

fn probe_host_address(ada: &Customer) {
    let lent = host_address().is_none().then(LentAddress::add);
    let address = lent.as_ref().map_or_else(host_address, |_| Some(LentAddress::ADDRESS.into()));
    let address = address.expect("an address beside loopback");
    let listener = TcpListener::bind((address, 0)).expect("a port on the host's address");
    let at = listener.local_addr().expect("bound");
    drop(TcpStream::connect_timeout(&at, Duration::from_secs(5)).expect("the listener is reachable from the host"));
    must_not_reach(ada, "one", "a listener on the host's address", &tcp(&address.to_string(), at.port()));
}

/// With forwarding switched on and its chain opened, the first reaches the second: nothing else kept them apart.
fn the_forward_path_leads_there_once_opened(cloud: &Cloud, ada: &Customer, two: &Seat) {
    let switched = cloud.in_namespace("echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(switched, "1\n");
    must_not_reach(ada, "one", "a neighbour while only the firewall keeps them apart", &tcp(&two.address, 22));
    open(cloud, "forward");
    assert!(reaches(ada, "one", "a neighbour", &tcp(&two.address, 22)), "positive control: the forward path");
    assert!(reaches(ada, "one", "a neighbour", &ping(&two.address)), "positive control: the forward path");
}

/// Each probe arrived on the first instance's tap, and nothing of it on another.
fn probes_left_and_ended(packets: &[String], one: &Seat, two: &Seat, three: &Seat) {
    let on = |tap: &str| {
        let (start, middle) = (format!("{tap} "), format!(" {tap} "));
        packets.iter().filter(move |line| line.starts_with(&start) || line.contains(&middle)).collect::<Vec<_>>()
    };
    assert!(!packets.is_empty(), "packets were captured");
    // What the guest says of its own accord, without its answers to SSH.
    let answers = format!("{}.22 > {}", one.address, one.gateway);
    let arrived: Vec<_> =
        on(&one.tap).into_iter().filter(|line| !line.contains(" Out ") && !line.contains(&answers)).collect();
    let last = |address: &str| format!("> {address}");
    let expected = [
        ("TCP to a neighbour", vec![one.address.clone(), format!("> {}.22:", two.address)]),
        ("TCP to another tenant", vec![one.address.clone(), format!("> {}.22:", three.address)]),
        ("ping of a neighbour", vec![last(&two.address), "ICMP echo request".into()]),
        (
            "ARP for a neighbour",
            vec!["ARP".into(), format!("who-has {} tell {}", two.address, neighbour(&two.address))],
        ),
        ("IPv6 multicast", vec![one.link_local.clone(), "> ff02::1: ICMP6, echo request".into()]),
        ("ping of a neighbour by IPv6", vec![format!("{} > {}: ICMP6, echo request", one.link_local, two.link_local)]),
        (
            "ping of another tenant by IPv6",
            vec![format!("{} > {}: ICMP6, echo request", one.link_local, three.link_local)],
        ),
        ("TCP to a neighbour by IPv6", vec![one.link_local.clone(), format!("> {}.22: Flags [S]", two.link_local)]),
        (
            "TCP to another tenant by IPv6",
            vec![one.link_local.clone(), format!("> {}.22: Flags [S]", three.link_local)],
        ),
        ("a forged IPv6 source", vec![format!("{} > {}: ICMP6, echo request", three.link_local, two.link_local)]),
        (
            "a forged MAC",
            vec![FORGED_MAC.into(), format!("{}.", one.address), format!("> {}.", one.gateway), "UDP".into()],
        ),
        ("a forged source", vec![format!("{} > {}: ICMP echo request", three.address, one.gateway)]),
    ];
    for (what, parts) in &expected {
        let seen = arrived.iter().any(|line| parts.iter().all(|part| line.contains(part.as_str())));
        assert!(seen, "{what} did not leave the guest ({parts:?}):\n{arrived:#?}");
    }
    for other in [two, three] {
        let lines = on(&other.tap);
        assert!(!lines.is_empty(), "{} was captured", other.tap);
        let forged = FORGED_MAC.to_owned();
        for mark in [&one.address, &one.link_local, &one.gateway, &neighbour(&two.address), &forged] {
            let crossed: Vec<_> = lines.iter().filter(|line| mentions(line, mark)).collect();
            assert!(crossed.is_empty(), "{mark} was seen on {}: {crossed:#?}", other.tap);
        }
    }
    for mark in [&three.address, &three.link_local] {
        let crossed: Vec<_> = on(&two.tap).into_iter().filter(|line| mentions(line, mark)).collect();
        assert!(crossed.is_empty(), "{mark}, a forged source, was seen on {}: {crossed:#?}", two.tap);
    }
}

#[test]
fn instances_reach_neither_each_other_nor_the_host() {
    let cloud = Cloud::start();
    let (ada, bob) = (cloud.customer("ada"), cloud.customer("bob"));
    let _ = ada.create("one", &[]).ok();
    let _ = ada.create("two", &[]).ok();
    let _ = bob.create("three", &[]).ok();
    let netns = cloud.data().join("node/netns");
    let capture = Capture::start("any", Some(&netns), cloud.scratch().join("taps.pcap"));
    let (one, two, three) =
        (Seat::of(&cloud, &ada, "one"), Seat::of(&cloud, &ada, "two"), Seat::of(&cloud, &bob, "three"));

    the_probes_can_reach(&ada, "one", &one);
    probe_neighbours(&ada, &one, &two, &three);
    probe_neighbours_by_ipv6(&ada, &two, &three);
    probe_host(&cloud, &ada, &one);
    probes_left_and_ended(&packets(Some(&netns), &capture.stop()), &one, &two, &three);

    the_forward_path_leads_there_once_opened(&cloud, &ada, &two);

    // And across tenants through the API: another tenant's instance does not exist.
    let id = bob.id("three");
    assert_eq!(ada.run(["instance", "show", &id]).code, 4);
    assert_eq!(ada.run(["instance", "stop", &id]).code, 4);
    assert_ne!(ada.ssh(&id, "true").code, 0);
    assert_eq!(bob.show("three")["state"], "ready");
}

/// An address in the same /24, to make the guest ask for `address` by ARP.
fn neighbour(address: &str) -> String {
    let (net, _) = address.rsplit_once('.').expect("an IPv4 address");
    format!("{net}.254")
}
