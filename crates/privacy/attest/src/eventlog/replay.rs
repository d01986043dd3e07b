use std::collections::BTreeMap;

use lambda_tpm::alg;

use super::kind::hash;
use super::{Event, EventKind, EventLog};

/// "StartupLocality" (PFP): the one EV_NO_ACTION event that changes a register's initial value.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

impl EventLog {
    /// Final value of every register of a bank that the log mentions. Nothing when the log lacks the bank, or the bank
    /// is SHA-1, which proves nothing.
    #[must_use]
    pub fn replay(&self, bank: u16) -> Option<BTreeMap<u32, Vec<u8>>> {
        if bank == alg::SHA1 { None } else { self.replay_for_reading(bank) }
    }

    /// As [`Self::replay`], and for SHA-1 too. For showing and comparing; no verdict on a policy may rest on SHA-1.
    #[must_use]
    pub fn replay_for_reading(&self, bank: u16) -> Option<BTreeMap<u32, Vec<u8>>> {
        if !self.banks.contains(&bank) {
            return None;
        }
        let len = alg::digest_len(bank)?;
        let mut registers: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for event in &self.events {
            if event.kind == EventKind::NO_ACTION {
                if let Some(locality) = startup_locality(event)
                    && !registers.contains_key(&0)
                {
                    let mut initial = vec![0; len.saturating_sub(1)];
                    initial.push(locality);
                    registers.insert(0, initial);
                }
                continue;
            }
            let register = registers.entry(event.pcr).or_insert_with(|| vec![0; len]);
            register.extend_from_slice(event.digests.get(&bank)?);
            *register = hash(bank, register)?;
        }
        Some(registers)
    }
}

/// The locality that the TPM was started from, when this event says so.
pub(super) fn startup_locality(event: &Event) -> Option<u8> {
    match event.data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality]) if event.pcr == 0 && event.kind == EventKind::NO_ACTION => Some(*locality),
        _ => None,
    }
}
