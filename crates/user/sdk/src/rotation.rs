//! Rotation of the project key: a new version, and every sealed value of the project moved to it.
//!
//! The new version is stored before anything is sealed under it. What a crash leaves are values under two versions, both
//! in the keyring; the next rotation finds the older ones and moves them, before it would make another version. Old
//! versions stay: a broker elsewhere may still seal under one.

use lambda_crypto::{InstanceSecrets, KeyId, Metadata};
use lambda_types::instance::{Instance, InstanceState, UpdateInstance};
use lambda_types::{Code, InstanceId};

use crate::config::Folder;
use crate::keyring::Standing;
use crate::{Client, Error, Keyring};

/// How often one instance is read again because its record changed meanwhile.
const ATTEMPTS: u32 = 8;

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The project key.
    pub key: KeyId,
    /// Its newest version.
    pub version: u32,
    /// True when an earlier rotation was finished and no version was made.
    pub resumed: bool,
    /// Instances whose values were sealed anew.
    pub resealed: Vec<InstanceId>,
    /// Instances that are sealed under a key which this machine has not; left as they are.
    pub foreign: Vec<InstanceId>,
}

/// Rotates the project key, or finishes a rotation that was interrupted.
///
/// # Errors
/// When the API does not answer, or an instance's values cannot be opened. Run it again to continue.
pub async fn rotate_project(folder: &Folder, client: &Client) -> Result<Rotated, Error> {
    let mut keyring = Keyring::load(folder)?;
    let instances = client.instances().await?;
    let resumed = instances.iter().any(|instance| stands(&keyring, instance).is_ok_and(|s| s == Standing::Older));
    if !resumed {
        keyring = Keyring::add_version(folder)?;
    }
    let (key, version) = keyring.current_version()?;
    let mut rotated = Rotated { key, version, resumed, resealed: Vec::new(), foreign: Vec::new() };
    for instance in instances {
        let id = instance.id;
        match reseal(client, &keyring, instance).await? {
            Standing::Older => rotated.resealed.push(id),
            Standing::Foreign => rotated.foreign.push(id),
            Standing::Current => {}
        }
    }
    Ok(rotated)
}

/// How an instance's two values stand: foreign if one is, else older if one is.
fn stands(keyring: &Keyring, instance: &Instance) -> Result<Standing, Error> {
    let both = [keyring.standing(&instance.secrets)?, keyring.standing(&instance.metadata)?];
    let any = |wanted| both.contains(&wanted);
    Ok(match (any(Standing::Foreign), any(Standing::Older)) {
        (true, _) => Standing::Foreign,
        (false, true) => Standing::Older,
        (false, false) => Standing::Current,
    })
}

/// Moves one instance's values to the newest version, whoever else changes its record; says how they stood before.
async fn reseal(client: &Client, keyring: &Keyring, mut instance: Instance) -> Result<Standing, Error> {
    let id = instance.id;
    let mut stood = Standing::Current;
    for _ in 0..ATTEMPTS {
        match stands(keyring, &instance)? {
            Standing::Current => return Ok(stood),
            Standing::Foreign => return Ok(Standing::Foreign),
            Standing::Older if instance.state == InstanceState::Deleting => return Ok(stood),
            Standing::Older => stood = Standing::Older,
        }
        let update = UpdateInstance {
            secrets: Some(keyring.reseal::<InstanceSecrets>(id, &instance.secrets)?),
            metadata: Some(keyring.reseal::<Metadata>(id, &instance.metadata)?),
            volume_gib: None,
        };
        match client.update_instance(id, &instance.etag, &update).await {
            Ok(_) => return Ok(stood),
            Err(error) if error.code() == Some(Code::NotFound) => return Ok(Standing::Current),
            Err(error) if error.code() == Some(Code::VersionMismatch) => {}
            Err(error) => return Err(error),
        }
        // A lost answer of the update above shows as a mismatch, and as values that are current.
        match client.instance_if_there(id).await? {
            Some(again) => instance = again,
            None => return Ok(Standing::Current),
        }
    }
    Err(Error::Inconsistent {
        instance: id,
        detail: "its record keeps changing while it is sealed anew; try again".into(),
    })
}
