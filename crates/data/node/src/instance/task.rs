//! The task of one instance: asks [`next_step`], does it, waits for a change, asks again.

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lambda_types::InstanceId;
use lambda_types::guest::{FailureReason, FromGuest, Start, ToGuest};
use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::node::DesiredInstance;
use tokio::sync::watch;

use super::guest::{MonitorLink, MonitorNews};
use super::launch::{self, Launched};
use super::state::{InstanceRecord, gone, now_ms, persist_record};
use super::transition::{Local, Machine, Outcome, Step, next_step};
use crate::channel::{Channel, ChannelError, Heard};
use crate::host::process::Process;
use crate::network::Segment;
use crate::node::Node;
use crate::vtpm::Identity;

/// How long QEMU may take to quit before it is killed.
const QUIT: Duration = Duration::from_secs(1);

/// How long a killed process may take to go.
const GOING: Duration = Duration::from_secs(10);

/// Between swtpm's end and QEMU's, when both end together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Pause before a broken channel is opened again, or a failed removal is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A channel that was taken over in the middle of a frame is out of step; so often it may start anew.
const RESYNCHRONISATIONS: u32 = 3;

/// What runs.
struct Vm {
    qemu: Process,
    swtpm: Option<Process>,
    channel: Option<Channel>,
    monitor: MonitorLink,
    identity: Option<Identity>,
    resynchronisations: u32,
}

enum Event {
    Desired,
    QemuEnded,
    VtpmEnded,
    Heard(Heard),
    Monitor(MonitorNews),
    Reopen,
    Time,
    Released,
}

/// The task's state.
pub(crate) struct InstanceTask {
    node: Arc<Node>,
    id: InstanceId,
    folder: PathBuf,
    desired: watch::Receiver<Option<DesiredInstance>>,
    record: Option<InstanceRecord>,
    vm: Option<Vm>,
    /// QEMU's process is gone and its leftovers are not removed.
    ended: bool,
}

impl InstanceTask {
    /// A task for an instance that may have a record from an earlier agent.
    pub(crate) fn new(
        node: Arc<Node>,
        id: InstanceId,
        record: Option<InstanceRecord>,
        desired: watch::Receiver<Option<DesiredInstance>>,
    ) -> Self {
        let folder = node.layout.instance(id);
        Self { node, id, folder, desired, record, vm: None, ended: false }
    }

    /// Runs until the reconciler lets go of the instance.
    pub(crate) async fn run(mut self) {
        self.attach().await;
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if let (Some(record), Some(desired)) = (&mut self.record, &desired) {
                record.generation = record.generation.max(desired.generation);
            }
            self.relay_broker(desired.as_ref()).await;
            self.publish(desired.as_ref());
            let local = self.local();
            let step = next_step(desired.as_ref(), &local);
            tracing::trace!(instance = %self.id, ?step, phase = ?local.phase, "step");
            let proceed = match (step, desired) {
                (Step::Wait { until_ms }, _) => self.wait(until_ms).await,
                (Step::Start, Some(desired)) => self.start(&desired).await,
                (Step::AskShutdown, _) => self.ask_shutdown().await,
                (Step::Kill(failure), _) => self.kill(failure).await,
                (Step::CleanUp, _) => self.clean_up().await,
                (Step::Remove, _) => self.remove().await,
                (Step::Start, None) => true,
            };
            if !proceed {
                return;
            }
        }
    }

    fn local(&self) -> Local {
        let machine = match (&self.vm, self.ended) {
            (_, true) => Machine::Ended,
            (Some(_), false) => Machine::Running,
            (None, false) => Machine::Absent,
        };
        let record = self.record.as_ref();
        Local {
            stored: record.is_some(),
            epoch: record.map_or(0, |record| record.epoch),
            outcome: record.and_then(|record| record.outcome),
            machine,
            phase: record.map_or(Phase::Gone, |record| record.phase),
            phase_since_ms: record.map_or(0, |record| record.phase_since_ms),
            shutdown_since_ms: record.and_then(|record| record.shutdown_since_ms),
            vtpm_lost: record.is_some_and(|record| record.vtpm_lost),
            now_ms: now_ms(),
        }
    }

    fn publish(&self, desired: Option<&DesiredInstance>) {
        match (&self.record, desired) {
            (Some(record), _) => self.node.board.put(record.observed()),
            (None, Some(desired)) if desired.power != Power::Running => {
                self.node.board.put(gone(self.id, desired.generation, desired.epoch));
            }
            (None, _) => {}
        }
    }

    async fn save(&self) {
        let Some(record) = self.record.clone() else { return };
        let folder = self.folder.clone();
        let saved = tokio::task::spawn_blocking(move || record.save(&folder)).await;
        if let Err(error) = saved.map_err(io::Error::other).flatten() {
            tracing::error!(instance = %self.id, %error, "cannot store the record; a restarted agent will know an older one");
        }
    }

    /// Makes a quickly saved record outlive the host's end.
    async fn persist(&self) {
        let folder = self.folder.clone();
        let persisted = tokio::task::spawn_blocking(move || persist_record(&folder)).await;
        if let Err(error) = persisted.map_err(io::Error::other).flatten() {
            tracing::error!(instance = %self.id, %error, "the record may not outlive the host's end");
        }
    }

    /// Takes up what an earlier agent left: a running QEMU is kept, anything else in the cgroup is not.
    async fn attach(&mut self) {
        let Some(record) = self.record.clone() else { return };
        let found = |reference: Option<_>| reference.and_then(|found| Process::attach(found).ok().flatten());
        let qemu = found(record.qemu);
        let swtpm = found(record.swtpm);
        let keep: Vec<i32> = [&qemu, &swtpm].into_iter().flatten().map(|process| process.reference().pid).collect();
        let keep = if qemu.is_some() { keep } else { Vec::new() };
        let (node, id) = (self.node.clone(), self.id);
        let killed =
            tokio::task::spawn_blocking(move || node.cgroups.kill_members(&id.to_string(), &keep, GOING)).await;
        if let Ok(Err(error)) = killed {
            tracing::error!(instance = %id, %error, "cannot end leftover processes");
        }
        match qemu {
            Some(qemu) => {
                tracing::info!(instance = %id, pid = qemu.reference().pid, "attached to a running guest");
                if let Some(record) = &mut self.record {
                    record.vtpm_lost = record.swtpm.is_some() && swtpm.is_none();
                }
                self.hold(qemu, swtpm, None, RESYNCHRONISATIONS);
                self.open_channel();
                self.admit().await;
            }
            // The host or QEMU ended while no agent was there; or the agent was killed between two steps of a start.
            None if record.qemu.is_some() && record.outcome.is_none() => self.ended = true,
            None if record.failure.is_some() && record.outcome.is_none() => self.ended = true,
            None if record.outcome.is_none() => self.scrub_interrupted().await,
            None => {}
        }
    }

    /// Gives a running guest its segment and its rules, unless it was found with them when the agent started.
    async fn admit(&self) {
        let Some(record) = self.record.as_ref().filter(|_| self.node.guests.get(self.id).is_none()) else { return };
        if let Err(error) = launch::admit(&self.node, self.id, record).await {
            tracing::error!(instance = %self.id, %error, "cannot admit a running guest to the network; restart it");
        }
    }

    async fn scrub_interrupted(&mut self) {
        let Some(record) = &self.record else { return };
        let segment = Segment::parse(&record.network).ok();
        if let Err(error) = launch::scrub(&self.node, self.id, record.slot, segment).await {
            tracing::error!(instance = %self.id, %error, "cannot clean up an interrupted start");
        }
    }

    fn hold(&mut self, qemu: Process, swtpm: Option<Process>, identity: Option<Identity>, resynchronisations: u32) {
        let monitor = MonitorLink::open(&self.folder);
        self.vm = Some(Vm { qemu, swtpm, channel: None, monitor, identity, resynchronisations });
    }

    async fn start(&mut self, desired: &DesiredInstance) -> bool {
        let began = self.begin(desired);
        let launched = match began {
            Ok(slot) => {
                self.publish(Some(desired));
                launch::launch(&self.node, desired, slot).await
            }
            Err(error) => Err(launch::StartError::Folder(error)),
        };
        let held = launched.and_then(|launched| self.take(launched));
        if let Err(error) = held {
            tracing::warn!(instance = %self.id, %error, "instance does not start");
            if let Some(record) = &mut self.record {
                record.failure = Some(error.failure());
            }
            self.ended = true;
        }
        // The control plane need not wait for the disk, and a guest writes to its own much later.
        match self.record.as_ref().map(|record| record.save_quickly(&self.folder)) {
            Some(Ok(())) => {
                self.publish(Some(desired));
                self.persist().await;
            }
            Some(Err(_)) | None => self.save().await,
        }
        true
    }

    /// The record comes before anything that it describes.
    fn begin(&mut self, desired: &DesiredInstance) -> io::Result<u32> {
        let node = &self.node;
        let record = self
            .record
            .get_or_insert_with(|| InstanceRecord::new(desired.id, node.slots.take(), desired.network.clone()));
        record.begin(desired.epoch, desired.network.clone(), now_ms());
        record.generation = desired.generation;
        launch::make_folder(&self.folder)?;
        record.save_quickly(&self.folder)?;
        Ok(record.slot)
    }

    fn take(&mut self, launched: Launched) -> Result<(), launch::StartError> {
        let attach = |reference| Process::attach(reference).map_err(launch::StartError::Folder);
        let Some(record) = &mut self.record else { return Ok(()) };
        record.qemu = Some(launched.qemu);
        record.swtpm = launched.swtpm;
        record.enter(Phase::Booting, now_ms());
        match attach(launched.qemu)? {
            Some(qemu) => {
                let swtpm = launched.swtpm.map(attach).transpose()?.flatten();
                record.vtpm_lost = launched.swtpm.is_some() && swtpm.is_none();
                self.hold(qemu, swtpm, Some(launched.identity), 0);
                self.open_channel();
            }
            None => self.ended = true,
        }
        Ok(())
    }

    fn open_channel(&mut self) {
        let (Some(vm), Some(record)) = (&mut self.vm, &self.record) else { return };
        let identity = match vm.identity.take() {
            Some(identity) => Some(identity),
            None => {
                let saved = Identity::load(&self.folder).ok().flatten();
                saved.or_else(|| record.swtpm.is_none().then(Identity::none))
            }
        };
        let Some(identity) = identity else {
            tracing::error!(instance = %self.id, "vtpm.json is missing or damaged: the guest cannot attest");
            return;
        };
        match Channel::open(&self.folder) {
            Ok(channel) => {
                let start =
                    Start { instance: self.id, ek_chain: identity.ek_chain.clone(), network: record.network.clone() };
                channel.send(ToGuest::Start(start));
                channel.send(ToGuest::WatchHealth);
                vm.channel = Some(channel);
            }
            Err(error) => tracing::debug!(instance = %self.id, %error, "the guest channel does not open"),
        }
        vm.identity = Some(identity);
    }

    async fn ask_shutdown(&mut self) -> bool {
        let now = now_ms();
        if let Some(record) = &mut self.record {
            record.shutdown_since_ms = Some(now);
            record.enter(Phase::Stopping, now);
        }
        self.save().await;
        let asked = self.vm.as_ref().and_then(|vm| vm.channel.as_ref()).is_some_and(|c| c.send(ToGuest::Shutdown));
        tracing::info!(instance = %self.id, asked, "clean shutdown asked for");
        true
    }

    async fn kill(&mut self, failure: Option<Failure>) -> bool {
        if let Some(record) = &mut self.record {
            record.failure = record.failure.or(failure);
            record.shutdown_since_ms = record.shutdown_since_ms.or(Some(now_ms()));
        }
        self.save().await;
        let Some(vm) = &mut self.vm else { return true };
        if vm.monitor.quit() && tokio::time::timeout(QUIT, vm.qemu.exited()).await.is_ok() {
            self.ended = true;
            return true;
        }
        if let Err(error) = vm.qemu.kill_and_wait(GOING).await {
            tracing::error!(instance = %self.id, %error, "QEMU does not end; trying again");
            tokio::time::sleep(AGAIN).await;
            return true;
        }
        self.ended = true;
        true
    }

    async fn clean_up(&mut self) -> bool {
        self.drain().await;
        self.vm = None;
        if let Some(record) = self.record.as_mut().filter(|record| record.qemu.is_some()) {
            record.failure = record.failure.or_else(|| unexplained_end(record, &self.folder));
        }
        self.finish_clean_up().await
    }

    /// Hears what the guest and QEMU said last, which is why they ended.
    async fn drain(&mut self) {
        let Some(vm) = &mut self.vm else { return };
        let mut channel = vm.channel.take();
        let mut last = Vec::new();
        let hearing = async {
            if let Some(channel) = &mut channel {
                while let Heard::Frame(frame) = channel.hear().await {
                    last.push(frame);
                }
            }
        };
        let told = tokio::time::timeout(QUIT, hearing).await;
        if told.is_err() {
            tracing::debug!(instance = %self.id, "the guest channel stays open after QEMU's end");
        }
        let news = tokio::time::timeout(QUIT, vm.monitor.last_news()).await.unwrap_or_default();
        last.into_iter().for_each(|frame| self.hear(frame));
        for news in news {
            self.hear_monitor(news).await;
        }
    }

    async fn finish_clean_up(&mut self) -> bool {
        let Some(record) = &self.record else {
            self.ended = false;
            return true;
        };
        let segment = Segment::parse(&record.network).ok();
        if let Err(error) = launch::scrub(&self.node, self.id, record.slot, segment).await {
            tracing::error!(instance = %self.id, %error, "cannot clean up; trying again");
            tokio::time::sleep(AGAIN).await;
            return true;
        }
        if let Some(record) = &mut self.record {
            let outcome = record.failure.map_or(Outcome::Stopped, Outcome::Failed);
            record.finish(outcome, now_ms());
            tracing::info!(instance = %self.id, epoch = record.epoch, ?outcome, "boot ended");
        }
        self.ended = false;
        self.save().await;
        true
    }

    async fn remove(&mut self) -> bool {
        self.scrub_interrupted().await;
        let (node, id) = (self.node.clone(), self.id);
        match tokio::task::spawn_blocking(move || launch::remove_folder(&node, id)).await {
            Ok(Ok(())) => {
                if let Some(record) = self.record.take() {
                    self.node.slots.release(record.slot);
                }
                tracing::info!(instance = %id, "removed");
            }
            Ok(Err(error)) => {
                tracing::error!(instance = %id, %error, "cannot remove the instance's folder; trying again");
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => return false,
        }
        true
    }

    /// Waits for one event and takes note of it. `false` when the task is to end.
    async fn wait(&mut self, until_ms: Option<u64>) -> bool {
        let event = next_event(self.vm.as_mut(), &mut self.desired, until_ms).await;
        match event {
            Event::Desired | Event::Time => {}
            Event::Released => return false,
            Event::QemuEnded => self.ended = true,
            Event::VtpmEnded => self.vtpm_ended().await,
            Event::Reopen => self.open_channel(),
            Event::Monitor(news) => self.hear_monitor(news).await,
            Event::Heard(Heard::Frame(frame)) => {
                self.hear(frame);
                self.save().await;
            }
            Event::Heard(Heard::Closed(error)) => return self.channel_closed(&error).await,
        }
        true
    }

    async fn vtpm_ended(&mut self) {
        let Some(vm) = &mut self.vm else { return };
        vm.swtpm = None;
        if tokio::time::timeout(TOGETHER, vm.qemu.exited()).await.is_ok() {
            self.ended = true;
        } else {
            tracing::warn!(instance = %self.id, "the vTPM's process ended: the guest cannot attest any more");
            if let Some(record) = &mut self.record {
                record.vtpm_lost = true;
            }
            self.save().await;
        }
    }

    async fn channel_closed(&mut self, error: &ChannelError) -> bool {
        let Some(vm) = &mut self.vm else { return true };
        vm.channel = None;
        if !error.is_violation() {
            tracing::debug!(instance = %self.id, %error, "guest channel closed");
            return true;
        }
        if vm.resynchronisations > 0 {
            vm.resynchronisations -= 1;
            return true;
        }
        tracing::warn!(instance = %self.id, %error, "the guest broke the channel's protocol");
        self.kill(Some(Failure::Guest(FailureReason::Channel))).await
    }

    async fn hear_monitor(&mut self, news: MonitorNews) {
        let Some(record) = &mut self.record else { return };
        match news {
            MonitorNews::Answered => record.qemu_answered = true,
            MonitorNews::Ended(ending) => {
                tracing::info!(instance = %self.id, ?ending, phase = ?record.phase, "the guest ended its machine");
                super::guest::note_ending(record, ending, now_ms());
            }
        }
        self.save().await;
    }

    fn hear(&mut self, frame: FromGuest) {
        if let Some(vm) = &mut self.vm {
            // In step again.
            vm.resynchronisations = 0;
        }
        if let Some(record) = &mut self.record {
            super::guest::note(record, frame, now_ms());
        }
    }

    /// Hands the broker's latest message to the guest, once, in the boot it is for.
    async fn relay_broker(&mut self, desired: Option<&DesiredInstance>) {
        let (Some(message), Some(record)) = (desired.and_then(|desired| desired.broker.as_ref()), &mut self.record)
        else {
            return;
        };
        if record.boot != Some(message.boot) || message.seq <= record.broker_seq {
            return;
        }
        let frame = ToGuest::FromBroker { seq: message.seq, body: message.body.clone() };
        let channel = self.vm.as_ref().and_then(|vm| vm.channel.as_ref());
        if channel.is_some_and(|channel| channel.send(frame)) {
            record.broker_seq = message.seq;
            self.save().await;
        }
    }
}

/// Why a QEMU ended that nobody ended.
fn unexplained_end(record: &InstanceRecord, folder: &std::path::Path) -> Option<Failure> {
    if record.shutdown_since_ms.is_some() || record.phase == Phase::Stopping {
        return None;
    }
    tracing::warn!(instance = %record.id, said = launch::last_words(folder), "QEMU ended unasked");
    Some(if record.qemu_answered { Failure::QemuExit } else { Failure::QemuStart })
}

async fn next_event(
    vm: Option<&mut Vm>,
    desired: &mut watch::Receiver<Option<DesiredInstance>>,
    until_ms: Option<u64>,
) -> Event {
    let deadline = async {
        match until_ms {
            Some(until) => tokio::time::sleep(Duration::from_millis(until.saturating_sub(now_ms()))).await,
            None => pending().await,
        }
    };
    let inside = async {
        match vm {
            Some(vm) => vm_event(vm).await,
            None => pending().await,
        }
    };
    tokio::select! {
        changed = desired.changed() => if changed.is_ok() { Event::Desired } else { Event::Released },
        event = inside => event,
        () = deadline => Event::Time,
    }
}

async fn vm_event(vm: &mut Vm) -> Event {
    let vtpm = async {
        match &vm.swtpm {
            Some(swtpm) => swtpm.exited().await,
            None => pending().await,
        }
    };
    let guest = async {
        match &mut vm.channel {
            Some(channel) => Event::Heard(channel.hear().await),
            None => {
                tokio::time::sleep(AGAIN).await;
                Event::Reopen
            }
        }
    };
    tokio::select! {
        // QEMU's end closes everything else: it is the reason, not the symptoms.
        biased;
        () = vm.qemu.exited() => Event::QemuEnded,
        () = vtpm => Event::VtpmEnded,
        news = vm.monitor.news() => Event::Monitor(news),
        event = guest => event,
    }
}
