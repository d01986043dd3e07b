//! Firmware to measure where no real one is installed.

#[path = "../../../crates/data/image/src/tests/synthetic.rs"]
#[allow(dead_code, reason = "the image library's own tests make more than a complete one")]
mod synthetic;

/// An image with the metadata of both profiles.
pub(crate) fn complete() -> Vec<u8> {
    synthetic::Synthetic::complete().build()
}
