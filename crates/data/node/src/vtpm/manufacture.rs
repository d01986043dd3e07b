//! Makes one vTPM. Blocks; bounded by the control channel's time limits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lambda_tpm::{Tpm, alg};
use lambda_transport::pki::Authority;
use lambda_types::Binary;

use super::control::{Control, Data};
use super::{Identity, VtpmError, certificate, own_state};
use crate::host::process::end_child;
use crate::layout::{connect, file, listen, write_atomically};

/// How long swtpm may take to end after it was told to.
const GRACE: Duration = Duration::from_secs(2);

/// What manufacturing needs.
#[derive(Clone)]
pub(crate) struct Workshop {
    pub(crate) swtpm: PathBuf,
    pub(crate) authority: Arc<Authority>,
    pub(crate) uid: u32,
    pub(crate) cgroup: Arc<Vec<OwnedFd>>,
}

impl Workshop {
    /// Makes a vTPM in `folder`, which must be empty.
    ///
    /// # Errors
    /// When swtpm or the TPM fails; the folder is then of no use.
    pub(crate) fn make(&self, folder: &Path) -> Result<Identity, VtpmError> {
        let files = |operation| move |source| VtpmError::Files { operation, folder: folder.into(), source };
        std::fs::create_dir(folder.join(file::TPM_STATE)).map_err(files("create the state folder"))?;
        own_state(folder, self.uid)?;
        let listener = listen(folder, file::TPM_SOCKET, 0o600).map_err(files("bind the control socket"))?;
        let process = super::start(&self.swtpm, folder, &listener, self.uid, &self.cgroup)?;
        drop(listener);
        let made = operate(folder);
        end_child(process, GRACE).map_err(files("wait for swtpm"))?;
        let ek = made?;
        let identity = self.certify(&ek)?;
        std::fs::remove_file(folder.join(file::TPM_SOCKET)).map_err(files("remove the control socket"))?;
        let bytes = serde_json::to_vec(&identity).map_err(|error| files("write vtpm.json")(error.into()))?;
        write_atomically(&folder.join(file::VTPM), &bytes).map_err(files("write vtpm.json"))?;
        Ok(identity)
    }

    fn certify(&self, ek: &lambda_tpm::Public) -> Result<Identity, VtpmError> {
        let point = ek.p256_sec1().ok_or(VtpmError::Unexpected("its endorsement key is not on P-256"))?;
        let certificate = certificate::issue(&self.authority, point)?;
        Ok(Identity {
            ek_public: Binary(ek.encode().map_err(|source| VtpmError::Tpm { doing: "encoding its key", source })?),
            ek_chain: vec![Binary(certificate), Binary(self.authority.certificate_der().to_vec())],
        })
    }
}

fn operate(folder: &Path) -> Result<lambda_tpm::Public, VtpmError> {
    let stream =
        connect(folder, file::TPM_SOCKET).map_err(|source| VtpmError::Control { operation: "connect", source })?;
    let mut control = Control::new(stream)?;
    let mut data = control.open_data()?;
    let ek = set_up(&mut control, &mut data)?;
    // The data channel stays open until here: swtpm ends by itself when it closes.
    control.shut_down()?;
    Ok(ek)
}

/// Reduces the banks, which takes effect when the TPM is powered on again, and reads the endorsement key.
fn set_up(control: &mut Control, data: &mut Data) -> Result<lambda_tpm::Public, VtpmError> {
    let failed = |doing| move |source| VtpmError::Tpm { doing, source };
    control.power_on()?;
    let mut tpm = Tpm::new(data);
    tpm.startup_clear().map_err(failed("starting up"))?;
    tpm.allocate_sha256_only().map_err(failed("selecting the SHA-256 bank"))?;
    tpm.shutdown_clear().map_err(failed("shutting down"))?;
    control.power_on()?;
    tpm.startup_clear().map_err(failed("starting up again"))?;
    if tpm.active_banks().map_err(failed("reading the banks"))? != [alg::SHA256] {
        return Err(VtpmError::Unexpected("SHA-256 is not its only PCR bank"));
    }
    let ek = tpm.create_ek().map_err(failed("making the endorsement key"))?;
    tpm.flush(ek.handle).map_err(failed("flushing the endorsement key"))?;
    tpm.shutdown_clear().map_err(failed("shutting down"))?;
    Ok(ek.public)
}
