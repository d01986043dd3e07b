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
const NEW_MASTER_FILE: &str = "master.key.new";
const KEYRING_FILE: &str = "keyring.json";
const LOCK_FILE: &str = "keyring.lock";

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
    /// Where it is stored, for versions that another process adds.
    folder: Option<Folder>,
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

    /// The stored keyring. Finishes a rotation of the master key that was interrupted.
    ///
    /// # Errors
    /// When it is missing, or the master key does not open it.
    pub fn load(folder: &Folder) -> Result<Self, Error> {
        match unlock(folder, MASTER_FILE) {
            Err(Error::Crypto { source: lambda_crypto::Error::OtherMasterKey, .. }) => {}
            other => return other.map(|(keyring, _)| keyring),
        }
        // A rotation is under way, or was interrupted after the keyring was replaced.
        let _lock = lock(folder)?;
        load_locked(folder).map(|(keyring, _)| keyring)
    }

    /// A keyring that is stored nowhere.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn ephemeral() -> Result<Self, Error> {
        let key = ProjectKey::generate().map_err(Error::crypto("cannot create the project key"))?;
        Ok(Self { keys: vec![key], folder: None })
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

    /// Opens under the key that the value names; looks into the file when it is one that was added meanwhile.
    ///
    /// # Errors
    /// When the keyring has no such key, or the value is not authentic.
    pub fn open<T: Sealable>(&self, object: impl Into<Object>, sealed: &Sealed<T::Kind>) -> Result<T, Error> {
        let what = "cannot open a sealed value";
        let (id, version) = sealed_under(sealed).map_err(Error::crypto(what))?;
        let open = |key: &ProjectKey| key.open(object, sealed).map_err(Error::crypto(what));
        if let Some(key) = self.find(id, version) {
            return open(key);
        }
        let stored = self.folder.as_ref().map(Self::load).transpose()?;
        match stored.as_ref().and_then(|stored| stored.find(id, version)) {
            Some(key) => open(key),
            None => Err(Error::crypto(what)(lambda_crypto::Error::OtherKey { id, version })),
        }
    }

    /// Replaces the master key: every project key is wrapped anew, then the old file is replaced.
    ///
    /// ```text
    ///   step                              a crash after it leaves                        the next load
    ///   master.key.new is written         the old pair, and an unused file               uses the old pair
    ///   keyring.json is replaced          a keyring that fits master.key.new             renames it, then uses it
    ///   master.key.new becomes master.key the new pair                                   uses it
    /// ```
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn rotate_master(folder: &Folder) -> Result<(), Error> {
        let _lock = lock(folder)?;
        let (keyring, _) = load_locked(folder)?;
        let fresh = folder.join(NEW_MASTER_FILE);
        // The keyring opens with `master.key`, so this is what an interrupted rotation left unused.
        files::remove(&fresh)?;
        let master = MasterKey::create_file(&fresh).map_err(Error::crypto("cannot create the master key"))?;
        let fail = |source| Error::File { action: "write", path: fresh.clone(), source };
        files::sync_folder_of(&fresh).map_err(fail)?;
        store(folder, &master, &keyring.keys)?;
        adopt_new_master(folder)
    }

    /// Adds the next version of the current project key, under which everything is sealed from then on. Old versions stay.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn add_version(folder: &Folder) -> Result<Self, Error> {
        let _lock = lock(folder)?;
        let (mut keyring, master) = load_locked(folder)?;
        let next = keyring.current()?.next_version().map_err(Error::crypto("cannot make a project key"))?;
        keyring.keys.push(next);
        store(folder, &master, &keyring.keys)?;
        Ok(keyring)
    }

    /// Name and version of the key that seals.
    ///
    /// # Errors
    /// When there is none.
    pub fn current_version(&self) -> Result<(KeyId, u32), Error> {
        self.current().map(|key| (key.id(), key.version()))
    }

    /// How a value is sealed, seen from this keyring.
    ///
    /// # Errors
    /// When the value is malformed.
    pub fn standing<K>(&self, sealed: &Sealed<K>) -> Result<Standing, Error> {
        let (id, version) = sealed_under(sealed).map_err(Error::crypto("cannot read a sealed value"))?;
        Ok(if (id, version) == self.current_version()? {
            Standing::Current
        } else if self.find(id, version).is_some() {
            Standing::Older
        } else {
            Standing::Foreign
        })
    }

    /// The same value under the newest key.
    ///
    /// # Errors
    /// When this keyring cannot open it.
    pub fn reseal<T: Sealable>(
        &self,
        object: impl Into<Object>,
        sealed: &Sealed<T::Kind>,
    ) -> Result<Sealed<T::Kind>, Error> {
        let what = "cannot seal a value anew";
        let (id, version) = sealed_under(sealed).map_err(Error::crypto(what))?;
        let key = self
            .find(id, version)
            .ok_or_else(|| Error::crypto(what)(lambda_crypto::Error::OtherKey { id, version }))?;
        key.reseal::<T>(object, sealed, self.current()?).map_err(Error::crypto(what))
    }
}

/// How a sealed value stands to a keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Under the newest key.
    Current,
    /// Under an older one that this keyring has.
    Older,
    /// Under one that it has not.
    Foreign,
}

fn lock(folder: &Folder) -> Result<std::fs::File, Error> {
    if !folder.join(KEYRING_FILE).exists() {
        return Err(Error::NotConnected(folder.path().into()));
    }
    files::lock(&folder.join(LOCK_FILE))
}

/// The keyring and the key that opens it; the caller holds the lock.
fn load_locked(folder: &Folder) -> Result<(Keyring, MasterKey), Error> {
    match unlock(folder, MASTER_FILE) {
        Err(Error::Crypto { source: lambda_crypto::Error::OtherMasterKey, .. })
            if folder.join(NEW_MASTER_FILE).exists() =>
        {
            let opened = unlock(folder, NEW_MASTER_FILE)?;
            adopt_new_master(folder)?;
            Ok(opened)
        }
        other => other,
    }
}

fn adopt_new_master(folder: &Folder) -> Result<(), Error> {
    let path = folder.join(MASTER_FILE);
    std::fs::rename(folder.join(NEW_MASTER_FILE), &path)
        .and_then(|()| files::sync_folder_of(&path))
        .map_err(|source| Error::File { action: "write", path, source })
}

/// The keyring as this master key opens it.
fn unlock(folder: &Folder, master_file: &str) -> Result<(Keyring, MasterKey), Error> {
    let path = folder.join(KEYRING_FILE);
    let stored: Stored = files::read_json(&path)?.ok_or_else(|| Error::NotConnected(folder.path().into()))?;
    if stored.format != FORMAT {
        let detail = format!("format {} is not known to this program: update it", stored.format);
        return Err(Error::Damaged { path, detail });
    }
    let master = MasterKey::load_file(&folder.join(master_file)).map_err(Error::crypto("cannot use the master key"))?;
    let keys = stored
        .keys
        .iter()
        .map(|wrapped| wrapped.unwrap(&master).map_err(Error::crypto("cannot unwrap a project key")))
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err(Error::Damaged { path, detail: "no key in it".into() });
    }
    Ok((Keyring { keys, folder: Some(folder.clone()) }, master))
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

    #[test]
    fn a_rotation_that_is_interrupted_at_any_step_is_finished_or_undone_by_the_next_load() {
        for interrupted_after in ["master.key.new", "keyring.json"] {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder::at(dir.path());
            let id = InstanceId::from_bits(1);
            let sealed = Keyring::load_or_create(&folder).unwrap().seal(id, &metadata()).unwrap();
            let (old, new) = (folder.join(MASTER_FILE), folder.join(NEW_MASTER_FILE));
            let old_bytes = std::fs::read(&old).unwrap();
            let old_keyring = std::fs::read(folder.join(KEYRING_FILE)).unwrap();
            Keyring::rotate_master(&folder).unwrap();
            let new_bytes = std::fs::read(&old).unwrap();
            files::write(&new, &new_bytes).unwrap();
            files::write(&old, &old_bytes).unwrap();
            if interrupted_after == "master.key.new" {
                files::write(&folder.join(KEYRING_FILE), &old_keyring).unwrap();
            }
            let opened = Keyring::load(&folder).unwrap().open::<Metadata>(id, &sealed);
            assert_eq!(opened.unwrap(), metadata(), "{interrupted_after}");
            let kept = std::fs::read(&old).unwrap();
            let finished = interrupted_after == "keyring.json";
            assert_eq!(kept == new_bytes, finished, "{interrupted_after}");
            assert_eq!(new.exists(), !finished, "{interrupted_after}");
            Keyring::rotate_master(&folder).unwrap();
            assert!(!new.exists());
            assert_eq!(Keyring::load(&folder).unwrap().open::<Metadata>(id, &sealed).unwrap(), metadata());
        }
    }

    #[test]
    fn a_foreign_new_master_key_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        Keyring::load_or_create(&folder).unwrap();
        let bytes = std::fs::read(folder.join(MASTER_FILE)).unwrap();
        files::write(&folder.join(MASTER_FILE), &[7; 32]).unwrap();
        files::write(&folder.join(NEW_MASTER_FILE), &[8; 32]).unwrap();
        assert!(Keyring::load(&folder).is_err());
        assert_eq!(std::fs::read(folder.join(MASTER_FILE)).unwrap(), [7; 32]);
        files::write(&folder.join(MASTER_FILE), &bytes).unwrap();
        Keyring::load(&folder).unwrap();
    }

    #[test]
    fn rotations_and_loads_at_the_same_time_never_see_a_pair_that_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        Keyring::load_or_create(&folder).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..5).for_each(|_| Keyring::rotate_master(&folder).unwrap()));
                scope.spawn(|| (0..30).for_each(|_| drop(Keyring::load(&folder).unwrap())));
            }
        });
    }

    #[test]
    fn a_new_version_seals_and_a_keyring_that_was_loaded_before_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let before = Keyring::load_or_create(&folder).unwrap();
        let id = InstanceId::from_bits(1);
        let old = before.seal(id, &metadata()).unwrap();
        let after = Keyring::add_version(&folder).unwrap();
        assert_eq!(after.standing(&old).unwrap(), Standing::Older);
        let resealed = after.reseal::<Metadata>(id, &old).unwrap();
        assert_eq!(after.standing(&resealed).unwrap(), Standing::Current);
        assert_eq!(before.standing(&resealed).unwrap(), Standing::Foreign);
        assert_eq!(before.open::<Metadata>(id, &resealed).unwrap(), metadata());
        assert_eq!(after.open::<Metadata>(id, &old).unwrap(), metadata(), "the old version stays");
    }
}
