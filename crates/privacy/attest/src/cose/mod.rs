//! What the two Arm tokens share: strict CBOR, COSE_Sign1, software components, life cycle, endorsed keys.

mod cbor;
mod claims;
mod endorsement;
mod hexstring;
mod lifecycle;
mod rules;
mod sign1;
mod software;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use cbor::{Value, parse};
pub(crate) use claims::{Fields, label};
pub use endorsement::Endorsement;
pub(crate) use endorsement::{Identity, trusted};
pub use hexstring::HexString;
pub use lifecycle::Lifecycle;
pub(crate) use rules::{ruled, same_bytes, silent};
pub(crate) use sign1::{Sign1, ecdsa_key};
pub use software::SoftwareComponent;
pub(crate) use software::{Component, HashAlgorithm, components, is_complete, is_known, lengths_agree, listed};
