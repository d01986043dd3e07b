//! Builds, imports, reads and measures guest images.
//!
//! An image is a folder: `kernel`, `initramfs` (with `lambda-guest` as `/init`), `root.img` (erofs and its dm-verity
//! hash tree), `firmware.fd`, `packages.lock` and `image.json`, the manifest. [`build()`] makes one from Debian packages,
//! [`import()`] from any root file system, [`replace_guest`] exchanges the guest program, and [`measure()`] recomputes
//! everything that a manifest says from the other parts, which is how a customer checks an operator's catalogue.
//!
//! # How an image has to be started
//!
//! The measurements in the manifest hold for exactly this machine; another device, another order or an option ROM
//! changes them. Values in capitals differ between instances and are not measured, shapes apart.
//!
//! ```text
//! qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot
//!   -machine q35,smm=off,accel=tcg                  or accel=kvm
//!   -cpu max,phys-bits=40                           with kvm: host,host-phys-bits=off,phys-bits=40
//!   -smp VCPUS -m MEMORY_MIB                        of the shape; no hotplug
//!   -drive if=pflash,format=raw,unit=0,readonly=on,file=firmware.fd      and no unit 1: no variable store
//!   -chardev socket,id=tpm,path=SWTPM -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0
//!   -drive if=none,id=root,format=raw,readonly=on,file=root.img
//!   -device virtio-blk-pci,drive=root,serial=lambda-root
//!   -drive if=none,id=volume,format=raw,file=VOLUME
//!   -device virtio-blk-pci,drive=volume,serial=lambda-volume
//!   -netdev …,id=net0 -device virtio-net-pci,netdev=net0,mac=MAC,romfile=
//!   -device virtio-serial-pci -chardev …,id=guest -device virtserialport,chardev=guest,name=lambda.guest
//!   -kernel kernel -initrd initramfs -append COMMAND_LINE                 of the manifest, unchanged
//! ```
//!
//! No `bootindex`, no `-boot`, no serial port. The width of physical addresses enters PCR 0, so it is fixed. The
//! vTPM has the SHA-256 bank active and starts cleared.
//!
//! # What the guest finds
//!
//! - The command line ends with `lambda.root_hash=HEX lambda.root_salt=HEX lambda.root_size=BYTES`: dm-verity format
//!   1, SHA-256, 4 KiB blocks, no superblock, hash tree at byte `root_size` of `root.img`. The firmware appends
//!   ` initrd=initrd`. No console is named.
//! - `/modules/*.ko`, uncompressed, and `/modules/order`: one file name a line, in load order.
//! - `/usr/sbin/cryptsetup` and `/usr/sbin/mkfs.ext4` with their libraries, all from locked packages.
//! - The root file system has a user `lambda` (1000), sshd with `/run/lambda/ssh_host_ed25519_key` as its only host
//!   key, nothing that configures the network, no getty, an empty machine id.
//!
//! The initramfs is not compressed: the firmware hashes fewer bytes then, but the kernel takes as long to unpack them
//! when there is no hardware virtualisation.

#![forbid(unsafe_code)]

mod apt;
mod archive;
mod build;
mod cpio;
mod elf;
mod error;
mod hash;
mod host_tools;
pub mod import;
mod initramfs;
pub mod lock;
mod manifest;
pub mod measure;
mod modules;
mod packages;
mod profile_firmware;
mod root;
#[cfg(test)]
mod tests;
mod tool;
mod tree;
mod verity;

pub use apt::Mirrors;
pub use build::{BuildOptions, build, replace_guest};
pub use error::{Error, Result};
pub use import::{ImportOptions, import};
pub use lock::Lock;
pub use manifest::{command_line, image_id, load};
pub use measure::{Difference, Launch, LaunchOptions, Report, differences, launch, measure};
pub use packages::default_cache;
pub use profile_firmware::{ProfileFirmware, set_profile_firmware};

/// What an operation is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Step(String),
    /// Something that the person should know.
    Notice(String),
}

impl Progress {
    fn step(text: &str) -> Self {
        Self::Step(text.to_owned())
    }
}
