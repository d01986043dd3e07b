//! The customer's side of Lambda as a library: what `lambda` (the CLI) and the key broker are made of.
//!
//! Everything that must not leave the customer's machine lives behind this crate: the master key and the keyring
//! ([`keyring`]), the pinned platform CA ([`config`]), the images and policies that the customer trusts ([`images`],
//! [`policies`]), and what was attested about each instance ([`state`]). The API ([`api`]) sees ids and sealed values.
//!
//! The broker ([`broker`]) is level-triggered: it looks at the guest's latest mailbox message and its own notes, and does
//! the one thing that follows. Whatever dies, the next look continues; a challenge whose secret died with its broker is
//! simply made again.

#![forbid(unsafe_code)]

pub mod anchors;
pub mod api;
pub mod broker;
pub mod collateral;
pub mod config;
pub mod connect;
pub mod customer;
pub mod error;
pub mod files;
pub mod images;
pub mod keyring;
pub mod launch;
pub mod policies;
pub mod presented;
pub mod resolve;
pub mod rotation;
pub mod state;
pub mod tls;
pub mod tunnel;
pub mod wait;

pub use anchors::anchors;
pub use api::Client;
pub use broker::Broker;
pub use config::Config;
pub use customer::Customer;
pub use error::Error;
pub use keyring::Keyring;
