use serde::{Deserialize, Serialize};

use crate::facts::Facts;
use crate::pki::{ParsedCertificate, PkiError};

/// AMD product lines whose processors run SEV-SNP guests, each under a root of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AmdLine {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004 and 97x4.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl AmdLine {
    /// Its name in AMD's certificates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

/// An AMD root key (ARK).
pub struct AmdAnchor {
    /// Whose root it is.
    pub line: AmdLine,
    /// The root.
    pub ark: ParsedCertificate,
}

/// The vendors' roots, pinned. None is ever taken from evidence or collateral.
pub struct Anchors {
    amd: Vec<AmdAnchor>,
    intel: Vec<ParsedCertificate>,
    facts: Facts,
}

impl Anchors {
    /// The real ones: AMD's roots of Milan, Genoa and Turin, and the Intel SGX Root CA.
    ///
    /// # Errors
    /// Never in a program whose tests ran: the roots are part of it.
    pub fn vendor() -> Result<Self, PkiError> {
        let amd = [
            (AmdLine::Milan, include_str!("../anchors/ark-milan.pem")),
            (AmdLine::Genoa, include_str!("../anchors/ark-genoa.pem")),
            (AmdLine::Turin, include_str!("../anchors/ark-turin.pem")),
        ];
        let amd = amd.into_iter().map(|(line, pem)| Ok(AmdAnchor { line, ark: ParsedCertificate::from_pem(pem)? }));
        let intel = ParsedCertificate::from_pem(include_str!("../anchors/intel-sgx-root-ca.pem"))?;
        let anchors = Self { amd: amd.collect::<Result<_, PkiError>>()?, intel: vec![intel], facts: Facts::default() };
        for intermediate in intermediates()? {
            if let Some(root) = anchors.root_of(&intermediate) {
                intermediate.presume_signed_by(root, &anchors.facts);
            }
        }
        Ok(anchors)
    }

    /// The pinned root that a certificate names as its issuer.
    fn root_of(&self, certificate: &ParsedCertificate) -> Option<&ParsedCertificate> {
        let roots = self.amd.iter().map(|anchor| &anchor.ark).chain(&self.intel);
        roots.into_iter().find(|root| certificate.issued_by_name_of(root))
    }

    /// Other roots, for a simulated TEE. Not part of a release build.
    #[cfg(any(test, feature = "simulated-tee"))]
    #[must_use]
    pub fn simulated(amd: Vec<AmdAnchor>, intel: Vec<ParsedCertificate>) -> Self {
        Self { amd, intel, facts: Facts::default() }
    }

    /// AMD's roots.
    pub(crate) fn amd(&self) -> &[AmdAnchor] {
        &self.amd
    }

    /// What was verified under them.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Intel's roots.
    pub(crate) fn intel(&self) -> &[ParsedCertificate] {
        &self.intel
    }
}

/// The vendors' intermediates of which the pinned roots' signatures are known. They are trusted for nothing else: one has
/// to come with the evidence or the collateral, and its dates, name, usage and revocation are judged each time.
fn intermediates() -> Result<Vec<ParsedCertificate>, PkiError> {
    const AMD: &str = include_str!("../anchors/intermediates-amd.pem");
    const INTEL: &str = include_str!("../anchors/intermediates-intel.pem");
    let mut all = ParsedCertificate::chain_from_pem(AMD, 6)?;
    all.extend(ParsedCertificate::chain_from_pem(INTEL, 4)?);
    Ok(all)
}

#[cfg(all(feature = "simulated-tee", not(debug_assertions)))]
compile_error!("the feature `simulated-tee` trusts made-up hardware and does not belong in a release build");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_roots_are_the_vendors() {
        let anchors = Anchors::vendor().unwrap();
        let names: Vec<_> = anchors.amd().iter().filter_map(|anchor| anchor.ark.common_name()).collect();
        assert_eq!(names, ["ARK-Milan", "ARK-Genoa", "ARK-Turin"]);
        assert!(anchors.amd().iter().all(|anchor| anchor.ark.signed_by(&anchor.ark)));
        let intel = &anchors.intel()[0];
        assert_eq!(intel.common_name().as_deref(), Some("Intel SGX Root CA"));
        assert!(intel.signed_by(intel));
    }

    #[test]
    fn every_signature_that_is_presumed_holds() {
        let anchors = Anchors::vendor().unwrap();
        let intermediates = intermediates().unwrap();
        let names: Vec<_> = intermediates.iter().filter_map(ParsedCertificate::common_name).collect();
        let amd = ["SEV-Milan", "SEV-VLEK-Milan", "SEV-Genoa", "SEV-VLEK-Genoa", "SEV-Turin", "SEV-VLEK-Turin"];
        assert_eq!(names[..6], amd);
        let intel = ["PCK Platform CA", "PCK Processor CA", "TCB Signing", "TCB Signing"];
        assert_eq!(names[6..], intel.map(|name| format!("Intel SGX {name}")));
        for intermediate in &intermediates {
            let root = anchors.root_of(intermediate).unwrap();
            assert!(intermediate.names_one_algorithm() && intermediate.signed_by(root), "{}", intermediate.subject());
            let others = anchors.amd().iter().map(|anchor| &anchor.ark).filter(|other| other.spki() != root.spki());
            for other in others {
                assert!(!intermediate.known_signed_by(other, anchors.facts()), "{}", intermediate.subject());
            }
        }
    }
}
