//! `kill -9` of each process of a node at each phase of a creation. Beside the instance a second one runs, which must notice
//! nothing; in the end both are deleted and nothing may be left.
//!
//! | killed | preparing | booting | attesting | unlocking | starting | ready |
//! |---|---|---|---|---|---|---|
//! | agent | starts over | goes on | goes on | goes on | goes on | stays |
//! | QEMU | (1) | `qemu-exit` (2) | `qemu-exit` | `qemu-exit` | `qemu-exit` | `qemu-exit` |
//! | swtpm | `vtpm` | `vtpm` | `vtpm` | `vtpm` | `vtpm` | runs on, degraded by `vtpm` |
//! | all three, the agent first | (1) | `qemu-exit` | `qemu-exit` | `qemu-exit` | `qemu-exit` | `qemu-exit` |
//!
//! 1. The phase ends with QEMU's start: there is none to kill.
//! 2. `qemu-start` as long as it has not answered its monitor: what ends then never ran.
//!
//! Gateway, control plane and supervisor are no part of this harness: `kills.rs` of the end-to-end suite has them, with real
//! guests.

use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::node::{DesiredInstance, ObservedInstance};
use lambda_types::{ImageId, InstanceId};

use crate::harness::{Bench, alive, broker, instance};

const ID: InstanceId = InstanceId::from_bits(1);
const OTHER: InstanceId = InstanceId::from_bits(2);

/// What may be in the folder of an instance that does not run.
const AT_REST: [&str; 5] = ["qemu.log", "state.json", "tpm", "volume.raw", "vtpm.json"];

/// A creation that is held in a phase, and another instance that is ready.
struct Creation {
    bench: Bench,
    images: [ImageId; 2],
    generation: u64,
    other: [i32; 2],
}

impl Creation {
    /// Holds the creation in this phase; the node has told so.
    fn held_in(phase: Phase) -> Self {
        let mut bench = Bench::new();
        bench.nft = gate(&bench);
        let images = [bench.image("steps"), bench.image("obedient")];
        bench.start_agent();
        let mut creation = Self { bench, images, generation: 0, other: [0; 2] };
        creation.desire(Vec::new());
        creation.bench.await_observed(OTHER, "the other's message", |observed| observed.guest.is_some());
        creation.desire(Vec::new());
        creation.bench.await_phase(OTHER, Phase::Ready);
        creation.other = [creation.bench.pid(OTHER, "qemu"), creation.bench.pid(OTHER, "swtpm")];
        if phase == Phase::Preparing {
            std::fs::write(creation.bench.path("closed"), "").unwrap();
        }
        creation.desire_step(0);
        creation.advance_to(phase);
        creation
    }

    /// Lets the guest go on until it is in this phase.
    fn advance_to(&mut self, phase: Phase) -> ObservedInstance {
        match phase {
            Phase::Preparing => {
                self.bench.await_phase(ID, Phase::Preparing);
                let seen = || format!("{:?}", self.processes());
                self.bench.wait_for("its swtpm", || (self.processes().len() == 1).then_some(()), seen);
            }
            Phase::Booting => {
                self.bench.await_phase(ID, Phase::Booting);
                let record = || self.bench.record(ID);
                let answered = || (record()["qemu_answered"] == true).then_some(());
                self.bench.wait_for("QEMU's answer", answered, || record().to_string());
            }
            _ => {
                std::fs::write(self.bench.path("go"), "").unwrap();
                let heard = |observed: &ObservedInstance| observed.guest.is_some();
                self.bench.await_observed(ID, "its message", heard);
                let steps = [Phase::Unlocking, Phase::Starting, Phase::Ready];
                for (seq, step) in (1..).zip(steps.into_iter().filter(|step| *step <= phase)) {
                    self.desire_step(seq);
                    self.bench.await_observed(ID, "its next phase", |observed| observed.phase >= step);
                }
            }
        }
        self.bench.await_phase(ID, phase)
    }

    fn desire_step(&mut self, seq: u64) {
        let broker = broker(seq).filter(|_| seq > 0);
        self.desire(vec![DesiredInstance { broker, ..instance(1, self.images[0], Power::Running, 1) }]);
    }

    /// Desires these beside the other one.
    fn desire(&mut self, mut wanted: Vec<DesiredInstance>) {
        self.generation += 1;
        let broker = broker(1).filter(|_| self.generation > 1);
        wanted.push(DesiredInstance { broker, ..instance(2, self.images[1], Power::Running, 1) });
        self.bench.desire(self.generation, wanted);
    }

    /// Pids of the instance's processes: their working folder is its own.
    fn processes(&self) -> Vec<i32> {
        self.bench.processes_in(&self.bench.instance_dir(ID))
    }

    fn kill(&self, process: &str) {
        let raw = match self.bench.record(ID)[process]["pid"].as_i64() {
            Some(pid) => i32::try_from(pid).unwrap(),
            // It is written down when QEMU has started.
            None => self.processes()[0],
        };
        let pid = rustix::process::Pid::from_raw(raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        self.bench.wait_for(
            "the end of a killed process",
            || (!alive(raw)).then_some(()),
            || format!("{process} {raw}"),
        );
    }

    fn restart_agent(&mut self) {
        self.bench.kill_agent();
        self.reopen();
        self.bench.start_agent();
    }

    fn reopen(&self) {
        let closed = self.bench.path("closed");
        assert!(!closed.exists() || std::fs::remove_file(closed).is_ok());
    }

    /// The creation completes with the processes that it has, or with one of each.
    fn completes(&mut self, from: Phase) {
        let ready = self.advance_to(Phase::Ready);
        assert_eq!((ready.failure, ready.epoch), (None, 1), "{from:?}");
        let mut known = [self.bench.pid(ID, "qemu"), self.bench.pid(ID, "swtpm")];
        let mut running = self.processes();
        known.sort_unstable();
        running.sort_unstable();
        assert_eq!(running, known, "one QEMU and one swtpm, killed in {from:?}");
    }

    /// The creation fails with this reason and leaves its data and nothing else; one more boot of it works.
    fn fails(&mut self, reason: Failure) {
        let failed = self.bench.await_observed(ID, "the failure", |observed| observed.phase == Phase::Failed);
        assert_eq!((failed.failure, failed.epoch), (Some(reason), 1));
        assert_eq!(self.processes(), Vec::<i32>::new());
        assert!(!self.network().contains("lam2"), "{}", self.network());
        let folder = std::fs::read_dir(self.bench.instance_dir(ID)).unwrap();
        let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, AT_REST.into_iter().filter(|name| names.iter().any(|it| it == name)).collect::<Vec<_>>());

        std::fs::write(self.bench.path("go"), "").unwrap();
        self.desire(vec![instance(1, self.images[0], Power::Running, 2)]);
        let begun = |observed: &ObservedInstance| observed.epoch == 2 && observed.guest.is_some();
        let again = self.bench.await_observed(ID, "one more boot", begun);
        assert_eq!((again.epoch, again.phase, again.failure), (2, Phase::Attesting, None));
        assert_eq!(self.processes().len(), 2);
    }

    fn network(&self) -> String {
        self.bench.inside("ip -o link; nft list ruleset")
    }

    /// The other instance noticed nothing; after both are deleted nothing is left.
    fn ends_clean(mut self) {
        let other = self.bench.await_phase(OTHER, Phase::Ready);
        assert_eq!((other.failure, other.epoch), (None, 1));
        let now = [self.bench.pid(OTHER, "qemu"), self.bench.pid(OTHER, "swtpm")];
        assert!(now == self.other && now.into_iter().all(alive), "{now:?} were {:?}", self.other);
        assert!(self.network().contains("lam1"), "its tap and its rules: {}", self.network());

        let deleted = |number: u8, image| instance(number, image, Power::Deleted, 3);
        self.generation += 1;
        self.bench.desire(self.generation, vec![deleted(1, self.images[0]), deleted(2, self.images[1])]);
        for id in [ID, OTHER] {
            self.bench.await_phase(id, Phase::Gone);
        }
        let instances = self.bench.node_dir().join("instances");
        assert_eq!(self.bench.processes_in(&instances), Vec::<i32>::new());
        assert_eq!(std::fs::read_dir(instances).unwrap().count(), 0);
        let network = self.network();
        assert!(!network.contains("lam1") && !network.contains("lam2"), "{network}");
    }
}

/// Stands where the agent expects nft: as long as there is a file `closed`, lets no second guest in, so that its start stays in
/// preparation.
fn gate(bench: &Bench) -> std::path::PathBuf {
    let path = bench.path("nft");
    let script = r#"#!/bin/sh
rules=$(cat)
case $rules in
*delete*) ;;
*lam2*) while [ -e "${0%/*}/closed" ]; do sleep 0.02; done ;;
esac
printf '%s\n' "$rules" | /usr/sbin/nft "$@"
"#;
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn agent_killed(phase: Phase) {
    let mut creation = Creation::held_in(phase);
    let running = creation.processes();
    creation.restart_agent();
    creation.completes(phase);
    if phase > Phase::Preparing {
        assert!(running.iter().all(|pid| alive(*pid)), "{running:?} run on");
    } else {
        assert!(!running.iter().any(|pid| alive(*pid)), "{running:?} were ended: no record names them");
    }
    creation.ends_clean();
}

fn qemu_killed(phase: Phase) {
    let mut creation = Creation::held_in(phase);
    creation.kill("qemu");
    creation.fails(Failure::QemuExit);
    creation.ends_clean();
}

fn swtpm_killed(phase: Phase) {
    let mut creation = Creation::held_in(phase);
    creation.kill("swtpm");
    creation.reopen();
    creation.fails(Failure::Vtpm);
    creation.ends_clean();
}

fn all_killed(phase: Phase) {
    let mut creation = Creation::held_in(phase);
    creation.bench.kill_agent();
    creation.kill("swtpm");
    creation.kill("qemu");
    creation.bench.start_agent();
    creation.fails(Failure::QemuExit);
    creation.ends_clean();
}

/// One test for each cell.
macro_rules! cells {
    ($kill:ident: $($phase:ident $name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            $kill(Phase::$phase);
        })+
    };
}

cells!(agent_killed:
    Preparing an_agent_killed_while_preparing_starts_over,
    Booting an_agent_killed_while_booting_goes_on,
    Attesting an_agent_killed_while_attesting_goes_on,
    Unlocking an_agent_killed_while_unlocking_goes_on,
    Starting an_agent_killed_while_starting_goes_on,
    Ready an_agent_killed_when_ready_finds_its_guest_again,
);

cells!(qemu_killed:
    Booting a_qemu_killed_while_booting_is_reported,
    Attesting a_qemu_killed_while_attesting_is_reported,
    Unlocking a_qemu_killed_while_unlocking_is_reported,
    Starting a_qemu_killed_while_starting_is_reported,
    Ready a_qemu_killed_when_ready_is_reported,
);

cells!(swtpm_killed:
    Preparing a_swtpm_killed_while_preparing_is_reported,
    Booting a_swtpm_killed_while_booting_is_reported,
    Attesting a_swtpm_killed_while_attesting_is_reported,
    Unlocking a_swtpm_killed_while_unlocking_is_reported,
    Starting a_swtpm_killed_while_starting_is_reported,
);

cells!(all_killed:
    Booting all_killed_while_booting_are_reported_by_the_next_agent,
    Attesting all_killed_while_attesting_are_reported_by_the_next_agent,
    Unlocking all_killed_while_unlocking_are_reported_by_the_next_agent,
    Starting all_killed_while_starting_are_reported_by_the_next_agent,
    Ready all_killed_when_ready_are_reported_by_the_next_agent,
);

#[test]
fn a_swtpm_killed_when_ready_leaves_its_guest_running_degraded() {
    let mut creation = Creation::held_in(Phase::Ready);
    let qemu = creation.bench.pid(ID, "qemu");
    creation.kill("swtpm");
    let seen = creation.bench.await_observed(ID, "a lost vTPM", |observed| observed.failure.is_some());
    assert_eq!((seen.phase, seen.failure), (Phase::Ready, Some(Failure::Vtpm)));
    assert_eq!(creation.processes(), [qemu]);
    creation.restart_agent();
    let seen = creation.bench.await_observed(ID, "a lost vTPM", |observed| observed.failure.is_some());
    assert_eq!((seen.phase, creation.processes()), (Phase::Ready, vec![qemu]));
    creation.ends_clean();
}

#[test]
fn a_qemu_killed_before_it_answered_never_started() {
    let mut bench = Bench::new();
    let image = bench.image("silent");
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    bench.await_phase(ID, Phase::Booting);
    let qemu = rustix::process::Pid::from_raw(bench.pid(ID, "qemu")).unwrap();
    rustix::process::kill_process(qemu, rustix::process::Signal::KILL).unwrap();
    assert_eq!(bench.await_phase(ID, Phase::Failed).failure, Some(Failure::QemuStart));
    assert_eq!(bench.processes_in(&bench.instance_dir(ID)), Vec::<i32>::new());
}

#[test]
fn an_agent_killed_again_and_again_while_preparing_starts_one_guest() {
    let mut creation = Creation::held_in(Phase::Preparing);
    for _ in 0..5 {
        let before = creation.processes();
        creation.bench.kill_agent();
        creation.bench.start_agent();
        let another = || creation.processes().iter().any(|pid| !before.contains(pid)).then_some(());
        creation.bench.wait_for("another swtpm", another, || format!("{before:?}"));
    }
    creation.reopen();
    creation.completes(Phase::Preparing);
    creation.ends_clean();
}
