//! The SNP ID block: what a customer fixes about its guest, signed, so that the processor itself refuses to start another
//! (SEV Secure Nested Paging Firmware ABI Specification, SNP_LAUNCH_FINISH, ID_BLOCK and ID_AUTH_INFO).
//!
//! Two keys, both ECDSA P-384 with SHA-384: the ID key signs the block, the author key signs the ID key. The report names
//! both by digest, and a policy pins those. Numbers of keys and signatures are little endian in 72 bytes.

use lambda_types::launch::{ID_AUTH_BYTES, ID_BLOCK_BYTES};
use p384::ecdsa::signature::{Signer as _, Verifier as _};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use sha2::{Digest as _, Sha384};
use zeroize::Zeroizing;

use crate::Error;

/// Version of the block's format.
const VERSION: u32 = 1;

/// ECDSA P-384 with SHA-384.
const ALGORITHM: u32 = 1;

/// The curve P-384.
const CURVE: u32 = 2;

/// Bytes of a number in its field, and of its value.
const FIELD: usize = 72;
const NUMBER: usize = 48;

/// Bytes of a public key: curve, two coordinates, zeros.
const PUBLIC_KEY: usize = 0x404;

/// Bytes of a signature: two numbers, zeros.
const SIGNATURE: usize = 0x200;

/// Draws of a private key; each fails with a probability below 2^-190.
const DRAWS: usize = 4;

/// What a key is called in a report: SHA-384 over the public key's structure.
pub type KeyDigest = [u8; 48];

/// What a guest must be for the processor to start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest.
    pub measurement: [u8; 48],
    /// The customer's to use; in the report.
    pub family_id: [u8; 16],
    /// The customer's to use; in the report.
    pub image_id: [u8; 16],
    /// Security version of the guest; in the report.
    pub guest_svn: u32,
    /// GUEST_POLICY, which must be the one that the guest is launched with.
    pub policy: u64,
}

impl IdBlock {
    /// ID_BLOCK.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ID_BLOCK_BYTES] {
        let mut bytes = [0; ID_BLOCK_BYTES];
        let all = self.measurement.iter().chain(&self.family_id).chain(&self.image_id).copied();
        let all = all.chain(VERSION.to_le_bytes()).chain(self.guest_svn.to_le_bytes()).chain(self.policy.to_le_bytes());
        for (slot, byte) in bytes.iter_mut().zip(all) {
            *slot = byte;
        }
        bytes
    }

    /// From ID_BLOCK.
    ///
    /// # Errors
    /// When it has another length or version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let bytes: &[u8; ID_BLOCK_BYTES] =
            bytes.try_into().map_err(|_| Error::Malformed("an ID block has 96 bytes"))?;
        let mut rest = Fields(bytes);
        let (measurement, family_id, image_id) = (rest.take()?, rest.take()?, rest.take()?);
        if u32::from_le_bytes(rest.take()?) != VERSION {
            return Err(Error::Malformed("the ID block is not of version 1"));
        }
        let (guest_svn, policy) = (u32::from_le_bytes(rest.take()?), u64::from_le_bytes(rest.take()?));
        Ok(Self { measurement, family_id, image_id, guest_svn, policy })
    }
}

/// A customer's ID key or author key. Wiped when dropped.
pub struct IdKey(SigningKey);

impl IdKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0u8; NUMBER]);
        for _ in 0..DRAWS {
            getrandom::fill(secret.as_mut_slice())?;
            if let Ok(key) = SigningKey::from_slice(secret.as_slice()) {
                return Ok(Self(key));
            }
        }
        Err(Error::SigningKey)
    }

    /// From PKCS #8 PEM.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| Error::SigningKey)
    }

    /// As PKCS #8 PEM.
    ///
    /// # Errors
    /// When the key cannot be encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| Error::SigningKey)
    }

    /// The public key, as `openssl` reads it: an uncompressed SEC 1 point.
    #[must_use]
    pub fn public_point(&self) -> Vec<u8> {
        self.0.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }

    /// What the report calls the key.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        Sha384::digest(self.public()).into()
    }

    /// The public key's structure.
    fn public(&self) -> [u8; PUBLIC_KEY] {
        let point = self.public_point();
        let (_, coordinates) = point.split_at_checked(1).unwrap_or_default();
        let (x, y) = coordinates.split_at_checked(NUMBER).unwrap_or_default();
        let mut public = [0; PUBLIC_KEY];
        write(&mut public, CURVE.to_le_bytes().into_iter().chain(number(x)).chain(number(y)));
        public
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let signature: Signature = self.0.sign(message);
        let (r, s) = signature.split_bytes();
        let mut bytes = [0; SIGNATURE];
        write(&mut bytes, number(&r).chain(number(&s)));
        bytes
    }
}

/// Signs a block: ID_AUTH_INFO for a launch with `author-key-enabled`. The two keys may be the same.
#[must_use]
pub fn sign(block: &IdBlock, id: &IdKey, author: &IdKey) -> [u8; ID_AUTH_BYTES] {
    let public = id.public();
    let mut bytes = [0; ID_AUTH_BYTES];
    let algorithms = ALGORITHM.to_le_bytes().into_iter().chain(ALGORITHM.to_le_bytes());
    let parts = algorithms
        .chain([0; 0x40 - 8])
        .chain(id.sign(&block.to_bytes()))
        .chain(public)
        .chain([0; 0x680 - 0x644])
        .chain(author.sign(&public))
        .chain(author.public());
    write(&mut bytes, parts);
    bytes
}

/// A block whose signatures hold. Whose keys they are is for the reader to judge by the digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The block.
    pub block: IdBlock,
    /// The key that signed it.
    pub id_key: KeyDigest,
    /// The key that signed the ID key.
    pub author_key: KeyDigest,
}

/// Checks a block against its authentication information as the processor does, and that reserved bytes are zero.
///
/// # Errors
/// When a structure does not have its length or format, or a signature does not hold.
pub fn verify(block: &[u8], auth: &[u8]) -> Result<Authenticated, Error> {
    let parsed = IdBlock::from_bytes(block)?;
    if auth.len() != ID_AUTH_BYTES {
        return Err(Error::Malformed("ID authentication information has 4096 bytes"));
    }
    let mut rest = Fields(auth);
    for _ in 0..2 {
        if u32::from_le_bytes(rest.take()?) != ALGORITHM {
            return Err(Error::IdBlock("a key is not of the algorithm ECDSA P-384 with SHA-384"));
        }
    }
    rest.zeros(0x40 - 8)?;
    let (block_signature, id_public) = (rest.take::<SIGNATURE>()?, rest.take::<PUBLIC_KEY>()?);
    rest.zeros(0x680 - 0x644)?;
    let (key_signature, author_public) = (rest.take::<SIGNATURE>()?, rest.take::<PUBLIC_KEY>()?);
    rest.zeros(ID_AUTH_BYTES - 0xc84)?;
    let holds = |public: &[u8], message: &[u8], signature: &[u8], what: &'static str| {
        let (key, signature) = (public_key(public)?, read_signature(signature)?);
        key.verify(message, &signature).map_err(|_| Error::IdBlock(what))
    };
    holds(&id_public, block, &block_signature, "the ID key's signature over the block does not hold")?;
    holds(&author_public, &id_public, &key_signature, "the author key's signature over the ID key does not hold")?;
    let digest = |public: [u8; PUBLIC_KEY]| Sha384::digest(public).into();
    Ok(Authenticated { block: parsed, id_key: digest(id_public), author_key: digest(author_public) })
}

fn public_key(bytes: &[u8]) -> Result<VerifyingKey, Error> {
    let mut rest = Fields(bytes);
    if u32::from_le_bytes(rest.take()?) != CURVE {
        return Err(Error::IdBlock("a public key is not of the curve P-384"));
    }
    let (x, y) = (rest.number()?, rest.number()?);
    rest.zeros(PUBLIC_KEY - 4 - 2 * FIELD)?;
    let point: Vec<u8> = [4].into_iter().chain(x).chain(y).collect();
    VerifyingKey::from_sec1_bytes(&point).map_err(|_| Error::IdBlock("a public key is not a point of the curve"))
}

fn read_signature(bytes: &[u8]) -> Result<Signature, Error> {
    let mut rest = Fields(bytes);
    let (r, s) = (rest.number()?, rest.number()?);
    rest.zeros(SIGNATURE - 2 * FIELD)?;
    Signature::from_scalars(r, s).map_err(|_| Error::IdBlock("a signature's numbers are out of range"))
}

/// A big-endian number as a little-endian field.
fn number(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digits: Vec<u8> = bytes.iter().rev().copied().collect();
    digits.into_iter().chain(std::iter::repeat(0)).take(FIELD)
}

fn write(bytes: &mut [u8], content: impl Iterator<Item = u8>) {
    for (slot, byte) in bytes.iter_mut().zip(content) {
        *slot = byte;
    }
}

/// What is left of a structure.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Malformed("it ends early"))?;
        self.0 = rest;
        Ok(*field)
    }

    /// A field's number, big endian.
    fn number(&mut self) -> Result<[u8; NUMBER], Error> {
        let mut digits = self.take::<NUMBER>()?;
        self.zeros(FIELD - NUMBER)?;
        digits.reverse();
        Ok(digits)
    }

    fn zeros(&mut self, count: usize) -> Result<(), Error> {
        let (reserved, rest) = self.0.split_at_checked(count).ok_or(Error::Malformed("it ends early"))?;
        self.0 = rest;
        if reserved.iter().any(|byte| *byte != 0) {
            return Err(Error::IdBlock("a reserved byte is not zero"));
        }
        Ok(())
    }
}
