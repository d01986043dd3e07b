//! The guest's side of the session with its customer's key broker ([`lambda_types::session`]), without I/O.
//!
//! ```text
//!   Hello ──Challenge──▶ Challenged(nonce) ──Release that opens──▶ Released ──Acknowledge(pin)──▶ Released
//!            ▲               │ Challenge: new nonce                    │ Challenge: new evidence
//!            └───────────────┘                                         └ Release: refused, never opened
//! ```
//!
//! Everything here comes from a relay that may drop, repeat, re-order and invent. A message whose number was seen is
//! ignored. The HPKE key is consumed by the one attempt to open a release, and the nonce by the same attempt: a release
//! that answers another challenge, instance, boot or policy ends the boot instead of being tried again.

use lambda_crypto::{GuestReportKeys, InstanceSecrets, ReleaseContext, ReleaseKey, Report, release};
use lambda_types::guest::FailureReason;
use lambda_types::session::{Challenge, FromGuest, Hello, PROTOCOL, ToGuest, TpmIdentity};
use lambda_types::{BootId, InstanceId};
use zeroize::Zeroizing;

use crate::failure::{Because, Failure};

/// Bytes of a challenge's nonce.
const NONCE_BYTES: usize = 32;

/// Makes evidence.
pub trait Attester {
    /// `lambda_attest::Evidence` as JSON, for this challenge and these claims.
    ///
    /// # Errors
    /// When the hardware or the challenge is not usable.
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure>;
}

/// What a message from the broker led to.
pub enum Outcome {
    /// Nothing to do.
    Ignored,
    /// Send this message.
    Reply(FromGuest),
    /// The secrets are here.
    Released(Box<InstanceSecrets>),
    /// The broker stored this pin.
    Acknowledged([u8; 32]),
}

enum Stage {
    Hello(ReleaseKey),
    Challenged(ReleaseKey, [u8; NONCE_BYTES]),
    Released(Option<GuestReportKeys>),
}

/// One boot's session.
pub struct Session {
    hello: Hello,
    stage: Stage,
    last_read: u64,
}

impl Session {
    /// A session for a fresh boot with fresh keys.
    #[must_use]
    pub fn new(
        instance: InstanceId,
        boot: BootId,
        key: ReleaseKey,
        ssh_host_key: Vec<u8>,
        tpm: Option<TpmIdentity>,
    ) -> Self {
        let hello = Hello {
            protocol: PROTOCOL,
            instance,
            boot,
            hpke_public: key.public().to_vec().into(),
            ssh_host_key: ssh_host_key.into(),
            tpm,
        };
        Self { hello, stage: Stage::Hello(key), last_read: 0 }
    }

    /// Goes on after the hand-over: challenges are answered, releases are not.
    #[must_use]
    pub fn resumed(hello: Hello, last_read: u64) -> Self {
        Self { hello, stage: Stage::Released(None), last_read }
    }

    /// What this guest claims.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Number of the last broker message that was acted upon.
    #[must_use]
    pub fn last_read(&self) -> u64 {
        self.last_read
    }

    /// Takes the broker's message `seq`.
    ///
    /// # Errors
    /// When the boot must end: the evidence was refused, the release does not open, the vTPM fails.
    pub fn handle(&mut self, seq: u64, body: &[u8], attester: &mut dyn Attester) -> Result<Outcome, Failure> {
        if seq <= self.last_read {
            return Ok(Outcome::Ignored);
        }
        self.last_read = seq;
        match serde_json::from_slice(body) {
            Ok(ToGuest::Challenge(challenge)) => self.challenge(&challenge, attester),
            Ok(ToGuest::Release { encapsulated_key, ciphertext, policy_hash, nonce }) => {
                self.release(&encapsulated_key.0, &ciphertext.0, &policy_hash.0, &nonce.0)
            }
            Ok(ToGuest::Refused { failed_checks }) => self.refused(&failed_checks),
            Ok(ToGuest::Acknowledge { sealed }) => Ok(self.acknowledge(&sealed.0)),
            Err(_) => Ok(Outcome::Ignored),
        }
    }

    fn challenge(&mut self, challenge: &Challenge, attester: &mut dyn Attester) -> Result<Outcome, Failure> {
        let Ok(nonce) = <[u8; NONCE_BYTES]>::try_from(challenge.nonce.as_slice()) else {
            return Ok(Outcome::Ignored);
        };
        let evidence = attester.attest(&self.hello, challenge)?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Released(None)) {
            Stage::Hello(key) | Stage::Challenged(key, _) => Stage::Challenged(key, nonce),
            released @ Stage::Released(_) => released,
        };
        Ok(Outcome::Reply(FromGuest::Evidence { hello: self.hello.clone(), evidence: evidence.into() }))
    }

    fn release(&mut self, enc: &[u8], ciphertext: &[u8], policy: &[u8], nonce: &[u8]) -> Result<Outcome, Failure> {
        let reason = FailureReason::ReleaseInvalid;
        let (key, expected) = match std::mem::replace(&mut self.stage, Stage::Released(None)) {
            Stage::Challenged(key, expected) => (key, expected),
            Stage::Hello(_) => return Err(Failure::new(reason, "a release came before any challenge")),
            released @ Stage::Released(_) => {
                self.stage = released;
                return Ok(Outcome::Ignored);
            }
        };
        if nonce != expected {
            return Err(Failure::new(reason, "the release answers another challenge"));
        }
        let policy_hash = policy.try_into().because(reason, "policy hash")?;
        let context =
            ReleaseContext { policy_hash, instance: self.hello.instance, boot: self.hello.boot, nonce: expected };
        let (secrets, reports) = release::open(key, enc, ciphertext, &context).because(reason, "release")?;
        self.stage = Stage::Released(Some(reports));
        Ok(Outcome::Released(Box::new(secrets)))
    }

    /// Only a guest that still waits gives up: a refused re-attestation is the customer's to act upon.
    fn refused(&self, failed_checks: &[String]) -> Result<Outcome, Failure> {
        match self.stage {
            Stage::Released(_) => Ok(Outcome::Ignored),
            Stage::Hello(_) | Stage::Challenged(..) => {
                let checks: Vec<&str> = failed_checks.iter().take(16).map(String::as_str).collect();
                Err(Failure::new(FailureReason::ReleaseRefused, format!("failed checks: {}", checks.join(", "))))
            }
        }
    }

    /// Anyone on the way can invent an acknowledgement; one that does not open changes nothing.
    fn acknowledge(&mut self, sealed: &[u8]) -> Outcome {
        match &mut self.stage {
            Stage::Released(Some(reports)) => reports
                .open_acknowledge(sealed)
                .map_or(Outcome::Ignored, |acknowledge| Outcome::Acknowledged(acknowledge.header_pin)),
            _ => Outcome::Ignored,
        }
    }

    /// The sealed report of a new header pin.
    ///
    /// # Errors
    /// When nothing was released.
    pub fn report(&mut self, header_pin: [u8; 32]) -> Result<FromGuest, Failure> {
        let reason = FailureReason::PinUnacknowledged;
        match &mut self.stage {
            Stage::Released(Some(reports)) => {
                let sealed = reports.seal_report(Report::Initialised { header_pin }).because(reason, "report")?;
                Ok(FromGuest::Report { sealed: sealed.into() })
            }
            _ => Err(Failure::new(reason, "nothing was released")),
        }
    }
}

/// The SSH host key of this boot.
pub struct SshHostKey {
    /// OpenSSH private key file.
    pub private: Zeroizing<String>,
    /// Public key in wire format.
    pub public: Vec<u8>,
}

impl SshHostKey {
    /// A fresh ed25519 key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, Failure> {
        let reason = FailureReason::Channel;
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice()).because(reason, "randomness")?;
        let key = ssh_key::PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&seed));
        let private = key.to_openssh(ssh_key::LineEnding::LF).because(reason, "ssh host key")?;
        let public = key.public_key().to_bytes().because(reason, "ssh host key")?;
        Ok(Self { private, public })
    }
}

#[cfg(test)]
mod tests;
