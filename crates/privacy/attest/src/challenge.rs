//! The broker's demand: a fresh nonce, and a credential that only the right TPM can open.
//!
//! Where there is a TPM, the endorsement key's chain is verified *before* the credential is made, so a secret is never
//! encrypted to a key that nobody vouches for. Hardware that signs its reports itself needs the nonce alone. Randomness is
//! an argument.

use lambda_tpm::make_credential;
use lambda_types::Binary;
use lambda_types::session::{Challenge, Credential, Hello, PROTOCOL};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::checks::{self, Recorder};
use crate::policy::Policy;
use crate::time::UnixTime;
use crate::tpm;
use crate::verdict::{Check, Outcome};

/// What the broker keeps of a challenge until its evidence arrives.
pub struct Outstanding {
    nonce: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    ek_public: Vec<u8>,
    ak_public: Vec<u8>,
}

impl Outstanding {
    /// The nonce that was sent.
    #[must_use]
    pub fn nonce(&self) -> &[u8; 32] {
        &self.nonce
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Ends the challenge: what was secret about it may be written down, and it can release nothing any more.
    #[must_use]
    pub fn spend(self) -> SpentChallenge {
        SpentChallenge {
            nonce: self.nonce.to_vec().into(),
            secret: self.secret.to_vec().into(),
            ek_public: self.ek_public.into(),
            ak_public: self.ak_public.into(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(nonce: [u8; 32], secret: [u8; 32], ek_public: Vec<u8>, ak_public: Vec<u8>) -> Self {
        Self { nonce, secret: Zeroizing::new(secret), ek_public, ak_public }
    }

    /// Whether the credential was made for these two keys.
    pub(crate) fn was_for(&self, ek_public: &[u8], ak_public: &[u8]) -> bool {
        !self.ek_public.is_empty() && self.ek_public == ek_public && self.ak_public == ak_public
    }
}

/// A challenge whose evidence has come, for [`crate::Record`]. Whoever holds it could have made the activation proof
/// itself, so it convinces only those who trust its keeper, and nothing but a verdict comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpentChallenge {
    /// The nonce that was sent.
    nonce: Binary,
    /// The secret that the credential held.
    secret: Binary,
    /// TPMT_PUBLIC of the EK that the credential was made for; empty when there was no TPM.
    ek_public: Binary,
    /// TPMT_PUBLIC of the AK that the credential was made for; empty when there was no TPM.
    ak_public: Binary,
}

impl SpentChallenge {
    /// As it was before; for judging again. `Err` names the field that has not its length.
    pub(crate) fn recall(&self) -> Result<Outstanding, &'static str> {
        let nonce = self.nonce.as_slice().try_into().map_err(|_| "challenge.nonce")?;
        let secret = self.secret.as_slice().try_into().map_err(|_| "challenge.secret")?;
        let (ek_public, ak_public) = (self.ek_public.0.clone(), self.ak_public.0.clone());
        Ok(Outstanding { nonce, secret: Zeroizing::new(secret), ek_public, ak_public })
    }
}

/// Sections of a policy that accept hardware.
const HARDWARE: &str = "`snp`, `tdx`, `sgx`, `cca`";

/// Why no challenge can be made.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// The guest speaks another version.
    #[error(
        "the guest speaks session protocol {0}, this program speaks {PROTOCOL}: use a newer image or a newer program"
    )]
    Protocol(u32),
    /// The guest has no TPM, and the policy accepts nothing else.
    #[error("the guest presents no TPM, and the policy accepts no other root of trust: add one of {HARDWARE} to it")]
    NoTpm,
    /// The TPM's identity does not hold.
    #[error("the guest's TPM is not trusted: {}", describe(.checks))]
    Untrusted {
        /// The checks that failed.
        checks: Vec<Check>,
    },
    /// The credential could not be made.
    #[error("no credential can be made for the guest's TPM: {0}")]
    Credential(#[from] lambda_tpm::Error),
}

impl ChallengeError {
    /// Ids of the failed checks, for the guest's `Refused`.
    #[must_use]
    pub fn failed_checks(&self) -> Vec<String> {
        match self {
            Self::Untrusted { checks } => checks.iter().map(|check| check.id.clone()).collect(),
            Self::NoTpm | Self::Credential(_) => vec![checks::EK_PUBLIC.id.into()],
            Self::Protocol(_) => Vec::new(),
        }
    }
}

fn describe(checks: &[Check]) -> String {
    checks.iter().map(|check| format!("{} ({})", check.detail, check.id)).collect::<Vec<_>>().join("; ")
}

/// Makes a challenge for what the guest claims to be.
///
/// `entropy` is 96 fresh random bytes, never used twice: nonce, secret and ephemeral key.
///
/// # Errors
/// When the guest's TPM is not one that the policy's platform CAs vouch for.
pub fn issue(
    hello: &Hello,
    policy: &Policy,
    now: UnixTime,
    entropy: &[u8; 96],
) -> Result<(Challenge, Outstanding), ChallengeError> {
    if hello.protocol != PROTOCOL {
        return Err(ChallengeError::Protocol(hello.protocol));
    }
    let (nonce, secret, ephemeral) = split(entropy);
    let Some(identity) = &hello.tpm else {
        if !policy.accepts_hardware() {
            return Err(ChallengeError::NoTpm);
        }
        let challenge = Challenge { nonce: nonce.to_vec().into(), credential: None };
        return Ok((challenge, Outstanding { nonce, secret, ek_public: Vec::new(), ak_public: Vec::new() }));
    };
    let mut recorder = Recorder::default();
    let keys = tpm::check_identity(identity, policy, now, &mut recorder);
    let failed: Vec<_> =
        recorder.finish(&checks::ENDORSEMENT).into_iter().filter(|check| check.outcome == Outcome::Fail).collect();
    let Some((ek, ak)) = keys.ek.zip(keys.ak).filter(|_| failed.is_empty()) else {
        return Err(ChallengeError::Untrusted { checks: failed });
    };
    let made = make_credential(&ek, &ak.name()?, &*secret, &ephemeral)?;
    let challenge = Challenge {
        nonce: nonce.to_vec().into(),
        credential: Some(Credential { blob: made.blob.into(), secret: made.secret.into() }),
    };
    let outstanding =
        Outstanding { nonce, secret, ek_public: identity.ek_public.0.clone(), ak_public: identity.ak_public.0.clone() };
    Ok((challenge, outstanding))
}

fn split(entropy: &[u8; 96]) -> ([u8; 32], Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
    let part = |index: usize| {
        let mut out = Zeroizing::new([0u8; 32]);
        for (slot, byte) in out.iter_mut().zip(entropy.chunks(32).nth(index).unwrap_or_default()) {
            *slot = *byte;
        }
        out
    };
    (*part(0), part(1), part(2))
}
