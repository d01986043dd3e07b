//! The encryption manager: keys, sealing and opening, and the release of an instance's secrets to its attested guest.
//!
//! Only the customer's programs (`user/*`) and the guest link this crate. The gateway, the control plane and the
//! node agent see [`lambda_types::Sealed`], which has no way to be opened.
//!
//! ```text
//!   MasterKey (file, 0600) ──wraps──▶ ProjectKey (id, version) ──seals──▶ InstanceSecrets { VolumeKey, … }, Metadata
//!                                                                                │
//!                                     attested X25519 key ◀──HPKE, context-bound─┘   ── ReportKeys ──▶ Report, Acknowledge
//! ```
//!
//! Invariants: a key type zeroizes on drop and has no `Debug`, `Clone`, `Serialize` or `Display`; each ciphertext names
//! in its associated data what it is and whose it is, so that one object's value never opens as another's; an error
//! never quotes a plaintext.

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

mod aead;
mod codec;
mod error;
pub mod id_block;
pub mod keys;
pub mod metadata;
pub mod release;
pub mod report;
pub mod seal;
pub mod secrets;

pub use error::Error;
pub use keys::{KeyId, MasterKey, ProjectKey, VolumeKey, WrappedKey};
pub use metadata::Metadata;
pub use release::{ReleaseContext, ReleaseKey};
pub use report::{Acknowledge, BrokerReportKeys, GuestReportKeys, Report};
pub use secrets::InstanceSecrets;
