//! Real guests, from the first instruction of the firmware to an answer over SSH.

mod support;

use lambda_types::InstanceId;
use lambda_types::guest::{FromGuest, GuestPhase, ToGuest};
use support::{BOUND, Broker, Machine, Options, new_volume};

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
    if std::env::var_os("LAMBDA_GUEST_CONSOLE").is_some() {
        println!(
            "{}",
            broker.ssh(
                &machine,
                "sudo dmesg | grep -v audit | tail -60; systemd-analyze; systemd-analyze blame | head -20"
            )
        );
    }
    assert_eq!(broker.ssh(&machine, "cat kept").trim(), "kept");
}
