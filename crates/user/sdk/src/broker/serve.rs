//! The foreground broker: serves one instance until it is ready.

use std::time::Duration;

use lambda_types::instance::{Instance, InstanceState, Phase, Power};
use lambda_types::mailbox::ReadMailbox;
use lambda_types::{BootId, Code, InstanceId};

use super::judge::Judge;
use super::{Engine, Event, Session, Step};
use crate::customer::POLL;
use crate::{Error, wait};

/// How long one read of the mailbox waits for news.
const LONG_POLL: Duration = Duration::from_secs(10);

type Events<'a> = &'a mut (dyn FnMut(Event) + Send);

/// Which steps were announced, so that each is announced once and in order.
#[derive(Default)]
struct Progress {
    announced: usize,
    waiting: String,
}

/// The steps that are read off an instance, in order.
const STEPS: [fn(&Instance) -> bool; 4] = [
    |instance| instance.node.is_some() || reached(instance, Phase::Preparing),
    |instance| reached(instance, Phase::Booting),
    |instance| reached(instance, Phase::Starting),
    |instance| instance.state == InstanceState::Ready,
];

fn reached(instance: &Instance, phase: Phase) -> bool {
    instance.phases.iter().any(|time| time.phase >= phase && time.phase <= Phase::Ready)
}

impl Progress {
    fn look(&mut self, instance: &Instance, events: Events<'_>) {
        while STEPS.get(self.announced).is_some_and(|step| step(instance)) {
            events(match self.announced {
                0 => Event::Placed { node: instance.node },
                1 => Event::Booting,
                2 => Event::Unlocked,
                _ => Event::Ready,
            });
            self.announced = self.announced.saturating_add(1);
        }
        let waiting: Vec<&str> = instance.conditions.iter().map(|condition| condition.message.as_str()).collect();
        let waiting = waiting.join("; ");
        if !waiting.is_empty() && waiting != self.waiting {
            events(Event::Waiting(waiting.clone()));
        }
        self.waiting = waiting;
    }
}

/// Where the reading of one guest's register stands.
struct Reader<O> {
    session: Option<Session<O>>,
    after: u64,
    look_again: Option<tokio::time::Instant>,
}

impl<O> Reader<O> {
    fn boot(&self) -> Option<BootId> {
        self.session.as_ref().map(|session| session.boot)
    }

    fn restart(&mut self) {
        self.after = 0;
    }
}

impl<J: Judge> Engine<J> {
    pub(super) async fn serve(&self, id: InstanceId, timeout: Duration, events: Events<'_>) -> Result<Instance, Error> {
        let mut last = "nothing yet".to_owned();
        match tokio::time::timeout(timeout, self.serve_unbounded(id, events, &mut last)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { what: format!("{id} to be ready"), waited: timeout, last }),
        }
    }

    async fn serve_unbounded(&self, id: InstanceId, events: Events<'_>, last: &mut String) -> Result<Instance, Error> {
        let mut progress = Progress::default();
        let mut reader = Reader { session: None, after: 0, look_again: None };
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut mailbox = Box::pin(self.next(id, None, 0, None));
        loop {
            tokio::select! {
                read = &mut mailbox => {
                    let read = read?;
                    self.take(id, &mut reader, &read, events).await?;
                    mailbox.set(self.next(id, reader.boot(), reader.after, reader.look_again.take()));
                }
                _ = ticks.tick() => {
                    let instance = self.client.instance_if_there(id).await?.ok_or_else(|| Error::NoInstance(id.to_string()))?;
                    *last = wait::describe(&instance);
                    progress.look(&instance, events);
                    if let Some(result) = finished(instance) {
                        return result;
                    }
                }
            }
        }
    }

    /// The register's next news; an empty answer when the boot that was asked about is over.
    async fn next(
        &self,
        id: InstanceId,
        boot: Option<BootId>,
        after: u64,
        not_before: Option<tokio::time::Instant>,
    ) -> Result<Option<ReadMailbox>, Error> {
        if let Some(instant) = not_before {
            tokio::time::sleep_until(instant).await;
        }
        match self.client.read_mailbox(id, boot, after, LONG_POLL).await {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.code() == Some(Code::Conflict) => {
                tokio::time::sleep(POLL).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn take(
        &self,
        id: InstanceId,
        reader: &mut Reader<J::Outstanding>,
        read: &Option<ReadMailbox>,
        events: Events<'_>,
    ) -> Result<(), Error> {
        let Some(read) = read else {
            reader.session = None;
            reader.restart();
            return Ok(());
        };
        let Some(message) = &read.guest else { return Ok(()) };
        let session = match &mut reader.session {
            Some(session) if session.boot == message.boot => session,
            other => other.insert(Session::new(message.boot)),
        };
        if read.broker_answers >= message.seq {
            reader.after = message.seq;
            return Ok(());
        }
        match self.answer(id, session, message, read.broker_seq > 0).await {
            Ok(Step::Answered(happened)) => {
                reader.after = message.seq;
                happened.into_iter().for_each(events);
            }
            Ok(Step::Ignored) => reader.after = message.seq,
            Ok(Step::Later(pause)) => reader.look_again = Some(tokio::time::Instant::now() + pause),
            Ok(Step::Stale) => reader.restart(),
            Err(Error::Refused(verdict)) => {
                events(Event::Refused(verdict.clone()));
                return Err(Error::Refused(verdict));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether there is nothing more to wait for.
fn finished(instance: Instance) -> Option<Result<Instance, Error>> {
    match (instance.desired, instance.state) {
        (_, InstanceState::Ready) => Some(Ok(instance)),
        (_, InstanceState::Failed | InstanceState::Stopped) => Some(Err(Error::Failed(wait::describe(&instance)))),
        (Power::Stopped | Power::Deleted, _) => {
            Some(Err(Error::Failed(format!("it is being stopped or deleted: {}", wait::describe(&instance)))))
        }
        (Power::Running, _) => None,
    }
}
