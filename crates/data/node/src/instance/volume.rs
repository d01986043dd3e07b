//! The local volume: a sparse file of ciphertext. Its blocks are allocated as the guest writes them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use lambda_types::shape::GIB;

use crate::layout::file;

/// Free space below which no boot is begun: a guest that cannot write its first metadata would only fail later.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Makes the volume, or checks that it is there, owned by QEMU's user. A volume is never shrunk or replaced.
///
/// # Errors
/// When the disk is (nearly) full ([`io::ErrorKind::StorageFull`]) or the file has another size than it should.
pub(crate) fn prepare(folder: &Path, gib: u32, uid: u32) -> io::Result<()> {
    let free = rustix::fs::statvfs(folder)?;
    if free.f_bavail.saturating_mul(free.f_frsize) < RESERVE_BYTES {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "less than 64 MiB are free on the node's disk"));
    }
    let size = u64::from(gib).saturating_mul(GIB);
    let path = folder.join(file::VOLUME);
    let volume = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    let metadata = volume.metadata()?;
    if metadata.len() < size {
        volume.set_len(size)?;
    } else if metadata.len() > size {
        let text = format!("volume.raw holds {} bytes instead of {size}; it is not touched", metadata.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if (metadata.uid(), metadata.gid()) != (uid, uid) {
        std::os::unix::fs::fchown(&volume, Some(uid), Some(uid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_sparse_keeps_its_content_and_is_never_shrunk() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), 1, 412_500).unwrap();
        let path = folder.path().join(file::VOLUME);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.blocks(), metadata.uid()), (GIB, 0, 412_500));
        std::os::unix::fs::FileExt::write_at(&OpenOptions::new().write(true).open(&path).unwrap(), b"x", 4096).unwrap();
        prepare(folder.path(), 2, 412_500).unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() > 0);
        assert!(prepare(folder.path(), 1, 412_500).is_err());
    }

    #[test]
    fn a_full_disk_is_said_to_be_full() {
        let folder = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m").unwrap();
        let error = prepare(folder.path(), 1, 0).unwrap_err();
        rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
