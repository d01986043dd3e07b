//! A hostile operator with the disks of stopped instances. Each trick is refused with its reason, and nothing is reformatted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use lambda_e2e::{Cloud, Customer};

/// A guest looks every 5 s; the rest is for a busy host.
const NOTICED: Duration = Duration::from_secs(60);

/// A stopped instance `web` with a file on its volume, and where the operator keeps that volume.
fn stopped(cloud: &Cloud, customer: &Customer, name: &str) -> PathBuf {
    let _ = customer.create(name, &[]).ok();
    let _ = customer.ssh(name, "echo precious | sudo tee /var/lib/precious && sync").ok();
    let id = customer.id(name);
    let _ = customer.run(["instance", "stop", name]).ok();
    cloud.data().join("node/instances").join(id).join("volume.raw")
}

/// The instance does not come up, and the reason is named.
fn refused(customer: &Customer, name: &str, reason: &str) {
    let output = customer.run(["instance", "start", name]);
    assert_eq!(output.code, 1, "the instance failed: {}", output.all());
    assert!(output.all().contains(reason), "`{reason}` is named:\n{}", output.all());
    let why = customer.run(["instance", "why", name]).all();
    assert!(why.contains(reason), "`why` names `{reason}`:\n{why}");
}

fn header(volume: &PathBuf) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 20];
    File::open(volume).expect("opens").read_exact_at(&mut bytes, 0).expect("readable");
    bytes
}

fn write_at(volume: &PathBuf, bytes: &[u8], offset: u64) {
    let file = OpenOptions::new().write(true).open(volume).expect("opens");
    file.write_all_at(bytes, offset).expect("writable");
}

#[test]
fn a_swapped_volume_is_refused() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let one = stopped(&cloud, &customer, "one");
    let two = stopped(&cloud, &customer, "two");
    let spare = cloud.scratch().join("spare");
    std::fs::rename(&one, &spare).expect("same file system");
    std::fs::rename(&two, &one).expect("same file system");
    std::fs::rename(&spare, &two).expect("same file system");
    for path in [&one, &two] {
        lambda_e2e::hostile::own_like_parent(path);
    }
    refused(&customer, "one", "volume-header-mismatch");
}

#[test]
fn a_zeroed_header_is_refused_and_never_reformatted() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let volume = stopped(&cloud, &customer, "web");
    let saved = header(&volume);
    write_at(&volume, &vec![0; 16 << 20], 0);
    refused(&customer, "web", "volume-header-missing");
    assert!(header(&volume).iter().all(|byte| *byte == 0), "nothing was written where the header was");

    // The operator relents: with the header back, so is the data.
    write_at(&volume, &saved, 0);
    let _ = customer.run(["instance", "start", "web"]).ok();
    assert_eq!(customer.ssh("web", "cat /var/lib/precious").ok().trim(), "precious");
}

#[test]
fn a_truncated_volume_is_refused() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let volume = stopped(&cloud, &customer, "web");
    OpenOptions::new().write(true).open(&volume).expect("opens").set_len(512 << 20).expect("truncates");
    refused(&customer, "web", "volume-integrity");
}

#[test]
fn a_modified_ciphertext_block_reads_as_an_error_never_as_data() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &[]).ok();
    let script = "sudo dd if=/dev/urandom of=/var/lib/big bs=1M count=96 status=none && sync && sha256sum /var/lib/big";
    let before = customer.ssh("web", script).ok();
    let id = customer.id("web");
    let _ = customer.run(["instance", "stop", "web"]).ok();
    let volume = cloud.data().join("node/instances").join(id).join("volume.raw");

    let (start, end) = largest_extent(&volume);
    let middle = ((start + end) / 2) & !4095;
    let mut block = [0u8; 4096];
    let file = OpenOptions::new().read(true).write(true).open(&volume).expect("opens");
    file.read_exact_at(&mut block, middle).expect("readable");
    block[100] ^= 1;
    file.write_all_at(&block, middle).expect("writable");
    drop(file);

    let _ = customer.run(["instance", "start", "web"]).ok();
    let after = customer.ssh("web", "sha256sum /var/lib/big");
    assert_eq!(after.code, 1, "before {before}, after {}", after.all());
    assert!(after.all().contains("Input/output error"), "{}", after.all());

    // The guest noticed, and the condition has its name; the instance runs on.
    let said = lambda_e2e::wait_for("a condition that names the volume", NOTICED, || {
        let said = customer.run(["instance", "why", "web"]).all();
        if said.contains("[volume-integrity] [degraded;") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("is ready"), "{said}");
}

/// The longest run of allocated bytes of a sparse file.
fn largest_extent(path: &PathBuf) -> (u64, u64) {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).expect("opens");
    let (mut best, mut at) = ((0, 0), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start)).expect("data ends");
        if end - start > best.1 - best.0 {
            best = (start, end);
        }
        at = end;
    }
    best
}
