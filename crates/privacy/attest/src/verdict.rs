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
    pub tier: Tier,
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
}

impl Tee {
    /// How strong it is.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            Self::Tpm => Tier::Platform,
        }
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
    pub(crate) fn new(tee: Tee, product: &str, claims: Claims, checks: Vec<Check>) -> Self {
        let failed = checks.is_empty() || checks.iter().any(|check| check.outcome == Outcome::Fail);
        Self {
            verdict: if failed { Decision::Rejected } else { Decision::Accepted },
            tier: tee.tier(),
            tee,
            product: product.into(),
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
pub(crate) fn tier_statement(tier: Tier) -> &'static str {
    match tier {
        Tier::Platform => {
            "Tier platform: the boot is measured by a vTPM that the operator's node provides. \
             The guest's memory is NOT hidden from the host."
        }
        Tier::Hardware => {
            "Tier hardware: the processor itself vouches for the guest and hides its memory from the host."
        }
    }
}
