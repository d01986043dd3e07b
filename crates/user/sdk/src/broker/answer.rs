//! One look at a guest's latest message, and the one answer that follows from it.

use std::time::Instant;

use lambda_attest::{Tee, Verdict};
use lambda_crypto::{Acknowledge, BrokerReportKeys, ReleaseContext, Report, release};
use lambda_types::instance::{Instance, InstanceState};
use lambda_types::mailbox::{MAX_BODY_BYTES, Message};
use lambda_types::session::{FromGuest, Hello, PROTOCOL, ToGuest};
use lambda_types::shape::LaunchProfile;
use lambda_types::{BootId, InstanceId};

use super::judge::{Accepted, Judge, Judged};
use super::{Engine, Event, GRACE, MAX_CHALLENGES, Session, Step, inconsistent};
use crate::state::{Attestation, Record, Release, Wanted};
use crate::{Error, wait};

/// The check that a refusal names when an allowed image booted that is not the one that was asked for.
const WANTED: &str = "instance.wanted";

/// The check that a refusal names when the evidence cannot be read at all.
const UNREADABLE: &str = "evidence.format";

impl<J: Judge> Engine<J> {
    /// Answers the guest's message. `challenged_elsewhere`: the guest already had a broker message that is not ours.
    pub(super) async fn answer(
        &self,
        id: InstanceId,
        session: &mut Session<J::Outstanding>,
        message: &Message,
        challenged_elsewhere: bool,
    ) -> Result<Step, Error> {
        match parse(message)? {
            FromGuest::Hello(hello) => {
                check_hello(&hello, id, message.boot)?;
                self.challenge(session, message, &hello).await
            }
            FromGuest::Evidence { hello, evidence } => {
                check_hello(&hello, id, message.boot)?;
                match session.outstanding.take() {
                    Some(outstanding) => {
                        self.judge_evidence(session, message, &hello, evidence.as_slice(), &outstanding).await
                    }
                    None => self.foreign_evidence(session, message, &hello, challenged_elsewhere).await,
                }
            }
            FromGuest::Report { sealed } => self.report(id, message, sealed.as_slice()).await,
        }
    }

    async fn challenge(
        &self,
        session: &mut Session<J::Outstanding>,
        message: &Message,
        hello: &Hello,
    ) -> Result<Step, Error> {
        let instance = self.client.instance(hello.instance).await?;
        let policy = self.policy(&instance)?;
        let (challenge, outstanding) = match self.judge.challenge(hello, &policy) {
            Ok(made) => made,
            Err(Error::IdentityRefused(refusal)) => {
                self.refuse(hello.instance, message, refusal.checks.clone()).await?;
                return Err(Error::IdentityRefused(refusal));
            }
            Err(error) => return Err(error),
        };
        session.challenges = session.challenges.saturating_add(1);
        session.foreign_since = None;
        if !self.post(hello.instance, message.boot, message.seq, &ToGuest::Challenge(challenge)).await? {
            return Ok(Step::Stale);
        }
        session.outstanding = Some(outstanding);
        Ok(Step::Answered(vec![Event::Challenged]))
    }

    /// Evidence for a challenge whose secret this broker does not hold: its own from before a restart, or another's.
    async fn foreign_evidence(
        &self,
        session: &mut Session<J::Outstanding>,
        message: &Message,
        hello: &Hello,
        challenged_elsewhere: bool,
    ) -> Result<Step, Error> {
        if !self.still_waits(&self.client.instance(hello.instance).await?) {
            return Ok(Step::Ignored);
        }
        let since = *session.foreign_since.get_or_insert_with(Instant::now);
        let left = GRACE.saturating_sub(since.elapsed());
        if challenged_elsewhere && !left.is_zero() {
            return Ok(Step::Later(left));
        }
        self.challenge(session, message, hello).await
    }

    /// Whether the guest has not got its secrets yet, as far as the operator says. A lie gains a challenge, no more.
    fn still_waits(&self, instance: &Instance) -> bool {
        matches!(instance.state, InstanceState::Preparing | InstanceState::Booting | InstanceState::Attesting)
    }

    async fn judge_evidence(
        &self,
        session: &mut Session<J::Outstanding>,
        message: &Message,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &J::Outstanding,
    ) -> Result<Step, Error> {
        let instance = self.client.instance(hello.instance).await?;
        let policy = self.policy(&instance)?;
        let previous = self.records.load(hello.instance)?.clock;
        let collateral = self.judge.collateral()?;
        match self.judge.judge(hello, evidence, outstanding, previous.as_ref(), &policy, &collateral) {
            Judged::Accepted(verdict, accepted) => self.release(&instance, message, hello, verdict, &accepted).await,
            Judged::OtherChallenge(_) if session.challenges < MAX_CHALLENGES => {
                tracing::info!(instance = %hello.instance, "the evidence answers another challenge; asking again");
                self.challenge(session, message, hello).await
            }
            Judged::Rejected(verdict) | Judged::OtherChallenge(verdict) => {
                self.reject(hello.instance, message, verdict).await
            }
            Judged::Unreadable(detail) => {
                self.refuse(hello.instance, message, vec![UNREADABLE.into()]).await?;
                Err(unreadable(&detail))
            }
        }
    }

    async fn reject(&self, id: InstanceId, message: &Message, verdict: Box<Verdict>) -> Result<Step, Error> {
        self.records.update(id, |record| {
            record.refused = Some(Verdict::clone(&verdict));
            Ok(())
        })?;
        self.refuse(id, message, verdict.failed().map(|check| check.id.clone()).collect()).await?;
        Err(Error::Refused(verdict))
    }

    async fn refuse(&self, id: InstanceId, message: &Message, failed_checks: Vec<String>) -> Result<(), Error> {
        self.post(id, message.boot, message.seq, &ToGuest::Refused { failed_checks }).await.map(|_| ())
    }

    /// A refusal, when what booted is allowed and is not what was asked for.
    pub(super) fn unwanted(&self, instance: &Instance, accepted: &Accepted, tee: Tee) -> Result<Option<Error>, Error> {
        let Instance { id, image, shape, profile, .. } = *instance;
        let wanted = self.records.load(id)?.wanted.unwrap_or(Wanted { image, shape, profile });
        Ok(otherwise(&wanted, accepted, tee).map(|detail| Error::refusal(vec![WANTED.into()], detail)))
    }

    /// Sends the secrets. The record is written first: a crash after it costs another challenge, never a report that
    /// cannot be read.
    async fn release(
        &self,
        instance: &Instance,
        message: &Message,
        hello: &Hello,
        verdict: Box<Verdict>,
        accepted: &Accepted,
    ) -> Result<Step, Error> {
        let id = instance.id;
        if let Some(unwanted) = self.unwanted(instance, accepted, verdict.tee)? {
            self.refuse(id, message, vec![WANTED.into()]).await?;
            return Err(unwanted);
        }
        let context = ReleaseContext {
            policy_hash: accepted.policy_hash,
            instance: id,
            boot: message.boot,
            nonce: accepted.nonce,
        };
        let (released, pin) = {
            let secrets = self.open_secrets(instance)?;
            check_pin(&self.records.load(id)?, id, secrets.header_pin)?;
            let released = release::seal(&accepted.hpke_public, &context, &secrets)
                .map_err(Error::crypto("cannot release the secrets"))?;
            (released, secrets.header_pin)
        };
        let report_keys = self.keyring.seal(id, &released.reports)?;
        self.records.update(id, |record| {
            check_pin(record, id, pin)?;
            record.header_pin = pin.map(|pin| pin.to_vec().into());
            remember(record, message.boot, hello, accepted, &verdict);
            record.released = Some(Release { boot: message.boot, report_keys });
            Ok(())
        })?;
        let release = ToGuest::Release {
            encapsulated_key: released.encapsulated_key.into(),
            ciphertext: released.ciphertext.into(),
            policy_hash: accepted.policy_hash.to_vec().into(),
            nonce: accepted.nonce.to_vec().into(),
        };
        if !self.post(id, message.boot, message.seq, &release).await? {
            return Ok(Step::Stale);
        }
        Ok(Step::Answered(vec![Event::Attested(verdict), Event::Released]))
    }

    /// Stores the reported pin, then acknowledges it. Every step can be repeated.
    async fn report(&self, id: InstanceId, message: &Message, sealed: &[u8]) -> Result<Step, Error> {
        let Some(release) = self.records.load(id)?.released.filter(|release| release.boot == message.boot) else {
            tracing::info!(instance = %id, "a report for a release that another machine made; left to it");
            return Ok(Step::Ignored);
        };
        let mut keys: BrokerReportKeys = self.keyring.open(id, &release.report_keys)?;
        let opened = keys.open_report(sealed).map_err(Error::crypto("the guest's report was refused"))?;
        let Report::Initialised { header_pin } = opened;
        self.store_pin(id, header_pin).await?;
        // The stored keys still accept this report, and never again this counter.
        let (keys, reserved) = self.records.update(id, |record| {
            let release = record.released.as_mut().filter(|release| release.boot == message.boot);
            let release = release.ok_or_else(|| inconsistent(id, "its record was replaced meanwhile; try again"))?;
            let mut keys: BrokerReportKeys = self.keyring.open(id, &release.report_keys)?;
            let reserved = keys.reserve().map_err(Error::crypto("cannot acknowledge"))?;
            release.report_keys = self.keyring.seal(id, &keys)?;
            Ok((keys, reserved))
        })?;
        let sealed =
            keys.seal_acknowledge(reserved, Acknowledge { header_pin }).map_err(Error::crypto("cannot acknowledge"))?;
        if !self.post(id, message.boot, message.seq, &ToGuest::Acknowledge { sealed: sealed.into() }).await? {
            return Ok(Step::Stale);
        }
        Ok(Step::Answered(vec![Event::PinStored]))
    }
}

/// What booted, when the policy allows it and it is not what was asked for.
fn otherwise(wanted: &Wanted, accepted: &Accepted, tee: Tee) -> Option<String> {
    let Wanted { image, shape, profile } = *wanted;
    let vouches = match profile {
        LaunchProfile::Tpm | LaunchProfile::Sgx => Tee::Tpm,
        LaunchProfile::Snp => Tee::Snp,
        LaunchProfile::Tdx => Tee::Tdx,
        LaunchProfile::Cca => Tee::Cca,
    };
    if image != accepted.image || !accepted.shapes.contains(&shape) {
        let booted = accepted.shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        return Some(format!(
            "{} in shape {booted} booted, and {image} in shape {shape} was asked for ({WANTED})",
            accepted.image
        ));
    }
    (vouches != tee).then(|| {
        format!("it was to be launched under profile {profile}, and its evidence is of another kind ({WANTED})")
    })
}

pub(super) fn unreadable(detail: &str) -> Error {
    let detail = format!("the evidence cannot be read: {detail} ({UNREADABLE})");
    Error::refusal(vec![UNREADABLE.into()], detail)
}

pub(super) fn parse(message: &Message) -> Result<FromGuest, Error> {
    let body = message.body.as_slice();
    if body.len() > MAX_BODY_BYTES {
        return Err(Error::Protocol("the guest's message is too large".into()));
    }
    serde_json::from_slice(body)
        .map_err(|error| Error::Protocol(format!("the guest's message cannot be read: {error}")))
}

pub(super) fn check_hello(hello: &Hello, id: InstanceId, boot: BootId) -> Result<(), Error> {
    if hello.protocol != PROTOCOL {
        let detail = format!("it speaks session protocol {}, this program speaks {PROTOCOL}", hello.protocol);
        return Err(inconsistent(id, &detail));
    }
    if hello.instance != id {
        return Err(inconsistent(id, &format!("the guest says that it is {}", hello.instance)));
    }
    if hello.boot != boot {
        return Err(inconsistent(id, "the guest's message is for another boot than its register"));
    }
    Ok(())
}

/// A header that was pinned once stays pinned: older sealed secrets would let the volume be initialised again.
fn check_pin(record: &Record, id: InstanceId, pin: Option<[u8; 32]>) -> Result<(), Error> {
    match (&record.header_pin, pin) {
        (Some(known), Some(pin)) if known.as_slice() == pin => Ok(()),
        (Some(_), _) => Err(inconsistent(
            id,
            "the cloud returned older sealed secrets than this machine stored; releasing them could erase the volume",
        )),
        (None, _) => Ok(()),
    }
}

/// Puts accepted evidence on record.
pub(super) fn remember(record: &mut Record, boot: BootId, hello: &Hello, accepted: &Accepted, verdict: &Verdict) {
    record.clock.clone_from(&accepted.clock);
    record.refused = None;
    record.attested = Some(Attestation {
        boot,
        at_ms: wait::now_ms(),
        ssh_host_key: accepted.ssh_host_key.clone().into(),
        hello: hello.clone(),
        verdict: verdict.clone(),
        policy: accepted.policy_hash.to_vec().into(),
    });
}
