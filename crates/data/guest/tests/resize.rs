//! Real guests on a volume that has become longer between two boots.

mod support;

use std::fs::File;

use lambda_types::InstanceId;
use lambda_types::guest::{FailureReason, FromGuest, ToGuest};
use support::{BOUND, Broker, Machine, Options, new_volume};

const MIB: u64 = 1024 * 1024;

/// Size of the root file system, MiB.
fn size(broker: &Broker, machine: &Machine) -> u64 {
    broker.ssh(machine, "df -BM --output=size / | tail -n 1 | tr -dc 0-9").parse().unwrap()
}

/// The guest finds nothing wrong with itself, and no read of the volume failed.
fn assert_sound(broker: &Broker, machine: &mut Machine) {
    assert_eq!(broker.ssh(machine, "sudo dmesg | grep -c 'INTEGRITY AEAD ERROR' || true").trim(), "0");
    machine.send(&ToGuest::WatchHealth);
    loop {
        if let FromGuest::Health { degraded, .. } = machine.receive(BOUND) {
            return assert_eq!(degraded, []);
        }
    }
}

#[test]
fn a_volume_that_grew_is_all_usable_keeps_its_data_and_is_refused_when_it_shrinks_again() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), 256 * MIB);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let set_length = |mib: u64| File::options().write(true).open(&volume).unwrap().set_len(mib * MIB).unwrap();
    let mut broker = Broker::new();
    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    let before = size(&broker, &machine);
    assert!((200..256).contains(&before), "{before} MiB");
    broker.ssh(&machine, "dd if=/dev/urandom of=kept bs=1M count=32 status=none && sha256sum kept > sum && sync");

    // The plug is pulled: what was not written back is in the journal when the volume grows.
    machine.kill();
    drop(machine);
    set_length(768);
    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    let after = size(&broker, &machine);
    assert!((680..768).contains(&after), "{after} MiB");
    assert_sound(&broker, &mut machine);
    // More than there was room for before.
    broker.ssh(&machine, "dd if=/dev/zero of=more bs=1M count=300 status=none && sync");
    let read = "echo 3 | sudo tee /proc/sys/vm/drop_caches && sha256sum --check --quiet sum && cmp -n 314572800 more /dev/zero";
    broker.ssh(&machine, read);
    assert_sound(&broker, &mut machine);
    machine.send(&ToGuest::Shutdown);
    machine.powered_off();
    drop(machine);

    set_length(512);
    let mut machine = Machine::start(&options);
    broker.admit(&mut machine);
    assert_eq!(machine.failure(), FailureReason::VolumeIntegrity);
}
