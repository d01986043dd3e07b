//! The key hierarchy: master key, project keys, volume keys.
//!
//! Rotating the master key re-wraps project keys ([`ProjectKey::wrap`]); rotating a project key makes the next version
//! ([`ProjectKey::next_version`]) under which objects are sealed anew. Losing the master key is crypto-erasure.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use lambda_types::Binary;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{Error, aead};

const WRAP_LABEL: &[u8] = b"lambda-wrap-v1";
const MASTER_ID_LABEL: &[u8] = b"lambda-master-id-v1";
const WRAP_FORMAT: u8 = 1;

/// A project key's public name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// From its 16 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn random_key() -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0u8; 32]);
    getrandom::fill(key.as_mut_slice())?;
    Ok(key)
}

/// The customer's root key.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// A fresh key that is in no file.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        random_key().map(Self)
    }

    /// A fresh key, written to a new file that only its owner can read. An existing file is never overwritten.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create_file(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::KeyFile { path: path.to_path_buf(), source };
        let key = Self::generate()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        file.write_all(key.0.as_slice()).and_then(|()| file.sync_all()).map_err(fail)?;
        Ok(key)
    }

    /// The key in this file.
    ///
    /// # Errors
    /// When the file is missing, is not 32 bytes, or is open to anyone but its owner.
    pub fn load_file(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::KeyFile { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(fail)?;
        // Asked of the open file, so that it cannot be exchanged between check and use.
        let metadata = file.metadata().map_err(fail)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(Error::KeyFileMode { path: path.to_path_buf(), mode });
        }
        let mut key = Zeroizing::new([0u8; 32]);
        if !metadata.is_file() || metadata.len() != 32 {
            return Err(Error::KeyFileContent { path: path.to_path_buf() });
        }
        file.read_exact(key.as_mut_slice()).map_err(fail)?;
        Ok(Self(key))
    }

    /// Names this key without telling anything about it.
    fn id(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(MASTER_ID_LABEL);
        hash.update(self.0.as_slice());
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0u8; 16];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        id
    }
}

/// Wraps instances' secrets and metadata. Versioned: the id stays over rotations.
pub struct ProjectKey {
    id: KeyId,
    version: u32,
    key: Zeroizing<[u8; 32]>,
}

impl ProjectKey {
    /// A fresh key with a fresh id, version 1.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let mut id = [0u8; 16];
        getrandom::fill(&mut id)?;
        Ok(Self { id: KeyId(id), version: 1, key: random_key()? })
    }

    /// The next version: the same id, an unrelated key.
    ///
    /// # Errors
    /// When the operating system gives no randomness or versions are used up.
    pub fn next_version(&self) -> Result<Self, Error> {
        let version = self.version.checked_add(1).ok_or(Error::Invalid("no key version is left"))?;
        Ok(Self { id: self.id, version, key: random_key()? })
    }

    /// Its public name.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// This key, readable only with the master key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn wrap(&self, master: &MasterKey) -> Result<WrappedKey, Error> {
        let master_id = master.id();
        let aad = wrap_aad(master_id, self.id, self.version);
        let wrapped = aead::seal(&master.0, self.key.as_slice(), &aad)?;
        Ok(WrappedKey {
            format: WRAP_FORMAT,
            id: Binary(self.id.0.to_vec()),
            version: self.version,
            master: Binary(master_id.to_vec()),
            wrapped: Binary(wrapped),
        })
    }
}

fn wrap_aad(master: [u8; 16], id: KeyId, version: u32) -> Vec<u8> {
    aead::fields(&[WRAP_LABEL, &[WRAP_FORMAT], &master, &id.0, &version.to_be_bytes()])
}

/// A project key under a master key: safe to write to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    format: u8,
    id: Binary,
    version: u32,
    master: Binary,
    wrapped: Binary,
}

impl WrappedKey {
    /// The wrapped key's public name.
    ///
    /// # Errors
    /// When the record is malformed.
    pub fn id(&self) -> Result<KeyId, Error> {
        self.id.as_slice().try_into().map(KeyId).map_err(|_| Error::Malformed("key id is not 16 bytes"))
    }

    /// The wrapped key's version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The project key.
    ///
    /// # Errors
    /// When it is wrapped under another master key, altered, or of an unknown format.
    pub fn unwrap(&self, master: &MasterKey) -> Result<ProjectKey, Error> {
        if self.format != WRAP_FORMAT {
            return Err(Error::Format(self.format));
        }
        let id = self.id()?;
        let master_id = master.id();
        if !bool::from(self.master.as_slice().ct_eq(&master_id)) {
            return Err(Error::OtherMasterKey);
        }
        let plain = aead::open(&master.0, self.wrapped.as_slice(), &wrap_aad(master_id, id, self.version))?;
        let mut key = Zeroizing::new([0u8; 32]);
        if plain.len() != key.len() {
            return Err(Error::Malformed("wrapped key is not 32 bytes"));
        }
        key.copy_from_slice(&plain);
        Ok(ProjectKey { id, version: self.version, key })
    }
}

/// Opens one instance's volume. Random, never derived; leaves the customer only inside a release.
pub struct VolumeKey(Zeroizing<[u8; 32]>);

impl VolumeKey {
    /// A fresh key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        random_key().map(Self)
    }

    pub(crate) fn from_array(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself, for the one who hands it to the disk encryption over a pipe.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_wrapped_project_key_comes_back_only_under_its_master_key() {
        let (master, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let key = ProjectKey::generate().unwrap();
        let wrapped = key.wrap(&master).unwrap();
        let back = wrapped.unwrap(&master).unwrap();
        assert_eq!((back.id(), back.version(), back.key()), (key.id(), 1, key.key()));
        assert!(matches!(wrapped.unwrap(&other), Err(Error::OtherMasterKey)));
    }

    #[test]
    fn a_wrapped_key_with_any_field_or_bit_changed_is_refused() {
        let master = MasterKey::generate().unwrap();
        let wrapped = ProjectKey::generate().unwrap().wrap(&master).unwrap();
        let mut other_version = wrapped.clone();
        other_version.version = 2;
        assert!(matches!(other_version.unwrap(&master), Err(Error::NotAuthentic)));
        let mut other_id = wrapped.clone();
        other_id.id.0[0] ^= 1;
        assert!(matches!(other_id.unwrap(&master), Err(Error::NotAuthentic)));
        for bit in 0..wrapped.wrapped.0.len() * 8 {
            let mut flipped = wrapped.clone();
            flipped.wrapped.0[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(flipped.unwrap(&master), Err(Error::NotAuthentic)), "bit {bit}");
        }
    }

    #[test]
    fn rotating_the_master_key_keeps_the_project_key_and_locks_the_old_master_out() {
        let (old, new) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let key = ProjectKey::generate().unwrap();
        let rewrapped = key.wrap(&old).unwrap().unwrap(&old).unwrap().wrap(&new).unwrap();
        assert_eq!(rewrapped.unwrap(&new).unwrap().key(), key.key());
        assert!(matches!(rewrapped.unwrap(&old), Err(Error::OtherMasterKey)));
    }

    #[test]
    fn the_next_version_is_an_unrelated_key_of_the_same_id() {
        let key = ProjectKey::generate().unwrap();
        let next = key.next_version().unwrap();
        assert_eq!((next.id(), next.version()), (key.id(), 2));
        assert_ne!(next.key(), key.key());
    }

    #[test]
    fn a_key_file_open_to_others_short_or_not_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let key = MasterKey::create_file(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(MasterKey::load_file(&path).unwrap().id(), key.id());
        assert!(matches!(MasterKey::create_file(&path), Err(Error::KeyFile { .. })), "never overwritten");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(MasterKey::load_file(&path), Err(Error::KeyFileMode { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [0u8; 31]).unwrap();
        assert!(matches!(MasterKey::load_file(&path), Err(Error::KeyFileContent { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(MasterKey::load_file(&path), Err(Error::KeyFile { .. })));
    }
}
