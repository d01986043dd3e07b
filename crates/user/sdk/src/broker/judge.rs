//! The one place where the broker asks the verifier. A trait, so that the broker's own faults can be tested without a TPM.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_attest::pki::PkiError;
use lambda_attest::{
    Anchors, Collateral, Endorsements, Evidence, Expectation, Policy, TpmClock, UnixTime, Verdict, challenge, verify,
};
use lambda_types::ImageId;
use lambda_types::session::{Challenge, Hello};
use lambda_types::shape::Shape;

use super::RealOutstanding;
use crate::collateral::Cache;
use crate::{Error, files};

/// Made once: they remember which of the vendors' signatures held.
static ANCHORS: LazyLock<Result<Anchors, PkiError>> = LazyLock::new(crate::anchors);

/// What accepted evidence vouches for.
pub(super) struct Accepted {
    pub(super) hpke_public: [u8; 32],
    pub(super) ssh_host_key: Vec<u8>,
    pub(super) nonce: [u8; 32],
    pub(super) policy_hash: [u8; 32],
    pub(super) clock: Option<TpmClock>,
    pub(super) image: ImageId,
    pub(super) shapes: Vec<Shape>,
}

/// How one piece of evidence came out.
pub(super) enum Judged {
    Accepted(Box<Verdict>, Box<Accepted>),
    Rejected(Box<Verdict>),
    /// It answers another challenge than ours; perhaps another broker's.
    OtherChallenge(Box<Verdict>),
    Unreadable(String),
}

/// Makes challenges and judges evidence.
pub(super) trait Judge {
    /// What must be remembered of a challenge. Used once.
    type Outstanding: Send;

    /// A fresh challenge, once the claimed identity is certified.
    fn challenge(&self, hello: &Hello, policy: &Policy) -> Result<(Challenge, Self::Outstanding), Error>;

    /// What vendors published about their hardware, as far as this machine knows it.
    fn collateral(&self) -> Result<Collateral, Error>;

    /// Judges evidence that claims to answer a challenge.
    fn judge(
        &self,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &Self::Outstanding,
        previous: Option<&TpmClock>,
        policy: &Policy,
        collateral: &Collateral,
    ) -> Judged;
}

/// The real one.
pub(super) struct AttestJudge {
    pub(super) cache: Cache,
}

pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl Judge for AttestJudge {
    type Outstanding = RealOutstanding;

    fn challenge(&self, hello: &Hello, policy: &Policy) -> Result<(Challenge, RealOutstanding), Error> {
        let entropy = zeroize::Zeroizing::new(files::random::<96>()?);
        challenge::issue(hello, policy, now(), &entropy)
            .map_err(|error| Error::refusal(error.failed_checks(), error.to_string()))
    }

    fn collateral(&self) -> Result<Collateral, Error> {
        self.cache.collateral(now())
    }

    fn judge(
        &self,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &RealOutstanding,
        previous: Option<&TpmClock>,
        policy: &Policy,
        collateral: &Collateral,
    ) -> Judged {
        let evidence = match Evidence::from_json(evidence) {
            Ok(evidence) => evidence,
            Err(error) => return Judged::Unreadable(error.to_string()),
        };
        let expectation = Expectation { instance: hello.instance, boot: hello.boot, outstanding, previous };
        let anchors = match ANCHORS.as_ref() {
            Ok(anchors) => anchors,
            Err(error) => return Judged::Unreadable(error.to_string()),
        };
        let endorsements = Endorsements { anchors, collateral };
        let judgement = verify(&evidence, &expectation, policy, &endorsements, now());
        let verdict = Box::new(judgement.verdict);
        match judgement.attested {
            Some(attested) => {
                let accepted = Accepted {
                    hpke_public: attested.hpke_public,
                    ssh_host_key: attested.ssh_host_key,
                    nonce: attested.nonce,
                    policy_hash: attested.policy_hash,
                    clock: attested.clock,
                    image: attested.image,
                    shapes: attested.shapes,
                };
                Judged::Accepted(verdict, Box::new(accepted))
            }
            None if verdict.failed().any(|check| answers_otherwise(&check.id)) => Judged::OtherChallenge(verdict),
            None => Judged::Rejected(verdict),
        }
    }
}

/// Whether this check is the one that compares what was asked, for some kind of evidence.
fn answers_otherwise(check: &str) -> bool {
    ["tpm.quote.report-data", "snp.report-data", "dcap.quote.report-data", "cca.realm.challenge"].contains(&check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_evidence_has_a_check_of_what_was_asked() {
        let known = lambda_attest::checks::every();
        let named: Vec<&str> = known.iter().map(|check| check.id).filter(|id| answers_otherwise(id)).collect();
        assert!(named.contains(&"tpm.quote.report-data"), "{named:?}");
        let others = known.iter().filter(|check| check.id.ends_with("report-data") && !answers_otherwise(check.id));
        assert_eq!(others.map(|check| check.id).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
