//! What the guest and its QEMU say, and what it means for the record.

use std::path::Path;
use std::time::Duration;

use lambda_types::BootId;
use lambda_types::guest::{FailureReason, FromGuest, GuestPhase};
use lambda_types::instance::{Failure, Phase};
use lambda_types::mailbox::Message;
use tokio::sync::mpsc;

use super::state::InstanceRecord;
use crate::qemu::qmp::{Ending, Monitor};

/// Takes note of a frame. A new boot starts both mailbox registers anew; a message that is not newer is a repetition.
pub(super) fn note(record: &mut InstanceRecord, frame: FromGuest, now_ms: u64) {
    match frame {
        FromGuest::Report { boot, phase, reason } => {
            enter_boot(record, boot);
            report(record, phase, reason, now_ms);
        }
        FromGuest::ToBroker { boot, seq, body } => {
            enter_boot(record, boot);
            if record.guest.as_ref().is_none_or(|latest| seq > latest.seq) {
                record.guest = Some(Message { boot, seq, body });
            }
        }
        FromGuest::Health { boot, mut degraded } => {
            enter_boot(record, boot);
            degraded.sort_unstable();
            degraded.dedup();
            record.degraded = degraded;
        }
    }
}

fn enter_boot(record: &mut InstanceRecord, boot: BootId) {
    if record.boot != Some(boot) {
        record.boot = Some(boot);
        record.guest = None;
        record.broker_seq = 0;
        record.degraded.clear();
    }
}

fn report(record: &mut InstanceRecord, phase: GuestPhase, reason: Option<FailureReason>, now_ms: u64) {
    if phase == GuestPhase::Failed {
        record.failure = Some(Failure::Guest(reason.unwrap_or(FailureReason::Channel)));
    }
    // Once it is going down, nothing but a failure changes that.
    let going = record.phase == Phase::Stopping || record.phase == Phase::Failed;
    if !going || phase == GuestPhase::Failed {
        record.enter(phase.into(), now_ms);
    }
}

/// Takes note of why the machine ends. A guest that was ready and resets was rebooted from inside: the machine stays off, as
/// after a power-off. Before that nothing in it reboots, so a reset is a crash.
pub(super) fn note_ending(record: &mut InstanceRecord, ending: Ending, now_ms: u64) {
    let asked = record.shutdown_since_ms.is_some();
    let clean = match ending {
        Ending::PoweredOff => true,
        Ending::Reset => asked || matches!(record.phase, Phase::Ready | Phase::Stopping),
        Ending::Panicked => false,
    };
    if clean {
        record.shutdown_since_ms = record.shutdown_since_ms.or(Some(now_ms));
        if record.phase != Phase::Failed {
            record.enter(Phase::Stopping, now_ms);
        }
    } else {
        record.failure = record.failure.or(Some(Failure::QemuExit));
    }
}

/// What QEMU's monitor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MonitorNews {
    /// QEMU is up.
    Answered,
    /// The guest ended the machine.
    Ended(Ending),
}

enum Order {
    Quit,
}

/// A task that holds the monitor connection.
pub(super) struct MonitorLink {
    orders: mpsc::Sender<Order>,
    news: mpsc::Receiver<MonitorNews>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for MonitorLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MonitorLink {
    pub(super) fn open(folder: &Path) -> Self {
        let (orders, inbox) = mpsc::channel(1);
        let (report, news) = mpsc::channel(4);
        let task = tokio::spawn(watch(folder.to_owned(), inbox, report));
        Self { orders, news, task }
    }

    /// Asks QEMU to quit; `false` when there is no one to ask.
    pub(super) fn quit(&self) -> bool {
        self.orders.try_send(Order::Quit).is_ok()
    }

    /// The next news; never completes when there is none any more.
    pub(super) async fn news(&mut self) -> MonitorNews {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// What was not heard yet, after QEMU's end.
    pub(super) async fn last_news(&mut self) -> Vec<MonitorNews> {
        let mut all = Vec::new();
        while let Some(news) = self.news.recv().await {
            all.push(news);
        }
        all
    }
}

/// Between attempts to take the monitor over from an earlier agent's connection.
const AGAIN: Duration = Duration::from_secs(1);

async fn watch(folder: std::path::PathBuf, mut orders: mpsc::Receiver<Order>, report: mpsc::Sender<MonitorNews>) {
    let mut monitor = match Monitor::open(&folder).await {
        Ok(monitor) => monitor,
        Err(error) => {
            tracing::debug!(%error, "QEMU's monitor does not answer");
            // Orders are refused from here on, and the caller kills instead.
            return tokio::time::sleep(AGAIN).await;
        }
    };
    match monitor.status().await {
        Ok(status) => tracing::debug!(status, "QEMU answers"),
        Err(error) => tracing::debug!(%error, "QEMU does not tell its state"),
    }
    if report.send(MonitorNews::Answered).await.is_err() {
        return;
    }
    tokio::select! {
        ending = monitor.ending() => match ending {
            Ok(Some(ending)) => drop(report.send(MonitorNews::Ended(ending)).await),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "QEMU's monitor ended"),
        },
        order = orders.recv() => match order {
            Some(Order::Quit) => {
                if let Err(error) = monitor.quit().await {
                    tracing::debug!(%error, "QEMU did not confirm that it quits");
                }
            }
            None => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use lambda_types::guest::{Degradation, GuestNetwork};
    use lambda_types::{Binary, InstanceId};

    use super::*;

    fn record() -> InstanceRecord {
        let network = GuestNetwork {
            mac: "02:00:00:00:00:01".into(),
            address: [10, 0, 0, 2].into(),
            prefix: 30,
            gateway: [10, 0, 0, 1].into(),
        };
        let mut record = InstanceRecord::new(InstanceId::from_bits(1), 1, network.clone());
        record.begin(1, network, 5);
        record
    }

    fn say(seq: u64, boot: u128) -> FromGuest {
        FromGuest::ToBroker { boot: BootId::from_bits(boot), seq, body: Binary(vec![1]) }
    }

    fn tell(phase: GuestPhase) -> FromGuest {
        FromGuest::Report { boot: BootId::from_bits(1), phase, reason: None }
    }

    #[test]
    fn a_repeated_or_older_message_changes_nothing() {
        let mut record = record();
        note(&mut record, say(2, 1), 6);
        note(&mut record, say(2, 1), 7);
        note(&mut record, say(1, 1), 8);
        assert_eq!(record.guest.as_ref().map(|message| message.seq), Some(2));
    }

    #[test]
    fn a_new_boot_starts_both_registers_anew() {
        let mut record = record();
        note(&mut record, say(9, 1), 6);
        record.broker_seq = 4;
        note(&mut record, say(1, 2), 7);
        assert_eq!(record.guest.as_ref().map(|message| message.seq), Some(1));
        assert_eq!((record.boot, record.broker_seq), (Some(BootId::from_bits(2)), 0));
    }

    #[test]
    fn what_is_wrong_is_told_while_the_guest_is_ready_and_forgotten_with_its_boot() {
        let mut record = record();
        let health = |boot, degraded| FromGuest::Health { boot: BootId::from_bits(boot), degraded };
        note(&mut record, tell(GuestPhase::Ready), 6);
        let told = vec![Degradation::VolumeIntegrity, Degradation::SshUnreachable, Degradation::VolumeIntegrity];
        note(&mut record, health(1, told), 7);
        assert_eq!(record.observed().degraded, [Degradation::SshUnreachable, Degradation::VolumeIntegrity]);
        note(&mut record, health(1, vec![Degradation::VolumeIntegrity]), 8);
        assert_eq!(record.observed().degraded, [Degradation::VolumeIntegrity]);
        note(&mut record, tell(GuestPhase::Stopping), 9);
        assert!(record.observed().degraded.is_empty());
        note(&mut record, say(1, 2), 10);
        assert!(record.degraded.is_empty());
    }

    #[test]
    fn phases_are_timed_once_and_a_guest_going_down_does_not_come_back() {
        let mut record = record();
        note(&mut record, tell(GuestPhase::Attesting), 10);
        note(&mut record, tell(GuestPhase::Attesting), 11);
        note(&mut record, tell(GuestPhase::Stopping), 12);
        note(&mut record, tell(GuestPhase::Ready), 13);
        assert_eq!(record.phase, Phase::Stopping);
        let phases: Vec<(Phase, u64)> = record.phases.iter().map(|time| (time.phase, time.at_ms)).collect();
        assert_eq!(phases, [(Phase::Preparing, 5), (Phase::Attesting, 10), (Phase::Stopping, 12)]);
    }

    /// Phase, whether a clean end is noted, and the failure.
    fn ended(phase: Phase, ending: Ending) -> (Phase, bool, Option<Failure>) {
        let mut record = record();
        record.enter(phase, 9);
        note_ending(&mut record, ending, 10);
        (record.phase, record.shutdown_since_ms.is_some(), record.failure)
    }

    #[test]
    fn a_ready_guest_that_powers_off_or_reboots_has_stopped_and_a_panicked_one_has_failed() {
        assert_eq!(ended(Phase::Ready, Ending::PoweredOff), (Phase::Stopping, true, None));
        assert_eq!(ended(Phase::Ready, Ending::Reset), (Phase::Stopping, true, None));
        assert_eq!(ended(Phase::Ready, Ending::Panicked), (Phase::Ready, false, Some(Failure::QemuExit)));
    }

    #[test]
    fn a_reset_before_ready_is_a_crash() {
        for phase in [Phase::Booting, Phase::Attesting, Phase::Unlocking, Phase::Starting] {
            assert_eq!(ended(phase, Ending::Reset), (phase, false, Some(Failure::QemuExit)));
        }
    }

    #[test]
    fn a_guest_that_gave_up_keeps_its_own_reason_however_it_ends() {
        for ending in [Ending::PoweredOff, Ending::Reset, Ending::Panicked] {
            let mut record = record();
            let gave_up = FromGuest::Report {
                boot: BootId::from_bits(1),
                phase: GuestPhase::Failed,
                reason: Some(FailureReason::Channel),
            };
            note(&mut record, gave_up, 9);
            note_ending(&mut record, ending, 10);
            assert_eq!((record.phase, record.failure), (Phase::Failed, Some(Failure::Guest(FailureReason::Channel))));
        }
    }

    #[test]
    fn a_guest_that_circles_through_phases_does_not_grow_its_record() {
        let mut record = record();
        for round in 0..1000 {
            note(&mut record, tell(GuestPhase::Attesting), round);
            note(&mut record, tell(GuestPhase::Ready), round);
        }
        assert!(record.phases.len() <= 32);
        assert_eq!(record.phase_since_ms, 999);
    }
}
