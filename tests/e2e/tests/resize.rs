//! A volume becomes larger between two boots, and its data stays.

use lambda_e2e::{Cloud, Customer};

/// Size of the root file system, MiB.
fn size(customer: &Customer) -> u64 {
    let said = customer.ssh("web", "df -BM --output=size / | tail -n 1 | tr -dc 0-9").ok();
    said.trim().parse().expect("a number")
}

#[test]
fn an_enlarged_volume_is_usable_after_a_restart_and_never_shrinks() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");
    let _ = customer.create("web", &["--volume-gib", "1"]).ok();
    let _ = customer.ssh("web", "dd if=/dev/urandom of=kept bs=1M count=64 status=none && sha256sum kept > sum").ok();
    let before = size(&customer);
    assert!(before < 1024, "{before} MiB");

    let said = customer.run(["instance", "resize", "web", "--volume-gib", "3"]).ok();
    assert!(said.contains("3 GiB") && said.contains("restart"), "{said}");
    assert_eq!(size(&customer), before, "not before the next boot");
    let smaller = customer.run(["instance", "resize", "web", "--volume-gib", "2"]);
    assert_ne!(smaller.code, 0, "{}", smaller.all());
    assert!(smaller.all().contains("it can only become larger"), "{}", smaller.all());

    let _ = customer.run(["instance", "restart", "web"]).ok();
    let after = size(&customer);
    assert!((2700..3072).contains(&after), "{after} MiB");
    let fill = "sha256sum --check --quiet sum && dd if=/dev/zero of=more bs=1M count=1500 status=none";
    let _ = customer.ssh("web", fill).ok();
    assert_eq!(customer.show("web")["volume_gib"], 3);
    let why = customer.run(["instance", "why", "web"]).ok();
    assert!(why.contains("It waits for nothing."), "{why}");
    let log = customer.ssh("web", "sudo dmesg | grep -e 'INTEGRITY AEAD' -e 'EXT4-fs.*recovery' || true").ok();
    assert_eq!(log.trim(), "", "no sector fails, and the restart left nothing to recover");
}
