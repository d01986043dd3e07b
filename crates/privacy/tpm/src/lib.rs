//! TPM 2.0 on the wire: structures, commands and credentials, without any I/O.
//!
//! Three programs share it. The node agent manufactures each instance's vTPM over swtpm's socket, the guest makes its
//! attestation key and quotes over `/dev/tpm0`, and the customer's key broker parses what the guest sent and makes the
//! credential that only that TPM can open. Each brings its own [`Transport`].
//!
//! Everything parsed here is foreign: every length is bounded before anything is allocated, trailing bytes are
//! refused, and an algorithm that is not on the short list in [`alg`] is refused rather than guessed at.
//!
//! References are to the TCG *TPM 2.0 Library Specification*, Parts 1 to 3, and to the *TCG EK Credential
//! Profile for TPM Family 2.0*.

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

pub mod alg;
pub mod command;
pub mod credential;
mod error;
pub mod kdf;
pub mod pcr;
pub mod public;
pub mod quote;
pub mod signature;
mod wire;

pub use command::{Key, MAX_MESSAGE_BYTES, Quoted, Tpm, Transport};
pub use credential::{Credential, make_credential};
pub use error::Error;
pub use pcr::{LAMBDA_PCRS, PcrSelection};
pub use public::{Attributes, Public};
pub use quote::{ClockInfo, Quote};
pub use signature::Signature;
