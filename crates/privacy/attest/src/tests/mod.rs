//! The verifier against a model TPM: what it accepts, and every way to be wrong.

mod dcap;
mod flips;
mod negatives;
mod records;
mod scene;
mod snp;
mod stories;

use crate::checks::{self, CheckInfo};

/// Every check of a guest's TPM evidence, in order.
fn tpm_checks() -> Vec<&'static CheckInfo> {
    checks::listed(&[checks::POLICY, checks::BINDING, checks::TPM_BOOT])
}
