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
        Ok(Self { amd: amd.collect::<Result<_, PkiError>>()?, intel: vec![intel], facts: Facts::default() })
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
}
