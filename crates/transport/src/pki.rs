//! The certificate authorities of a deployment and what they sign. All keys are ECDSA P-256.
//!
//! ```text
//!   internal CA ─▶ gateway, control, node      mutual TLS inside; one URI name lambda://role/name each
//!   public CA   ─▶ gateway                     what customers' clients verify
//!   platform CA ─▶ node CA (pathlen 0) ─▶ EK certificates of vTPMs
//! ```
//!
//! Files are written to a temporary name, synced and renamed, so a crash leaves either nothing or the whole file. A
//! pair is complete when its certificate is there: the key is written first.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::PeerIdentity;

/// Certificate chain in a folder, leaf first.
pub const CERTIFICATE_FILE: &str = "cert.pem";

/// Private key in a folder, mode 0600.
pub const KEY_FILE: &str = "key.pem";

const AUTHORITY_DAYS: i64 = 3650;
const NODE_AUTHORITY_DAYS: i64 = 1825;
const LEAF_DAYS: i64 = 365;

/// Room for clocks that differ.
const BACKDATE: Duration = Duration::hours(1);

/// Why a certificate cannot be made, stored or loaded.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Key or certificate generation failed.
    #[error("cannot make {what}: {source}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// `read`, `write` or `create`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stored authority is malformed.
    #[error("the stored certificate authority is damaged: {0}; restore it from a backup")]
    Damaged(&'static str),
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}

/// A certificate chain and its key, as PEM.
pub struct Issued {
    /// Leaf first; issuers below the root follow.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: Zeroizing<String>,
}

impl Issued {
    /// Writes `cert.pem` (0644) and `key.pem` (0600) into a folder, key first.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        write_file(&folder.join(KEY_FILE), self.key_pem.as_bytes(), 0o600)?;
        write_file(&folder.join(CERTIFICATE_FILE), self.chain_pem.as_bytes(), 0o644)
    }
}

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl Authority {
    /// A new self-signed root.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn generate(common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(make("a CA key"))?;
        let params = authority_params(common_name, BasicConstraints::Unconstrained, AUTHORITY_DAYS);
        let certificate = params.self_signed(&key).map_err(make("a CA certificate"))?;
        Ok(Self::new(params, key, certificate))
    }

    /// A subordinate authority that may sign leaf certificates only (pathlen 0): a node CA under the platform CA.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn issue_authority(&self, common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(make("a CA key"))?;
        let mut params = authority_params(common_name, BasicConstraints::Constrained(0), NODE_AUTHORITY_DAYS);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("a subordinate CA certificate"))?;
        Ok(Self::new(params, key, certificate))
    }

    fn new(params: CertificateParams, key: KeyPair, certificate: rcgen::Certificate) -> Self {
        let key_pem = Zeroizing::new(key.serialize_pem());
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// From PEM texts.
    ///
    /// # Errors
    /// When either is malformed.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|_| PkiError::Damaged("its key cannot be parsed"))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| PkiError::Damaged("its certificate is not PEM"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|_| PkiError::Damaged("its certificate cannot be parsed"))?;
        Ok(Self {
            issuer,
            certificate,
            certificate_pem: certificate_pem.into(),
            key_pem: Zeroizing::new(key_pem.into()),
        })
    }

    /// From [`CERTIFICATE_FILE`] and [`KEY_FILE`] in a folder.
    ///
    /// # Errors
    /// When a file is missing or malformed.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let key = Zeroizing::new(read_file(&folder.join(KEY_FILE))?);
        Self::from_pem(&read_file(&folder.join(CERTIFICATE_FILE))?, &key)
    }

    /// Loads the authority in `folder`, or generates and stores it when the folder has no certificate yet.
    ///
    /// # Errors
    /// When loading, generating or storing fails.
    pub fn load_or_generate(folder: &Path, common_name: &str) -> Result<Self, PkiError> {
        if folder.join(CERTIFICATE_FILE).exists() {
            return Self::load(folder);
        }
        let fresh = Self::generate(common_name)?;
        fresh.save(folder)?;
        Ok(fresh)
    }

    /// Stores certificate and key in a folder (made with mode 0700 if absent).
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), PkiError> {
        Issued { chain_pem: self.certificate_pem.clone(), key_pem: self.key_pem.clone() }.save(folder)
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs with custom parameters: what the node agent uses for EK certificates.
    #[must_use]
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate for an internal peer: its URI name, the DNS name of its role, and `addresses`.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn issue_peer(&self, peer: &PeerIdentity, addresses: &[IpAddr]) -> Result<Issued, PkiError> {
        let mut names = vec![SanType::URI(ia5(&peer.uri())?), SanType::DnsName(ia5(peer.role.name())?)];
        names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.issue(&peer.uri(), names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// A server certificate for the public listener.
    ///
    /// # Errors
    /// When a name is not ASCII, or key generation or signing fails.
    pub fn issue_server(&self, dns: &[&str], addresses: &[IpAddr]) -> Result<Issued, PkiError> {
        let mut names = Vec::new();
        for name in dns {
            names.push(SanType::DnsName(ia5(name)?));
        }
        names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.issue("Lambda gateway", names, &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Issued, PkiError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(make("a key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_DAYS);
        let certificate = params.signed_by(&key, &self.issuer).map_err(make("a certificate"))?;
        Ok(Issued { chain_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }
}

fn ia5(text: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(text).map_err(make("a certificate name"))
}

fn authority_params(common_name: &str, constraints: BasicConstraints, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, days);
    params
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days);
}

fn read_file(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|source| PkiError::File { operation: "read", path: path.into(), source })
}

/// Writes a whole file durably: temporary name, fsync, rename, fsync of the folder. The folder is made if absent.
///
/// # Errors
/// When any step fails.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let failed = |operation: &'static str| {
        let path = path.to_path_buf();
        move |source| PkiError::File { operation, path, source }
    };
    // The parent of a bare file name is empty: the current folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !folder.exists() {
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        builder.create(folder).map_err(failed("create the folder of"))?;
    }
    let temporary = path.with_extension("tmp");
    // A leftover of a crash may carry other permissions: never write a key into it.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("create"))?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    std::fs::rename(&temporary, path).map_err(failed("rename"))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}
