//! One instance through its whole life, as a customer lives it.

use lambda_e2e::Cloud;

#[test]
fn an_instance_is_created_attested_used_restarted_and_deleted() {
    let cloud = Cloud::start();
    let customer = cloud.customer("ada");

    let created = customer.create("web", &[]).succeeded();
    for step in ["sealed", "placed", "booting", "attested", "released", "unlocked", "ready"] {
        assert!(created.contains(step), "no `{step}` in:\n{created}");
    }
    assert!(created.contains("platform"), "the tier is named:\n{created}");
    assert!(!created.to_lowercase().contains("confidential"), "a platform verdict is not confidential:\n{created}");

    let running = cloud.left_behind();
    for part in ["qemu-system", "swtpm", "mount", "/sys/fs/cgroup/"] {
        assert!(running.iter().any(|what| what.contains(part)), "the leak check sees {part}: {running:?}");
    }

    assert!(customer.ssh("web", "uname -a").ok().contains("Linux"));
    assert!(customer.ssh("web", "cat /etc/os-release").ok().contains("bookworm"));
    assert_eq!(customer.ssh("web", "exit 7").code, 7, "the remote exit code is passed on");
    let _ = customer.ssh("web", "echo kept | sudo tee /var/lib/kept && sync").ok();

    let attested = customer.run(["instance", "attest", "web"]).ok();
    assert!(attested.contains("accepted"), "{attested}");

    let _ = customer.run(["instance", "stop", "web"]).ok();
    assert_eq!(customer.show("web")["state"], "stopped");
    let _ = customer.run(["instance", "start", "web"]).ok();
    assert_eq!(customer.ssh("web", "cat /var/lib/kept").ok().trim(), "kept", "the volume outlives a stop");

    let _ = customer.run(["instance", "delete", "web"]).ok();
    assert_eq!(customer.run(["instance", "show", "web"]).code, 4, "a deleted instance is not found");
    let volumes = lambda_e2e::cloud::volumes_left(&cloud);
    assert_eq!(volumes, 0, "no volume remains on the node");
}

#[test]
fn copying_files_and_an_unattended_broker_work() {
    let cloud = Cloud::start();
    let customer = cloud.customer("grace");
    let policy = cloud.scratch().join("policy.json").display().to_string();
    let _ = customer
        .run(["attest", "policy", "new", "--from", &cloud.image().display().to_string(), "--out", &policy])
        .ok();
    let mut broker = customer.command(["broker", "run", "--policy", &policy]).spawn().expect("the broker starts");

    let _ = customer.create("batch", &["--detach"]).ok();
    lambda_e2e::wait_for("the instance to be ready", lambda_e2e::BOOT, || {
        let state = customer.show("batch")["state"].clone();
        if state == "ready" { Ok(()) } else { Err(state.to_string()) }
    });

    let file = cloud.scratch().join("payload");
    std::fs::write(&file, "carried over").expect("writable");
    let key = customer.ssh_key.display().to_string();
    let path = file.display().to_string();
    let _ = customer.run(["cp", "--identity", &key, &path, "batch:/tmp/payload"]).ok();
    assert_eq!(customer.ssh("batch", "cat /tmp/payload").ok(), "carried over");

    Cloud::signal(i32::try_from(broker.id()).expect("a pid"), "TERM");
    let _ = broker.wait();
}
