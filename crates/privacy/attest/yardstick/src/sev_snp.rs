//! SEV-SNP reports: Lambda's verifier and the crate sev.

use std::ops::Range;

use anyhow::Result;
use lambda_attest::{
    AmdCollateral, Anchors, Collateral, Endorsements, Given, Inspection, ParseError, Report, SnpEvidence, UnixTime,
    inspect,
};
use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

use crate::fixtures::Fixture;
use crate::outcome::Outcome;

/// A report with its certificates, DER.
#[derive(Clone)]
pub struct Snp {
    /// The report.
    pub report: Vec<u8>,
    /// VCEK or VLEK.
    pub leaf: Vec<u8>,
    /// ASK or ASVK.
    pub intermediate: Vec<u8>,
    /// ARK. Only the other verifier takes it; Lambda's has its own.
    pub root: Vec<u8>,
    /// Revocation lists. Only Lambda's verifier takes them.
    pub crls: Vec<Vec<u8>>,
    /// When to judge it. Only Lambda's verifier asks.
    pub now: UnixTime,
}

impl Snp {
    /// Reads one.
    ///
    /// # Errors
    /// When a file is missing.
    pub fn of(fixture: &Fixture) -> Result<Self> {
        let leaf = if fixture.has("vlek.der") { "vlek.der" } else { "vcek.der" };
        let lists = ["crl_milan.der", "crl_genoa.der"].into_iter().filter(|file| fixture.has(file));
        let crls = lists.map(|file| fixture.read(file)).collect::<Result<_>>()?;
        Ok(Self {
            report: fixture.read("report.bin")?,
            leaf: fixture.read(leaf)?,
            intermediate: fixture.read("ask.der")?,
            root: fixture.read("ark.der")?,
            crls,
            now: fixture.now,
        })
    }

    /// The report as Lambda takes it.
    #[must_use]
    pub fn evidence(&self) -> Report {
        let certificates = vec![self.leaf.clone().into(), self.intermediate.clone().into()];
        Report::Snp(SnpEvidence { report: self.report.clone().into(), certificates })
    }

    /// The revocation lists as Lambda takes them.
    #[must_use]
    pub fn endorsed(&self) -> Collateral {
        let crls = self.crls.iter().map(|crl| crl.clone().into()).collect();
        Collateral { amd: Some(AmdCollateral { certificates: Vec::new(), crls }), ..Collateral::none() }
    }

    /// What Lambda's verifier says.
    #[must_use]
    pub fn ours(&self, anchors: &Anchors) -> Outcome {
        Outcome::of_ours(judge(&self.evidence(), &self.endorsed(), anchors, self.now))
    }

    /// What sev says.
    #[must_use]
    pub fn theirs(&self) -> Outcome {
        Outcome::of_theirs(|| self.verify())
    }

    /// sev, from bytes: root, intermediate, leaf and report, each signature once.
    ///
    /// # Errors
    /// When it refuses.
    pub fn verify(&self) -> Result<()> {
        let ca = ca::Chain::from_der(&self.root, &self.intermediate)?;
        let chain = Chain { ca, vek: Certificate::from_der(&self.leaf)? };
        let report = AttestationReport::from_bytes(&self.report)?;
        Ok((&chain, &report).verify()?)
    }

    /// The parts of the report, by name.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, Range<usize>)> {
        let end = self.report.len();
        vec![("report", 0..end.min(0x2a0)), ("signature", end.min(0x2a0)..end)]
    }
}

/// Lambda's verifier.
///
/// # Errors
/// When the report is not one.
pub fn judge(
    report: &Report,
    collateral: &Collateral,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Inspection, ParseError> {
    inspect(report, &Given::default(), &Endorsements { anchors, collateral }, now)
}
