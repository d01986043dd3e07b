//! Re-attestation: a fresh challenge to a guest that already runs. Nothing is released.

use std::time::Duration;

use lambda_attest::{Collateral, Evidence, Outstanding, RECORD_VERSION, Record, TpmClock, Verdict};
use lambda_types::instance::InstanceState;
use lambda_types::mailbox::Message;
use lambda_types::session::{FromGuest, Hello, ToGuest};
use lambda_types::{BootId, Code, InstanceId};

use super::answer::{check_hello, parse, remember, unreadable};
use super::judge::{Judge, Judged, now};
use super::{Engine, inconsistent};
use crate::{Error, wait};

/// How long one read of the mailbox waits for news.
const LONG_POLL: Duration = Duration::from_secs(10);

/// A challenge with its answer, after both were used.
pub(super) struct Answered<O> {
    instance: InstanceId,
    boot: BootId,
    outstanding: O,
    previous: Option<TpmClock>,
    evidence: Vec<u8>,
    collateral: Collateral,
}

impl Answered<Outstanding> {
    pub(super) fn into_record(self) -> Result<Record, Error> {
        let Self { instance, boot, outstanding, previous, evidence, collateral } = self;
        let evidence = Evidence::from_json(&evidence).map_err(|error| unreadable(&error.to_string()))?;
        let challenge = outstanding.spend();
        Ok(Record { version: RECORD_VERSION, instance, boot, at: now(), challenge, previous, evidence, collateral })
    }
}

impl<J: Judge> Engine<J> {
    pub(super) async fn attest(
        &self,
        id: InstanceId,
        timeout: Duration,
    ) -> Result<(Verdict, Answered<J::Outstanding>), Error> {
        let mut last = "no answer yet".to_owned();
        match tokio::time::timeout(timeout, self.attest_unbounded(id, &mut last)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { what: format!("fresh evidence from {id}"), waited: timeout, last }),
        }
    }

    async fn attest_unbounded(
        &self,
        id: InstanceId,
        last: &mut String,
    ) -> Result<(Verdict, Answered<J::Outstanding>), Error> {
        let instance = self.client.instance(id).await?;
        if instance.state != InstanceState::Ready {
            let state = wait::describe(&instance);
            return Err(Error::Usage(format!("only a ready instance can be attested again; {id} is in {state}")));
        }
        let policy = self.policy(&instance)?;
        loop {
            let read = self.client.read_mailbox(id, None, 0, Duration::ZERO).await?;
            let Some(message) = read.guest else {
                *last = "the guest has not said anything yet".into();
                tokio::time::sleep(crate::customer::POLL).await;
                continue;
            };
            let hello = self.hello(id, &message)?;
            let (challenge, outstanding) = self.judge.challenge(&hello, &policy)?;
            if !self.post(id, message.boot, message.seq, &ToGuest::Challenge(challenge)).await? {
                continue;
            }
            *last = "the challenge was posted, and the guest has not answered".into();
            let Some((hello, evidence)) = self.evidence(id, message.boot, message.seq).await? else { continue };
            let previous = self.records.load(id)?.clock;
            let collateral = self.judge.collateral()?;
            let judged = self.judge.judge(&hello, &evidence, &outstanding, previous.as_ref(), &policy, &collateral);
            let verdict = match judged {
                Judged::Accepted(verdict, accepted) => {
                    if let Some(unwanted) = self.unwanted(&instance, &accepted, verdict.tee)? {
                        return Err(unwanted);
                    }
                    self.records.update(id, |record| {
                        remember(record, message.boot, &hello, &accepted, &verdict);
                        Ok(())
                    })?;
                    verdict
                }
                Judged::Rejected(verdict) | Judged::OtherChallenge(verdict) => {
                    self.records.update(id, |record| {
                        record.refused = Some(Verdict::clone(&verdict));
                        Ok(())
                    })?;
                    verdict
                }
                Judged::Unreadable(detail) => return Err(unreadable(&detail)),
            };
            let answered = Answered { instance: id, boot: message.boot, outstanding, previous, evidence, collateral };
            return Ok((*verdict, answered));
        }
    }

    /// The guest's keys: from its latest message, else from this machine's record of the same boot.
    fn hello(&self, id: InstanceId, message: &Message) -> Result<Hello, Error> {
        let hello = match parse(message)? {
            FromGuest::Hello(hello) | FromGuest::Evidence { hello, .. } => hello,
            FromGuest::Report { .. } => {
                let attested = self.records.load(id)?.attested.filter(|attested| attested.boot == message.boot);
                attested.map(|attested| attested.hello).ok_or_else(|| {
                    inconsistent(id, "this machine does not know the keys of its first boot; restart it, or attest it from the machine that created it")
                })?
            }
        };
        check_hello(&hello, id, message.boot)?;
        Ok(hello)
    }

    /// Evidence newer than `after`; `None` when the guest has booted again.
    async fn evidence(&self, id: InstanceId, boot: BootId, after: u64) -> Result<Option<(Hello, Vec<u8>)>, Error> {
        loop {
            let read = match self.client.read_mailbox(id, Some(boot), after, LONG_POLL).await {
                Ok(read) => read,
                Err(error) if error.code() == Some(Code::Conflict) => return Ok(None),
                Err(error) => return Err(error),
            };
            let Some(message) = read.guest.filter(|message| message.seq > after || message.boot != boot) else {
                continue;
            };
            if message.boot != boot {
                return Ok(None);
            }
            return match parse(&message)? {
                FromGuest::Evidence { hello, evidence } => {
                    check_hello(&hello, id, boot)?;
                    Ok(Some((hello, evidence.0)))
                }
                FromGuest::Hello(_) | FromGuest::Report { .. } => Ok(None),
            };
        }
    }
}
