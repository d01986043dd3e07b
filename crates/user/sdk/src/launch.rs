//! The customer's part of a launch: whether an image can start under a profile, and the signed ID block of an SNP guest.
//!
//! ```text
//!   snp-id.key       signs the ID block of each instance: the processor starts no other guest with it
//!   snp-author.key   signs the ID key
//! ```
//!
//! Both are ECDSA P-384 (PKCS #8, PEM), made when an SNP guest or a policy for one is first wanted. Reports name both by
//! digest, and policies pin those. Who loses them launches new instances under new keys; the old ones go on.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use lambda_attest::{Hex, Policy, Reference};
use lambda_crypto::id_block::{self, IdBlock, IdKey};
use lambda_types::image::ImageManifest;
use lambda_types::launch::{SNP_POLICY, SnpLaunch};
use lambda_types::shape::{LaunchProfile, Shape};
use zeroize::Zeroizing;

use crate::config::Folder;
use crate::images::Trusted;
use crate::{Error, files};

const ID_FILE: &str = "snp-id.key";
const AUTHOR_FILE: &str = "snp-author.key";
const LOCK_FILE: &str = "snp-keys.lock";

/// FAMILY_ID of the ID blocks that are made here.
const FAMILY: [u8; 16] = *b"lambda\0\0\0\0\0\0\0\0\0\0";

/// The customer's keys for ID blocks. Wiped when dropped.
pub struct LaunchKeys {
    id: IdKey,
    author: IdKey,
}

/// What SNP reports call the customer's keys: SHA-384 of each public key's structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchDigests {
    /// Of the ID key.
    pub id: Hex<48>,
    /// Of the author key.
    pub author: Hex<48>,
}

impl LaunchKeys {
    /// The stored keys; one that is not there is made.
    ///
    /// # Errors
    /// When a file cannot be read or written, is open to others, or holds something else.
    pub fn load_or_create(folder: &Folder) -> Result<Self, Error> {
        files::make_folder(folder.path())?;
        let _lock = files::lock(&folder.join(LOCK_FILE))?;
        let key = |name| match load(folder, name)? {
            Some(key) => Ok(key),
            None => create(folder, name),
        };
        Ok(Self { id: key(ID_FILE)?, author: key(AUTHOR_FILE)? })
    }

    /// The stored keys; `None` when they were never made.
    ///
    /// # Errors
    /// As [`Self::load_or_create`], and when only one of the two is there.
    pub fn load(folder: &Folder) -> Result<Option<Self>, Error> {
        match (load(folder, ID_FILE)?, load(folder, AUTHOR_FILE)?) {
            (None, None) => Ok(None),
            (Some(id), Some(author)) => Ok(Some(Self { id, author })),
            (None, _) | (_, None) => {
                let path = folder.path().into();
                let detail = format!("of {ID_FILE} and {AUTHOR_FILE} one is missing: restore it from your backup");
                Err(Error::Damaged { path, detail })
            }
        }
    }

    /// What reports call them.
    #[must_use]
    pub fn digests(&self) -> LaunchDigests {
        LaunchDigests { id: Hex(self.id.digest()), author: Hex(self.author.digest()) }
    }

    /// An SNP launch that the processor refuses unless the guest measures to `measurement`.
    fn sign(&self, image: &Trusted, measurement: [u8; 48]) -> SnpLaunch {
        let block =
            IdBlock { measurement, family_id: FAMILY, image_id: image.id.to_bytes(), guest_svn: 0, policy: SNP_POLICY };
        SnpLaunch {
            policy: SNP_POLICY,
            id_block: Some(block.to_bytes().to_vec().into()),
            id_auth: Some(id_block::sign(&block, &self.id, &self.author).to_vec().into()),
        }
    }
}

fn load(folder: &Folder, name: &str) -> Result<Option<IdKey>, Error> {
    let path = folder.join(name);
    let Some(bytes) = files::read(&path)?.map(Zeroizing::new) else { return Ok(None) };
    let mode = |source| Error::File { action: "read", path: path.clone(), source };
    let mode = std::fs::metadata(&path).map_err(mode)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Usage(format!("others may read {0} (mode {mode:03o}): chmod 600 {0}", path.display())));
    }
    let key = std::str::from_utf8(&bytes).ok().and_then(|pem| IdKey::from_pem(pem).ok());
    let damaged = |path: PathBuf| Error::Damaged {
        path,
        detail: "it is not an ECDSA P-384 private key (PKCS #8, PEM): restore it from your backup".into(),
    };
    key.map(Some).ok_or_else(|| damaged(path))
}

fn create(folder: &Folder, name: &str) -> Result<IdKey, Error> {
    let what = "cannot make a key for ID blocks";
    let key = IdKey::generate().map_err(Error::crypto(what))?;
    files::write(&folder.join(name), key.to_pem().map_err(Error::crypto(what))?.as_bytes())?;
    Ok(key)
}

/// What goes with a creation under this profile: for `snp` the signed ID block, elsewhere nothing.
///
/// # Errors
/// When nothing says what the image measures to under this profile and in this shape: says what to do.
pub(crate) fn prepare(
    folder: &Folder,
    image: &Trusted,
    shape: Shape,
    profile: LaunchProfile,
    policy: Option<&Policy>,
) -> Result<Option<SnpLaunch>, Error> {
    let expected = &image.manifest.expected;
    let missing = |known: Vec<Shape>| Err(Error::Usage(missing(&image.manifest, profile, shape, &known)));
    match profile {
        LaunchProfile::Tpm | LaunchProfile::Sgx if !expected.tpm.contains_key(&shape) => {
            missing(expected.tpm.keys().copied().collect())
        }
        LaunchProfile::Tdx if !expected.tdx.contains_key(&shape) => missing(expected.tdx.keys().copied().collect()),
        LaunchProfile::Cca if !names(policy, image, shape) => missing(Vec::new()),
        LaunchProfile::Tpm | LaunchProfile::Sgx | LaunchProfile::Tdx | LaunchProfile::Cca => Ok(None),
        LaunchProfile::Snp => {
            let Some(expected) = expected.snp.get(&shape) else {
                return missing(image.manifest.expected.snp.keys().copied().collect());
            };
            let measurement: Hex<48> = expected
                .measurement
                .parse()
                .map_err(|why| Error::Usage(format!("the image's launch measurement cannot be used: {why}")))?;
            Ok(Some(LaunchKeys::load_or_create(folder)?.sign(image, measurement.0)))
        }
    }
}

/// Whether the policy knows what a realm of this image measures to. No manifest does.
fn names(policy: Option<&Policy>, image: &Trusted, shape: Shape) -> bool {
    let reference = policy.and_then(|policy| policy.cca.as_ref()?.initial_measurement.as_ref());
    match reference {
        Some(Reference::Images(images)) => {
            images.iter().any(|known| known.image == image.id && known.shapes.contains_key(&shape))
        }
        Some(Reference::Any | Reference::OneOf(_)) | None => false,
    }
}

/// Why an image cannot be launched so, and what to do.
fn missing(image: &ImageManifest, profile: LaunchProfile, shape: Shape, known: &[Shape]) -> String {
    let ImageManifest { name, version, .. } = image;
    if !known.is_empty() {
        let known: Vec<&str> = known.iter().map(|shape| shape.name()).collect();
        return format!(
            "image `{name}` {version} has no reference values for profile {profile} in shape `{shape}`; it has them for {}",
            known.join(", ")
        );
    }
    let cause = without_values(profile);
    format!("image `{name}` {version} has no reference values for profile {profile}: {cause}")
}

/// Why an image has no reference values for a profile, and what to do.
pub(crate) const fn without_values(profile: LaunchProfile) -> &'static str {
    match profile {
        LaunchProfile::Tpm | LaunchProfile::Sgx => "its image.json is not complete; build or import it again",
        LaunchProfile::Snp | LaunchProfile::Tdx => {
            "it was made on a machine that has no firmware for it. Install one, then `lambda image build` or `lambda image \
             import` it again, which say what firmware they find and what is missing, and `lambda image trust` the result"
        }
        LaunchProfile::Cca => {
            "none can be computed from an image. Give --policy with a section `cca` whose `initial_measurement` names this \
             image and shape"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::make_tests;

    fn image() -> Trusted {
        Trusted::parse(&make_tests::image()).unwrap()
    }

    fn folder() -> (Folder, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Folder::at(dir.path()), dir)
    }

    fn refused(image: &Trusted, shape: Shape, profile: LaunchProfile) -> String {
        let (folder, dir) = folder();
        let error = prepare(&folder, image, shape, profile, None).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a refused creation made something");
        error.to_string()
    }

    #[test]
    fn keys_are_made_once_for_their_owner_alone() {
        let (folder, _dir) = folder();
        assert!(LaunchKeys::load(&folder).unwrap().is_none());
        let made = LaunchKeys::load_or_create(&folder).unwrap().digests();
        assert_ne!(made.id, made.author);
        for name in [ID_FILE, AUTHOR_FILE] {
            assert_eq!(std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(LaunchKeys::load_or_create(&folder).unwrap().digests(), made);
        assert_eq!(LaunchKeys::load(&folder).unwrap().unwrap().digests(), made);
    }

    #[test]
    fn processes_that_need_the_keys_at_once_agree_on_them() {
        let (folder, _dir) = folder();
        let made = || LaunchKeys::load_or_create(&folder).unwrap().digests();
        let all: Vec<LaunchDigests> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(made)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|digests| *digests == all[0]), "{all:?}");
    }

    #[test]
    fn a_key_that_is_damaged_lost_or_open_to_others_is_not_replaced() {
        let (folder, _dir) = folder();
        let _ = LaunchKeys::load_or_create(&folder).unwrap();
        let path = folder.join(ID_FILE);
        let kept = std::fs::read(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let Err(Error::Usage(why)) = LaunchKeys::load_or_create(&folder) else { panic!("read although others may") };
        assert!(why.contains("chmod 600"), "{why}");
        files::write(&path, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        assert!(matches!(LaunchKeys::load_or_create(&folder), Err(Error::Damaged { .. })));
        files::write(&path, &kept).unwrap();
        files::remove(&folder.join(AUTHOR_FILE)).unwrap();
        assert!(matches!(LaunchKeys::load(&folder), Err(Error::Damaged { .. })));
    }

    #[test]
    fn an_snp_launch_carries_a_block_over_the_images_measurement_in_this_shape_that_holds_under_the_customers_keys() {
        let (folder, _dir) = folder();
        let image = image();
        let launch = prepare(&folder, &image, Shape::Small, LaunchProfile::Snp, None).unwrap().unwrap();
        launch.check(LaunchProfile::Snp).unwrap();
        let (block, auth) = (launch.id_block.unwrap(), launch.id_auth.unwrap());
        let held = id_block::verify(block.as_slice(), auth.as_slice()).unwrap();
        assert_eq!(hex::encode(held.block.measurement), image.manifest.expected.snp[&Shape::Small].measurement);
        assert_eq!((held.block.policy, held.block.image_id), (SNP_POLICY, image.id.to_bytes()));
        let ours = LaunchKeys::load(&folder).unwrap().unwrap().digests();
        assert_eq!((Hex(held.id_key), Hex(held.author_key)), (ours.id, ours.author));
    }

    #[test]
    fn other_profiles_than_snp_take_nothing_along() {
        let (folder, _dir) = folder();
        for profile in [LaunchProfile::Tpm, LaunchProfile::Sgx, LaunchProfile::Tdx] {
            assert_eq!(
                prepare(&folder, &make_tests::with_tpm(), Shape::Small, profile, None).unwrap(),
                None,
                "{profile}"
            );
        }
    }

    #[test]
    fn a_profile_or_shape_without_reference_values_is_refused_with_what_to_do() {
        let tpm_alone = Trusted::parse(&crate::images::tests::manifest("d", "1")).unwrap();
        for profile in [LaunchProfile::Snp, LaunchProfile::Tdx] {
            let why = refused(&tpm_alone, Shape::Small, profile);
            assert!(why.contains(profile.name()) && why.contains("lambda image build"), "{why}");
            let why = refused(&image(), Shape::Large, profile);
            assert!(why.contains("`large`") && why.contains("it has them for small"), "{why}");
        }
        for profile in [LaunchProfile::Tpm, LaunchProfile::Sgx] {
            assert!(refused(&image(), Shape::Small, profile).contains("image.json"), "{profile}");
        }
        assert!(refused(&image(), Shape::Small, LaunchProfile::Cca).contains("--policy"));
    }

    #[test]
    fn a_realm_is_launched_only_where_the_policy_names_what_it_measures_to() {
        let (folder, _dir) = folder();
        let image = image();
        let policy = |image: &str, shape: &str| {
            let known = serde_json::json!([{"image": image, "name": "d", "version": "1", "shapes": {shape: "00"}}]);
            let document = serde_json::json!({"version": 1, "cca": {"initial_measurement": {"images": known}}});
            Policy::parse(document.to_string().as_bytes()).unwrap()
        };
        let launched = |policy: &Policy| prepare(&folder, &image, Shape::Small, LaunchProfile::Cca, Some(policy));
        assert_eq!(launched(&policy(&image.id.to_string(), "small")).unwrap(), None);
        assert!(launched(&policy(&image.id.to_string(), "large")).is_err());
        assert!(launched(&policy(&lambda_types::ImageId::from_bits(1).to_string(), "small")).is_err());
    }
}
