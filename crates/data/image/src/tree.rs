//! Looking into an unpacked root file system as if it were the root: its symbolic links never lead outside.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

use crate::error::{Error, Result};

/// An unpacked tree.
pub(crate) struct Tree {
    root: PathBuf,
    fd: OwnedFd,
}

impl Tree {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let fd = open(root, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::io("opening", root)(error.into()))?;
        Ok(Self { root: root.to_path_buf(), fd })
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Option<OwnedFd> {
        openat2(
            &self.fd,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
        .ok()
    }

    /// Whether a path leads to a regular file.
    pub(crate) fn is_file(&self, path: &str) -> bool {
        let found = self.resolve(path, OFlags::PATH).and_then(|fd| fstat(&fd).ok());
        found.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// The host path of the folder that a path leads to.
    pub(crate) fn folder(&self, path: &str) -> Option<PathBuf> {
        let fd = self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)?;
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
    }

    /// Content of a small text file; `None` when there is none.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let mut text = String::new();
        File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?)
            .take(1 << 20)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    }

    /// The host path of an entry whose folder is resolved inside the tree, and made when missing. The entry itself may
    /// be a link: callers replace it.
    pub(crate) fn entry(&self, path: &str) -> Result<PathBuf> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        if let Some(folder) = self.folder(parent) {
            return Ok(folder.join(name));
        }
        let mut made = self.root.clone();
        let mut so_far = String::new();
        for part in parent.split('/') {
            so_far = format!("{so_far}/{part}");
            made = match self.folder(&so_far) {
                Some(folder) => folder,
                None => {
                    let next = made.join(part);
                    std::fs::create_dir(&next).map_err(Error::io("creating", &next))?;
                    next
                }
            };
        }
        Ok(made.join(name))
    }
}
