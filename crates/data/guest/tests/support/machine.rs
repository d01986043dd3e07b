//! QEMU, swtpm and the host's end of the guest channel.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lambda_types::InstanceId;
use lambda_types::guest::{FailureReason, FromGuest, GuestNetwork, GuestPhase, Start, ToGuest};
use lambda_types::image::{ImageManifest, file};

use super::BOUND;

const MAC: &str = "02:00:00:00:00:01";

/// How to start a machine.
pub struct Options {
    /// The volume's raw file.
    pub volume: PathBuf,
    /// Who it is started as.
    pub instance: InstanceId,
    /// Replaces the root disk.
    pub root: Option<PathBuf>,
    /// Gives the guest a serial console that prints everything it is given, into this file.
    pub console: Option<PathBuf>,
}

impl Options {
    /// A machine over this volume.
    pub fn new(volume: &Path, instance: InstanceId) -> Self {
        Self { volume: volume.to_owned(), instance, root: None, console: None }
    }
}

/// A sparse file to be a volume.
pub fn new_volume(folder: &Path, bytes: u64) -> PathBuf {
    let path = folder.join("volume.raw");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// A running machine; ends with its value.
pub struct Machine {
    qemu: Process,
    _swtpm: Process,
    folder: tempfile::TempDir,
    channel: UnixStream,
    pending: Vec<u8>,
    start: Start,
    /// Port on loopback that leads to the guest's port 22.
    pub ssh_port: u16,
    /// Every phase that was reported, with the time since the start.
    pub phases: Vec<(GuestPhase, Duration)>,
    started: Instant,
}

impl Machine {
    /// Starts firmware, vTPM and kernel, and says `Start`.
    pub fn start(options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tpm = folder.path().join("tpm");
        fs::create_dir(&tpm).unwrap();
        let control = folder.path().join("tpm.sock");
        let mut swtpm = Command::new("swtpm");
        swtpm
            .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", tpm.display())])
            .args(["--ctrl", &format!("type=unixio,path={}", control.display()), "--terminate"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut swtpm = Process::start(&mut swtpm);
        wait_for(&control, &mut swtpm);
        let ssh_port = free_port();
        let started = Instant::now();
        let mut qemu = Process::start(&mut qemu(folder.path(), options, ssh_port));
        let socket = folder.path().join("guest.sock");
        wait_for(&socket, &mut qemu);
        let channel = connect(&socket);
        let network = GuestNetwork {
            mac: MAC.into(),
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
        };
        let start = Start { instance: options.instance, ek_chain: Vec::new(), network };
        let mut machine = Self {
            qemu,
            _swtpm: swtpm,
            folder,
            channel,
            pending: Vec::new(),
            start,
            ssh_port,
            phases: Vec::new(),
            started,
        };
        machine.say_start();
        machine
    }

    /// Says `Start`, as a node does whenever it connects.
    pub fn say_start(&mut self) {
        let start = self.start.clone();
        self.send(&ToGuest::Start(start));
    }

    /// Hangs up and connects anew, as a restarted node agent does.
    pub fn reconnect(&mut self) {
        self.channel.shutdown(std::net::Shutdown::Both).unwrap();
        self.pending.clear();
        let socket = self.folder.path().join("guest.sock");
        self.channel = connect(&socket);
        self.say_start();
    }

    /// Sends a frame.
    pub fn send(&mut self, message: &ToGuest) {
        let body = serde_json::to_vec(message).unwrap();
        self.channel.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        self.channel.write_all(&body).unwrap();
    }

    /// The next frame; fails the test after `bound`, saying what was last seen.
    pub fn receive(&mut self, bound: Duration) -> FromGuest {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(frame) = self.take_frame() {
                if let FromGuest::Report { phase, .. } = &frame {
                    self.phases.push((*phase, self.started.elapsed()));
                }
                return frame;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing from the guest within {bound:?}; phases so far: {:?}", self.phases);
            self.channel.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0u8; 65536];
            match self.channel.read(&mut chunk) {
                Ok(0) => panic!("the channel closed; phases so far: {:?}", self.phases),
                Ok(length) => self.pending.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("channel: {error}; phases so far: {:?}", self.phases),
            }
        }
    }

    fn take_frame(&mut self) -> Option<FromGuest> {
        let length = u32::from_be_bytes(*self.pending.first_chunk::<4>()?) as usize;
        if self.pending.len() < 4 + length {
            return None;
        }
        let frame: Vec<u8> = self.pending.drain(..4 + length).skip(4).collect();
        Some(serde_json::from_slice(&frame).unwrap())
    }

    /// Waits for a failure report and the power-off that follows.
    pub fn failure(&mut self) -> FailureReason {
        loop {
            if let FromGuest::Report { phase: GuestPhase::Failed, reason, .. } = self.receive(BOUND) {
                self.powered_off();
                return reason.expect("a failure has a reason");
            }
        }
    }

    /// Waits until QEMU has ended by itself.
    pub fn powered_off(&mut self) {
        let deadline = Instant::now() + BOUND;
        while !self.qemu.has_ended() {
            assert!(Instant::now() < deadline, "the guest did not power off; phases: {:?}", self.phases);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pulls the plug.
    pub fn kill(&mut self) {
        self.qemu.end();
    }

    /// A folder that goes away with the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A child that ends with its value.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn qemu(folder: &Path, options: &Options, ssh_port: u16) -> Command {
    let image = PathBuf::from(std::env::var_os("LAMBDA_IMAGE_DIR").expect("LAMBDA_IMAGE_DIR names an image folder"));
    let manifest: ImageManifest = serde_json::from_slice(&fs::read(image.join(file::MANIFEST)).unwrap()).unwrap();
    let root = options.root.clone().unwrap_or_else(|| image.join(file::ROOT));
    let mut command_line = manifest.command_line;
    let mut serial = "none".to_owned();
    if let Some(console) = &options.console {
        command_line.push_str(" console=ttyS0 8250.nr_uarts=1 loglevel=8 printk.devkmsg=on systemd.log_target=kmsg");
        serial = format!("file:{}", console.display());
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35,smm=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", &serial])
        .args([
            "-drive",
            &format!("if=pflash,format=raw,unit=0,readonly=on,file={}", image.join(file::FIRMWARE).display()),
        ])
        .args(["-chardev", &format!("socket,id=tpm,path={}", folder.join("tpm.sock").display())])
        .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"])
        .args(["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={}", root.display())])
        .args(["-device", "virtio-blk-pci,drive=root,serial=lambda-root"])
        .args(["-drive", &format!("if=none,id=volume,format=raw,file={}", options.volume.display())])
        .args(["-device", "virtio-blk-pci,drive=volume,serial=lambda-volume"])
        .args(["-netdev", &format!("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22")])
        .args(["-device", &format!("virtio-net-pci,netdev=net0,mac={MAC},romfile=")])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", &format!("socket,id=guest,path={},server=on,wait=off", folder.join("guest.sock").display())])
        .args(["-device", "virtserialport,chardev=guest,name=lambda.guest"])
        .arg("-kernel")
        .arg(image.join(file::KERNEL))
        .arg("-initrd")
        .arg(initramfs(folder, &image))
        .args(["-append", &command_line])
        .stdin(Stdio::null())
        .stderr(File::create(folder.join("qemu.err")).unwrap());
    command
}

/// The image's initramfs; with `LAMBDA_GUEST_BINARY`, followed by an archive that replaces `/init`.
fn initramfs(folder: &Path, image: &Path) -> PathBuf {
    let original = image.join(file::INITRAMFS);
    let Some(binary) = std::env::var_os("LAMBDA_GUEST_BINARY") else { return original };
    let mut archive = fs::read(original).unwrap();
    archive.resize(archive.len().next_multiple_of(4), 0);
    for (name, mode, content) in [("init", 0o100_755u32, fs::read(binary).unwrap()), ("TRAILER!!!", 0, Vec::new())] {
        let size = content.len() as u32;
        let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    let path = folder.join("initramfs");
    fs::write(&path, archive).unwrap();
    path
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn wait_for(path: &Path, owner: &mut Process) {
    let deadline = Instant::now() + BOUND;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} did not appear", path.display());
        let complaint = || fs::read_to_string(path.with_file_name("qemu.err")).unwrap_or_default();
        assert!(!owner.has_ended(), "{} did not appear: its owner ended: {}", path.display(), complaint());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + BOUND;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", socket.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
