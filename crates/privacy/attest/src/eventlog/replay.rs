use std::collections::BTreeMap;

use lambda_tpm::alg;

use super::kind::hash;
use super::{EventKind, EventLog};

/// "StartupLocality" (PFP): the one EV_NO_ACTION event that changes a register's initial value.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

impl EventLog {
    /// Final value of every register of a bank that the log mentions. Nothing when the log lacks the bank, or the bank
    /// is SHA-1, in which a log can be forged to fit.
    #[must_use]
    pub fn replay(&self, bank: u16) -> Option<BTreeMap<u32, Vec<u8>>> {
        if !self.banks.contains(&bank) || bank == alg::SHA1 {
            return None;
        }
        let len = alg::digest_len(bank)?;
        let mut registers: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for event in &self.events {
            if event.kind == EventKind::NO_ACTION {
                if let Some(locality) = event.data.strip_prefix(STARTUP_LOCALITY)
                    && let [locality] = locality
                    && event.pcr == 0
                    && !registers.contains_key(&0)
                {
                    let mut initial = vec![0; len.saturating_sub(1)];
                    initial.push(*locality);
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
