//! The reference values that the customer trusts: copies of `image.json` files, kept by content.
//!
//! The cloud's catalogue only says which images are there. What an image must measure to comes from here: a manifest that
//! the customer computed from the image's parts, or was given by someone it trusts.

use std::path::PathBuf;

use lambda_types::ImageId;
use lambda_types::image::{FORMAT, ImageManifest};
use lambda_types::node::OfferedImage;
use sha2::{Digest as _, Sha256};

use crate::config::Folder;
use crate::{Error, files};

/// A trusted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Names the manifest's exact bytes.
    pub id: ImageId,
    /// The manifest.
    pub manifest: ImageManifest,
    /// The manifest as its builder wrote it.
    pub bytes: Vec<u8>,
}

impl Trusted {
    /// From a manifest's bytes.
    ///
    /// # Errors
    /// When they are no manifest of a known format.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let manifest: ImageManifest = serde_json::from_slice(bytes)
            .map_err(|error| Error::Usage(format!("not an image manifest (image.json): {error}")))?;
        if manifest.format != FORMAT {
            return Err(Error::Usage(format!(
                "image format {} is not known to this program: update it",
                manifest.format
            )));
        }
        Ok(Self { id: id_of(bytes), manifest, bytes: bytes.to_vec() })
    }

    fn answers(&self, query: &str) -> bool {
        let ImageManifest { name, version, .. } = &self.manifest;
        query == name || query.split_once(':') == Some((name, version)) || query == self.id.to_string()
    }
}

/// The id of a manifest: the first 128 bits of its SHA-256.
#[must_use]
pub fn id_of(bytes: &[u8]) -> ImageId {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let bits = digest.iter().take(16).fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
    ImageId::from_bits(bits)
}

fn path(folder: &Folder, id: ImageId) -> Result<PathBuf, Error> {
    Ok(folder.subfolder("images")?.join(format!("{id}.json")))
}

/// Trusts a manifest from now on.
///
/// # Errors
/// When it is not a manifest or cannot be stored.
pub fn trust(folder: &Folder, bytes: &[u8]) -> Result<Trusted, Error> {
    let trusted = Trusted::parse(bytes)?;
    files::write(&path(folder, trusted.id)?, bytes)?;
    Ok(trusted)
}

/// The trusted image with this id.
///
/// # Errors
/// When there is none, or its file was altered.
pub fn load(folder: &Folder, id: ImageId) -> Result<Trusted, Error> {
    let path = path(folder, id)?;
    let bytes = files::read(&path)?.ok_or_else(|| {
        Error::NotTrusted(format!("no reference values for {id}: run `lambda image trust DIR` with the image's folder"))
    })?;
    let trusted = Trusted::parse(&bytes)?;
    if trusted.id != id {
        return Err(Error::Damaged { path, detail: format!("its content is {}", trusted.id) });
    }
    Ok(trusted)
}

/// Every trusted image, by name and version.
///
/// # Errors
/// When one cannot be read.
pub fn list(folder: &Folder) -> Result<Vec<Trusted>, Error> {
    let path = folder.subfolder("images")?;
    let fail = |source| Error::File { action: "read", path: path.clone(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
        if let Some(id) = id {
            found.push(load(folder, id)?);
        }
    }
    found.sort_by(|a, b| {
        (&a.manifest.name, &a.manifest.version, a.id).cmp(&(&b.manifest.name, &b.manifest.version, b.id))
    });
    Ok(found)
}

/// The trusted and offered image that `query` names: a name, `name:version`, or an id. Of several versions, the newest.
///
/// # Errors
/// Says whether it is not offered or not trusted.
pub fn choose(trusted: &[Trusted], offered: &[OfferedImage], query: &str) -> Result<Trusted, Error> {
    let named: Vec<&Trusted> = trusted.iter().filter(|image| image.answers(query)).collect();
    let there = |image: &Trusted| offered.iter().any(|offer| offer.id == image.id);
    let both = named.iter().filter(|image| there(image)).max_by(|a, b| a.manifest.version.cmp(&b.manifest.version));
    if let Some(image) = both {
        return Ok((*image).clone());
    }
    let catalogue = offered.iter().find(|offer| offer.name == query || offer.id.to_string() == query);
    Err(match (named.is_empty(), catalogue) {
        (true, Some(offer)) => Error::NotTrusted(format!(
            "`{query}` ({} {}) is offered but you do not trust it: run `lambda image trust DIR` with its folder",
            offer.id, offer.version
        )),
        (false, Some(offer)) => Error::NotTrusted(format!(
            "the offered `{query}` is {}, and you trust other contents of that name: compare them with \
             `lambda image measure DIR`, then run `lambda image trust DIR`",
            offer.id
        )),
        (_, None) => Error::Usage(format!("no image `{query}` is offered; `lambda image list` shows what is")),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn manifest(name: &str, version: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({
            "format": 1, "name": name, "version": version, "parts": {},
            "verity": {"root_hash": "", "salt": "", "data_size": 0},
            "command_line": "", "expected": {"tpm": {}}
        }))
        .unwrap()
    }

    fn offer(image: &Trusted) -> OfferedImage {
        OfferedImage { id: image.id, name: image.manifest.name.clone(), version: image.manifest.version.clone() }
    }

    #[test]
    fn a_trusted_image_comes_back_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let image = trust(&folder, &manifest("debian-12", "1")).unwrap();
        assert_eq!(list(&folder).unwrap(), std::slice::from_ref(&image));
        let file = path(&folder, image.id).unwrap();
        files::write(&file, &manifest("debian-12", "2")).unwrap();
        assert!(matches!(load(&folder, image.id), Err(Error::Damaged { .. })), "altered on disk");
    }

    #[test]
    fn the_newest_version_that_is_both_trusted_and_offered_is_chosen() {
        let [one, two, three] = ["1", "2", "3"].map(|version| Trusted::parse(&manifest("d", version)).unwrap());
        let trusted = [one.clone(), two.clone(), three];
        let offered = [offer(&one), offer(&two)];
        assert_eq!(choose(&trusted, &offered, "d").unwrap(), two);
        assert_eq!(choose(&trusted, &offered, "d:1").unwrap(), one);
        assert_eq!(choose(&trusted, &offered, &one.id.to_string()).unwrap(), one);
    }

    #[test]
    fn an_offered_image_that_is_not_trusted_is_refused() {
        let [ours, theirs] = ["1", "2"].map(|version| Trusted::parse(&manifest("d", version)).unwrap());
        assert!(matches!(choose(&[], &[offer(&ours)], "d"), Err(Error::NotTrusted(_))));
        assert!(
            matches!(choose(&[ours], &[offer(&theirs)], "d"), Err(Error::NotTrusted(_))),
            "same name, other content"
        );
        assert!(matches!(choose(&[], &[], "d"), Err(Error::Usage(_))));
    }
}
