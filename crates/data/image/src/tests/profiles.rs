//! Images with firmware for hardware profiles.

use lambda_types::image::file;
use lambda_types::shape::{LaunchProfile as Profile, Shape};

use super::Bench;
use super::firmware::{Synthetic, debian_12};
use crate::measure::{LaunchOptions, MeasureError, launch};
use crate::{Error, ProfileFirmware, differences, import, load, replace_guest, set_profile_firmware};

fn refusal(result: crate::Result<crate::measure::Launch>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn an_image_with_firmware_for_a_profile_says_what_every_shape_measures_to() {
    let bench = Bench::new(None);
    let image = &bench.options.out;
    import(&bench.options, &mut |_| {}).unwrap();
    let plain = set_profile_firmware(image, &ProfileFirmware::default()).unwrap();
    assert!(plain.expected.snp.is_empty() && plain.expected.tdx.is_empty());
    let text = std::fs::read_to_string(image.join(file::MANIFEST)).unwrap();
    assert!(!text.contains("\"snp\"") && !text.contains("\"tdx\""), "nothing is said of a profile without firmware");

    let firmware = bench.dir.path().join("synthetic.fd");
    std::fs::write(&firmware, Synthetic::complete().build()).unwrap();
    let both = ProfileFirmware { snp: Some(firmware.clone()), tdx: Some(firmware.clone()) };
    let manifest = set_profile_firmware(image, &both).unwrap();
    assert_eq!(manifest.expected.tpm, plain.expected.tpm);
    assert_eq!(differences(image).unwrap(), Vec::<String>::new());
    let (snp, tdx) = (&manifest.expected.snp, &manifest.expected.tdx[&Shape::Nano]);
    assert!(Shape::ALL.iter().all(|shape| snp.contains_key(shape) && manifest.expected.tdx[shape] == *tdx));

    assert_eq!(snp[&Shape::Nano], snp[&Shape::Micro], "memory does not enter");
    assert_ne!(snp[&Shape::Micro].measurement, snp[&Shape::Small].measurement, "processors do");

    for shape in Shape::ALL {
        let one = launch(image, &LaunchOptions::new(Profile::Snp, shape.vcpus())).unwrap();
        assert_eq!(one.registers["measurement"], snp[&shape].measurement);
    }
    let one = launch(image, &LaunchOptions::new(Profile::Tdx, 1)).unwrap();
    assert_eq!(one.registers.values().collect::<Vec<_>>(), [&tdx.mrtd, &tdx.rtmr1, &tdx.rtmr2]);
    assert_eq!(one.not_predicted.keys().copied().collect::<Vec<_>>(), ["rtmr0", "rtmr3"]);

    let guest = super::static_program(bench.dir.path(), "fn main() { println!(\"other\"); }");
    let replaced = replace_guest(image, &guest).unwrap();
    assert_eq!(replaced.part(file::FIRMWARE_SNP), manifest.part(file::FIRMWARE_SNP));
    assert_ne!(replaced.expected.snp[&Shape::Nano], snp[&Shape::Nano]);
    let other = replaced.expected.tdx[&Shape::Nano].clone();
    assert_ne!(other.rtmr2, tdx.rtmr2);
    assert_eq!((other.mrtd, other.rtmr1), (tdx.mrtd.clone(), tdx.rtmr1.clone()));

    let mut altered = Synthetic::complete().build();
    altered[9000] ^= 1;
    std::fs::write(image.join(file::FIRMWARE_SNP), altered).unwrap();
    let found = differences(image).unwrap();
    for named in ["parts.firmware-snp.fd.sha256", "expected.snp.nano.measurement", "expected.snp.large.measurement"] {
        assert!(found.iter().any(|sentence| sentence.starts_with(named)), "{named}: {found:?}");
    }
    assert_eq!(found.len(), 1 + Shape::ALL.len(), "and nothing else: {found:?}");

    set_profile_firmware(image, &ProfileFirmware::default()).unwrap();
    assert!(!image.join(file::FIRMWARE_SNP).exists() && !image.join(file::FIRMWARE_TDX).exists());
    assert_eq!(load(image).unwrap().1.expected, replaced_without(&replaced));
}

fn replaced_without(manifest: &lambda_types::image::ImageManifest) -> lambda_types::image::Expected {
    let tpm = manifest.expected.tpm.clone();
    lambda_types::image::Expected { tpm, ..Default::default() }
}

#[test]
fn a_firmware_that_would_leave_the_kernel_unmeasured_gets_into_no_image() {
    let bench = Bench::new(None);
    let image = &bench.options.out;
    let before = import(&bench.options, &mut |_| {}).unwrap();
    let firmware = bench.dir.path().join("OVMF.fd");
    std::fs::write(&firmware, debian_12()).unwrap();
    let snp = ProfileFirmware { snp: Some(firmware.clone()), tdx: None };
    let tdx = ProfileFirmware { snp: None, tdx: Some(firmware.clone()) };
    for (given, named) in [(snp, "no place for kernel hashes"), (tdx, "CC_MEASUREMENT_ENABLE")] {
        let refused = set_profile_firmware(image, &given).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
    assert_eq!(load(image).unwrap().1, before, "the image stays as it was");
    for (profile, named) in [(Profile::Snp, "no place for kernel hashes"), (Profile::Tdx, "CC_MEASUREMENT_ENABLE")] {
        let firmware = Some(firmware.clone());
        let refused = refusal(launch(image, &LaunchOptions { firmware, ..LaunchOptions::new(profile, 1) }));
        assert!(refused.contains(named), "{refused}");
    }
}

#[test]
fn a_profile_without_a_launch_digest_says_so() {
    let nowhere = std::path::Path::new("/nonexistent");
    for (profile, named) in [(Profile::Sgx, "MRENCLAVE"), (Profile::Cca, "Arm"), (Profile::Tpm, "expected.tpm")] {
        let result = launch(nowhere, &LaunchOptions::new(profile, 1));
        assert!(matches!(result, Err(Error::Measure(MeasureError::NotApplicable { .. }))), "{result:?}");
        assert!(refusal(result).contains(named));
    }
    let missing = refusal(launch(nowhere, &LaunchOptions::new(Profile::Snp, 1)));
    assert!(missing.contains("the image has no firmware-snp.fd"), "{missing}");
}
