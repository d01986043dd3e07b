//! What is computed is what a real boot measures.

use lambda_types::image::file;
use lambda_types::shape::Shape;

use super::{Bench, machine, static_program};
use crate::{differences, import, measure};

const PROBE: &str = include_str!("../../tests/probe/init.rs");

fn a_real_boot_measures_what_was_computed(shape: Shape) {
    let scratch = tempfile::tempdir().unwrap();
    let bench = Bench::new(Some(static_program(scratch.path(), PROBE)));
    let manifest = import(&bench.options, &mut |_| {}).unwrap();
    let said = machine::boot(&bench.options.out, shape);
    assert!(said.ends_with("end\n"), "{said}");
    for (index, value) in &manifest.expected.tpm[&shape].pcrs {
        assert!(said.contains(&format!("pcr {index} {value}\n")), "PCR {index} should be {value}: {said}");
    }
    assert!(said.contains("module dm_crypt.ko loaded\n"), "{said}");
    // Drivers of processors that this machine is not.
    let refused: Vec<&str> = said.lines().filter(|line| line.ends_with(" refused")).collect();
    assert_eq!(refused, ["module sev_guest.ko refused", "module tdx_guest.ko refused"], "{said}");
    assert!(!said.contains("missing"), "{said}");
    assert!(said.contains("luks Some(0) Some(0)\n") && said.contains("mkfs Some(0)\n"), "{said}");
}

#[test]
fn every_pcr_of_a_real_nano_is_the_computed_one_and_the_initramfs_is_complete() {
    a_real_boot_measures_what_was_computed(Shape::Nano);
}

#[test]
fn every_pcr_of_a_real_micro_is_the_computed_one() {
    a_real_boot_measures_what_was_computed(Shape::Micro);
}

#[test]
fn every_pcr_of_a_real_small_is_the_computed_one() {
    a_real_boot_measures_what_was_computed(Shape::Small);
}

#[test]
fn measuring_names_every_part_that_was_exchanged() {
    let bench = Bench::new(None);
    let image = &bench.options.out;
    import(&bench.options, &mut |_| {}).unwrap();
    assert_eq!(differences(image).unwrap(), Vec::<String>::new());
    assert!(measure(image).unwrap().is_consistent());

    for (part, at, named) in [
        (file::KERNEL, 0x40_0000, "expected.tpm.nano.kernel"),
        (file::INITRAMFS, 600, "expected.tpm.large.pcrs.9"),
        (file::ROOT, 1030, "verity.root_hash"),
    ] {
        let path = image.join(part);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, bad).unwrap();
        let found = differences(image).unwrap();
        assert!(found.iter().any(|sentence| sentence.starts_with(named)), "{part}: {found:?}");
        assert!(
            found.iter().any(|sentence| sentence.starts_with(&format!("parts.{part}.sha256"))),
            "{part}: {found:?}"
        );
        std::fs::write(&path, good).unwrap();
    }

    let path = image.join(file::MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("lambda.root_size", "init=/bin/sh lambda.root_size")).unwrap();
    assert!(differences(image).unwrap().iter().any(|sentence| sentence.starts_with("command_line")));
}

#[test]
fn another_firmware_is_refused_not_guessed() {
    let bench = Bench::new(None);
    import(&bench.options, &mut |_| {}).unwrap();
    let firmware = bench.dir.path().join("other.fd");
    std::fs::write(&firmware, vec![0u8; 4096]).unwrap();
    let mut options = bench.options.clone();
    options.firmware = Some(firmware);
    let error = import(&options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("not an OVMF code volume"), "{error}");
    assert_eq!(differences(&bench.options.out).unwrap(), Vec::<String>::new(), "the image stays as it was");
}

#[test]
fn replacing_the_guest_changes_the_initramfs_and_nothing_else() {
    let bench = Bench::new(None);
    let before = import(&bench.options, &mut |_| {}).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let other = static_program(scratch.path(), "fn main() { println!(\"other\"); }");
    let after = crate::replace_guest(&bench.options.out, &other).unwrap();
    for name in [file::KERNEL, file::ROOT, file::FIRMWARE, file::LOCK] {
        assert_eq!(before.part(name), after.part(name), "{name}");
    }
    assert_ne!(before.part(file::INITRAMFS), after.part(file::INITRAMFS));
    assert_eq!(differences(&bench.options.out).unwrap(), Vec::<String>::new());
}
