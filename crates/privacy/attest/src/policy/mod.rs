mod rule;

use std::collections::BTreeMap;

use lambda_types::ImageId;
use lambda_types::image::{ImageManifest, TpmExpected};
use lambda_types::shape::{Shape, Tier};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cca::CcaPolicy;
use crate::dcap::{SgxPolicy, TdxPolicy};
use crate::pki::{ParsedCertificate, PkiError};
use crate::psa::PsaPolicy;
use crate::snp::SnpPolicy;

pub use rule::{HostDataRule, ImageReference, Matched, Reference, Rule};

/// Version of the policy document.
pub const POLICY_VERSION: u32 = 1;

/// Most bytes in a policy document.
pub const MAX_POLICY_BYTES: usize = 1024 * 1024;

/// What a customer expects of the machines that may hold their keys.
///
/// Every expectation may be left out, and what is left out fails its check: a policy is widened only by saying so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`POLICY_VERSION`].
    pub version: u32,
    /// The least tier that is good enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_tier: Option<Tier>,
    /// How to judge TPM evidence; without it, TPM evidence is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmPolicy>,
    /// How to judge SEV-SNP reports; without it, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpPolicy>,
    /// How to judge TDX quotes; without it, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxPolicy>,
    /// How to judge SGX quotes; without it, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sgx: Option<SgxPolicy>,
    /// How to judge CCA tokens; without it, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cca: Option<CcaPolicy>,
    /// How to judge PSA tokens; without it, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psa: Option<PsaPolicy>,
}

/// Expectations of TPM evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmPolicy {
    /// Platform CAs that may vouch for a TPM, one PEM certificate each.
    #[serde(default)]
    pub platform_cas: Vec<String>,
    /// TPM firmware versions that are good enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_version: Option<FirmwareRule>,
    /// Images that may run.
    #[serde(default)]
    pub images: Vec<AllowedImage>,
}

/// Which TPM firmware versions are good enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareRule {
    /// Every version.
    Any,
    /// These, as 16 lower-case hex digits.
    OneOf(Vec<String>),
}

/// An image that may run, with what it measures to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedImage {
    /// The image.
    pub image: ImageId,
    /// Its name, for people.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// Reference values for each shape that it may run in.
    pub shapes: BTreeMap<Shape, TpmExpected>,
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// More bytes than a policy can have.
    #[error("the policy is longer than {MAX_POLICY_BYTES} bytes")]
    TooLong,
    /// Not the JSON of this version; the text names the line and column.
    #[error("the policy cannot be read: {0}")]
    Json(#[source] serde_json::Error),
    /// Another version.
    #[error("the policy is of version {0}, this program reads version {POLICY_VERSION}")]
    Version(u32),
    /// A pinned CA is not a certificate.
    #[error("a platform CA in the policy cannot be used: {0}")]
    PlatformCa(#[from] PkiError),
    /// An endorsement cannot be used.
    #[error("an endorsement in the policy cannot be used: {0}")]
    Endorsement(&'static str),
    /// A reference value is not what it should be.
    #[error("image {image}, shape {shape}: {field} is not a SHA-256 digest in lower-case hex")]
    Reference {
        /// Whose.
        image: ImageId,
        /// In which shape.
        shape: Shape,
        /// Which value.
        field: String,
    },
    /// The image manifest cannot be read.
    #[error("the image manifest cannot be read: {0}")]
    Manifest(#[source] serde_json::Error),
    /// The image manifest is of another format.
    #[error("the image manifest has format {0}, this program reads format {expected}", expected = lambda_types::image::FORMAT)]
    ManifestFormat(u32),
}

impl Policy {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// When it is too long, not the JSON of this version, or holds a certificate or digest that is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong);
        }
        let policy: Self = serde_json::from_slice(bytes).map_err(PolicyError::Json)?;
        policy.check()?;
        Ok(policy)
    }

    /// A policy for one image: tier `platform` or better, every shape in its manifest, any TPM firmware version, TPMs
    /// vouched for by this platform CA.
    ///
    /// # Errors
    /// When the manifest or the certificate cannot be read.
    pub fn for_image(image_json: &[u8], platform_ca_pem: &str) -> Result<Self, PolicyError> {
        let manifest: ImageManifest = serde_json::from_slice(image_json).map_err(PolicyError::Manifest)?;
        if manifest.format != lambda_types::image::FORMAT {
            return Err(PolicyError::ManifestFormat(manifest.format));
        }
        let policy = Self {
            minimum_tier: Some(Tier::Platform),
            tpm: Some(TpmPolicy {
                platform_cas: vec![platform_ca_pem.trim().into()],
                firmware_version: Some(FirmwareRule::Any),
                images: vec![AllowedImage {
                    image: image_id(image_json),
                    name: manifest.name,
                    version: manifest.version,
                    shapes: manifest.expected.tpm,
                }],
            }),
            ..Self::silent()
        };
        policy.check()?;
        Ok(policy)
    }

    /// What an inspection goes by: it says of each kind of evidence that anything may run, and that everything
    /// cryptographic, every date and the vendor's own status must hold.
    pub(crate) fn default_appraisal() -> Self {
        Self {
            snp: Some(SnpPolicy::default_appraisal()),
            tdx: Some(TdxPolicy::default_appraisal()),
            sgx: Some(SgxPolicy::default_appraisal()),
            cca: Some(CcaPolicy::default_appraisal()),
            psa: Some(PsaPolicy::default_appraisal()),
            ..Self::silent()
        }
    }

    /// A policy that says nothing, and so accepts nothing.
    #[must_use]
    pub const fn silent() -> Self {
        Self {
            version: POLICY_VERSION,
            minimum_tier: None,
            tpm: None,
            snp: None,
            tdx: None,
            sgx: None,
            cca: None,
            psa: None,
        }
    }

    /// The canonical document: fields in the order of the types, maps sorted, no white space.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers with string keys: there is nothing here that JSON cannot express.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// SHA-256 of [`Self::to_json`]; what a release is bound to.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.to_json()).into()
    }

    /// Whether evidence of anything but a TPM could be accepted.
    pub(crate) fn accepts_hardware(&self) -> bool {
        self.snp.is_some() || self.tdx.is_some() || self.sgx.is_some() || self.cca.is_some()
    }

    /// The images that may run.
    pub fn images(&self) -> impl Iterator<Item = &AllowedImage> {
        self.tpm.iter().flat_map(|tpm| tpm.images.iter())
    }

    fn check(&self) -> Result<(), PolicyError> {
        if self.version != POLICY_VERSION {
            return Err(PolicyError::Version(self.version));
        }
        for pem in self.tpm.iter().flat_map(|tpm| tpm.platform_cas.iter()) {
            ParsedCertificate::from_pem(pem)?;
        }
        let cca = self.cca.as_ref().and_then(CcaPolicy::fault);
        if let Some(fault) = cca.or_else(|| self.psa.as_ref().and_then(PsaPolicy::fault)) {
            return Err(PolicyError::Endorsement(fault));
        }
        for allowed in self.images() {
            for (shape, expected) in &allowed.shapes {
                if let Some(field) = malformed_field(expected) {
                    return Err(PolicyError::Reference { image: allowed.image, shape: *shape, field });
                }
            }
        }
        Ok(())
    }
}

/// The id of an image: the first 128 bits of the SHA-256 of its manifest.
fn image_id(manifest: &[u8]) -> ImageId {
    let digest = Sha256::digest(manifest);
    let bits = digest.iter().take(16).fold(0u128, |bits, byte| bits.wrapping_shl(8) | u128::from(*byte));
    ImageId::from_bits(bits)
}

/// The first reference value that is not a digest, or is missing.
pub(crate) fn malformed_field(expected: &TpmExpected) -> Option<String> {
    let TpmExpected { pcrs, firmware_volumes, kernel, initramfs, command_line } = expected;
    if !pcrs.keys().eq(lambda_tpm::LAMBDA_PCRS.iter()) {
        return Some("the set of PCRs".into());
    }
    if firmware_volumes.is_empty() {
        return Some("the list of firmware volumes".into());
    }
    let named = pcrs.iter().map(|(index, value)| (format!("PCR {index}"), value));
    let volumes = firmware_volumes.iter().map(|value| ("a firmware volume".to_owned(), value));
    let parts = [("the kernel", kernel), ("the initramfs", initramfs), ("the command line", command_line)];
    named
        .chain(volumes)
        .chain(parts.map(|(name, value)| (name.to_owned(), value)))
        .find(|(_, value)| digest(value).is_none())
        .map(|(name, _)| name)
}

/// A SHA-256 digest in lower-case hex.
pub(crate) fn digest(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    hex::decode(text).ok()?.try_into().ok()
}
