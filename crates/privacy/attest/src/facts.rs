use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// Most signatures that are remembered; beyond it everything is forgotten.
const MOST: usize = 4096;

/// Signatures that were verified and held: of certificates, revocation lists and vendors' documents, which are the same
/// for one piece of evidence after the other. The algorithm with its parameters is among the signed bytes, or one and the
/// same for the kind of document. That a signature over certain bytes is a certain key's does not change with time, policy
/// or evidence, so it is enough to compute it once. Dates, names and revocation are judged anew each time,
/// and so is every signature that speaks for a guest.
#[derive(Default)]
pub(crate) struct Facts(Mutex<BTreeSet<[u8; 32]>>);

impl Facts {
    /// Whether the signature holds: as remembered, or as `verify` says.
    pub(crate) fn holds(&self, key: &[u8], signature: &[u8], message: &[u8], verify: impl FnOnce() -> bool) -> bool {
        let fact = fact(key, signature, message);
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&fact) {
            return true;
        }
        let holds = verify();
        if holds {
            self.remember(fact);
        }
        holds
    }

    /// What a test of this crate verified, so that no process has to.
    pub(crate) fn presume(&self, key: &[u8], signature: &[u8], message: &[u8]) {
        self.remember(fact(key, signature, message));
    }

    fn remember(&self, fact: [u8; 32]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(fact);
    }
}

/// Key, signature and message as one hash; no two triples give the same.
fn fact(key: &[u8], signature: &[u8], message: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in [key, signature] {
        hash.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(field);
    }
    hash.chain_update(message).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_held_is_remembered_and_only_for_the_same_bytes() {
        let facts = Facts::default();
        assert!(!facts.holds(b"key", b"signature", b"message", || false));
        assert!(facts.holds(b"key", b"signature", b"message", || true));
        assert!(facts.holds(b"key", b"signature", b"message", || panic!("verified again")));
        for (key, signature, message) in [
            ("kez", "signature", "message"),
            ("key", "signaturf", "message"),
            ("key", "signature", "messagf"),
            ("keys", "ignature", "message"),
            ("key", "signaturem", "essage"),
        ] {
            assert!(!facts.holds(key.as_bytes(), signature.as_bytes(), message.as_bytes(), || false));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let facts = Facts::default();
        for number in 0..=MOST {
            assert!(facts.holds(b"key", &number.to_be_bytes(), b"message", || true));
        }
        assert_eq!(facts.0.lock().unwrap().len(), 1);
    }
}
