//! The instance manager: what a customer may do to an instance, each operation inside one transaction.
//!
//! A guest that failed or powered itself off is still wanted running; start then wants one more boot of it.
//!
//! ```text
//!            create            node: Stopped confirmed → compute given back
//!   (none) ─────────▶ running ─────stop────▶ stopped        start books compute again, or refuses
//!                      │  ▲ ◀────start─────────┘ │
//!                      └──┘ restart              │
//!                      └────────delete───────────┴──▶ deleted ──node: Gone confirmed──▶ (none)
//! ```

use lambda_types::api_key::Principal;
use lambda_types::instance::{CreateInstance, Phase, Power, UpdateInstance, VOLUME_GIB};
use lambda_types::sealed::MAX_SEALED_BYTES;
use lambda_types::{Code, InstanceId, Sealed, VolumeId};

use crate::audit::Event;
use crate::conditions::effective_phase;
use crate::hub::Hub;
use crate::place;
use crate::schedule::Missing;
use crate::store::instance::{self, InstanceRow, MailboxState, Observed};
use crate::store::node::Resources;
use crate::store::{Refusal, StoreError, Write, is_constraint};
use crate::view;

/// Most instances of a project, stopped ones included.
pub(crate) const MAX_INSTANCES: u64 = 64;

/// What `POST /v1/instances/{id}/…` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerAction {
    Start,
    Stop,
    Restart,
}

pub(crate) fn not_found() -> Refusal {
    Refusal::new(Code::NotFound, "there is no such instance; check the id, and that the key belongs to its project")
}

/// The caller's instance, in this transaction.
pub(crate) async fn find(write: &mut Write, principal: &Principal, id: InstanceId) -> Result<InstanceRow, Refusal> {
    instance::find(write.connection(), principal.project, id).await?.ok_or_else(not_found)
}

/// Creates an instance and places it if any node has room; else it waits.
pub(crate) async fn create(
    write: &mut Write,
    hub: &Hub,
    principal: &Principal,
    wanted: &CreateInstance,
) -> Result<InstanceRow, Refusal> {
    check_volume(wanted.volume_gib)?;
    if let Some(launch) = &wanted.launch {
        launch.check(wanted.profile).map_err(|error| Refusal::new(Code::InvalidRequest, error.to_string()))?;
    }
    check_sealed("secrets", &wanted.secrets)?;
    check_sealed("metadata", &wanted.metadata)?;
    let held = instance::count(write.connection(), principal.project).await?;
    if held >= MAX_INSTANCES {
        let detail = format!("the project has {held} instances, its quota is {MAX_INSTANCES}; delete one first");
        return Err(Refusal::new(Code::Conflict, detail));
    }
    let mut row = fresh_row(write, principal, wanted)?;
    if let Err(error) = write.insert_instance(&row).await {
        if is_constraint(&error) {
            let detail = "an instance with this id exists; make a new random id for each instance";
            return Err(Refusal::new(Code::Conflict, detail));
        }
        return Err(error.into());
    }
    write
        .audit(&Event::InstanceCreated {
            instance: row.id,
            project: row.project,
            shape: row.shape,
            image: row.image,
            volume_gib: row.volume_gib,
        })
        .await?;
    let candidates = place::candidates(write, hub).await?;
    if let Err(Missing::Image) = place::place(write, &candidates, &mut row).await? {
        let detail = format!("no node has image {}; GET /v1/images lists what there is", row.image);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    Ok(row)
}

fn fresh_row(write: &Write, principal: &Principal, wanted: &CreateInstance) -> Result<InstanceRow, StoreError> {
    Ok(InstanceRow {
        id: wanted.id,
        project: principal.project,
        version: 1,
        generation: 1,
        power_generation: 1,
        epoch: 1,
        power: Power::Running,
        shape: wanted.shape,
        image: wanted.image,
        profile: wanted.profile,
        launch: wanted.launch.clone(),
        volume: VolumeId::random()?,
        volume_gib: wanted.volume_gib,
        node: None,
        compute_held: false,
        address: None,
        mac: view::random_mac()?,
        created_ms: write.at_ms,
        changed_ms: write.at_ms,
        failure: None,
        secrets: wanted.secrets.clone(),
        metadata: wanted.metadata.clone(),
        observed: Observed::default(),
        mailbox: MailboxState::default(),
    })
}

fn check_volume(gib: u32) -> Result<(), Refusal> {
    if VOLUME_GIB.contains(&gib) {
        return Ok(());
    }
    let detail = format!("volume_gib must be {} to {}", VOLUME_GIB.start(), VOLUME_GIB.end());
    Err(Refusal::new(Code::InvalidRequest, detail))
}

fn check_sealed<T>(what: &str, sealed: &Sealed<T>) -> Result<(), Refusal> {
    let size = sealed.as_bytes().len();
    if size == 0 || size > MAX_SEALED_BYTES {
        let detail = format!("{what} must take 1 to {MAX_SEALED_BYTES} bytes, it takes {size}");
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    Ok(())
}

/// Starts, stops or restarts. The flag says whether anything changed.
pub(crate) async fn power(
    write: &mut Write,
    hub: &Hub,
    principal: &Principal,
    id: InstanceId,
    action: PowerAction,
) -> Result<(InstanceRow, bool), Refusal> {
    let mut row = find(write, principal, id).await?;
    let ended = matches!(effective_phase(&row), Some(Phase::Failed | Phase::Stopped));
    match (action, row.power) {
        (_, Power::Deleted) => Err(deleting()),
        (PowerAction::Start, Power::Running) if !ended => Ok((row, false)),
        (PowerAction::Stop, Power::Stopped) => Ok((row, false)),
        (PowerAction::Restart, Power::Stopped) => {
            Err(Refusal::new(Code::Conflict, "the instance is stopped; start it instead"))
        }
        (PowerAction::Stop, Power::Running) => {
            row.power = Power::Stopped;
            row.failure = None;
            write.change_instance(&mut row, true).await?;
            settle(write, &row).await?;
            write.audit(&Event::InstanceStopped { instance: row.id }).await?;
            Ok((row, true))
        }
        (PowerAction::Start | PowerAction::Restart, Power::Running | Power::Stopped) => {
            boot(write, hub, &mut row).await?;
            let (instance, epoch) = (row.id, row.epoch);
            let event = match action {
                PowerAction::Restart => Event::InstanceRestarted { instance, epoch },
                PowerAction::Start | PowerAction::Stop => Event::InstanceStarted { instance, epoch },
            };
            write.audit(&event).await?;
            Ok((row, true))
        }
    }
}

fn deleting() -> Refusal {
    Refusal::new(Code::Conflict, "the instance is being deleted")
}

/// Wants one more boot.
async fn boot(write: &mut Write, hub: &Hub, row: &mut InstanceRow) -> Result<(), Refusal> {
    row.power = Power::Running;
    row.epoch = row.epoch.saturating_add(1);
    row.failure = None;
    write.change_instance(row, true).await?;
    if row.node.is_none() {
        let candidates = place::candidates(write, hub).await?;
        // Without a place it waits, and its conditions say so.
        let _waits = place::place(write, &candidates, row).await?;
    } else if !place::rebook(write, row).await? {
        let detail = "the node that holds its volume has no room now; stop another instance there, or try again later";
        return Err(Refusal::new(Code::CapacityExhausted, detail));
    }
    settle(write, row).await?;
    Ok(())
}

/// Tells the node, and forgets what the former boot and its broker said to each other.
async fn settle(write: &mut Write, row: &InstanceRow) -> Result<(), StoreError> {
    write.clear_mailbox(row.id, row.project).await?;
    match row.node {
        Some(node) => write.touch_node(node).await,
        None => Ok(()),
    }
}

/// Replaces sealed values, or enlarges the volume.
pub(crate) async fn update(
    write: &mut Write,
    principal: &Principal,
    id: InstanceId,
    if_match: &IfMatch,
    wanted: UpdateInstance,
) -> Result<InstanceRow, Refusal> {
    let UpdateInstance { secrets, metadata, volume_gib } = wanted;
    let mut row = find(write, principal, id).await?;
    if row.power == Power::Deleted {
        return Err(deleting());
    }
    if !if_match.matches(row.version) {
        let detail = format!("the instance has version {} now; read it again, then update", row.version);
        return Err(Refusal::new(Code::VersionMismatch, detail));
    }
    if secrets.is_none() && metadata.is_none() && volume_gib.is_none() {
        return Err(Refusal::new(Code::InvalidRequest, "name `secrets`, `metadata` or `volume_gib`"));
    }
    let event = Event::InstanceUpdated { instance: row.id, secrets: secrets.is_some(), metadata: metadata.is_some() };
    if let Some(secrets) = secrets {
        check_sealed("secrets", &secrets)?;
        row.secrets = secrets;
    }
    if let Some(metadata) = metadata {
        check_sealed("metadata", &metadata)?;
        row.metadata = metadata;
    }
    write.change_instance(&mut row, false).await?;
    write.audit(&event).await?;
    if let Some(volume_gib) = volume_gib {
        grow(write, &mut row, volume_gib).await?;
    }
    Ok(row)
}

/// Books what the volume is to be larger by, where it is, and tells its node, which makes it so before the next boot.
async fn grow(write: &mut Write, row: &mut InstanceRow, volume_gib: u32) -> Result<(), Refusal> {
    check_volume(volume_gib)?;
    let Some(more) = volume_gib.checked_sub(row.volume_gib) else {
        let detail = format!("the volume has {} GiB; it can only become larger", row.volume_gib);
        return Err(Refusal::new(Code::InvalidRequest, detail));
    };
    if more == 0 {
        return Ok(());
    }
    if let Some(node) = row.node
        && !write.book(node, Resources::disk(more)).await?
    {
        let detail = format!("the node that holds the volume has no room for {more} GiB more; try again later");
        return Err(Refusal::new(Code::CapacityExhausted, detail));
    }
    row.volume_gib = volume_gib;
    write.set_volume(row).await?;
    write.audit(&Event::InstanceVolumeGrown { instance: row.id, volume_gib }).await?;
    if let Some(node) = row.node {
        write.touch_node(node).await?;
    }
    Ok(())
}

/// Wants it gone. One without a node goes at once; the flag says whether anything changed.
pub(crate) async fn delete(
    write: &mut Write,
    principal: &Principal,
    id: InstanceId,
) -> Result<(InstanceRow, bool), Refusal> {
    let mut row = find(write, principal, id).await?;
    if row.power == Power::Deleted {
        return Ok((row, false));
    }
    row.power = Power::Deleted;
    row.failure = None;
    write.change_instance(&mut row, true).await?;
    write.audit(&Event::InstanceDeletionRequested { instance: row.id }).await?;
    settle(write, &row).await?;
    if row.node.is_none() {
        place::remove(write, &row).await?;
    }
    Ok((row, true))
}

/// An If-Match header: any version, or one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    Any,
    OneOf(Vec<u64>),
}

impl IfMatch {
    /// Parses `*` or a list of quoted tags. Weak tags never match (RFC 9110 §13.1.1), nor do tags that are not ours.
    pub(crate) fn parse(header: &str) -> Self {
        if header.trim() == "*" {
            return Self::Any;
        }
        let tags = header.split(',').filter_map(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
        Self::OneOf(tags.collect())
    }

    fn matches(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(versions) => versions.contains(&version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strong_quoted_tags_match() {
        assert!(IfMatch::parse("*").matches(3));
        assert!(IfMatch::parse("\"3\"").matches(3));
        assert!(IfMatch::parse("\"1\", \"3\"").matches(3));
        for other in ["W/\"3\"", "3", "\"4\"", "", "\"+3\" x"] {
            assert!(!IfMatch::parse(other).matches(3), "{other}");
        }
    }
}
