//! The processor of one guest: answers requests for reports until QEMU is gone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::launch::Guest;
use crate::{Outcome, Vendor, amd, intel};

/// First argument of the program when it is the processor.
pub(crate) const COMMAND: &str = "processor";

/// What the processor is told.
#[derive(Serialize, Deserialize)]
struct State {
    vendor: Vendor,
    guest: Guest,
}

/// Starts the processor of a guest; gives the end that QEMU speaks to it through.
pub(crate) fn start(vendor: Vendor, guest: Guest) -> Outcome<UnixStream> {
    let (qemu, processor) = UnixStream::pair()?;
    let state = serde_json::to_string(&State { vendor, guest })?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([COMMAND, &state]).stdin(std::os::fd::OwnedFd::from(processor)).stdout(Stdio::null());
    command.spawn()?;
    Ok(qemu)
}

/// Answers on standard input.
pub(crate) fn serve(arguments: &[String]) -> Outcome<()> {
    let State { vendor, guest } = serde_json::from_str(arguments.first().ok_or("a processor of what?")?)?;
    let mut port = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut data = [0; 64];
    loop {
        match port.read_exact(&mut data) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let parts: [Vec<u8>; 4] = match &guest {
            Guest::Snp(guest) => {
                [b"sev_guest".to_vec(), amd::report(vendor, guest, &data), amd::certificate_table(vendor), Vec::new()]
            }
            Guest::Tdx(guest) => {
                [b"tdx_guest".to_vec(), intel::quote_of(vendor, guest, &data), Vec::new(), guest.event_log.clone()]
            }
        };
        let mut answer = Vec::new();
        for part in parts {
            answer.extend(u32::try_from(part.len())?.to_be_bytes());
            answer.extend(part);
        }
        port.write_all(&answer)?;
    }
}
