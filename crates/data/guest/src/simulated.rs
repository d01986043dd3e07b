//! A simulated confidential processor, which answers on a virtio-serial port: for tests, under roots that no shipped
//! program trusts. A release build refuses to compile with it.
//!
//! Asked: 64 bytes of report data. Answered: provider, report, certificates and event log, each after its length (32 bits,
//! big endian).

use std::fs::File;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lambda_attest::{Binding, Evidence, report_data};
use lambda_types::guest::FailureReason;
use lambda_types::session::{Challenge, Hello};

use crate::channel::{find_port, poll_for};
use crate::failure::{Because, Failure};
use crate::session::Attester;
use crate::tsm::TsmReport;

#[cfg(not(debug_assertions))]
compile_error!("the feature `simulated-tee` believes made-up hardware and does not belong in a release build");

/// Name of the port.
const PORT: &str = "lambda.tee";

/// Longest wait for an answer.
const BOUND: Duration = Duration::from_secs(20);

/// Most bytes of one part.
const MOST_BYTES: usize = 128 * 1024;

/// Asks over the port, which is open for one answer only.
#[derive(Debug)]
pub struct SimulatedAttester {
    port: PathBuf,
}

impl SimulatedAttester {
    /// The attester, where the machine has the port.
    #[must_use]
    pub fn find() -> Option<Self> {
        find_port(PORT).0.map(|port| Self { port })
    }

    fn evidence(
        &self,
        hello: &Hello,
        challenge: &Challenge,
    ) -> std::result::Result<Evidence, Box<dyn std::error::Error>> {
        let binding = Binding::from(hello);
        let mut port = File::options().read(true).write(true).open(&self.port)?;
        port.write_all(&report_data(challenge.nonce.as_slice(), &binding))?;
        rustix::io::ioctl_fionbio(&port, true)?;
        let deadline = Instant::now() + BOUND;
        let provider = String::from_utf8(part(&mut port, deadline)?)?;
        let report = part(&mut port, deadline)?;
        let auxiliary = part(&mut port, deadline)?;
        let event_log = part(&mut port, deadline)?;
        TsmReport { provider, report, auxiliary }.evidence(binding, || Some(event_log))
    }
}

impl Attester for SimulatedAttester {
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> std::result::Result<Vec<u8>, Failure> {
        Ok(self.evidence(hello, challenge).because(FailureReason::Tee, "simulated report")?.to_json())
    }
}

fn part(port: &mut File, deadline: Instant) -> Result<Vec<u8>> {
    let length = exactly(port, 4, deadline)?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > MOST_BYTES {
        return Err(Error::new(ErrorKind::InvalidData, format!("a part of {length} bytes")));
    }
    exactly(port, length, deadline)
}

fn exactly(port: &mut File, length: usize, deadline: Instant) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut have = 0;
    while have < length {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, format!("{have} of {length} bytes came")));
        }
        match port.read(&mut bytes[have..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => have += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut ready = [rustix::event::PollFd::new(&*port, rustix::event::PollFlags::IN)];
                poll_for(&mut ready, left).map_err(Error::other)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
