//! A real guest that notices what goes wrong in it, and says so over its channel.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lambda_types::InstanceId;
use lambda_types::guest::{Degradation, FromGuest, ToGuest};
use rustix::fs::{SeekFrom, seek};
use support::{BOUND, Broker, Machine, Options, new_volume};

const VOLUME_BYTES: u64 = 512 * 1024 * 1024;

/// The guest's next word about its health.
fn health(machine: &mut Machine) -> Vec<Degradation> {
    loop {
        if let FromGuest::Health { degraded, .. } = machine.receive(BOUND) {
            return degraded;
        }
    }
}

/// Changes one byte in the middle of the longest run of data.
fn flip(volume: &Path) {
    let file = File::options().read(true).write(true).open(volume).unwrap();
    let (mut longest, mut at) = ((0, 0), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        if at - start > longest.1 - longest.0 {
            longest = (start, at);
        }
    }
    let middle = longest.0.midpoint(longest.1) & !4095;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle + 100).unwrap();
}

#[test]
fn a_guest_says_when_sshd_stops_when_it_is_back_and_when_a_block_of_its_volume_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();
    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    machine.send(&ToGuest::WatchHealth);
    assert_eq!(health(&mut machine), []);

    broker.ssh(&machine, "sudo systemd-run --quiet --on-active=30s systemctl start ssh && sudo systemctl stop ssh");
    assert_eq!(health(&mut machine), [Degradation::SshUnreachable]);
    assert_eq!(health(&mut machine), []);

    let fill = "sudo dd if=/dev/urandom of=/var/lib/big bs=1M count=96 status=none && sync && sha256sum /var/lib/big";
    broker.ssh(&machine, fill);
    flip(&volume);
    let read = "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum /var/lib/big 2>&1 || true";
    let answer = broker.ssh(&machine, read);
    assert!(answer.contains("Input/output error"), "{answer}");
    assert_eq!(health(&mut machine), [Degradation::VolumeIntegrity]);

    // An agent of the node that comes later asks again.
    machine.reconnect();
    machine.send(&ToGuest::WatchHealth);
    assert_eq!(health(&mut machine), [Degradation::VolumeIntegrity]);
}
