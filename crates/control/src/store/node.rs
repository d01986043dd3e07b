//! Node rows: what each offers, what is booked on it, and the generation of its desired set.
//!
//! Booking is one UPDATE under CHECK constraints, in the transaction that places the instance: two creations cannot
//! both take the last slot, and no code path can book more than there is. A node whose offer shrinks below what is
//! booked keeps what is booked; it only gets nothing new.

use std::net::SocketAddr;

use lambda_types::NodeId;
use lambda_types::launch::TeeCapacity;
use lambda_types::node::{Acceleration, NodeOffer, OfferedImage};
use lambda_types::shape::{LaunchProfile, Shape};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{Columns, StoreError, Write, json, signed, word};
use crate::hub::Notice;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) tunnel: SocketAddr,
    pub(crate) acceleration: Acceleration,
    pub(crate) profiles: Vec<LaunchProfile>,
    pub(crate) tees: Vec<TeeCapacity>,
    pub(crate) images: Vec<OfferedImage>,
    pub(crate) capacity: Resources,
    pub(crate) used: Resources,
    pub(crate) generation: u64,
    pub(crate) last_seen_ms: u64,
}

/// Amounts that can be booked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) vcpus: u64,
    pub(crate) memory_mib: u64,
    pub(crate) disk_gib: u64,
}

impl Resources {
    /// What running takes.
    pub(crate) fn compute(shape: Shape) -> Self {
        Self { vcpus: u64::from(shape.vcpus()), memory_mib: shape.memory_mib(), disk_gib: 0 }
    }

    /// What existing takes.
    pub(crate) fn disk(volume_gib: u32) -> Self {
        Self { disk_gib: u64::from(volume_gib), ..Self::default() }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_gib: self.disk_gib.saturating_add(other.disk_gib),
        }
    }

    /// What is left of `self` after `used`.
    pub(crate) fn minus(self, used: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(used.vcpus),
            memory_mib: self.memory_mib.saturating_sub(used.memory_mib),
            disk_gib: self.disk_gib.saturating_sub(used.disk_gib),
        }
    }

    pub(crate) fn covers(self, need: Self) -> bool {
        self.vcpus >= need.vcpus && self.memory_mib >= need.memory_mib && self.disk_gib >= need.disk_gib
    }
}

impl NodeRow {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let columns = Columns(row);
        Ok(Self {
            id: columns.id("id")?,
            tunnel: columns.id("tunnel")?,
            acceleration: columns.word("acceleration")?,
            profiles: columns.json("profiles")?,
            tees: columns.json("tees")?,
            images: columns.json("images")?,
            capacity: Resources {
                vcpus: columns.number("vcpus")?,
                memory_mib: columns.number("memory_mib")?,
                disk_gib: columns.number("disk_gib")?,
            },
            used: Resources {
                vcpus: columns.number("vcpus_used")?,
                memory_mib: columns.number("memory_used_mib")?,
                disk_gib: columns.number("disk_used_gib")?,
            },
            generation: columns.number("generation")?,
            last_seen_ms: columns.number("last_seen_ms")?,
        })
    }

    /// True when the stored offer is not what the node offers, booked amounts aside.
    pub(crate) fn differs_from(&self, offer: &NodeOffer) -> bool {
        let at_least = |offered: u64, used: u64| offered.max(used);
        self.tunnel != offer.tunnel
            || self.acceleration != offer.acceleration
            || self.profiles != offer.profiles
            || self.tees != offer.tees
            || self.images != offer.images
            || self.capacity.vcpus != at_least(u64::from(offer.vcpus), self.used.vcpus)
            || self.capacity.memory_mib != at_least(offer.memory_mib, self.used.memory_mib)
            || self.capacity.disk_gib != at_least(offer.disk_gib, self.used.disk_gib)
    }
}

const ALL: &str = "SELECT * FROM nodes ORDER BY id";
const ONE: &str = "SELECT * FROM nodes WHERE id = $1";

/// Every node.
pub(crate) async fn all(connection: &mut AnyConnection) -> Result<Vec<NodeRow>, StoreError> {
    let rows = sqlx::query(ALL).fetch_all(connection).await?;
    rows.iter().map(NodeRow::read).collect()
}

/// One node.
pub(crate) async fn find(connection: &mut AnyConnection, id: NodeId) -> Result<Option<NodeRow>, StoreError> {
    let row = sqlx::query(ONE).bind(id.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(NodeRow::read).transpose()
}

impl Write {
    pub(crate) async fn insert_node(&mut self, id: NodeId, offer: &NodeOffer) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO nodes (id, tunnel, acceleration, profiles, images, vcpus, memory_mib, disk_gib, generation, \
             last_seen_ms, tees) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10)",
        )
        .bind(id.to_string())
        .bind(offer.tunnel.to_string())
        .bind(word(&offer.acceleration)?)
        .bind(json(&offer.profiles)?)
        .bind(json(&offer.images)?)
        .bind(i64::from(offer.vcpus))
        .bind(signed(offer.memory_mib))
        .bind(signed(offer.disk_gib))
        .bind(signed(self.at_ms))
        .bind(json(&offer.tees)?)
        .execute(self.connection())
        .await?;
        self.set_slots(id, &offer.tees).await
    }

    /// Removes a node that has no instances.
    pub(crate) async fn delete_node(&mut self, id: NodeId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM nodes WHERE id = $1").bind(id.to_string()).execute(self.connection()).await?;
        Ok(())
    }

    /// Stores an offer, and that the node spoke.
    pub(crate) async fn set_offer(&mut self, id: NodeId, offer: &NodeOffer) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE nodes SET tunnel = $2, acceleration = $3, profiles = $4, images = $5, \
             vcpus = CASE WHEN $6 > vcpus_used THEN $6 ELSE vcpus_used END, \
             memory_mib = CASE WHEN $7 > memory_used_mib THEN $7 ELSE memory_used_mib END, \
             disk_gib = CASE WHEN $8 > disk_used_gib THEN $8 ELSE disk_used_gib END, last_seen_ms = $9, tees = $10 \
             WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(offer.tunnel.to_string())
        .bind(word(&offer.acceleration)?)
        .bind(json(&offer.profiles)?)
        .bind(json(&offer.images)?)
        .bind(i64::from(offer.vcpus))
        .bind(signed(offer.memory_mib))
        .bind(signed(offer.disk_gib))
        .bind(signed(self.at_ms))
        .bind(json(&offer.tees)?)
        .execute(self.connection())
        .await?;
        self.set_slots(id, &offer.tees).await
    }

    /// Advances the generation of a node's desired set and wakes its long-poll after the commit.
    pub(crate) async fn touch_node(&mut self, id: NodeId) -> Result<(), StoreError> {
        sqlx::query("UPDATE nodes SET generation = generation + 1 WHERE id = $1")
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        self.notify(Notice::Node(id));
        Ok(())
    }

    /// Moves the generation past one that the node already holds.
    pub(crate) async fn adopt_generation(&mut self, id: NodeId, held: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE nodes SET generation = $2 WHERE id = $1 AND generation < $2")
            .bind(id.to_string())
            .bind(signed(held.saturating_add(1)))
            .execute(self.connection())
            .await?;
        self.notify(Notice::Node(id));
        Ok(())
    }

    /// Books resources; false when the node has not that much left.
    pub(crate) async fn book(&mut self, id: NodeId, need: Resources) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE nodes SET vcpus_used = vcpus_used + $2, memory_used_mib = memory_used_mib + $3, \
             disk_used_gib = disk_used_gib + $4 WHERE id = $1 AND vcpus_used + $2 <= vcpus \
             AND memory_used_mib + $3 <= memory_mib AND disk_used_gib + $4 <= disk_gib",
        )
        .bind(id.to_string())
        .bind(signed(need.vcpus))
        .bind(signed(need.memory_mib))
        .bind(signed(need.disk_gib))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Stores how many guests of each profile the node's processors have keys for. What is booked stays booked.
    async fn set_slots(&mut self, id: NodeId, tees: &[TeeCapacity]) -> Result<(), StoreError> {
        sqlx::query("UPDATE node_slots SET offered = 0, slots = used WHERE node = $1")
            .bind(id.to_string())
            .execute(self.connection())
            .await?;
        for TeeCapacity { profile, slots } in tees {
            sqlx::query(
                "INSERT INTO node_slots (node, profile, offered, slots) VALUES ($1, $2, $3, $3) \
                 ON CONFLICT (node, profile) DO UPDATE SET offered = excluded.offered, slots = CASE WHEN excluded.slots > used THEN excluded.slots ELSE used END",
            )
            .bind(id.to_string())
            .bind(profile.name())
            .bind(i64::from(*slots))
            .execute(self.connection())
            .await?;
        }
        Ok(())
    }

    /// Books one of a profile's slots; false when none is left. A measured boot needs none.
    pub(crate) async fn book_slot(&mut self, id: NodeId, profile: LaunchProfile) -> Result<bool, StoreError> {
        if profile == LaunchProfile::Tpm {
            return Ok(true);
        }
        let done =
            sqlx::query("UPDATE node_slots SET used = used + 1 WHERE node = $1 AND profile = $2 AND used + 1 <= slots")
                .bind(id.to_string())
                .bind(profile.name())
                .execute(self.connection())
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a booked slot back.
    pub(crate) async fn unbook_slot(&mut self, id: NodeId, profile: LaunchProfile) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE node_slots SET used = used - 1, slots = CASE WHEN offered > used - 1 THEN offered ELSE used - 1 END \
             WHERE node = $1 AND profile = $2",
        )
        .bind(id.to_string())
        .bind(profile.name())
        .execute(self.connection())
        .await?;
        self.notify(Notice::Capacity);
        Ok(())
    }

    /// Gives booked resources back.
    pub(crate) async fn unbook(&mut self, id: NodeId, held: Resources) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE nodes SET vcpus_used = vcpus_used - $2, memory_used_mib = memory_used_mib - $3, \
             disk_used_gib = disk_used_gib - $4 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(signed(held.vcpus))
        .bind(signed(held.memory_mib))
        .bind(signed(held.disk_gib))
        .execute(self.connection())
        .await?;
        self.notify(Notice::Capacity);
        Ok(())
    }

    /// The smallest address index that is free on a node.
    pub(crate) async fn free_address(&mut self, id: NodeId) -> Result<u32, StoreError> {
        let rows = sqlx::query("SELECT address FROM instances WHERE node = $1 ORDER BY address")
            .bind(id.to_string())
            .fetch_all(self.connection())
            .await?;
        let mut free = 0u32;
        for row in &rows {
            if Columns(row).number::<u32>("address")? != free {
                break;
            }
            free = free.saturating_add(1);
        }
        Ok(free)
    }
}
