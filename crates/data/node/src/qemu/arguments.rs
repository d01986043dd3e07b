//! QEMU's command line: a pure function of what it runs.
//!
//! The devices, their order and their options are measured by the firmware (PCRs 1, 2 and 4): the image builder
//! computes the expected values for exactly these. Nothing here may depend on the instance but its addresses, files
//! and descriptors, none of which the firmware sees.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use lambda_types::InstanceId;
use lambda_types::guest::CHANNEL_NAME;
use lambda_types::node::Acceleration;
use lambda_types::shape::Shape;

use super::launch::Launch;
use crate::layout::file;

/// Code that software emulation has translated, MiB: what a Debian boot needs, with room.
const TRANSLATION_MIB: u64 = 256;

/// What QEMU itself may use beside the guest's memory and the translated code, MiB.
const OVERHEAD_MIB: u64 = 320;

/// Width of physical addresses. The firmware measures it, and it differs between processors unless it is fixed.
const PHYSICAL_BITS: u32 = 40;

/// Everything that decides the command line.
pub(crate) struct Machine<'a> {
    pub(crate) instance: InstanceId,
    pub(crate) launch: &'a Launch,
    pub(crate) acceleration: Acceleration,
    pub(crate) shape: Shape,
    pub(crate) command_line: &'a str,
    pub(crate) mac: &'a str,
    /// The image's files, inherited.
    pub(crate) parts: Parts,
    /// Listening sockets and the tap, inherited.
    pub(crate) qmp: RawFd,
    pub(crate) guest: RawFd,
    pub(crate) tap: RawFd,
}

/// Descriptors of an image's files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) kernel: RawFd,
    pub(crate) initramfs: RawFd,
    pub(crate) root: RawFd,
    pub(crate) firmware: RawFd,
}

/// Memory that the cgroup of such a machine allows, bytes.
pub(crate) fn memory_limit(shape: Shape, acceleration: Acceleration) -> u64 {
    shape.memory_mib().saturating_add(overhead_mib(acceleration)).saturating_mul(1 << 20)
}

/// Memory that an instance may use beside its guest's, MiB.
pub(crate) fn overhead_mib(acceleration: Acceleration) -> u64 {
    match acceleration {
        Acceleration::Kvm => OVERHEAD_MIB,
        Acceleration::Tcg => OVERHEAD_MIB.saturating_add(TRANSLATION_MIB),
    }
}

/// A path that QEMU opens through a descriptor it inherited: folders on the way need not be open to its user, and no
/// character of theirs can end an option.
pub(super) fn inherited(descriptor: RawFd) -> String {
    format!("/proc/self/fd/{descriptor}")
}

/// `-accel` and `-cpu`.
pub(super) fn processor(acceleration: Acceleration) -> [OsString; 4] {
    let (accel, cpu) = match acceleration {
        Acceleration::Kvm => ("kvm".to_owned(), "host,host-phys-bits=off"),
        Acceleration::Tcg => (format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"), "max"),
    };
    ["-accel".into(), accel.into(), "-cpu".into(), format!("{cpu},phys-bits={PHYSICAL_BITS}").into()]
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
    let parts = machine.parts;
    let mut all = confinement();
    all.extend(board(machine.launch, machine.acceleration, machine.shape));
    all.extend(machine.launch.firmware(inherited(parts.firmware).as_ref()));
    all.extend(channel("qmp", machine.qmp));
    all.extend(["-mon".into(), "chardev=qmp,mode=control".into()]);
    all.extend(machine.launch.trust(machine.instance, machine.shape.memory_mib()));
    let virtio = machine.launch.virtio();
    all.extend(disks(parts.root, virtio));
    all.extend(["-netdev".into(), format!("tap,id=net0,fd={},vhost=off", machine.tap).into()]);
    all.extend(["-device".into(), format!("virtio-net-pci,netdev=net0,mac={},romfile={virtio}", machine.mac).into()]);
    all.extend(channel("guest", machine.guest));
    all.extend(guest_port(virtio));
    all.extend(["-kernel".into(), inherited(parts.kernel).into()]);
    all.extend(["-initrd".into(), inherited(parts.initramfs).into()]);
    all.extend(["-append".into(), machine.command_line.into()]);
    all
}

/// Machine, processor and memory.
fn board(launch: &Launch, acceleration: Acceleration, shape: Shape) -> Vec<OsString> {
    let mut board = vec!["-machine".into(), launch.machine()];
    board.extend(launch.processor(acceleration));
    board.extend(["-smp".into(), shape.vcpus().to_string().into()]);
    board.extend(["-m".into(), shape.memory_mib().to_string().into()]);
    board
}

/// The guest's end of the channel.
fn guest_port(virtio: &str) -> [OsString; 4] {
    [
        "-device".into(),
        format!("virtio-serial-pci{virtio}").into(),
        "-device".into(),
        format!("virtserialport,chardev=guest,name={CHANNEL_NAME}").into(),
    ]
}

fn channel(id: &str, listener: RawFd) -> [OsString; 2] {
    ["-chardev".into(), format!("socket,id={id},fd={listener},server=on,wait=off").into()]
}

/// The root is shared and read-only. A volume that the host cannot extend answers errors instead of halting the guest,
/// and discarded ciphertext gives its space back.
fn disks(root: RawFd, virtio: &str) -> [OsString; 8] {
    let shared = format!("driver=file,filename={},node-name=root,read-only=on", inherited(root));
    let own = format!("driver=file,filename={},node-name=volume,discard=unmap,aio=threads", file::VOLUME);
    [
        "-blockdev".into(),
        shared.into(),
        "-device".into(),
        format!("virtio-blk-pci,drive=root,serial=lambda-root{virtio}").into(),
        "-blockdev".into(),
        own.into(),
        "-device".into(),
        format!("virtio-blk-pci,drive=volume,serial=lambda-volume,werror=report,rerror=report{virtio}").into(),
    ]
}

/// The arguments of a probe: a kernel whose first words on the serial console show that guests really run.
pub(crate) fn probe(kernel: &Path) -> Vec<OsString> {
    let mut all = confinement();
    all.extend(["-machine".into(), "q35".into()]);
    all.extend(processor(Acceleration::Kvm));
    all.extend(
        ["-m", "256", "-serial", "stdio", "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"].map(OsString::from),
    );
    all.extend(["-kernel".into(), kernel.as_os_str().to_owned()]);
    all
}

/// A confidential guest that is only asked for evidence. Files are named by their paths: its QEMU is the operator's own.
pub(crate) struct ProbeMachine<'a> {
    pub(crate) instance: InstanceId,
    pub(crate) launch: &'a Launch,
    pub(crate) acceleration: Acceleration,
    pub(crate) shape: Shape,
    pub(crate) command_line: &'a str,
    pub(crate) firmware: &'a Path,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
}

/// The arguments of a probe guest's QEMU: as an instance's, without disks, network and monitor. The channel's socket is made
/// in its working folder.
pub(crate) fn probe_guest(machine: &ProbeMachine<'_>) -> Vec<OsString> {
    let mut all = confinement();
    all.extend(board(machine.launch, machine.acceleration, machine.shape));
    all.extend(machine.launch.firmware(machine.firmware.as_os_str()));
    all.extend(machine.launch.trust(machine.instance, machine.shape.memory_mib()));
    all.extend(["-chardev".into(), format!("socket,id=guest,path={},server=on,wait=off", file::GUEST_SOCKET).into()]);
    all.extend(guest_port(machine.launch.virtio()));
    all.extend(["-kernel".into(), machine.kernel.as_os_str().to_owned()]);
    all.extend(["-initrd".into(), machine.initramfs.as_os_str().to_owned()]);
    all.extend(["-append".into(), machine.command_line.into()]);
    all
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Stdio;

    use lambda_types::launch::{ID_AUTH_BYTES, ID_BLOCK_BYTES, SnpLaunch};

    use super::super::launch::SnpHost;
    use super::*;

    fn line() -> Vec<String> {
        launched(&Launch::Tpm)
    }

    fn launched(launch: &Launch) -> Vec<String> {
        let machine = Machine {
            instance: InstanceId::from_bits(1),
            launch,
            acceleration: Acceleration::Tcg,
            shape: Shape::Nano,
            command_line: "quiet panic=-1",
            mac: "02:00:00:00:00:01",
            parts: Parts { kernel: 10, initramfs: 11, root: 12, firmware: 13 },
            qmp: 5,
            guest: 6,
            tap: 7,
        };
        instance(&machine).into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn measured_devices_come_in_the_order_that_images_are_measured_with() {
        let devices: Vec<String> = line()
            .windows(2)
            .filter(|pair| pair[0] == "-device")
            .map(|pair| pair[1].split(',').next().unwrap().to_owned())
            .collect();
        let expected =
            ["tpm-crb", "virtio-blk-pci", "virtio-blk-pci", "virtio-net-pci", "virtio-serial-pci", "virtserialport"];
        assert_eq!(devices, expected);
    }

    fn value<'a>(line: &'a [String], option: &str) -> Vec<&'a str> {
        line.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_confidential_guest_has_no_vtpm_no_flash_and_only_kvm() {
        let host = SnpHost { cbitpos: 51, reduced_phys_bits: 1 };
        for launch in [Launch::Snp(host, Box::default()), Launch::Tdx, Launch::Cca] {
            let line = launched(&launch);
            assert_eq!(value(&line, "-accel"), ["kvm"]);
            assert_eq!(value(&line, "-bios"), ["/proc/self/fd/13"]);
            assert!(!line.iter().any(|argument| argument.contains("tpm") || argument.contains("pflash")));
            assert!(value(&line, "-machine")[0].contains("confidential-guest-support="));
            let unshared = |device: &&str| device.starts_with("virtio") && !device.starts_with("virtserialport");
            let devices = value(&line, "-device");
            assert!(
                devices.iter().filter(|device| unshared(device)).all(|device| device.contains("iommu_platform=on"))
            );
        }
    }

    #[test]
    fn an_snp_launch_says_what_the_processor_will_insist_on() {
        let host = SnpHost { cbitpos: 51, reduced_phys_bits: 1 };
        let launch = SnpLaunch {
            id_block: Some(vec![1; ID_BLOCK_BYTES].into()),
            id_auth: Some(vec![2; ID_AUTH_BYTES].into()),
            ..SnpLaunch::default()
        };
        let line = launched(&Launch::Snp(host, Box::new(launch)));
        let objects = value(&line, "-object");
        assert_eq!(objects[0], "memory-backend-memfd,id=ram0,size=512M,share=on,prealloc=off");
        let golden = "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,\
                      host-data=bGFtYmRhLWluc3RhbmNlAAAAAAAAAAAAAAAAAAAAAAE=,author-key-enabled=on,id-block=AQEB";
        assert!(objects[1].starts_with(golden), "{}", objects[1]);
        assert_eq!(value(&line, "-cpu"), ["EPYC-v4"]);
    }

    #[test]
    fn a_tdx_launch_names_the_instance_and_where_quotes_are_made() {
        let line = launched(&Launch::Tdx);
        let object: serde_json::Value = serde_json::from_str(value(&line, "-object")[1]).unwrap();
        assert_eq!(object["qom-type"], "tdx-guest");
        assert_eq!(object["quote-generation-socket"]["port"], "4050");
        let named = object["mrconfigid"].as_str().unwrap();
        assert_eq!(named.len(), 64, "48 bytes in base64");
        assert!(named.starts_with("bGFtYmRhLWluc3RhbmNlAAAAAAAAAAAAAAAAAAAAAAE"), "{named}");
    }

    #[test]
    fn an_sgx_launch_is_a_measured_boot_with_enclave_memory() {
        let line = launched(&Launch::Sgx);
        assert_eq!(value(&line, "-object"), ["memory-backend-epc,id=epc0,size=64M,prealloc=on"]);
        assert!(value(&line, "-machine")[0].contains("sgx-epc.0.memdev=epc0"));
        let (tpm, sgx) = (launched(&Launch::Tpm), value(&line, "-device"));
        assert_eq!(value(&tpm, "-device"), sgx, "the measured devices are the same");
    }

    /// The QEMU of this machine reads the options; only creating the guest needs the processor.
    #[test]
    fn qemu_accepts_the_snp_object() {
        let host = SnpHost { cbitpos: 51, reduced_phys_bits: 1 };
        let launch = SnpLaunch {
            id_block: Some(vec![1; ID_BLOCK_BYTES].into()),
            id_auth: Some(vec![2; ID_AUTH_BYTES].into()),
            ..SnpLaunch::default()
        };
        let line = launched(&Launch::Snp(host, Box::new(launch)));
        let run = |object: &str| {
            let mut qemu = std::process::Command::new("qemu-system-x86_64");
            qemu.args(["-nodefaults", "-display", "none", "-machine", "none", "-monitor", "stdio", "-object", object]);
            qemu.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = qemu.spawn().unwrap();
            // One that refuses its options has ended before it reads this.
            let _ = child.stdin.take().unwrap().write_all(b"quit\n");
            let output = child.wait_with_output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let object = value(&line, "-object")[1];
        assert_eq!(run(object), (true, String::new()));
        let (accepted, said) = run(&object.replace("kernel-hashes", "kernel-hushes"));
        assert!(!accepted && said.contains("kernel-hushes"), "{said}");
    }

    #[test]
    fn the_address_width_is_fixed_whatever_the_host_has() {
        for acceleration in [Acceleration::Kvm, Acceleration::Tcg] {
            let [_, _, _, cpu] = processor(acceleration);
            assert!(cpu.into_string().unwrap().ends_with(",phys-bits=40"));
        }
    }

    #[test]
    fn the_command_line_reaches_the_kernel_unchanged_and_no_console_exists() {
        let line = line();
        assert_eq!(line.iter().position(|a| a == "-append").map(|at| line[at + 1].as_str()), Some("quiet panic=-1"));
        assert!(!line.iter().any(|argument| argument.contains("isa-serial") || argument == "-serial"));
        assert!(line.contains(&"-nodefaults".to_owned()));
    }
}
