//! `kill -9` of control plane and supervisor right after an operation on an instance was accepted: it is done once all the
//! same, and nothing is left over.

use std::time::Duration;

use lambda_e2e::node::{Instance, pids};
use lambda_e2e::{BOOT, Cloud, Customer, wait_for};

/// The operation is accepted; then the control plane is killed, and with the supervisor the other roles.
fn accepted_then_killed(cloud: &mut Cloud, customer: &Customer, operation: &[&str]) {
    let _ = customer.run([&["instance"], operation].concat()).ok();
    cloud.kill_supervisor_and(&["control"]);
}

/// Waits for this state of the instance in this epoch: each start is one.
fn await_state(customer: &Customer, instance: &Instance, state: &str, epoch: u64) {
    wait_for(&format!("web {state} in epoch {epoch}"), BOOT, || {
        let (shown, record) = (customer.show("web"), instance.record());
        if shown["state"] == state && record["epoch"] == epoch { Ok(()) } else { Err(format!("{shown} {record}")) }
    });
}

/// Neither process, socket, unfinished file, tap nor rule of the instance.
fn nothing_runs(cloud: &Cloud, instance: &Instance, when: &str) {
    assert_eq!(instance.processes(), Vec::<i32>::new(), "{when}");
    assert_eq!([instance.leftovers(), instance.network(cloud)].concat(), Vec::<String>::new(), "{when}");
}

#[test]
fn operations_that_were_accepted_are_done_although_the_control_plane_and_its_supervisor_are_killed() {
    let mut cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &["--volume-gib", "1"]).ok();
    let web = Instance::new(&cloud, customer.id("web"));
    let _ = customer.ssh("web", "echo kept | sudo tee /var/lib/kept && sync").ok();
    let _broker = customer.broker(&cloud);

    accepted_then_killed(&mut cloud, &customer, &["resize", "web", "--volume-gib", "2"]);
    assert_eq!(customer.show("web")["volume_gib"], 2);
    await_state(&customer, &web, "ready", 1);

    let before = customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok();
    let qemu = web.pid("qemu");
    accepted_then_killed(&mut cloud, &customer, &["restart", "--detach", "web"]);
    await_state(&customer, &web, "ready", 2);
    assert!(!lambda_e2e::node::runs(qemu), "the earlier QEMU has ended");
    assert_eq!(pids(&cloud, "qemu-system"), [web.pid("qemu")], "restarted once");
    assert_ne!(customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok(), before, "another boot");
    let size = customer.ssh("web", "df -BM --output=size / | tail -n 1 | tr -dc 0-9").ok();
    assert!(size.trim().parse::<u64>().expect("a number") > 1024, "resized: {size} MiB");

    accepted_then_killed(&mut cloud, &customer, &["stop", "--detach", "web"]);
    await_state(&customer, &web, "stopped", 2);
    nothing_runs(&cloud, &web, "stopped");

    accepted_then_killed(&mut cloud, &customer, &["start", "--detach", "web"]);
    await_state(&customer, &web, "ready", 3);
    assert_eq!(pids(&cloud, "qemu-system"), [web.pid("qemu")], "started once");
    assert_eq!(customer.ssh("web", "cat /var/lib/kept").ok(), "kept\n");

    let slot = web.record()["slot"].to_string();
    accepted_then_killed(&mut cloud, &customer, &["delete", "--detach", "web"]);
    wait_for("the instance to be gone", Duration::from_secs(120), || {
        let shown = customer.run(["instance", "show", &web.id]);
        if shown.code == 4 { Ok(()) } else { Err(shown.all()) }
    });
    assert_eq!(lambda_e2e::cloud::volumes_left(&cloud), 0);
    assert_eq!([pids(&cloud, "qemu-system"), pids(&cloud, "swtpm")].concat(), Vec::<i32>::new());
    let network = cloud.in_namespace("ip -o link; nft list ruleset");
    assert!(!network.contains(&format!("lam{slot}")), "{network}");
}
