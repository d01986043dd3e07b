//! What to do next about one instance: a pure function of what is desired and what is there.
//!
//! ```text
//!            Start              guest powers off / fails / QEMU ends
//!   nothing ───────▶ running ─────────────────────────────────────────▶ ended ──CleanUp──▶ at rest (stopped | failed)
//!      ▲                │ AskShutdown (stop, or a newer epoch)            ▲                      │
//!      │                ▼                                                 │                      │ newer epoch
//!      │             asked ──── Kill after SHUTDOWN_BOUND_MS ─────────────┘                      └────▶ Start
//!      └──────────────────────── Remove (deleted, from every state without a process)
//! ```
//!
//! The function remembers nothing, so an agent that was killed in the middle of a step asks again and gets the same
//! answer; every step must therefore be safe to run twice.

use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::node::DesiredInstance;
use serde::{Deserialize, Serialize};

/// A clean shutdown; then QEMU is ended.
pub const SHUTDOWN_BOUND_MS: u64 = Phase::Stopping.bound_ms().unwrap();

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// Powered off.
    Stopped,
    /// Not as it should.
    Failed(Failure),
}

/// What is there of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Something is on disk.
    pub stored: bool,
    /// Epoch of the latest boot that was tried; 0 for none.
    pub epoch: u64,
    /// How that boot ended; nothing while it lasts.
    pub outcome: Option<Outcome>,
    /// Its QEMU.
    pub machine: Machine,
    /// Where that boot is.
    pub phase: Phase,
    /// Since when.
    pub phase_since_ms: u64,
    /// When a clean shutdown was asked for.
    pub shutdown_since_ms: Option<u64>,
    /// The vTPM's process ended before QEMU.
    pub vtpm_lost: bool,
    /// The node's clock.
    pub now_ms: u64,
}

/// The QEMU of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// None, and no leftovers.
    Absent,
    /// Its process lives.
    Running,
    /// Its process is gone; vTPM, tap, rules or cgroup may remain.
    Ended,
}

/// What to do. After each step the function is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes or this time comes.
    Wait {
        /// Milliseconds since 1970-01-01 UTC.
        until_ms: Option<u64>,
    },
    /// Make what is missing and start QEMU.
    Start,
    /// Ask the guest to power off.
    AskShutdown,
    /// End QEMU, and remember why if it failed.
    Kill(Option<Failure>),
    /// Remove what a dead QEMU left, and record how the boot ended.
    CleanUp,
    /// Remove everything, volume included.
    Remove,
}

/// What to do next. `desired` is nothing for an instance that the control plane does not name: it is left alone.
#[must_use]
pub fn next_step(desired: Option<&DesiredInstance>, local: &Local) -> Step {
    if local.machine == Machine::Ended {
        return Step::CleanUp;
    }
    let running = local.machine == Machine::Running;
    match desired.map(|desired| (desired.power, desired.epoch)) {
        Some((Power::Deleted, _)) if running => Step::Kill(None),
        Some((Power::Deleted, _)) if local.stored => Step::Remove,
        Some((Power::Deleted, _)) => Step::Wait { until_ms: None },
        Some((Power::Stopped, _)) if running => shut_down(local),
        Some((Power::Running, epoch)) if running && epoch > local.epoch => shut_down(local),
        Some((Power::Running, epoch)) if !running && epoch > local.epoch => Step::Start,
        // The same, and meanwhile it is wanted off: the boot is over before it began.
        Some((Power::Stopped, _)) if local.stored && local.outcome.is_none() => Step::CleanUp,
        // The agent was killed between deciding to start and starting.
        Some((Power::Running, epoch)) if !running && epoch == local.epoch && local.outcome.is_none() => Step::Start,
        Some((Power::Running | Power::Stopped, _)) | None if running => watch(local),
        Some((Power::Running | Power::Stopped, _)) | None => Step::Wait { until_ms: None },
    }
}

fn shut_down(local: &Local) -> Step {
    // Before the hand-over there is no init system to end, and no data to lose.
    if matches!(local.phase, Phase::Preparing | Phase::Booting) {
        return Step::Kill(None);
    }
    match local.shutdown_since_ms {
        None => Step::AskShutdown,
        Some(since) => match expiry(since, SHUTDOWN_BOUND_MS, local.now_ms) {
            Some(until_ms) => Step::Wait { until_ms: Some(until_ms) },
            None => Step::Kill(None),
        },
    }
}

fn watch(local: &Local) -> Step {
    let before_ready = matches!(
        local.phase,
        Phase::Preparing | Phase::Booting | Phase::Attesting | Phase::Unlocking | Phase::Starting
    );
    if local.vtpm_lost && before_ready {
        return Step::Kill(Some(Failure::Vtpm));
    }
    let Some(bound) = local.phase.bound_ms() else { return Step::Wait { until_ms: None } };
    match (expiry(local.phase_since_ms, bound, local.now_ms), local.phase) {
        (Some(until_ms), _) => Step::Wait { until_ms: Some(until_ms) },
        // The guest has said how it ends; it only fails to power off.
        (None, Phase::Stopping | Phase::Failed) => Step::Kill(None),
        (None, phase) => Step::Kill(Some(Failure::Timeout(phase))),
    }
}

/// When the bound ends, if that is in the future. A clock that went backwards restarts the bound, it does not end it.
fn expiry(since_ms: u64, bound_ms: u64, now_ms: u64) -> Option<u64> {
    let until = since_ms.min(now_ms).saturating_add(bound_ms);
    (until > now_ms).then_some(until)
}

#[cfg(test)]
mod tests {
    use lambda_types::guest::GuestNetwork;
    use lambda_types::shape::{LaunchProfile, Shape};
    use lambda_types::{ImageId, InstanceId, VolumeId};

    use super::*;

    const NOW: u64 = 1_000_000;

    const BOOTING_BOUND_MS: u64 = Phase::Booting.bound_ms().unwrap();

    fn desired(power: Power, epoch: u64) -> DesiredInstance {
        DesiredInstance {
            id: InstanceId::from_bits(1),
            generation: 1,
            power,
            epoch,
            shape: Shape::Nano,
            image: ImageId::from_bits(2),
            profile: LaunchProfile::Tpm,
            launch: None,
            volume: VolumeId::from_bits(3),
            volume_gib: 1,
            network: GuestNetwork {
                mac: "02:00:00:00:00:01".into(),
                address: [10, 0, 0, 2].into(),
                prefix: 30,
                gateway: [10, 0, 0, 1].into(),
            },
            broker: None,
        }
    }

    const NOTHING: Local = Local {
        stored: false,
        epoch: 0,
        outcome: None,
        machine: Machine::Absent,
        phase: Phase::Gone,
        phase_since_ms: NOW,
        shutdown_since_ms: None,
        vtpm_lost: false,
        now_ms: NOW,
    };

    const RUNNING: Local = Local { stored: true, epoch: 1, machine: Machine::Running, phase: Phase::Ready, ..NOTHING };

    const FOREVER: Step = Step::Wait { until_ms: None };

    #[test]
    fn a_new_instance_is_started() {
        assert_eq!(next_step(Some(&desired(Power::Running, 1)), &NOTHING), Step::Start);
    }

    #[test]
    fn an_instance_created_as_stopped_is_not_made() {
        assert_eq!(next_step(Some(&desired(Power::Stopped, 1)), &NOTHING), FOREVER);
    }

    #[test]
    fn an_interrupted_start_is_taken_up_again() {
        let local = Local { stored: true, epoch: 1, phase: Phase::Preparing, ..NOTHING };
        assert_eq!(next_step(Some(&desired(Power::Running, 1)), &local), Step::Start);
    }

    #[test]
    fn an_interrupted_start_that_is_wanted_off_is_recorded_as_stopped() {
        let local = Local { stored: true, epoch: 1, phase: Phase::Preparing, ..NOTHING };
        assert_eq!(next_step(Some(&desired(Power::Stopped, 1)), &local), Step::CleanUp);
    }

    #[test]
    fn a_boot_that_ended_is_not_repeated_without_a_new_epoch() {
        for outcome in [Outcome::Stopped, Outcome::Failed(Failure::QemuExit)] {
            let local = Local { outcome: Some(outcome), machine: Machine::Absent, ..RUNNING };
            assert_eq!(next_step(Some(&desired(Power::Running, 1)), &local), FOREVER);
            assert_eq!(next_step(Some(&desired(Power::Running, 2)), &local), Step::Start);
        }
    }

    #[test]
    fn an_older_epoch_than_the_running_one_changes_nothing() {
        let local = Local { epoch: 3, ..RUNNING };
        assert_eq!(next_step(Some(&desired(Power::Running, 2)), &local), FOREVER);
        let ended = Local { machine: Machine::Absent, ..local };
        assert_eq!(next_step(Some(&desired(Power::Running, 2)), &ended), FOREVER);
    }

    #[test]
    fn a_restart_asks_the_guest_then_kills_then_starts() {
        let wanted = desired(Power::Running, 2);
        assert_eq!(next_step(Some(&wanted), &RUNNING), Step::AskShutdown);
        let asked = Local { shutdown_since_ms: Some(NOW), ..RUNNING };
        assert_eq!(next_step(Some(&wanted), &asked), Step::Wait { until_ms: Some(NOW + SHUTDOWN_BOUND_MS) });
        let late = Local { now_ms: NOW + SHUTDOWN_BOUND_MS, ..asked };
        assert_eq!(next_step(Some(&wanted), &late), Step::Kill(None));
        let ended = Local { machine: Machine::Ended, ..late };
        assert_eq!(next_step(Some(&wanted), &ended), Step::CleanUp);
        let clean = Local { machine: Machine::Absent, outcome: Some(Outcome::Stopped), ..ended };
        assert_eq!(next_step(Some(&wanted), &clean), Step::Start);
    }

    #[test]
    fn a_guest_that_has_not_spoken_is_stopped_without_being_asked() {
        let local = Local { phase: Phase::Booting, ..RUNNING };
        assert_eq!(next_step(Some(&desired(Power::Stopped, 1)), &local), Step::Kill(None));
    }

    #[test]
    fn deletion_kills_then_cleans_then_removes_and_then_rests() {
        let wanted = desired(Power::Deleted, 1);
        assert_eq!(next_step(Some(&wanted), &RUNNING), Step::Kill(None));
        assert_eq!(next_step(Some(&wanted), &Local { machine: Machine::Ended, ..RUNNING }), Step::CleanUp);
        assert_eq!(next_step(Some(&wanted), &Local { machine: Machine::Absent, ..RUNNING }), Step::Remove);
        assert_eq!(next_step(Some(&wanted), &NOTHING), FOREVER);
    }

    #[test]
    fn an_instance_that_the_control_plane_does_not_name_is_left_alone() {
        assert_eq!(next_step(None, &RUNNING), FOREVER);
        let stopped = Local { machine: Machine::Absent, outcome: Some(Outcome::Stopped), ..RUNNING };
        assert_eq!(next_step(None, &stopped), FOREVER);
    }

    #[test]
    fn every_phase_before_ready_has_a_bound_and_names_itself_when_it_ends() {
        for phase in [Phase::Booting, Phase::Attesting, Phase::Unlocking, Phase::Starting] {
            let local = Local { phase, ..RUNNING };
            let wanted = desired(Power::Running, 1);
            let Step::Wait { until_ms: Some(until) } = next_step(Some(&wanted), &local) else {
                panic!("{phase:?} waits for ever")
            };
            let late = Local { now_ms: until, ..local };
            assert_eq!(next_step(Some(&wanted), &late), Step::Kill(Some(Failure::Timeout(phase))));
        }
        assert_eq!(next_step(Some(&desired(Power::Running, 1)), &RUNNING), FOREVER);
    }

    #[test]
    fn a_clock_that_goes_backwards_does_not_extend_a_bound_beyond_its_length() {
        let local = Local { phase: Phase::Booting, phase_since_ms: NOW + 1_000_000, ..RUNNING };
        let wanted = desired(Power::Running, 1);
        assert_eq!(next_step(Some(&wanted), &local), Step::Wait { until_ms: Some(NOW + BOOTING_BOUND_MS) });
    }

    #[test]
    fn a_lost_vtpm_ends_a_boot_but_not_a_ready_guest() {
        let wanted = desired(Power::Running, 1);
        let booting = Local { vtpm_lost: true, phase: Phase::Booting, ..RUNNING };
        assert_eq!(next_step(Some(&wanted), &booting), Step::Kill(Some(Failure::Vtpm)));
        assert_eq!(next_step(Some(&wanted), &Local { vtpm_lost: true, ..RUNNING }), FOREVER);
        let stopping = Local { vtpm_lost: true, phase: Phase::Stopping, ..RUNNING };
        assert_eq!(next_step(Some(&wanted), &stopping), Step::Wait { until_ms: Some(NOW + SHUTDOWN_BOUND_MS) });
    }

    #[test]
    fn a_guest_has_longer_to_stop_than_its_init_system_gives_a_service() {
        const { assert!(SHUTDOWN_BOUND_MS >= 100_000) };
    }

    #[test]
    fn a_guest_that_gave_up_but_stays_on_is_ended_with_its_own_reason() {
        let late = NOW + Phase::Failed.bound_ms().unwrap();
        let local = Local { phase: Phase::Failed, now_ms: late, ..RUNNING };
        assert_eq!(next_step(Some(&desired(Power::Running, 1)), &local), Step::Kill(None));
    }
}
