//! Release policies: one that the customer wrote, or one that demands exactly a trusted image under the pinned platform CA.

use std::path::Path;

use lambda_attest::Policy;
use lambda_types::ImageId;

use crate::config::{Folder, Platform};
use crate::{Error, files, images};

/// A policy that accepts exactly this image under this platform CA.
///
/// # Errors
/// When the manifest or the CA is not usable.
pub fn from_manifest(manifest: &[u8], platform: &Platform) -> Result<Policy, Error> {
    Policy::for_image(manifest, &platform.platform_ca)
        .map_err(|error| Error::Usage(format!("no policy can be made from this image: {error}")))
}

/// A policy file.
///
/// # Errors
/// When it cannot be read or is not a policy.
pub fn load_file(path: &Path) -> Result<Policy, Error> {
    let bytes = files::read(path)?.ok_or_else(|| Error::Usage(format!("no policy file {}", path.display())))?;
    Policy::parse(&bytes).map_err(|error| Error::Usage(format!("{} is not a policy: {error}", path.display())))
}

/// The policy for instances of an image: `policies/<id>.json` when the customer wrote one, else made from the trusted image.
///
/// # Errors
/// When the image is not trusted, or the file is not a policy.
pub fn for_image(folder: &Folder, platform: &Platform, image: ImageId) -> Result<Policy, Error> {
    let path = folder.subfolder("policies")?.join(format!("{image}.json"));
    if path.exists() {
        return load_file(&path);
    }
    from_manifest(&images::load(folder, image)?.bytes, platform)
}
