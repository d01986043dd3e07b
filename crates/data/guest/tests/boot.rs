//! Real guests, from the first instruction of the firmware to an answer over SSH.

mod support;

use lambda_types::InstanceId;
use lambda_types::guest::{FromGuest, GuestPhase, ToGuest};
use support::{BOUND, Broker, Machine, Options, new_volume};
use zeroize::Zeroizing;

const GIB: u64 = 1024 * 1024 * 1024;

#[test]
fn a_guest_boots_to_ssh_keeps_its_data_over_a_restart_and_shuts_down_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), GIB);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();
    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    println!("first boot: {:?}", machine.phases);
    assert!(broker.ssh(&machine, "cat /etc/os-release").contains("Debian"));
    assert_eq!(broker.ssh(&machine, "hostname").trim(), "web");
    broker.ssh(&machine, "echo kept > kept && sync");
    machine.send(&ToGuest::Shutdown);
    while !matches!(machine.receive(BOUND), FromGuest::Report { phase: GuestPhase::Stopping, .. }) {}
    machine.powered_off();
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    println!("second boot: {:?}", machine.phases);
    assert_eq!(broker.ssh(&machine, "cat kept").trim(), "kept");
    let recovered = broker.ssh(&machine, "sudo dmesg | grep 'EXT4-fs.*recovery' || true");
    assert_eq!(recovered, "", "the file system was unmounted");
}

#[test]
fn the_serial_console_carries_nothing_after_the_release_and_user_data_runs_once() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), GIB);
    let mut options = Options::new(&volume, InstanceId::random().unwrap());
    let console = folder.path().join("console");
    options.console = Some(console.clone());
    let mut broker = Broker::new();
    broker.secrets.user_data = Some(Zeroizing::new(b"#!/bin/sh\necho ran >> /root/ran\n".to_vec()));
    broker.secrets.environment.insert("COLOUR".into(), Zeroizing::new("deep blue".into()));
    for _ in 0..2 {
        let mut machine = Machine::start(&options);
        broker.bring_up(&mut machine);
        assert_eq!(broker.ssh(&machine, "echo $COLOUR").trim(), "deep blue");
        broker.ssh(
            &machine,
            "echo '<0>canary-on-the-console' | sudo tee /dev/kmsg; systemctl is-system-running --wait; sync",
        );
        assert!(broker.ssh(&machine, "sudo dmesg").contains("canary-on-the-console"));
        assert_eq!(broker.ssh(&machine, "sudo cat /root/ran").trim(), "ran");
        let printed = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
        assert!(printed.contains("Run /init"), "the console works: {printed}");
        for later in ["canary-on-the-console", "lambda-guest: released", "EXT4-fs", "systemd"] {
            let lines: Vec<&str> = printed.lines().filter(|line| line.contains(later)).collect();
            let measured = lines.iter().all(|line| line.contains("ommand line"));
            assert!(measured, "{lines:?}");
        }
    }
}
