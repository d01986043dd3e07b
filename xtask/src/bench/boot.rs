//! Create → first SSH command, against QEMU started by hand with the same kernel, the same work in the initramfs and the same
//! root: the difference is ours.
//!
//! Two baselines: direct kernel boot, the least there is, and with the firmware and a vTPM, which measured boot cannot do
//! without.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cloud::{Acceleration, Cloud};
use super::table::{AtMost, Row};
use crate::build::Binaries;
use crate::run::{output, say, seconds, succeeds};

/// Same size as the instance that it is compared with.
const SHAPE: &str = "small";
const MACHINE: [&str; 4] = ["-smp", "2", "-m", "2048"];
const VOLUME_BYTES: u64 = 2 << 30;

const BOUND: Duration = Duration::from_secs(300);
const INIT: &str = include_str!("bare-init.sh");
const BUSYBOX: &str = "/bin/busybox";

/// Measures all three, taking turns so that a slow minute of the machine hits all alike.
pub(crate) fn measure(binaries: &Binaries, image: &Path, boots: usize) -> Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("lambda-bench-").tempdir().context("a temporary folder")?;
    let bare = Bare::prepare(folder.path(), image)?;
    turns(&bare, binaries, image, boots)
}

fn turns(bare: &Bare, binaries: &Binaries, image: &Path, boots: usize) -> Result<Vec<Row>> {
    let cloud = Cloud::start(binaries, image, &[])?;
    let acceleration = cloud.acceleration()?;
    say(&format!("    all guests run under {}", acceleration.shown()));
    let (mut direct, mut measured, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=boots {
        direct.push(bare.boot(false, acceleration)?);
        measured.push(bare.boot(true, acceleration)?);
        let name = format!("bench-{turn}");
        let start = Instant::now();
        cloud.create(&name, SHAPE, &[])?;
        cloud.ssh(&name, "true")?;
        ours.push(start.elapsed());
        output(cloud.lambda().args(["instance", "delete", &name]))?;
        let last = |times: &[Duration]| times.last().copied().map_or_else(String::new, seconds);
        say(&format!("    turn {turn}: direct {}, firmware {}, ours {}", last(&direct), last(&measured), last(&ours)));
    }
    let (direct, measured, ours) = (median(direct), median(measured), median(ours));
    let ratio = |base: Duration| ours.as_secs_f64() / base.as_secs_f64();
    let shown = |ratio: f64| format!("{ratio:.2} ×");
    let held = ratio(measured);
    Ok(vec![
        Row::told("bare QEMU, direct boot, no dm-verity → first SSH command", seconds(direct)),
        Row::told("bare QEMU, firmware and vTPM, no dm-verity → first SSH command", seconds(measured)),
        Row::told(format!("create → first SSH command ({}, median of {boots})", acceleration.shown()), seconds(ours)),
        Row::held("… over bare QEMU with firmware and vTPM", shown(held), held, "", AtMost(1.25, "×")),
        Row::told("… over bare QEMU, direct boot", shown(ratio(direct))),
    ])
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A guest that is started by hand.
struct Bare {
    folder: PathBuf,
    image: PathBuf,
    command_line: String,
}

impl Bare {
    fn prepare(folder: &Path, image: &Path) -> Result<Self> {
        let manifest = std::fs::read(image.join("image.json")).context("image.json")?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).context("image.json")?;
        let command_line = manifest["command_line"].as_str().context("image.json has no command line")?.to_owned();
        for key in ["client", "host_key"] {
            let mut keygen = Command::new("ssh-keygen");
            output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"]).arg(folder.join(key)))?;
        }
        let bare = Self { folder: folder.into(), image: image.into(), command_line };
        bare.initramfs()?;
        Ok(bare)
    }

    /// The image's own initramfs followed by an archive that replaces `/init`: the kernel unpacks one after the other.
    fn initramfs(&self) -> Result<()> {
        let extra = self.folder.join("extra");
        std::fs::create_dir_all(&extra).context("a folder for the archive")?;
        std::fs::write(extra.join("init"), INIT).context("init")?;
        std::fs::copy(BUSYBOX, extra.join("busybox")).context("busybox-static is needed")?;
        std::fs::copy(self.folder.join("host_key"), extra.join("host_key")).context("host key")?;
        std::fs::copy(self.folder.join("client.pub"), extra.join("authorized_keys")).context("client key")?;
        output(Command::new("chmod").arg("755").arg(extra.join("init")))?;
        let mut archive = std::fs::read(self.image.join("initramfs")).context("initramfs")?;
        let mut cpio = Command::new("cpio");
        cpio.args(["-o", "-H", "newc", "--quiet", "-R", "0:0"]).current_dir(&extra);
        let mut cpio = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start cpio")?;
        cpio.stdin.take().context("cpio")?.write_all(b"init\nbusybox\nhost_key\nauthorized_keys\n").context("cpio")?;
        let packed = cpio.wait_with_output().context("cpio")?;
        if !packed.status.success() {
            bail!("cpio ended with {}", packed.status);
        }
        archive.extend(packed.stdout);
        std::fs::write(self.folder.join("initramfs"), archive).context("initramfs")
    }

    /// One boot of a fresh guest, until an SSH command has run in it.
    fn boot(&self, firmware: bool, acceleration: Acceleration) -> Result<Duration> {
        let volume = self.folder.join("volume.raw");
        let _ = std::fs::remove_file(&volume);
        std::fs::File::create(&volume).and_then(|file| file.set_len(VOLUME_BYTES)).context("volume")?;
        let port = TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port();
        let start = Instant::now();
        let swtpm = if firmware { Some(Running(self.swtpm()?)) } else { None };
        let mut qemu = Running(self.qemu(port, firmware, acceleration)?);
        while !succeeds(&mut self.ssh(port)) {
            if let Some(status) = qemu.0.try_wait().context("waiting for QEMU")? {
                bail!("bare QEMU ended with {status}");
            }
            if start.elapsed() > BOUND {
                bail!("no SSH from bare QEMU within {}", seconds(BOUND));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let took = start.elapsed();
        drop((qemu, swtpm));
        Ok(took)
    }

    fn swtpm(&self) -> Result<Child> {
        let state = self.folder.join("tpm");
        crate::build::remove(&state)?;
        std::fs::create_dir_all(&state).context("vTPM state")?;
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--tpmstate"]).arg(format!("dir={}", state.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", self.folder.join("tpm.sock").display()));
        swtpm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start swtpm")
    }

    fn qemu(&self, port: u16, firmware: bool, acceleration: Acceleration) -> Result<Child> {
        let file = |name: &str| self.image.join(name).display().to_string();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35,smm=off"]);
        qemu.args(acceleration.arguments()).args(MACHINE);
        if firmware {
            qemu.arg("-drive").arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={}", file("firmware.fd")));
            qemu.arg("-chardev").arg(format!("socket,id=tpm,path={}", self.folder.join("tpm.sock").display()));
            qemu.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]);
        }
        let root = format!("driver=file,filename={},node-name=root,read-only=on", file("root.img"));
        qemu.args(["-blockdev", &root, "-device", "virtio-blk-pci,drive=root,serial=lambda-root"]);
        let volume = format!("driver=file,filename={},node-name=volume", self.folder.join("volume.raw").display());
        qemu.args(["-blockdev", &volume, "-device", "virtio-blk-pci,drive=volume,serial=lambda-volume"]);
        qemu.args(["-netdev", &format!("user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22")]);
        qemu.args(["-device", "virtio-net-pci,netdev=net0,romfile=", "-device", "virtio-serial-pci"]);
        qemu.arg("-kernel").arg(file("kernel")).arg("-initrd").arg(self.folder.join("initramfs"));
        qemu.args(["-append", &self.command_line]).stdin(Stdio::null());
        qemu.spawn().context("cannot start QEMU")
    }

    fn ssh(&self, port: u16) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-p", &port.to_string(), "-i"]);
        ssh.arg(self.folder.join("client")).args(["lambda@127.0.0.1", "true"]);
        ssh
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
