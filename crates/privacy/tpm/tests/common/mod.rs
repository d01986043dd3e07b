//! A real swtpm for a test, ended with it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lambda_tpm::{Error, Tpm, Transport};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running swtpm with its own state folder.
pub(crate) struct Swtpm {
    process: Child,
    folder: tempfile::TempDir,
    control: UnixStream,
}

impl Swtpm {
    /// Starts one and powers it on.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let spawned = Command::new("swtpm")
            .args(["socket", "--tpm2"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args(["--server", &format!("type=unixio,path={}", at("server").display())])
            .args(["--ctrl", &format!("type=unixio,path={}", at("control").display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("swtpm is not installed: `./x setup` or `apt-get install swtpm`");
            }
            Err(error) => panic!("swtpm does not start: {error}"),
        };
        let control = connect(&at("control"));
        let mut swtpm = Self { process, folder, control };
        swtpm.power_on();
        swtpm
    }

    /// CMD_INIT: a TPM reset without losing what is in non-volatile memory.
    pub(crate) fn power_on(&mut self) {
        self.control.write_all(&[0, 0, 0, 2, 0, 0, 0, 0]).unwrap();
        let mut answer = [0xff; 4];
        self.control.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0; 4], "swtpm refused CMD_INIT");
    }

    /// A connection for commands.
    pub(crate) fn socket(&self) -> Socket {
        Socket(connect(&self.folder.path().join("server")))
    }

    /// The TPM behind a connection of its own.
    pub(crate) fn tpm(&self) -> Tpm<Socket> {
        Tpm::new(self.socket())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// swtpm's command socket.
pub(crate) struct Socket(UnixStream);

impl Transport for Socket {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |error: std::io::Error| Error::Transport(error.to_string());
        self.0.write_all(command).map_err(failed)?;
        let mut response = vec![0; 10];
        self.0.read_exact(&mut response).map_err(failed)?;
        let size = u32::from_be_bytes(response[2..6].try_into().unwrap());
        response.resize(usize::try_from(size).unwrap().max(10), 0);
        self.0.read_exact(&mut response[10..]).map_err(failed)?;
        Ok(response)
    }
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "no socket at {}: {error}", path.display()),
        }
        std::thread::yield_now();
    }
}
