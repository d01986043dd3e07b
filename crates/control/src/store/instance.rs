//! Instance rows. `version` is the record's etag: it grows with what a customer changes (power, sealed values) and not
//! with what is observed, so that a broker's If-Match is not beaten by progress. `generation` grows with everything
//! a node must learn; `power_generation` is its value at the last change of power or epoch.

use lambda_types::guest::Degradation;
use lambda_types::instance::{Failure, Phase, PhaseTime, Power};
use lambda_types::launch::SnpLaunch;
use lambda_types::sealed::{InstanceSecretsKind, MetadataKind};
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{BootId, ImageId, InstanceId, NodeId, ProjectId, Sealed, VolumeId};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{Columns, StoreError, Write, json, signed, word};

/// An instance with the state of its mailbox.
#[derive(Debug, Clone)]
pub(crate) struct InstanceRow {
    pub(crate) id: InstanceId,
    pub(crate) project: ProjectId,
    pub(crate) version: u64,
    pub(crate) generation: u64,
    pub(crate) power_generation: u64,
    pub(crate) epoch: u64,
    pub(crate) power: Power,
    pub(crate) shape: Shape,
    pub(crate) image: ImageId,
    pub(crate) profile: LaunchProfile,
    pub(crate) launch: Option<SnpLaunch>,
    pub(crate) volume: VolumeId,
    pub(crate) volume_gib: u32,
    pub(crate) node: Option<NodeId>,
    pub(crate) compute_held: bool,
    pub(crate) address: Option<u32>,
    pub(crate) mac: String,
    pub(crate) created_ms: u64,
    pub(crate) changed_ms: u64,
    pub(crate) failure: Option<Failure>,
    pub(crate) secrets: Sealed<InstanceSecretsKind>,
    pub(crate) metadata: Sealed<MetadataKind>,
    pub(crate) observed: Observed,
    pub(crate) mailbox: MailboxState,
}

/// What the node said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) phase: Option<Phase>,
    pub(crate) failure: Option<Failure>,
    pub(crate) boot: Option<BootId>,
    pub(crate) phases: Vec<PhaseTime>,
    /// When this phase was first reported, our clock.
    pub(crate) since_ms: u64,
    /// What its guest says is wrong.
    pub(crate) degraded: Vec<Degraded>,
}

/// Something that is wrong in a ready guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Degraded {
    pub(crate) reason: Degradation,
    /// When it was first reported, our clock.
    pub(crate) since_ms: u64,
}

/// Sequence numbers of the mailbox; zeros when no message has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MailboxState {
    pub(crate) boot: Option<BootId>,
    pub(crate) guest_seq: u64,
    pub(crate) guest_ms: u64,
    pub(crate) broker_seq: u64,
    pub(crate) broker_answers: u64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.project, i.version, i.generation, i.power_generation, i.epoch, i.power, i.shape, i.image, \
             i.profile, i.volume, i.volume_gib, i.node, i.compute_held, i.address, i.mac, i.created_ms, i.changed_ms, \
             i.failure, i.launch, i.secrets, i.metadata, i.observed_generation, i.observed_epoch, i.observed_phase, \
             i.observed_failure, i.observed_boot, i.observed_phases, i.observed_ms, i.observed_degraded, m.boot, m.guest_seq, m.guest_ms, \
             m.broker_seq, m.broker_answers FROM instances i LEFT JOIN mailboxes m ON m.instance = i.id ",
            $rest
        )
    };
}

impl InstanceRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let columns = Columns(row);
        Ok(Self {
            id: columns.id("id")?,
            project: columns.id("project")?,
            version: columns.number("version")?,
            generation: columns.number("generation")?,
            power_generation: columns.number("power_generation")?,
            epoch: columns.number("epoch")?,
            power: columns.word("power")?,
            shape: columns.word("shape")?,
            image: columns.id("image")?,
            profile: columns.word("profile")?,
            launch: columns.maybe_json("launch")?,
            volume: columns.id("volume")?,
            volume_gib: columns.number("volume_gib")?,
            node: columns.maybe_id("node")?,
            compute_held: columns.number::<u8>("compute_held")? == 1,
            address: columns.maybe_number("address")?,
            mac: columns.text("mac")?,
            created_ms: columns.number("created_ms")?,
            changed_ms: columns.number("changed_ms")?,
            failure: columns.maybe_json("failure")?,
            secrets: Sealed::from_bytes(columns.bytes("secrets")?),
            metadata: Sealed::from_bytes(columns.bytes("metadata")?),
            observed: Observed::read(&columns)?,
            mailbox: MailboxState::read(&columns)?,
        })
    }
}

impl Observed {
    fn read(columns: &Columns<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            generation: columns.number("observed_generation")?,
            epoch: columns.number("observed_epoch")?,
            phase: columns.maybe_word("observed_phase")?,
            failure: columns.maybe_json("observed_failure")?,
            boot: columns.maybe_id("observed_boot")?,
            phases: columns.json("observed_phases")?,
            since_ms: columns.number("observed_ms")?,
            degraded: columns.json("observed_degraded")?,
        })
    }
}

impl MailboxState {
    fn read(columns: &Columns<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            boot: columns.maybe_id("boot")?,
            guest_seq: columns.maybe_number("guest_seq")?.unwrap_or(0),
            guest_ms: columns.maybe_number("guest_ms")?.unwrap_or(0),
            broker_seq: columns.maybe_number("broker_seq")?.unwrap_or(0),
            broker_answers: columns.maybe_number("broker_answers")?.unwrap_or(0),
        })
    }
}

/// An instance of a project; another project's does not exist for the caller.
pub(crate) async fn find(
    connection: &mut AnyConnection,
    project: ProjectId,
    id: InstanceId,
) -> Result<Option<InstanceRow>, StoreError> {
    let row = sqlx::query(select!("WHERE i.id = $1 AND i.project = $2"))
        .bind(id.to_string())
        .bind(project.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(InstanceRow::read).transpose()
}

/// A page of a project's instances after `(created_ms, id)`, oldest first.
pub(crate) async fn list(
    connection: &mut AnyConnection,
    project: ProjectId,
    after: (u64, &str),
    limit: u32,
) -> Result<Vec<InstanceRow>, StoreError> {
    let rows = sqlx::query(select!(
        "WHERE i.project = $1 AND (i.created_ms > $2 OR (i.created_ms = $2 AND i.id > $3)) \
         ORDER BY i.created_ms, i.id LIMIT $4"
    ))
    .bind(project.to_string())
    .bind(signed(after.0))
    .bind(after.1)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    rows.iter().map(InstanceRow::read).collect()
}

/// How many instances a project has.
pub(crate) async fn count(connection: &mut AnyConnection, project: ProjectId) -> Result<u64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS held FROM instances WHERE project = $1")
        .bind(project.to_string())
        .fetch_one(connection)
        .await?;
    Columns(&row).number("held")
}

/// Everything placed on a node.
pub(crate) async fn on_node(connection: &mut AnyConnection, node: NodeId) -> Result<Vec<InstanceRow>, StoreError> {
    let rows =
        sqlx::query(select!("WHERE i.node = $1 ORDER BY i.id")).bind(node.to_string()).fetch_all(connection).await?;
    rows.iter().map(InstanceRow::read).collect()
}

/// Instances that should run and have no node, longest waiting first.
pub(crate) async fn unplaced(connection: &mut AnyConnection, limit: u32) -> Result<Vec<InstanceRow>, StoreError> {
    let rows = sqlx::query(select!(
        "WHERE i.node IS NULL AND i.power = 'running' AND i.failure IS NULL ORDER BY i.changed_ms, i.id LIMIT $1"
    ))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    rows.iter().map(InstanceRow::read).collect()
}

impl Write {
    pub(crate) async fn insert_instance(&mut self, row: &InstanceRow) -> Result<(), sqlx::Error> {
        let text = |value: Result<String, StoreError>| value.map_err(|error| sqlx::Error::Encode(error.into()));
        sqlx::query(
            "INSERT INTO instances (id, project, version, generation, power_generation, epoch, power, shape, image, \
             profile, volume, volume_gib, compute_held, mac, created_ms, changed_ms, secrets, metadata, launch) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, $13, $14, $14, $15, $16, $17)",
        )
        .bind(row.id.to_string())
        .bind(row.project.to_string())
        .bind(signed(row.version))
        .bind(signed(row.generation))
        .bind(signed(row.power_generation))
        .bind(signed(row.epoch))
        .bind(text(word(&row.power))?)
        .bind(row.shape.name())
        .bind(row.image.to_string())
        .bind(text(word(&row.profile))?)
        .bind(row.volume.to_string())
        .bind(i64::from(row.volume_gib))
        .bind(row.mac.as_str())
        .bind(signed(row.created_ms))
        .bind(text(word(&row.secrets))?)
        .bind(text(word(&row.metadata))?)
        .bind(row.launch.as_ref().map(|launch| text(json(launch))).transpose()?)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Stores what a customer changed: power, epoch, sealed values. Advances version and generation.
    pub(crate) async fn change_instance(&mut self, row: &mut InstanceRow, power: bool) -> Result<(), StoreError> {
        row.version = row.version.saturating_add(1);
        if power {
            row.generation = row.generation.saturating_add(1);
            row.power_generation = row.generation;
            row.changed_ms = self.at_ms;
        }
        sqlx::query(
            "UPDATE instances SET version = $2, generation = $3, power_generation = $4, epoch = $5, power = $6, \
             changed_ms = $7, failure = $8, secrets = $9, metadata = $10 WHERE id = $1",
        )
        .bind(row.id.to_string())
        .bind(signed(row.version))
        .bind(signed(row.generation))
        .bind(signed(row.power_generation))
        .bind(signed(row.epoch))
        .bind(word(&row.power)?)
        .bind(signed(row.changed_ms))
        .bind(row.failure.as_ref().map(json).transpose()?)
        .bind(word(&row.secrets)?)
        .bind(word(&row.metadata)?)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Takes up the epoch of a node that is ahead.
    pub(crate) async fn set_epoch(&mut self, id: InstanceId, epoch: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE instances SET epoch = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(signed(epoch))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Advances an instance's generation without touching its record: a message for its guest, or a node that is ahead.
    pub(crate) async fn advance_generation(&mut self, id: InstanceId, at_least: u64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE instances SET generation = CASE WHEN generation >= $2 THEN generation + 1 ELSE $2 END WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(signed(at_least))
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Stores a larger volume, and advances the generation: its node must learn.
    pub(crate) async fn set_volume(&mut self, row: &mut InstanceRow) -> Result<(), StoreError> {
        row.generation = row.generation.saturating_add(1);
        sqlx::query("UPDATE instances SET volume_gib = $2, generation = $3 WHERE id = $1")
            .bind(row.id.to_string())
            .bind(i64::from(row.volume_gib))
            .bind(signed(row.generation))
            .execute(self.connection())
            .await?;
        Ok(())
    }

    pub(crate) async fn set_placement(&mut self, row: &InstanceRow) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE instances SET node = $2, address = $3, compute_held = $4, mac = $5 WHERE id = $1")
            .bind(row.id.to_string())
            .bind(row.node.map(|node| node.to_string()))
            .bind(row.address.map(i64::from))
            .bind(i64::from(row.compute_held))
            .bind(row.mac.as_str())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    pub(crate) async fn set_failure(&mut self, id: InstanceId, failure: Failure) -> Result<(), StoreError> {
        sqlx::query("UPDATE instances SET failure = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(json(&failure)?)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    pub(crate) async fn set_observed(&mut self, id: InstanceId, observed: &Observed) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE instances SET observed_generation = $2, observed_epoch = $3, observed_phase = $4, \
             observed_failure = $5, observed_boot = $6, observed_phases = $7, observed_ms = $8, observed_degraded = $9 \
             WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(signed(observed.generation))
        .bind(signed(observed.epoch))
        .bind(observed.phase.as_ref().map(word).transpose()?)
        .bind(observed.failure.as_ref().map(json).transpose()?)
        .bind(observed.boot.map(|boot| boot.to_string()))
        .bind(json(&observed.phases)?)
        .bind(signed(observed.since_ms))
        .bind(json(&observed.degraded)?)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Removes the row; its mailbox goes with it, its audit entries stay.
    pub(crate) async fn delete_instance(&mut self, id: InstanceId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM instances WHERE id = $1").bind(id.to_string()).execute(self.connection()).await?;
        Ok(())
    }
}
