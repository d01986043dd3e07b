//! A TPM quote by itself, and certificates of TPM keys by themselves: for inspection only.
//!
//! Nothing here proves that the attestation key lives in a TPM, unless somebody's certificate says so; and nobody's word but
//! that of a root that lies beside the evidence counts for it. Evidence that a key may be released on is
//! [`crate::TpmEvidence`], which answers a challenge.
//!
//! Quotes of the SHA-1 bank are compared as they are. The signature over them never is SHA-1, but the registers in them are
//! worth no more than SHA-1, which the outcome says.

mod chain;
pub mod checks;
mod paravisor;
mod signature;
#[cfg(test)]
mod tests;

use lambda_tpm::quote::MAGIC;
use lambda_tpm::{Quote, Signature, alg};
use serde_json::json;

use crate::appraise::{Appraised, Context};
use crate::checks::{POLICY_TEE, Recorder};
use crate::error::ParseError;
use crate::eventlog::{EventKind, EventLog, Grounding, bank_name};
use crate::evidence::{Registers, TpmQuoteEvidence};
use crate::pki::PublicKey;
use crate::verdict::{Assurance, Claims};
use chain::Certified;
use checks::*;

const PRODUCT: &str = "TPM 2.0 quote";

/// Most PCRs of one bank.
const PCR_COUNT: u8 = 24;

/// Whether the quote and its signature have their structure. A structure of another type is readable, and refused.
pub(crate) fn readable(evidence: &TpmQuoteEvidence) -> Result<(), ParseError> {
    let attest = evidence.attest.as_slice();
    let is_quote = attest.get(4..6) == Some(&lambda_tpm::quote::TYPE_QUOTE.to_be_bytes());
    match Quote::parse(attest) {
        Err(error) if is_quote || attest.len() < 6 => Err(ParseError::whole("TPMS_ATTEST", error.to_string())),
        _ => Signature::parse(evidence.signature.as_slice())
            .map(drop)
            .map_err(|error| ParseError::whole("TPMT_SIGNATURE", error.to_string())),
    }
}

/// Judges a quote, or certificates.
pub(crate) fn check(evidence: &TpmQuoteEvidence, context: &Context<'_>, recorder: &mut Recorder) -> Appraised {
    if context.given.is_none() {
        let why = "no policy accepts a quote whose key answered no challenge: a guest's evidence is of another kind";
        recorder.record(&POLICY_TEE, Err(why.into()));
    }
    let mut claims = Claims::new();
    let quotes = !context.given.is_some_and(|given| given.certificates_only);
    let certified = chain::check(evidence, quotes, context, &mut claims, recorder);
    let anchored = certified.as_ref().is_some_and(|certified| certified.anchored);
    let bare = evidence.ak.as_ref().and_then(|ak| PublicKey::from_spki(ak.as_slice()));
    let key = certified.as_ref().and_then(|certified| certified.key.clone()).or(bare);
    paravisor::check(evidence.paravisor.as_ref(), key.as_ref(), context, &mut claims, recorder);
    if quotes {
        check_quote(evidence, certified, context, &mut claims, recorder);
    } else {
        for info in OF_THE_QUOTE {
            recorder.not_applicable(info, "there are certificates and no quote");
        }
    }
    Appraised {
        product: PRODUCT.into(),
        claims,
        tier: if anchored { Assurance::Platform } else { Assurance::Unanchored },
        image: None,
        clock: None,
        checks: TPM_QUOTE,
    }
}

fn check_quote(
    evidence: &TpmQuoteEvidence,
    certified: Option<Certified>,
    context: &Context<'_>,
    claims: &mut Claims,
    recorder: &mut Recorder,
) {
    let attest = evidence.attest.as_slice();
    let quote = match Quote::parse(attest) {
        Ok(quote) => quote,
        Err(error) => {
            recorder.record(&TPM_QUOTE_STRUCTURE, Err(error.to_string()));
            return;
        }
    };
    recorder.record(&TPM_QUOTE_STRUCTURE, Ok("the attestation is a complete quote".into()));
    recorder.require(
        &TPM_QUOTE_MAGIC,
        quote.magic == MAGIC,
        "the attestation was made by a TPM",
        "the attestation does not start with TPM_GENERATED_VALUE: no TPM made it",
    );
    claim(&quote, claims);
    let key = attestation_key(evidence, certified, context);
    let signature = Signature::parse(evidence.signature.as_slice()).map_err(|error| error.to_string());
    if let Ok(signature) = &signature {
        let (scheme, hash) = signature::names(signature);
        claims.insert("signature_scheme".into(), json!(scheme));
        claims.insert("quote_hash".into(), json!(hash));
    }
    if let Ok(key) = &key {
        let signed = signature.as_ref().map_err(Clone::clone);
        let signed = signed.and_then(|signature| signature::is_signed(attest, signature, key));
        recorder.record(&TPM_QUOTE_SIGNATURE, signed.map(|()| "the attestation key signed the quote".into()));
    }
    recorder.record(&TPM_QUOTE_KEY, key.map(|_| "the attestation key is of a kind that is understood".into()));
    context.demand.check(&TPM_QUOTE_NONCE, &quote.extra_data, recorder);
    check_registers(&quote, signature.ok().as_ref(), &evidence.pcrs, recorder);
    match &evidence.event_log {
        Some(log) => check_log(log.as_slice(), &quote, &evidence.pcrs, recorder),
        None => {
            for info in [&TPM_QUOTE_LOG_STRUCTURE, &TPM_QUOTE_LOG_REPLAY, &TPM_QUOTE_LOG_DIGESTS] {
                recorder.not_applicable(info, "there is no event log");
            }
        }
    }
}

/// The certified key, else the one that came with the quote, else one that lies beside it. If there are several they have
/// to be one.
fn attestation_key(
    evidence: &TpmQuoteEvidence,
    certified: Option<Certified>,
    context: &Context<'_>,
) -> Result<PublicKey, String> {
    let given = context.given.and_then(|given| given.keys.first()).map(Vec::as_slice);
    let bare = evidence.ak.as_ref().map(|ak| ak.as_slice()).or(given);
    let key = match (certified, bare) {
        (Some(certified), Some(bare)) if certified.spki != bare => {
            return Err("the certificate is for another key than the one that is given".into());
        }
        (Some(certified), _) => certified.key,
        (None, Some(bare)) => PublicKey::from_spki(bare),
        (None, None) => return Err("there is no attestation key: add its public key or certificate".into()),
    };
    match key {
        Some(key @ (PublicKey::Rsa(_) | PublicKey::P256(_))) => Ok(key),
        Some(PublicKey::P384(_)) | None => Err("the attestation key is neither RSA nor on P-256".into()),
    }
}

fn check_registers(quote: &Quote, signature: Option<&Signature>, pcrs: &Registers, recorder: &mut Recorder) {
    let values = match quoted_values(quote, pcrs) {
        Ok(values) => values,
        Err(why) => {
            recorder.record(&TPM_QUOTE_SELECTION, Err(why));
            return;
        }
    };
    recorder.record(&TPM_QUOTE_SELECTION, Ok(format!("{} PCRs are quoted and given", values.len())));
    let parts: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let digest = signature.and_then(|signature| signature::digest(signature::hash_of(signature), &parts));
    recorder.require(
        &TPM_QUOTE_PCR_DIGEST,
        digest.is_some_and(|digest| digest == quote.pcr_digest),
        "the given PCR values are the quoted ones",
        "the given PCR values are not the quoted ones",
    );
}

/// The given values of the quoted PCRs, in the order of the selection.
fn quoted_values(quote: &Quote, pcrs: &Registers) -> Result<Vec<Vec<u8>>, String> {
    let mut values = Vec::new();
    for bank in quote.selection.banks() {
        let name = bank_name(bank.hash);
        let len = alg::digest_len(bank.hash).ok_or_else(|| format!("bank {name} is of an unknown algorithm"))?;
        for index in bank.pcrs.iter().filter(|index| **index < PCR_COUNT) {
            let text = pcrs.get(&name).and_then(|registers| registers.get(index));
            let text = text.ok_or_else(|| format!("the value of PCR {index} of bank {name} is not given"))?;
            let value = hex::decode(text).ok().filter(|value| value.len() == len);
            values.push(value.ok_or_else(|| format!("PCR {index} of bank {name} is not a {name} digest in hex"))?);
        }
    }
    if values.is_empty() { Err("the quote covers no PCR at all".into()) } else { Ok(values) }
}

fn check_log(bytes: &[u8], quote: &Quote, pcrs: &Registers, recorder: &mut Recorder) {
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => {
            recorder.record(&TPM_QUOTE_LOG_STRUCTURE, Err(error.to_string()));
            return;
        }
    };
    let banks: Vec<u16> =
        quote.selection.banks().iter().map(|bank| bank.hash).filter(|bank| log.banks.contains(bank)).collect();
    let usable = !banks.is_empty() && log.events.iter().any(|event| event.kind != EventKind::NO_ACTION);
    recorder.require(
        &TPM_QUOTE_LOG_STRUCTURE,
        usable,
        "the event log has events of a quoted bank",
        "the event log has no events of a quoted bank",
    );
    if !usable {
        return;
    }
    recorder.record(&TPM_QUOTE_LOG_REPLAY, replays(&log, quote, pcrs));
    let contradicted = log.events.iter().find(|event| {
        event.kind != EventKind::NO_ACTION && banks.iter().any(|bank| event.grounding(*bank) == Grounding::Contradicted)
    });
    recorder.record(
        &TPM_QUOTE_LOG_DIGESTS,
        match contradicted {
            None => Ok("every digest that its data determines is the hash of that data".into()),
            Some(event) => Err(format!(
                "the {} at byte {} (PCR {}) carries a digest that is not the hash of its data",
                event.kind, event.offset, event.pcr
            )),
        },
    );
}

/// Every quoted PCR that the log extends, and none of PCRs 0 to 7 extended by something else.
fn replays(log: &EventLog, quote: &Quote, pcrs: &Registers) -> Result<String, String> {
    let mut explained = 0usize;
    let mut weak = "";
    for bank in quote.selection.banks() {
        let Some(replayed) = log.replay_for_reading(bank.hash) else { continue };
        let name = bank_name(bank.hash);
        if bank.hash == alg::SHA1 {
            weak = "; in SHA-1, which proves little";
        }
        for index in &bank.pcrs {
            let value =
                pcrs.get(&name).and_then(|registers| registers.get(index)).map(String::as_str).unwrap_or_default();
            match replayed.get(&u32::from(*index)) {
                Some(own) if value.eq_ignore_ascii_case(&hex::encode(own)) => explained = explained.saturating_add(1),
                Some(_) => return Err(format!("the event log does not give PCR {index} of bank {name}")),
                None if *index < 8 && value.bytes().any(|digit| digit != b'0') => {
                    return Err(format!("PCR {index} of bank {name} was extended, but by nothing in the event log"));
                }
                None => {}
            }
        }
    }
    if explained == 0 {
        return Err("the event log is about no quoted PCR".into());
    }
    Ok(format!("the event log explains {explained} quoted PCRs{weak}"))
}

fn claim(quote: &Quote, claims: &mut Claims) {
    let selection: Vec<_> =
        quote.selection.banks().iter().map(|bank| json!([bank_name(bank.hash), bank.pcrs])).collect();
    let named = [
        ("attest_type", json!(format!("{:#06x}", lambda_tpm::quote::TYPE_QUOTE))),
        ("measurement", json!(hex::encode(&quote.pcr_digest))),
        ("report_data", json!(hex::encode(&quote.extra_data))),
        ("pcr_selection", json!(selection)),
        ("clock", json!(quote.clock.clock)),
        ("reset_count", json!(quote.clock.reset_count)),
        ("restart_count", json!(quote.clock.restart_count)),
        ("safe", json!(u8::from(quote.clock.safe))),
        ("firmware_version", json!(format!("{:016x}", quote.firmware_version))),
        ("qualified_signer", json!(hex::encode(&quote.qualified_signer))),
    ];
    claims.extend(named.map(|(name, value)| (name.to_owned(), value)));
}
