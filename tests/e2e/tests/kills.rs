//! `kill -9` of each process at each phase of a creation, in whole clouds with real guests.
//!
//! | killed | preparing | booting | attesting | unlocking | starting | ready |
//! |---|---|---|---|---|---|---|
//! | gateway | goes on | goes on | goes on | goes on | goes on | runs on |
//! | control plane | goes on | goes on | goes on | goes on | goes on | runs on |
//! | node agent | goes on | goes on | goes on | goes on | goes on | runs on |
//! | supervisor | goes on | goes on | goes on | goes on | goes on | runs on |
//! | QEMU | (1) | `qemu-exit` | `qemu-exit` | `qemu-exit` | `qemu-exit` | `qemu-exit` (2) |
//! | swtpm | (3) | `vtpm` | `vtpm` | `vtpm` | `vtpm` | runs on, degraded by `vtpm` (2) |
//!
//! *Goes on*: the command that creates it succeeds, with the processes and the boot that it had. In every cell the other
//! instance keeps its processes and its boot.
//!
//! 1. The phase ends with QEMU's start: there is none to kill. One that is killed before it answered its monitor is
//!    `qemu-start`; the node's own tests have it.
//! 2. `a_killed_qemu_or_vtpm_is_reported_and_a_start_brings_the_instance_back` in `faults.rs`.
//! 3. Preparation takes less time than it takes to find the process. The node's own tests hold it open with a slow `nft` and
//!    kill agent and swtpm there; here preparation lasts because the agent is stopped before the instance is desired.

use std::process::Child;
use std::time::Duration;

use lambda_e2e::customer::Broker;
use lambda_e2e::node::{Instance, Paused, pids};
use lambda_e2e::{BOOT, Cloud, Customer, wait_for};

/// Starts a creation in the background and waits until the instance is known.
fn create(cloud: &Cloud, customer: &Customer, name: &str) -> (Child, Instance) {
    let key = format!("{}.pub", customer.ssh_key.display());
    let mut command = customer.command(["instance", "create", "--image", "debian-12", "--shape", "nano"]);
    command.args(["--volume-gib", "2", "--name", name, "--ssh-key", &key]).stdout(std::process::Stdio::null());
    let child = command.spawn().expect("the CLI starts");
    let id = wait_for("the instance to be known", Duration::from_secs(60), || {
        let output = customer.run(["instance", "show", name, "-o", "json"]);
        let shown: Option<serde_json::Value> = serde_json::from_str(&output.stdout).ok();
        shown.and_then(|shown| shown["id"].as_str().map(str::to_owned)).ok_or_else(|| output.all())
    });
    (child, Instance::new(cloud, id))
}

fn succeeds(customer: &Customer, name: &str, mut create: Child) {
    let status = wait_for("the creation to end", BOOT, || {
        create.try_wait().ok().flatten().ok_or_else(|| customer.run(["instance", "why", name]).all())
    });
    assert!(status.success(), "{status}: {}", customer.run(["instance", "why", name]).all());
}

fn await_state(customer: &Customer, name: &str, state: &str) {
    wait_for(&format!("{name} in state {state}"), BOOT, || {
        let shown = customer.show(name);
        if shown["state"] == state { Ok(()) } else { Err(shown.to_string()) }
    });
}

fn await_why(customer: &Customer, name: &str, what: &str) {
    wait_for(&format!("{name} to say {what}"), Duration::from_secs(60), || {
        let why = customer.run(["instance", "why", name, "-o", "json"]).all();
        if why.contains(what) { Ok(()) } else { Err(why) }
    });
}

/// An instance that runs, and what must not change of it.
struct Running {
    instance: Instance,
    processes: [i32; 2],
    boot: String,
}

impl Running {
    fn new(instance: Instance) -> Self {
        let processes = [instance.pid("qemu"), instance.pid("swtpm")];
        let boot = instance.record()["boot"].to_string();
        Self { instance, processes, boot }
    }

    fn unchanged(&self, when: &str) {
        let mut running = self.instance.processes();
        running.sort_unstable();
        let mut known = self.processes;
        known.sort_unstable();
        assert_eq!(running, known, "one QEMU and one swtpm of {}, {when}", self.instance.id);
        let record = self.instance.record();
        assert_eq!(
            (record["boot"].to_string(), &record["outcome"]),
            (self.boot.clone(), &serde_json::Value::Null),
            "{when}"
        );
    }
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// Kills every daemon in turn. The instance stays in its state, and both keep their processes and boots.
fn kill_all(cloud: &mut Cloud, customer: &Customer, state: &str, instance: &Instance, other: &Running) {
    let before = Running::new(instance.clone());
    for role in ["gateway", "control", "node", "supervisor"] {
        if role == "supervisor" {
            cloud.kill_supervisor();
        } else {
            cloud.kill(role);
        }
        let when = format!("{role} killed while {state}");
        await_state(customer, "web", state);
        before.unchanged(&when);
        other.unchanged(&when);
        assert_eq!(pids(cloud, "qemu-system").len(), 2, "{when}");
    }
}

#[test]
fn a_creation_goes_on_whichever_daemon_is_killed_in_whichever_phase() {
    let mut cloud = Cloud::start();
    let customer = cloud.customer("ada");

    // Preparing: the agent does not get to hear of what it should prepare.
    let agent = Paused::new(cloud.pid("node"));
    let (created, other) = create(&cloud, &customer, "other");
    await_state(&customer, "other", "preparing");
    cloud.kill_supervisor();
    drop(agent);
    succeeds(&customer, "other", created);
    let other = Running::new(other);
    let boot = customer.ssh("other", BOOT_ID).ok();

    let agent = Paused::new(cloud.pid("node"));
    let (created, web) = create(&cloud, &customer, "web");
    for role in ["gateway", "control", "node"] {
        await_state(&customer, "web", "preparing");
        cloud.kill(role);
        other.unchanged(&format!("{role} killed while preparing"));
    }
    drop(agent);

    // Without its broker the guest stays in attestation; in the other phases its QEMU stands still.
    web.await_phase("booting");
    let broker = Paused::new(i32::try_from(created.id()).expect("a pid"));
    let guest = Paused::new(web.pid("qemu"));
    kill_all(&mut cloud, &customer, "booting", &web, &other);
    drop(guest);
    web.await_phase("attesting");
    await_why(&customer, "web", "awaiting-broker");
    kill_all(&mut cloud, &customer, "attesting", &web, &other);
    drop(broker);
    for state in ["unlocking", "starting"] {
        web.await_phase(state);
        let guest = Paused::new(web.pid("qemu"));
        kill_all(&mut cloud, &customer, state, &web, &other);
        drop(guest);
    }
    succeeds(&customer, "web", created);
    kill_all(&mut cloud, &customer, "ready", &web, &other);

    assert_eq!(customer.ssh("web", "echo alive").ok().trim(), "alive");
    assert_eq!(customer.ssh("other", BOOT_ID).ok(), boot, "the other one was never started anew");
    ends_clean(&cloud, &customer, &["web", "other"]);
}

/// Deletes them; nothing of them may remain on the node.
fn ends_clean(cloud: &Cloud, customer: &Customer, names: &[&str]) {
    for name in names {
        let _ = customer.run(["instance", "delete", name]).ok();
    }
    assert_eq!(lambda_e2e::cloud::volumes_left(cloud), 0);
    assert_eq!([pids(cloud, "qemu-system"), pids(cloud, "swtpm")].concat(), Vec::<i32>::new());
    let network = cloud.in_namespace("ip -o link; nft list ruleset");
    assert!(!network.contains("lam1") && !network.contains("lam2"), "{network}");
}

/// Two instances boot side by side; in each of these phases one loses its QEMU and the other its vTPM. Then both boot once more.
fn killed_while(phases: &[&str], broker: impl FnOnce(&Cloud, &Customer) -> Option<Broker>, last: &str) {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _broker = broker(&cloud, &customer);
    let killed = [("one", "qemu", "qemu-exit"), ("two", "swtpm", "vtpm")];
    let instances = killed.map(|(name, ..)| {
        let _ = customer.create(name, &["--detach"]).ok();
        Instance::new(&cloud, customer.id(name))
    });
    for (epoch, phase) in (1..).zip(phases) {
        std::thread::scope(|scope| {
            for (instance, (_, process, _)) in instances.iter().zip(killed) {
                scope.spawn(move || {
                    instance.await_phase(phase);
                    instance.await_answer();
                    Cloud::signal(instance.pid(process), "KILL");
                });
            }
        });
        for (instance, (name, process, code)) in instances.iter().zip(killed) {
            let when = format!("{process} killed while {phase}");
            await_why(&customer, name, code);
            let shown = customer.show(name);
            assert_eq!(shown["state"], "failed", "{when}: {shown}");
            let record = instance.record();
            assert_eq!((&record["epoch"], &record["phase"]), (&epoch.into(), &"failed".into()), "{when}: {record}");
            assert_eq!(instance.processes(), Vec::<i32>::new(), "{when}");
            assert_eq!([instance.leftovers(), instance.network(&cloud)].concat(), Vec::<String>::new(), "{when}");
            let _ = customer.run(["instance", "start", "--detach", name]).ok();
        }
    }
    for (name, ..) in killed {
        await_state(&customer, name, last);
        assert!(last != "ready" || customer.ssh(name, "echo alive").ok().trim() == "alive");
    }
    ends_clean(&cloud, &customer, &["one", "two"]);
}

#[test]
fn a_qemu_or_vtpm_killed_before_the_keys_are_there_fails_its_boot_and_not_the_next() {
    killed_while(&["booting", "attesting"], |_, _| None, "attesting");
}

#[test]
fn a_qemu_or_vtpm_killed_once_the_keys_are_there_fails_its_boot_and_not_the_next() {
    killed_while(&["unlocking", "starting"], |cloud, customer| Some(customer.broker(cloud)), "ready");
}
