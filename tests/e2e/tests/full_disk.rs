//! A data folder whose disk is full: what has no room is refused with its reason, what was accepted stays, and everything goes on
//! when there is room again.

use std::process::Command;
use std::time::Duration;

use lambda_e2e::cloud::{Options, processes};
use lambda_e2e::node::Instance;
use lambda_e2e::{Cloud, Customer, Output, wait_for};

/// Room for one volume of a gibibyte.
const DISK_MIB: u64 = 1300;

/// A sealed value, nearly as long as one may be.
const SEALED_BYTES: usize = 48 * 1024;

/// A volume that is larger than any node waits for one, and says so; one that fits is not begun on a disk that is nearly full.
fn refused_with_its_reason(cloud: &Cloud, customer: &Customer) {
    let _ = customer.create("big", &["--detach", "--volume-gib", "2"]).ok();
    let why = customer.run(["instance", "why", "big", "-o", "json"]).ok();
    assert!(why.contains("awaiting-capacity") && why.contains("2 GiB"), "{why}");
    let _ = customer.run(["instance", "delete", "big"]).ok();

    cloud.disk().leave(32);
    let output = customer.create("web", &["--volume-gib", "1"]);
    assert!(output.code != 0 && output.all().contains("disk-full"), "{}", output.all());
    let web = Instance::new(cloud, customer.id("web"));
    assert_eq!(web.processes(), Vec::<i32>::new());
    assert_eq!([web.leftovers(), web.network(cloud)].concat(), Vec::<String>::new());
    cloud.disk().free();
    let _ = customer.run(["instance", "start", "web"]).ok();
}

/// A creation through the API, as large as they may be. There is no room on the node: it is accepted, and waits.
fn create(cloud: &Cloud, image: &str, number: u32) -> Output {
    let endpoint = cloud.endpoint();
    let text = |field: &str| endpoint[field].as_str().expect("a text field").to_owned();
    let secret = std::fs::read_to_string(cloud.scratch().join("ada/api.key")).expect("the customer's key");
    let sealed = "A".repeat(SEALED_BYTES / 3 * 4);
    let body = serde_json::json!({
        "id": format!("inst_{number:026}"), "shape": "nano", "image": image, "volume_gib": 1,
        "secrets": sealed, "metadata": sealed,
    });
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--include", "--max-time", "20", "--cacert", &text("ca")]);
    command.args(["-H", &format!("authorization: Bearer {}", secret.trim()), "-H"]);
    command.arg(format!("idempotency-key: \"full-{number}\"")).args(["-H", "content-type: application/json"]);
    command.args(["--data-binary", "@-"]).arg(format!("{}/v1/instances", text("gateway")));
    lambda_e2e::customer::finish(command, Some(body.to_string().as_bytes()), Duration::from_secs(30))
}

/// Whether the first line of an answer has this status.
fn answers(said: &str, status: &str) -> bool {
    said.lines().next().is_some_and(|line| line.split(' ').nth(1) == Some(status))
}

/// The store answers with a stable code, and shows what it has. Gives the number of a creation that was refused.
fn the_store_says_so(cloud: &Cloud, customer: &Customer, image: &str) -> u32 {
    let attempt = |number| {
        // Others give up some of their room, and the store uses some of its own again.
        cloud.disk().leave(0);
        (create(cloud, image, number).ok(), number)
    };
    let mut refused = (1..60).map(attempt).skip_while(|(said, _)| answers(said, "202"));
    let (said, number) = refused.next().expect("one of them has no room");
    assert!(answers(&said, "503"), "{said}");
    for part in ["application/problem+json", "\"code\":\"unavailable\"", "disk is full"] {
        assert!(said.contains(part), "`{part}` in {said}");
    }
    assert_eq!(customer.show("web")["state"], "ready", "what is there is shown");
    number
}

/// `kill -9` of each role: another one comes, and the guest stays.
fn roles_come_back(cloud: &Cloud, customer: &Customer) {
    for role in ["gateway", "control", "node"] {
        let mark = format!("lambdad {role} --data {}", cloud.data().display());
        let find = || processes().into_iter().find(|(_, line)| line.contains(&mark)).map(|(pid, _)| pid);
        let old = find().expect("it runs");
        Cloud::signal(old, "KILL");
        wait_for(&format!("another {role}"), Duration::from_secs(60), || {
            find().filter(|pid| *pid != old).ok_or_else(|| "none".to_owned())
        });
        assert_eq!(customer.show("web")["state"], "ready", "with another {role}");
    }
}

/// The instance's conditions come to hold this.
fn says(customer: &Customer, condition: &str) {
    wait_for(&format!("`{condition}`"), Duration::from_secs(60), || {
        let said = customer.run(["instance", "why", "web"]).ok();
        if said.contains(condition) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_full_disk_is_said_everywhere_and_costs_nothing_that_was_kept() {
    let mut cloud = Cloud::start_with(Options { disk_mib: Some(DISK_MIB), ..Options::default() });
    let customer = cloud.customer("ada");
    refused_with_its_reason(&cloud, &customer);

    let _ = customer.ssh("web", "echo kept | sudo tee /var/lib/kept && sync").ok();
    let web = Instance::new(&cloud, customer.id("web"));
    let processes = web.processes();
    let image = customer.show("web")["image"].as_str().expect("an id").to_owned();
    cloud.disk().leave(0);
    let written = customer.ssh("web", "sudo dd if=/dev/urandom of=/var/lib/more bs=1M count=64 conv=fsync");
    assert_ne!(written.code, 0, "{}", written.all());
    assert!(written.all().contains("Input/output error"), "the guest is told: {}", written.all());
    says(&customer, "[volume-io] [degraded;");
    let refused = the_store_says_so(&cloud, &customer, &image);
    roles_come_back(&cloud, &customer);
    cloud.kill_supervisor();
    assert_eq!(web.processes(), processes, "the guest runs on");

    cloud.disk().free();
    wait_for("the same request to be accepted", Duration::from_secs(60), || {
        let said = create(&cloud, &image, refused).all();
        if answers(&said, "202") { Ok(()) } else { Err(said) }
    });
    // A device that could not keep what it was given takes nothing more until it is opened again.
    let _ = customer.run(["instance", "restart", "web"]).ok();
    let why = customer.run(["instance", "why", "web"]).ok();
    assert!(!why.contains("volume-io"), "{why}");
    assert_eq!(customer.ssh("web", "cat /var/lib/kept").ok().trim(), "kept");
    let _ = customer.ssh("web", "sudo dd if=/dev/urandom of=/var/lib/more bs=1M count=64 conv=fsync").ok();
}
