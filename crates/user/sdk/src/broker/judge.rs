//! The one place where the broker asks the verifier. A trait, so that the broker's own faults can be tested without a TPM.

use std::time::{SystemTime, UNIX_EPOCH};

use lambda_attest::{Evidence, Expectation, Policy, TpmClock, UnixTime, Verdict, challenge, verify};
use lambda_types::ImageId;
use lambda_types::session::{Challenge, Hello};
use lambda_types::shape::Shape;

use super::RealOutstanding;
use crate::{Error, files};

/// What accepted evidence vouches for.
pub(super) struct Accepted {
    pub(super) hpke_public: [u8; 32],
    pub(super) ssh_host_key: Vec<u8>,
    pub(super) nonce: [u8; 32],
    pub(super) policy_hash: [u8; 32],
    pub(super) clock: TpmClock,
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

    /// Judges evidence that claims to answer a challenge.
    fn judge(
        &self,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &Self::Outstanding,
        previous: Option<&TpmClock>,
        policy: &Policy,
    ) -> Judged;
}

/// The real one.
pub(super) struct AttestJudge;

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

    fn judge(
        &self,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &RealOutstanding,
        previous: Option<&TpmClock>,
        policy: &Policy,
    ) -> Judged {
        let evidence = match Evidence::from_json(evidence) {
            Ok(evidence) => evidence,
            Err(error) => return Judged::Unreadable(error.to_string()),
        };
        let expectation = Expectation { instance: hello.instance, boot: hello.boot, outstanding, previous };
        let judgement = verify(&evidence, &expectation, policy, now());
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
            None if verdict.failed().any(|check| check.id == "tpm.quote.report-data") => {
                Judged::OtherChallenge(verdict)
            }
            None => Judged::Rejected(verdict),
        }
    }
}
