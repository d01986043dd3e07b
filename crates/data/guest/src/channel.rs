//! The guest channel: length-prefixed JSON frames over the virtio-serial port.
//!
//! The port is never closed: it passes from the initramfs to the agent that outlives the hand-over, together with
//! the bytes of a frame that is only half there. A node agent that goes away loses nothing: what is written
//! meanwhile is dropped, and the guest repeats its phase and its latest message when the next `Start` comes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lambda_types::guest::{CHANNEL_NAME, FromGuest, MAX_FRAME_BYTES, ToGuest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long one frame may take to leave while the node is connected.
pub const SEND_BOUND: Duration = Duration::from_secs(20);

/// How long to wait before looking again whether the node has connected.
const HANG_UP_PAUSE: Duration = Duration::from_millis(20);

/// Why the channel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No virtio port has the channel's name.
    #[error("no virtio-serial port is named {CHANNEL_NAME}; ports seen: {0}")]
    Missing(String),
    /// The port refuses.
    #[error("the guest channel failed: {0}")]
    Port(#[from] std::io::Error),
    /// The far end announces a frame past the limit.
    #[error("a frame of {0} bytes is past the limit of {MAX_FRAME_BYTES}")]
    Oversized(usize),
    /// A frame is not what the protocol says.
    #[error("a frame is malformed: {0}")]
    Malformed(serde_json::Error),
}

/// The channel's end inside the guest.
#[derive(Debug)]
pub struct Channel {
    port: File,
    pending: Vec<u8>,
}

impl Channel {
    /// Finds and opens the port, waiting up to `bound` for it to appear.
    ///
    /// # Errors
    /// When no port has the name, or it cannot be opened.
    pub fn open(bound: Duration) -> Result<Self, ChannelError> {
        let deadline = Instant::now() + bound;
        loop {
            let (found, seen) = find_port(CHANNEL_NAME);
            if let Some(device) = found {
                let port = File::options().read(true).write(true).open(device)?;
                return Ok(Self::over(port, Vec::new()));
            }
            if Instant::now() >= deadline {
                return Err(ChannelError::Missing(seen));
            }
            std::thread::sleep(HANG_UP_PAUSE);
        }
    }

    /// A channel over an open port, of which `pending` bytes were read before.
    #[must_use]
    pub fn over(port: File, pending: Vec<u8>) -> Self {
        rustix::io::ioctl_fionbio(&port, true).ok();
        Self { port, pending }
    }

    /// Gives the port and the bytes of an incomplete frame to whoever goes on.
    #[must_use]
    pub fn into_parts(self) -> (File, Vec<u8>) {
        (self.port, self.pending)
    }

    /// The next frame, if one arrives before `deadline` and before `wake` becomes readable.
    ///
    /// # Errors
    /// When the port fails or the frame is refused. A malformed frame is consumed: the caller may go on.
    pub fn receive(
        &mut self,
        deadline: Instant,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Option<ToGuest>, ChannelError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.wait_readable(left, wake)? {
                Wait::Woken => return Ok(None),
                Wait::Nothing => {}
                Wait::Readable => self.fill()?,
            }
        }
    }

    fn wait_readable(&self, left: Duration, wake: Option<BorrowedFd<'_>>) -> Result<Wait, ChannelError> {
        let mut fds = vec![PollFd::new(&self.port, PollFlags::IN)];
        fds.extend(wake.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        poll_for(&mut fds, left)?;
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            return Ok(Wait::Woken);
        }
        let events = fds[0].revents();
        if events.contains(PollFlags::IN) {
            return Ok(Wait::Readable);
        }
        if !events.is_empty() {
            std::thread::sleep(HANG_UP_PAUSE.min(left));
        }
        Ok(Wait::Nothing)
    }

    fn fill(&mut self) -> Result<(), ChannelError> {
        let mut chunk = [0u8; 16 * 1024];
        match self.port.read(&mut chunk) {
            // The node hung up; what it had begun to say it will say again.
            Ok(0) => {
                self.pending.clear();
                std::thread::sleep(HANG_UP_PAUSE);
            }
            Ok(length) => self.pending.extend_from_slice(&chunk[..length]),
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn take_frame(&mut self) -> Result<Option<ToGuest>, ChannelError> {
        let Some(header) = self.pending.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            self.pending.clear();
            return Err(ChannelError::Oversized(length));
        }
        if self.pending.len() < 4 + length {
            return Ok(None);
        }
        let frame: Vec<u8> = self.pending.drain(..4 + length).skip(4).collect();
        serde_json::from_slice(&frame).map(Some).map_err(ChannelError::Malformed)
    }

    /// Sends a frame; drops it when the node is not connected.
    ///
    /// # Errors
    /// When the port fails, or a connected node does not take the frame within [`SEND_BOUND`].
    pub fn send(&mut self, message: &FromGuest) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        if body.len() > MAX_FRAME_BYTES {
            return Err(ChannelError::Oversized(body.len()));
        }
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(&body);
        let deadline = Instant::now() + SEND_BOUND;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match self.port.write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if is_temporary(&error) => {
                    if !self.wait_writable(deadline)? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether the node is still there to write to.
    fn wait_writable(&self, deadline: Instant) -> Result<bool, ChannelError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
        poll_for(&mut fds, left)?;
        Ok(!fds[0].revents().contains(PollFlags::HUP))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }
}

enum Wait {
    Readable,
    Woken,
    Nothing,
}

pub(crate) fn poll_for(fds: &mut [PollFd<'_>], left: Duration) -> Result<(), ChannelError> {
    let timeout = Timespec { tv_sec: left.as_secs().min(3600) as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}

fn is_temporary(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

/// The device of the virtio-serial port with this name, and every name seen.
pub(crate) fn find_port(wanted: &str) -> (Option<PathBuf>, String) {
    let mut seen = Vec::new();
    for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == wanted {
            return (Some(Path::new("/dev").join(entry.file_name())), name);
        }
        seen.push(name.trim_end().to_owned());
    }
    (None, format!("[{}]", seen.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Channel, UnixStream) {
        let (guest, node) = UnixStream::pair().unwrap();
        (Channel::over(File::from(OwnedFd::from(guest)), Vec::new()), node)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    fn frame(json: &[u8]) -> Vec<u8> {
        [&(json.len() as u32).to_be_bytes(), json].concat()
    }

    #[test]
    fn a_frame_in_pieces_arrives_whole_and_a_half_frame_moves_on_with_the_port() {
        let (mut channel, mut node) = pair();
        let bytes = frame(br#"{"type":"shutdown"}"#);
        node.write_all(&bytes[..7]).unwrap();
        assert_eq!(channel.receive(soon(), None).unwrap(), None);
        let (port, pending) = channel.into_parts();
        let mut channel = Channel::over(port, pending);
        node.write_all(&bytes[7..]).unwrap();
        assert_eq!(channel.receive(soon(), None).unwrap(), Some(ToGuest::Shutdown));
    }

    #[test]
    fn oversized_and_malformed_frames_are_refused_and_the_next_good_one_is_read() {
        let (mut channel, mut node) = pair();
        node.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(matches!(channel.receive(soon(), None), Err(ChannelError::Oversized(_))));
        node.write_all(&frame(br#"{"type":"no-such"}"#)).unwrap();
        assert!(matches!(channel.receive(soon(), None), Err(ChannelError::Malformed(_))));
        node.write_all(&frame(br#"{"type":"shutdown"}"#)).unwrap();
        assert_eq!(channel.receive(soon(), None).unwrap(), Some(ToGuest::Shutdown));
    }

    #[test]
    fn a_wake_up_ends_the_wait() {
        let (mut channel, _node) = pair();
        let (wake, mut waker) = UnixStream::pair().unwrap();
        waker.write_all(b"x").unwrap();
        let start = Instant::now();
        assert_eq!(channel.receive(start + Duration::from_secs(30), Some(wake.as_fd())).unwrap(), None);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
