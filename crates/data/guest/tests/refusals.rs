//! Real guests against a host that tampers with disks and messages: each is refused with its own code.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use lambda_types::InstanceId;
use lambda_types::guest::{FailureReason, FromGuest, GuestPhase, ToGuest};
use lambda_types::session;
use support::{BOUND, Broker, Machine, Options, new_volume};

const VOLUME_BYTES: u64 = 256 * 1024 * 1024;
const HEADER_BYTES: usize = 1024 * 1024;

/// A customer and a volume that has been in use.
struct Used {
    folder: tempfile::TempDir,
    broker: Broker,
    options: Options,
}

impl Used {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = new_volume(folder.path(), VOLUME_BYTES);
        let options = Options::new(&volume, InstanceId::random().unwrap());
        let mut broker = Broker::new();
        let mut machine = Machine::start(&options);
        broker.bring_up(&mut machine);
        broker.ssh(&machine, "echo kept > kept && sync");
        machine.kill();
        Self { folder, broker, options }
    }

    /// The reason that a guest gives for refusing this volume after a good release.
    fn refusal(&mut self, volume: &Path) -> FailureReason {
        let mut machine = Machine::start(&Options::new(volume, self.options.instance));
        self.broker.admit(&mut machine);
        machine.failure()
    }

    /// A copy of the volume, changed.
    fn copy(&self, change: impl FnOnce(&File)) -> PathBuf {
        let path = self.folder.path().join("changed.raw");
        fs::copy(&self.options.volume, &path).unwrap();
        change(&File::options().read(true).write(true).open(&path).unwrap());
        path
    }
}

#[test]
fn a_tampered_volume_is_refused_by_name_and_never_reformatted() {
    let mut used = Used::new();

    let zeroed = used.copy(|file| file.write_all_at(&vec![0; HEADER_BYTES], 0).unwrap());
    assert_eq!(used.refusal(&zeroed), FailureReason::VolumeHeaderMissing);
    let mut header = vec![1; HEADER_BYTES];
    File::open(&zeroed).unwrap().read_exact_at(&mut header, 0).unwrap();
    assert!(header.iter().all(|byte| *byte == 0), "nothing was written");

    let truncated = used.copy(|file| file.set_len(VOLUME_BYTES / 2).unwrap());
    assert_eq!(used.refusal(&truncated), FailureReason::VolumeIntegrity);

    let null = used.copy(|file| {
        let mut header = vec![0; 2 * 16 * 1024];
        file.read_exact_at(&mut header, 0).unwrap();
        let text = b"aes-gcm-random";
        let mut changed = 0;
        for at in 0..header.len() - text.len() {
            if &header[at..at + text.len()] == text {
                header[at..at + text.len()].copy_from_slice(b"cipher_null-ec");
                changed += 1;
            }
        }
        assert_eq!(changed, 2);
        file.write_all_at(&header, 0).unwrap();
    });
    assert_eq!(used.refusal(&null), FailureReason::VolumeHeaderRejected);

    let garbage = used.copy(|file| {
        // Every block of data and tags but dm-integrity's own superblock.
        let noise = vec![0xa5; HEADER_BYTES];
        for at in (HEADER_BYTES + 64 * 1024..VOLUME_BYTES as usize).step_by(HEADER_BYTES) {
            let length = HEADER_BYTES.min(VOLUME_BYTES as usize - at);
            file.write_all_at(&noise[..length], at as u64).unwrap();
        }
    });
    assert_eq!(used.refusal(&garbage), FailureReason::VolumeIntegrity);

    let mut machine = Machine::start(&used.options);
    used.broker.bring_up(&mut machine);
    assert_eq!(used.broker.ssh(&machine, "cat kept").trim(), "kept", "the volume itself is as it was after a crash");
}

#[test]
fn another_instances_volume_is_refused_though_its_header_is_sound() {
    let mut mine = Used::new();
    let theirs = Used::new();
    assert_eq!(mine.refusal(&theirs.options.volume), FailureReason::VolumeHeaderMismatch);
}

#[test]
fn a_changed_root_file_system_is_refused_before_any_release() {
    let folder = tempfile::tempdir().unwrap();
    let image = PathBuf::from(std::env::var_os("LAMBDA_IMAGE_DIR").expect("LAMBDA_IMAGE_DIR"));
    let root = folder.path().join("root.img");
    fs::copy(image.join(lambda_types::image::file::ROOT), &root).unwrap();
    let file = File::options().read(true).write(true).open(&root).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1024 + 80).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1024 + 80).unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let mut options = Options::new(&volume, InstanceId::random().unwrap());
    options.root = Some(root);
    assert_eq!(Machine::start(&options).failure(), FailureReason::RootIntegrity);
}

#[test]
fn a_first_use_that_dies_before_its_pin_is_stored_is_adopted_by_the_next_boot() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();
    let mut machine = Machine::start(&options);
    broker.admit(&mut machine);
    while !matches!(broker.listen(&mut machine), session::FromGuest::Report { .. }) {}
    machine.kill();
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    assert!(broker.secrets.header_pin.is_some());
    machine.kill();
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
}

#[test]
fn a_replayed_release_and_a_refusal_end_the_boot_and_a_reconnecting_node_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();

    let mut machine = Machine::start(&options);
    let hello = broker.meet(&mut machine);
    broker.await_evidence(&mut machine, &hello);
    let (recorded, _) = broker.release(&hello);
    machine.kill();
    drop(machine);

    let mut machine = Machine::start(&options);
    let hello = broker.meet(&mut machine);
    machine.reconnect();
    broker.await_evidence(&mut machine, &hello);
    machine.reconnect();
    broker.await_evidence(&mut machine, &hello);
    broker.say(&mut machine, &recorded);
    assert_eq!(machine.failure(), FailureReason::ReleaseInvalid);
    drop(machine);

    let mut machine = Machine::start(&options);
    broker.meet(&mut machine);
    broker.say(&mut machine, &session::ToGuest::Refused { failed_checks: vec!["image.kernel".into()] });
    assert_eq!(machine.failure(), FailureReason::ReleaseRefused);
}

#[test]
fn a_running_guest_answers_a_new_challenge_after_its_agent_was_killed_and_its_node_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let volume = new_volume(folder.path(), VOLUME_BYTES);
    let options = Options::new(&volume, InstanceId::random().unwrap());
    let mut broker = Broker::new();
    let mut machine = Machine::start(&options);
    broker.bring_up(&mut machine);
    let hello = broker.hello.clone().unwrap();
    broker.ssh(&machine, "sudo pkill -KILL -f agent-worke[r]");
    machine.reconnect();
    let again = machine.receive(BOUND);
    assert!(matches!(again, FromGuest::Report { phase: GuestPhase::Ready, .. }), "{again:?}");
    broker.say(&mut machine, &session::ToGuest::Challenge(Broker::challenge(&hello)));
    broker.await_evidence(&mut machine, &hello);
    machine.send(&ToGuest::Shutdown);
    machine.powered_off();
}
