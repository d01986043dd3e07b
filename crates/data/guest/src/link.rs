//! The channel with its memory: the phase and the latest message, repeated whenever the node asks by `Start`.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use lambda_types::guest::{FailureReason, FromGuest, GuestPhase, Start, ToGuest};
use lambda_types::{Binary, BootId};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, ChannelError};
use crate::kmsg;

/// What a link remembers; it moves to the agent at the hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// This boot.
    pub boot: BootId,
    /// Where the guest is.
    pub phase: GuestPhase,
    /// Number of the latest message to the broker; 0 before the first.
    pub seq: u64,
    /// The latest message to the broker.
    pub latest: Option<Binary>,
}

/// What arrives over the link and is not answered by the link itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The node (re)connected.
    Start(Start),
    /// A message from the broker.
    Broker {
        /// Its number.
        seq: u64,
        /// Its body.
        body: Vec<u8>,
    },
    /// Power off.
    Shutdown,
}

/// The channel and its memory.
#[derive(Debug)]
pub struct Link {
    channel: Channel,
    memory: Memory,
}

impl Link {
    /// A link at the start of a boot.
    #[must_use]
    pub fn new(channel: Channel, boot: BootId) -> Self {
        Self { channel, memory: Memory { boot, phase: GuestPhase::Attesting, seq: 0, latest: None } }
    }

    /// A link that goes on where another process left it.
    #[must_use]
    pub fn resumed(channel: Channel, memory: Memory) -> Self {
        Self { channel, memory }
    }

    /// What to hand to whoever goes on.
    #[must_use]
    pub fn into_parts(self) -> (Channel, Memory) {
        (self.channel, self.memory)
    }

    /// What the link remembers.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The channel, to change how it is used at the very end.
    pub fn channel_mut(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Enters a phase and reports it.
    ///
    /// # Errors
    /// When the port fails.
    pub fn enter(&mut self, phase: GuestPhase) -> Result<(), ChannelError> {
        self.memory.phase = phase;
        self.report(None)
    }

    /// Reports failure.
    ///
    /// # Errors
    /// When the port fails.
    pub fn fail(&mut self, reason: FailureReason) -> Result<(), ChannelError> {
        self.memory.phase = GuestPhase::Failed;
        self.report(Some(reason))
    }

    fn report(&mut self, reason: Option<FailureReason>) -> Result<(), ChannelError> {
        let Memory { boot, phase, .. } = self.memory;
        self.channel.send(&FromGuest::Report { boot, phase, reason })
    }

    /// Replaces the latest message to the broker and sends it.
    ///
    /// # Errors
    /// When the port fails or the message cannot be encoded.
    pub fn say(&mut self, message: &lambda_types::session::FromGuest) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        self.memory.seq += 1;
        self.memory.latest = Some(body.into());
        self.repeat()
    }

    fn repeat(&mut self) -> Result<(), ChannelError> {
        let Some(body) = self.memory.latest.clone() else { return Ok(()) };
        let Memory { boot, seq, .. } = self.memory;
        self.channel.send(&FromGuest::ToBroker { boot, seq, body })
    }

    /// Waits for the next arrival. Repeats phase and message when the node starts anew. Frames that make no sense are
    /// noted and skipped: they come from a party that is not trusted, and may come from a newer one.
    ///
    /// # Errors
    /// When the port fails.
    pub fn receive(
        &mut self,
        deadline: Instant,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Arrival>, ChannelError> {
        loop {
            match self.channel.receive(deadline, wake) {
                Ok(None) => return Ok(None),
                Ok(Some(ToGuest::Start(start))) => {
                    self.report(None)?;
                    self.repeat()?;
                    return Ok(Some(Arrival::Start(start)));
                }
                Ok(Some(ToGuest::FromBroker { seq, body })) => return Ok(Some(Arrival::Broker { seq, body: body.0 })),
                Ok(Some(ToGuest::Shutdown)) => return Ok(Some(Arrival::Shutdown)),
                Err(error @ (ChannelError::Oversized(_) | ChannelError::Malformed(_))) => kmsg::say(&error.to_string()),
                Err(error) => return Err(error),
            }
        }
    }
}
