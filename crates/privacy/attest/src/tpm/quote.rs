//! The quote: who signed it, what it covers, and the TPM's counters.

use lambda_tpm::quote::MAGIC;
use lambda_tpm::{Public, Quote, Signature, alg};
use lambda_types::BootId;
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Keys, Pcrs};
use crate::challenge::Outstanding;
use crate::checks::{self, Recorder};
use crate::evidence::{Binding, TpmEvidence, activation_proof, report_data};
use crate::policy::{FirmwareRule, Policy};
use crate::verdict::Claims;
use crate::verify::TpmClock;

/// Checks that need nothing but the evidence: structure, signature, signer, selection, digest.
pub(super) fn check_authenticity(
    report: &TpmEvidence,
    keys: &Keys,
    pcrs: Option<&Pcrs>,
    recorder: &mut Recorder,
) -> Option<Quote> {
    let attest = report.attest.as_slice();
    let quote = match Quote::parse(attest) {
        Ok(quote) => quote,
        Err(error) => {
            recorder.record(&checks::QUOTE_STRUCTURE, Err(format!("the quote cannot be read: {error}")));
            return None;
        }
    };
    recorder.record(&checks::QUOTE_STRUCTURE, Ok("the attestation is a complete quote".into()));
    recorder.require(
        &checks::QUOTE_MAGIC,
        quote.magic == MAGIC,
        "the attestation was made by a TPM",
        "the attestation does not start with TPM_GENERATED_VALUE: no TPM made it",
    );
    recorder.require(
        &checks::QUOTE_SIGNATURE,
        keys.ak.as_ref().is_some_and(|ak| is_signed(attest, report.signature.as_slice(), ak)),
        "the attestation key signed the quote",
        "the attestation key did not sign this quote",
    );
    let qualified = keys.ak.as_ref().and_then(|ak| ak.qualified_name_under(lambda_tpm::command::ENDORSEMENT).ok());
    recorder.require(
        &checks::QUOTE_SIGNER,
        qualified.is_some_and(|name| name == quote.qualified_signer),
        "the quote names the attestation key as its signer",
        "the quote names another key as its signer",
    );
    recorder.require(
        &checks::QUOTE_SELECTION,
        quote.selection.is_lambda(),
        "PCRs 0-7 and 9 of the SHA-256 bank are quoted",
        "the quote does not cover exactly PCRs 0-7 and 9 of the SHA-256 bank",
    );
    check_pcr_digest(&quote, pcrs, recorder);
    Some(quote)
}

fn is_signed(attest: &[u8], signature: &[u8], ak: &Public) -> bool {
    let Ok(Signature::EcdsaP256 { hash: alg::SHA256, r, s }) = Signature::parse(signature) else { return false };
    let Ok(signature) = p256::ecdsa::Signature::from_scalars(r, s) else { return false };
    let Some(key) = ak.p256_sec1().and_then(|point| VerifyingKey::from_sec1_bytes(&point).ok()) else { return false };
    key.verify(attest, &signature).is_ok()
}

fn check_pcr_digest(quote: &Quote, pcrs: Option<&Pcrs>, recorder: &mut Recorder) {
    let matches = pcrs.is_some_and(|pcrs| {
        let mut hash = Sha256::new();
        // In ascending order, which is the selection's.
        pcrs.values().for_each(|value| hash.update(value));
        pcrs.keys().eq(lambda_tpm::LAMBDA_PCRS.iter()) && hash.finalize().as_slice() == quote.pcr_digest
    });
    recorder.require(
        &checks::QUOTE_PCR_DIGEST,
        matches,
        "the PCR values are the quoted ones",
        "the PCR values in the evidence are not the quoted ones",
    );
}

/// Checks that the quote answers this challenge with these keys.
pub(super) fn check_challenge(
    report: &TpmEvidence,
    quote: Option<&Quote>,
    binding: &Binding,
    outstanding: &Outstanding,
    recorder: &mut Recorder,
) {
    let wanted = report_data(outstanding.nonce(), binding);
    if let Some(quote) = quote {
        recorder.require(
            &checks::QUOTE_REPORT_DATA,
            quote.extra_data == wanted,
            "the quote covers this challenge, instance, boot and these keys",
            "the quote answers another challenge, or covers another instance, boot, HPKE key or SSH host key",
        );
    }
    let identity = &report.identity;
    let proof = activation_proof(outstanding.secret(), &wanted);
    recorder.record(
        &checks::AK_ACTIVATION,
        if !outstanding.was_for(identity.ek_public.as_slice(), identity.ak_public.as_slice()) {
            Err("the credential was made for other keys than the evidence presents".into())
        } else if bool::from(proof.as_slice().ct_eq(report.activation_proof.as_slice())) {
            Ok("the TPM with the certified endorsement key holds the attestation key".into())
        } else {
            Err("the TPM did not open the credential: the attestation key is not proven to be in it".into())
        },
    );
}

/// Checks the counters against the last evidence that was accepted from this instance.
pub(super) fn check_clock(
    quote: &Quote,
    keys: &Keys,
    boot: BootId,
    previous: Option<&TpmClock>,
    recorder: &mut Recorder,
) -> Option<TpmClock> {
    let ak_name = hex::encode(keys.ak.as_ref()?.name().ok()?);
    let clock = quote.clock;
    recorder.record(
        &checks::CLOCK_RESTART,
        match clock.restart_count {
            0 => Ok("the TPM was reset for this boot".into()),
            count => Err(format!("the TPM was resumed {count} times from a saved state since its reset")),
        },
    );
    let seen = TpmClock {
        ak_name,
        boot,
        reset_count: clock.reset_count,
        restart_count: clock.restart_count,
        clock: clock.clock,
    };
    let Some(previous) = previous else {
        let why = "this is the first evidence of this instance that is judged here";
        recorder.not_applicable(&checks::CLOCK_SAME_TPM, why);
        recorder.not_applicable(&checks::CLOCK_MONOTONIC, why);
        return Some(seen);
    };
    recorder.require(
        &checks::CLOCK_SAME_TPM,
        seen.ak_name == previous.ak_name,
        "the instance has the TPM that it had before",
        "the instance has another TPM than it had before: its old one was lost, or the evidence is another machine's",
    );
    recorder.record(&checks::CLOCK_MONOTONIC, moved_on(previous, &seen, clock.safe));
    Some(seen)
}

fn moved_on(previous: &TpmClock, seen: &TpmClock, safe: bool) -> Result<String, String> {
    let TpmClock { reset_count: before, .. } = *previous;
    let now = seen.reset_count;
    if seen.boot == previous.boot {
        if now != before {
            return Err(format!("the TPM was reset within one boot: resetCount {before}, now {now}"));
        }
        if seen.clock < previous.clock {
            return Err(format!("the TPM's clock ran backwards: {} ms, now {} ms", previous.clock, seen.clock));
        }
        return Ok("no reset since the last evidence of this boot".into());
    }
    if now <= before {
        return Err(format!(
            "another boot, but the TPM counts no further reset (resetCount {before}, now {now}): its state was rolled \
             back, or the boot is an old one"
        ));
    }
    // The clock may fall behind after a power loss without shutdown; the TPM then says that it is not safe.
    if safe && seen.clock < previous.clock {
        return Err(format!("the TPM's clock ran backwards: {} ms, now {} ms", previous.clock, seen.clock));
    }
    Ok(format!("resetCount went from {before} to {now}"))
}

/// Checks the TPM's firmware version against the policy.
pub(super) fn check_firmware_version(quote: Option<&Quote>, policy: &Policy, recorder: &mut Recorder) {
    let (Some(quote), Some(tpm)) = (quote, &policy.tpm) else { return };
    let version = format!("{:016x}", quote.firmware_version);
    recorder.record(
        &checks::FIRMWARE_VERSION,
        match &tpm.firmware_version {
            Some(FirmwareRule::Any) => Ok(format!("version {version}; the policy allows any")),
            Some(FirmwareRule::OneOf(allowed)) if allowed.contains(&version) => {
                Ok(format!("version {version} is one that the policy allows"))
            }
            Some(FirmwareRule::OneOf(_)) => Err(format!("version {version} is not one that the policy allows")),
            None => Err("the policy does not say which TPM firmware versions are good enough: add \
                         `tpm.firmware_version`"
                .into()),
        },
    );
}

/// What the quote says.
pub(super) fn claim(quote: &Quote, claims: &mut Claims) {
    claims.insert("measurement".into(), json!(hex::encode(&quote.pcr_digest)));
    claims.insert("report_data".into(), json!(hex::encode(&quote.extra_data)));
    claims.insert("firmware_version".into(), json!(format!("{:016x}", quote.firmware_version)));
    claims.insert("reset_count".into(), json!(quote.clock.reset_count));
    claims.insert("restart_count".into(), json!(quote.clock.restart_count));
    claims.insert("clock".into(), json!(quote.clock.clock));
    claims.insert("safe".into(), json!(quote.clock.safe));
}
