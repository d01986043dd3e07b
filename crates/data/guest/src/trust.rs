//! What vouches for this guest: a vTPM, or the processor itself.

use std::path::Path;
use std::time::{Duration, Instant};

use lambda_types::Binary;
use lambda_types::guest::FailureReason;
use lambda_types::session::{Challenge, Hello, TpmIdentity};

use crate::failure::Failure;
use crate::session::Attester;
use crate::tpm::{self, TpmAttester, TpmDevice};
use crate::tsm::{self, TsmAttester};

/// The root of trust that this machine has.
pub enum RootOfTrust {
    /// A vTPM.
    Tpm(Box<TpmAttester<TpmDevice>>),
    /// A confidential processor, through the kernel.
    Tee(TsmAttester),
    /// A simulated one.
    #[cfg(feature = "simulated-tee")]
    Simulated(crate::simulated::SimulatedAttester),
}

impl RootOfTrust {
    /// Waits up to `bound` for either to appear. The vTPM is `tpm_device`: alone in the initramfs, shared afterwards.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`] when neither does, or the vTPM does not work.
    pub fn find(tpm_device: &str, bound: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + bound;
        loop {
            if Path::new(tpm_device).exists() {
                let device = TpmDevice::open(tpm_device, bound)?;
                return Ok(Self::Tpm(Box::new(TpmAttester::new(device, tpm::event_log()?)?)));
            }
            #[cfg(feature = "simulated-tee")]
            if let Some(attester) = crate::simulated::SimulatedAttester::find() {
                return Ok(Self::Simulated(attester));
            }
            if Path::new(tsm::REPORTS).is_dir() {
                return Ok(Self::Tee(TsmAttester::new(Path::new(tsm::REPORTS))));
            }
            if Instant::now() >= deadline {
                let detail = format!("neither {tpm_device} nor {} appeared within {} s", tsm::REPORTS, bound.as_secs());
                return Err(Failure::new(FailureReason::Tpm, detail));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The identity to claim where there is a vTPM, with the certificates that the node handed over.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn identity(&self, ek_chain: Vec<Binary>) -> Result<Option<TpmIdentity>, Failure> {
        match self {
            Self::Tpm(tpm) => tpm.identity(ek_chain).map(Some),
            Self::Tee(_) => Ok(None),
            #[cfg(feature = "simulated-tee")]
            Self::Simulated(_) => Ok(None),
        }
    }

    /// Gives back what the next user needs.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn close(self) -> Result<(), Failure> {
        match self {
            Self::Tpm(tpm) => tpm.close(),
            Self::Tee(_) => Ok(()),
            #[cfg(feature = "simulated-tee")]
            Self::Simulated(_) => Ok(()),
        }
    }
}

impl Attester for RootOfTrust {
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Tpm(tpm) => tpm.attest(hello, challenge),
            Self::Tee(tee) => tee.attest(hello, challenge),
            #[cfg(feature = "simulated-tee")]
            Self::Simulated(tee) => tee.attest(hello, challenge),
        }
    }
}
