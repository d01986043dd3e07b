//! The vTPM as an attester: identity keys, and evidence in answer to a challenge.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use lambda_attest::{Binding, Evidence, PcrValue, TpmEvidence, activation_proof, report_data};
use lambda_tpm::{Key, PcrSelection, Tpm, Transport};
use lambda_types::Binary;
use lambda_types::guest::FailureReason;
use lambda_types::session::{Challenge, Hello, TpmIdentity};

use crate::failure::{Because, Failure};
use crate::session::Attester;

/// The vTPM without a resource manager: in the initramfs nobody else uses it.
pub const DEVICE: &str = "/dev/tpm0";
/// The vTPM behind the kernel's resource manager, shared with the customer's programs.
pub const SHARED_DEVICE: &str = "/dev/tpmrm0";

const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const MOST_LOG_BYTES: u64 = 128 * 1024;
const MOST_RESPONSE_BYTES: usize = 4096;

/// A TPM character device.
#[derive(Debug)]
pub struct TpmDevice(File);

impl TpmDevice {
    /// Opens the device, waiting up to `bound` for it to appear.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn open(path: &str, bound: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + bound;
        loop {
            match File::options().read(true).write(true).open(path) {
                Ok(file) => return Ok(Self(file)),
                Err(error) if Instant::now() >= deadline => return Err(error).because(FailureReason::Tpm, path),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Transport for TpmDevice {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, lambda_tpm::Error> {
        let failed = |error: std::io::Error| lambda_tpm::Error::Transport(error.to_string());
        self.0.write_all(command).map_err(failed)?;
        let mut response = vec![0u8; MOST_RESPONSE_BYTES];
        let length = self.0.read(&mut response).map_err(failed)?;
        response.truncate(length);
        Ok(response)
    }
}

/// A vTPM with its endorsement and attestation keys loaded.
pub struct TpmAttester<T: Transport> {
    tpm: Tpm<T>,
    endorsement: Key,
    attestation: Key,
    event_log: Vec<u8>,
}

impl<T: Transport> TpmAttester<T> {
    /// Makes both keys; they are primaries, so they come out the same at every boot of this vTPM.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn new(transport: T, event_log: Vec<u8>) -> Result<Self, Failure> {
        let mut tpm = Tpm::new(transport);
        let endorsement = tpm.create_ek().because(FailureReason::Tpm, "endorsement key")?;
        let attestation = tpm.create_ak().because(FailureReason::Tpm, "attestation key")?;
        Ok(Self { tpm, endorsement, attestation, event_log })
    }

    /// The identity to claim, with the certificates that the node handed over.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn identity(&self, ek_chain: Vec<Binary>) -> Result<TpmIdentity, Failure> {
        let encode = |key: &Key| key.public.encode().because(FailureReason::Tpm, "public area");
        Ok(TpmIdentity {
            ek_chain,
            ek_public: encode(&self.endorsement)?.into(),
            ak_public: encode(&self.attestation)?.into(),
        })
    }

    /// Takes the keys out of the vTPM, whose few slots the next user needs.
    ///
    /// # Errors
    /// [`FailureReason::Tpm`].
    pub fn close(mut self) -> Result<(), Failure> {
        for key in [&self.attestation, &self.endorsement] {
            self.tpm.flush(key.handle).because(FailureReason::Tpm, "flush")?;
        }
        Ok(())
    }

    fn evidence(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Evidence, Box<dyn std::error::Error>> {
        let identity = hello.tpm.clone().ok_or("the hello names no vTPM")?;
        let credential = challenge.credential.as_ref().ok_or("the challenge has no credential")?;
        let binding = Binding::from(hello);
        let report_data = report_data(challenge.nonce.as_slice(), &binding);
        let secret = self.tpm.activate_credential(
            &self.attestation,
            &self.endorsement,
            credential.blob.as_slice(),
            credential.secret.as_slice(),
        )?;
        let proof = activation_proof(&secret, &report_data);
        let selection = PcrSelection::lambda();
        let quoted = self.tpm.quote(&self.attestation, &report_data, &selection)?;
        let pcrs = self.tpm.read_pcrs(&selection)?;
        let report = TpmEvidence {
            identity,
            attest: quoted.attest.into(),
            signature: quoted.signature.into(),
            pcrs: pcrs.into_iter().map(|(index, value)| PcrValue { index, sha256: hex(&value) }).collect(),
            event_log: Binary(self.event_log.clone()),
            activation_proof: proof.to_vec().into(),
        };
        Ok(Evidence::tpm(binding, report))
    }
}

impl<T: Transport> Attester for TpmAttester<T> {
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure> {
        let evidence = self.evidence(hello, challenge).because(FailureReason::Tpm, "evidence")?;
        Ok(evidence.to_json())
    }
}

/// The firmware's event log.
///
/// # Errors
/// [`FailureReason::Tpm`] when there is none.
pub fn event_log() -> Result<Vec<u8>, Failure> {
    let mut log = Vec::new();
    File::open(EVENT_LOG)
        .and_then(|file| file.take(MOST_LOG_BYTES).read_to_end(&mut log))
        .because(FailureReason::Tpm, "event log")?;
    Ok(log)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
