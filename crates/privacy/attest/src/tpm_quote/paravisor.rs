//! The report of a paravisor that implements a confidential VM's vTPM (Azure's HCL report): what vouches for the attestation
//! key where no certificate does.
//!
//! ```text
//!   "HCLA" and 28 bytes | hardware report, 1184 bytes | size, version, type, hash, length | runtime data (JSON)
//!                         report data = hash(runtime data) ‖ zeros                          keys: HCLAkPub = attestation key
//! ```
//!
//! The tier of the quote does not rise by it: a paravisor is as good as its measurement, of which an inspection expects
//! nothing.

use lambda_types::Binary;
use rsa::traits::PublicKeyParts as _;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::checks::*;
use crate::appraise::{Context, Demand, appraise, readable};
use crate::checks::Recorder;
use crate::evidence::{ParavisorEvidence, Report, SnpEvidence, TdxEvidence};
use crate::pki::PublicKey;
use crate::policy::Policy;
use crate::verdict::{Claims, Outcome};

const SIGNATURE: &[u8] = b"HCLA";
const HEADER_BYTES: usize = 32;
const REPORT_BYTES: usize = 1184;
const SNP: u32 = 2;
const TDX: u32 = 4;
/// Where REPORT_DATA stands in an SNP report, and REPORTDATA in a TDREPORT.
const SNP_REPORT_DATA: usize = 0x50;
const TD_REPORT_DATA: usize = 128;
/// Where REPORTDATA stands in a quote of version 4.
const QUOTE_REPORT_DATA: usize = 568;
/// Name of the attestation key among the runtime data's keys.
const ATTESTATION_KEY: &str = "HCLAkPub";

/// The report, taken apart.
struct HclReport<'a> {
    hardware: &'a [u8],
    kind: u32,
    hash: u32,
    runtime_data: &'a [u8],
}

#[derive(Deserialize)]
struct RuntimeData {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// Judges the paravisor's report, when there is one.
pub(super) fn check(
    evidence: Option<&ParavisorEvidence>,
    key: Option<&PublicKey>,
    context: &Context<'_>,
    claims: &mut Claims,
    recorder: &mut Recorder,
) {
    let Some(evidence) = evidence else {
        for info in OF_THE_PARAVISOR {
            recorder.not_applicable(info, "no paravisor vouches for the key");
        }
        return;
    };
    let report = match HclReport::read(evidence.report.as_slice()) {
        Ok(report) => report,
        Err(why) => {
            recorder.record(&TPM_QUOTE_PARAVISOR_STRUCTURE, Err(why.into()));
            return;
        }
    };
    recorder.record(&TPM_QUOTE_PARAVISOR_STRUCTURE, Ok(format!("a paravisor's report on {}", report.technology())));
    claims.insert("paravisor_hardware".into(), json!(report.technology()));
    recorder.record(&TPM_QUOTE_PARAVISOR_KEY, report.names(key));
    recorder.record(&TPM_QUOTE_PARAVISOR_BINDING, report.is_bound(evidence));
    match report.of_hardware(evidence, context) {
        Some(of_hardware) => {
            recorder.record(&TPM_QUOTE_PARAVISOR_HARDWARE, authentic(&of_hardware, context));
        }
        None => recorder.not_applicable(
            &TPM_QUOTE_PARAVISOR_HARDWARE,
            "nothing lies beside it that the hardware's report could be judged by: inspect it by itself",
        ),
    }
}

impl<'a> HclReport<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, &'static str> {
        if !bytes.starts_with(SIGNATURE) {
            return Err("the paravisor's report does not begin with HCLA");
        }
        let short = "the paravisor's report is cut short";
        let (_header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let (hardware, mut rest) = rest.split_at_checked(REPORT_BYTES).ok_or(short)?;
        let mut number = || -> Result<u32, &'static str> {
            let (number, after) = rest.split_first_chunk::<4>().ok_or(short)?;
            rest = after;
            Ok(u32::from_le_bytes(*number))
        };
        let (_size, _version, kind, hash, length) = (number()?, number()?, number()?, number()?, number()?);
        let length = usize::try_from(length).map_err(|_| short)?;
        let (runtime_data, unused) = rest.split_at_checked(length).ok_or(short)?;
        if ![SNP, TDX].contains(&kind) {
            return Err("the paravisor's report is on hardware that is not understood");
        }
        if unused.iter().any(|byte| *byte != 0) {
            return Err("something follows the paravisor's runtime data");
        }
        Ok(Self { hardware, kind, hash, runtime_data })
    }

    const fn technology(&self) -> &'static str {
        if self.kind == SNP { "AMD SEV-SNP" } else { "Intel TDX" }
    }

    /// Whether the runtime data names this attestation key, once.
    fn names(&self, key: Option<&PublicKey>) -> Result<String, String> {
        let data: RuntimeData = serde_json::from_slice(self.runtime_data)
            .map_err(|error| format!("the paravisor's runtime data cannot be read: {error}"))?;
        let mut named = data.keys.iter().filter(|key| key.kid == ATTESTATION_KEY);
        let (Some(jwk), None) = (named.next(), named.next()) else {
            return Err(format!("the paravisor's runtime data does not name one {ATTESTATION_KEY}"));
        };
        let Some(PublicKey::Rsa(key)) = key else {
            return Err("the paravisor names an RSA key, which the quote's key is not".into());
        };
        let same = |text: &str, number: Box<[u8]>| {
            let digits = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
            base64url(text).is_some_and(|bytes| digits(bytes.as_slice()) == digits(&number))
        };
        if same(&jwk.n, key.n().as_ref().to_be_bytes()) && same(&jwk.e, key.e().to_be_bytes()) {
            Ok("the paravisor names the attestation key".into())
        } else {
            Err("the paravisor names another attestation key than the one that signed the quote".into())
        }
    }

    /// Whether the hardware's report covers the runtime data, and a TD's quote too.
    fn is_bound(&self, evidence: &ParavisorEvidence) -> Result<String, String> {
        let hash: Vec<u8> = match self.hash {
            1 => Sha256::digest(self.runtime_data).to_vec(),
            2 => Sha384::digest(self.runtime_data).to_vec(),
            3 => Sha512::digest(self.runtime_data).to_vec(),
            other => return Err(format!("the paravisor's runtime data is hashed in an unknown way ({other})")),
        };
        let covers = |report: &[u8], at: usize| {
            let data = report.get(at..at.saturating_add(64)).and_then(|data| data.split_at_checked(hash.len()));
            data.is_some_and(|(bound, rest)| bound == hash && rest.iter().all(|byte| *byte == 0))
        };
        let at = if self.kind == SNP { SNP_REPORT_DATA } else { TD_REPORT_DATA };
        let quote = evidence.quote.as_ref().is_none_or(|quote| covers(quote.as_slice(), QUOTE_REPORT_DATA));
        if covers(self.hardware, at) && quote {
            Ok("the hardware's report covers the paravisor's runtime data".into())
        } else {
            Err("the hardware's report does not cover the paravisor's runtime data".into())
        }
    }

    /// The report that the hardware's vendor vouches for, when what judges it is there.
    fn of_hardware(&self, evidence: &ParavisorEvidence, context: &Context<'_>) -> Option<Report> {
        if self.kind == SNP {
            let certificates = evidence.certificates.clone();
            let has_none = certificates.is_empty() && context.endorsements.collateral.amd.is_none();
            return (!has_none)
                .then(|| Report::Snp(SnpEvidence { report: Binary(self.hardware.to_vec()), certificates }));
        }
        let quote = evidence.quote.clone().filter(|_| !context.endorsements.collateral.intel.is_empty())?;
        Some(Report::Tdx(TdxEvidence { quote, event_log: None }))
    }
}

/// The default appraisal of the hardware's report. What was asked, the TPM answers; the report's user data is the runtime data's.
fn authentic(report: &Report, context: &Context<'_>) -> Result<String, String> {
    readable(report).map_err(|error| error.to_string())?;
    let mut recorder = Recorder::default();
    let Context { endorsements, given, instance, now, .. } = *context;
    let context = Context { demand: Demand::Nothing, endorsements, given, instance, now };
    let appraised = appraise(report, &Policy::default_appraisal(), &context, &mut recorder);
    let checks = recorder.finish(appraised.checks);
    let failed: Vec<&str> =
        checks.iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id.as_str()).collect();
    if failed.is_empty() {
        Ok(format!("the hardware's report is authentic: {}", appraised.product))
    } else {
        Err(format!("the hardware's report fails {}", failed.join(", ")))
    }
}

/// Base64 as JSON Web Keys have it (RFC 7515 §2).
fn base64url(text: &str) -> Option<Binary> {
    let mut padded = text.replace('-', "+").replace('_', "/");
    while !padded.len().is_multiple_of(4) {
        padded.push('=');
    }
    serde_json::from_value(serde_json::Value::String(padded)).ok()
}
