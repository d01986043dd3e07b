//! Desired set in, one task for each instance.
//!
//! Level-triggered: the inputs are the stored desired set and what is on this machine. Whatever an earlier agent left
//! in the middle of a step is found here: a folder or a cgroup that nothing desires and no record explains is removed,
//! a guest that runs is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use lambda_types::InstanceId;
use lambda_types::node::{DesiredInstance, SyncResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::host::process::Process;
use crate::instance::rebuild;
use crate::instance::state::{InstanceRecord, RecordError};
use crate::instance::task::InstanceTask;
use crate::layout::{Layout, TRASH, file, write_atomically};
use crate::network::Segment;
use crate::network::firewall::{self, Guest};
use crate::network::tap;
use crate::node::Node;

/// How long orphans may take to go.
const GOING: Duration = Duration::from_secs(10);

/// Name of the workshop's cgroup.
pub(crate) const WORKSHOP: &str = "vtpm-workshop";

struct Handle {
    desired: watch::Sender<Option<DesiredInstance>>,
    task: JoinHandle<()>,
}

pub(crate) struct Reconciler {
    node: Arc<Node>,
    generation: u64,
    tasks: HashMap<InstanceId, Handle>,
    damaged: BTreeSet<InstanceId>,
}

/// What is on disk.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) records: BTreeMap<InstanceId, InstanceRecord>,
    /// Instances without a usable record. What runs of them runs on, and they are taken up as soon as they are desired.
    pub(crate) damaged: BTreeSet<InstanceId>,
}

impl Reconciler {
    /// Takes up what is on the machine and starts a task for everything known.
    ///
    /// # Errors
    /// When the stored desired set is damaged or orphans cannot be removed.
    pub(crate) fn start(node: Arc<Node>, found: Found) -> anyhow::Result<Self> {
        let stored = load_desired(&node.layout)?;
        let mut reconciler = Self { node, generation: 0, tasks: HashMap::new(), damaged: found.damaged };
        for record in found.records.into_values() {
            reconciler.spawn(record.id, Some(record), None);
        }
        if let Some(stored) = stored {
            reconciler.generation = stored.generation;
            reconciler.spread(stored.desired);
        }
        Ok(reconciler)
    }

    /// Generation of the stored desired set; 0 for none.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Acts on a desired set and stores it. An older one than the stored is refused; the same is acted on again.
    ///
    /// # Errors
    /// When it cannot be stored: it is acted on all the same, and the control plane is asked again.
    pub(crate) async fn apply(&mut self, response: SyncResponse) -> io::Result<()> {
        if response.generation < self.generation {
            tracing::warn!(held = self.generation, offered = response.generation, "older desired set refused");
            return Ok(());
        }
        let bytes = serde_json::to_vec(&response)?;
        let generation = response.generation;
        let newer = generation > self.generation;
        self.spread(response.desired);
        if newer {
            let path = self.node.layout.desired();
            tokio::task::spawn_blocking(move || write_atomically(&path, &bytes)).await.map_err(io::Error::other)??;
            self.generation = generation;
        }
        Ok(())
    }

    fn spread(&mut self, desired: Vec<DesiredInstance>) {
        let named: BTreeSet<InstanceId> = desired.iter().map(|instance| instance.id).collect();
        for instance in desired {
            match self.tasks.get(&instance.id) {
                Some(handle) if !handle.task.is_finished() => {
                    handle.desired.send_if_modified(|held| {
                        let newer = held.as_ref().is_none_or(|held| held.generation <= instance.generation);
                        let changed = newer && held.as_ref() != Some(&instance);
                        if changed {
                            *held = Some(instance);
                        }
                        changed
                    });
                }
                Some(_) | None => {
                    let rebuilt = self.damaged.remove(&instance.id).then(|| rebuild(&self.node, &instance));
                    self.spawn(instance.id, rebuilt, Some(instance));
                }
            }
        }
        self.release(&named);
    }

    /// Lets go of instances that are gone and no longer named. One that is there is left alone.
    fn release(&mut self, named: &BTreeSet<InstanceId>) {
        let node = &self.node;
        self.tasks.retain(|id, handle| {
            let there = named.contains(id) || node.layout.instance(*id).exists();
            if !there {
                node.board.remove(*id);
            } else if !named.contains(id) {
                handle.desired.send_if_modified(|held| held.take().is_some());
            }
            there
        });
    }

    fn spawn(&mut self, id: InstanceId, record: Option<InstanceRecord>, desired: Option<DesiredInstance>) {
        let (sender, receiver) = watch::channel(desired);
        let task = InstanceTask::new(self.node.clone(), id, record, receiver);
        let handle = Handle { desired: sender, task: tokio::spawn(task.run()) };
        self.tasks.insert(id, handle);
    }
}

fn load_desired(layout: &Layout) -> anyhow::Result<Option<SyncResponse>> {
    match std::fs::read(layout.desired()) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(error) => {
                // The control plane has the set; guests are kept by their own records.
                tracing::error!(%error, "the stored desired set is damaged; asking the control plane for it");
                Ok(None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads every record and removes what an interrupted creation or removal left.
///
/// # Errors
/// When a folder cannot be read or removed.
pub(crate) fn load_records(layout: &Layout) -> anyhow::Result<Found> {
    std::fs::create_dir_all(layout.instances())?;
    let mut found = Found::default();
    for entry in std::fs::read_dir(layout.instances())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with(TRASH) {
            tracing::info!(name, "finishing an interrupted removal");
            std::fs::remove_dir_all(&path)?;
            continue;
        }
        let Ok(id) = name.parse::<InstanceId>() else {
            tracing::warn!(name, "unknown file among the instances; left alone");
            continue;
        };
        match InstanceRecord::load(&path) {
            Ok(Some(record)) => drop(found.records.insert(id, record)),
            Ok(None) if !path.join(file::VOLUME).exists() => {
                tracing::info!(name, "removing an interrupted creation");
                std::fs::remove_dir_all(&path)?;
            }
            Ok(None) => {
                tracing::error!(name, "a volume without a record; left alone until it is desired");
                found.damaged.insert(id);
            }
            Err(error @ RecordError::Damaged { .. }) => {
                tracing::error!(name, %error, "left alone until it is desired, then rebuilt from what runs");
                std::fs::rename(path.join(file::STATE), path.join(file::DAMAGED_STATE))?;
                found.damaged.insert(id);
            }
            Err(error @ (RecordError::Read { .. } | RecordError::Version { .. })) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Rebuilds the records of damaged instances that the stored desired set names; the others keep their slot.
///
/// # Errors
/// When the stored desired set cannot be read.
pub(crate) fn recover(node: &Node, mut found: Found) -> anyhow::Result<Found> {
    found.records.values().for_each(|record| node.slots.claim(record.slot));
    let slots = found.damaged.iter().filter_map(|id| rebuild::slot(node, *id));
    slots.for_each(|slot| node.slots.claim(slot));
    let stored = if found.damaged.is_empty() { None } else { load_desired(&node.layout)? };
    for desired in stored.into_iter().flat_map(|stored| stored.desired) {
        if found.damaged.remove(&desired.id) {
            found.records.insert(desired.id, rebuild(node, &desired));
        }
    }
    Ok(found)
}

fn rebuild(node: &Node, desired: &DesiredInstance) -> InstanceRecord {
    let record = rebuild::rebuild(node, desired);
    let running = record.qemu.is_some();
    tracing::warn!(instance = %desired.id, slot = record.slot, running, "record rebuilt from what the host shows");
    if let Err(error) = record.save(&node.layout.instance(desired.id)) {
        tracing::error!(instance = %desired.id, %error, "cannot store the rebuilt record");
    }
    record
}

/// Ends processes that no record explains, and writes the firewall anew for the guests that run.
///
/// # Errors
/// When an orphan survives or the rules are refused.
pub(crate) async fn adopt(node: &Arc<Node>, found: &Found) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for record in found.records.values() {
        let alive = match record.qemu {
            Some(reference) => Process::attach(reference)?.is_some(),
            None => false,
        };
        let segment = Segment::parse(&record.network).ok().filter(|_| alive);
        if let Some(segment) = segment {
            node.guests.claim(record.id, segment);
            running.push(Guest { tap: tap::name(record.slot), segment });
        }
    }
    let known: BTreeSet<String> = found.records.keys().chain(&found.damaged).map(InstanceId::to_string).collect();
    let cgroups = node.cgroups.clone();
    let removing = move || {
        let orphans = cgroups.names().into_iter().filter(|name| name != WORKSHOP && !known.contains(name));
        orphans.into_iter().try_for_each(|name| cgroups.remove(&name, GOING))
    };
    tokio::task::spawn_blocking(removing).await??;
    let nft = node.nft.clone();
    node.namespace.run(move || firewall::apply(&nft, &firewall::replace_all(&running))).await??;
    Ok(())
}
