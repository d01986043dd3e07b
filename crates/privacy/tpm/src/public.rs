//! TPMT_PUBLIC (Part 2) of the key types that Lambda uses, their names, and the two templates.

use p256::PublicKey;
use sha2::{Digest as _, Sha256};

use crate::signature::left_padded;
use crate::wire::{Reader, Writer};
use crate::{Error, alg};

const WHAT: &str = "TPMT_PUBLIC";

/// Most bytes in a public area: an RSA-4096 key with a policy stays below it.
pub const MAX_PUBLIC_BYTES: usize = 800;

/// TPMA_OBJECT (Part 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// The key cannot leave its TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// The key stays under its parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// The TPM made the private part.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// USER role by auth value.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// ADMIN role by policy only.
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    /// Operates only on structures that the TPM made or checked.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// May decrypt.
    pub const DECRYPT: Self = Self(1 << 17);
    /// May sign.
    pub const SIGN: Self = Self(1 << 18);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What an endorsement key has: TCG EK Credential Profile, template L-2.
    pub const EK: Self = Self::FIXED_TPM
        .and(Self::FIXED_PARENT)
        .and(Self::SENSITIVE_DATA_ORIGIN)
        .and(Self::ADMIN_WITH_POLICY)
        .and(Self::RESTRICTED)
        .and(Self::DECRYPT);

    /// What Lambda's attestation key has: it signs what its own TPM made, and nothing else.
    pub const AK: Self = Self::FIXED_TPM
        .and(Self::FIXED_PARENT)
        .and(Self::SENSITIVE_DATA_ORIGIN)
        .and(Self::USER_WITH_AUTH)
        .and(Self::RESTRICTED)
        .and(Self::SIGN);
}

/// A TPMT_PUBLIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    /// TPM_ALG_ID of the hash that makes the object's name.
    pub name_alg: u16,
    /// What the key may do and where it may go.
    pub attributes: Attributes,
    /// authPolicy.
    pub auth_policy: Vec<u8>,
    /// Algorithm-specific part.
    pub key: PublicKeyArea,
}

/// Parameters and unique field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKeyArea {
    /// TPM_ALG_ECC on NIST P-256.
    EccP256 {
        /// Symmetric algorithm for protecting children.
        symmetric: Symmetric,
        /// Signing scheme.
        scheme: Scheme,
        /// Affine x.
        x: [u8; 32],
        /// Affine y.
        y: [u8; 32],
    },
    /// TPM_ALG_RSA.
    Rsa {
        /// Symmetric algorithm for protecting children.
        symmetric: Symmetric,
        /// Signing scheme.
        scheme: Scheme,
        /// Modulus length in bits.
        bits: u16,
        /// Public exponent; 0 stands for 65537.
        exponent: u32,
        /// Modulus, big endian.
        modulus: Vec<u8>,
    },
}

/// TPMT_SYM_DEF_OBJECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symmetric {
    /// TPM_ALG_NULL: not a storage key.
    None,
    /// AES in CFB mode.
    AesCfb {
        /// Key length.
        bits: u16,
    },
}

/// TPMT_ECC_SCHEME or TPMT_RSA_SCHEME, as far as attestation keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TPM_ALG_NULL.
    None,
    /// A signing scheme with its hash.
    Signing {
        /// TPM_ALG_ECDSA, TPM_ALG_RSASSA or TPM_ALG_RSAPSS.
        scheme: u16,
        /// TPM_ALG_ID.
        hash: u16,
    },
}

/// PolicySecret(TPM_RH_ENDORSEMENT), SHA-256: TCG EK Credential Profile, PolicyA of the low range.
pub const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

impl Public {
    /// TCG EK Credential Profile template L-2: ECC NIST P-256 storage key under PolicySecret(endorsement).
    #[must_use]
    pub fn ek_template() -> Self {
        Self {
            name_alg: alg::SHA256,
            attributes: Attributes::EK,
            auth_policy: EK_POLICY.to_vec(),
            key: PublicKeyArea::EccP256 {
                symmetric: Symmetric::AesCfb { bits: 128 },
                scheme: Scheme::None,
                x: [0; 32],
                y: [0; 32],
            },
        }
    }

    /// Lambda's attestation key: restricted ECDSA P-256 with SHA-256.
    #[must_use]
    pub fn ak_template() -> Self {
        Self {
            name_alg: alg::SHA256,
            attributes: Attributes::AK,
            auth_policy: Vec::new(),
            key: PublicKeyArea::EccP256 {
                symmetric: Symmetric::None,
                scheme: Scheme::Signing { scheme: alg::ECDSA, hash: alg::SHA256 },
                x: [0; 32],
                y: [0; 32],
            },
        }
    }

    /// Whether everything but the key itself (the unique field) is as in `template`.
    #[must_use]
    pub fn matches_template(&self, template: &Self) -> bool {
        let mut mine = self.clone();
        if let (PublicKeyArea::EccP256 { x, y, .. }, PublicKeyArea::EccP256 { x: template_x, y: template_y, .. }) =
            (&mut mine.key, &template.key)
        {
            *x = *template_x;
            *y = *template_y;
        }
        mine == *template
    }

    /// Parses a whole TPMT_PUBLIC.
    ///
    /// # Errors
    /// When it is malformed, followed by anything, or of an unsupported type.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(WHAT, bytes, MAX_PUBLIC_BYTES)?;
        let kind = reader.u16()?;
        let name_alg = reader.u16()?;
        let attributes = Attributes(reader.u32()?);
        let auth_policy = reader.sized(64)?.to_vec();
        let key = match kind {
            alg::ECC => read_ecc(&mut reader)?,
            alg::RSA => read_rsa(&mut reader)?,
            algorithm => return Err(Error::Unsupported { what: WHAT, algorithm }),
        };
        reader.finish()?;
        Ok(Self { name_alg, attributes, auth_policy, key })
    }

    /// TPMT_PUBLIC.
    ///
    /// # Errors
    /// When the policy or the modulus does not fit its length field.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let kind = match self.key {
            PublicKeyArea::EccP256 { .. } => alg::ECC,
            PublicKeyArea::Rsa { .. } => alg::RSA,
        };
        let head = Writer::new().u16(kind).u16(self.name_alg).u32(self.attributes.0).sized(WHAT, &self.auth_policy)?;
        Ok(match &self.key {
            PublicKeyArea::EccP256 { symmetric, scheme, x, y } => {
                let head = write_scheme(write_symmetric(head, *symmetric), *scheme);
                head.u16(alg::NIST_P256).u16(alg::NULL).sized(WHAT, x)?.sized(WHAT, y)?.done()
            }
            PublicKeyArea::Rsa { symmetric, scheme, bits, exponent, modulus } => {
                let head = write_scheme(write_symmetric(head, *symmetric), *scheme);
                head.u16(*bits).u32(*exponent).sized(WHAT, modulus)?.done()
            }
        })
    }

    /// The object's name: nameAlg ‖ H(TPMT_PUBLIC) (Part 1, Names).
    ///
    /// # Errors
    /// When the name algorithm is not SHA-256: Lambda's keys use no other.
    pub fn name(&self) -> Result<Vec<u8>, Error> {
        if self.name_alg != alg::SHA256 {
            return Err(Error::Unsupported { what: "object name", algorithm: self.name_alg });
        }
        Ok(sha256_name(&self.encode()?))
    }

    /// Qualified name of this key as a primary under a hierarchy (Part 1, Names): H(hierarchy ‖ name).
    ///
    /// # Errors
    /// As [`Self::name`].
    pub fn qualified_name_under(&self, hierarchy: u32) -> Result<Vec<u8>, Error> {
        let mut input = hierarchy.to_be_bytes().to_vec();
        input.extend_from_slice(&self.name()?);
        Ok(sha256_name(&input))
    }

    /// The key as an uncompressed SEC 1 point, when it is a valid point on P-256.
    #[must_use]
    pub fn p256_sec1(&self) -> Option<[u8; 65]> {
        let PublicKeyArea::EccP256 { x, y, .. } = &self.key else { return None };
        let mut point = Vec::with_capacity(65);
        point.push(4);
        point.extend_from_slice(x);
        point.extend_from_slice(y);
        PublicKey::from_sec1_bytes(&point).ok()?;
        point.try_into().ok()
    }
}

fn sha256_name(bytes: &[u8]) -> Vec<u8> {
    let mut name = alg::SHA256.to_be_bytes().to_vec();
    name.extend_from_slice(&Sha256::digest(bytes));
    name
}

fn read_ecc(reader: &mut Reader<'_>) -> Result<PublicKeyArea, Error> {
    let symmetric = read_symmetric(reader)?;
    let scheme = read_scheme(reader)?;
    let curve = reader.u16()?;
    if curve != alg::NIST_P256 {
        return Err(Error::Unsupported { what: WHAT, algorithm: curve });
    }
    let kdf = reader.u16()?;
    if kdf != alg::NULL {
        return Err(Error::Unsupported { what: WHAT, algorithm: kdf });
    }
    let x = reader.sized(32)?;
    let y = reader.sized(32)?;
    // The name covers these bytes, so a shorter spelling of the same point would be another name for one key.
    if x.len() != 32 || y.len() != 32 {
        return Err(Error::Malformed { what: WHAT, why: "a P-256 coordinate is not 32 bytes" });
    }
    Ok(PublicKeyArea::EccP256 { symmetric, scheme, x: left_padded(x), y: left_padded(y) })
}

fn read_rsa(reader: &mut Reader<'_>) -> Result<PublicKeyArea, Error> {
    let symmetric = read_symmetric(reader)?;
    let scheme = read_scheme(reader)?;
    let bits = reader.u16()?;
    let exponent = reader.u32()?;
    let modulus = reader.sized(512)?.to_vec();
    if modulus.len().checked_mul(8) != Some(usize::from(bits)) {
        return Err(Error::Malformed { what: WHAT, why: "the RSA modulus is not as long as keyBits says" });
    }
    Ok(PublicKeyArea::Rsa { symmetric, scheme, bits, exponent, modulus })
}

fn read_symmetric(reader: &mut Reader<'_>) -> Result<Symmetric, Error> {
    match reader.u16()? {
        alg::NULL => Ok(Symmetric::None),
        alg::AES => {
            let bits = reader.u16()?;
            match reader.u16()? {
                alg::CFB => Ok(Symmetric::AesCfb { bits }),
                algorithm => Err(Error::Unsupported { what: WHAT, algorithm }),
            }
        }
        algorithm => Err(Error::Unsupported { what: WHAT, algorithm }),
    }
}

fn read_scheme(reader: &mut Reader<'_>) -> Result<Scheme, Error> {
    match reader.u16()? {
        alg::NULL => Ok(Scheme::None),
        scheme @ (alg::ECDSA | alg::RSASSA | alg::RSAPSS) => Ok(Scheme::Signing { scheme, hash: reader.u16()? }),
        algorithm => Err(Error::Unsupported { what: WHAT, algorithm }),
    }
}

fn write_symmetric(writer: Writer, symmetric: Symmetric) -> Writer {
    match symmetric {
        Symmetric::None => writer.u16(alg::NULL),
        Symmetric::AesCfb { bits } => writer.u16(alg::AES).u16(bits).u16(alg::CFB),
    }
}

fn write_scheme(writer: Writer, scheme: Scheme) -> Writer {
    match scheme {
        Scheme::None => writer.u16(alg::NULL),
        Scheme::Signing { scheme, hash } => writer.u16(scheme).u16(hash),
    }
}
