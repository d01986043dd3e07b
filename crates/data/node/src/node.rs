//! What all instances of a node share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lambda_types::InstanceId;
use lambda_types::node::{Acceleration, ObservedInstance};
use tokio::sync::watch;

use crate::host::cgroup::Cgroups;
use crate::host::tee::Tees;
use crate::images::Images;
use crate::layout::Layout;
use crate::network::Segment;
use crate::network::namespace::Namespace;
use crate::vtpm::pool::Pool;

/// The first slot: slot 0 belongs to the vTPM workshop.
const FIRST_SLOT: u32 = 1;

/// Beyond any number of instances on one host: a larger one is not ours.
const MAX_SLOT: u32 = 1 << 20;

/// Users of one slot: QEMU's and swtpm's.
const UIDS_PER_SLOT: u32 = 2;

pub(crate) struct Node {
    pub(crate) layout: Layout,
    pub(crate) images: Images,
    pub(crate) cgroups: Cgroups,
    pub(crate) namespace: Namespace,
    pub(crate) pool: Pool,
    pub(crate) qemu: PathBuf,
    pub(crate) swtpm: PathBuf,
    pub(crate) nft: PathBuf,
    pub(crate) uid_base: u32,
    pub(crate) acceleration: watch::Receiver<Option<Acceleration>>,
    pub(crate) tees: Tees,
    pub(crate) board: Board,
    pub(crate) guests: Guests,
    pub(crate) slots: Slots,
}

impl Node {
    pub(crate) fn qemu_uid(&self, slot: u32) -> u32 {
        self.uid_base.saturating_add(slot.saturating_mul(UIDS_PER_SLOT))
    }

    pub(crate) fn swtpm_uid(&self, slot: u32) -> u32 {
        self.qemu_uid(slot).saturating_add(1)
    }

    /// The slot whose QEMU or swtpm has this user.
    pub(crate) fn slot_of(&self, uid: u32) -> Option<u32> {
        let slot = uid.checked_sub(self.uid_base)? / UIDS_PER_SLOT;
        (FIRST_SLOT..=MAX_SLOT).contains(&slot).then_some(slot)
    }
}

/// The user that manufactures vTPMs.
pub(crate) fn workshop_uid(uid_base: u32) -> u32 {
    uid_base
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is observed of every instance, for the control plane.
pub(crate) struct Board {
    observed: Mutex<BTreeMap<InstanceId, ObservedInstance>>,
    changes: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { observed: Mutex::default(), changes: watch::Sender::new(0) }
    }

    pub(crate) fn put(&self, observed: ObservedInstance) {
        let changed = {
            let mut board = lock(&self.observed);
            let changed = board.get(&observed.id) != Some(&observed);
            board.insert(observed.id, observed);
            changed
        };
        if changed {
            self.announce();
        }
    }

    pub(crate) fn remove(&self, id: InstanceId) {
        if lock(&self.observed).remove(&id).is_some() {
            self.announce();
        }
    }

    pub(crate) fn all(&self) -> Vec<ObservedInstance> {
        lock(&self.observed).values().cloned().collect()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn announce(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The segments in use, by instance: where tunnels may go.
#[derive(Default)]
pub(crate) struct Guests(Mutex<HashMap<InstanceId, Segment>>);

impl Guests {
    /// Takes a segment; `false` when it overlaps another instance's.
    pub(crate) fn claim(&self, id: InstanceId, segment: Segment) -> bool {
        let mut guests = lock(&self.0);
        if guests.iter().any(|(other, taken)| *other != id && taken.overlaps(segment)) {
            return false;
        }
        guests.insert(id, segment);
        true
    }

    pub(crate) fn release(&self, id: InstanceId) {
        lock(&self.0).remove(&id);
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<Segment> {
        lock(&self.0).get(&id).copied()
    }
}

/// Numbers that decide uids and tap names.
#[derive(Default)]
pub(crate) struct Slots(Mutex<BTreeSet<u32>>);

impl Slots {
    pub(crate) fn take(&self) -> u32 {
        let mut taken = lock(&self.0);
        let free = (FIRST_SLOT..).find(|slot| !taken.contains(slot)).unwrap_or(FIRST_SLOT);
        taken.insert(free);
        free
    }

    pub(crate) fn claim(&self, slot: u32) {
        lock(&self.0).insert(slot);
    }

    pub(crate) fn release(&self, slot: u32) {
        lock(&self.0).remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_slot_is_given_out_again_and_a_claimed_one_is_not() {
        let slots = Slots::default();
        slots.claim(1);
        assert_eq!((slots.take(), slots.take()), (2, 3));
        slots.release(2);
        assert_eq!(slots.take(), 2);
    }

    #[test]
    fn two_instances_cannot_hold_overlapping_segments() {
        let guests = Guests::default();
        let segment =
            |last| Segment { mac: [2; 6], guest: [10, 0, 0, last].into(), node: [10, 0, 0, 1].into(), prefix: 29 };
        assert!(guests.claim(InstanceId::from_bits(1), segment(2)));
        assert!(guests.claim(InstanceId::from_bits(1), segment(2)));
        assert!(!guests.claim(InstanceId::from_bits(2), segment(3)));
        guests.release(InstanceId::from_bits(1));
        assert!(guests.claim(InstanceId::from_bits(2), segment(3)));
    }

    #[test]
    fn only_a_difference_is_a_change() {
        let board = Board::new();
        let mut changes = board.changes();
        let observed = crate::instance::state::gone(InstanceId::from_bits(1), 1, 1);
        board.put(observed.clone());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        board.put(observed);
        assert!(!changes.has_changed().unwrap());
    }
}
