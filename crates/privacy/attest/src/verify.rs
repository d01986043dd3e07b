use lambda_types::shape::Shape;
use lambda_types::{BootId, ImageId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::appraise::{Appraised, Context, Demand, Endorsements, appraise, check_tier, readable};
use crate::challenge::Outstanding;
use crate::checks::{self, Recorder};
use crate::error::ParseError;
use crate::evidence::{Binding, Evidence, Report, binding_claims, is_ssh_ed25519, report_data};
use crate::policy::{Matched, Policy};
use crate::time::UnixTime;
use crate::tpm;
use crate::verdict::Verdict;

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
    /// To be kept for the next evidence of this instance, when it has a TPM.
    pub clock: Option<TpmClock>,
}

/// Judges a guest's evidence. Every check of its kind is in the verdict, whatever the evidence looks like.
#[must_use]
pub fn verify(
    evidence: &Evidence,
    expected: &Expectation<'_>,
    policy: &Policy,
    endorsements: &Endorsements<'_>,
    now: UnixTime,
) -> Judgement {
    let mut recorder = Recorder::default();
    let hpke_public = check_binding(&evidence.binding, expected, &mut recorder);
    let report_data = report_data(expected.outstanding.nonce(), &evidence.binding);
    let demand = Demand::ReportData(&report_data);
    let context = Context { demand, endorsements, given: None, instance: Some(expected.instance), now };
    let Appraised { product, mut claims, tier, image, clock, checks } = match &evidence.report {
        Report::Tpm(report) => {
            let context = tpm::Context { binding: &evidence.binding, expected, policy, now };
            tpm::check(report, &context, &mut recorder)
        }
        report => {
            let appraised = appraise(report, policy, &context, &mut recorder);
            recorder.record(&checks::POLICY_REFERENCE, recognised(appraised.image.as_ref()));
            appraised
        }
    };
    check_tier(tier, policy, &mut recorder);
    binding_claims(&evidence.binding, &mut claims);
    let list = checks::listed(&[checks::POLICY, checks::BINDING, checks]);
    let verdict = Verdict::new(evidence.report.tee(), tier, product, claims, recorder.finish(&list));
    let attested = match (image, hpke_public) {
        (Some(image), Some(hpke_public)) if verdict.accepted() => Some(Attested {
            instance: evidence.binding.instance,
            boot: evidence.binding.boot,
            hpke_public,
            ssh_host_key: evidence.binding.ssh_host_key.0.clone(),
            nonce: *expected.outstanding.nonce(),
            policy_hash: policy.hash(),
            image: image.image,
            shapes: image.shapes,
            clock,
        }),
        _ => None,
    };
    Judgement { verdict, attested }
}

/// Judges a bare hardware report under a policy. Gives a verdict and nothing that secrets could be released on.
///
/// `report_data` is what the report has to cover; without it the verdict is a rejection that says so. `instance` is the one
/// that a policy may demand the host data to name.
///
/// # Errors
/// When the report is not one at all; names the byte or field.
pub fn judge(
    report: &Report,
    report_data: Option<&[u8]>,
    instance: Option<InstanceId>,
    policy: &Policy,
    endorsements: &Endorsements<'_>,
    now: UnixTime,
) -> Result<Verdict, ParseError> {
    readable(report)?;
    let mut recorder = Recorder::default();
    let demand = report_data.map_or(Demand::Unsaid, Demand::ReportData);
    let context = Context { demand, endorsements, given: None, instance, now };
    let Appraised { product, claims, tier, checks, .. } = appraise(report, policy, &context, &mut recorder);
    check_tier(tier, policy, &mut recorder);
    let list = checks::listed(&[&[&checks::POLICY_TEE, &checks::POLICY_TIER], checks]);
    Ok(Verdict::new(report.tee(), tier, product, claims, recorder.finish(&list)))
}

fn recognised(image: Option<&Matched>) -> Result<String, String> {
    match image {
        Some(image) => Ok(format!("the measurement is that of {}", image.image)),
        None => Err("the measurement is of no image that the policy names, and secrets go to named images only".into()),
    }
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
