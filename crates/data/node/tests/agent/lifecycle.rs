//! Create, attest, stop, restart, delete; and the agent killed in between.

use lambda_types::InstanceId;
use lambda_types::instance::{Failure, Phase, Power};

use crate::harness::{BOOT, Bench, alive, broker, instance};

const ID: InstanceId = InstanceId::from_bits(1);

#[test]
fn an_instance_goes_from_nothing_to_ready_to_stopped_to_gone() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    let attesting = bench.await_observed(ID, "a message", |observed| observed.guest.is_some());
    assert_eq!((attesting.phase, attesting.boot), (Phase::Attesting, Some(BOOT)));
    assert!(lambda_node::is_ready(&bench.node_dir()));

    let mut wanted = instance(1, image, Power::Running, 1);
    wanted.broker = broker(1);
    bench.desire(2, vec![wanted.clone()]);
    let ready = bench.await_phase(ID, Phase::Ready);
    assert_eq!(ready.broker_seq, 1);
    let phases: Vec<Phase> = ready.phases.iter().map(|time| time.phase).collect();
    let expected =
        [Phase::Preparing, Phase::Booting, Phase::Attesting, Phase::Unlocking, Phase::Starting, Phase::Ready];
    assert_eq!(phases, expected);

    let (qemu, swtpm) = (bench.pid(ID, "qemu"), bench.pid(ID, "swtpm"));
    let status = std::fs::read_to_string(format!("/proc/{qemu}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let other = std::fs::read_to_string(format!("/proc/{swtpm}/status")).unwrap();
    let uid = |status: &str| status.lines().find(|line| line.starts_with("Uid:")).map(str::to_owned);
    assert_ne!(uid(&status), uid(&other));

    wanted.power = Power::Stopped;
    bench.desire(3, vec![wanted.clone()]);
    let stopped = bench.await_phase(ID, Phase::Stopped);
    assert_eq!(stopped.failure, None);
    assert!(!alive(qemu) && !alive(swtpm));
    assert!(bench.instance_dir(ID).join("volume.raw").exists());
    assert!(!bench.inside("ip -o link").contains("lam1"));
    assert!(!bench.inside("nft list ruleset").contains("lam1"));

    wanted.power = Power::Deleted;
    bench.desire(4, vec![wanted]);
    bench.await_phase(ID, Phase::Gone);
    assert!(!bench.instance_dir(ID).exists());
    bench.desire(5, Vec::new());
    bench.wait_for("forgetting", || bench.observed(ID).is_none().then_some(()), || format!("{:?}", bench.latest()));
}

#[test]
fn a_restart_keeps_the_vtpm_and_the_volume_and_starts_another_qemu() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    let before = (bench.pid(ID, "qemu"), std::fs::read(bench.instance_dir(ID).join("vtpm.json")).unwrap());
    bench.desire(2, vec![instance(1, image, Power::Running, 2)]);
    bench.await_observed(ID, "a second boot", |o| o.epoch == 2 && o.phase == Phase::Attesting);
    let after = (bench.pid(ID, "qemu"), std::fs::read(bench.instance_dir(ID).join("vtpm.json")).unwrap());
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
    assert!(!alive(before.0));
}

#[test]
fn guests_survive_a_killed_agent_and_the_next_one_takes_them_up() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    let qemu = bench.pid(ID, "qemu");
    bench.kill_agent();
    assert!(alive(qemu) && alive(bench.pid(ID, "swtpm")));
    // The broker answers while no agent is there.
    let mut wanted = instance(1, image, Power::Running, 1);
    wanted.broker = broker(1);
    bench.desire(2, vec![wanted]);
    bench.start_agent();
    bench.await_phase(ID, Phase::Ready);
    assert_eq!(bench.pid(ID, "qemu"), qemu);
    assert!(bench.inside("nft list ruleset").contains("lam1"));
}

#[test]
fn a_guest_that_ended_while_no_agent_was_there_is_reported_and_cleaned_up() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    let (qemu, swtpm) = (bench.pid(ID, "qemu"), bench.pid(ID, "swtpm"));
    bench.kill_agent();
    rustix::process::kill_process(rustix::process::Pid::from_raw(qemu).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    bench.start_agent();
    let failed = bench.await_phase(ID, Phase::Failed);
    assert!(matches!(failed.failure, Some(Failure::QemuExit | Failure::QemuStart)), "{failed:?}");
    assert!(!alive(swtpm));
    assert!(!bench.inside("nft list ruleset").contains("lam1"));
}

#[test]
fn an_older_desired_set_is_refused() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(5, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    bench.wait_for(
        "generation 5",
        || (bench.latest()?.generation == 5).then_some(()),
        || format!("{:?}", bench.latest()),
    );
    bench.kill_agent();
    bench.desire(4, vec![instance(1, image, Power::Deleted, 1)]);
    bench.start_agent();
    bench.wait_for(
        "a refusal",
        || {
            std::fs::read_to_string(bench.path("agent.log"))
                .unwrap()
                .contains("older desired set refused")
                .then_some(())
        },
        || format!("{:?}", bench.latest()),
    );
    assert!(alive(bench.pid(ID, "qemu")));
    assert_eq!(bench.latest().unwrap().generation, 5);
}

#[test]
fn an_instance_that_the_control_plane_forgot_is_left_running() {
    let mut bench = Bench::new();
    let image = bench.image("obedient");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Attesting);
    bench.desire(2, Vec::new());
    bench.wait_for(
        "generation 2",
        || (bench.latest()?.generation == 2).then_some(()),
        || format!("{:?}", bench.latest()),
    );
    assert!(alive(bench.pid(ID, "qemu")));
    assert_eq!(bench.observed(ID).unwrap().phase, Phase::Attesting);
}
