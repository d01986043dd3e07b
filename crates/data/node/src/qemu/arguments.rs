//! QEMU's command line: a pure function of what it runs.
//!
//! The devices, their order and their options are measured by the firmware (PCRs 1, 2 and 4): the image builder
//! computes the expected values for exactly these. Nothing here may depend on the instance but its addresses, files
//! and descriptors, none of which the firmware sees.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use lambda_types::guest::CHANNEL_NAME;
use lambda_types::image::{ImageManifest, file as part};
use lambda_types::node::Acceleration;
use lambda_types::shape::Shape;

use crate::layout::file;

/// Code that software emulation has translated, MiB: what a Debian boot needs, with room.
const TRANSLATION_MIB: u64 = 256;

/// What QEMU itself may use beside the guest's memory and the translated code, MiB.
const OVERHEAD_MIB: u64 = 320;

/// Everything that decides the command line.
pub(crate) struct Machine<'a> {
    pub(crate) acceleration: Acceleration,
    pub(crate) shape: Shape,
    pub(crate) image_folder: &'a Path,
    pub(crate) manifest: &'a ImageManifest,
    pub(crate) mac: &'a str,
    /// Listening sockets and the tap, inherited.
    pub(crate) qmp: RawFd,
    pub(crate) guest: RawFd,
    pub(crate) tap: RawFd,
}

/// Memory that the cgroup of such a machine allows, bytes.
pub(crate) fn memory_limit(shape: Shape, acceleration: Acceleration) -> u64 {
    let translation = match acceleration {
        Acceleration::Kvm => 0,
        Acceleration::Tcg => TRANSLATION_MIB,
    };
    shape.memory_mib().saturating_add(translation).saturating_add(OVERHEAD_MIB).saturating_mul(1 << 20)
}

/// A path inside QEMU's comma-separated options.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let doubled = path.as_os_str().as_bytes().iter().flat_map(|byte| match byte {
        b',' => vec![b',', b','],
        other => vec![*other],
    });
    OsString::from_vec(doubled.collect())
}

fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let mut text = OsString::from(before);
    text.push(escaped(path));
    text.push(after);
    text
}

/// `-accel` and `-cpu`.
fn processor(acceleration: Acceleration) -> [OsString; 4] {
    let (accel, cpu) = match acceleration {
        Acceleration::Kvm => ("kvm".to_owned(), "host"),
        Acceleration::Tcg => (format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"), "max"),
    };
    ["-accel".into(), accel.into(), "-cpu".into(), cpu.into()]
}

/// What keeps QEMU small and locked in, whatever it runs.
fn confinement() -> Vec<OsString> {
    [
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-msg",
        "timestamp=on",
    ]
    .map(OsString::from)
    .into()
}

/// The arguments of an instance's QEMU, whose working folder is the instance's.
pub(crate) fn instance(machine: &Machine<'_>) -> Vec<OsString> {
    let folder = |name: &str| machine.image_folder.join(name);
    let mut all = confinement();
    all.extend(["-machine".into(), "q35,smm=off,dump-guest-core=off".into()]);
    all.extend(processor(machine.acceleration));
    all.extend(["-smp".into(), machine.shape.vcpus().to_string().into()]);
    all.extend(["-m".into(), machine.shape.memory_mib().to_string().into()]);
    all.extend(["-drive".into(), with_path("if=pflash,format=raw,unit=0,readonly=on,file=", &folder(part::FIRMWARE), "")]);
    all.extend(channel("qmp", machine.qmp));
    all.extend(["-mon".into(), "chardev=qmp,mode=control".into()]);
    all.extend(["-chardev".into(), format!("socket,id=tpm,path={}", file::TPM_SOCKET).into()]);
    all.extend(["-tpmdev".into(), "emulator,id=tpm0,chardev=tpm".into()]);
    all.extend(["-device".into(), "tpm-crb,tpmdev=tpm0".into()]);
    all.extend(disks(&folder(part::ROOT)));
    all.extend(["-netdev".into(), format!("tap,id=net0,fd={},vhost=off", machine.tap).into()]);
    all.extend(["-device".into(), format!("virtio-net-pci,netdev=net0,mac={},romfile=", machine.mac).into()]);
    all.extend(channel("guest", machine.guest));
    all.extend(["-device".into(), "virtio-serial-pci".into()]);
    all.extend(["-device".into(), format!("virtserialport,chardev=guest,name={CHANNEL_NAME}").into()]);
    all.extend(["-kernel".into(), folder(part::KERNEL).into_os_string()]);
    all.extend(["-initrd".into(), folder(part::INITRAMFS).into_os_string()]);
    all.extend(["-append".into(), machine.manifest.command_line.clone().into()]);
    all
}

fn channel(id: &str, listener: RawFd) -> [OsString; 2] {
    ["-chardev".into(), format!("socket,id={id},fd={listener},server=on,wait=off").into()]
}

/// The root is shared and read-only. A volume that the host cannot extend answers errors instead of halting the guest,
/// and discarded ciphertext gives its space back.
fn disks(root: &Path) -> Vec<OsString> {
    let shared = ",node-name=root,read-only=on,auto-read-only=off,discard=unmap";
    let own = format!("driver=file,filename={},node-name=volume,discard=unmap,aio=threads", file::VOLUME);
    vec![
        "-blockdev".into(),
        with_path("driver=file,filename=", root, shared),
        "-device".into(),
        "virtio-blk-pci,drive=root,serial=lambda-root".into(),
        "-blockdev".into(),
        own.into(),
        "-device".into(),
        "virtio-blk-pci,drive=volume,serial=lambda-volume,werror=report,rerror=report".into(),
    ]
}

/// The arguments of a probe: a kernel whose first words on the serial console show that guests really run.
pub(crate) fn probe(kernel: &Path) -> Vec<OsString> {
    let mut all = confinement();
    all.extend(["-machine".into(), "q35".into()]);
    all.extend(processor(Acceleration::Kvm));
    all.extend(["-m", "256", "-serial", "stdio", "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"].map(OsString::from));
    all.extend(["-kernel".into(), kernel.as_os_str().to_owned()]);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lambda_types::image::{Expected, Verity};

    use super::*;

    fn line(folder: &Path) -> Vec<String> {
        let manifest = ImageManifest {
            format: 1,
            name: "n".into(),
            version: "1".into(),
            parts: BTreeMap::new(),
            verity: Verity { root_hash: String::new(), salt: String::new(), data_size: 0 },
            command_line: "quiet panic=-1".into(),
            expected: Expected { tpm: BTreeMap::new() },
        };
        let machine = Machine {
            acceleration: Acceleration::Tcg,
            shape: Shape::Nano,
            image_folder: folder,
            manifest: &manifest,
            mac: "02:00:00:00:00:01",
            qmp: 5,
            guest: 6,
            tap: 7,
        };
        instance(&machine).into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn measured_devices_come_in_the_order_that_images_are_measured_with() {
        let devices: Vec<String> = line(Path::new("/images/a"))
            .windows(2)
            .filter(|pair| pair[0] == "-device")
            .map(|pair| pair[1].split(',').next().unwrap().to_owned())
            .collect();
        let expected =
            ["tpm-crb", "virtio-blk-pci", "virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtserialport"];
        assert_eq!(devices, expected);
    }

    #[test]
    fn the_command_line_reaches_the_kernel_unchanged_and_no_console_exists() {
        let line = line(Path::new("/images/a"));
        assert_eq!(line.iter().position(|a| a == "-append").map(|at| line[at + 1].as_str()), Some("quiet panic=-1"));
        assert!(!line.iter().any(|argument| argument.contains("isa-serial") || argument == "-serial"));
        assert!(line.contains(&"-nodefaults".to_owned()));
    }

    #[test]
    fn a_comma_in_a_folder_adds_no_option() {
        let line = line(Path::new("/images/a,readonly=off"));
        assert!(line.iter().any(|argument| argument.contains("file=/images/a,,readonly=off/firmware.fd")));
    }
}
