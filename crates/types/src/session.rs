//! What a guest and its customer's key broker say to each other inside mailbox bodies (JSON).
//!
//! ```text
//!   guest                                   broker (customer's machine)
//!   Hello(keys, vTPM identity) ───────────▶ checks the EK chain, makes a credential for this AK
//!   ◀─────────────────────────── Challenge(nonce, credential)
//!   Evidence(quote, log, proof) ──────────▶ judges it against the release policy
//!   ◀───────────────────── Release(HPKE) | Refused(failed checks)
//!   Report(sealed: header pin) ───────────▶ stores the pin in the sealed secrets       only after initialising
//!   ◀──────────────────────── Acknowledge(sealed)
//!
//!   later, any time:  ◀─ Challenge ── broker      guest ── Evidence ─▶      (re-attestation, no release)
//! ```
//!
//! Everything that must be true is inside the evidence, the HPKE context or the sealed report; the node and the
//! control plane can read and drop these bodies, and nothing else.

use serde::{Deserialize, Serialize};

use crate::{Binary, BootId, InstanceId};

/// Version of this protocol; a side refuses any other.
pub const PROTOCOL: u32 = 1;

/// The keys and identities that a guest claims. Trusted only once evidence covers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The instance it was started as.
    pub instance: InstanceId,
    /// This boot; made by the guest.
    pub boot: BootId,
    /// Ephemeral X25519 public key, 32 bytes.
    pub hpke_public: Binary,
    /// SSH host public key in OpenSSH wire format (RFC 4253 §6.6).
    pub ssh_host_key: Binary,
    /// vTPM identity; absent for profiles without a vTPM.
    pub tpm: Option<TpmIdentity>,
}

/// A vTPM's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmIdentity {
    /// EK certificate and its issuers, DER, leaf first, root not included.
    pub ek_chain: Vec<Binary>,
    /// TPMT_PUBLIC of the EK (TPM 2.0 Part 2 §12.2.4).
    pub ek_public: Binary,
    /// TPMT_PUBLIC of the AK.
    pub ak_public: Binary,
}

/// What the broker demands the evidence to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Fresh random bytes, 32.
    pub nonce: Binary,
    /// A credential for the claimed AK under the claimed EK; absent for profiles without a vTPM.
    pub credential: Option<Credential>,
}

/// Output of TPM2_MakeCredential (TPM 2.0 Part 1 §24).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// TPM2B_ID_OBJECT.
    pub blob: Binary,
    /// TPM2B_ENCRYPTED_SECRET.
    pub secret: Binary,
}

/// Guest to broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromGuest {
    /// First message of a boot.
    Hello(Hello),
    /// Answer to a challenge. The evidence is `lambda_attest::Evidence` as JSON bytes, so that relays and
    /// session code need not know its shape.
    Evidence {
        /// Repeats the hello, so that a broker which comes late or restarts needs only the latest message.
        hello: Hello,
        /// `lambda_attest::Evidence`, JSON.
        evidence: Binary,
    },
    /// An authenticated report under the release's exported key: the volume's header pin after initialisation.
    Report {
        /// Ciphertext; `lambda_crypto` defines the plaintext.
        sealed: Binary,
    },
}

/// Broker to guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToGuest {
    /// Prove it.
    Challenge(Challenge),
    /// The secrets, once.
    Release {
        /// HPKE `enc`: the encapsulated key, 32 bytes.
        encapsulated_key: Binary,
        /// HPKE ciphertext of the instance's secrets.
        ciphertext: Binary,
        /// SHA-256 of the policy that the verdict was given under; part of the HPKE `info`.
        policy_hash: Binary,
        /// The nonce of the challenge that was answered; part of the HPKE `info`.
        nonce: Binary,
    },
    /// The evidence was refused.
    Refused {
        /// Ids of the checks that failed, for the customer's own eyes in the guest's last report; no secret.
        failed_checks: Vec<String>,
    },
    /// The report was stored.
    Acknowledge {
        /// Ciphertext under the release's exported key.
        sealed: Binary,
    },
}
