//! An operator who lies: a QEMU wrapper that swaps what the node agent asked for.
//!
//! The node agent checks its own files before it uses them; an operator who wants to cheat replaces the agent's tools.
//! The wrapper stands where the agent expects QEMU and rewrites the arguments before it runs the real one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What to swap: the value that follows `flag` has `from` replaced by `to`.
#[derive(Debug, Clone)]
pub struct Swap {
    /// For example `-initrd`.
    pub flag: &'static str,
    /// Text to find in the value; empty replaces the whole value.
    pub from: String,
    /// Replacement.
    pub to: String,
}

/// Writes the wrapper and returns its path. Swaps are read from `<wrapper>.swaps` at each start, so that a test can change
/// them between boots; see [`set`].
///
/// # Panics
/// When the file cannot be written.
#[must_use]
pub fn wrapper(folder: &Path) -> PathBuf {
    let path = folder.join("qemu-wrapper");
    let script = r#"#!/usr/bin/python3
import os, sys
args = sys.argv[1:]
try:
    lines = open(sys.argv[0] + ".swaps").read().splitlines()
except FileNotFoundError:
    lines = []
for line in lines:
    flag, old, new = line.split("\t")
    for i in range(len(args) - 1):
        if args[i] == flag and (not old or old in args[i + 1]):
            args[i + 1] = args[i + 1].replace(old, new) if old else new
os.execv("/usr/bin/qemu-system-x86_64", ["qemu-system-x86_64"] + args)
"#;
    std::fs::write(&path, script).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("own file");
    path
}

/// Sets what the wrapper swaps from its next start on.
///
/// # Panics
/// When the file cannot be written.
pub fn set(wrapper: &Path, swaps: &[Swap]) {
    let text: String = swaps.iter().map(|swap| format!("{}\t{}\t{}\n", swap.flag, swap.from, swap.to)).collect();
    let path = PathBuf::from(format!("{}.swaps", wrapper.display()));
    std::fs::write(&path, text).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

/// Changes one byte of the measured firmware volume inside a firmware file: unpacks it, sets a byte of its free space, and
/// packs it again, so that the firmware still boots.
///
/// # Panics
/// When the file is not firmware of this kind.
pub fn patch_firmware(path: &Path) {
    let script = r#"
import lzma, struct, sys
path = sys.argv[1]
fw = bytearray(open(path, "rb").read())
at = fw.find(bytes.fromhex("98584eee143959429d6edc7bd79403cf"))
size = int.from_bytes(fw[at - 4:at - 1], "little")
start, end = at - 4 + struct.unpack("<H", fw[at + 16:at + 18])[0], at - 4 + size
volume = bytearray(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(bytes(fw[start:end])))
assert volume[-1] == 0xFF, "the volume ends in free space"
volume[-1] = 0xFE
prop = fw[start]
options = {"id": lzma.FILTER_LZMA1, "lc": prop % 9, "lp": prop // 9 % 5, "pb": prop // 45,
           "dict_size": struct.unpack("<I", fw[start + 1:start + 5])[0], "preset": 9 | lzma.PRESET_EXTREME}
packed = bytearray(lzma.compress(bytes(volume), format=lzma.FORMAT_ALONE, filters=[options]))
packed[5:13] = struct.pack("<Q", len(volume))
assert len(packed) <= end - start, (len(packed), end - start)
fw[start:end] = packed + bytes(end - start - len(packed))
open(path, "wb").write(fw)
"#;
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(path).stdin(std::process::Stdio::null());
    let _ = crate::customer::finish(command, None, std::time::Duration::from_secs(120)).ok();
}

/// Gives a file the owner of its folder, as a careful thief would.
///
/// # Panics
/// When it cannot.
pub fn own_like_parent(path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let folder = std::fs::metadata(path.parent().expect("in a folder")).expect("exists");
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid())).expect("root");
}
