//! TPMT_SIGNATURE (Part 2): ECDSA on a 256-bit curve, and the RSA schemes as bytes.

use crate::wire::{Reader, Writer};
use crate::{Error, alg};

/// A signature by a TPM key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// TPM_ALG_ECDSA with 32-byte components.
    EcdsaP256 {
        /// TPM_ALG_ID of the hash.
        hash: u16,
        /// Left-padded with zeros.
        r: [u8; 32],
        /// Left-padded with zeros.
        s: [u8; 32],
    },
    /// TPM_ALG_RSASSA or TPM_ALG_RSAPSS.
    Rsa {
        /// Which of the two.
        scheme: u16,
        /// TPM_ALG_ID of the hash.
        hash: u16,
        /// The signature, big endian.
        signature: Vec<u8>,
    },
}

impl Signature {
    /// Parses a whole TPMT_SIGNATURE.
    ///
    /// # Errors
    /// When it is malformed, followed by anything, or of another scheme.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let what = "TPMT_SIGNATURE";
        let mut reader = Reader::new(what, bytes, 600)?;
        let scheme = reader.u16()?;
        let signature = match scheme {
            alg::ECDSA => Self::EcdsaP256 {
                hash: reader.u16()?,
                r: left_padded(reader.sized(32)?),
                s: left_padded(reader.sized(32)?),
            },
            alg::RSASSA | alg::RSAPSS => {
                Self::Rsa { scheme, hash: reader.u16()?, signature: reader.sized(512)?.to_vec() }
            }
            algorithm => return Err(Error::Unsupported { what, algorithm }),
        };
        reader.finish()?;
        Ok(signature)
    }

    /// TPMT_SIGNATURE.
    ///
    /// # Errors
    /// When an RSA signature does not fit its length field.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let what = "TPMT_SIGNATURE";
        Ok(match self {
            Self::EcdsaP256 { hash, r, s } => {
                Writer::new().u16(alg::ECDSA).u16(*hash).sized(what, r)?.sized(what, s)?.done()
            }
            Self::Rsa { scheme, hash, signature } => {
                Writer::new().u16(*scheme).u16(*hash).sized(what, signature)?.done()
            }
        })
    }
}

/// A big-endian number in exactly `N` bytes; TPMs may leave leading zeros out. Callers bound the length to `N`.
pub(crate) fn left_padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0u8; N];
    for (slot, byte) in out.iter_mut().rev().zip(bytes.iter().rev()) {
        *slot = *byte;
    }
    out
}
