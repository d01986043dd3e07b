//! A writer of `newc` archives, the format of an initramfs (Linux: `Documentation/driver-api/early-userspace`).
//!
//! Entries come out in path order with fixed owners and times, so that equal content is equal bytes.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Magic number and thirteen fields of eight hex digits.
const HEADER_BYTES: usize = 6 + 13 * 8;

/// An archive in the making. Paths are relative, without `.` or `..`.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    mode: u32,
    content: Vec<u8>,
    /// Major and minor number of a device.
    device: (u32, u32),
}

impl Entry {
    fn new(mode: u32, content: Vec<u8>) -> Self {
        Self { mode, content, device: (0, 0) }
    }
}

impl Archive {
    /// Adds a folder and those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        for (index, _) in path.match_indices('/') {
            self.entries.entry(path[..index].to_owned()).or_insert_with(|| Entry::new(DIRECTORY, Vec::new()));
        }
        self.entries.entry(path.to_owned()).or_insert_with(|| Entry::new(DIRECTORY, Vec::new()));
    }

    /// Adds a file and the folders above it.
    pub(crate) fn file(&mut self, path: &str, executable: bool, content: Vec<u8>) {
        self.parents(path);
        let mode = REGULAR | if executable { 0o755 } else { 0o644 };
        self.entries.insert(path.to_owned(), Entry::new(mode, content));
    }

    /// Adds a symbolic link and the folders above it.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::new(SYMLINK, target.as_bytes().to_vec()));
    }

    /// Adds a character device that only root may open.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        let entry = Entry { mode: CHARACTER_DEVICE, content: Vec::new(), device: (major, minor) };
        self.entries.insert(path.to_owned(), entry);
    }

    /// Whether there is an entry.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    fn parents(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
    }

    /// Reads an archive that [`Archive::to_bytes`] wrote.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let foreign = || Error::Content("the initramfs was not made by this builder".into());
        let mut archive = Self::default();
        let mut at = 0usize;
        loop {
            let header =
                bytes.get(at..at + HEADER_BYTES).filter(|header| header.starts_with(b"070701")).ok_or_else(foreign)?;
            let field = |index: usize| {
                let digits = std::str::from_utf8(&header[6 + index * 8..14 + index * 8]).map_err(|_| foreign())?;
                u32::from_str_radix(digits, 16).map_err(|_| foreign())
            };
            let (mode, size, name_size) = (field(1)?, field(6)? as usize, field(11)? as usize);
            let name_end = at + HEADER_BYTES + name_size;
            let name =
                bytes.get(at + HEADER_BYTES..name_end).and_then(|name| name.strip_suffix(b"\0")).ok_or_else(foreign)?;
            let path = std::str::from_utf8(name).map_err(|_| foreign())?;
            if path == TRAILER {
                break;
            }
            let start = name_end.next_multiple_of(4);
            let content = bytes.get(start..start + size).ok_or_else(foreign)?.to_vec();
            archive.entries.insert(path.to_owned(), Entry { mode, content, device: (field(9)?, field(10)?) });
            at = (start + size).next_multiple_of(4);
        }
        if archive.to_bytes()? == bytes { Ok(archive) } else { Err(foreign()) }
    }

    /// The bytes of the archive.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1u32..).zip(&self.entries) {
            write(&mut out, inode, path, entry)?;
        }
        write(&mut out, 0, TRAILER, &Entry::new(0, Vec::new()))?;
        out.resize(out.len().next_multiple_of(512), 0);
        Ok(out)
    }
}

fn write(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let too_large = |_| Error::Content(format!("`{path}` does not fit an initramfs"));
    let Entry { mode, content, device: (major, minor) } = entry;
    let size = u32::try_from(content.len()).map_err(too_large)?;
    let name_size = u32::try_from(path.len() + 1).map_err(too_large)?;
    let links = if *mode == DIRECTORY { 2 } else { 1 };
    out.extend_from_slice(b"070701");
    // Inode, mode, owner, group, links, time, size, device, device of a special file, length of the name, checksum.
    for field in [inode, *mode, 0, 0, links, 0, size, 0, 0, *major, *minor, name_size, 0] {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_adding_does_not_matter_and_parents_exist() {
        let mut one = Archive::default();
        one.file("usr/bin/a", true, b"x".to_vec());
        one.symlink("bin", "usr/bin");
        let mut two = Archive::default();
        two.symlink("bin", "usr/bin");
        two.directory("usr/bin");
        two.file("usr/bin/a", true, b"x".to_vec());
        assert_eq!(one.to_bytes().unwrap(), two.to_bytes().unwrap());
        assert!(one.contains("usr") && one.contains("usr/bin"));
        assert_eq!(Archive::parse(&one.to_bytes().unwrap()).unwrap().to_bytes().unwrap(), one.to_bytes().unwrap());
    }

    #[test]
    fn foreign_and_damaged_archives_are_refused() {
        let mut archive = Archive::default();
        archive.file("init", true, b"x".to_vec());
        let good = archive.to_bytes().unwrap();
        let mut appended = good.clone();
        appended.extend_from_slice(&good);
        for bad in [&good[..good.len() - 512], &good[1..], &appended, b"" as &[u8]] {
            assert!(Archive::parse(bad).is_err());
        }
    }

    #[test]
    fn every_header_starts_on_four_bytes() {
        let mut archive = Archive::default();
        archive.file("abc", false, vec![7; 5]);
        let bytes = archive.to_bytes().unwrap();
        let found: Vec<usize> = (0..bytes.len() - 6).filter(|at| &bytes[*at..*at + 6] == b"070701").collect();
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|at| at % 4 == 0));
    }
}
