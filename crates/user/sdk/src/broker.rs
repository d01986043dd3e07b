//! The key broker: judges what booted, and only then releases an instance's secrets to it.
//!
//! ```text
//!   guest's register holds        this broker has                    it answers
//!   Hello                         –                                  Challenge
//!   Evidence                      the challenge's secret             Release, or Refused
//!   Evidence                      no secret for it (restarted, or    Challenge, after a grace period for
//!                                 another broker's challenge)        a broker that may be alive
//!   Evidence                      no secret, guest has its keys      nothing: a re-attestation
//!   Report                        the release's sealed report keys   Acknowledge, once the pin is stored
//! ```
//!
//! A challenge's secret lives in memory and answers one piece of evidence: one release for each accepted nonce. What a
//! crash leaves: before a release, nothing but a challenge to make again; after it, the report keys in the instance's
//! record; after the pin was stored, a report that is read again and acknowledged under the next counter.

mod answer;
mod attest;
pub mod daemon;
mod judge;
mod serve;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lambda_attest::{Outstanding, Policy, Verdict};
use lambda_crypto::InstanceSecrets;
use lambda_types::instance::{Instance, UpdateInstance};
use lambda_types::mailbox::PostMessage;
use lambda_types::session::ToGuest;
use lambda_types::shape::LaunchProfile;
use lambda_types::{BootId, Code, InstanceId, NodeId};

use crate::collateral::Cache;
use crate::config::{Folder, Platform};
use crate::state::Records;
use crate::{Client, Error, Keyring, policies};
use judge::{AttestJudge, Judge};

/// How long a broker that finds another one's challenge answered leaves it time to go on.
const GRACE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(3) };

/// How often a boot is challenged again because its evidence answers another challenge.
const MAX_CHALLENGES: u32 = 4;

/// Something happened while an instance was served.
#[derive(Debug, Clone)]
pub enum Event {
    /// A node was chosen.
    Placed {
        /// Which.
        node: Option<NodeId>,
    },
    /// The guest's firmware runs.
    Booting,
    /// A challenge was posted.
    Challenged,
    /// The evidence was accepted.
    Attested(Box<Verdict>),
    /// The secrets were sent to the attested key.
    Released,
    /// The evidence was refused; nothing was released.
    Refused(Box<Verdict>),
    /// The volume was initialised and its header pinned.
    PinStored,
    /// The volume is open.
    Unlocked,
    /// SSH answers.
    Ready,
    /// What the instance waits for, when that changes.
    Waiting(String),
}

/// Where the policy for an instance comes from.
pub(crate) enum PolicySource {
    /// This one for every instance.
    Fixed(Box<Policy>),
    /// The one that this machine keeps for the instance, or for its image.
    PerInstance {
        /// Where trusted images and written policies are.
        folder: Folder,
        /// The pinned platform CA.
        platform: Platform,
    },
}

impl PolicySource {
    fn get(&self, instance: &Instance, profile: LaunchProfile) -> Result<Policy, Error> {
        match self {
            Self::Fixed(policy) => Ok(Policy::clone(policy)),
            Self::PerInstance { folder, platform } => {
                Ok(policies::for_instance(folder, platform, instance.id, instance.image, profile)?.policy)
            }
        }
    }
}

/// Fresh evidence: how it came out, and what it takes to judge it again elsewhere.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// Accepted or not, check by check.
    pub verdict: Verdict,
    /// The spent challenge and its answer.
    pub record: lambda_attest::Record,
}

/// One boot, as a broker remembers it.
struct Session<O> {
    boot: BootId,
    /// The secret of the last challenge, until evidence answers it.
    outstanding: Option<O>,
    challenges: u32,
    /// Since when evidence waits that answers no challenge of ours.
    foreign_since: Option<Instant>,
}

impl<O> Session<O> {
    fn new(boot: BootId) -> Self {
        Self { boot, outstanding: None, challenges: 0, foreign_since: None }
    }
}

/// What a look at a guest's message led to.
enum Step {
    /// It was answered.
    Answered(Vec<Event>),
    /// It needs no answer.
    Ignored,
    /// Look again after this.
    Later(Duration),
    /// The register has moved on: read it again.
    Stale,
}

struct Engine<J> {
    client: Client,
    keyring: Arc<Keyring>,
    records: Records,
    policies: PolicySource,
    judge: J,
}

/// A key broker.
pub struct Broker {
    engine: Engine<AttestJudge>,
}

impl Broker {
    pub(crate) fn new(
        client: Client,
        keyring: Arc<Keyring>,
        records: Records,
        policies: PolicySource,
        cache: Cache,
    ) -> Self {
        Self { engine: Engine { client, keyring, records, policies, judge: AttestJudge { cache } } }
    }

    /// Serves one instance until it is ready.
    ///
    /// # Errors
    /// When its evidence is refused, it fails, or the bound passes: says what was last seen.
    pub async fn serve_instance(
        &self,
        id: InstanceId,
        timeout: Duration,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Instance, Error> {
        self.engine.serve(id, timeout, events).await
    }

    /// Asks a running instance for fresh evidence and judges it.
    ///
    /// # Errors
    /// When it does not run or does not answer in time, or its identity is refused.
    pub async fn attest(&self, id: InstanceId, timeout: Duration) -> Result<Fresh, Error> {
        let (verdict, answered) = self.engine.attest(id, timeout).await?;
        Ok(Fresh { verdict, record: answered.into_record()? })
    }
}

impl<J: Judge> Engine<J> {
    fn policy(&self, instance: &Instance) -> Result<Policy, Error> {
        self.policies.get(instance, self.records.load(instance.id)?.profile(instance))
    }

    /// Posts an answer to the guest's message `answers`; false when the register has moved on.
    async fn post(&self, id: InstanceId, boot: BootId, answers: u64, message: &ToGuest) -> Result<bool, Error> {
        let body = serde_json::to_vec(message).map_err(|error| Error::Protocol(error.to_string()))?;
        match self.client.post_mailbox(id, &PostMessage { boot, answers, body: body.into() }).await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(Code::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn open_secrets(&self, instance: &Instance) -> Result<InstanceSecrets, Error> {
        self.keyring.open(instance.id, &instance.secrets)
    }

    /// Stores the header pin in the instance's sealed secrets, whoever else changes them meanwhile.
    async fn store_pin(&self, id: InstanceId, pin: [u8; 32]) -> Result<(), Error> {
        for _ in 0..8 {
            let instance = self.client.instance(id).await?;
            let mut secrets = self.open_secrets(&instance)?;
            match secrets.header_pin {
                Some(stored) if stored == pin => return self.remember_pin(id, pin),
                Some(_) => return Err(inconsistent(id, "the guest reports another volume header than the pinned one")),
                None => secrets.pin(pin),
            }
            let sealed = Some(self.keyring.seal(id, &secrets)?);
            let update = UpdateInstance { secrets: sealed, ..UpdateInstance::default() };
            drop(secrets);
            match self.client.update_instance(id, &instance.etag, &update).await {
                Ok(_) => return self.remember_pin(id, pin),
                Err(error) if error.code() == Some(Code::VersionMismatch) => {}
                Err(error) => return Err(error),
            }
        }
        Err(inconsistent(id, "its record keeps changing while the header pin is being stored"))
    }

    fn remember_pin(&self, id: InstanceId, pin: [u8; 32]) -> Result<(), Error> {
        self.records.update(id, |record| {
            record.header_pin = Some(pin.to_vec().into());
            Ok(())
        })
    }
}

fn inconsistent(instance: InstanceId, detail: &str) -> Error {
    Error::Inconsistent { instance, detail: detail.into() }
}

/// The secret part of a real challenge.
type RealOutstanding = Outstanding;
