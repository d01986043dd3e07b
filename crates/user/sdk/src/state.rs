//! What this machine knows about each instance: what was attested, what was released, which header was pinned.
//!
//! The records close gaps that the cloud could use: a pinned header stays pinned here even when the cloud returns older
//! sealed secrets that still allow initialising; a TPM clock never runs backwards; an SSH host key belongs to one boot.
//! Several processes share the folder (a broker daemon and commands); every change is made under a lock.

use std::path::PathBuf;

use lambda_attest::{TpmClock, Verdict};
use lambda_crypto::report::SealedReportKeys;
use lambda_types::instance::Instance;
use lambda_types::session::Hello;
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{Binary, BootId, ImageId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::config::Folder;
use crate::{Error, files};

/// One instance's record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What this machine asked for, when it created the instance.
    pub wanted: Option<Wanted>,
    /// SHA-256 of the volume's header, once it was initialised.
    pub header_pin: Option<Binary>,
    /// The vTPM's clock when evidence was last accepted.
    pub clock: Option<TpmClock>,
    /// The last accepted evidence.
    pub attested: Option<Attestation>,
    /// The last refused evidence's verdict.
    pub refused: Option<Verdict>,
    /// The last release.
    pub released: Option<Release>,
}

impl Record {
    /// How an instance was to be launched: as this machine asked for, else as the cloud says.
    #[must_use]
    pub fn profile(&self, instance: &Instance) -> LaunchProfile {
        self.wanted.map_or(instance.profile, |wanted| wanted.profile)
    }
}

/// What was asked for at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The image.
    pub image: ImageId,
    /// The size.
    pub shape: Shape,
    /// The launch profile.
    #[serde(default)]
    pub profile: LaunchProfile,
}

/// Accepted evidence.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Which boot.
    pub boot: BootId,
    /// When, milliseconds since 1970-01-01 UTC, this machine's clock.
    pub at_ms: u64,
    /// SSH host public key, wire format, as covered by the evidence.
    pub ssh_host_key: Binary,
    /// The guest's keys and vTPM identity.
    pub hello: Hello,
    /// What was judged.
    pub verdict: Verdict,
    /// SHA-256 of the policy that it was judged by.
    #[serde(default)]
    pub policy: Binary,
}

/// A release that was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// For which boot.
    pub boot: BootId,
    /// Keys for the guest's report, sealed under the project key.
    pub report_keys: SealedReportKeys,
}

/// The records of one configuration folder.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Those in this configuration folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        Ok(Self { folder: folder.subfolder("state")? })
    }

    fn path(&self, id: InstanceId) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Where `known_hosts` of an instance is.
    #[must_use]
    pub fn known_hosts(&self, id: InstanceId) -> PathBuf {
        self.folder.join(format!("{id}.known_hosts"))
    }

    /// An instance's record; empty when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(&self, id: InstanceId) -> Result<Record, Error> {
        Ok(files::read_json(&self.path(id))?.unwrap_or_default())
    }

    /// Changes an instance's record. Other processes wait until it is stored.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn update<T>(&self, id: InstanceId, change: impl FnOnce(&mut Record) -> Result<T, Error>) -> Result<T, Error> {
        let _lock = files::lock(&self.folder.join("lock"))?;
        let mut record = self.load(id)?;
        let result = change(&mut record)?;
        files::write_json(&self.path(id), &record)?;
        Ok(result)
    }

    /// Forgets an instance that was deleted.
    ///
    /// # Errors
    /// When its files cannot be removed.
    pub fn forget(&self, id: InstanceId) -> Result<(), Error> {
        files::remove(&self.path(id))?;
        files::remove(&self.known_hosts(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_fails_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&Folder::at(dir.path())).unwrap();
        let id = InstanceId::from_bits(1);
        records
            .update(id, |record| {
                record.header_pin = Some(vec![1].into());
                Ok(())
            })
            .unwrap();
        let failed: Result<(), Error> = records.update(id, |record| {
            record.header_pin = None;
            Err(Error::Usage("no".into()))
        });
        assert!(failed.is_err());
        assert_eq!(records.load(id).unwrap().header_pin, Some(vec![1].into()));
    }

    #[test]
    fn concurrent_changes_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&Folder::at(dir.path())).unwrap();
        let id = InstanceId::from_bits(1);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    records
                        .update(id, |record| {
                            let pin = record.header_pin.get_or_insert_default();
                            pin.0.push(1);
                            Ok(())
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(records.load(id).unwrap().header_pin.unwrap().0.len(), 8);
    }

    #[test]
    fn a_forgotten_instance_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&Folder::at(dir.path())).unwrap();
        let id = InstanceId::from_bits(1);
        records.update(id, |_| Ok(())).unwrap();
        records.forget(id).unwrap();
        records.forget(id).unwrap();
        assert!(!records.path(id).exists());
    }
}
