use lambda_types::Binary;
use serde::{Deserialize, Serialize};

use crate::time::UnixTime;

/// Version of the collateral document.
pub const COLLATERAL_VERSION: u32 = 1;

/// Most bytes in a collateral document.
pub const MAX_COLLATERAL_BYTES: usize = 16 * 1024 * 1024;

/// What vendors publish about their hardware: certificates, revocation lists, TCB levels. An input like the evidence, and
/// as foreign: every document in it is signed by its vendor and judged at the instant of the verdict. Stale is failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collateral {
    /// [`COLLATERAL_VERSION`].
    pub version: u32,
    /// When it was fetched, by the clock of who fetched it. Told to people; no check rests on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<UnixTime>,
    /// AMD's certificates and revocation lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amd: Option<AmdCollateral>,
    /// Intel's, one entry for each platform family (FMSPC) and technology.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intel: Vec<IntelCollateral>,
}

/// What AMD's Key Distribution Service (KDS) publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmdCollateral {
    /// VCEK or VLEK and ASK or ASVK, DER, in any order. A root in it is not trusted for being there.
    #[serde(default)]
    pub certificates: Vec<Binary>,
    /// Revocation lists, DER.
    #[serde(default)]
    pub crls: Vec<Binary>,
}

/// What Intel's Provisioning Certification Service (PCS) publishes about one platform family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelCollateral {
    /// The whole response `{"tcbInfo":…,"signature":…}`, byte for byte.
    pub tcb_info: String,
    /// TCB-Info-Issuer-Chain, PEM.
    pub tcb_info_issuer_chain: String,
    /// The whole response `{"enclaveIdentity":…,"signature":…}`, byte for byte.
    pub qe_identity: String,
    /// SGX-Enclave-Identity-Issuer-Chain, PEM.
    pub qe_identity_issuer_chain: String,
    /// Revocation list of the CA that certified the platform, DER.
    pub pck_crl: Binary,
    /// SGX-PCK-CRL-Issuer-Chain, PEM.
    pub pck_crl_issuer_chain: String,
    /// Revocation list of the root, DER.
    pub root_ca_crl: Binary,
    /// The platform's certificate chain, PEM, leaf first, where the quote does not carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pck_certificate_chain: Option<String>,
}

/// Why bytes are not collateral.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// More bytes than collateral can have.
    #[error("the collateral is longer than {MAX_COLLATERAL_BYTES} bytes")]
    TooLong,
    /// Not the JSON of this version; the text names the line and column.
    #[error("the collateral cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("the collateral is of version {0}, this program reads version {COLLATERAL_VERSION}")]
    Version(u32),
}

impl Collateral {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self { version: COLLATERAL_VERSION, ..Self::default() }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When it is too long, not the JSON of this version, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, CollateralError> {
        if bytes.len() > MAX_COLLATERAL_BYTES {
            return Err(CollateralError::TooLong);
        }
        let collateral: Self = serde_json::from_slice(bytes)?;
        let version = collateral.version;
        if version == COLLATERAL_VERSION { Ok(collateral) } else { Err(CollateralError::Version(version)) }
    }

    /// The document: fields in the order of the types, no white space.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and byte strings with string keys: there is nothing here that JSON cannot express.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
