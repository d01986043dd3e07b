//! What import refuses, and why.

use std::path::Path;

use super::{Bench, tar};
use crate::error::Error;
use crate::import;
use crate::import::{ImportOptions, Refusal};

const INIT: (&str, &[u8]) = ("sbin/init", b"init");
const SSHD: (&str, &[u8]) = ("usr/sbin/sshd", b"sshd");

fn refusal(options: &ImportOptions) -> Refusal {
    match import(options, &mut |_| {}) {
        Err(Error::Import(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_root_without_init_or_without_sshd_is_refused() {
    let bench = Bench::new(None);
    tar(&bench.options.rootfs, &[SSHD]);
    assert_eq!(refusal(&bench.options), Refusal::NoInit);
    tar(&bench.options.rootfs, &[INIT]);
    assert_eq!(refusal(&bench.options), Refusal::NoSshServer);
    assert!(!bench.options.out.join("image.json").exists());
}

/// A root with sshd, an init system at systemd's place, and `sbin/init` as a link to `target`.
fn linked(path: &Path, target: &str) {
    let mut builder = ::tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, content) in [SSHD, ("usr/lib/systemd/systemd", b"init".as_slice())] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, name, content).unwrap();
    }
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    builder.append_link(&mut header, "sbin/init", target).unwrap();
    builder.finish().unwrap();
}

#[test]
fn the_init_that_the_guest_starts_must_lead_to_a_file_of_the_tree() {
    let bench = Bench::new(None);
    tar(&bench.options.rootfs, &[("usr/lib/systemd/systemd", b"init"), SSHD]);
    assert_eq!(refusal(&bench.options), Refusal::NoInit);
    assert!(Refusal::NoInit.to_string().contains("/sbin/init"));
    for elsewhere in ["/usr/lib/systemd/absent", "../../../../../../bin/true", "/usr/lib/systemd", "init"] {
        linked(&bench.options.rootfs, elsewhere);
        assert_eq!(refusal(&bench.options), Refusal::NoInit, "{elsewhere}");
    }
    for inside in ["/usr/lib/systemd/systemd", "../usr/lib/systemd/systemd"] {
        linked(&bench.options.rootfs, inside);
        import(&bench.options, &mut |_| {}).unwrap();
    }
}

#[test]
fn modules_must_be_there_for_the_kernel_that_is_given() {
    let mut bench = Bench::new(None);
    let modules = bench.options.modules.take().unwrap();
    let version = modules.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(refusal(&bench.options), Refusal::NoModules { version: version.clone() });
    let error = refusal(&bench.options).to_string();
    assert!(error.contains(&version) && error.contains("--modules"), "{error}");

    bench.options.modules = Some(modules.parent().unwrap().parent().unwrap().parent().unwrap().to_path_buf());
    import(&bench.options, &mut |_| {}).unwrap();
}

#[test]
fn a_kernel_that_the_firmware_cannot_start_is_refused() {
    let mut bench = Bench::new(None);
    let good = std::fs::read(&bench.options.kernel).unwrap();
    bench.options.kernel = bench.dir.path().join("vmlinuz");
    let mut no_stub = good.clone();
    no_stub[..2].fill(0);
    let mut no_pe = good.clone();
    let header = u32::from_le_bytes(good[0x3c..0x40].try_into().unwrap()) as usize;
    no_pe[header] = 0;
    let mut old = good.clone();
    old[0x206] = 1;
    for (bytes, reason) in [
        (b"\x7fELF".repeat(4096), "bzImage"),
        (good[..0x300].to_vec(), "PE32+"),
        (no_stub, "EFI stub"),
        (no_pe, "PE32+"),
        (old, "boot protocol"),
    ] {
        std::fs::write(&bench.options.kernel, bytes).unwrap();
        let error = refusal(&bench.options).to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_ends() {
    let bench = Bench::new(None);
    let path = &bench.options.rootfs;
    tar(path, &[INIT, SSHD, ("usr/share/big", &[7; 5000])]);
    let whole = std::fs::read(path).unwrap();
    // In the last file, between two entries, in a header, before the end marker.
    for length in [512 * 8, 512 * 4, 512 * 3 - 100, 512 * 2, 512 * 5 + 5120] {
        std::fs::write(path, &whole[..length]).unwrap();
        let refusal = refusal(&bench.options);
        assert!(matches!(refusal, Refusal::Truncated { .. }), "{length}: {refusal}");
    }
    for bytes in [b"hello".repeat(500), vec![0x1f, 0x8b, 8, 0]] {
        std::fs::write(path, bytes).unwrap();
        let refusal = refusal(&bench.options);
        assert!(matches!(refusal, Refusal::NotAnArchive { .. }), "{refusal}");
    }
}

#[test]
fn entries_that_would_land_outside_are_refused_before_anything_is_unpacked() {
    let bench = Bench::new(None);
    for name in ["../escape", "etc/../../escape", "/etc/escape"] {
        tar(&bench.options.rootfs, &[INIT, SSHD, (name, b"x")]);
        assert_eq!(refusal(&bench.options), Refusal::UnsafePath(name.into()));
    }
}

#[test]
fn links_in_the_archive_do_not_lead_out_of_it() {
    let bench = Bench::new(None);
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut builder = ::tar::Builder::new(std::fs::File::create(&bench.options.rootfs).unwrap());
    for (link, target) in [("etc", outside.as_path()), ("usr/sbin/sshd", Path::new("/bin/sh"))] {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_link(&mut header, link, target).unwrap();
    }
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(0o755);
    builder.append_data(&mut header, INIT.0, INIT.1).unwrap();
    builder.finish().unwrap();
    drop(builder);
    assert_eq!(refusal(&bench.options), Refusal::NoSshServer, "the host's /bin/sh is not the guest's");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
