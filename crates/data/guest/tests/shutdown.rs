//! Real guests that leave their volume as if it had never been open: nothing to replay at the next boot.

mod support;

use lambda_types::InstanceId;
use support::{Broker, Machine, Options, new_volume};

const VOLUME_BYTES: u64 = 256 * 1024 * 1024;

/// What the kernel said when it mounted the volume in this boot.
fn mounting(broker: &Broker, machine: &Machine) -> String {
    let said = broker.ssh(machine, "sudo dmesg | grep EXT4-fs");
    assert!(said.contains("mounted filesystem"), "{said}");
    said
}

#[test]
fn after_a_reboot_nothing_is_recovered_and_after_a_power_cut_the_journal_is() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    broker.ssh(&machine, "echo one > kept; sudo systemctl --no-block reboot");
    machine.powered_off();
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    let said = mounting(&broker, &machine);
    assert!(!said.contains("recovery"), "a clean end leaves nothing to replay: {said}");
    assert_eq!(broker.ssh(&machine, "cat kept").trim(), "one");
    broker.ssh(&machine, "echo two > kept && sync");
    machine.kill();
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    assert!(mounting(&broker, &machine).contains("recovery complete"), "a power cut leaves a journal to replay");
    assert_eq!(broker.ssh(&machine, "cat kept").trim(), "two");
}
