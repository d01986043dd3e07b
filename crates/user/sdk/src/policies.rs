//! Release policies: one that the customer wrote, or one that demands exactly a trusted image under the pinned platform CA.

use std::path::{Path, PathBuf};

use lambda_attest::Policy;
use lambda_types::{ImageId, InstanceId};

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

/// Where a policy came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This file, given for the instance.
    Instance(PathBuf),
    /// This file, written for the instance's image.
    Image(PathBuf),
    /// Made from the trusted image.
    TrustedImage,
}

/// A policy, and where it came from.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The policy.
    pub policy: Policy,
    /// Its source.
    pub source: Source,
}

fn path(folder: &Folder, id: impl std::fmt::Display) -> Result<PathBuf, Error> {
    Ok(folder.subfolder("policies")?.join(format!("{id}.json")))
}

/// The policy for an instance: the one that was given for it, else the one written for its image, else one made from the
/// trusted image.
///
/// # Errors
/// When the image is not trusted, or the file is not a policy.
pub fn for_instance(
    folder: &Folder,
    platform: &Platform,
    instance: InstanceId,
    image: ImageId,
) -> Result<Chosen, Error> {
    let (given, written) = (path(folder, instance)?, path(folder, image)?);
    if given.exists() {
        return Ok(Chosen { policy: load_file(&given)?, source: Source::Instance(given) });
    }
    if written.exists() {
        return Ok(Chosen { policy: load_file(&written)?, source: Source::Image(written) });
    }
    let policy = from_manifest(&images::load(folder, image)?.bytes, platform)?;
    Ok(Chosen { policy, source: Source::TrustedImage })
}

/// Judges an instance by this policy from here on, in place of any other.
///
/// # Errors
/// When it cannot be stored.
pub fn remember(folder: &Folder, instance: InstanceId, policy: &Policy) -> Result<(), Error> {
    files::write(&path(folder, instance)?, &policy.to_json())
}

/// Forgets what was given for an instance that was deleted.
///
/// # Errors
/// When the file cannot be removed.
pub fn forget(folder: &Folder, instance: InstanceId) -> Result<(), Error> {
    files::remove(&path(folder, instance)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform { region: "local".into(), platform_ca: String::new(), fingerprint: String::new() }
    }

    #[test]
    fn the_instances_policy_goes_before_the_images_and_stays_until_the_instance_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let (id, image) = (InstanceId::from_bits(1), ImageId::from_bits(2));
        let chosen = || for_instance(&folder, &platform(), id, image);
        assert!(matches!(chosen(), Err(Error::NotTrusted(_))));
        let policy = |version| Policy { version, minimum_tier: None, tpm: None };
        files::write(&path(&folder, image).unwrap(), &policy(1).to_json()).unwrap();
        assert!(matches!(chosen().unwrap().source, Source::Image(_)));
        let given = Policy { minimum_tier: Some(lambda_types::shape::Tier::Hardware), ..policy(1) };
        remember(&folder, id, &given).unwrap();
        let found = chosen().unwrap();
        assert_eq!(found.policy, given);
        assert!(matches!(found.source, Source::Instance(_)));
        let other = for_instance(&folder, &platform(), InstanceId::from_bits(3), image).unwrap();
        assert_eq!(other.policy, policy(1), "another instance of the image");
        forget(&folder, id).unwrap();
        forget(&folder, id).unwrap();
        assert!(matches!(chosen().unwrap().source, Source::Image(_)));
    }

    #[test]
    fn a_damaged_policy_of_an_instance_is_refused_and_not_replaced_by_a_wider_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let (id, image) = (InstanceId::from_bits(1), ImageId::from_bits(2));
        let wide = Policy { version: 1, minimum_tier: None, tpm: None };
        files::write(&path(&folder, image).unwrap(), &wide.to_json()).unwrap();
        files::write(&path(&folder, id).unwrap(), b"{").unwrap();
        assert!(matches!(for_instance(&folder, &platform(), id, image), Err(Error::Usage(_))));
    }
}
