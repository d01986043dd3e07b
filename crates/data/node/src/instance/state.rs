//! What the agent remembers of one instance, on disk and in reports.

use std::io;
use std::path::Path;

use lambda_types::guest::GuestNetwork;
use lambda_types::instance::{Failure, Phase, PhaseTime};
use lambda_types::mailbox::Message;
use lambda_types::node::ObservedInstance;
use lambda_types::{BootId, InstanceId};
use serde::{Deserialize, Serialize};

use super::transition::Outcome;
use crate::host::process::ProcessRef;
use crate::layout::{file, write_atomically};

/// Most phases that are remembered of a boot; a guest that goes round in circles adds none.
const MAX_PHASES: usize = 32;

/// Version of the file.
const FORMAT: u32 = 1;

/// `state.json`. Written before what it describes is made, so that nothing exists which it does not name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstanceRecord {
    format: u32,
    pub(crate) id: InstanceId,
    /// Decides uids and the tap's name; unique on the node.
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) qemu: Option<ProcessRef>,
    pub(crate) swtpm: Option<ProcessRef>,
    /// QEMU has answered on QMP: what ends it later is not a failure to start.
    pub(crate) qemu_answered: bool,
    pub(crate) network: GuestNetwork,
    pub(crate) phase: Phase,
    pub(crate) phase_since_ms: u64,
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) shutdown_since_ms: Option<u64>,
    /// Why the agent ended QEMU, or what the guest gave as its reason.
    pub(crate) failure: Option<Failure>,
    pub(crate) boot: Option<BootId>,
    pub(crate) guest: Option<Message>,
    pub(crate) broker_seq: u64,
}

impl InstanceRecord {
    pub(crate) fn new(id: InstanceId, slot: u32, network: GuestNetwork) -> Self {
        Self {
            format: FORMAT,
            id,
            slot,
            generation: 0,
            epoch: 0,
            outcome: None,
            qemu: None,
            swtpm: None,
            qemu_answered: false,
            network,
            phase: Phase::Stopped,
            phase_since_ms: 0,
            phases: Vec::new(),
            shutdown_since_ms: None,
            failure: None,
            boot: None,
            guest: None,
            broker_seq: 0,
        }
    }

    /// Forgets the last boot and begins another.
    pub(crate) fn begin(&mut self, epoch: u64, network: GuestNetwork, now_ms: u64) {
        *self = Self { generation: self.generation, epoch, ..Self::new(self.id, self.slot, network) };
        self.enter(Phase::Preparing, now_ms);
    }

    pub(crate) fn enter(&mut self, phase: Phase, now_ms: u64) {
        if self.phase == phase && !self.phases.is_empty() {
            return;
        }
        self.phase = phase;
        self.phase_since_ms = now_ms;
        if self.phases.len() < MAX_PHASES {
            self.phases.push(PhaseTime { phase, at_ms: now_ms });
        }
    }

    pub(crate) fn finish(&mut self, outcome: Outcome, now_ms: u64) {
        self.outcome = Some(outcome);
        self.qemu = None;
        self.swtpm = None;
        self.shutdown_since_ms = None;
        self.enter(if outcome == Outcome::Stopped { Phase::Stopped } else { Phase::Failed }, now_ms);
    }

    pub(crate) fn observed(&self) -> ObservedInstance {
        ObservedInstance {
            id: self.id,
            generation: self.generation,
            epoch: self.epoch,
            phase: self.phase,
            failure: match self.outcome {
                Some(Outcome::Failed(failure)) => Some(failure),
                Some(Outcome::Stopped) => None,
                None => self.failure.filter(|_| self.phase == Phase::Failed),
            },
            boot: self.boot,
            phases: self.phases.clone(),
            guest: self.guest.clone(),
            broker_seq: self.broker_seq,
        }
    }

    pub(crate) fn load(folder: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(folder.join(file::STATE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: Self = serde_json::from_slice(&bytes)?;
        if record.format != FORMAT {
            let text = format!("state.json has format {}, this agent reads {FORMAT}", record.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Some(record))
    }

    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        write_atomically(&folder.join(file::STATE), &serde_json::to_vec(self)?)
    }
}

/// What is reported of an instance of which nothing is there.
pub(crate) fn gone(id: InstanceId, generation: u64, epoch: u64) -> ObservedInstance {
    ObservedInstance {
        id,
        generation,
        epoch,
        phase: Phase::Gone,
        failure: None,
        boot: None,
        phases: Vec::new(),
        guest: None,
        broker_seq: 0,
    }
}

/// The node's clock.
pub(crate) fn now_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
