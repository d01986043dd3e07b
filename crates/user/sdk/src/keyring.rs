//! The customer's project keys, wrapped under the master key.
//!
//! Sealing uses the newest version of the current key; opening finds the key that the sealed value names. Old versions
//! stay, because values sealed under them may still be stored by the cloud.

use lambda_crypto::seal::{Object, Sealable, sealed_under};
use lambda_crypto::{KeyId, MasterKey, ProjectKey, WrappedKey};
use lambda_types::Sealed;
use serde::{Deserialize, Serialize};

use crate::config::Folder;
use crate::{Error, files};

const FORMAT: u32 = 1;
const MASTER_FILE: &str = "master.key";
const KEYRING_FILE: &str = "keyring.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    /// Newest last.
    keys: Vec<WrappedKey>,
}

/// The unlocked keyring.
pub struct Keyring {
    keys: Vec<ProjectKey>,
}

impl Keyring {
    /// The stored keyring; master key and first project key are made when neither exists.
    ///
    /// # Errors
    /// When one of the two files exists without the other, or either cannot be used.
    pub fn load_or_create(folder: &Folder) -> Result<Self, Error> {
        files::make_folder(folder.path())?;
        let (master, keyring) = (folder.join(MASTER_FILE), folder.join(KEYRING_FILE));
        if !master.exists() && !keyring.exists() {
            let master = MasterKey::create_file(&master).map_err(Error::crypto("cannot create the master key"))?;
            let key = ProjectKey::generate().map_err(Error::crypto("cannot create the project key"))?;
            store(folder, &master, &[key])?;
        }
        Self::load(folder)
    }

    /// The stored keyring.
    ///
    /// # Errors
    /// When it is missing, or the master key does not open it.
    pub fn load(folder: &Folder) -> Result<Self, Error> {
        let path = folder.join(KEYRING_FILE);
        let stored: Stored = files::read_json(&path)?.ok_or_else(|| Error::NotConnected(folder.path().into()))?;
        if stored.format != FORMAT {
            let detail = format!("format {} is not known to this program: update it", stored.format);
            return Err(Error::Damaged { path, detail });
        }
        let master =
            MasterKey::load_file(&folder.join(MASTER_FILE)).map_err(Error::crypto("cannot use the master key"))?;
        let keys = stored
            .keys
            .iter()
            .map(|wrapped| wrapped.unwrap(&master).map_err(Error::crypto("cannot unwrap a project key")))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(Error::Damaged { path, detail: "no key in it".into() });
        }
        Ok(Self { keys })
    }

    /// A keyring that is stored nowhere.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn ephemeral() -> Result<Self, Error> {
        Ok(Self { keys: vec![ProjectKey::generate().map_err(Error::crypto("cannot create the project key"))?] })
    }

    fn current(&self) -> Result<&ProjectKey, Error> {
        self.keys.last().ok_or_else(|| Error::Usage("the keyring is empty".into()))
    }

    fn find(&self, id: KeyId, version: u32) -> Option<&ProjectKey> {
        self.keys.iter().find(|key| key.id() == id && key.version() == version)
    }

    /// Seals under the newest key.
    ///
    /// # Errors
    /// When the value is out of bounds.
    pub fn seal<T: Sealable>(&self, object: impl Into<Object>, value: &T) -> Result<Sealed<T::Kind>, Error> {
        self.current()?.seal(object, value).map_err(Error::crypto("cannot seal"))
    }

    /// Opens under the key that the value names.
    ///
    /// # Errors
    /// When the keyring has no such key, or the value is not authentic.
    pub fn open<T: Sealable>(&self, object: impl Into<Object>, sealed: &Sealed<T::Kind>) -> Result<T, Error> {
        let what = "cannot open a sealed value";
        let (id, version) = sealed_under(sealed).map_err(Error::crypto(what))?;
        let key = self
            .find(id, version)
            .ok_or_else(|| Error::crypto(what)(lambda_crypto::Error::OtherKey { id, version }))?;
        key.open(object, sealed).map_err(Error::crypto(what))
    }

    /// Replaces the master key: every project key is wrapped anew, then the old file is replaced.
    ///
    /// The new master key is first written beside the old one, so that a crash at any point leaves a pair that fits:
    /// the keyring with its old master key, or `master.key.new` to be renamed.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn rotate_master(folder: &Folder) -> Result<(), Error> {
        let keyring = Self::load(folder)?;
        let fresh = folder.join("master.key.new");
        let master = MasterKey::create_file(&fresh).map_err(Error::crypto("cannot create the master key"))?;
        store(folder, &master, &keyring.keys)?;
        let path = folder.join(MASTER_FILE);
        std::fs::rename(&fresh, &path).map_err(|source| Error::File { action: "write", path, source })
    }
}

fn store(folder: &Folder, master: &MasterKey, keys: &[ProjectKey]) -> Result<(), Error> {
    let keys = keys
        .iter()
        .map(|key| key.wrap(master).map_err(Error::crypto("cannot wrap a project key")))
        .collect::<Result<Vec<_>, _>>()?;
    files::write_json(&folder.join(KEYRING_FILE), &Stored { format: FORMAT, keys })
}

#[cfg(test)]
mod tests {
    use lambda_crypto::Metadata;
    use lambda_types::InstanceId;

    use super::*;

    fn metadata() -> Metadata {
        Metadata { name: "web".into(), ..Metadata::default() }
    }

    #[test]
    fn the_keyring_comes_back_and_opens_what_it_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path().join("c"));
        let id = InstanceId::from_bits(1);
        let sealed = Keyring::load_or_create(&folder).unwrap().seal(id, &metadata()).unwrap();
        let again = Keyring::load_or_create(&folder).unwrap();
        assert_eq!(again.open::<Metadata>(id, &sealed).unwrap(), metadata());
    }

    #[test]
    fn a_keyring_without_its_master_key_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        Keyring::load_or_create(&folder).unwrap();
        let before = std::fs::read(folder.join(KEYRING_FILE)).unwrap();
        std::fs::remove_file(folder.join(MASTER_FILE)).unwrap();
        assert!(Keyring::load_or_create(&folder).is_err());
        assert_eq!(std::fs::read(folder.join(KEYRING_FILE)).unwrap(), before);
        assert!(!folder.join(MASTER_FILE).exists());
    }

    #[test]
    fn rotating_the_master_key_keeps_old_values_readable_and_refuses_the_old_key() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let id = InstanceId::from_bits(1);
        let sealed = Keyring::load_or_create(&folder).unwrap().seal(id, &metadata()).unwrap();
        let old = std::fs::read(folder.join(MASTER_FILE)).unwrap();
        Keyring::rotate_master(&folder).unwrap();
        assert_eq!(Keyring::load(&folder).unwrap().open::<Metadata>(id, &sealed).unwrap(), metadata());
        files::write(&folder.join(MASTER_FILE), &old).unwrap();
        assert!(Keyring::load(&folder).is_err());
    }
}
