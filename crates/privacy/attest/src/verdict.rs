use std::collections::BTreeMap;

use lambda_types::shape::Tier;
use serde::{Deserialize, Serialize};

/// What evidence claims, by name: hex strings, numbers, and lists of them.
pub type Claims = BTreeMap<String, serde_json::Value>;

/// The outcome of judging one piece of evidence, check by check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Accepted only when no check failed.
    pub verdict: Decision,
    /// How strong the root of trust is; named whether or not the evidence is accepted.
    pub tier: Assurance,
    /// Kind of root of trust.
    pub tee: Tee,
    /// What it is, in words.
    pub product: String,
    /// What the evidence says; to be believed only when the verdict is accepted.
    pub claims: Claims,
    /// Every check.
    pub checks: Vec<Check>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Every check was made and none failed.
    Accepted,
    /// At least one check failed or was not reached.
    Rejected,
}

/// Kinds of root of trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tee {
    /// TPM 2.0.
    Tpm,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// Intel SGX.
    Sgx,
    /// Arm CCA.
    Cca,
    /// Arm PSA attestation (TrustZone).
    Psa,
    /// A firmware event log by itself.
    Eventlog,
}

/// What a verdict rests on, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// A bare key that came with the evidence, or nothing: no policy can accept it.
    Unanchored,
    /// A root that the operator or the platform's maker holds; the guest's memory is not hidden from the host.
    Platform,
    /// A processor that hides the guest's memory, under its vendor's root.
    Hardware,
}

impl Assurance {
    /// Whether this is at least the tier that a policy demands.
    #[must_use]
    pub const fn reaches(self, minimum: Tier) -> bool {
        match (self, minimum) {
            (Self::Hardware, _) | (Self::Platform, Tier::Platform) => true,
            (Self::Platform, Tier::Hardware) | (Self::Unanchored, _) => false,
        }
    }
}

impl std::fmt::Display for Assurance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unanchored => "unanchored",
            Self::Platform => "platform",
            Self::Hardware => "hardware",
        })
    }
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Stable id; `docs/attestation-checks.md` explains it.
    pub id: String,
    /// How it came out.
    pub outcome: Outcome,
    /// A sentence for a person.
    pub detail: String,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not hold, could not be made, or the policy is silent.
    Fail,
    /// There is nothing to check.
    NotApplicable,
}

impl Verdict {
    pub(crate) fn new(tee: Tee, tier: Assurance, product: String, claims: Claims, checks: Vec<Check>) -> Self {
        let failed = checks.is_empty() || checks.iter().any(|check| check.outcome == Outcome::Fail);
        Self {
            verdict: if failed { Decision::Rejected } else { Decision::Accepted },
            tier,
            tee,
            product,
            claims,
            checks,
        }
    }

    /// Whether the evidence was accepted.
    #[must_use]
    pub fn accepted(&self) -> bool {
        self.verdict == Decision::Accepted
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Fail)
    }

    /// What the tier means, in a sentence to be shown with every verdict.
    #[must_use]
    pub fn tier_statement(&self) -> &'static str {
        tier_statement(self.tier)
    }
}

/// What a tier means, for people.
pub(crate) fn tier_statement(tier: Assurance) -> &'static str {
    match tier {
        Assurance::Unanchored => "Tier unanchored: no root of trust vouches for this evidence. No policy accepts it.",
        Assurance::Platform => {
            "Tier platform: the boot is measured by a vTPM that the operator's node provides. \
             The guest's memory is NOT hidden from the host."
        }
        Assurance::Hardware => {
            "Tier hardware: the processor itself vouches for the guest and hides its memory from the host."
        }
    }
}
