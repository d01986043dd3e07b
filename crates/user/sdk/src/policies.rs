//! Release policies: one that the customer wrote, or one that demands exactly a trusted image under the pinned platform CA.
//!
//! A policy is a JSON document, plain or in a signed envelope. A machine that pins policy keys (`policy-keys.pem` in the
//! configuration folder) takes no other policy file than one that such a key signed; one that pins none takes either, and
//! says which it was.

mod gaps;
pub mod keys;
mod make;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;
use lambda_attest::envelope::{Envelope, POLICY_TYPE};
use lambda_attest::{MAX_POLICY_BYTES, Policy};
use lambda_types::shape::LaunchProfile;
use lambda_types::{ImageId, InstanceId};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::{Folder, Platform};
use crate::launch::LaunchKeys;
use crate::{Error, files, images};

pub use gaps::{Gap, gaps};
#[cfg(test)]
pub(crate) use make::tests as make_tests;
pub use make::{Pins, make, pins_launch_keys};

/// Most bytes of a signed policy: the document in base64, and its signatures.
const MAX_SIGNED_BYTES: usize = 2 * MAX_POLICY_BYTES;

/// A policy that accepts exactly this image under this platform CA.
///
/// # Errors
/// When the manifest or the CA is not usable.
pub fn from_manifest(manifest: &[u8], platform: &Platform) -> Result<Policy, Error> {
    Policy::for_image(manifest, &platform.platform_ca)
        .map_err(|error| Error::Usage(format!("no policy can be made from this image: {error}")))
}

/// What is known of who wrote a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorship {
    /// It is not signed.
    Unsigned,
    /// It names signers, and no key was there to check that with.
    Unchecked {
        /// Ids of the keys that it names.
        signers: Vec<String>,
    },
    /// This key signed it.
    Signed {
        /// Its id.
        key: String,
    },
}

/// A policy file.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Who wrote it.
    pub authorship: Authorship,
}

/// A policy file, as the policy keys pinned in this folder allow.
///
/// # Errors
/// When it cannot be read or is not a policy, or keys are pinned and none of them signed it.
pub fn load_file(folder: &Folder, path: &Path) -> Result<Loaded, Error> {
    load_signed_by(path, &pinned(folder)?)
}

/// A policy file that one of these keys must have signed, when there are any.
///
/// # Errors
/// When it cannot be read or is not a policy, or none of the keys signed it.
pub fn load_signed_by(path: &Path, keys: &[VerifyingKey]) -> Result<Loaded, Error> {
    let shown = path.display();
    let bytes = read_document(path, MAX_SIGNED_BYTES)?;
    let parse =
        |bytes: &[u8]| Policy::parse(bytes).map_err(|error| Error::Usage(format!("{shown} is not a policy: {error}")));
    if !is_envelope(&bytes) {
        let policy = parse(&bytes)?;
        if !keys.is_empty() {
            return Err(Error::NotTrusted(format!(
                "{shown} is not signed, and policies have to be: run `lambda attest policy sign` on it, or unpin the policy key"
            )));
        }
        return Ok(Loaded { policy, authorship: Authorship::Unsigned });
    }
    let envelope =
        Envelope::parse(&bytes).map_err(|error| Error::Usage(format!("{shown} is not a signed policy: {error}")))?;
    if envelope.payload_type != POLICY_TYPE {
        return Err(Error::Usage(format!("{shown} is a signed `{}`, not a policy", envelope.payload_type)));
    }
    let policy = parse(envelope.payload.as_slice())?;
    let authorship = if keys.is_empty() {
        Authorship::Unchecked { signers: envelope.signatures.into_iter().map(|signature| signature.keyid).collect() }
    } else {
        let (_, key) =
            envelope.open(POLICY_TYPE, keys).map_err(|error| Error::NotTrusted(format!("{shown}: {error}")))?;
        Authorship::Signed { key: keys::id(key) }
    };
    Ok(Loaded { policy, authorship })
}

/// A signed policy file.
#[must_use]
pub fn sign(policy: &Policy, key: &keys::PolicyKey) -> Vec<u8> {
    key.sign(POLICY_TYPE, policy.to_json())
}

/// The bytes of a document, if they are not too many.
pub(crate) fn read_document(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("cannot read {}: {error}", path.display()));
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) {
        return Ok(bytes);
    }
    Err(Error::Usage(format!("{} is longer than {most} bytes", path.display())))
}

/// Whether a document says that it is a signed one. Nothing is trusted for it.
pub(crate) fn is_envelope(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Marked {
        #[serde(rename = "payloadType")]
        _marker: IgnoredAny,
    }
    serde_json::from_slice::<Marked>(bytes).is_ok()
}

fn pins(folder: &Folder) -> PathBuf {
    folder.join("policy-keys.pem")
}

/// Keys that policies have to be signed with on this machine; none when any policy is taken.
///
/// # Errors
/// When the file of pinned keys cannot be read: it is never taken for an empty one.
pub fn pinned(folder: &Folder) -> Result<Vec<VerifyingKey>, Error> {
    let path = pins(folder);
    match files::read(&path)? {
        None => Ok(Vec::new()),
        Some(bytes) => keys::parse_publics(&bytes).ok_or_else(|| Error::Damaged {
            path,
            detail: "it does not hold Ed25519 public keys (PEM); without pins, remove it".into(),
        }),
    }
}

/// Takes policy files only when one of these keys signed them from here on; whichever when there are none.
///
/// # Errors
/// When it cannot be stored.
pub fn pin(folder: &Folder, keys: &[VerifyingKey]) -> Result<(), Error> {
    if keys.is_empty() {
        return files::remove(&pins(folder));
    }
    files::make_folder(folder.path())?;
    files::write(&pins(folder), keys.iter().map(keys::public_pem).collect::<String>().as_bytes())
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
/// trusted image, for the profile that the instance is launched under.
///
/// # Errors
/// When the image is not trusted or has no values for the profile, the file is not a policy, or the keys that sign ID blocks
/// are not on this machine.
pub fn for_instance(
    folder: &Folder,
    platform: &Platform,
    instance: InstanceId,
    image: ImageId,
    profile: LaunchProfile,
) -> Result<Chosen, Error> {
    let (given, written) = (path(folder, instance)?, path(folder, image)?);
    if given.exists() {
        // This program's own copy of what was checked when it was given.
        return Ok(Chosen { policy: load_signed_by(&given, &[])?.policy, source: Source::Instance(given) });
    }
    if written.exists() {
        return Ok(Chosen { policy: load_file(folder, &written)?.policy, source: Source::Image(written) });
    }
    let manifest = images::load(folder, image)?.bytes;
    let launch = match profile {
        LaunchProfile::Snp => LaunchKeys::load(folder)?.map(|keys| keys.digests()),
        LaunchProfile::Tpm | LaunchProfile::Sgx | LaunchProfile::Tdx | LaunchProfile::Cca => None,
    };
    let policy = make(&manifest, &[profile], &Pins { platform: Some(platform), launch })?;
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

    fn bare() -> Policy {
        Policy::parse(br#"{"version":1}"#).unwrap()
    }

    #[test]
    fn a_machine_that_pins_a_policy_key_takes_nothing_else_and_its_pins_are_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let [plain, signed, other] = ["plain.json", "signed.json", "other.json"].map(|name| dir.path().join(name));
        let [key, stranger] = [(); 2].map(|()| keys::PolicyKey::generate().unwrap());
        files::write(&plain, &bare().to_json()).unwrap();
        files::write(&signed, &sign(&bare(), &key)).unwrap();
        files::write(&other, &sign(&bare(), &stranger)).unwrap();
        assert_eq!(load_file(&folder, &plain).unwrap().authorship, Authorship::Unsigned);
        let signers = vec![keys::id(&stranger.public())];
        assert_eq!(load_file(&folder, &other).unwrap().authorship, Authorship::Unchecked { signers });
        pin(&folder, &[key.public()]).unwrap();
        assert!(matches!(load_file(&folder, &plain), Err(Error::NotTrusted(_))));
        assert!(matches!(load_file(&folder, &other), Err(Error::NotTrusted(_))));
        let loaded = load_file(&folder, &signed).unwrap();
        assert_eq!(loaded.authorship, Authorship::Signed { key: keys::id(&key.public()) });
        assert_eq!(loaded.policy, bare());
        for damage in ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            files::write(&pins(&folder), damage.as_bytes()).unwrap();
            assert!(matches!(load_file(&folder, &plain), Err(Error::Damaged { .. })), "{damage:?}");
        }
        pin(&folder, &[]).unwrap();
        load_file(&folder, &plain).unwrap();
    }

    #[test]
    fn a_policy_written_for_an_image_has_to_be_signed_too_and_a_checked_copy_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let (id, image) = (InstanceId::from_bits(1), ImageId::from_bits(2));
        files::write(&path(&folder, image).unwrap(), &bare().to_json()).unwrap();
        pin(&folder, &[keys::PolicyKey::generate().unwrap().public()]).unwrap();
        assert!(matches!(for_instance(&folder, &platform(), id, image, LaunchProfile::Tpm), Err(Error::NotTrusted(_))));
        remember(&folder, id, &bare()).unwrap();
        assert_eq!(for_instance(&folder, &platform(), id, image, LaunchProfile::Tpm).unwrap().policy, bare());
    }

    #[test]
    fn the_instances_policy_goes_before_the_images_and_stays_until_the_instance_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let (id, image) = (InstanceId::from_bits(1), ImageId::from_bits(2));
        let chosen = || for_instance(&folder, &platform(), id, image, LaunchProfile::Tpm);
        assert!(matches!(chosen(), Err(Error::NotTrusted(_))));
        let policy = |version| Policy { version, ..bare() };
        files::write(&path(&folder, image).unwrap(), &policy(1).to_json()).unwrap();
        assert!(matches!(chosen().unwrap().source, Source::Image(_)));
        let given = Policy { minimum_tier: Some(lambda_types::shape::Tier::Hardware), ..policy(1) };
        remember(&folder, id, &given).unwrap();
        let found = chosen().unwrap();
        assert_eq!(found.policy, given);
        assert!(matches!(found.source, Source::Instance(_)));
        let other = for_instance(&folder, &platform(), InstanceId::from_bits(3), image, LaunchProfile::Tpm).unwrap();
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
        let wide = bare();
        files::write(&path(&folder, image).unwrap(), &wide.to_json()).unwrap();
        files::write(&path(&folder, id).unwrap(), b"{").unwrap();
        assert!(matches!(for_instance(&folder, &platform(), id, image, LaunchProfile::Tpm), Err(Error::Usage(_))));
    }
}
