//! What the agent remembers of one instance, on disk and in reports.

use std::io;
use std::path::{Path, PathBuf};

use lambda_types::guest::{Degradation, GuestNetwork};
use lambda_types::instance::{Failure, Phase, PhaseTime};
use lambda_types::mailbox::Message;
use lambda_types::node::ObservedInstance;
use lambda_types::{BootId, InstanceId};
use serde::{Deserialize, Serialize};

use super::transition::Outcome;
use crate::host::process::ProcessRef;
use crate::layout::{file, persist, write_atomically, write_quickly};

/// Most phases that are remembered of a boot; a guest that goes round in circles adds none.
const MAX_PHASES: usize = 32;

/// Version of the file. 1 had no `vtpm_lost`, 2 no `degraded`.
const FORMAT: u32 = 3;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a record.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// Another version of the agent wrote it.
    #[error("{path} has format {found}, this agent reads 1 to {FORMAT}: start the version of lambdad that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

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
    /// The vTPM's process ended before QEMU.
    pub(crate) vtpm_lost: bool,
    /// Why the agent ended QEMU, or what the guest gave as its reason.
    pub(crate) failure: Option<Failure>,
    pub(crate) boot: Option<BootId>,
    pub(crate) guest: Option<Message>,
    pub(crate) broker_seq: u64,
    /// What the guest says is wrong with it.
    pub(crate) degraded: Vec<Degradation>,
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
            vtpm_lost: false,
            failure: None,
            boot: None,
            guest: None,
            broker_seq: 0,
            degraded: Vec::new(),
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
        self.vtpm_lost = false;
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
                None => self
                    .failure
                    .filter(|_| self.phase == Phase::Failed)
                    .or_else(|| self.vtpm_lost.then_some(Failure::Vtpm)),
            },
            boot: self.boot,
            phases: self.phases.clone(),
            guest: self.guest.clone(),
            broker_seq: self.broker_seq,
            degraded: if self.phase == Phase::Ready { self.degraded.clone() } else { Vec::new() },
        }
    }

    /// # Errors
    /// When there is a file and it is not a record that this agent understands.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, RecordError> {
        let path = folder.join(file::STATE);
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&bytes, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RecordError::Read { path, source }),
        }
    }

    fn parse(bytes: &[u8], path: PathBuf) -> Result<Self, RecordError> {
        let parsed = serde_json::from_slice::<Header>(bytes).and_then(|header| {
            Ok(match header.format {
                FORMAT => Ok(serde_json::from_slice(bytes)?),
                older @ (1 | 2) => {
                    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes)?;
                    fields.insert("format".into(), FORMAT.into());
                    fields.insert("degraded".into(), serde_json::Value::Array(Vec::new()));
                    if older == 1 {
                        fields.insert("vtpm_lost".into(), false.into());
                    }
                    Ok(serde_json::from_value(fields.into())?)
                }
                found => Err(found),
            })
        });
        match parsed {
            Ok(Ok(record)) => Ok(record),
            Ok(Err(found)) => Err(RecordError::Version { path, found }),
            Err(source) => Err(RecordError::Damaged { path, source }),
        }
    }

    /// Writes it so that it outlives the host's end. Blocks on the disk.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        write_atomically(&folder.join(file::STATE), &serde_json::to_vec(self)?)
    }

    /// Writes it so that it outlives the agent's end.
    pub(crate) fn save_quickly(&self, folder: &Path) -> io::Result<()> {
        write_quickly(&folder.join(file::STATE), &serde_json::to_vec(self)?)
    }
}

/// Makes what was saved quickly outlive the host's end.
pub(crate) fn persist_record(folder: &Path) -> io::Result<()> {
    persist(&folder.join(file::STATE))
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
        degraded: Vec::new(),
    }
}

/// The node's clock.
pub(crate) fn now_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> InstanceRecord {
        let network = GuestNetwork {
            mac: "02:00:00:00:00:01".into(),
            address: [10, 0, 0, 2].into(),
            prefix: 30,
            gateway: [10, 0, 0, 1].into(),
        };
        let mut record = InstanceRecord::new(InstanceId::from_bits(1), 3, network.clone());
        record.begin(4, network, 5);
        record
    }

    fn load(value: &serde_json::Value) -> Result<Option<InstanceRecord>, RecordError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file::STATE), value.to_string()).unwrap();
        InstanceRecord::load(folder.path())
    }

    #[test]
    fn a_record_of_an_older_format_is_carried_over() {
        let mut value = serde_json::to_value(record()).unwrap();
        value["format"] = 2.into();
        value["vtpm_lost"] = true.into();
        value.as_object_mut().unwrap().remove("degraded");
        let loaded = load(&value).unwrap().unwrap();
        assert_eq!((loaded.format, loaded.vtpm_lost, loaded.degraded.len()), (FORMAT, true, 0));
        value["format"] = 1.into();
        value.as_object_mut().unwrap().remove("vtpm_lost");
        let loaded = load(&value).unwrap().unwrap();
        assert_eq!((loaded.format, loaded.slot, loaded.epoch, loaded.vtpm_lost), (FORMAT, 3, 4, false));
    }

    #[test]
    fn a_record_of_an_unknown_format_is_refused_by_number_and_is_not_called_damaged() {
        for found in [0, FORMAT + 1] {
            let error = load(&serde_json::json!({ "format": found, "new": true })).unwrap_err();
            assert!(error.to_string().contains(&format!("has format {found}")), "{error}");
            assert!(matches!(error, RecordError::Version { .. }));
        }
    }

    #[test]
    fn what_is_no_record_is_damaged() {
        for value in [serde_json::json!({}), serde_json::json!({ "format": FORMAT }), serde_json::json!([1])] {
            assert!(matches!(load(&value), Err(RecordError::Damaged { .. })));
        }
    }

    #[test]
    fn a_lost_vtpm_is_reported_beside_the_phase_and_is_no_reason_for_a_clean_end() {
        let mut record = record();
        record.enter(Phase::Ready, 6);
        record.vtpm_lost = true;
        let observed = record.observed();
        assert_eq!((observed.phase, observed.failure), (Phase::Ready, Some(Failure::Vtpm)));
        record.finish(Outcome::Stopped, 7);
        assert_eq!((record.observed().phase, record.observed().failure), (Phase::Stopped, None));
    }
}
