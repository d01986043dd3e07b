//! Sizes and SHA-256 of files.

use std::io::Read as _;
use std::path::Path;

use lambda_types::image::Part;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Size and hash of a file.
pub(crate) fn file(path: &Path) -> Result<Part> {
    let mut file = std::fs::File::open(path).map_err(Error::io("opening", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut size = 0u64;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("reading", path))?;
        if read == 0 {
            return Ok(Part { size, sha256: hex::encode(hasher.finalize()) });
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// Hash of bytes in memory.
pub(crate) fn bytes(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
