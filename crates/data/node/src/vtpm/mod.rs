//! Virtual TPMs: one swtpm and one state folder for each instance.
//!
//! A vTPM is *manufactured* once ([`manufacture`]): PCR banks reduced to SHA-256, its endorsement key read, and the
//! certificate for it issued by the node CA. That takes tens of milliseconds and two processes' work, so a few lie in
//! a pool ([`pool`]) and creating an instance moves a folder. The state stays with the instance: the endorsement key is
//! the same on every boot and the TPM's reset count grows.

mod certificate;
mod control;
pub(crate) mod manufacture;
pub(crate) mod pool;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lambda_types::Binary;
use serde::{Deserialize, Serialize};

use crate::host::process::{ProcessRef, Sandbox, spawn};
use crate::layout::file;

/// Why a vTPM could not be made or started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VtpmError {
    /// swtpm did not start.
    #[error("cannot start {program}: {source}; install the package swtpm")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files of the vTPM could not be handled.
    #[error("cannot {operation} in {folder}: {source}")]
    Files {
        /// What was tried.
        operation: &'static str,
        /// Where.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// swtpm's control channel failed.
    #[error("swtpm's control channel: {operation}: {source}")]
    Control {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// swtpm refused a control command.
    #[error("swtpm refused {operation} with code {code:#x}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// Its answer.
        code: u32,
    },
    /// The TPM failed.
    #[error("the TPM failed while {doing}: {source}")]
    Tpm {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: lambda_tpm::Error,
    },
    /// The TPM is not what was ordered.
    #[error("the new vTPM is not as ordered: {0}")]
    Unexpected(&'static str),
    /// The certificate could not be made.
    #[error("cannot issue the endorsement certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// No vTPM became ready.
    #[error("no vTPM became ready: the manufacturing task has ended; restart the node agent")]
    Pool,
}

/// `vtpm.json`: the public identity of a vTPM. Written last, so a folder without it is not a finished vTPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// TPMT_PUBLIC of the endorsement key.
    pub(crate) ek_public: Binary,
    /// Its certificate and the node CA's, DER, leaf first.
    pub(crate) ek_chain: Vec<Binary>,
}

impl Identity {
    /// Of a guest without a vTPM.
    pub(crate) fn none() -> Self {
        Self { ek_public: Binary::default(), ek_chain: Vec::new() }
    }

    pub(crate) fn load(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(folder.join(file::VTPM)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Starts swtpm on `folder/tpm`, its control channel on `listener`.
///
/// # Errors
/// When it is not installed or cannot be confined.
pub(crate) fn start(
    program: &Path,
    folder: &Path,
    listener: &UnixListener,
    uid: u32,
    cgroup: &[OwnedFd],
) -> Result<ProcessRef, VtpmError> {
    let mut command = Command::new(program);
    command.current_dir(folder).args(["socket", "--tpm2", "--terminate", "--tpmstate"]);
    command.arg(format!("dir={},mode=0600", file::TPM_STATE));
    command.arg("--ctrl").arg(format!("type=unixio,fd={}", listener.as_fd().as_raw_fd()));
    command.args(["--seccomp", "action=kill"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let sandbox = Sandbox { uid, groups: Vec::new(), cgroup, inherit: vec![listener.as_fd()] };
    spawn(command, &sandbox).map_err(|source| VtpmError::Start { program: program.into(), source })
}

/// Gives the state folder to `uid`; repeated on every start, since a crash may have come between.
pub(crate) fn own_state(folder: &Path, uid: u32) -> Result<(), VtpmError> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let state = folder.join(file::TPM_STATE);
    let failed = |source| VtpmError::Files { operation: "hand over the state", folder: folder.into(), source };
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    chown(&state, Some(uid), Some(uid)).map_err(failed)?;
    for entry in std::fs::read_dir(&state).map_err(failed)? {
        std::os::unix::fs::lchown(entry.map_err(failed)?.path(), Some(uid), Some(uid)).map_err(failed)?;
    }
    Ok(())
}
