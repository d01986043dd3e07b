//! Ed25519 keys that sign policies and bundles of collateral, in the forms that OpenSSL reads: PKCS#8 and
//! SubjectPublicKeyInfo, PEM (RFC 8410).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{SigningKey, VerifyingKey};
use lambda_attest::envelope::{Envelope, key_id};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::{Error, files, presented};

/// What stands before the 32 bytes of a key.
const PRIVATE_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const PUBLIC_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

const PRIVATE_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PRIVATE_END: &str = "-----END PRIVATE KEY-----";

/// A private key. Zeroized on drop; never printed.
pub struct PolicyKey(SigningKey);

impl PolicyKey {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let seed = Zeroizing::new(files::random::<32>()?);
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or it is not an Ed25519 private key.
    pub fn load(path: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |error: std::io::Error| Error::Usage(format!("cannot read {}: {error}", path.display()));
        let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::Usage(format!(
                "others may read {0} (mode {1:03o}): chmod 600 {0}",
                path.display(),
                mode & 0o777
            )));
        }
        let bytes = Zeroizing::new(presented::bounded(path)?);
        Self::parse(&bytes)
            .ok_or_else(|| Error::Usage(format!("{} is not an Ed25519 private key (PKCS#8, PEM)", path.display())))
    }

    fn parse(pem: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(pem).ok()?.trim();
        let base64 = text.strip_prefix(PRIVATE_BEGIN)?.strip_suffix(PRIVATE_END)?.trim();
        let der = Zeroizing::new(STANDARD.decode(base64).ok()?);
        let seed: &[u8; 32] = der.strip_prefix(&PRIVATE_PREFIX)?.try_into().ok()?;
        Some(Self(SigningKey::from_bytes(seed)))
    }

    /// Writes a new file, mode 0600.
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        if path.exists() {
            return Err(Error::Usage(format!("{} is there already, and a key is never overwritten", path.display())));
        }
        let seed = Zeroizing::new(self.0.to_bytes());
        let mut der = Zeroizing::new([0u8; 48]);
        der[..16].copy_from_slice(&PRIVATE_PREFIX);
        der[16..].copy_from_slice(seed.as_slice());
        // 48 bytes are 64 digits; the buffers never grow, so that no copy is left behind.
        let mut pem = Zeroizing::new(Vec::with_capacity(160));
        let mut digits = Zeroizing::new([0u8; 64]);
        STANDARD
            .encode_slice(der.as_slice(), digits.as_mut_slice())
            .map_err(|error| Error::Usage(error.to_string()))?;
        for part in [PRIVATE_BEGIN.as_bytes(), b"\n", digits.as_slice(), b"\n", PRIVATE_END.as_bytes(), b"\n"] {
            pem.extend_from_slice(part);
        }
        files::write(path, &pem)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    /// A signed document.
    pub(crate) fn sign(&self, payload_type: &'static str, payload: Vec<u8>) -> Vec<u8> {
        Envelope::sign(payload_type, payload, &self.0).to_json()
    }
}

/// The public key as PEM.
#[must_use]
pub fn public_pem(key: &VerifyingKey) -> String {
    let der = [PUBLIC_PREFIX.as_slice(), key.as_bytes()].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// How people name a key.
#[must_use]
pub fn id(key: &VerifyingKey) -> String {
    key_id(key)
}

/// Reads a public key.
///
/// # Errors
/// When the file cannot be read or is not an Ed25519 public key.
pub fn load_public(path: &Path) -> Result<VerifyingKey, Error> {
    match parse_publics(&presented::bounded(path)?).as_deref() {
        Some([key]) => Ok(*key),
        _ => Err(Error::Usage(format!("{} is not one Ed25519 public key (PEM)", path.display()))),
    }
}

/// Public keys, at least one, and nothing else.
pub(crate) fn parse_publics(pem: &[u8]) -> Option<Vec<VerifyingKey>> {
    let point = |der: &[u8]| VerifyingKey::from_bytes(der.strip_prefix(&PUBLIC_PREFIX)?.try_into().ok()?).ok();
    let keys: Vec<VerifyingKey> =
        SubjectPublicKeyInfoDer::pem_slice_iter(pem).map(|key| point(key.ok()?.as_ref())).collect::<Option<_>>()?;
    (!keys.is_empty()).then_some(keys)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_private_never_overwritten_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.key");
        let key = PolicyKey::generate().unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PolicyKey::load(&path).unwrap().public(), key.public());
        assert!(matches!(PolicyKey::generate().unwrap().save(&path), Err(Error::Usage(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let Err(error) = PolicyKey::load(&path) else { panic!("read although others may read it") };
        assert!(error.to_string().contains("640"), "{error}");
    }

    #[test]
    fn a_public_key_reads_back_and_a_private_one_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (public, private) = (dir.path().join("policy.pub"), dir.path().join("policy.key"));
        let key = PolicyKey::generate().unwrap();
        files::write(&public, public_pem(&key.public()).as_bytes()).unwrap();
        key.save(&private).unwrap();
        assert_eq!(load_public(&public).unwrap(), key.public());
        let error = load_public(&private).unwrap_err().to_string();
        assert!(error.contains("not one Ed25519 public key"), "{error}");
        assert!(PolicyKey::load(&public).is_err(), "a public key for a private one");
    }

    #[test]
    fn openssl_reads_and_writes_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.key");
        let key = PolicyKey::generate().unwrap();
        key.save(&path).unwrap();
        let openssl = |args: &[&str]| {
            let run = std::process::Command::new("openssl").args(args).output().unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            String::from_utf8(run.stdout).unwrap()
        };
        let theirs = openssl(&["pkey", "-in", path.to_str().unwrap(), "-pubout"]);
        assert_eq!(theirs, public_pem(&key.public()));
        let other = dir.path().join("other.key");
        let _ = openssl(&["genpkey", "-algorithm", "ed25519", "-out", other.to_str().unwrap()]);
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
        let theirs = openssl(&["pkey", "-in", other.to_str().unwrap(), "-pubout"]);
        assert_eq!(theirs, public_pem(&PolicyKey::load(&other).unwrap().public()));
    }
}
