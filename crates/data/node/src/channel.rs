//! The guest channel: frames over QEMU's socket for the virtio-serial port.
//!
//! The guest is hostile until proven otherwise, and what is proven here is nothing: a frame that is too long or is not
//! one of ours ends the connection with an error, never more. Bodies are relayed unread and appear in no log.

use std::io;
use std::path::Path;
use std::time::Duration;

use lambda_types::guest::{FromGuest, MAX_FRAME_BYTES, ToGuest};
use lambda_types::mailbox::MAX_BODY_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::layout::{connect, file};

/// Frames that wait for the agent or for the guest.
const QUEUE: usize = 16;

/// Longest time to write one frame. A guest that boots reads nothing until its driver is up.
const WRITE: Duration = Duration::from_secs(300);

/// Why the channel ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("the guest channel broke: {0}")]
    Io(#[from] io::Error),
    #[error("the guest sent a frame of {0} bytes, more than {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("the guest sent a frame that is not part of the protocol")]
    Malformed,
    #[error("the guest did not read a frame within {} s", WRITE.as_secs())]
    NotRead,
}

impl ChannelError {
    /// The guest's doing, not a closed socket.
    pub(crate) fn is_violation(&self) -> bool {
        matches!(self, Self::TooLong(_) | Self::Malformed)
    }
}

/// What the agent hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(FromGuest),
    Closed(ChannelError),
}

/// A connection to the guest; dropping it closes it.
pub(crate) struct Channel {
    outgoing: mpsc::Sender<ToGuest>,
    incoming: mpsc::Receiver<Heard>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Channel {
    /// Connects to QEMU's socket.
    ///
    /// # Errors
    /// When QEMU does not listen any more.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let stream = connect(folder, file::GUEST_SOCKET)?;
        stream.set_nonblocking(true)?;
        let (mut reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let (outgoing, mut queue) = mpsc::channel::<ToGuest>(QUEUE);
        let (report, incoming) = mpsc::channel(QUEUE);
        let failures = report.clone();
        let reading = tokio::spawn(async move {
            loop {
                let heard = match read_frame(&mut reader).await {
                    Ok(frame) => Heard::Frame(frame),
                    Err(error) => Heard::Closed(error),
                };
                let last = matches!(heard, Heard::Closed(_));
                if report.send(heard).await.is_err() || last {
                    return;
                }
            }
        });
        let writing = tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if let Err(error) = write_frame(&mut writer, &frame).await {
                    // The agent may have dropped the channel already.
                    let _ = failures.send(Heard::Closed(error)).await;
                    return;
                }
            }
        });
        Ok(Self { outgoing, incoming, tasks: [reading, writing] })
    }

    /// Queues a frame; `false` when the queue is full, which a guest that reads never sees.
    pub(crate) fn send(&self, frame: ToGuest) -> bool {
        self.outgoing.try_send(frame).is_ok()
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        let gone = || Heard::Closed(ChannelError::Io(io::ErrorKind::UnexpectedEof.into()));
        self.incoming.recv().await.unwrap_or_else(gone)
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<FromGuest, ChannelError> {
    let length = usize::try_from(reader.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(ChannelError::TooLong(length));
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await?;
    let frame: FromGuest = serde_json::from_slice(&frame).map_err(|_| ChannelError::Malformed)?;
    match &frame {
        FromGuest::ToBroker { body, .. } if body.0.len() > MAX_BODY_BYTES => Err(ChannelError::TooLong(body.0.len())),
        FromGuest::ToBroker { .. } | FromGuest::Report { .. } | FromGuest::Health { .. } => Ok(frame),
    }
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), frame: &ToGuest) -> Result<(), ChannelError> {
    let body = serde_json::to_vec(frame).map_err(|_| ChannelError::Malformed)?;
    let length = u32::try_from(body.len()).map_err(|_| ChannelError::TooLong(body.len()))?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(body);
    tokio::time::timeout(WRITE, writer.write_all(&message)).await.map_err(|_| ChannelError::NotRead)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use lambda_types::guest::GuestPhase;
    use lambda_types::{Binary, BootId};

    use super::*;

    async fn read(bytes: &[u8]) -> Result<FromGuest, ChannelError> {
        let mut bytes = bytes;
        read_frame(&mut bytes).await
    }

    fn framed(frame: &impl serde::Serialize) -> Vec<u8> {
        let body = serde_json::to_vec(frame).unwrap();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    fn report() -> FromGuest {
        FromGuest::Report { boot: BootId::from_bits(1), phase: GuestPhase::Ready, reason: None }
    }

    #[tokio::test]
    async fn garbage_is_an_error_and_never_more() {
        assert!(matches!(read(&[0xff; 64]).await, Err(ChannelError::TooLong(_))));
        assert!(matches!(read(b"\0\0\0\x02{}").await, Err(ChannelError::Malformed)));
        assert!(matches!(read(b"\0\0\0\0").await, Err(ChannelError::Malformed)));
        assert!(matches!(read(b"\0\0\0\x04\xff\xfe\xfd\xfc").await, Err(ChannelError::Malformed)));
        assert!(matches!(read(b"\0\0").await, Err(ChannelError::Io(_))));
        assert!(matches!(read(&framed(&report())[..9]).await, Err(ChannelError::Io(_))));
    }

    #[tokio::test]
    async fn a_body_above_the_mailbox_limit_is_refused() {
        let big = FromGuest::ToBroker { boot: BootId::from_bits(1), seq: 1, body: Binary(vec![0; MAX_BODY_BYTES + 1]) };
        assert!(matches!(read(&framed(&big)).await, Err(ChannelError::TooLong(_))));
    }

    #[tokio::test]
    async fn a_frame_that_arrives_byte_by_byte_is_whole() {
        let (mut ours, mut theirs) = tokio::io::duplex(1);
        let message = framed(&report());
        let sending = tokio::spawn(async move { theirs.write_all(&message).await });
        assert_eq!(read_frame(&mut ours).await.unwrap(), report());
        sending.await.unwrap().unwrap();
    }
}
