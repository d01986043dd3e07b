//! swtpm's control channel (swtpm's `tpm_ioctl.h`): big-endian command codes over a unix socket.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::VtpmError;

const CMD_INIT: u32 = 2;
const CMD_SHUTDOWN: u32 = 3;
const CMD_SET_DATAFD: u32 = 16;

/// Longest time for one answer. Making a primary key is the slowest command, below a second.
const BOUND: Duration = Duration::from_secs(20);

/// Bytes of a TPM response header: tag, size, code.
const HEADER: usize = 10;

/// A connection to swtpm's control channel.
pub(super) struct Control {
    stream: UnixStream,
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> VtpmError {
    move |source| VtpmError::Control { operation, source }
}

impl Control {
    pub(super) fn new(stream: UnixStream) -> Result<Self, VtpmError> {
        bound(&stream).map_err(failed("set a time limit"))?;
        Ok(Self { stream })
    }

    /// Opens the data channel.
    pub(super) fn open_data(&mut self) -> Result<Data, VtpmError> {
        let operation = "CMD_SET_DATAFD";
        let (ours, theirs) = UnixStream::pair().map_err(failed(operation))?;
        bound(&ours).map_err(failed(operation))?;
        self.send_with(CMD_SET_DATAFD, theirs.as_fd()).map_err(failed(operation))?;
        self.result(operation)?;
        Ok(Data { stream: ours })
    }

    /// Powers the TPM on, or off and on.
    pub(super) fn power_on(&mut self) -> Result<(), VtpmError> {
        let mut message = CMD_INIT.to_be_bytes().to_vec();
        message.extend(0u32.to_be_bytes());
        self.stream.write_all(&message).map_err(failed("CMD_INIT"))?;
        self.result("CMD_INIT")
    }

    /// Ends swtpm.
    pub(super) fn shut_down(mut self) -> Result<(), VtpmError> {
        self.stream.write_all(&CMD_SHUTDOWN.to_be_bytes()).map_err(failed("CMD_SHUTDOWN"))?;
        self.result("CMD_SHUTDOWN")
    }

    fn send_with(&mut self, command: u32, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let bytes = command.to_be_bytes();
        let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn result(&mut self, operation: &'static str) -> Result<(), VtpmError> {
        let mut code = [0; 4];
        self.stream.read_exact(&mut code).map_err(failed(operation))?;
        match u32::from_be_bytes(code) {
            0 => Ok(()),
            code => Err(VtpmError::Refused { operation, code }),
        }
    }
}

fn bound(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))
}

/// The data channel: whole TPM commands.
pub(super) struct Data {
    stream: UnixStream,
}

impl Data {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut response = vec![0; HEADER];
        self.stream.read_exact(&mut response)?;
        let size = match response.get(2..6).and_then(|size| <[u8; 4]>::try_from(size).ok()) {
            Some(size) => usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX),
            None => 0,
        };
        if !(HEADER..=lambda_tpm::MAX_MESSAGE_BYTES).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a response of {size} bytes")));
        }
        response.resize(size, 0);
        self.stream.read_exact(response.get_mut(HEADER..).unwrap_or_default())?;
        Ok(response)
    }
}

impl lambda_tpm::Transport for Data {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, lambda_tpm::Error> {
        self.exchange(command).map_err(|error| lambda_tpm::Error::Transport(error.to_string()))
    }
}
