use lambda_types::shape::Shape;
use lambda_types::{BootId, ImageId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::challenge::Outstanding;
use crate::checks::{self, Recorder};
use crate::evidence::{Binding, Evidence, Report, is_ssh_ed25519};
use crate::policy::Policy;
use crate::time::UnixTime;
use crate::tpm;
use crate::verdict::{Tee, Verdict, tier_statement};

/// What the evidence has to answer.
pub struct Expectation<'a> {
    /// The instance that was asked.
    pub instance: InstanceId,
    /// The boot that was asked.
    pub boot: BootId,
    /// The challenge that was sent.
    pub outstanding: &'a Outstanding,
    /// The clock of this instance's TPM in the last accepted evidence, when there was any.
    pub previous: Option<&'a TpmClock>,
}

/// A TPM's counters in accepted evidence. Kept by the customer, so that rolled-back state is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmClock {
    /// Name of the attestation key, hex.
    pub ak_name: String,
    /// The boot whose evidence this was.
    pub boot: BootId,
    /// resetCount.
    pub reset_count: u32,
    /// restartCount.
    pub restart_count: u32,
    /// Milliseconds.
    pub clock: u64,
}

/// A verdict, and what it established when it is accepted.
#[derive(Debug)]
pub struct Judgement {
    /// For people and records.
    pub verdict: Verdict,
    /// For code: present only when the verdict is accepted.
    pub attested: Option<Attested>,
}

/// What accepted evidence established. Nothing but an accepted verdict makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attested {
    /// The instance.
    pub instance: InstanceId,
    /// Its boot.
    pub boot: BootId,
    /// Where secrets may be sent: an X25519 public key inside the guest.
    pub hpke_public: [u8; 32],
    /// The guest's SSH host key, wire format.
    pub ssh_host_key: Vec<u8>,
    /// The nonce that was answered.
    pub nonce: [u8; 32],
    /// The policy it was judged under.
    pub policy_hash: [u8; 32],
    /// The image that booted.
    pub image: ImageId,
    /// In which shape. More than one where the measurements do not tell them apart: from 2 GiB up, memory is not measured.
    pub shapes: Vec<Shape>,
    /// To be kept for the next evidence of this instance.
    pub clock: TpmClock,
}

/// Judges evidence. Every check of [`checks::TPM`] is in the verdict, whatever the evidence looks like.
#[must_use]
pub fn verify(evidence: &Evidence, expected: &Expectation<'_>, policy: &Policy, now: UnixTime) -> Judgement {
    let mut recorder = Recorder::default();
    let hpke_public = check_binding(&evidence.binding, expected, &mut recorder);
    match &evidence.report {
        Report::Tpm(report) => {
            check_tier(Tee::Tpm, policy, &mut recorder);
            let context = tpm::Context { binding: &evidence.binding, expected, policy, now };
            let (established, claims) = tpm::check(report, &context, &mut recorder);
            let verdict = Verdict::new(Tee::Tpm, tpm::PRODUCT, claims, recorder.finish(checks::TPM));
            let attested = match (established, hpke_public) {
                (Some(established), Some(hpke_public)) if verdict.accepted() => Some(Attested {
                    instance: evidence.binding.instance,
                    boot: evidence.binding.boot,
                    hpke_public,
                    ssh_host_key: evidence.binding.ssh_host_key.0.clone(),
                    nonce: *expected.outstanding.nonce(),
                    policy_hash: policy.hash(),
                    image: established.image,
                    shapes: established.shapes,
                    clock: established.clock,
                }),
                _ => None,
            };
            Judgement { verdict, attested }
        }
    }
}

fn check_tier(tee: Tee, policy: &Policy, recorder: &mut Recorder) {
    let tier = tee.tier();
    recorder.record(
        &checks::POLICY_TIER,
        match policy.minimum_tier {
            Some(minimum) if tier >= minimum => {
                Ok(format!("the policy demands {minimum} or better. {}", tier_statement(tier)))
            }
            Some(minimum) => Err(format!("tier {tier}, but the policy demands {minimum}")),
            None => Err("the policy does not say which tier is good enough: add `minimum_tier`".into()),
        },
    );
}

fn check_binding(binding: &Binding, expected: &Expectation<'_>, recorder: &mut Recorder) -> Option<[u8; 32]> {
    recorder.record(
        &checks::BINDING_INSTANCE,
        if binding.instance == expected.instance {
            Ok(format!("the evidence is of {}", binding.instance))
        } else {
            Err(format!("the evidence is of {}, not of {}", binding.instance, expected.instance))
        },
    );
    recorder.record(
        &checks::BINDING_BOOT,
        if binding.boot == expected.boot {
            Ok(format!("the evidence is of {}", binding.boot))
        } else {
            Err(format!("the evidence is of {}, not of {}", binding.boot, expected.boot))
        },
    );
    // The all-zero point makes the shared secret known to everyone.
    let hpke_public = <[u8; 32]>::try_from(binding.hpke_public.as_slice()).ok().filter(|key| *key != [0; 32]);
    recorder.require(
        &checks::BINDING_HPKE,
        hpke_public.is_some(),
        "the key for secrets is an X25519 public key",
        "the key for secrets is not 32 bytes of X25519 public key",
    );
    recorder.require(
        &checks::BINDING_SSH,
        is_ssh_ed25519(binding.ssh_host_key.as_slice()),
        "the SSH host key is an Ed25519 key",
        "the SSH host key is not an Ed25519 key in OpenSSH wire format",
    );
    hpke_public
}
