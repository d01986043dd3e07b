//! Intel TDX and SGX: made-up platforms under a made-up root, and every way to be wrong.

mod flips;
mod forge;
mod good;
mod negatives;
mod quotes;
mod scene;
mod silence;
mod stories;
