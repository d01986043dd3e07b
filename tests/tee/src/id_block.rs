//! The ID block, as the SNP firmware takes it (SEV-SNP Firmware ABI, SNP_LAUNCH_FINISH, ID Block, ID Authentication
//! Information Structure): a guest that is not what the customer signed does not start.

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::Outcome;

/// Lengths of the structures and of a key in them.
const BLOCK: usize = 96;
const AUTHENTICATION: usize = 4096;
const KEY: usize = 0x404;

/// Where the block has the guest's security version.
pub(crate) const GUEST_SVN: usize = 0x54;

/// Offsets in the authentication structure.
const BLOCK_SIGNATURE: usize = 0x40;
const ID_KEY: usize = 0x240;
const ID_KEY_SIGNATURE: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;

/// What the report repeats of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) family_id: Vec<u8>,
    pub(crate) image_id: Vec<u8>,
    pub(crate) guest_svn: u32,
    pub(crate) id_key: Vec<u8>,
    pub(crate) author_key: Option<Vec<u8>>,
}

impl Identity {
    /// Of a guest without an ID block.
    pub(crate) fn none() -> Self {
        Self { family_id: vec![0; 16], image_id: vec![0; 16], guest_svn: 0, id_key: vec![0; 48], author_key: None }
    }
}

/// Checks block and signatures against what was loaded.
pub(crate) fn accept(
    block: &[u8],
    authentication: &[u8],
    author: bool,
    measurement: &[u8; 48],
    policy: u64,
) -> Outcome<Identity> {
    if block.len() != BLOCK || authentication.len() != AUTHENTICATION {
        return Err(refused("INVALID_LENGTH", "block or authentication has another length"));
    }
    if number(authentication, 0) != 1 || (author && number(authentication, 4) != 1) {
        return Err(refused("INVALID_PARAM", "a key is of another algorithm than ECDSA P-384 with SHA-384"));
    }
    let id_key = &authentication[ID_KEY..ID_KEY + KEY];
    signed(block, &authentication[BLOCK_SIGNATURE..], id_key)
        .map_err(|why| refused("BAD_SIGNATURE", &format!("the ID key did not sign the block: {why}")))?;
    let author_key = &authentication[AUTHOR_KEY..AUTHOR_KEY + KEY];
    if author {
        signed(id_key, &authentication[ID_KEY_SIGNATURE..], author_key)
            .map_err(|why| refused("BAD_SIGNATURE", &format!("the author key did not sign the ID key: {why}")))?;
    }
    if number(block, 0x50) != 1 {
        return Err(refused("INVALID_PARAM", "the block is of another version than 1"));
    }
    if block[..48] != measurement[..] {
        return Err(refused("BAD_MEASUREMENT", "the block names another measurement than what was loaded gives"));
    }
    if block[0x58..0x60] != policy.to_le_bytes() {
        return Err(refused("POLICY_FAILURE", "the block names another policy than the guest was started with"));
    }
    Ok(Identity {
        family_id: block[0x30..0x40].to_vec(),
        image_id: block[0x40..0x50].to_vec(),
        guest_svn: number(block, GUEST_SVN),
        id_key: Sha384::digest(id_key).to_vec(),
        author_key: author.then(|| Sha384::digest(author_key).to_vec()),
    })
}

fn refused(code: &str, why: &str) -> Box<dyn std::error::Error> {
    format!("SNP_LAUNCH_FINISH: {code}: {why}").into()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A number of 72 bytes, little endian, as 48 bytes, big endian.
fn scalar(bytes: &[u8]) -> Outcome<[u8; 48]> {
    if bytes[48..72].iter().any(|byte| *byte != 0) {
        return Err("a number is too large".into());
    }
    let mut scalar: [u8; 48] = bytes[..48].try_into()?;
    scalar.reverse();
    Ok(scalar)
}

fn signed(message: &[u8], signature: &[u8], key: &[u8]) -> Outcome<()> {
    if number(key, 0) != 2 {
        return Err("the key is not on P-384".into());
    }
    let point = [&[4][..], &scalar(&key[4..])?, &scalar(&key[76..])?].concat();
    let key = VerifyingKey::from_sec1_bytes(&point)?;
    let signature = Signature::from_scalars(scalar(signature)?, scalar(&signature[72..])?)?;
    Ok(key.verify(message, &signature)?)
}
