//! A record made anew from what the host still shows, when the one on disk cannot be read.
//!
//! The slot is known from the owner of the volume or of the vTPM's state, the processes from the instance's cgroup and their
//! users, the rest from what is desired. The guest tells its phase and boot again on the channel. What cannot be known is how
//! a boot without a process ended: that is a failure of the host.

use std::os::unix::fs::MetadataExt as _;

use lambda_types::InstanceId;
use lambda_types::instance::{Failure, Phase, Power};
use lambda_types::node::DesiredInstance;

use super::state::{InstanceRecord, now_ms};
use crate::host::process::ProcessRef;
use crate::layout::file;
use crate::node::Node;

/// The slot that an instance's files belong to.
pub(crate) fn slot(node: &Node, id: InstanceId) -> Option<u32> {
    let folder = node.layout.instance(id);
    let owner = |name| std::fs::metadata(folder.join(name)).ok().map(|metadata| metadata.uid());
    let slot = |uid: u32| node.slot_of(uid);
    owner(file::VOLUME).and_then(slot).or_else(|| owner(file::TPM_STATE).and_then(slot))
}

/// The record of an instance whose own is missing or damaged.
pub(crate) fn rebuild(node: &Node, desired: &DesiredInstance) -> InstanceRecord {
    let slot = match slot(node, desired.id) {
        Some(slot) => {
            node.slots.claim(slot);
            slot
        }
        None => node.slots.take(),
    };
    let mut record = InstanceRecord::new(desired.id, slot, desired.network.clone());
    (record.epoch, record.generation) = (desired.epoch, desired.generation);
    for pid in node.cgroups.members(&desired.id.to_string()) {
        let Ok(Some(process)) = ProcessRef::of(pid) else { continue };
        match user(pid) {
            Some(uid) if uid == node.qemu_uid(slot) => record.qemu = Some(process),
            Some(uid) if uid == node.swtpm_uid(slot) => record.swtpm = Some(process),
            Some(_) | None => {}
        }
    }
    if record.qemu.is_some() {
        record.qemu_answered = true;
        record.enter(Phase::Booting, now_ms());
    } else if desired.power == Power::Running {
        record.failure = Some(Failure::HostResource);
    }
    record
}

/// Effective user of a process.
fn user(pid: i32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}
