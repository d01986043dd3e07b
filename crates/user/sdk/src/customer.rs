//! What a customer does with instances, as one type: the commands of the CLI are thin over this.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_attest::Policy;
use lambda_crypto::{InstanceSecrets, Metadata};
use lambda_types::instance::{CreateInstance, Instance, InstanceState, Power, UpdateInstance};
use lambda_types::launch::SnpLaunch;
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{BootId, Code, InstanceId, Problem};
use zeroize::Zeroizing;

use crate::broker::{Event, Fresh, PolicySource};
use crate::collateral::Cache;
use crate::config::{ApiKey, Config, Folder};
use crate::images::Trusted;
use crate::resolve::{self, Known};
use crate::state::{Attestation, Records, Wanted};
use crate::{Broker, Client, Error, Keyring, files, launch, policies, wait};

/// How often a state is asked for while a person waits.
pub(crate) const POLL: Duration = Duration::from_millis(250);

/// One customer: configuration, API client, keys and records.
pub struct Customer {
    /// Where everything is.
    pub folder: Folder,
    /// Endpoint and pins.
    pub config: Config,
    /// The API.
    pub client: Client,
    /// The project keys.
    pub keyring: Arc<Keyring>,
    /// What was attested.
    pub records: Records,
}

/// An instance to be created.
pub struct NewInstance {
    /// What commands call it.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Free pairs.
    pub tags: BTreeMap<String, String>,
    /// Size.
    pub shape: Shape,
    /// How it is launched, which decides the root of trust of its evidence.
    pub profile: LaunchProfile,
    /// A trusted image.
    pub image: Trusted,
    /// Volume size, GiB.
    pub volume_gib: u32,
    /// Host name in the guest; made from the name when left out.
    pub hostname: Option<String>,
    /// Lines for `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// A script for the first boot.
    pub user_data: Option<Vec<u8>>,
    /// The guest's environment.
    pub environment: BTreeMap<String, String>,
    /// Judges every boot of it; the one for the image if left out.
    pub policy: Option<Policy>,
}

/// What asking for a start led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It boots, or will.
    Asked,
    /// Nothing was asked for: its SSH server answers already.
    AlreadyRunning,
}

/// How OpenSSH recognises an instance without trust on first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// For `HostKeyAlias`.
    pub alias: String,
    /// For `UserKnownHostsFile`; holds the attested key alone.
    pub known_hosts: PathBuf,
}

/// How often a change is tried against a record that others change meanwhile.
const ATTEMPTS: u32 = 8;

impl Customer {
    /// The connected customer of a configuration folder.
    ///
    /// # Errors
    /// When it was never connected, or a file is damaged.
    pub fn open(folder: &Folder) -> Result<Self, Error> {
        let config = Config::load(folder)?;
        let client = Client::new(&config, &ApiKey::load(folder)?)?;
        let keyring = Arc::new(Keyring::load(folder)?);
        Ok(Self { folder: folder.clone(), config, client, keyring, records: Records::open(folder)? })
    }

    /// A key broker; under this policy, or for each instance under its own.
    #[must_use]
    pub fn broker(&self, policy: Option<Policy>) -> Broker {
        let source = match policy {
            Some(policy) => PolicySource::Fixed(Box::new(policy)),
            None => PolicySource::PerInstance { folder: self.folder.clone(), platform: self.config.platform.clone() },
        };
        let cache = Cache::of(&self.folder);
        Broker::new(self.client.clone(), self.keyring.clone(), self.records.clone(), source, cache)
    }

    /// Refuses a cloud that presents another platform CA than the pinned one.
    ///
    /// # Errors
    /// When it does, or does not answer.
    pub async fn check_platform(&self) -> Result<(), Error> {
        self.config.check_platform(&self.client.platform().await?)
    }

    /// Every instance.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn all(&self) -> Result<Vec<Known>, Error> {
        resolve::all(&self.client, &self.keyring).await
    }

    /// The instance with this name, id or beginning of an id.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub async fn find(&self, query: &str) -> Result<Known, Error> {
        resolve::find(&self.client, &self.keyring, query).await
    }

    /// Seals and sends a creation. The name must not be in use.
    ///
    /// # Errors
    /// When a value is out of bounds, the name is taken, or the API refuses.
    pub async fn create(&self, mut new: NewInstance) -> Result<Instance, Error> {
        let taken = self.all().await?.into_iter().find(|known| known.name() == new.name);
        if let Some(known) = taken {
            let detail = format!("the name `{}` is in use by {}; choose another", new.name, known.instance.id);
            return Err(Error::Api(Box::new(Problem::new(Code::Conflict, detail))));
        }
        let policy = new.policy.take();
        let launch = launch::prepare(&self.folder, &new.image, new.shape, new.profile, policy.as_ref())?;
        let body = seal_new(&self.keyring, new, launch)?;
        // Before anything is sent: whatever happens from here on, no boot of it is judged by a wider policy.
        if let Some(policy) = &policy {
            policies::remember(&self.folder, body.id, policy)?;
        }
        let wanted = Wanted { image: body.image, shape: body.shape, profile: body.profile };
        self.records.update(body.id, |record| {
            record.wanted = Some(wanted);
            Ok(())
        })?;
        self.client.create_instance(&body).await
    }

    /// Asks for a start, unless the instance runs already.
    ///
    /// # Errors
    /// When the instance's state refuses it, or the API does not answer.
    pub async fn start(&self, instance: &Instance) -> Result<Started, Error> {
        if instance.desired == Power::Running && instance.state == InstanceState::Ready {
            return Ok(Started::AlreadyRunning);
        }
        self.client.start_instance(instance.id).await?;
        Ok(Started::Asked)
    }

    /// Serves an instance's guest until it is ready: challenge, verdict, release, pin.
    ///
    /// # Errors
    /// When the evidence is refused, the instance fails, or the bound passes.
    pub async fn serve(
        &self,
        id: InstanceId,
        timeout: Duration,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Instance, Error> {
        self.broker(None).serve_instance(id, timeout, events).await
    }

    /// The policy that an instance is judged by on this machine.
    ///
    /// # Errors
    /// When its image is not trusted, or the file is not a policy.
    pub fn policy(&self, instance: &Instance) -> Result<policies::Chosen, Error> {
        let profile = self.records.load(instance.id)?.profile(instance);
        policies::for_instance(&self.folder, &self.config.platform, instance.id, instance.image, profile)
    }

    /// Judges an instance by this policy from here on.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn set_policy(&self, id: InstanceId, policy: &Policy) -> Result<(), Error> {
        policies::remember(&self.folder, id, policy)
    }

    /// Enlarges an instance's volume, whoever else changes its record; its guest takes that up at its next boot. A size that it
    /// has already is no error.
    ///
    /// # Errors
    /// When the size is smaller or out of range, or its node has no room.
    pub async fn grow_volume(&self, id: InstanceId, volume_gib: u32) -> Result<Instance, Error> {
        let update = UpdateInstance { volume_gib: Some(volume_gib), ..UpdateInstance::default() };
        for _ in 0..ATTEMPTS {
            let instance = self.client.instance(id).await?;
            match self.client.update_instance(id, &instance.etag, &update).await {
                Err(error) if error.code() == Some(Code::VersionMismatch) => {}
                answered => return answered,
            }
        }
        let detail = "its record keeps changing while its volume is enlarged; try again".into();
        Err(Error::Inconsistent { instance: id, detail })
    }

    /// Waits until an instance is off.
    ///
    /// # Errors
    /// When the bound passes: says what was last seen.
    pub async fn wait_stopped(&self, id: InstanceId, timeout: Duration) -> Result<Instance, Error> {
        let off = |instance: &Instance| matches!(instance.state, InstanceState::Stopped | InstanceState::Failed);
        match self.poll(id, timeout, "the instance to stop", off).await? {
            Some(instance) => Ok(instance),
            None => Err(Error::NoInstance(id.to_string())),
        }
    }

    /// Waits until an instance is gone, and forgets it here.
    ///
    /// # Errors
    /// When the bound passes: says what was last seen.
    pub async fn wait_deleted(&self, id: InstanceId, timeout: Duration) -> Result<(), Error> {
        self.poll(id, timeout, "the instance to be removed", |_| false).await?;
        policies::forget(&self.folder, id)?;
        self.records.forget(id)
    }

    /// Asks for the instance until `done`, or until there is none.
    async fn poll(
        &self,
        id: InstanceId,
        timeout: Duration,
        what: &str,
        done: impl Fn(&Instance) -> bool,
    ) -> Result<Option<Instance>, Error> {
        let mut last = "nothing".to_owned();
        let seen = &mut last;
        let poll = async {
            loop {
                match self.client.instance_if_there(id).await? {
                    None => return Ok(None),
                    Some(instance) if done(&instance) => return Ok(Some(instance)),
                    Some(instance) => *seen = wait::describe(&instance),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(timeout, poll).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { what: what.to_owned(), waited: timeout, last }),
        }
    }

    /// Asks a running instance for fresh evidence and judges it.
    ///
    /// # Errors
    /// When it is not running, does not answer, or its identity is refused. A verdict that is not accepted is no error.
    pub async fn attest(&self, id: InstanceId, timeout: Duration) -> Result<Fresh, Error> {
        self.broker(None).attest(id, timeout).await
    }

    /// Makes `known_hosts` for the boot that runs, from its evidence. Attests anew when this boot's key is not on record,
    /// or was accepted under another policy than the present one.
    ///
    /// # Errors
    /// When the instance does not run, or its evidence is refused.
    pub async fn ssh_target(&self, instance: &Instance, timeout: Duration) -> Result<SshTarget, Error> {
        let id = instance.id;
        let Some(boot) = instance.boot.filter(|_| instance.state == InstanceState::Ready) else {
            let state = wait::describe(instance);
            return Err(Error::Usage(format!("{id} is not ready: {state}; `lambda instance start` starts it")));
        };
        let policy = self.policy(instance)?.policy.hash();
        let attested = match attested_under(&self.records, id, boot, &policy)? {
            Some(attested) => attested,
            None => {
                let verdict = self.attest(id, timeout).await?.verdict;
                if !verdict.accepted() {
                    return Err(Error::Refused(Box::new(verdict)));
                }
                attested_under(&self.records, id, boot, &policy)?.ok_or_else(|| Error::Inconsistent {
                    instance: id,
                    detail: "it booted again while it was being attested; try again".into(),
                })?
            }
        };
        let alias = id.to_string();
        let known_hosts = self.records.known_hosts(id);
        files::write(&known_hosts, known_hosts_line(&alias, attested.ssh_host_key.as_slice())?.as_bytes())?;
        Ok(SshTarget { alias, known_hosts })
    }
}

/// The accepted evidence of this boot, if it was judged by this policy.
fn attested_under(
    records: &Records,
    id: InstanceId,
    boot: BootId,
    policy: &[u8; 32],
) -> Result<Option<Attestation>, Error> {
    let attested = records.load(id)?.attested;
    Ok(attested.filter(|attested| attested.boot == boot && attested.policy.as_slice() == policy))
}

/// The body of a creation: everything that names or opens something is sealed here.
fn seal_new(keyring: &Keyring, new: NewInstance, launch: Option<SnpLaunch>) -> Result<CreateInstance, Error> {
    let NewInstance {
        name,
        description,
        tags,
        shape,
        profile,
        image,
        volume_gib,
        hostname,
        authorized_keys,
        user_data,
        environment,
        policy: _,
    } = new;
    let hostname = hostname.unwrap_or_else(|| hostname_from(&name));
    let metadata = Metadata { name, tags, description };
    metadata.check().map_err(usage)?;
    let id = InstanceId::random().map_err(|error| Error::crypto("randomness")(error.into()))?;
    let mut secrets = InstanceSecrets::new(&hostname).map_err(Error::crypto("cannot make the volume key"))?;
    secrets.authorized_keys = authorized_keys.into_iter().map(Zeroizing::new).collect();
    secrets.user_data = user_data.map(Zeroizing::new);
    secrets.environment = environment.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
    secrets.check().map_err(usage)?;
    Ok(CreateInstance {
        id,
        shape,
        image: image.id,
        profile,
        launch,
        volume_gib,
        secrets: keyring.seal(id, &secrets)?,
        metadata: keyring.seal(id, &metadata)?,
    })
}

fn usage(error: lambda_crypto::Error) -> Error {
    Error::Usage(error.to_string())
}

/// A host name from a name: the characters that a label may have, at most 63 of them.
fn hostname_from(name: &str) -> String {
    let label: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "lambda".to_owned() } else { label.to_owned() }
}

/// One `known_hosts` line from a host key in wire format (RFC 4253 §6.6).
fn known_hosts_line(alias: &str, wire: &[u8]) -> Result<String, Error> {
    let bad = || Error::Protocol("the attested SSH host key is not in wire format".into());
    let (length, rest) = wire.split_first_chunk::<4>().ok_or_else(bad)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| bad())?;
    let kind = rest.get(..length).and_then(|kind| std::str::from_utf8(kind).ok()).ok_or_else(bad)?;
    if kind != "ssh-ed25519" || wire.len() != 4 + 11 + 4 + 32 {
        return Err(bad());
    }
    Ok(format!("{alias} {kind} {}\n", STANDARD.encode(wire)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewInstance {
        let image = Trusted::parse(&crate::images::tests::manifest("d", "1")).unwrap();
        NewInstance {
            name: name.into(),
            description: String::new(),
            tags: BTreeMap::new(),
            shape: Shape::Nano,
            profile: LaunchProfile::Tpm,
            image,
            volume_gib: 1,
            hostname: None,
            authorized_keys: vec!["ssh-ed25519 AAAA canary-comment".into()],
            user_data: Some(b"#!/bin/sh\n# canary-script".to_vec()),
            environment: BTreeMap::from([("TOKEN".into(), "canary-token".into())]),
            policy: None,
        }
    }

    #[test]
    fn nothing_that_the_customer_named_is_readable_in_what_is_sent() {
        let keyring = Keyring::ephemeral().unwrap();
        let body = seal_new(&keyring, new("canary-name"), None).unwrap();
        let sent = serde_json::to_vec(&body).unwrap();
        let raw = [sent, body.secrets.as_bytes().to_vec(), body.metadata.as_bytes().to_vec()].concat();
        assert!(!String::from_utf8_lossy(&raw).contains("canary"));
        let secrets: InstanceSecrets = keyring.open(body.id, &body.secrets).unwrap();
        assert_eq!(secrets.hostname.as_str(), "canary-name");
        assert!(secrets.initialise && secrets.header_pin.is_none());
        assert_eq!(keyring.open::<Metadata>(body.id, &body.metadata).unwrap().name, "canary-name");
    }

    #[test]
    fn values_that_are_out_of_bounds_are_usage_errors() {
        let keyring = Keyring::ephemeral().unwrap();
        assert!(matches!(seal_new(&keyring, new("a b"), None), Err(Error::Usage(_))));
        let mut cut = new("web");
        cut.environment.insert("PASSWORD".into(), "canary#1".into());
        let Err(Error::Usage(text)) = seal_new(&keyring, cut, None) else { panic!("accepted") };
        assert!(text.contains("`#`") && !text.contains("canary"), "{text}");
        let mut script = new("web");
        script.user_data = Some(b"#cloud-config".to_vec());
        assert!(matches!(seal_new(&keyring, script, None), Err(Error::Usage(_))));
    }

    #[test]
    fn host_names_come_from_names() {
        assert_eq!(hostname_from("Web_1.x"), "web-1-x");
        assert_eq!(hostname_from("a-"), "a");
    }

    #[test]
    fn known_hosts_holds_one_ed25519_line() {
        let mut wire = vec![0, 0, 0, 11];
        wire.extend_from_slice(b"ssh-ed25519");
        wire.extend_from_slice(&[0, 0, 0, 32]);
        wire.extend_from_slice(&[7; 32]);
        let line = known_hosts_line("inst_x", &wire).unwrap();
        assert!(line.starts_with("inst_x ssh-ed25519 AAAAC3NzaC1lZDI1NTE5") && line.ends_with('\n'), "{line}");
        for bad in [&wire[..50], b"\0\0\0\xff", b""] {
            assert!(known_hosts_line("x", bad).is_err());
        }
    }
}
