//! "Why is it not where it should be?": a pure function of what is desired, what was observed, and the time.

use lambda_types::guest::{Degradation, FailureReason};
use lambda_types::instance::{Condition, ConditionKind, Failure, Phase, Power};

use crate::hub::is_fresh;
use crate::store::instance::InstanceRow;

/// How long an instance waits for a node with room before it gives up.
pub(crate) const CAPACITY_WAIT_MS: u64 = 10 * 60 * 1000;

/// The phase that counts: a report about an older boot says nothing about the wanted one, while anything still
/// running matters to a stop or a removal.
pub(crate) fn effective_phase(row: &InstanceRow) -> Option<Phase> {
    if row.failure.is_some() {
        return Some(Phase::Failed);
    }
    match row.power {
        Power::Running if row.observed.epoch != row.epoch => None,
        Power::Running | Power::Stopped | Power::Deleted => row.observed.phase,
    }
}

/// What the instance waits for; empty when it is where it should be. `node_seen_ms` is when its node was last heard.
pub(crate) fn conditions(row: &InstanceRow, node_seen_ms: Option<u64>, now_ms: u64) -> Vec<Condition> {
    if let Some(failure) = row.failure {
        return vec![failed(failure, row.changed_ms)];
    }
    let phase = effective_phase(row);
    let mut found = Vec::new();
    match (row.node, node_seen_ms) {
        (None, _) => found.extend(unplaced(row)),
        (Some(_), Some(seen)) if !is_fresh(seen, now_ms) => found.push(Condition {
            kind: ConditionKind::NodeUnreachable,
            message: "the node has not been heard from; what runs on it goes on running".into(),
            since_ms: seen,
            until_ms: None,
        }),
        (Some(_), _) => {}
    }
    if row.node.is_some() {
        found.extend(waiting(row, phase));
    }
    if row.power == Power::Running && phase == Some(Phase::Ready) {
        found.extend(row.observed.degraded.iter().map(|degraded| unhealthy(degraded.reason, degraded.since_ms)));
    }
    found
}

fn unplaced(row: &InstanceRow) -> Option<Condition> {
    (row.power == Power::Running).then(|| Condition {
        kind: ConditionKind::AwaitingCapacity,
        message: format!(
            "no node that runs profile {} has room for shape {} and {} GiB now; it is tried again",
            row.profile, row.shape, row.volume_gib
        ),
        since_ms: row.changed_ms,
        until_ms: Some(row.changed_ms.saturating_add(CAPACITY_WAIT_MS)),
    })
}

fn waiting(row: &InstanceRow, phase: Option<Phase>) -> Option<Condition> {
    use ConditionKind as Kind;
    let observed = row.observed.since_ms;
    let of = |kind, message: &str, since_ms| Some(condition(kind, message.into(), since_ms, None));
    let bounded = |kind, message: &str, since_ms, phase| Some(condition(kind, message.into(), since_ms, Some(phase)));
    let unconfirmed = row.observed.generation < row.power_generation;
    match (row.power, phase) {
        _ if unconfirmed => of(Kind::AwaitingNode, "the node has not confirmed the latest change", row.changed_ms),
        (Power::Deleted, _) => of(Kind::AwaitingNode, "the node is removing it", row.changed_ms),
        (Power::Running | Power::Stopped, Some(Phase::Failed)) => {
            row.observed.failure.map(|failure| failed(failure, observed))
        }
        (Power::Stopped, None | Some(Phase::Stopped | Phase::Gone)) => None,
        (Power::Stopped, Some(_)) => {
            bounded(Kind::AwaitingShutdown, "the guest is shutting down", row.changed_ms, Phase::Stopping)
        }
        (Power::Running, Some(Phase::Stopped)) => {
            of(Kind::PoweredOff, "the guest powered itself off; start the instance when you want it", observed)
        }
        (Power::Running, Some(phase @ Phase::Preparing)) => {
            bounded(Kind::AwaitingNode, "the node is preparing disk, vTPM and network", observed, phase)
        }
        (Power::Running, None | Some(Phase::Gone)) => {
            let message = "the node is preparing disk, vTPM and network";
            of(Kind::AwaitingNode, message, observed.max(row.changed_ms))
        }
        (Power::Running, Some(phase @ Phase::Booting)) => {
            bounded(Kind::AwaitingGuest, "the guest is booting", observed, phase)
        }
        (Power::Running, Some(phase @ (Phase::Attesting | Phase::Unlocking))) => Some(session(row, phase)),
        (Power::Running, Some(phase @ Phase::Starting)) => {
            bounded(Kind::AwaitingServices, "the guest is starting its services", observed, phase)
        }
        (Power::Running, Some(phase @ Phase::Stopping)) => {
            bounded(Kind::AwaitingShutdown, "the guest is shutting down", observed, phase)
        }
        (Power::Running, Some(Phase::Ready)) => row.observed.failure.map(|failure| degraded(failure, observed)),
    }
}

/// A condition that ends with the phase that bounds it, if any does.
fn condition(kind: ConditionKind, message: String, since_ms: u64, bound: Option<Phase>) -> Condition {
    let until_ms = bound.and_then(Phase::bound_ms).map(|bound| since_ms.saturating_add(bound));
    Condition { kind, message, since_ms, until_ms }
}

/// Between the guest's first word and the open volume: whose turn is it?
fn session(row: &InstanceRow, phase: Phase) -> Condition {
    let mailbox = &row.mailbox;
    let (kind, message, since_ms) = if mailbox.guest_seq > mailbox.broker_answers {
        (
            ConditionKind::AwaitingBroker,
            "the guest waits for your key broker; run `lambda broker run` or keep the creating command open",
            mailbox.guest_ms,
        )
    } else if mailbox.guest_seq == 0 && phase == Phase::Attesting {
        (ConditionKind::AwaitingGuest, "the guest is about to send its first message", row.observed.since_ms)
    } else {
        (ConditionKind::AwaitingUnlock, "your key broker has answered; the guest is working", row.observed.since_ms)
    };
    // The phase is bounded, however often the two take turns in it.
    let until_ms = phase.bound_ms().map(|bound| row.observed.since_ms.saturating_add(bound));
    Condition { kind, message: message.into(), since_ms, until_ms }
}

fn failed(failure: Failure, since_ms: u64) -> Condition {
    let message = format!("{} [{}]", sentence(failure), failure.code());
    condition(ConditionKind::Failed, message, since_ms, None)
}

/// A guest that runs on without something it needs.
fn degraded(failure: Failure, since_ms: u64) -> Condition {
    let what = match failure {
        Failure::Vtpm => "the vTPM ended: the guest runs on, and cannot be attested until the instance is restarted",
        _ => "the guest runs on, and something of it failed on the node; restart the instance",
    };
    condition(ConditionKind::Degraded, format!("{what} [{}]", failure.code()), since_ms, None)
}

/// Something that a ready guest finds wrong with itself.
fn unhealthy(reason: Degradation, since_ms: u64) -> Condition {
    let what = match reason {
        Degradation::SshUnreachable => "nothing in the guest listens for SSH; `lambda instance restart` starts it anew",
        Degradation::VolumeIntegrity => {
            "a block of the volume was changed outside the guest and reads as an error; nothing forged was read. \
             Copy what you need to another instance, or restore the volume"
        }
        Degradation::VolumeIo => {
            "the node's disk refused to read or write a part of the volume, and the volume may take nothing more; \
             restart the instance. If it happens again, the operator has to look at the node's disk"
        }
        Degradation::VolumeNotGrown => {
            "the volume is larger than its file system, which did not grow; restart the instance once, and if it stays so, go \
             on with the old size or move to a new instance"
        }
    };
    condition(ConditionKind::Degraded, format!("{what} [{}]", reason.code()), since_ms, None)
}

/// What happened and what to try.
fn sentence(failure: Failure) -> String {
    let text = match failure {
        Failure::Guest(reason) => return guest_sentence(reason),
        Failure::QemuStart => "QEMU did not start on the node; start the instance again, the operator has the log",
        Failure::Vtpm => "the vTPM did not start or ended; start the instance again",
        Failure::DiskFull => "the node's disk is full; start the instance again later",
        Failure::Network => "the node could not make its network; start the instance again",
        Failure::Image => "the image is missing or damaged on the node; choose another image",
        Failure::QemuExit => "the virtual machine ended unasked; start the instance again",
        Failure::HostResource => "the node could not reserve what the instance needs; start it again",
        Failure::Timeout(phase) => {
            let phase = crate::store::word(&phase).unwrap_or_default();
            return format!("it stayed in phase {phase} for longer than its bound; start the instance again");
        }
        Failure::Capacity => "no node had room in time; start it again later, or delete it and choose a smaller shape",
    };
    text.into()
}

fn guest_sentence(reason: FailureReason) -> String {
    let next = match reason {
        FailureReason::ReleaseTimeout => "no key broker answered in time; run `lambda broker run` and start it again",
        FailureReason::ReleaseRefused => "your key broker refused the evidence; see its verdict",
        FailureReason::VolumeHeaderMissing
        | FailureReason::VolumeHeaderMismatch
        | FailureReason::VolumeHeaderRejected
        | FailureReason::VolumeIntegrity => "the volume is not what your secrets pin; it was not touched",
        FailureReason::ReleaseInvalid | FailureReason::VolumeKey => "the released key does not fit; nothing was opened",
        FailureReason::RootIntegrity => "the root file system is not the measured one",
        FailureReason::KernelModule
        | FailureReason::Channel
        | FailureReason::Tpm
        | FailureReason::Tee
        | FailureReason::VolumeInitialise
        | FailureReason::PinUnacknowledged
        | FailureReason::RootAssembly
        | FailureReason::Network
        | FailureReason::Internal => "start the instance again",
    };
    format!("the guest gave up: {next}")
}

#[cfg(test)]
mod tests {
    use lambda_types::NodeId;

    use super::*;
    use crate::store::instance::Degraded;
    use crate::testing::row;

    fn kinds(row: &InstanceRow, seen: Option<u64>, now: u64) -> Vec<ConditionKind> {
        conditions(row, seen, now).into_iter().map(|condition| condition.kind).collect()
    }

    fn running(phase: Phase) -> InstanceRow {
        let mut row = row(1);
        row.node = Some(NodeId::from_bits(1));
        row.observed.phase = Some(phase);
        row.observed.epoch = row.epoch;
        row.observed.generation = row.generation;
        row
    }

    #[test]
    fn an_unplaced_instance_awaits_capacity_until_its_bound() {
        let mut row = row(1);
        row.changed_ms = 1_000;
        let found = conditions(&row, None, 2_000);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].kind, ConditionKind::AwaitingCapacity);
        assert_eq!((found[0].since_ms, found[0].until_ms), (1_000, Some(1_000 + CAPACITY_WAIT_MS)));
        row.failure = Some(Failure::Capacity);
        assert_eq!(kinds(&row, None, 2_000), [ConditionKind::Failed]);
    }

    #[test]
    fn every_phase_of_a_creation_says_what_it_awaits() {
        let expected = [
            (Phase::Preparing, Some(ConditionKind::AwaitingNode)),
            (Phase::Booting, Some(ConditionKind::AwaitingGuest)),
            (Phase::Attesting, Some(ConditionKind::AwaitingGuest)),
            (Phase::Unlocking, Some(ConditionKind::AwaitingUnlock)),
            (Phase::Starting, Some(ConditionKind::AwaitingServices)),
            (Phase::Ready, None),
            (Phase::Stopping, Some(ConditionKind::AwaitingShutdown)),
        ];
        for (phase, kind) in expected {
            assert_eq!(kinds(&running(phase), Some(0), 0), Vec::from_iter(kind), "{phase:?}");
        }
    }

    #[test]
    fn an_unanswered_guest_awaits_its_broker_and_an_answered_one_unlocks() {
        let mut row = running(Phase::Attesting);
        row.mailbox.guest_seq = 2;
        row.mailbox.broker_answers = 1;
        assert_eq!(kinds(&row, Some(0), 0), [ConditionKind::AwaitingBroker]);
        row.mailbox.broker_answers = 2;
        assert_eq!(kinds(&row, Some(0), 0), [ConditionKind::AwaitingUnlock]);
    }

    #[test]
    fn a_silent_node_is_named_beside_what_is_awaited() {
        let row = running(Phase::Booting);
        let now = crate::hub::NODE_FRESH_MS + 1;
        assert_eq!(kinds(&row, Some(0), now), [ConditionKind::NodeUnreachable, ConditionKind::AwaitingGuest]);
        assert_eq!(kinds(&running(Phase::Ready), Some(0), now), [ConditionKind::NodeUnreachable]);
    }

    #[test]
    fn an_unconfirmed_change_awaits_the_node_whatever_was_observed_before() {
        let mut row = running(Phase::Ready);
        row.power = Power::Stopped;
        row.power_generation = row.observed.generation + 1;
        assert_eq!(kinds(&row, Some(0), 0), [ConditionKind::AwaitingNode]);
    }

    #[test]
    fn a_report_about_an_older_boot_does_not_count_for_a_running_instance() {
        let mut row = running(Phase::Ready);
        row.epoch += 1;
        assert_eq!(effective_phase(&row), None);
        row.power = Power::Stopped;
        assert_eq!(effective_phase(&row), Some(Phase::Ready));
    }

    #[test]
    fn a_guest_that_gave_up_is_explained_by_its_reason() {
        let mut row = running(Phase::Failed);
        row.observed.failure = Some(Failure::Guest(FailureReason::VolumeHeaderMissing));
        let found = conditions(&row, Some(0), 0);
        assert_eq!(found[0].kind, ConditionKind::Failed);
        assert!(found[0].message.contains("volume-header-missing"), "{}", found[0].message);
    }

    #[test]
    fn every_failure_carries_its_code() {
        for (failure, code) in [
            (Failure::QemuStart, "[qemu-start]"),
            (Failure::QemuExit, "[qemu-exit]"),
            (Failure::DiskFull, "[disk-full]"),
            (Failure::Timeout(Phase::Booting), "[timeout]"),
            (Failure::Guest(FailureReason::VolumeHeaderMissing), "[volume-header-missing]"),
        ] {
            let mut row = running(Phase::Failed);
            row.observed.failure = Some(failure);
            let found = conditions(&row, Some(0), 0);
            assert!(found[0].message.ends_with(code), "{}", found[0].message);
        }
    }

    #[test]
    fn a_ready_guest_without_its_vtpm_is_degraded() {
        let mut row = running(Phase::Ready);
        row.observed.failure = Some(Failure::Vtpm);
        let found = conditions(&row, Some(0), 0);
        assert_eq!((found.len(), found[0].kind), (1, ConditionKind::Degraded));
        assert!(found[0].message.ends_with("[vtpm]"), "{}", found[0].message);
    }

    #[test]
    fn what_a_ready_guest_finds_wrong_is_a_condition_each_until_it_is_not_ready() {
        let mut row = running(Phase::Ready);
        let degraded = Degradation::ALL.map(|reason| Degraded { reason, since_ms: 7 });
        row.observed.degraded = degraded.to_vec();
        let found = conditions(&row, Some(0), 0);
        for (condition, Degraded { reason, .. }) in found.iter().zip(degraded) {
            assert_eq!((condition.kind, condition.since_ms), (ConditionKind::Degraded, 7));
            assert!(condition.message.ends_with(&format!("[{}]", reason.code())), "{}", condition.message);
        }
        assert_eq!(found.len(), degraded.len());
        row.observed.phase = Some(Phase::Stopping);
        assert_eq!(kinds(&row, Some(0), 0), [ConditionKind::AwaitingShutdown]);
    }

    #[test]
    fn a_guest_that_powered_itself_off_says_so() {
        assert_eq!(kinds(&running(Phase::Stopped), Some(0), 0), [ConditionKind::PoweredOff]);
    }

    #[test]
    fn a_bounded_wait_says_when_it_ends() {
        for phase in [Phase::Preparing, Phase::Booting, Phase::Attesting, Phase::Unlocking, Phase::Starting] {
            let mut row = running(phase);
            row.observed.since_ms = 1_000;
            let bound = phase.bound_ms().unwrap();
            assert_eq!(conditions(&row, Some(0), 0)[0].until_ms, Some(1_000 + bound), "{phase:?}");
        }
    }

    #[test]
    fn a_stopped_instance_waits_for_nothing() {
        let mut row = running(Phase::Stopped);
        row.power = Power::Stopped;
        assert!(kinds(&row, Some(0), 0).is_empty());
    }
}
