//! Where the node keeps what, below its data folder.
//!
//! ```text
//!   agent.lock           held by the one agent of this folder
//!   desired.json         the stored desired set
//!   acceleration.json    the probe's verdict, valid for one boot of the host
//!   netns                bind mount of the node's network namespace
//!   vtpm-pool/<n>/       manufactured vTPMs that no instance owns yet
//!   instances/<id>/      root's, mode 0711: QEMU's working folder, in which it can create nothing
//!     state.json         root only: what the agent knows about the instance
//!     state.json.damaged what a damaged one held, after it was rebuilt
//!     volume.raw         the instance's ciphertext, sparse; QEMU's uid
//!     vtpm.json          endorsement key and certificate, public
//!     tpm/               swtpm's state; swtpm's uid
//!     qmp.sock guest.sock tpm.sock
//!     qemu.log           QEMU's stderr
//! ```
//!
//! Unix socket names hold 107 bytes, a data folder's path may be longer: sockets are bound and connected through
//! `/proc/self/fd/<folder>/<name>` ([`listen`], [`connect`]), and children name them relative to their working folder.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use lambda_types::InstanceId;
use rustix::fs::{Mode, OFlags};

/// File names inside an instance's folder.
pub(crate) mod file {
    pub(crate) const STATE: &str = "state.json";
    pub(crate) const DAMAGED_STATE: &str = "state.json.damaged";
    pub(crate) const VOLUME: &str = "volume.raw";
    pub(crate) const VTPM: &str = "vtpm.json";
    pub(crate) const TPM_STATE: &str = "tpm";
    pub(crate) const QMP_SOCKET: &str = "qmp.sock";
    pub(crate) const GUEST_SOCKET: &str = "guest.sock";
    pub(crate) const TPM_SOCKET: &str = "tpm.sock";
    pub(crate) const QEMU_LOG: &str = "qemu.log";
}

/// Prefix of a folder that is being removed.
pub(crate) const TRASH: &str = "trash-";

/// The node's data folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("agent.lock")
    }

    pub(crate) fn desired(&self) -> PathBuf {
        self.root.join("desired.json")
    }

    pub(crate) fn acceleration(&self) -> PathBuf {
        self.root.join("acceleration.json")
    }

    pub(crate) fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    pub(crate) fn pool(&self) -> PathBuf {
        self.root.join("vtpm-pool")
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub(crate) fn instance(&self, id: InstanceId) -> PathBuf {
        self.instances().join(id.to_string())
    }

    pub(crate) fn trash(&self, id: InstanceId) -> PathBuf {
        self.instances().join(format!("{TRASH}{id}"))
    }
}

fn open_folder(folder: &Path) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn through(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_fd().as_raw_fd()))
}

/// Binds and listens on `folder/name`, replacing a stale socket, with this mode.
pub(crate) fn listen(folder: &Path, name: &str, mode: u32) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let handle = open_folder(folder)?;
    let listener = UnixListener::bind(through(&handle, name))?;
    rustix::fs::chmodat(&handle, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())?;
    Ok(listener)
}

/// Connects to `folder/name`.
pub(crate) fn connect(folder: &Path, name: &str) -> std::io::Result<UnixStream> {
    let handle = open_folder(folder)?;
    UnixStream::connect(through(&handle, name))
}

/// Writes a file so that the end of the agent or of the host leaves the old content or the new, never a part, and once this
/// returns the new. Blocks on the disk.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_temporary(path, bytes)?.sync_all()?;
    std::fs::rename(temporary(path), path)?;
    sync_parent(path)
}

/// Writes a file so that the end of the agent leaves the old content or the new. That it also outlives the host's end needs
/// [`persist`].
pub(crate) fn write_quickly(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    write_temporary(path, bytes)?;
    std::fs::rename(temporary(path), path)
}

/// Waits until a file written by [`write_quickly`], its folder and that folder's own entry are on the disk.
pub(crate) fn persist(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    sync_parent(path)?;
    path.parent().map_or(Ok(()), sync_parent)
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

fn write_temporary(path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary(path))?;
    file.write_all(bytes)?;
    Ok(file)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_work_below_a_path_longer_than_a_socket_name() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        assert!(UnixListener::bind(deep.join("a.sock")).is_err());
        let listener = listen(&deep, "a.sock", 0o600).unwrap();
        let _client = connect(&deep, "a.sock").unwrap();
        listener.accept().unwrap();
        listen(&deep, "a.sock", 0o600).unwrap();
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        write_quickly(&path, b"three").unwrap();
        persist(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
