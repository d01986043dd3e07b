//! Names live on the customer's side only: a name is found by opening each instance's sealed metadata here.

use lambda_crypto::Metadata;
use lambda_types::InstanceId;
use lambda_types::instance::Instance;

use crate::{Client, Error, Keyring};

/// An instance with what this machine's keyring can read of it.
pub struct Known {
    /// As the API shows it.
    pub instance: Instance,
    /// Name, tags, description; `None` when it was sealed under a key that this keyring has not.
    pub metadata: Option<Metadata>,
}

impl Known {
    /// Opens what can be opened.
    #[must_use]
    pub fn new(keyring: &Keyring, instance: Instance) -> Self {
        let metadata = match keyring.open::<Metadata>(instance.id, &instance.metadata) {
            Ok(metadata) => Some(metadata),
            Err(error) => {
                tracing::debug!(instance = %instance.id, %error, "metadata cannot be opened");
                None
            }
        };
        Self { instance, metadata }
    }

    /// The name, or `-` when it cannot be read.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.as_ref().map_or("-", |metadata| metadata.name.as_str())
    }
}

/// Every instance.
///
/// # Errors
/// When the API does not answer.
pub async fn all(client: &Client, keyring: &Keyring) -> Result<Vec<Known>, Error> {
    let instances = client.instances().await?;
    Ok(instances.into_iter().map(|instance| Known::new(keyring, instance)).collect())
}

/// The instance that `query` names: an id, a name, or the beginning of an id.
///
/// # Errors
/// When there is none or more than one.
pub async fn find(client: &Client, keyring: &Keyring, query: &str) -> Result<Known, Error> {
    if let Ok(id) = query.parse::<InstanceId>() {
        let instance = client.instance_if_there(id).await?.ok_or_else(|| Error::NoInstance(query.into()))?;
        return Ok(Known::new(keyring, instance));
    }
    choose(query, all(client, keyring).await?)
}

fn choose(query: &str, known: Vec<Known>) -> Result<Known, Error> {
    let by_name = |known: &Known| known.metadata.as_ref().is_some_and(|metadata| metadata.name == query);
    // A bare `inst_` or less would match everything.
    let by_id = |known: &Known| query.len() > "inst_".len() && known.instance.id.to_string().starts_with(query);
    let any_by_name = known.iter().any(by_name);
    let mut matching: Vec<Known> =
        known.into_iter().filter(|known| if any_by_name { by_name(known) } else { by_id(known) }).collect();
    match (matching.pop(), matching.is_empty()) {
        (None, _) => Err(Error::NoInstance(query.into())),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            matching.push(last);
            let line = |known: &Known| format!("  {}  {}  {}", known.instance.id, known.name(), known.instance.state);
            Err(Error::Ambiguous { query: query.into(), matches: matching.iter().map(line).collect() })
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use lambda_types::instance::{InstanceState, Power};
    use lambda_types::shape::{LaunchProfile, Shape};
    use lambda_types::{ImageId, Sealed, VolumeId};

    use super::*;

    pub(crate) fn instance(bits: u128) -> Instance {
        Instance {
            id: InstanceId::from_bits(bits),
            etag: "1".into(),
            generation: 1,
            shape: Shape::Nano,
            image: ImageId::from_bits(1),
            profile: LaunchProfile::Tpm,
            volume: VolumeId::from_bits(bits),
            volume_gib: 1,
            node: None,
            boot: None,
            desired: Power::Running,
            state: InstanceState::Ready,
            conditions: Vec::new(),
            phases: Vec::new(),
            created_ms: 0,
            secrets: Sealed::from_bytes(Vec::new()),
            metadata: Sealed::from_bytes(Vec::new()),
        }
    }

    fn known(bits: u128, name: &str) -> Known {
        let metadata = Some(Metadata { name: name.into(), ..Metadata::default() });
        Known { instance: instance(bits << 100), metadata }
    }

    #[test]
    fn a_name_wins_and_an_id_prefix_works() {
        let list = || vec![known(1, "web"), known(2, "db")];
        assert_eq!(choose("db", list()).unwrap().instance.id, InstanceId::from_bits(2 << 100));
        let prefix = &InstanceId::from_bits(1 << 100).to_string()[..12];
        assert_eq!(choose(prefix, list()).unwrap().name(), "web");
    }

    #[test]
    fn two_of_one_name_are_listed_instead_of_chosen_from() {
        let Err(Error::Ambiguous { matches, .. }) = choose("web", vec![known(1, "web"), known(2, "web")]) else {
            panic!("chosen")
        };
        assert_eq!(matches.len(), 2);
    }

    #[test]
    fn the_bare_prefix_of_ids_matches_nothing() {
        for query in ["inst_", "i", "", "nope"] {
            assert!(matches!(choose(query, vec![known(1, "web")]), Err(Error::NoInstance(_))), "{query}");
        }
    }

    #[test]
    fn metadata_under_another_key_hides_the_name_but_not_the_instance() {
        let (ours, theirs) = (Keyring::ephemeral().unwrap(), Keyring::ephemeral().unwrap());
        let mut instance = instance(1);
        instance.metadata = theirs.seal(instance.id, &Metadata { name: "x".into(), ..Metadata::default() }).unwrap();
        assert_eq!(Known::new(&ours, instance).name(), "-");
    }
}
