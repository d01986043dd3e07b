//! What is in order: a Genoa chip's certificates, and a report of it.

use super::der::*;
use super::forge::*;

pub(super) const CHIP: [u8; 64] = [0xC1; 64];
pub(super) const PROVIDER: &str = "CN=cloud.example";
pub(super) const DATA: [u8; 64] = [0xDA; 64];

/// bl 10, tee 1, snp 23, ucode 84 in Genoa's layout.
pub(super) const TCB: [u8; 8] = [10, 1, 0, 0, 0, 0, 23, 84];

/// Offsets of the fields that tests change.
pub(super) mod at {
    pub(crate) const VERSION: usize = 0;
    pub(crate) const GUEST_SVN: usize = 4;
    pub(crate) const POLICY: usize = 8;
    pub(crate) const FAMILY_ID: usize = 0x10;
    pub(crate) const IMAGE_ID: usize = 0x20;
    pub(crate) const VMPL: usize = 0x30;
    pub(crate) const SIGNATURE_ALGORITHM: usize = 0x34;
    pub(crate) const CURRENT_TCB: usize = 0x38;
    pub(crate) const PLATFORM_INFO: usize = 0x40;
    pub(crate) const KEY_INFO: usize = 0x48;
    pub(crate) const REPORT_DATA: usize = 0x50;
    pub(crate) const MEASUREMENT: usize = 0x90;
    pub(crate) const HOST_DATA: usize = 0xC0;
    pub(crate) const ID_KEY_DIGEST: usize = 0xE0;
    pub(crate) const AUTHOR_KEY_DIGEST: usize = 0x110;
    pub(crate) const REPORT_ID: usize = 0x140;
    pub(crate) const REPORT_ID_MA: usize = 0x160;
    pub(crate) const REPORTED_TCB: usize = 0x180;
    pub(crate) const CPUID: usize = 0x188;
    pub(crate) const CHIP_ID: usize = 0x1A0;
    pub(crate) const COMMITTED_TCB: usize = 0x1E0;
    pub(crate) const CURRENT_VERSION: usize = 0x1E8;
    pub(crate) const COMMITTED_VERSION: usize = 0x1EC;
    pub(crate) const LAUNCH_TCB: usize = 0x1F0;
    pub(crate) const LAUNCH_MITIGATIONS: usize = 0x1F8;
    pub(crate) const CURRENT_MITIGATIONS: usize = 0x200;
}

pub(super) fn spl(number: u8) -> String {
    format!("1.3.6.1.4.1.3704.1.3.{number}")
}

pub(super) const STRUCTURE_VERSION: &str = "1.3.6.1.4.1.3704.1.1";
pub(super) const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
pub(super) const HW_ID: &str = "1.3.6.1.4.1.3704.1.4";
pub(super) const CSP_ID: &str = "1.3.6.1.4.1.3704.1.5";

fn certificate(subject: &str, issuer: &str, serial: u64, spki: Vec<u8>, signer: Authority) -> Certificate {
    Certificate {
        version: 3,
        serial,
        issuer: issuer.into(),
        subject: subject.into(),
        from: "240101000000Z".into(),
        until: "340101000000Z".into(),
        spki,
        extensions: Vec::new(),
        signer,
        salt_bytes: 48,
        inner_salt_bytes: None,
    }
}

/// Root, intermediate and VCEK of the chip, whose key this is. The root's key signs the first two, the intermediate's the last.
pub(super) fn chain(spki: Vec<u8>) -> [Certificate; 3] {
    let mut root = certificate("ARK-Genoa", "ARK-Genoa", 1, Authority::Root.spki(), Authority::Root);
    root.extensions = vec![usage(true, true), ca(None)];
    let mut intermediate = certificate("SEV-Genoa", "ARK-Genoa", 2, Authority::Intermediate.spki(), Authority::Root);
    intermediate.extensions = vec![ca(Some(0)), usage(true, false)];
    let mut leaf = certificate("SEV-VCEK", "SEV-Genoa", 0, spki, Authority::Intermediate);
    leaf.extensions = vec![
        extension(STRUCTURE_VERSION, false, integer(0)),
        extension(PRODUCT_NAME, false, ia5("Genoa")),
        extension(&spl(1), false, integer(10)),
        extension(&spl(2), false, integer(1)),
        extension(&spl(4), false, integer(0)),
        extension(&spl(5), false, integer(0)),
        extension(&spl(6), false, integer(0)),
        extension(&spl(7), false, integer(0)),
        extension(&spl(3), false, integer(23)),
        extension(&spl(8), false, integer(84)),
        extension(HW_ID, false, CHIP.to_vec()),
    ];
    [root, intermediate, leaf]
}

/// A version 5 report, not signed.
pub(super) fn raw_report() -> RawReport {
    let mut report = RawReport(vec![0; 0x4A0]);
    report.put_u32(at::VERSION, 5);
    report.put_u32(at::GUEST_SVN, 7);
    // ABI 1.51, SMT, the bit that is always one, AES-256-XTS, ciphertext hiding.
    report.put_u64(at::POLICY, 0x0143_0000 | 1 << 8 | 51);
    report.put(at::FAMILY_ID, &[0xFA; 16]);
    report.put(at::IMAGE_ID, &[0x1A; 16]);
    report.put_u32(at::SIGNATURE_ALGORITHM, 1);
    report.put(at::CURRENT_TCB, &TCB);
    // SMT, ECC, ciphertext hiding, alias check.
    report.put_u64(at::PLATFORM_INFO, 0b11_0101);
    report.put_u32(at::KEY_INFO, 1);
    report.put(at::REPORT_DATA, &DATA);
    report.put(at::MEASUREMENT, &[0x3E; 48]);
    report.put(at::HOST_DATA, &[0x40; 32]);
    report.put(at::ID_KEY_DIGEST, &[0x1D; 48]);
    report.put(at::AUTHOR_KEY_DIGEST, &[0xA7; 48]);
    report.put(at::REPORT_ID, &[0x4E; 32]);
    report.put(at::REPORT_ID_MA, &[0xFF; 32]);
    report.put(at::REPORTED_TCB, &TCB);
    report.put(at::CPUID, &[0x19, 0x11, 1]);
    report.put(at::CHIP_ID, &CHIP);
    report.put(at::COMMITTED_TCB, &TCB);
    report.put(at::CURRENT_VERSION, &[40, 55, 1]);
    report.put(at::COMMITTED_VERSION, &[40, 55, 1]);
    report.put(at::LAUNCH_TCB, &TCB);
    report.put_u64(at::LAUNCH_MITIGATIONS, 0b1011);
    report.put_u64(at::CURRENT_MITIGATIONS, 0b1011);
    report
}
