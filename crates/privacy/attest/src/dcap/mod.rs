//! Intel's quotes, as data center attestation (DCAP) has them: of SGX enclaves (versions 3 to 5) and of trust domains
//! (versions 4 and 5).
//!
//! ```text
//!   Intel's root ─▶ PCK CA ─▶ PCK ─▶ QE report ─▶ attestation key ─▶ quote
//!              └─▶ TCB signer ─▶ TCB info, QE identity ─▶ status of platform, TDX module and QE
//! ```
//!
//! Every signature is verified over the bytes as they came, each of them once.

mod body;
mod chain;
pub mod checks;
mod crl;
mod document;
mod identity;
mod ledger;
mod pck;
mod platform;
mod policy;
mod quote;
mod reader;
mod rtmr;
mod rules;
pub(crate) mod sgx;
mod status;
mod tcb;
mod tcb_info;
pub(crate) mod tdx;

pub use policy::{DcapPolicy, LogRule, SgxPolicy, TdxPolicy, TdxReference};
pub(crate) use policy::{SILENT_SGX, SILENT_TDX};
pub use status::TcbStatus;
