//! `image.json`: what an image is made of and what it must measure to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::shape::Shape;

/// Version of the format.
pub const FORMAT: u32 = 1;

/// File names inside an image folder.
pub mod file {
    /// The manifest.
    pub const MANIFEST: &str = "image.json";
    /// Linux kernel, bzImage.
    pub const KERNEL: &str = "kernel";
    /// Initial RAM file system with `lambda-guest` as `/init`.
    pub const INITRAMFS: &str = "initramfs";
    /// erofs root file system, followed by its dm-verity hash tree.
    pub const ROOT: &str = "root.img";
    /// UEFI firmware (code volume), loaded read-only without a variable store.
    pub const FIRMWARE: &str = "firmware.fd";
    /// UEFI firmware for profile `snp`, loaded as a whole; only in images that were built with it.
    pub const FIRMWARE_SNP: &str = "firmware-snp.fd";
    /// UEFI firmware for profile `tdx`, loaded as a whole; only in images that were built with it.
    pub const FIRMWARE_TDX: &str = "firmware-tdx.fd";
    /// Every package by version and hash.
    pub const LOCK: &str = "packages.lock";
}

/// The manifest of an image. Its canonical bytes (as written by the image builder) hash to the image id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// For example `debian-12`.
    pub name: String,
    /// For example `2026.11.23`: the date of the newest package in the lock, or what the importer gave.
    pub version: String,
    /// Parts by file name ([`file`]).
    pub parts: BTreeMap<String, Part>,
    /// The root file system's dm-verity parameters.
    pub verity: Verity,
    /// The kernel command line, exactly as measured apart from what the firmware appends.
    pub command_line: String,
    /// What a correct boot measures to, for each launch profile.
    pub expected: Expected,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// dm-verity of [`file::ROOT`], format version 1, SHA-256, 4 KiB blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verity {
    /// Root hash, hex. Stands in the command line.
    pub root_hash: String,
    /// Salt, hex.
    pub salt: String,
    /// Bytes of erofs data; the hash tree starts here.
    pub data_size: u64,
}

/// Expected measurements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Profile `tpm`: for each shape name, because memory size and processor count enter the measurement.
    pub tpm: BTreeMap<Shape, TpmExpected>,
    /// Profile `snp`: for each shape, because each virtual processor's initial state is measured. Empty for an image
    /// without [`file::FIRMWARE_SNP`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub snp: BTreeMap<Shape, SnpExpected>,
    /// Profile `tdx`: for each shape, as elsewhere, although these values are the same for all. Empty for an image without
    /// [`file::FIRMWARE_TDX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tdx: BTreeMap<Shape, TdxExpected>,
}

/// What AMD SEV-SNP firmware measures when it launches the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpExpected {
    /// The launch digest, `MEASUREMENT` in the attestation report: 48 bytes, lower-case hex.
    pub measurement: String,
    /// QEMU's processor model, with which the guest must be started: its signature is in the measured registers.
    pub cpu: String,
    /// `SEV_FEATURES` of each virtual processor, measured likewise. 1: SNP and nothing else.
    pub features: u64,
}

/// What Intel TDX measures, as far as it follows from the image. SHA-384, lower-case hex.
///
/// RTMR 0 is not here: it holds the memory map and the ACPI tables that the node's QEMU makes. RTMR 3 is zero until the
/// guest's own software extends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxExpected {
    /// MRTD: the firmware and where it lies.
    pub mrtd: String,
    /// RTMR 1: the kernel.
    pub rtmr1: String,
    /// RTMR 2: command line and initramfs.
    pub rtmr2: String,
    /// PE Authenticode SHA-384 of the kernel file (RTMR 1).
    pub kernel: String,
    /// SHA-384 of the initramfs (RTMR 2).
    pub initramfs: String,
    /// SHA-384 of the measured command line (UTF-16LE with terminator, including what the firmware appends; RTMR 2).
    pub command_line: String,
}

/// What profile `tpm` measures into the SHA-256 bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmExpected {
    /// Final PCR values, index to lower-case hex; exactly the PCRs that a quote must select.
    pub pcrs: BTreeMap<u8, String>,
    /// Digest of each firmware volume as an EV_EFI_PLATFORM_FIRMWARE_BLOB event in PCR 0, in order.
    pub firmware_volumes: Vec<String>,
    /// PE Authenticode SHA-256 of the kernel as the firmware sees it (PCR 4).
    pub kernel: String,
    /// SHA-256 of the initramfs (PCR 9).
    pub initramfs: String,
    /// SHA-256 of the measured command line (UTF-16LE with terminator, including what the firmware appends; PCR 9).
    pub command_line: String,
}

impl ImageManifest {
    /// The part with this file name.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.get(name)
    }
}
