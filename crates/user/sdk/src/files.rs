//! Private files: written whole or not at all, readable by their owner alone.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Makes a folder (and its parents) that only its owner can enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| Error::File {
        action: "create",
        path: path.into(),
        source,
    })
}

/// Writes a file that replaces any older one in one step; mode 0600.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::File { action: "write", path: path.into(), source };
    let mut suffix = [0u8; 8];
    getrandom::fill(&mut suffix).map_err(|error| fail(std::io::Error::other(error)))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", hex::encode(suffix)));
    let temporary = Path::new(&name);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary).map_err(fail)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(temporary, path))
        .and_then(|()| sync_folder_of(path));
    written.map_err(|source| {
        // The error of the write is what matters; a leftover temporary file is private and harmless.
        let _ = std::fs::remove_file(temporary);
        fail(source)
    })
}

/// Makes what was created, renamed or removed beside this path outlast a loss of power.
pub(crate) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::File::open(folder)?.sync_all(),
        _ => std::fs::File::open(".")?.sync_all(),
    }
}

/// Removes a file, if it is there.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// Opens a lock file and waits until no other process holds it. Released when dropped.
///
/// # Errors
/// When it cannot be opened or locked.
pub(crate) fn lock(path: &Path) -> Result<std::fs::File, Error> {
    let fail = |source| Error::File { action: "lock", path: path.into(), source };
    let lock =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| fail(error.into()))?;
    Ok(lock)
}

/// The bytes of a file; `None` when there is no such file.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let fail = |source| Error::File { action: "read", path: path.into(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(Error::Damaged { path: path.into(), detail: "the file is too large".into() });
        }
        Ok(_) => {}
    }
    std::fs::read(path).map(Some).map_err(fail)
}

/// Writes JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Damaged { path: path.into(), detail: error.to_string() })?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Reads JSON; `None` when there is no such file.
///
/// # Errors
/// As [`read`], and when it does not parse.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Damaged { path: path.into(), detail: error.to_string() })
}

/// Random bytes.
///
/// # Errors
/// When the operating system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::crypto("randomness")(error.into()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_written_file_is_private_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_json(&path, &vec![1, 2]).unwrap();
        write_json(&path, &vec![3]).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap().unwrap(), [3]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write(&path, b"{").unwrap();
        let error = read_json::<Vec<u8>>(&path).unwrap_err();
        assert!(error.to_string().contains("x.json"), "{error}");
    }
}
