//! TDX and SGX quotes: Lambda's verifier and the crate dcap-qvl.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use dcap_qvl::QuoteCollateralV3;
use lambda_attest::{
    Anchors, Collateral, Endorsements, Given, Inspection, IntelCollateral, ParseError, Report, SgxEvidence,
    TdxEvidence, UnixTime, inspect,
};
use serde_json::value::RawValue;

use crate::fixtures::Fixture;
use crate::outcome::Outcome;

/// What the default appraisal lets pass; dcap-qvl leaves the choice to its caller.
const GOOD_STATUS: [&str; 4] =
    ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"];

/// A quote with its collateral, as Lambda takes them.
#[derive(Clone)]
pub struct Quote {
    /// The quote.
    pub quote: Vec<u8>,
    /// Of a trust domain, not of an enclave.
    pub tdx: bool,
    /// Intel's documents.
    pub collateral: IntelCollateral,
    /// When to judge it.
    pub now: UnixTime,
}

/// dcap-qvl's backends.
#[derive(Clone, Copy)]
pub enum Backend {
    /// Its default: assembly and C.
    Ring,
    /// Rust, as Lambda's.
    RustCrypto,
}

impl Quote {
    /// Reads one with its collateral.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn of(fixture: &Fixture) -> Result<Self> {
        Ok(Self {
            quote: fixture.read("quote.bin")?,
            tdx: fixture.name.starts_with("tdx/"),
            collateral: IntelCollateral {
                tcb_info: fixture.text("tcb_info.json")?,
                tcb_info_issuer_chain: fixture.text("tcb_info_issuer_chain.pem")?,
                qe_identity: fixture.text("qe_identity.json")?,
                qe_identity_issuer_chain: fixture.text("qe_identity_issuer_chain.pem")?,
                pck_crl: fixture.read("pck_crl.der")?.into(),
                pck_crl_issuer_chain: fixture.text("pck_crl_issuer_chain.pem")?,
                root_ca_crl: fixture.read("root_ca_crl.der")?.into(),
                pck_certificate_chain: None,
            },
            now: fixture.now,
        })
    }

    /// The report as Lambda takes it.
    #[must_use]
    pub fn report(&self) -> Report {
        let quote = self.quote.clone().into();
        if self.tdx { Report::Tdx(TdxEvidence { quote, event_log: None }) } else { Report::Sgx(SgxEvidence { quote }) }
    }

    /// The collateral as Lambda takes it.
    #[must_use]
    pub fn endorsed(&self) -> Collateral {
        Collateral { intel: vec![self.collateral.clone()], ..Collateral::none() }
    }

    /// The collateral as dcap-qvl takes it: body and signature of Intel's documents apart.
    ///
    /// # Errors
    /// When a document is not of Intel's form.
    pub fn foreign_collateral(&self) -> Result<QuoteCollateralV3> {
        let ours = &self.collateral;
        let (tcb_info, tcb_info_signature) = split(&ours.tcb_info, "tcbInfo")?;
        let (qe_identity, qe_identity_signature) = split(&ours.qe_identity, "enclaveIdentity")?;
        Ok(QuoteCollateralV3 {
            pck_crl_issuer_chain: ours.pck_crl_issuer_chain.clone(),
            root_ca_crl: ours.root_ca_crl.as_slice().to_vec(),
            pck_crl: ours.pck_crl.as_slice().to_vec(),
            tcb_info_issuer_chain: ours.tcb_info_issuer_chain.clone(),
            tcb_info,
            tcb_info_signature,
            qe_identity_issuer_chain: ours.qe_identity_issuer_chain.clone(),
            qe_identity,
            qe_identity_signature,
            pck_certificate_chain: None,
        })
    }

    /// What Lambda's verifier says.
    #[must_use]
    pub fn ours(&self, anchors: &Anchors) -> Outcome {
        Outcome::of_ours(judge(&self.report(), &self.endorsed(), anchors, self.now))
    }

    /// What dcap-qvl says, and the status it found where it says yes.
    #[must_use]
    pub fn theirs(&self) -> Outcome {
        Outcome::of_theirs(|| {
            let collateral = self.foreign_collateral()?;
            verify(&self.quote, &collateral, self.now, Backend::Ring)
        })
    }

    /// The parts of the quote, by name.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, Range<usize>)> {
        let version = self.quote.first().copied().unwrap_or_default();
        let (body, descriptor) = match (self.tdx, version) {
            (false, _) => (384, 0),
            (true, 5) => (self.size_at(50).unwrap_or(648), 6),
            (true, _) => (584, 0),
        };
        // From version 4 on the quoting enclave's report is wrapped in certification data of its own.
        let wrapping = if version >= 4 { 6 } else { 0 };
        let mut parts = vec![("header", 48), ("body descriptor", descriptor), ("report", body), ("length", 4)];
        parts.extend([("signature", 64), ("attestation key", 64), ("certification data header", wrapping)]);
        parts.extend([("QE report", 384), ("QE signature", 64), ("certification data", usize::MAX)]);
        let mut start = 0;
        let ranges = parts.into_iter().map(|(name, length)| {
            let range = start..self.quote.len().min(usize::saturating_add(start, length));
            start = range.end;
            (name, range)
        });
        ranges.filter(|(_, range)| !range.is_empty()).collect()
    }

    fn size_at(&self, at: usize) -> Option<usize> {
        let bytes = self.quote.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    }
}

/// Lambda's verifier.
///
/// # Errors
/// When the quote is not one.
pub fn judge(
    report: &Report,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Inspection, ParseError> {
    inspect(report, &Given::default(), &Endorsements { anchors, collateral }, now)
}

/// dcap-qvl, with the default appraisal's choice of statuses.
///
/// # Errors
/// When it refuses.
pub fn verify(quote: &[u8], collateral: &QuoteCollateralV3, now: UnixTime, backend: Backend) -> Result<()> {
    let now = now.0.try_into()?;
    let report = match backend {
        Backend::Ring => dcap_qvl::verify::ring::verify(quote, collateral, now)?,
        Backend::RustCrypto => dcap_qvl::verify::rustcrypto::verify(quote, collateral, now)?,
    };
    ensure!(GOOD_STATUS.contains(&report.status.as_str()), "status {}", report.status);
    Ok(())
}

#[derive(serde::Deserialize)]
struct Signed<'a> {
    #[serde(borrow, alias = "enclaveIdentity", rename = "tcbInfo")]
    body: &'a RawValue,
    signature: String,
}

fn split(document: &str, name: &str) -> Result<(String, Vec<u8>)> {
    let signed: Signed<'_> = serde_json::from_str(document).with_context(|| format!("{name} is not a document"))?;
    Ok((signed.body.get().to_owned(), hex::decode(&signed.signature)?))
}
