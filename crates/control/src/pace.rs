//! How often a guest can make the store write. A guest moves its own phase and numbers its own messages, and each news
//! of either is a synchronous write; so each instance has a bucket of writes. News that finds it empty is not lost: a
//! node repeats everything it observes with every sync, and the latest is stored when there is a write again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lambda_types::InstanceId;

/// Writes that an instance may cause at once. A boot with its attestation takes about ten.
pub(crate) const BURST: u64 = 64;

/// A write comes back after this.
pub(crate) const REFILL_MS: u64 = 2_000;

/// Buckets of the instances that were heard of lately: until when each is in debt.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<InstanceId, u64>>);

impl Pace {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a write out of an instance's bucket; false when it is empty.
    pub(crate) fn take(&self, id: InstanceId, now_ms: u64) -> bool {
        let mut debts = self.lock();
        let debt = debts.get(&id).copied().unwrap_or(0).max(now_ms).saturating_add(REFILL_MS);
        let fits = debt.saturating_sub(now_ms) <= BURST * REFILL_MS;
        if fits {
            debts.insert(id, debt);
        }
        fits
    }

    /// Drops the buckets that are full again.
    pub(crate) fn forget_full(&self, now_ms: u64) {
        self.lock().retain(|_, debt| *debt > now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_write_for_each_interval() {
        let pace = Pace::default();
        let (noisy, other) = (InstanceId::from_bits(1), InstanceId::from_bits(2));
        assert_eq!((0..1_000).filter(|_| pace.take(noisy, 5_000)).count() as u64, BURST);
        assert!(pace.take(other, 5_000), "instances do not share a bucket");
        assert!(pace.take(noisy, 5_000 + REFILL_MS));
        assert!(!pace.take(noisy, 5_000 + REFILL_MS));
        pace.forget_full(5_000 + (BURST + 1) * REFILL_MS);
        assert!(pace.lock().is_empty());
    }
}
