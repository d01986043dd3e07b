//! Images on the node: found in folders, verified part by part before they are offered or used.
//!
//! A verified part is remembered by size and modification time, so that a scan reads only what has changed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lambda_types::ImageId;
use lambda_types::image::{FORMAT, ImageManifest, file};
use lambda_types::node::OfferedImage;
use sha2::{Digest as _, Sha256};

/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;

/// Parts without which nothing boots.
const NEEDED: [&str; 4] = [file::KERNEL, file::INITRAMFS, file::ROOT, file::FIRMWARE];

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is malformed.
    #[error("{path} is not a usable manifest: {reason}")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A part is not what the manifest says.
    #[error("{path} is not the file that image.json names: its {what} differs; copy the image again")]
    Part {
        /// Which file.
        path: PathBuf,
        /// `size` or `hash`.
        what: &'static str,
    },
    /// A guest's QEMU could not read it.
    #[error("{path} is not readable by everyone, and QEMU runs as a user of its own; chmod a+r it")]
    Private {
        /// Which file.
        path: PathBuf,
    },
    /// No folder holds it.
    #[error("image {0} is not on this node")]
    Unknown(ImageId),
}

/// A verified image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) id: ImageId,
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Arc<ImageManifest>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
    inode: u64,
}

/// The images below some folders.
#[derive(Default)]
pub(crate) struct Images {
    folders: Vec<PathBuf>,
    verified: Mutex<HashMap<Stamp, String>>,
    found: Mutex<Vec<Image>>,
}

impl Images {
    pub(crate) fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders, ..Self::default() }
    }

    /// Looks at every folder again; what cannot be used is reported in the log and left out. Blocks.
    pub(crate) fn scan(&self) -> Vec<OfferedImage> {
        let mut images: Vec<Image> = Vec::new();
        for folder in self.candidates() {
            match self.load(&folder) {
                Ok(image) if images.iter().any(|known| known.id == image.id) => {}
                Ok(image) => images.push(image),
                Err(error) => tracing::warn!(folder = %folder.display(), %error, "image refused"),
            }
        }
        images.sort_by_key(|image| image.id);
        let offered = images.iter().map(Image::offered).collect();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = images;
        offered
    }

    /// An image of the last scan, its parts checked against changes since. Blocks when one has changed.
    ///
    /// # Errors
    /// When it is not there or is not what its id says.
    pub(crate) fn get(&self, id: ImageId) -> Result<Image, ImageError> {
        let known = {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.iter().find(|image| image.id == id).cloned()
        };
        let folder = match known {
            Some(image) => image.folder,
            None => {
                self.scan();
                let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found
                    .iter()
                    .find(|image| image.id == id)
                    .map(|image| image.folder.clone())
                    .ok_or(ImageError::Unknown(id))?
            }
        };
        let image = self.load(&folder)?;
        if image.id == id { Ok(image) } else { Err(ImageError::Unknown(id)) }
    }

    /// A kernel to probe acceleration with.
    pub(crate) fn any_kernel(&self) -> Option<PathBuf> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.first().map(|image| image.folder.join(file::KERNEL))
    }

    /// An image of the last scan that has this part.
    pub(crate) fn with_part(&self, name: &str) -> Option<Image> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().find(|image| image.manifest.part(name).is_some()).cloned()
    }

    /// Folders with a manifest: the given ones and their children.
    fn candidates(&self) -> Vec<PathBuf> {
        let mut candidates = Vec::new();
        for folder in &self.folders {
            if folder.join(file::MANIFEST).exists() {
                candidates.push(folder.clone());
            }
            let children = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
            candidates.extend(children.map(|entry| entry.path()).filter(|path| path.join(file::MANIFEST).exists()));
        }
        candidates.sort();
        candidates
    }

    fn load(&self, folder: &Path) -> Result<Image, ImageError> {
        // QEMU works in another folder, and a link may be replaced while a guest runs.
        let folder = folder.canonicalize().map_err(|source| ImageError::Read { path: folder.into(), source })?;
        let path = folder.join(file::MANIFEST);
        let bytes = read_manifest(&path).map_err(|source| ImageError::Read { path: path.clone(), source })?;
        let refused = |reason: String| ImageError::Manifest { path: path.clone(), reason };
        let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(refused(format!("format {} instead of {FORMAT}", manifest.format)));
        }
        if let Some(missing) = NEEDED.iter().find(|name| manifest.part(name).is_none()) {
            return Err(refused(format!("it names no {missing}")));
        }
        for (name, part) in &manifest.parts {
            if name.contains('/') || name.starts_with('.') {
                return Err(refused("a part's name is a path".into()));
            }
            self.verify(&folder.join(name), part.size, &part.sha256)?;
        }
        Ok(Image { id: image_id(&bytes), folder, manifest: Arc::new(manifest) })
    }

    fn verify(&self, path: &Path, size: u64, sha256: &str) -> Result<(), ImageError> {
        let unreadable = |source| ImageError::Read { path: path.into(), source };
        let mut part = File::open(path).map_err(unreadable)?;
        let metadata = part.metadata().map_err(unreadable)?;
        if metadata.len() != size {
            return Err(ImageError::Part { path: path.into(), what: "size" });
        }
        let stamp = Stamp {
            path: path.into(),
            size,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
        };
        let cached = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(&stamp).cloned();
        let digest = match cached {
            Some(digest) => digest,
            None => hash(&mut part).map_err(unreadable)?,
        };
        let good = digest == sha256;
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(stamp, digest);
        if good { Ok(()) } else { Err(ImageError::Part { path: path.into(), what: "hash" }) }
    }
}

impl Image {
    fn offered(&self) -> OfferedImage {
        OfferedImage { id: self.id, name: self.manifest.name.clone(), version: self.manifest.version.clone() }
    }

    /// Opens a part that QEMU's user can open again.
    ///
    /// # Errors
    /// When it is missing or not world-readable.
    pub(crate) fn open(&self, name: &str) -> Result<File, ImageError> {
        let path = self.folder.join(name);
        let unreadable = |source| ImageError::Read { path: path.clone(), source };
        let part = File::open(&path).map_err(unreadable)?;
        if part.metadata().map_err(unreadable)?.mode() & 0o004 == 0 {
            return Err(ImageError::Private { path });
        }
        Ok(part)
    }
}

/// The first 128 bits of the manifest's SHA-256.
fn image_id(manifest: &[u8]) -> ImageId {
    let digest = Sha256::digest(manifest);
    let bits = digest.iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
    ImageId::from_bits(bits)
}

fn read_manifest(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else {
            return Ok(hex::encode(hasher.finalize()));
        };
        hasher.update(chunk);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use lambda_types::image::{Expected, Part, Verity};

    use super::*;

    /// An image folder whose parts are these bytes.
    pub(crate) fn write_image(folder: &Path, parts: &[(&str, &[u8])]) -> ImageId {
        std::fs::create_dir_all(folder).unwrap();
        let mut named = BTreeMap::new();
        for (name, bytes) in parts {
            std::fs::write(folder.join(name), bytes).unwrap();
            let part = Part { size: bytes.len() as u64, sha256: hex::encode(Sha256::digest(bytes)) };
            named.insert((*name).to_owned(), part);
        }
        let manifest = ImageManifest {
            format: FORMAT,
            name: "test".into(),
            version: "1".into(),
            parts: named,
            verity: Verity { root_hash: String::new(), salt: String::new(), data_size: 0 },
            command_line: "quiet".into(),
            expected: Expected::default(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        std::fs::write(folder.join(file::MANIFEST), &bytes).unwrap();
        image_id(&bytes)
    }

    pub(crate) const PARTS: [(&str, &[u8]); 4] =
        [(file::KERNEL, b"k"), (file::INITRAMFS, b"i"), (file::ROOT, b"r"), (file::FIRMWARE, b"f")];

    #[test]
    fn an_image_is_named_by_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let id = write_image(&folder.path().join("a"), &PARTS);
        let images = Images::new(vec![folder.path().into()]);
        assert_eq!(images.scan().first().map(|image| image.id), Some(id));
        assert_eq!(images.get(id).unwrap().id, id);
        let direct = Images::new(vec![folder.path().join("a")]);
        assert_eq!(direct.scan().len(), 1);
    }

    #[test]
    fn a_part_that_changes_after_the_scan_is_refused_at_use() {
        let folder = tempfile::tempdir().unwrap();
        let id = write_image(&folder.path().join("a"), &PARTS);
        let images = Images::new(vec![folder.path().into()]);
        assert_eq!(images.scan().len(), 1);
        std::fs::write(folder.path().join("a/kernel"), b"K").unwrap();
        assert!(matches!(images.get(id), Err(ImageError::Part { what: "hash", .. })));
        std::fs::write(folder.path().join("a/kernel"), b"longer").unwrap();
        assert!(matches!(images.get(id), Err(ImageError::Part { what: "size", .. })));
        assert!(images.scan().is_empty());
        assert!(matches!(images.get(id), Err(ImageError::Unknown(_))));
    }

    #[test]
    fn a_manifest_that_lacks_a_part_or_names_a_path_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_image(&folder.path().join("a"), &PARTS[..3]);
        std::fs::create_dir(folder.path().join("b")).unwrap();
        std::fs::write(folder.path().join("b/image.json"), b"{}").unwrap();
        assert!(Images::new(vec![folder.path().into()]).scan().is_empty());
    }
}
