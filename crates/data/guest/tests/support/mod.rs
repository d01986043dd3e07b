//! A real guest in QEMU with a vTPM, and the test in the place of node and broker.
//!
//! `LAMBDA_IMAGE_DIR` names an image folder as `lambda image build` makes it. `LAMBDA_GUEST_BINARY`, if set, is put in
//! the place of the image's own `/init`.

#![allow(dead_code, reason = "each test file uses another part")]
#![allow(unreachable_pub, reason = "a module of each test file")]

pub mod broker;
pub mod machine;

pub use broker::Broker;
pub use machine::{Machine, Options, new_volume};

use std::time::Duration;

/// Emulated machines boot in about 20 seconds on two free cores.
pub const BOUND: Duration = Duration::from_secs(240);
