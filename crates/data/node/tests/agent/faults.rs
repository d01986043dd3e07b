//! What breaks, and what is said then.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lambda_types::guest::FailureReason;
use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::{ImageId, InstanceId};

use crate::harness::{Bench, alive, instance};

const ID: InstanceId = InstanceId::from_bits(1);

fn failure(bench: &mut Bench, image: ImageId) -> Option<Failure> {
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    let failed = bench.await_phase(ID, Phase::Failed);
    // A guest that gives up says so before its QEMU ends.
    let left = || bench.inside("ip -o link; nft list ruleset");
    bench.wait_for("clean network", || (!left().contains("lam1")).then_some(()), left);
    failed.failure
}

#[test]
fn a_missing_qemu_is_a_failure_to_start() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.qemu = PathBuf::from("/nonexistent/qemu");
    assert_eq!(failure(&mut bench, image), Some(Failure::QemuStart));
}

#[test]
fn a_qemu_that_refuses_its_options_is_a_failure_to_start() {
    let mut bench = Bench::new();
    let image = bench.image("dies");
    assert_eq!(failure(&mut bench, image), Some(Failure::QemuStart));
}

#[test]
fn a_missing_swtpm_is_a_vtpm_failure() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.swtpm = PathBuf::from("/nonexistent/swtpm");
    assert_eq!(failure(&mut bench, image), Some(Failure::Vtpm));
}

#[test]
fn an_unknown_image_and_a_changed_one_are_image_failures() {
    let mut bench = Bench::new();
    assert_eq!(failure(&mut bench, ImageId::from_bits(9)), Some(Failure::Image));
    let image = bench.image("obedient");
    std::fs::write(bench.path("images/obedient/kernel"), "KERNEL").unwrap();
    bench.desire(2, vec![instance(1, image, Power::Running, 2)]);
    let failed = bench.await_observed(ID, "a second failure", |o| o.epoch == 2 && o.phase == Phase::Failed);
    assert_eq!(failed.failure, Some(Failure::Image));
}

#[test]
fn garbage_on_the_guest_channel_ends_the_guest_and_not_the_agent() {
    let mut bench = Bench::new();
    let image = bench.image("garbage");
    assert_eq!(failure(&mut bench, image), Some(Failure::Guest(FailureReason::Channel)));
    let other = bench.image("obedient");
    bench.desire(2, vec![instance(2, other, Power::Running, 1)]);
    bench.await_phase(InstanceId::from_bits(2), Phase::Attesting);
}

#[test]
fn a_guest_that_gives_up_is_reported_with_its_own_reason() {
    let mut bench = Bench::new();
    let image = bench.image("gives-up");
    assert_eq!(failure(&mut bench, image), Some(Failure::Guest(FailureReason::ReleaseTimeout)));
}

#[test]
fn a_vtpm_killed_during_the_boot_fails_it() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    let swtpm = rustix::process::Pid::from_raw(bench.pid(ID, "swtpm")).unwrap();
    rustix::process::kill_process(swtpm, rustix::process::Signal::KILL).unwrap();
    assert_eq!(bench.await_phase(ID, Phase::Failed).failure, Some(Failure::Vtpm));
}

#[test]
fn a_guest_that_does_not_hear_the_shutdown_is_ended_when_the_bound_is_over() {
    let mut bench = Bench::new();
    let image = bench.image("deaf");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    bench.desire(2, vec![instance(1, image, Power::Stopped, 1)]);
    bench.await_phase(ID, Phase::Stopping);
    assert_eq!(bench.await_phase(ID, Phase::Stopped).failure, None);
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    let node = bench.node_dir();
    let size = c"size=8m,mode=0711";
    rustix::mount::mount("tmpfs", &node, "tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
    let said = failure(&mut bench, image);
    bench.kill_agent();
    lambda_node::teardown(&node).unwrap();
    rustix::mount::unmount(&node, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(said, Some(Failure::DiskFull));
}

#[test]
fn what_a_killed_agent_left_half_made_is_removed_and_data_is_not() {
    let mut bench = Bench::new();
    let image = bench.image("silent");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Booting);
    bench.kill_agent();
    let instances = bench.node_dir().join("instances");
    let folder = |number: u128| instances.join(InstanceId::from_bits(number).to_string());
    std::fs::create_dir(folder(5)).unwrap();
    std::fs::create_dir(instances.join(format!("trash-{}", InstanceId::from_bits(6)))).unwrap();
    std::fs::create_dir(folder(7)).unwrap();
    std::fs::write(folder(7).join("volume.raw"), b"ciphertext").unwrap();
    // A QEMU that was started and not written down: its record says that it never came so far.
    let qemu = bench.pid(ID, "qemu");
    let mut record = bench.record(ID);
    record["qemu"] = serde_json::Value::Null;
    std::fs::write(bench.instance_dir(ID).join("state.json"), record.to_string()).unwrap();
    bench.start_agent();
    bench.wait_for("another QEMU", || bench.record(ID)["qemu"]["pid"].as_i64(), || bench.record(ID).to_string());
    assert!(!alive(qemu));
    assert!(!folder(5).exists());
    assert!(folder(7).join("volume.raw").exists());
    assert_eq!(std::fs::read_dir(&instances).unwrap().count(), 2);
}

#[test]
fn guests_without_an_agent_are_asked_to_shut_down_and_waited_for_no_longer_than_allowed() {
    for (mode, bound, left) in [("obedient", 30, 0), ("deaf", 1, 1)] {
        let mut bench = Bench::new();
        let image = bench.image(mode);
        bench.start_agent();
        bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
        bench.await_phase(ID, Phase::Attesting);
        bench.kill_agent();
        let start = Instant::now();
        let running = lambda_node::stop_guests(&bench.node_dir(), Duration::from_secs(bound)).unwrap();
        assert_eq!(running.len(), left, "{mode}");
        assert!(start.elapsed() < Duration::from_secs(10), "{mode}: {:?}", start.elapsed());
    }
}
