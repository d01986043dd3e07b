//! dm-verity hash trees, format version 1: SHA-256, 4 KiB blocks, no superblock.
//!
//! No superblock, because whatever describes the tree must come from the measured command line and not from the disk
//! that it protects.

use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use lambda_types::image::Verity;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Size of data and hash blocks.
pub(crate) const BLOCK: usize = 4096;

const DIGEST: usize = 32;

/// Hashes the data in `path` up to `data_size`, and gives the levels of the tree, leaves first, and the root hash.
fn tree(path: &Path, data_size: u64, salt: &[u8]) -> Result<(Vec<Vec<u8>>, [u8; DIGEST])> {
    let unusable = |reason: &str| Err(Error::Content(format!("`{}` is no verity device: {reason}", path.display())));
    if data_size == 0 || !data_size.is_multiple_of(BLOCK as u64) {
        return unusable("its data size is not a positive multiple of 4096");
    }
    let digest =
        |block: &[u8]| -> [u8; DIGEST] { Sha256::new().chain_update(salt).chain_update(block).finalize().into() };
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut leaves = Vec::new();
    let mut buffer = vec![0u8; 256 * BLOCK];
    let mut left = data_size;
    while left > 0 {
        let chunk = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..chunk]).map_err(Error::io("reading", path))?;
        for block in buffer[..chunk].chunks_exact(BLOCK) {
            leaves.extend_from_slice(&digest(block));
        }
        left -= chunk as u64;
    }
    let mut levels: Vec<Vec<u8>> = Vec::new();
    let mut level = leaves;
    while level.len() > DIGEST {
        level.resize(level.len().div_ceil(BLOCK) * BLOCK, 0);
        let above = level.chunks_exact(BLOCK).flat_map(digest).collect();
        levels.push(std::mem::replace(&mut level, above));
    }
    match <[u8; DIGEST]>::try_from(level.as_slice()) {
        Ok(root) => Ok((levels, root)),
        Err(_) => unusable("it is empty"),
    }
}

/// Appends the hash tree to a file of whole blocks.
pub(crate) fn append(path: &Path, salt: &[u8]) -> Result<Verity> {
    let data_size = std::fs::metadata(path).map_err(Error::io("reading", path))?.len();
    let (levels, root) = tree(path, data_size, salt)?;
    let mut file = File::options().append(true).open(path).map(BufWriter::new).map_err(Error::io("opening", path))?;
    for level in levels.iter().rev() {
        file.write_all(level).map_err(Error::io("writing", path))?;
    }
    file.flush().map_err(Error::io("writing", path))?;
    Ok(Verity { root_hash: hex::encode(root), salt: hex::encode(salt), data_size })
}

/// What recomputing a tree gave.
pub(crate) enum Checked {
    /// The stored tree is the one of the data.
    Consistent { root_hash: String },
    /// It is not: reads of some blocks would fail in a guest.
    TreeDiffers { root_hash: String },
}

/// Recomputes the root hash from the data, and compares the stored tree with it.
pub(crate) fn root_hash(path: &Path, verity: &Verity) -> Result<Checked> {
    let salt = hex::decode(&verity.salt).map_err(|_| Error::Content("the verity salt is not hex".into()))?;
    let (levels, root) = tree(path, verity.data_size, &salt)?;
    let root_hash = hex::encode(root);
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    file.seek(SeekFrom::Start(verity.data_size)).map_err(Error::io("reading", path))?;
    let mut stored = Vec::new();
    file.read_to_end(&mut stored).map_err(Error::io("reading", path))?;
    let expected: Vec<u8> = levels.into_iter().rev().flatten().collect();
    Ok(if stored == expected { Checked::Consistent { root_hash } } else { Checked::TreeDiffers { root_hash } })
}
