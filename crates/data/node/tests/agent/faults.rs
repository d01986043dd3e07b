//! What breaks, and what is said then.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lambda_types::guest::FailureReason;
use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::{ImageId, InstanceId};

use crate::harness::{Bench, alive, broker, instance};

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
    kill(bench.pid(ID, "swtpm"));
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
    let qemu = bench.pid(ID, "qemu");
    // All but the last seconds of the bound pass while no agent is there.
    bench.kill_agent();
    let mut record = bench.record(ID);
    let since = record["shutdown_since_ms"].as_u64().unwrap();
    record["shutdown_since_ms"] = (since - Phase::Stopping.bound_ms().unwrap() + 5_000).into();
    std::fs::write(bench.instance_dir(ID).join("state.json"), record.to_string()).unwrap();
    assert!(alive(qemu));
    bench.start_agent();
    assert_eq!(bench.await_phase(ID, Phase::Stopped).failure, None);
    assert!(!alive(qemu));
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_ready_guest_whose_vtpm_was_killed_runs_on_with_the_failure_shown_until_a_restart_brings_all_back() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    let mut wanted = instance(1, image, Power::Running, 1);
    wanted.broker = broker(1);
    bench.desire(2, vec![wanted]);
    assert_eq!(bench.await_phase(ID, Phase::Ready).failure, None);
    let (qemu, identity) = (bench.pid(ID, "qemu"), std::fs::read(bench.instance_dir(ID).join("vtpm.json")).unwrap());
    kill(bench.pid(ID, "swtpm"));
    let seen = bench.await_observed(ID, "a lost vTPM", |observed| observed.failure.is_some());
    assert_eq!((seen.phase, seen.failure), (Phase::Ready, Some(Failure::Vtpm)));

    // Another agent says the same.
    bench.kill_agent();
    bench.desire(2, Vec::new());
    bench.start_agent();
    bench.await_observed(ID, "a lost vTPM", |observed| observed.failure == Some(Failure::Vtpm));
    assert!(alive(qemu));

    bench.desire(3, vec![instance(1, image, Power::Running, 2)]);
    let again = bench.await_observed(ID, "a second boot", |o| o.epoch == 2 && o.phase == Phase::Attesting);
    assert_eq!(again.failure, None);
    assert!(alive(bench.pid(ID, "swtpm")) && !alive(qemu));
    assert_eq!(std::fs::read(bench.instance_dir(ID).join("vtpm.json")).unwrap(), identity);
}

#[test]
fn a_guest_with_a_damaged_record_is_kept_and_its_record_rebuilt() {
    // With the stored desired set, and with one that only the control plane still has.
    for stored in [true, false] {
        let mut bench = Bench::new();
        let image = bench.image("obedient");
        bench.start_agent();
        bench.desire(1, vec![instance(2, image, Power::Running, 1), instance(1, image, Power::Running, 3)]);
        let epoch = bench.await_phase(ID, Phase::Attesting).epoch;
        let before = bench.record(ID);
        bench.kill_agent();
        let state = bench.instance_dir(ID).join("state.json");
        let whole = std::fs::read(&state).unwrap();
        std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
        if !stored {
            std::fs::remove_file(bench.node_dir().join("desired.json")).unwrap();
        }
        bench.desire(1, Vec::new());
        bench.start_agent();
        bench.wait_for("a ready agent", || lambda_node::is_ready(&bench.node_dir()).then_some(()), String::new);
        bench.desire(2, vec![instance(2, image, Power::Running, 1), instance(1, image, Power::Running, 3)]);
        bench.wait_for("a rebuilt record", || state.exists().then_some(()), String::new);
        let seen = bench.await_observed(ID, "the guest again", |o| o.phase == Phase::Attesting && o.guest.is_some());
        assert_eq!((seen.epoch, seen.failure), (epoch, None));
        let after = bench.record(ID);
        for field in ["slot", "qemu", "swtpm", "epoch"] {
            assert_eq!(after[field], before[field], "{field}");
        }
        let rules = || bench.inside("nft list ruleset");
        let tap = format!("lam{}", before["slot"]);
        bench.wait_for("its rules", || rules().contains(&tap).then_some(()), rules);
        assert!(state.with_extension("json.damaged").exists());
    }
}

#[test]
fn a_damaged_record_of_a_guest_that_does_not_run_is_a_failure_of_the_host_and_a_start_mends_it() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    bench.kill_agent();
    let qemu = bench.pid(ID, "qemu");
    kill(qemu);
    bench.wait_for("its end", || (!alive(qemu)).then_some(()), String::new);
    std::fs::write(bench.instance_dir(ID).join("state.json"), b"{").unwrap();
    bench.start_agent();
    assert_eq!(bench.await_phase(ID, Phase::Failed).failure, Some(Failure::HostResource));
    bench.desire(2, vec![instance(1, image, Power::Running, 2)]);
    bench.await_observed(ID, "a second boot", |o| o.epoch == 2 && o.phase == Phase::Attesting);
}

#[test]
fn a_record_of_an_unknown_format_keeps_the_agent_from_starting_and_the_guest_running() {
    let mut bench = Bench::new();
    let image = bench.image("silent");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Booting);
    bench.wait_for("its QEMU", || bench.record(ID)["qemu"]["pid"].as_i64(), || bench.record(ID).to_string());
    bench.kill_agent();
    let qemu = bench.pid(ID, "qemu");
    let mut record = bench.record(ID);
    record["format"] = 99.into();
    std::fs::write(bench.instance_dir(ID).join("state.json"), record.to_string()).unwrap();
    bench.start_agent();
    let log = || std::fs::read_to_string(bench.path("agent.log")).unwrap();
    bench.wait_for("a refusal", || log().contains("has format 99").then_some(()), log);
    assert!(alive(qemu));
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
