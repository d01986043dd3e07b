//! What instances can reach: nothing but their owner.

use lambda_e2e::{Cloud, Customer};

/// Runs a probe in the guest that must fail; the probe prints `reached` when it got through.
fn must_not_reach(customer: &Customer, name: &str, what: &str, script: &str) {
    let output = customer.ssh(name, script);
    assert!(!output.all().contains("reached"), "{what} was reached:\n{}", output.all());
}

#[test]
fn instances_reach_neither_each_other_nor_the_host() {
    let cloud = Cloud::start();
    let (ada, bob) = (cloud.customer("ada"), cloud.customer("bob"));
    let _ = ada.create("one", &[]).ok();
    let _ = ada.create("two", &[]).ok();
    let _ = bob.create("three", &[]).ok();

    let address = |customer: &Customer, name: &str| {
        let text = customer.ssh(name, "ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1").ok();
        text.trim().to_owned()
    };
    let gateway = ada.ssh("one", "ip route show default | awk '{print $3}'").ok().trim().to_owned();
    let (two, three) = (address(&ada, "two"), address(&bob, "three"));
    assert!(!two.is_empty() && !three.is_empty() && !gateway.is_empty());
    // The probe itself works: it reaches a port that is open to it.
    let control = ada.ssh("one", "timeout 3 bash -c 'echo > /dev/tcp/127.0.0.1/22' && echo reached").ok();
    assert!(control.contains("reached"), "positive control: {control}");
    for loopback in ["127.0.0.1", "::1"] {
        let control = ada.ssh("one", &format!("ping -c 1 -W 2 {loopback} && echo reached")).ok();
        assert!(control.contains("reached"), "positive control: {control}");
    }

    let gateway_port = cloud.endpoint()["gateway"].as_str().expect("url").rsplit(':').next().expect("port").to_owned();
    for (what, target) in [("a neighbour of the same tenant", &two), ("another tenant", &three)] {
        let tcp = format!("timeout 3 bash -c 'echo > /dev/tcp/{target}/22' && echo reached");
        must_not_reach(&ada, "one", what, &tcp);
        let ping = format!("ping -c 1 -W 2 {target} && echo reached");
        must_not_reach(&ada, "one", what, &ping);
    }
    for port in ["22", &gateway_port] {
        let tcp = format!("timeout 3 bash -c 'echo > /dev/tcp/{gateway}/{port}' && echo reached");
        must_not_reach(&ada, "one", "a service of the host", &tcp);
    }
    // ARP for a neighbour's address, IPv6 neighbours, and a spoofed source address.
    let arp = format!(
        "sudo ip addr add {two_net}/24 dev eth0 2>/dev/null; ping -c 1 -W 2 {two} >/dev/null; \
         ip neigh show {two} | grep -q lladdr && echo reached; true",
        two_net = neighbour(&two)
    );
    must_not_reach(&ada, "one", "a neighbour by ARP", &arp);
    let v6 = "for i in 1 2; do ping -6 -c 1 -W 2 ff02::1%eth0; done | grep 'bytes from' \
              | grep -v \"$(ip -6 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1 | head -1)\" && echo reached; true";
    must_not_reach(&ada, "one", "anything by IPv6", v6);
    let spoof = format!(
        "sudo ip addr add {three}/32 dev eth0; ping -c 1 -W 2 -I {three} {gateway} && echo reached; \
         sudo ip addr del {three}/32 dev eth0; true"
    );
    must_not_reach(&ada, "one", "the host with a spoofed address", &spoof);

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
