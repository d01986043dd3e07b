use std::collections::BTreeMap;

use lambda_types::session::{Hello, TpmIdentity};
use lambda_types::{Binary, BootId, InstanceId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512};

use crate::verdict::{Claims, Tee};

/// Version of the evidence document.
pub const EVIDENCE_VERSION: u32 = 1;

/// Most bytes in an evidence document: it travels in one mailbox body.
pub const MAX_EVIDENCE_BYTES: usize = lambda_types::mailbox::MAX_BODY_BYTES;

/// Most bytes in an SSH host key's wire form.
const MAX_SSH_KEY_BYTES: usize = 1024;

/// What a guest presents: the keys it wants to be known by, and its hardware's word for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// [`EVIDENCE_VERSION`].
    pub version: u32,
    /// What the report data covers.
    pub binding: Binding,
    /// The root of trust's report.
    pub report: Report,
}

/// What the guest binds into its report data beside the nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The instance it was started as.
    pub instance: InstanceId,
    /// This boot.
    pub boot: BootId,
    /// Ephemeral X25519 public key, 32 bytes.
    pub hpke_public: Binary,
    /// SSH host public key in OpenSSH wire format.
    pub ssh_host_key: Binary,
}

impl From<&Hello> for Binding {
    fn from(hello: &Hello) -> Self {
        Self {
            instance: hello.instance,
            boot: hello.boot,
            hpke_public: hello.hpke_public.clone(),
            ssh_host_key: hello.ssh_host_key.clone(),
        }
    }
}

/// The report, by kind of root of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "tee", rename_all = "kebab-case")]
pub enum Report {
    /// A TPM 2.0 quote over a measured boot.
    Tpm(TpmEvidence),
    /// A TPM 2.0 quote by itself, without a challenge that proves whose attestation key it is. For inspection.
    TpmQuote(TpmQuoteEvidence),
    /// An AMD SEV-SNP report.
    Snp(SnpEvidence),
    /// An Intel TDX quote.
    Tdx(TdxEvidence),
    /// An Intel SGX quote.
    Sgx(SgxEvidence),
    /// An Arm CCA token.
    Cca(CcaEvidence),
    /// An Arm PSA attestation token.
    Psa(PsaEvidence),
    /// A firmware event log by itself. For inspection.
    Eventlog(EventlogEvidence),
}

impl Report {
    /// Its kind.
    #[must_use]
    pub const fn tee(&self) -> Tee {
        match self {
            Self::Tpm(_) | Self::TpmQuote(_) => Tee::Tpm,
            Self::Snp(_) => Tee::Snp,
            Self::Tdx(_) => Tee::Tdx,
            Self::Sgx(_) => Tee::Sgx,
            Self::Cca(_) => Tee::Cca,
            Self::Psa(_) => Tee::Psa,
            Self::Eventlog(_) => Tee::Eventlog,
        }
    }
}

/// A TPM quote and what it takes to judge it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmEvidence {
    /// EK with its certificates, and AK.
    pub identity: TpmIdentity,
    /// TPMS_ATTEST.
    pub attest: Binary,
    /// TPMT_SIGNATURE over it by the AK.
    pub signature: Binary,
    /// Values of the quoted PCRs, SHA-256 bank.
    pub pcrs: Vec<PcrValue>,
    /// The firmware's event log.
    pub event_log: Binary,
    /// [`activation_proof`] with the secret that the challenge's credential held.
    pub activation_proof: Binary,
}

/// Registers by bank (`sha1`, `sha256`, `sha384`, `sha512`) and index, lower-case hex.
pub type Registers = BTreeMap<String, BTreeMap<u8, String>>;

/// A TPM quote as tools write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmQuoteEvidence {
    /// TPMS_ATTEST.
    pub attest: Binary,
    /// TPMT_SIGNATURE over it.
    pub signature: Binary,
    /// Values of the quoted PCRs.
    pub pcrs: Registers,
    /// The firmware's event log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<Binary>,
    /// The attestation key, SubjectPublicKeyInfo DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ak: Option<Binary>,
    /// Its certificates, DER, leaf first.
    #[serde(default)]
    pub certificates: Vec<Binary>,
    /// What a paravisor that implements the TPM says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paravisor: Option<ParavisorEvidence>,
}

/// The report of a confidential VM's paravisor, as Azure's writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParavisorEvidence {
    /// The HCL report: the hardware's report and the runtime data with the TPM's keys.
    pub report: Binary,
    /// Certificates for an SEV-SNP report in it, DER, in any order.
    #[serde(default)]
    pub certificates: Vec<Binary>,
    /// The TD's quote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Binary>,
}

/// An SEV-SNP attestation report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpEvidence {
    /// ATTESTATION_REPORT, 1184 bytes as the firmware returned it.
    pub report: Binary,
    /// Certificates that the host handed to the guest, DER, in any order.
    #[serde(default)]
    pub certificates: Vec<Binary>,
}

/// A TDX quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxEvidence {
    /// DCAP quote, version 4 or 5.
    pub quote: Binary,
    /// The firmware's event log (CCEL data).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<Binary>,
}

/// An SGX quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxEvidence {
    /// DCAP quote, version 3.
    pub quote: Binary,
}

/// A CCA token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CcaEvidence {
    /// CBOR collection of the platform's and the realm's token.
    pub token: Binary,
    /// What extended the realm's measurements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<Binary>,
}

/// A PSA token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PsaEvidence {
    /// COSE_Sign1.
    pub token: Binary,
}

/// An event log, and the registers that it is said to give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventlogEvidence {
    /// TCG 1.2, crypto-agile or CCEL.
    pub event_log: Binary,
    /// Registers as the machine reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registers: Option<Registers>,
}

/// One register of the SHA-256 bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrValue {
    /// Its index.
    pub index: u8,
    /// Its value, lower-case hex.
    pub sha256: String,
}

/// Why bytes are not evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// More bytes than a mailbox body can have.
    #[error("the evidence is longer than {MAX_EVIDENCE_BYTES} bytes")]
    TooLong,
    /// Not the JSON of this version; the text names the line and column.
    #[error("the evidence cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("the evidence is of version {0}, this program reads version {EVIDENCE_VERSION}: update the older side")]
    Version(u32),
}

impl Evidence {
    /// Evidence of a TPM.
    #[must_use]
    pub fn tpm(binding: Binding, report: TpmEvidence) -> Self {
        Self { version: EVIDENCE_VERSION, binding, report: Report::Tpm(report) }
    }

    /// The document.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and byte strings with string keys: there is nothing here that JSON cannot express.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// When it is too long, not the JSON of this version, or of another version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(EvidenceError::TooLong);
        }
        let evidence: Self = serde_json::from_slice(bytes)?;
        if evidence.version == EVIDENCE_VERSION { Ok(evidence) } else { Err(EvidenceError::Version(evidence.version)) }
    }
}

/// What the report must carry as its user data: SHA-512 over the label, the nonce and the binding, every field prefixed
/// by its length as a big-endian u32. The SSH host key enters as its SHA-256.
#[must_use]
pub fn report_data(nonce: &[u8], binding: &Binding) -> [u8; 64] {
    let mut hash = Sha512::new();
    let fields: [&[u8]; 6] = [
        b"lambda-evidence-v1",
        nonce,
        &binding.instance.to_bytes(),
        &binding.boot.to_bytes(),
        binding.hpke_public.as_slice(),
        &Sha256::digest(binding.ssh_host_key.as_slice()),
    ];
    for field in fields {
        // Saturation is unreachable: no field of an evidence document is near four gigabytes.
        hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

/// Proof that the credential was activated: HMAC-SHA-256 of the report data under the activated secret.
#[must_use]
pub fn activation_proof(activated_secret: &[u8], report_data: &[u8; 64]) -> [u8; 32] {
    *lambda_tpm::kdf::hmac_sha256(activated_secret, &[report_data])
}

/// What the binding says, as claims.
pub(crate) fn binding_claims(binding: &Binding, claims: &mut Claims) {
    claims.insert("instance".into(), json!(binding.instance));
    claims.insert("boot".into(), json!(binding.boot));
    claims.insert("hpke_public".into(), json!(hex::encode(binding.hpke_public.as_slice())));
    claims.insert("ssh_host_key".into(), json!(hex::encode(binding.ssh_host_key.as_slice())));
}

/// Whether these are the wire bytes of an Ed25519 SSH public key (RFC 8709 §4).
pub(crate) fn is_ssh_ed25519(wire: &[u8]) -> bool {
    wire.len() <= MAX_SSH_KEY_BYTES
        && wire.strip_prefix(b"\0\0\0\x0bssh-ed25519\0\0\0\x20").is_some_and(|point| point.len() == 32)
}
