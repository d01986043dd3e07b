//! The channel with its memory: the phase and the latest message, repeated whenever the node asks by `Start`, and what is
//! wrong, told to a node that asks by `WatchHealth`.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use lambda_types::guest::{Degradation, FailureReason, FromGuest, GuestPhase, Start, ToGuest};
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
    /// The node of this connection wants to know what is wrong.
    pub watched: bool,
    /// What is wrong.
    pub degraded: Vec<Degradation>,
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
    /// The node was told what is wrong, and is told every change from here on.
    Watched,
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
        let phase = GuestPhase::Attesting;
        let memory = Memory { boot, phase, seq: 0, latest: None, watched: false, degraded: Vec::new() };
        Self { channel, memory }
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

    /// Replaces what is wrong; a node that watches is told when that is another list than before. Whether it is.
    ///
    /// # Errors
    /// When the port fails.
    pub fn diagnose(&mut self, degraded: Vec<Degradation>) -> Result<bool, ChannelError> {
        let changed = self.memory.degraded != degraded;
        if changed {
            self.memory.degraded = degraded;
            if self.memory.watched {
                self.tell_health()?;
            }
        }
        Ok(changed)
    }

    fn tell_health(&mut self) -> Result<(), ChannelError> {
        let Memory { boot, degraded, .. } = &self.memory;
        self.channel.send(&FromGuest::Health { boot: *boot, degraded: degraded.clone() })
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
                    // An older node would end a guest that says what it does not know.
                    self.memory.watched = false;
                    self.report(None)?;
                    self.repeat()?;
                    return Ok(Some(Arrival::Start(start)));
                }
                Ok(Some(ToGuest::FromBroker { seq, body })) => return Ok(Some(Arrival::Broker { seq, body: body.0 })),
                Ok(Some(ToGuest::WatchHealth)) => {
                    self.memory.watched = true;
                    self.tell_health()?;
                    return Ok(Some(Arrival::Watched));
                }
                Ok(Some(ToGuest::Shutdown)) => return Ok(Some(Arrival::Shutdown)),
                Err(error @ (ChannelError::Oversized(_) | ChannelError::Malformed(_))) => kmsg::say(&error.to_string()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use lambda_types::InstanceId;
    use lambda_types::guest::GuestNetwork;

    use super::*;

    struct Node(UnixStream);

    impl Node {
        fn say(&mut self, frame: &ToGuest) {
            let body = serde_json::to_vec(frame).unwrap();
            self.0.write_all(&[&(body.len() as u32).to_be_bytes(), body.as_slice()].concat()).unwrap();
        }

        /// What has arrived.
        fn heard(&mut self) -> Vec<FromGuest> {
            self.0.set_nonblocking(true).unwrap();
            let mut frames = Vec::new();
            let mut length = [0; 4];
            while self.0.read_exact(&mut length).is_ok() {
                let mut body = vec![0; u32::from_be_bytes(length) as usize];
                self.0.read_exact(&mut body).unwrap();
                frames.push(serde_json::from_slice(&body).unwrap());
            }
            frames
        }
    }

    fn pair() -> (Link, Node) {
        let (guest, node) = UnixStream::pair().unwrap();
        let channel = Channel::over(File::from(OwnedFd::from(guest)), Vec::new());
        (Link::new(channel, BootId::from_bits(1)), Node(node))
    }

    fn start() -> ToGuest {
        let address = [10, 0, 0, 2].into();
        let network = GuestNetwork { mac: String::new(), address, prefix: 30, gateway: [10, 0, 0, 1].into() };
        ToGuest::Start(Start { instance: InstanceId::from_bits(1), ek_chain: Vec::new(), network })
    }

    fn health(degraded: &[Degradation]) -> FromGuest {
        FromGuest::Health { boot: BootId::from_bits(1), degraded: degraded.to_vec() }
    }

    fn receive(link: &mut Link) -> Option<Arrival> {
        link.receive(Instant::now() + Duration::from_secs(10), None).unwrap()
    }

    const ILL: [Degradation; 1] = [Degradation::SshUnreachable];

    #[test]
    fn a_node_that_asks_is_told_what_is_wrong_and_each_change_once() {
        let (mut link, mut node) = pair();
        assert!(link.diagnose(ILL.to_vec()).unwrap());
        assert_eq!(node.heard(), []);
        node.say(&ToGuest::WatchHealth);
        assert_eq!(receive(&mut link), Some(Arrival::Watched));
        assert_eq!(node.heard(), [health(&ILL)]);
        assert!(!link.diagnose(ILL.to_vec()).unwrap());
        assert_eq!(node.heard(), []);
        assert!(link.diagnose(Vec::new()).unwrap());
        assert_eq!(node.heard(), [health(&[])]);
    }

    #[test]
    fn a_node_that_connects_and_does_not_ask_is_told_nothing_that_it_might_not_know() {
        let (mut link, mut node) = pair();
        node.say(&ToGuest::WatchHealth);
        receive(&mut link);
        node.say(&start());
        assert!(matches!(receive(&mut link), Some(Arrival::Start(_))));
        node.heard();
        assert!(link.diagnose(ILL.to_vec()).unwrap());
        assert_eq!(node.heard(), []);
    }
}
