//! `kill -9` of everything, at each phase of a creation; a full disk; a port in use; a missing QEMU; a broker that is away.

use std::time::Duration;

use lambda_e2e::cloud::{Options, processes};
use lambda_e2e::{BOOT, Cloud, Customer, wait_for};

/// Starts a creation in the background and waits until the instance is in one of the states.
fn create_until(customer: &Customer, name: &str, states: &[&str]) -> std::process::Child {
    let key = format!("{}.pub", customer.ssh_key.display());
    let args = [
        "instance",
        "create",
        "--name",
        name,
        "--image",
        "debian-12",
        "--ssh-key",
        &key,
        "--shape",
        "nano",
        "--volume-gib",
        "2",
    ];
    let child = customer.command(args).stdout(std::process::Stdio::null()).spawn().expect("the CLI starts");
    wait_for(&format!("{name} in {states:?}"), BOOT, || {
        let output = customer.run(["instance", "show", name, "-o", "json"]);
        let state = serde_json::from_str::<serde_json::Value>(&output.stdout)
            .ok()
            .and_then(|value| value["state"].as_str().map(str::to_owned))
            .ok_or_else(|| output.all())?;
        if states.contains(&state.as_str()) { Ok(()) } else { Err(state) }
    });
    child
}

/// Pids of this cloud's instances' processes whose program is named `what…`. Their command lines name no folder: they work
/// in their instance's.
fn pids(cloud: &Cloud, what: &str) -> Vec<i32> {
    let instances = cloud.data().join("node/instances");
    let named = |line: &str| {
        let program = line.split(' ').next().unwrap_or_default();
        program.rsplit('/').next().is_some_and(|name| name.starts_with(what))
    };
    let within = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&instances));
    let found = processes().into_iter().filter(|(pid, line)| named(line) && within(*pid));
    found.map(|(pid, _)| pid).collect()
}

#[test]
fn killing_a_daemon_at_any_phase_of_a_creation_loses_nothing() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let phases: [(&str, &[&str]); 3] = [
        ("control", &["preparing", "booting"]),
        ("node", &["booting", "attesting"]),
        ("gateway", &["attesting", "unlocking", "starting"]),
    ];
    for (index, (role, states)) in phases.into_iter().enumerate() {
        let name = format!("i{index}");
        let mut create = create_until(&customer, &name, states);
        Cloud::signal(cloud.pid(role), "KILL");
        let status = wait_for("the creation to end", BOOT, || {
            create.try_wait().ok().flatten().ok_or_else(|| customer.run(["instance", "why", &name]).all())
        });
        assert!(status.success(), "creation with {role} killed: {}", customer.run(["instance", "why", &name]).all());
        assert_eq!(customer.ssh(&name, "echo alive").ok().trim(), "alive", "after killing {role}");
        assert_eq!(pids(&cloud, "qemu-system").len(), 1, "one QEMU after killing {role}");
        let _ = customer.run(["instance", "delete", &name]).ok();
        wait_for("its processes to end", Duration::from_secs(60), || {
            let left = [pids(&cloud, "qemu-system"), pids(&cloud, "swtpm")].concat();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

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
    assert_ne!(output.code, 0);
    assert!(output.all().contains("qemu-start"), "{}", output.all());
}

#[test]
fn a_port_in_use_is_named() {
    let cloud = Cloud::start();
    let gateway = cloud.endpoint()["gateway"].as_str().expect("url").trim_start_matches("https://").to_owned();
    let other = cloud.scratch().join("other");
    let mut command = cloud.lambdad(["up", "--listen"]);
    command.arg(&gateway).arg("--data").arg(&other);
    let output = lambda_e2e::customer::finish(command, None, Duration::from_secs(60));
    assert_ne!(output.code, 0);
    assert!(output.all().contains(&gateway), "the address is named: {}", output.all());
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
    // The condition states how long the guest will wait; a minute passes with nobody there.
    let away = std::time::Instant::now();
    wait_for("a minute without a broker", Duration::from_secs(90), || {
        if away.elapsed() >= Duration::from_secs(60) { Ok(()) } else { Err("waiting".into()) }
    });
    let policy = cloud.scratch().join("policy.json").display().to_string();
    let _ = customer.run(["policy", "new", "--from", &cloud.image().display().to_string(), "--out", &policy]).ok();
    let mut broker = customer.command(["broker", "run", "--policy", &policy]).spawn().expect("the broker starts");
    wait_for("the instance to be ready", BOOT, || {
        let state = customer.show("web")["state"].clone();
        if state == "ready" { Ok(()) } else { Err(state.to_string()) }
    });
    let _ = broker.kill();
    let _ = broker.wait();
}
