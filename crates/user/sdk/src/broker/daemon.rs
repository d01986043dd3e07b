//! The unattended broker: serves every instance of the project whose guest waits, until it is told to stop.
//!
//! It keeps no list of its own: `GET /v1/mailboxes` says who waits, each time anew. An instance that cannot be served
//! is reported once for each message and left; an API that is away is waited for.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use lambda_types::{BootId, InstanceId};

use super::judge::Judge;
use super::{Broker, Engine, Event, Session, Step};
use crate::Error;
use crate::api::Waiting;

/// How long one listing waits for news.
const LONG_POLL: Duration = Duration::from_secs(20);

/// Pause when everything that waits was already looked at, and after a failed listing.
const PAUSE: Duration = Duration::from_secs(1);

/// After this time an unserved message is looked at again: the fault may have been repaired.
const AGAIN: Duration = Duration::from_secs(15);

/// What a daemon reports.
#[derive(Debug)]
pub enum Notice {
    /// Something happened to an instance.
    Event(InstanceId, Event),
    /// An instance could not be served, for another reason than a verdict.
    Failed(InstanceId, Error),
    /// The API could not be asked; it is tried again.
    Away(Error),
}

/// Serves until `shutdown` is done. Never ends on an error.
pub async fn run(broker: &Broker, shutdown: impl Future<Output = ()>, notices: &mut (dyn FnMut(Notice) + Send)) {
    let mut daemon = Daemon { engine: &broker.engine, known: HashMap::new() };
    tokio::select! {
        () = shutdown => {}
        () = daemon.run(notices) => {}
    }
}

struct Known<O> {
    session: Session<O>,
    /// The last message that needs no more looks before the instant, if there is one.
    done: Option<(u64, Option<Instant>)>,
}

pub(super) struct Daemon<'a, J: Judge> {
    engine: &'a Engine<J>,
    known: HashMap<InstanceId, Known<J::Outstanding>>,
}

impl<'a, J: Judge> Daemon<'a, J> {
    #[cfg(test)]
    pub(super) fn new(engine: &'a Engine<J>) -> Self {
        Self { engine, known: HashMap::new() }
    }

    async fn run(&mut self, notices: &mut (dyn FnMut(Notice) + Send)) {
        loop {
            match self.engine.client.waiting_mailboxes(LONG_POLL).await {
                Ok(waiting) => {
                    if !self.round(&waiting, notices).await {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Err(error) => {
                    notices(Notice::Away(error));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Looks at everything that waits; false when nothing was answered.
    pub(super) async fn round(&mut self, waiting: &[Waiting], notices: &mut (dyn FnMut(Notice) + Send)) -> bool {
        // A session with a challenge under way is kept; it is not listed while its guest works on the answer.
        self.known
            .retain(|id, known| known.session.outstanding.is_some() || waiting.iter().any(|item| item.instance == *id));
        let mut progressed = false;
        for item in waiting {
            if self.is_due(item) {
                progressed |= self.look(item, notices).await;
            }
        }
        progressed
    }

    fn is_due(&self, item: &Waiting) -> bool {
        let Some(known) = self.known.get(&item.instance) else { return true };
        if known.session.boot != item.boot {
            return true;
        }
        match known.done {
            Some((seq, again)) if seq == item.seq => again.is_some_and(|again| Instant::now() >= again),
            _ => true,
        }
    }

    async fn look(&mut self, item: &Waiting, notices: &mut (dyn FnMut(Notice) + Send)) -> bool {
        let id = item.instance;
        let read = match self.engine.client.read_mailbox(id, Some(item.boot), 0, Duration::ZERO).await {
            Ok(read) => read,
            Err(error) => {
                notices(Notice::Failed(id, error));
                self.set_done(item.boot, id, item.seq, Some(Instant::now() + AGAIN));
                return false;
            }
        };
        let Some(message) = read.guest.filter(|message| read.broker_answers < message.seq) else { return false };
        let engine = self.engine;
        let known = self.session(id, message.boot);
        match engine.answer(id, &mut known.session, &message, read.broker_seq > 0).await {
            Ok(Step::Answered(events)) => {
                known.done = Some((message.seq, None));
                events.into_iter().for_each(|event| notices(Notice::Event(id, event)));
                true
            }
            Ok(Step::Ignored) => {
                known.done = Some((message.seq, None));
                false
            }
            Ok(Step::Later(pause)) => {
                known.done = Some((message.seq, Some(Instant::now() + pause)));
                false
            }
            Ok(Step::Stale) => true,
            Err(error) => {
                known.done = Some((message.seq, Some(Instant::now() + AGAIN)));
                notices(match error {
                    Error::Refused(verdict) => Notice::Event(id, Event::Refused(verdict)),
                    error => Notice::Failed(id, error),
                });
                false
            }
        }
    }

    fn session(&mut self, id: InstanceId, boot: BootId) -> &mut Known<J::Outstanding> {
        let known = self.known.entry(id).or_insert_with(|| Known { session: Session::new(boot), done: None });
        if known.session.boot != boot {
            *known = Known { session: Session::new(boot), done: None };
        }
        known
    }

    fn set_done(&mut self, boot: BootId, id: InstanceId, seq: u64, again: Option<Instant>) {
        self.session(id, boot).done = Some((seq, again));
    }
}
