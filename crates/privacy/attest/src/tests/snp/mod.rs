//! AMD SEV-SNP: real reports where they are at hand, and made-up ones for every way to be wrong.

mod certificates;
mod der;
mod fixtures;
mod flips;
mod forge;
mod good;
mod negatives;
mod paravisor;
mod scene;
mod silence;
mod stories;
