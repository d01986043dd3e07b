//! A small QMP client: enough to know that QEMU is up and to end it.
//!
//! The crate `qapi` generates the whole schema for this; three commands do not pay for it.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::layout::{connect, file};

/// Longest line that is read from QEMU.
const MAX_LINE: u64 = 64 * 1024;

/// Longest wait for an answer to a command.
const ANSWER: Duration = Duration::from_secs(5);

/// A monitor connection after its handshake.
pub(crate) struct Monitor {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<serde_json::Value>,
    #[serde(rename = "return")]
    value: Option<serde_json::Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Option<EventData>,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
}

/// Why a machine ends: what QEMU's `ShutdownCause` says of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It powered itself off.
    PoweredOff,
    /// It reset itself, which ends the machine. A reboot does this, and so does a panicked kernel.
    Reset,
    /// It told a panic device that it panicked.
    Panicked,
}

impl Ending {
    fn named(reason: &str) -> Option<Self> {
        match reason {
            "guest-shutdown" => Some(Self::PoweredOff),
            "guest-reset" => Some(Self::Reset),
            "guest-panic" => Some(Self::Panicked),
            // The host's doing: whoever did it knows.
            _ => None,
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("QEMU's monitor: {what}"))
}

impl Monitor {
    /// Connects and completes the handshake, however long QEMU takes to answer: cancel it to give up.
    ///
    /// # Errors
    /// When QEMU is gone or speaks something else.
    pub(crate) async fn open(folder: &Path) -> io::Result<Self> {
        let stream = connect(folder, file::QMP_SOCKET)?;
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        let mut monitor = Self { reader: BufReader::new(reader), writer };
        if monitor.line().await?.greeting.is_none() {
            return Err(invalid("no greeting"));
        }
        monitor.execute("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// The machine's run state: `running`, `paused`, `shutdown`, …
    ///
    /// # Errors
    /// When QEMU does not answer in time.
    pub(crate) async fn status(&mut self) -> io::Result<String> {
        let value = self.execute("query-status").await?;
        let status = value.get("status").and_then(serde_json::Value::as_str);
        status.map(str::to_owned).ok_or_else(|| invalid("no status"))
    }

    /// Ends QEMU at once, its block devices flushed.
    ///
    /// # Errors
    /// When QEMU does not answer in time; it may be ending already.
    pub(crate) async fn quit(&mut self) -> io::Result<()> {
        self.execute("quit").await.map(drop)
    }

    /// Reads until QEMU says why the machine ends; nothing when the monitor ends without.
    ///
    /// # Errors
    /// When the monitor sends what is not QMP.
    pub(crate) async fn ending(&mut self) -> io::Result<Option<Ending>> {
        loop {
            let line = match self.line().await {
                Ok(line) => line,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            };
            if line.event.as_deref() == Some("SHUTDOWN") {
                return Ok(line.data.and_then(|data| Ending::named(data.reason.as_deref()?)));
            }
        }
    }

    async fn execute(&mut self, command: &str) -> io::Result<serde_json::Value> {
        let exchange = async {
            let message = format!("{{\"execute\":\"{command}\"}}\n");
            self.writer.write_all(message.as_bytes()).await?;
            loop {
                let line = self.line().await?;
                if let Some(refusal) = line.error {
                    return Err(invalid(&format!("{command} refused: {}", refusal.class)));
                }
                if let Some(value) = line.value {
                    return Ok(value);
                }
            }
        };
        tokio::time::timeout(ANSWER, exchange).await.unwrap_or_else(|_| {
            let text = format!("QEMU's monitor did not answer {command} within {} s", ANSWER.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        })
    }

    async fn line(&mut self) -> io::Result<Line> {
        let mut text = String::new();
        let read = (&mut self.reader).take(MAX_LINE).read_line(&mut text).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&text).map_err(|_| invalid("not a JSON line"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::listen;

    async fn ending(last: &'static str) -> Option<Ending> {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(folder.path(), file::QMP_SOCKET, 0o600).unwrap();
        let qemu = std::thread::spawn(move || {
            use std::io::{BufRead as _, Write as _};
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            std::io::BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            stream.write_all(b"{\"return\": {}}\n{\"event\": \"RTC_CHANGE\", \"data\": {}}\n").unwrap();
            stream.write_all(last.as_bytes()).unwrap();
        });
        let ending = Monitor::open(folder.path()).await.unwrap().ending().await.unwrap();
        qemu.join().unwrap();
        ending
    }

    #[tokio::test]
    async fn the_reason_of_a_shutdown_event_is_told_apart() {
        let event = |reason: &str| -> &'static str {
            let line =
                format!("{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"{reason}\"}}}}\n");
            line.leak()
        };
        assert_eq!(ending(event("guest-shutdown")).await, Some(Ending::PoweredOff));
        assert_eq!(ending(event("guest-reset")).await, Some(Ending::Reset));
        assert_eq!(ending(event("guest-panic")).await, Some(Ending::Panicked));
        assert_eq!(ending(event("host-signal")).await, None);
        assert_eq!(ending("").await, None);
    }
}
