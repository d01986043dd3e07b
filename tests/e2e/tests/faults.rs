//! A ready guest that loses its QEMU or its vTPM, daemons that are away, a port in use, a missing QEMU, a broker that is away.
//! `kills.rs` has each process at each phase of a creation, `full_disk.rs` a full disk.

use std::time::Duration;

use lambda_e2e::cloud::{Options, processes};
use lambda_e2e::node::{Instance, pids};
use lambda_e2e::{BOOT, Cloud, wait_for};

#[test]
fn a_killed_qemu_or_vtpm_is_reported_and_a_start_brings_the_instance_back() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &[]).ok();
    let _ = customer.ssh("web", "echo kept | sudo tee /var/lib/kept && sync").ok();
    // Without its QEMU an instance has failed; without its vTPM it runs on, and cannot attest.
    for (what, code, mend) in [("qemu-system", "qemu-exit", "start"), ("swtpm", "vtpm", "restart")] {
        Cloud::signal(*pids(&cloud, what).first().expect("it runs"), "KILL");
        wait_for("the failure to be reported", Duration::from_secs(60), || {
            let why = customer.run(["instance", "why", "web", "-o", "json"]).stdout;
            if why.contains(code) { Ok(()) } else { Err(why) }
        });
        let _ = customer.run(["instance", mend, "web"]).ok();
        assert_eq!(customer.ssh("web", "cat /var/lib/kept").ok().trim(), "kept", "after {what}");
    }
}

#[test]
fn guests_outlive_all_daemons_and_are_found_again() {
    let mut cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &[]).ok();
    let boot = customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok();
    cloud.stop();
    assert_eq!(pids(&cloud, "qemu-system").len(), 1, "the guest runs on");
    cloud.up();
    let endpoint = cloud.endpoint();
    let gateway = endpoint["gateway"].as_str().expect("url");
    let ca = endpoint["ca"].as_str().expect("path");
    let _ = customer.run(["connect", gateway, "--ca", ca]).ok();
    assert_eq!(customer.ssh("web", "cat /proc/sys/kernel/random/boot_id").ok(), boot, "the same boot");
}

#[test]
fn a_missing_qemu_is_reported_with_its_code() {
    let missing = Options { qemu: Some("/nonexistent/qemu-system-x86_64".into()), ..Options::default() };
    let cloud = Cloud::start_with(missing);
    let customer = cloud.customer("ada");
    let output = customer.create("web", &[]);
    assert_eq!(output.code, 1);
    assert!(output.all().contains("qemu-start"), "{}", output.all());
    let shown = customer.show("web");
    assert_eq!(shown["state"], "failed", "{shown}");
    let why = customer.run(["instance", "why", "web"]).ok();
    assert!(why.contains("QEMU did not start") && why.contains("[qemu-start]"), "{why}");
    let web = Instance::new(&cloud, customer.id("web"));
    assert_eq!(web.processes(), Vec::<i32>::new());
    assert_eq!([web.leftovers(), web.network(&cloud)].concat(), Vec::<String>::new());
}

#[test]
fn a_port_in_use_is_named() {
    let cloud = Cloud::start();
    let gateway = cloud.endpoint()["gateway"].as_str().expect("url").trim_start_matches("https://").to_owned();
    let other = cloud.scratch().join("other");
    let mut command = cloud.lambdad(["up", "--listen"]);
    command.arg(&gateway).arg("--data").arg(&other);
    let output = lambda_e2e::customer::finish(command, None, Duration::from_secs(60));
    assert_eq!(output.code, 1);
    assert!(output.all().contains(&gateway), "the address is named: {}", output.all());
    let mark = other.display().to_string();
    let left: Vec<_> = processes().into_iter().filter(|(_, line)| line.contains(&mark)).collect();
    assert!(left.is_empty(), "nothing of it was started: {left:?}");
    let _ = cloud.customer("ada").run(["instance", "list"]).ok();
}

#[test]
fn a_role_that_runs_by_itself_names_its_port_in_use() {
    let cloud = Cloud::start();
    let settings = settings(&cloud);
    for (role, listener) in [("gateway", "gateway"), ("control", "control"), ("node", "tunnel")] {
        let address = settings[listener].as_str().expect("an address");
        let mut command = cloud.lambdad([role, "--data"]);
        command.arg(cloud.data());
        let output = lambda_e2e::customer::finish(command, None, Duration::from_secs(60));
        assert_eq!(output.code, 1, "{role}: {}", output.all());
        assert!(output.all().contains(&format!("cannot listen on {address}: another program")), "{}", output.all());
    }
    let _ = cloud.customer("ada").run(["instance", "list"]).ok();
}

#[test]
fn internal_ports_that_were_taken_meanwhile_are_exchanged_for_free_ones() {
    let mut cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let before = settings(&cloud);
    cloud.stop();
    let internal = ["control", "tunnel"];
    let taken = internal.map(|listener| {
        let address = before[listener].as_str().expect("an address");
        std::net::TcpListener::bind(address).unwrap_or_else(|error| panic!("{listener} on {address}: {error}"))
    });
    cloud.up();
    let after = settings(&cloud);
    assert_eq!(after["gateway"], before["gateway"], "customers know the public one");
    for listener in internal {
        assert_ne!(after[listener], before[listener], "{listener}");
    }
    let _ = customer.create("web", &[]).ok();
    assert_eq!(customer.ssh("web", "echo alive").ok(), "alive\n", "over control plane and tunnel on other ports");
    drop(taken);
}

/// The addresses that the daemons of this cloud listen on.
fn settings(cloud: &Cloud) -> serde_json::Value {
    let bytes = std::fs::read(cloud.data().join("settings.json")).expect("the cloud has settings");
    serde_json::from_slice(&bytes).expect("JSON")
}

#[test]
fn a_broker_that_is_away_for_a_minute_is_waited_for() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &["--detach"]).ok();
    wait_for("the guest to ask for its broker", BOOT, || {
        let why = customer.run(["instance", "why", "web", "-o", "json"]).stdout;
        if why.contains("awaiting-broker") { Ok(()) } else { Err(why) }
    });
    let (qemu, boot) = (pids(&cloud, "qemu-system"), customer.show("web")["boot"].clone());
    // The condition states how long the guest will wait; a minute passes with nobody there.
    let away = std::time::Instant::now();
    wait_for("a minute without a broker", Duration::from_secs(90), || {
        if away.elapsed() >= Duration::from_secs(60) { Ok(()) } else { Err("waiting".into()) }
    });
    let shown = customer.show("web");
    let (state, conditions) = (&shown["state"], shown["conditions"].as_array().expect("a list"));
    assert_eq!(state, "attesting", "{shown}");
    let waits = conditions.iter().find(|it| it["kind"] == "awaiting-broker").expect("it still waits for its broker");
    assert!(waits["until_ms"].as_u64() > waits["since_ms"].as_u64(), "the wait is bounded: {waits}");
    assert_eq!((pids(&cloud, "qemu-system"), &shown["boot"]), (qemu.clone(), &boot), "the same boot waits");
    let broker = customer.broker(&cloud);
    wait_for("the instance to be ready", BOOT, || {
        let state = customer.show("web")["state"].clone();
        if state == "ready" { Ok(()) } else { Err(state.to_string()) }
    });
    assert_eq!((pids(&cloud, "qemu-system"), &customer.show("web")["boot"]), (qemu, &boot), "and is ready");
    drop(broker);
}
