//! How long the node takes from a new desired set to a running QEMU. Prints; the promise is tested with the whole path.

use lambda_types::InstanceId;
use lambda_types::instance::{Phase, Power};

use crate::harness::{Bench, instance};

const CREATIONS: u8 = 50;

#[test]
#[ignore = "a measurement"]
fn creations() {
    let mut bench = Bench::new();
    let image = bench.image("silent");
    bench.qemu = bench.path("sleeping-qemu");
    std::fs::write(&bench.qemu, "#!/bin/sh\nexec sleep 3600\n").unwrap();
    std::fs::set_permissions(&bench.qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.pool = CREATIONS.into();
    bench.start_agent();
    let ready = || std::fs::read_dir(bench.node_dir().join("vtpm-pool")).map_or(0, Iterator::count);
    bench.wait_for("full pool", || (ready() >= bench.pool).then_some(()), || ready().to_string());
    let mut desired = Vec::new();
    let mut taken_ms = Vec::new();
    for number in 1..=CREATIONS {
        desired.push(instance(number, image, Power::Running, 1));
        let asked = std::time::Instant::now();
        bench.desire(number.into(), desired.clone());
        let booting = bench.await_phase(InstanceId::from_bits(number.into()), Phase::Booting);
        let inside = booting.phases.iter().map(|time| time.at_ms).collect::<Vec<_>>();
        taken_ms.push((asked.elapsed().as_millis(), inside.last().unwrap() - inside.first().unwrap()));
    }
    taken_ms.sort_unstable();
    println!("desired set to reported boot, and of it inside the node, milliseconds: {taken_ms:?}");
    for step in ["image", "vtpm", "network", "volume", "qemu"] {
        let log = std::fs::read_to_string(bench.path("agent.log")).unwrap();
        let of = format!("step=\"{step}\" elapsed_us=");
        let mut times: Vec<u64> =
            log.lines().filter_map(|line| line.split(&of).nth(1)?.split(' ').next()?.parse().ok()).collect();
        times.sort_unstable();
        println!("{step}: median {} us, longest {} us", times[times.len() / 2], times[times.len() - 1]);
    }
}
