//! Lambda's verifier of hardware evidence beside other verifiers, over the same evidence at the same instant.

#![forbid(unsafe_code)]

pub mod argued;
pub mod arm;
pub mod compare;
pub mod fixtures;
pub mod intel;
pub mod outcome;
pub mod race;
pub mod sev_snp;
