//! The vocabulary of Lambda: identifiers, API bodies, the messages that two programs exchange, and errors.
//!
//! This crate performs no I/O and depends on nothing of the project, so everything may depend on it. It names
//! *sealed* data ([`Sealed`]) but holds no code that can open it: that lives in `privacy/crypto`, which the
//! control plane, the gateway and the node agent cannot link.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod api_key;
pub mod binary;
pub mod guest;
pub mod id;
pub mod image;
pub mod instance;
pub mod launch;
pub mod mailbox;
pub mod node;
pub mod problem;
pub mod sealed;
pub mod session;
pub mod shape;

pub use binary::Binary;
pub use id::{ApiKeyId, BootId, ImageId, InstanceId, NetworkId, NodeId, ProjectId, RequestId, VolumeId};
pub use problem::{Code, Problem};
pub use sealed::Sealed;
