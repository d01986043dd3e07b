//! Tar archives from outside.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::{Component, Path};

use tar::EntryType;

use crate::error::{Error, Result};
use crate::import::Refusal;

/// A tar archive ends with blocks of zeros.
const END_BYTES: usize = 512;

/// Remembers the last bytes that were read through it.
struct Tail<R> {
    inner: R,
    last: Vec<u8>,
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let new = &buffer[..read];
        self.last.extend_from_slice(&new[new.len().saturating_sub(END_BYTES)..]);
        let excess = self.last.len().saturating_sub(END_BYTES);
        self.last.drain(..excess);
        Ok(read)
    }
}

/// Opens an archive, decompressing it on the way.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic).map_err(Error::io("reading", path))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("reading", path))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(liblzma::read::XzDecoder::new(reader)),
        _ => Box::new(reader),
    })
}

/// Reads a whole archive and refuses one that is truncated, or has entries that would land outside.
pub(crate) fn check(path: &Path) -> Result<()> {
    let truncated = |reason: String| Error::from(Refusal::Truncated { path: path.to_path_buf(), reason });
    let mut reader = Tail { inner: open(path)?, last: Vec::new() };
    let mut archive = tar::Archive::new(&mut reader);
    let mut seen = String::from("nothing");
    let not_an_archive = |error: std::io::Error| {
        Error::from(Refusal::NotAnArchive { path: path.to_path_buf(), reason: error.to_string() })
    };
    for (count, entry) in archive.entries().map_err(not_an_archive)?.enumerate() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if count == 0 => return Err(not_an_archive(error)),
            Err(error) => return Err(truncated(format!("after `{seen}`: {error}"))),
        };
        let name = entry.path().map_err(not_an_archive)?.into_owned();
        seen = name.display().to_string();
        let hard_link = match entry.header().entry_type() {
            EntryType::Link => entry.link_name().map_err(not_an_archive)?.map(std::borrow::Cow::into_owned),
            _ => None,
        };
        if !is_inside(&name) || hard_link.is_some_and(|target| !is_inside(&target)) {
            return Err(Refusal::UnsafePath(seen).into());
        }
    }
    std::io::copy(&mut reader, &mut std::io::sink()).map_err(|error| truncated(format!("after `{seen}`: {error}")))?;
    if reader.last.len() < END_BYTES || reader.last.iter().any(|byte| *byte != 0) {
        return Err(truncated(format!("it has no end marker; the last entry is `{seen}`")));
    }
    Ok(())
}

/// Unpacks a checked archive with owners, modes and extended attributes. Device nodes are left out: the guest's `/dev`
/// is the kernel's.
pub(crate) fn unpack(path: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into).map_err(Error::io("creating", into))?;
    let mut archive = tar::Archive::new(open(path)?);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(false);
    archive.set_unpack_xattrs(true);
    let mut folders = Vec::new();
    for entry in archive.entries().map_err(Error::io("reading", path))? {
        let mut entry = entry.map_err(Error::io("reading", path))?;
        match entry.header().entry_type() {
            EntryType::Block | EntryType::Char | EntryType::Fifo => {}
            // Last, so that a folder's mode does not hinder unpacking what is in it.
            EntryType::Directory => folders.push(entry),
            _ => {
                entry.unpack_in(into).map_err(Error::io("unpacking", path))?;
            }
        }
    }
    folders.sort_by(|one, two| two.path_bytes().cmp(&one.path_bytes()));
    for mut folder in folders {
        folder.unpack_in(into).map_err(Error::io("unpacking", path))?;
    }
    Ok(())
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}
