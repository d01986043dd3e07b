//! A hostile operator, one trick a test. Each is refused, and the failing check is named.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use lambda_e2e::cloud::Options;
use lambda_e2e::hostile::{self, Swap};
use lambda_e2e::{Cloud, Customer, Output};

/// A cloud whose node agent runs the wrapper in QEMU's place, and a customer.
fn hostile_cloud() -> (Cloud, Customer, PathBuf, tempfile::TempDir) {
    let folder = tempfile::Builder::new().prefix("lh").tempdir_in("/tmp").expect("a temporary folder");
    let wrapper = hostile::wrapper(folder.path());
    let cloud = Cloud::start_with(Options { qemu: Some(wrapper.clone()), ..Options::default() });
    let customer = cloud.customer("ada");
    (cloud, customer, wrapper, folder)
}

/// The guest was refused by the customer's verifier, by these checks and no others.
fn refused_by(output: &Output, checks: &[&str]) {
    assert_eq!(output.code, 3, "attestation refused:\n{}", output.all());
    let said = output.stderr.lines().find_map(|line| line.strip_prefix("error: the evidence was refused: "));
    let failed: Vec<_> = said.unwrap_or_default().split(", ").collect();
    assert_eq!(failed, checks, "the checks that failed:\n{}", output.all());
}

/// Attests a running instance, which must be refused; gives the checks that failed.
fn refused_checks(customer: &Customer, name: &str) -> Vec<String> {
    let output = customer.run(["instance", "attest", name, "-o", "json"]);
    assert_eq!(output.code, 3, "attestation refused:\n{}", output.all());
    let verdict: serde_json::Value = serde_json::from_str(&output.stdout).expect("a verdict");
    let checks = verdict["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| check["outcome"] == "fail");
    failed.map(|check| check["id"].as_str().expect("an id").to_owned()).collect()
}

/// A world-readable copy of an image part.
fn copy_of(cloud: &Cloud, folder: &tempfile::TempDir, part: &str) -> PathBuf {
    let to = folder.path().join(part);
    std::fs::copy(cloud.image().join(part), &to).expect("copied");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o644)).expect("own file");
    to
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, offset).expect("readable");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("writable");
}

#[test]
fn another_initramfs_is_refused() {
    let (cloud, customer, wrapper, folder) = hostile_cloud();
    let initramfs = copy_of(&cloud, &folder, "initramfs");
    // A second archive after the first: the guest works as before, with one more file in it.
    let mut bytes = std::fs::read(&initramfs).expect("readable");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend_from_slice(b"07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!\0\0\0\0");
    std::fs::write(&initramfs, bytes).expect("writable");
    hostile::set(&wrapper, &[Swap { flag: "-initrd", from: "^.*$", to: initramfs.display().to_string() }]);
    // It has another size, and QEMU writes the size into the kernel's setup header, which is measured with the kernel.
    let failed = ["tpm.measured.kernel", "tpm.measured.initramfs", "tpm.pcr.kernel", "tpm.pcr.loader"];
    refused_by(&customer.create("web", &[]), &failed);
}

#[test]
fn another_command_line_is_refused() {
    let (_cloud, customer, wrapper, _folder) = hostile_cloud();
    hostile::set(&wrapper, &[Swap { flag: "-append", from: "^quiet", to: "quiet lambda.debug".into() }]);
    refused_by(&customer.create("web", &[]), &["tpm.measured.command-line", "tpm.pcr.loader"]);
}

#[test]
fn another_root_file_system_is_refused() {
    let (cloud, customer, wrapper, folder) = hostile_cloud();
    let root = copy_of(&cloud, &folder, "root.img");
    // The superblock of the file system: the very first block that the guest reads through dm-verity.
    flip(&root, 1024 + 16);
    root_is_refused(&customer, &wrapper, &root);
}

#[test]
fn another_root_file_system_with_hashes_that_fit_it_is_refused() {
    let (cloud, customer, wrapper, folder) = hostile_cloud();
    let root = copy_of(&cloud, &folder, "root.img");
    let verity = hostile::verity(cloud.image());
    assert_eq!(
        hostile::format_verity(&root, &verity),
        verity.root_hash,
        "the means of the operator make the image's hashes"
    );
    hostile::replace(&root, b"PRETTY_NAME=\"Debian GNU/Linux", b"PRETTY_NAME=\"Hostile GNU/Linx");
    let other = hostile::format_verity(&root, &verity);
    assert_ne!(other, verity.root_hash);
    hostile::verify_verity(&root, &verity, &other);
    root_is_refused(&customer, &wrapper, &root);
}

/// The guest gets this root file system, and finds that it is not the one that its measured command line names.
fn root_is_refused(customer: &Customer, wrapper: &Path, root: &Path) {
    let to = format!("filename={},node-name=root", root.display());
    hostile::set(wrapper, &[Swap { flag: "-blockdev", from: "filename=[^,]*,node-name=root", to }]);
    let output = customer.create("web", &[]);
    assert_eq!(output.code, 1, "the instance failed:\n{}", output.all());
    assert!(output.all().contains("root-integrity"), "the reason is named:\n{}", output.all());
}

#[test]
fn modified_firmware_is_refused() {
    let (cloud, customer, wrapper, folder) = hostile_cloud();
    let firmware = copy_of(&cloud, &folder, "firmware.fd");
    hostile::patch_firmware(&firmware);
    let to = format!("readonly=on,file={}", firmware.display());
    hostile::set(&wrapper, &[Swap { flag: "-drive", from: "readonly=on,file=.*$", to }]);
    refused_by(&customer.create("web", &[]), &["tpm.measured.firmware", "tpm.pcr.firmware"]);
}

/// Two running instances under a wrapper that stands in the guest channel.
fn overheard(names: &[&str]) -> (Cloud, Customer, PathBuf, tempfile::TempDir) {
    let (cloud, customer, wrapper, folder) = hostile_cloud();
    hostile::listen(&wrapper);
    for name in names {
        let _ = customer.create(name, &[]).ok();
    }
    (cloud, customer, wrapper, folder)
}

/// What the operator recorded of an instance, given to another (or the same) in place of its own evidence.
fn substitute(folder: &tempfile::TempDir, recorded_of: &str, for_whom: &str) {
    let recorded = folder.path().join(format!("recorded-{recorded_of}"));
    let to = folder.path().join(format!("substitute-{for_whom}"));
    std::fs::copy(recorded, &to).expect("recorded before");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

#[test]
fn another_machines_evidence_is_refused() {
    let (_cloud, customer, wrapper, folder) = overheard(&["one", "two"]);
    substitute(&folder, &customer.id("two"), &customer.id("one"));
    // It names the victim's instance and boot: the quote does not.
    hostile::rebind(&wrapper);
    let mut failed = refused_checks(&customer, "one");
    // Two TPMs' clocks do not compare: it is chance whether this one seems to have run backwards.
    failed.retain(|check| check != "tpm.clock.monotonic");
    // Not the binding, which was rewritten: the TPM did not answer the challenge, and the quote covers neither nonce nor instance.
    assert_eq!(failed, ["tpm.ak.activation", "tpm.quote.report-data", "tpm.clock.same-tpm"]);
    hostile::keep_binding(&wrapper);
    let output = customer.run(["instance", "restart", "one"]);
    let binding = ["binding.instance", "binding.boot"];
    let machine = ["tpm.ak.activation", "tpm.quote.report-data", "tpm.clock.same-tpm", "tpm.clock.monotonic"];
    refused_by(&output, &[&binding[..], &machine[..]].concat());
}

#[test]
fn replayed_evidence_is_refused() {
    let (_cloud, customer, _wrapper, folder) = overheard(&["one"]);
    let id = customer.id("one");
    substitute(&folder, &id, &id);
    // The same boot, the same keys: only the nonce is another.
    let failed = refused_checks(&customer, "one");
    assert_eq!(failed, ["tpm.ak.activation", "tpm.quote.report-data"], "proof and quote cover the nonce");
}

#[test]
fn credentials_from_the_host_do_not_reach_the_guest() {
    let (_cloud, customer, wrapper, _folder) = hostile_cloud();
    hostile::add(
        &wrapper,
        &[
            "-fw_cfg",
            "name=opt/io.systemd.credentials/tmpfiles.extra,string=f /etc/owned 0644 root root - owned",
            "-smbios",
            // Another name: of two credentials with one name, systemd takes the first.
            "type=11,value=io.systemd.credential:sysctl.extra=vm.swappiness=7",
        ],
    );
    // Nothing of them is measured into the PCRs that the image's values cover: the instance is accepted, and ignores them.
    let _ = customer.create("web", &[]).ok();
    // The host's gifts are there: only the guest declines them.
    let offered = customer.ssh("web", "sudo cat /sys/firmware/dmi/tables/DMI").ok();
    assert!(offered.contains("vm.swappiness=7"), "the wrapper added nothing: {offered}");
    let look = "ls -d /etc/owned 2>/dev/null; sudo ls -A /run/credentials/@system 2>/dev/null; \
                grep -x 7 /proc/sys/vm/swappiness; echo probed";
    let found = customer.ssh("web", look).ok();
    assert_eq!(found, "probed\n", "a credential of the host took effect");
}
