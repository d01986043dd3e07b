//! The verifier against a model TPM: what it accepts, and every way to be wrong.

mod flips;
mod negatives;
mod records;
mod scene;
mod stories;
