//! SNP launch digests: the yardstick's, and what is refused.

use std::path::Path;

use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};

use super::firmware::{self, SEV_METADATA, SIZE, Synthetic};
use crate::measure::MeasureError;
use crate::measure::snp::{Boot, Cpu, Launch, MOST_VCPUS, launch_digest};

const BOOT: Boot<'_> =
    Boot { kernel: b"a kernel", initramfs: b"an initramfs", command_line: "quiet lambda.root_hash=00" };

fn launch(firmware: &[u8]) -> Launch<'_> {
    Launch { firmware, boot: Some(BOOT), vcpus: 2, cpu: Cpu::USUAL, features: 1 }
}

/// The same guest, measured by the crate `sev`.
fn yardstick(dir: &Path, launch: &Launch<'_>) -> String {
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let arguments = SnpMeasurementArgs {
        vcpus: launch.vcpus,
        vcpu_type: CpuType::try_from(launch.cpu.name()).unwrap(),
        ovmf_file: file("firmware", launch.firmware),
        guest_features: GuestFeatures(launch.features),
        kernel_file: launch.boot.map(|boot| file("kernel", boot.kernel)),
        initrd_file: launch.boot.map(|boot| file("initramfs", boot.initramfs)),
        append: launch.boot.map(|boot| boot.command_line),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    };
    snp_calc_launch_digest(arguments).unwrap().get_hex_ld()
}

fn ours(launch: &Launch<'_>) -> String {
    hex::encode(launch_digest(launch).unwrap())
}

#[test]
fn the_digest_is_the_yardsticks_for_every_count_model_and_boot() {
    let dir = tempfile::tempdir().unwrap();
    let image = Synthetic::complete().build();
    for vcpus in 1..=8 {
        for boot in [Some(BOOT), Some(Boot { initramfs: b"", command_line: "", ..BOOT }), None] {
            let launch = Launch { vcpus, boot, ..launch(&image) };
            assert_eq!(ours(&launch), yardstick(dir.path(), &launch), "{vcpus} {boot:?}");
        }
    }
    for cpu in Cpu::ALL {
        for features in [1, 0x21, 0x201] {
            let launch = Launch { cpu, features, ..launch(&image) };
            assert_eq!(ours(&launch), yardstick(dir.path(), &launch), "{cpu:?} {features:#x}");
        }
    }
    let most = Launch { vcpus: MOST_VCPUS, ..launch(&image) };
    assert_eq!(ours(&most), yardstick(dir.path(), &most));
}

#[test]
fn a_real_firmware_without_kernel_hashes_measures_as_the_yardstick_says_and_boots_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let image = firmware::debian_12();
    for vcpus in [1, 4] {
        let launch = Launch { boot: None, vcpus, ..launch(&image) };
        assert_eq!(ours(&launch), yardstick(dir.path(), &launch));
    }
    let refused = launch_digest(&launch(&image)).unwrap_err().to_string();
    assert!(refused.contains("profile snp") && refused.contains("kernel hashes"), "{refused}");
}

#[test]
fn whatever_enters_a_guest_changes_its_digest() {
    let image = Synthetic::complete().build();
    let mut other = image.clone();
    other[77] ^= 1;
    let usual = launch(&image);
    let changed = [
        launch(&other),
        Launch { boot: None, ..usual },
        Launch { boot: Some(Boot { kernel: b"b kernel", ..BOOT }), ..usual },
        Launch { boot: Some(Boot { initramfs: b"", ..BOOT }), ..usual },
        Launch { boot: Some(Boot { command_line: "quiet lambda.root_hash=01", ..BOOT }), ..usual },
        Launch { vcpus: 3, ..usual },
        Launch { cpu: "EPYC-Milan".parse().unwrap(), ..usual },
        Launch { features: 0x21, ..usual },
    ];
    let mut digests: Vec<String> = changed.iter().chain([&usual]).map(ours).collect();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), changed.len() + 1);
}

#[test]
fn a_count_that_no_guest_has_is_refused() {
    let image = Synthetic::complete().build();
    for vcpus in [0, MOST_VCPUS + 1, u32::MAX] {
        let refused = launch_digest(&Launch { vcpus, ..launch(&image) });
        assert_eq!(refused, Err(MeasureError::Vcpus { given: vcpus, most: MOST_VCPUS }));
    }
    assert!("EPYC-v5".parse::<Cpu>().unwrap_err().contains("EPYC-v4"));
}

#[test]
fn what_a_firmware_lacks_is_named() {
    let good = Synthetic::complete();
    let with = |sections: &[[u32; 3]]| Some([good.sev.clone().unwrap(), sections.to_vec()].concat());
    let cases = [
        (Synthetic { sev: None, ..good.clone() }, "no SEV metadata"),
        (Synthetic { reset_block: None, ..good.clone() }, "no SEV-ES reset block"),
        (Synthetic { reset_block: Some(0), ..good.clone() }, "no SEV-ES reset block"),
        (Synthetic { hash_table: None, ..good.clone() }, "no place for kernel hashes"),
        (Synthetic { hash_table: Some(0), ..good.clone() }, "no place for kernel hashes"),
        (Synthetic { hash_table: Some(0x81_1000), ..good.clone() }, "does not lie in the first page"),
        (Synthetic { hash_table: Some(0x81_0f60), ..good.clone() }, "does not lie in the first page"),
        (Synthetic { sev: Some(vec![[0x80_0000, 0x9000, 1]]), ..good.clone() }, "not exactly one section"),
        (Synthetic { sev: with(&[[0x90_0000, 0x1000, 0x10]]), ..good.clone() }, "not exactly one section"),
        (Synthetic { sev: with(&[[0x90_0000, 0x1000, 9]]), ..good.clone() }, "section 7 is of unknown type 0x9"),
        (Synthetic { sev: with(&[[0x90_0000, 0, 1]]), ..good.clone() }, "section 7 is not 1 to 16384 whole pages"),
        (Synthetic { sev: with(&[[0x90_0000, 0x800, 1]]), ..good.clone() }, "section 7 is not"),
        (Synthetic { sev: with(&[[0x90_0800, 0x1000, 1]]), ..good.clone() }, "section 7 is not"),
        (Synthetic { sev: with(&[[0, 0x400_1000, 1]]), ..good.clone() }, "section 7 is not"),
        (Synthetic { sev: with(&[[0xffff_f000, 0x1000, 1]]), ..good.clone() }, "section 7 ends beyond 4 GiB"),
        (Synthetic { sev: with(&[[0x90_0000, 0x2000, 3]]), ..good.clone() }, "section 7 must be one page"),
        (Synthetic { sev: with(&[[0x90_0000, 0x1000, 1]; 58]), ..good.clone() }, "65 sections; at most 64"),
    ];
    for (synthetic, named) in cases {
        let refused = launch_digest(&launch(&synthetic.build())).unwrap_err().to_string();
        assert!(refused.contains(named), "{named}: {refused}");
    }
    let most = Synthetic { sev: with(&[[0x90_0000, 0x1000, 1]; 57]), ..good };
    assert!(launch_digest(&launch(&most.build())).is_ok(), "64 sections are accepted");
}

#[test]
fn a_file_that_qemu_would_not_load_is_refused() {
    let image = Synthetic::complete().build();
    for bytes in [&image[..0], &image[..SIZE - 1], &image[4096..], &vec![0; 17 << 20], &vec![0; 0x10000]] {
        assert!(matches!(launch_digest(&launch(bytes)), Err(MeasureError::Firmware(_))), "{} bytes", bytes.len());
    }
}

#[test]
fn no_altered_byte_of_table_or_metadata_gives_the_same_digest() {
    let image = Synthetic::complete().build();
    let good = launch_digest(&launch(&image));
    assert!(good.is_ok());
    for at in (SEV_METADATA..SEV_METADATA + 100).chain(SIZE - 160..SIZE) {
        for altered in [image[at] ^ 1, image[at] ^ 0x80, 0xff - image[at]] {
            let mut image = image.clone();
            image[at] = altered;
            assert_ne!(launch_digest(&launch(&image)), good, "byte {at:#x}");
        }
    }
}
