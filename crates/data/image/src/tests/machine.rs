//! The machine of the crate documentation, run to its end.

use std::path::Path;
use std::time::Duration;

use lambda_types::shape::Shape;

use crate::tool::Tool;

/// A software TPM; ends with its connection, and at the latest with this value.
struct SoftwareTpm<'a>(&'a Path);

impl<'a> SoftwareTpm<'a> {
    fn start(dir: &'a Path) -> Self {
        std::fs::create_dir(dir.join("tpm")).unwrap();
        let at = dir.display();
        Tool::new("swtpm")
            .args(["socket", "--tpm2", "--daemon", "--terminate", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={at}/tpm"))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={at}/swtpm.sock"))
            .arg("--pid")
            .arg(format!("file={at}/swtpm.pid"))
            .run()
            .unwrap();
        Self(dir)
    }
}

impl Drop for SoftwareTpm<'_> {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.0.join("swtpm.pid")).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// Boots an image folder and gives what the guest wrote to its channel until it powered off.
pub(crate) fn boot(image: &Path, shape: Shape) -> String {
    let work = tempfile::tempdir().unwrap();
    let at = work.path().display();
    let image_at = image.display();
    let (_, manifest) = crate::load(image).unwrap();
    let _tpm = SoftwareTpm::start(work.path());
    std::fs::File::create(work.path().join("volume")).unwrap().set_len(1 << 30).unwrap();
    let seen = work.path().join("channel");
    Tool::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35,smm=off,accel=tcg", "-cpu", "max,phys-bits=40"])
        .args(["-smp", &shape.vcpus().to_string(), "-m", &shape.memory_mib().to_string()])
        .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={image_at}/firmware.fd")])
        .args(["-chardev", &format!("socket,id=tpm,path={at}/swtpm.sock")])
        .args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"])
        .args(["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={image_at}/root.img")])
        .args(["-device", "virtio-blk-pci,drive=root,serial=lambda-root"])
        .args(["-drive", &format!("if=none,id=volume,format=raw,file={at}/volume")])
        .args(["-device", "virtio-blk-pci,drive=volume,serial=lambda-volume"])
        .args([
            "-netdev",
            "user,id=net0,restrict=on",
            "-device",
            "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile=",
        ])
        .args(["-device", "virtio-serial-pci", "-chardev", &format!("file,id=guest,path={}", seen.display())])
        .args(["-device", "virtserialport,chardev=guest,name=lambda.guest"])
        .args(["-kernel", &format!("{image_at}/kernel"), "-initrd", &format!("{image_at}/initramfs")])
        .args(["-append", &manifest.command_line])
        .limit(Duration::from_secs(100))
        .run()
        .unwrap();
    std::fs::read_to_string(seen).unwrap()
}
