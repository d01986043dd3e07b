use der::Document;
use serde::{Deserialize, Serialize};

use super::hexstring::HexString;
use super::sign1::Sign1;
use crate::appraise::Context;
use crate::pki::PublicKey;
use crate::verdict::Assurance;

/// Most bytes in a key's PEM.
const MAX_PEM_BYTES: usize = 4096;

/// A platform's attestation key, as its maker handed it to the policy's author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endorsement {
    /// Which make of root of trust: 32 bytes.
    pub implementation_id: HexString,
    /// Which one of them: 33 bytes.
    pub instance_id: HexString,
    /// Its public key, PEM.
    pub public_key: String,
}

impl Endorsement {
    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        if self.implementation_id.0.len() != 32 {
            return Some("an implementation id is not 32 bytes");
        }
        if self.instance_id.0.len() != 33 {
            return Some("an instance id is not 33 bytes");
        }
        self.key().is_none().then_some("a public key is not a PEM of a key on P-256 or P-384")
    }

    fn key(&self) -> Option<PublicKey> {
        if self.public_key.len() > MAX_PEM_BYTES {
            return None;
        }
        let (label, document) = Document::from_pem(self.public_key.trim()).ok()?;
        PublicKey::from_spki(document.as_bytes()).filter(|_| label == "PUBLIC KEY").filter(is_ecdsa)
    }
}

fn is_ecdsa(key: &PublicKey) -> bool {
    matches!(key, PublicKey::P256(_) | PublicKey::P384(_))
}

/// Who a token says made it.
pub(crate) struct Identity<'a> {
    pub(crate) implementation: Option<&'a [u8]>,
    pub(crate) instance: Option<&'a [u8]>,
}

/// The key that a platform's token is judged under.
pub(crate) struct Trusted {
    pub(crate) key: PublicKey,
    pub(crate) tier: Assurance,
    pub(crate) why: String,
}

/// The key that the policy endorses for this platform; in an inspection, the bare key that was given.
///
/// `endorsed` is the tier of an endorsed key.
pub(crate) fn trusted(
    tee: &str,
    endorsements: Option<&[Endorsement]>,
    identity: &Identity<'_>,
    signed: &Sign1<'_>,
    endorsed: Assurance,
    context: &Context<'_>,
) -> Result<Trusted, String> {
    if let Some(given) = context.given {
        let keys: Vec<PublicKey> =
            given.keys.iter().take(16).filter_map(|der| PublicKey::from_spki(der)).filter(is_ecdsa).collect();
        // Of several, the one that signed; of one, the only one.
        let signer = match keys.len() {
            0 | 1 => 0,
            _ => keys.iter().position(|key| signed.is_signed_by(key)).unwrap_or(0),
        };
        let key =
            keys.into_iter().nth(signer).ok_or("no public key was given to inspect it with: add one with `--chain`")?;
        let why = "the bare key that was given; nobody vouches for it".into();
        return Ok(Trusted { key, tier: Assurance::Unanchored, why });
    }
    let Some(endorsements) = endorsements else {
        return Err(format!("the policy does not say which platforms to trust: add `{tee}.endorsements`"));
    };
    let (Some(implementation), Some(instance)) = (identity.implementation, identity.instance) else {
        return Err("the token does not say which platform it is of".into());
    };
    let mut known = endorsements.iter().filter(|endorsement| endorsement.implementation_id == *implementation);
    if known.clone().next().is_none() {
        return Err(format!("the policy endorses no platform of implementation {}", hex::encode(implementation)));
    }
    let endorsement = known
        .find(|endorsement| endorsement.instance_id == *instance)
        .ok_or_else(|| format!("the policy endorses no platform with instance id {}", hex::encode(instance)))?;
    let key = endorsement.key().ok_or("the endorsed key is not a PEM of a key on P-256 or P-384")?;
    Ok(Trusted { key, tier: endorsed, why: format!("the policy endorses platform {}", hex::encode(instance)) })
}
