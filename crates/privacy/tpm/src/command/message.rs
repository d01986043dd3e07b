//! Command and response headers, session areas (Part 1, Command/Response Structure).

use crate::Error;
use crate::wire::{Reader, Writer};

use super::Transport;

/// Most bytes in a command or a response.
pub const MAX_MESSAGE_BYTES: usize = 4096;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;

/// TPM_RC_RETRY, TPM_RC_TESTING, TPM_RC_YIELDED: the command did nothing and may be sent again.
const AGAIN: [u32; 3] = [0x922, 0x90a, 0x908];

/// How often a command is sent again before its response code is reported.
const MAX_ATTEMPTS: usize = 16;

/// A successful response, split into its areas.
pub(super) struct Reply {
    command: &'static str,
    handles: Vec<u32>,
    parameters: Vec<u8>,
}

impl Reply {
    /// The next response handle.
    pub(super) fn handle(&mut self) -> Result<u32, Error> {
        self.handles.pop().ok_or(Error::Malformed { what: self.command, why: "the response carries no handle" })
    }

    /// The response parameters.
    pub(super) fn reader(&mut self) -> Result<Reader<'_>, Error> {
        Reader::new(self.command, &self.parameters, MAX_MESSAGE_BYTES)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // An activated credential passes through here.
        zeroize::Zeroize::zeroize(&mut self.parameters);
    }
}

/// One TPMS_AUTH_COMMAND with empty nonce and auth for each session, with the area's length before it.
pub(super) fn auth_area(sessions: &[u32]) -> Vec<u8> {
    const CONTINUE_SESSION: u8 = 1;
    let area = sessions.iter().fold(Writer::new(), |writer, handle| {
        let attributes = if *handle == super::PASSWORD { CONTINUE_SESSION } else { 0 };
        writer.u32(*handle).u16(0).u8(attributes).u16(0)
    });
    let area = area.done();
    Writer::new().u32(u32::try_from(area.len()).unwrap_or(u32::MAX)).raw(&area).done()
}

/// Sends one command and takes its response apart.
pub(super) fn exchange(
    transport: &mut dyn Transport,
    name: &'static str,
    code: u32,
    sessions: bool,
    body: &[u8],
    reply_handles: usize,
) -> Result<Reply, Error> {
    const HEADER_BYTES: usize = 10;
    let too_long = Error::TooLong { what: name, limit: MAX_MESSAGE_BYTES };
    let size = body.len().saturating_add(HEADER_BYTES);
    if size > MAX_MESSAGE_BYTES {
        return Err(too_long);
    }
    let size = u32::try_from(size).map_err(|_| too_long)?;
    let tag = if sessions { SESSIONS } else { NO_SESSIONS };
    let command = Writer::new().u16(tag).u32(size).u32(code).raw(body).done();
    let mut attempts = 0usize;
    loop {
        attempts = attempts.saturating_add(1);
        match parse(name, &transport.transmit(&command)?, reply_handles) {
            Err(Error::Refused { code, .. }) if AGAIN.contains(&code) && attempts < MAX_ATTEMPTS => {}
            result => return result,
        }
    }
}

fn parse(command: &'static str, response: &[u8], handle_count: usize) -> Result<Reply, Error> {
    let mut reader = Reader::new(command, response, MAX_MESSAGE_BYTES)?;
    let tag = reader.u16()?;
    let size = reader.u32()?;
    let code = reader.u32()?;
    if usize::try_from(size) != Ok(response.len()) {
        return Err(Error::Malformed { what: command, why: "the response is not as long as its header says" });
    }
    if code != 0 {
        return Err(Error::Refused { command, code });
    }
    let mut handles = Vec::new();
    for _ in 0..handle_count {
        handles.push(reader.u32()?);
    }
    handles.reverse();
    let parameters = match tag {
        NO_SESSIONS => reader.rest().to_vec(),
        SESSIONS => {
            let len = usize::try_from(reader.u32()?)
                .map_err(|_| Error::TooLong { what: command, limit: MAX_MESSAGE_BYTES })?;
            // What follows is the session area; its HMACs are empty for the sessions used here.
            reader.take(len)?.to_vec()
        }
        _ => return Err(Error::Malformed { what: command, why: "the response has an unknown tag" }),
    };
    Ok(Reply { command, handles, parameters })
}
