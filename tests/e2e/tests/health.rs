//! What a ready guest finds wrong with itself reaches its customer as a condition, and goes when it is mended.

use std::time::Duration;

use lambda_e2e::{Cloud, Customer, wait_for};

/// The guest looks every 5 s, twice before it says that SSH is gone; the rest is for a busy host.
const NOTICED: Duration = Duration::from_secs(90);

/// What `why` prints once it contains `wanted`.
fn why(customer: &Customer, wanted: &str) -> String {
    wait_for(&format!("`{wanted}` from `why`"), NOTICED, || {
        let said = customer.run(["instance", "why", "web"]).all();
        if said.contains(wanted) { Ok(said) } else { Err(said) }
    })
}

#[test]
fn an_sshd_that_stops_is_named_while_it_is_gone_and_the_guest_runs_on() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &[]).ok();
    let boot = customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok();
    why(&customer, "It waits for nothing.");
    let stop = "sudo systemd-run --quiet --on-active=40s systemctl start ssh && sudo systemctl stop ssh";
    let _ = customer.ssh("web", stop).ok();

    let said = why(&customer, "[ssh-unreachable] [degraded;");
    assert!(said.contains("is ready"), "{said}");
    let shown = customer.run(["instance", "show", "web"]).ok();
    assert!(shown.lines().any(|line| line.starts_with("degraded") && line.contains("[ssh-unreachable]")), "{shown}");

    why(&customer, "It waits for nothing.");
    assert_eq!(customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok(), boot, "the same boot throughout");
}
