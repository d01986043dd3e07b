//! Evidence together with everything it was judged on, so that it can be judged again later and elsewhere.

use lambda_types::{BootId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::anchors::Anchors;
use crate::appraise::Endorsements;
use crate::challenge::SpentChallenge;
use crate::collateral::Collateral;
use crate::evidence::Evidence;
use crate::policy::Policy;
use crate::time::UnixTime;
use crate::verdict::Verdict;
use crate::verify::{Expectation, TpmClock, verify};

/// Version of the record document.
pub const RECORD_VERSION: u32 = 1;

/// Most bytes in a record: evidence, indented, and a few hundred bytes more.
pub const MAX_RECORD_BYTES: usize = 4 * crate::evidence::MAX_EVIDENCE_BYTES;

/// One question and its answer.
///
/// ```text
///   asked: instance, boot, challenge (spent), what was seen before      answered: evidence      at: the asker's clock
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The instance that was asked.
    pub instance: InstanceId,
    /// The boot that was asked.
    pub boot: BootId,
    /// When it was judged first.
    pub at: UnixTime,
    /// What was sent.
    pub challenge: SpentChallenge,
    /// The clock of this instance's TPM in the evidence that was accepted before, when there was any.
    pub previous: Option<TpmClock>,
    /// What came back.
    pub evidence: Evidence,
    /// What the vendor had published about the hardware, when it is hardware.
    #[serde(default = "Collateral::none")]
    pub collateral: Collateral,
}

/// Why a record cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Another version.
    #[error("version: the record is of version {0}, this program reads version {RECORD_VERSION}")]
    Version(u32),
    /// Evidence of another version.
    #[error("evidence.version: the evidence is of version {0}, this program reads version {known}", known = crate::EVIDENCE_VERSION)]
    EvidenceVersion(u32),
    /// A field of the challenge is not what was ever sent.
    #[error("{0}: this is not 32 bytes")]
    Challenge(&'static str),
}

impl Record {
    /// Judges once more, with every check of [`verify`]. Gives a verdict and nothing that secrets could be released on.
    ///
    /// # Errors
    /// When the record is of another version or its challenge is malformed; names the field.
    pub fn judge(
        &self,
        instance: InstanceId,
        policy: &Policy,
        anchors: &Anchors,
        now: UnixTime,
    ) -> Result<Verdict, RecordError> {
        if self.version != RECORD_VERSION {
            return Err(RecordError::Version(self.version));
        }
        if self.evidence.version != crate::EVIDENCE_VERSION {
            return Err(RecordError::EvidenceVersion(self.evidence.version));
        }
        let outstanding = self.challenge.recall().map_err(RecordError::Challenge)?;
        let expected =
            Expectation { instance, boot: self.boot, outstanding: &outstanding, previous: self.previous.as_ref() };
        let endorsements = Endorsements { anchors, collateral: &self.collateral };
        Ok(verify(&self.evidence, &expected, policy, &endorsements, now).verdict)
    }
}
