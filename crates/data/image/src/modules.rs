//! Kernel modules of the initramfs: the wanted ones, what they depend on, and an order in which they load.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use liblzma::read::XzDecoder;

use crate::elf;
use crate::error::{Error, Result};

/// What a guest needs before its root file system is there. What the kernel has built in is skipped.
const WANTED: [&str; 23] = [
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "erofs",
    "overlay",
    "dm_mod",
    "dm_verity",
    "dm_integrity",
    "dm_crypt",
    "ext4",
    "crc32c_generic",
    "crc32c_intel",
    "aesni_intel",
    "ghash_clmulni_intel",
    "ghash_generic",
    "gcm",
    "ctr",
    "seqiv",
    "algif_aead",
    "algif_skcipher",
    "tsm",
    "sev_guest",
    "tdx_guest",
];

/// Modules that some kernels do not have under this name, because the code is built in or moved.
const OPTIONAL: [&str; 7] =
    ["crc32c_intel", "crc32c_generic", "ghash_clmulni_intel", "dm_mod", "tsm", "sev_guest", "tdx_guest"];

/// One module, uncompressed.
pub(crate) struct Module {
    /// File name, ending in `.ko`.
    pub(crate) file: String,
    /// Content.
    pub(crate) content: Vec<u8>,
}

/// Modules found below `lib/modules/<version>`.
struct Tree {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// Reads the modules that a guest needs, in load order.
///
/// # Errors
/// When `dir` (a `lib/modules/<version>`) lacks one that the kernel does not have built in.
pub(crate) fn select(dir: &Path) -> Result<Vec<Module>> {
    let tree = Tree::read(dir)?;
    let mut order = Vec::new();
    let mut visited = BTreeSet::new();
    for name in WANTED {
        if tree.built_in.contains(name) || (OPTIONAL.contains(&name) && !tree.files.contains_key(name)) {
            continue;
        }
        tree.visit(name, &mut visited, &mut order)?;
    }
    Ok(order)
}

impl Tree {
    fn read(dir: &Path) -> Result<Self> {
        let mut tree = Self { files: BTreeMap::new(), built_in: BTreeSet::new() };
        let list = dir.join("modules.builtin");
        let text = std::fs::read_to_string(&list).map_err(Error::io("reading", &list))?;
        tree.built_in.extend(text.lines().filter_map(|line| module_name(Path::new(line))));
        let mut folders = vec![dir.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(Error::io("reading", &folder))? {
                let path = entry.map_err(Error::io("reading", &folder))?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    tree.files.insert(name, path);
                }
            }
        }
        Ok(tree)
    }

    fn visit(&self, name: &str, visited: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.built_in.contains(name) || !visited.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| Error::Content(format!("the kernel has no module `{name}`, built in or not")))?;
        let content = read_module(path)?;
        let dependencies = elf::module_dependencies(&content)
            .ok_or_else(|| Error::Content(format!("`{}` is not a kernel module", path.display())))?;
        for dependency in dependencies {
            self.visit(&dependency.replace('-', "_"), visited, order)?;
        }
        order.push(Module { file: format!("{name}.ko"), content });
        Ok(())
    }
}

/// `dm_crypt` for `…/dm-crypt.ko.xz`: the kernel's own spelling.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(stem.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(Error::io("reading", path))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut XzDecoder::new(bytes.as_slice()), &mut out)
        .map_err(Error::io("decompressing", path))?;
    Ok(out)
}
