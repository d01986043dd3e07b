//! Placing an instance: choose a node, book it, give it an address, all inside the caller's transaction.

use lambda_types::NodeId;
use lambda_types::instance::Power;
use lambda_types::shape::LaunchProfile;

use crate::audit::Event;
use crate::hub::{Hub, is_fresh};
use crate::schedule::{Candidate, Missing, Wanted, choose};
use crate::store::instance::InstanceRow;
use crate::store::node::{self, Resources};
use crate::store::{StoreError, Write};
use crate::view::LINKS;

/// Every node, and whether it was heard from lately.
pub(crate) async fn candidates(write: &mut Write, hub: &Hub) -> Result<Vec<Candidate>, StoreError> {
    let now_ms = write.at_ms;
    let nodes = node::all(write.connection()).await?;
    let with_freshness = |node: node::NodeRow| {
        let seen = hub.last_seen_ms(node.id, node.last_seen_ms, now_ms);
        Candidate { node, fresh: is_fresh(seen, now_ms) }
    };
    Ok(nodes.into_iter().map(with_freshness).collect())
}

/// Places a stored, unplaced, running instance. `Ok(Err(_))` says why no node takes it now.
pub(crate) async fn place(
    write: &mut Write,
    candidates: &[Candidate],
    row: &mut InstanceRow,
) -> Result<Result<(), Missing>, StoreError> {
    let need = Resources::compute(row.shape).plus(Resources::disk(row.volume_gib));
    let wanted = Wanted { image: row.image, profile: row.profile, need };
    let nodes = match choose(candidates, &wanted) {
        Ok(nodes) => nodes,
        Err(reason) => return Ok(Err(reason)),
    };
    for id in nodes {
        let address = write.free_address(id).await?;
        if address >= LINKS || !book(write, id, row.profile, need).await? {
            continue;
        }
        row.node = Some(id);
        row.address = Some(address);
        row.compute_held = true;
        write.set_placement(row).await?;
        write.touch_node(id).await?;
        write.audit(&Event::InstancePlaced { instance: row.id, node: id }).await?;
        return Ok(Ok(()));
    }
    Ok(Err(Missing::Room))
}

/// Books resources and, where the profile needs one, a slot of the processor's; false when either has run out.
async fn book(write: &mut Write, node: NodeId, profile: LaunchProfile, need: Resources) -> Result<bool, StoreError> {
    if !write.book_slot(node, profile).await? {
        return Ok(false);
    }
    if write.book(node, need).await? {
        return Ok(true);
    }
    write.unbook_slot(node, profile).await?;
    Ok(false)
}

/// Books compute again for a placed instance that gave it back; false when the node is full.
pub(crate) async fn rebook(write: &mut Write, row: &mut InstanceRow) -> Result<bool, StoreError> {
    let Some(node) = row.node else { return Ok(true) };
    if row.compute_held {
        return Ok(true);
    }
    if !book(write, node, row.profile, Resources::compute(row.shape)).await? {
        return Ok(false);
    }
    row.compute_held = true;
    write.set_placement(row).await?;
    Ok(true)
}

/// Gives compute back once the node confirms that nothing of a stopped instance runs.
pub(crate) async fn release_compute(write: &mut Write, row: &mut InstanceRow) -> Result<(), StoreError> {
    let Some(node) = row.node else { return Ok(()) };
    if !row.compute_held || row.power != Power::Stopped {
        return Ok(());
    }
    row.compute_held = false;
    write.set_placement(row).await?;
    write.unbook(node, Resources::compute(row.shape)).await?;
    write.unbook_slot(node, row.profile).await?;
    write.audit(&Event::InstanceComputeReleased { instance: row.id }).await
}

/// Removes an instance and everything it books.
pub(crate) async fn remove(write: &mut Write, row: &InstanceRow) -> Result<(), StoreError> {
    write.clear_mailbox(row.id, row.project).await?;
    write.delete_instance(row.id).await?;
    if let Some(node) = row.node {
        let compute = if row.compute_held { Resources::compute(row.shape) } else { Resources::default() };
        write.unbook(node, compute.plus(Resources::disk(row.volume_gib))).await?;
        if row.compute_held {
            write.unbook_slot(node, row.profile).await?;
        }
        write.touch_node(node).await?;
    }
    write.audit(&Event::InstanceRemoved { instance: row.id, project: row.project }).await
}
