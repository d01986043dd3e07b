//! The initramfs: `lambda-guest` as `/init`, kernel modules, and the two programs that it runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::elf;
use crate::error::{Error, Result};
use crate::modules::Module;

/// Programs of the initramfs.
const PROGRAMS: [&str; 2] = ["usr/sbin/cryptsetup", "usr/sbin/mke2fs"];

/// Folders that are mount points.
const MOUNT_POINTS: [&str; 8] = ["proc", "sys", "dev", "run", "lower", "volume", "newroot", "tmp"];

/// Where shared libraries are put.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Where shared libraries are looked for, relative to the folder that packages were unpacked to.
const LIBRARY_FOLDERS: [&str; 4] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib"];

/// Name of the guest program.
pub(crate) const INIT: &str = "init";

/// Name of the file that lists modules in load order.
pub(crate) const ORDER: &str = "modules/order";

/// Builds the archive. `tools` is where the initramfs packages were unpacked.
pub(crate) fn build(guest: Vec<u8>, modules: Vec<Module>, tools: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in MOUNT_POINTS {
        archive.directory(folder);
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        archive.symlink(link, target);
        archive.directory(target);
    }
    // Programs name their loader by a path below /lib64; it is one of the libraries.
    archive.symlink("lib64", LIBRARIES);
    // A process that the kernel starts without a console has no standard streams: Rust's runtime opens /dev/null.
    archive.character_device("dev/null", 1, 3);
    archive.character_device("dev/console", 5, 1);
    archive.file(INIT, true, guest);
    let order: String = modules.iter().map(|module| format!("{}\n", module.file)).collect();
    for module in modules {
        archive.file(&format!("modules/{}", module.file), false, module.content);
    }
    archive.file(ORDER, false, order.into_bytes());
    programs(&mut archive, tools)?;
    archive.symlink("usr/sbin/mkfs.ext4", "mke2fs");
    archive.to_bytes()
}

/// Adds the programs and the closure of their shared libraries.
fn programs(archive: &mut Archive, tools: &Path) -> Result<()> {
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for program in PROGRAMS {
        let path = find(tools, &[program.to_owned(), program.trim_start_matches("usr/").to_owned()], program)?;
        let bytes = std::fs::read(&path).map_err(Error::io("reading", &path))?;
        let needs = elf::needs(&bytes).ok_or_else(|| Error::Content(format!("`{program}` is not an ELF program")))?;
        let loader = needs.interpreter.as_deref().and_then(|path| path.strip_prefix("/lib64/"));
        wanted.extend(loader.map(str::to_owned));
        wanted.extend(needs.libraries);
        archive.file(program, true, bytes);
    }
    while let Some(name) = wanted.pop_first() {
        let target = format!("{LIBRARIES}/{name}");
        if archive.contains(&target) {
            continue;
        }
        let path = library(tools, &name)?;
        let bytes = std::fs::read(&path).map_err(Error::io("reading", &path))?;
        wanted.extend(elf::needs(&bytes).into_iter().flat_map(|needs| needs.libraries));
        archive.file(&target, true, bytes);
    }
    Ok(())
}

fn library(tools: &Path, name: &str) -> Result<PathBuf> {
    let candidates: Vec<String> = LIBRARY_FOLDERS.iter().map(|folder| format!("{folder}/{name}")).collect();
    find(tools, &candidates, name)
}

fn find(tools: &Path, candidates: &[String], what: &str) -> Result<PathBuf> {
    candidates
        .iter()
        .map(|candidate| tools.join(candidate))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Content(format!("the initramfs packages do not contain `{what}`")))
}
