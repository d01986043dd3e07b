//! What a role may do: it gives up everything else as its first act, before any thread exists.
//!
//! Gateway and control change to users of their own and can never gain a privilege again. The node keeps user 0, so that
//! its files belong to nobody's account, with only the capabilities that it documents.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Gid, Uid};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Open files: connections and their tunnels.
const MAX_FILES: u64 = 16_384;

/// Becomes a user without privileges.
pub(crate) fn become_user(id: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    drop_from_bounding_set(CapabilitySet::empty())?;
    set_thread_groups(&[]).context("cannot leave the supplementary groups")?;
    set_thread_res_gid(gid, gid, gid).context("cannot change group")?;
    set_thread_res_uid(uid, uid, uid).with_context(|| format!("cannot become user {id}"))?;
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    let left = capabilities(None).context("cannot read the capabilities")?;
    if !(left.permitted.is_empty() && left.effective.is_empty()) {
        bail!("capabilities remain after becoming user {id}");
    }
    Ok(())
}

/// Keeps these capabilities and no other; programs that this process starts can have no other either.
pub(crate) fn keep_only(wanted: CapabilitySet) -> Result<()> {
    let held = capabilities(None).context("cannot read the capabilities")?.permitted;
    let missing = wanted.difference(held);
    if !missing.is_empty() {
        bail!("the node role needs the capabilities {missing:?}, which this process does not have");
    }
    drop_from_bounding_set(wanted)?;
    let sets = CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot reduce the capabilities")
}

fn drop_from_bounding_set(keep: CapabilitySet) -> Result<()> {
    for capability in CapabilitySet::all().iter().filter(|capability| !keep.contains(*capability)) {
        // A kernel without this capability answers EINVAL: nothing to drop.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability).with_context(|| format!("cannot drop {capability:?}"))?;
        }
    }
    Ok(())
}

/// No core dumps, room for connections, and an end together with the supervisor.
pub(crate) fn bind_to_supervisor(supervisor: Option<u32>) -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("cannot forbid core dumps")?;
    let files = rustix::process::getrlimit(Resource::Nofile);
    let most = files.maximum.map_or(MAX_FILES, |maximum| maximum.min(MAX_FILES));
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: files.maximum }).context("open files")?;
    if let Some(supervisor) = supervisor {
        set_parent_process_death_signal(Some(Signal::TERM)).context("cannot follow the supervisor")?;
        // It may have died before the line above.
        if getppid().map(Pid::as_raw_nonzero).map(i32::from) != i32::try_from(supervisor).ok() {
            bail!("the supervisor is gone");
        }
    }
    Ok(())
}
