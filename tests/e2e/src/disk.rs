//! A disk of its own, of which a test says how much is free. Its size changes; nothing is written to it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::customer::finish;

/// A mounted file system; unmounted on drop.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    mib: u64,
}

impl Disk {
    /// Mounts one of this size.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(folder: PathBuf, mib: u64) -> Self {
        std::fs::create_dir(&folder).expect("a new folder");
        let disk = Self { folder, mib };
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("mode=0711,size={mib}m"), "tmpfs"]);
        disk
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).arg(&self.folder);
        let _ = finish(command, None, Duration::from_secs(30)).ok();
    }

    /// Leaves this much free.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn leave(&self, mib: u64) {
        let now = rustix::fs::statvfs(&self.folder).expect("mounted");
        let bytes = (now.f_blocks - now.f_bfree) * now.f_frsize + (mib << 20);
        self.run("mount", &["-o", &format!("remount,size={bytes}")]);
    }

    /// Gives it its first size again.
    ///
    /// # Panics
    /// When the file system refuses.
    pub fn free(&self) {
        self.run("mount", &["-o", &format!("remount,size={}m", self.mib)]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.folder, rustix::mount::UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{}: {unmounted:?}", self.folder.display());
    }
}
