//! The control plane's share of a creation: from the request being accepted to QEMU being started, on a node whose QEMU is a
//! stub, so that nothing but our own work is measured.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::cloud::Cloud;
use super::{Row, percentile};
use crate::build::Binaries;
use crate::run::output;

/// Stays until it is killed. The node's probe for KVM is told at once that there is none.
const STUB: &str = "#!/bin/sh
case \"$*\" in
    *'-accel kvm'*) exit 1 ;;
    *) exec sleep 600 ;;
esac
";

const STARTED: Duration = Duration::from_secs(30);

/// Measures it.
pub(crate) fn measure(binaries: &Binaries, image: &Path, creations: usize) -> Result<Vec<Row>> {
    let mut builder = tempfile::Builder::new();
    let mut stub = builder
        .prefix("lambda-stub-qemu-")
        .permissions(Permissions::from_mode(0o755))
        .tempfile()
        .context("the stub")?;
    stub.write_all(STUB.as_bytes()).context("the stub")?;
    // Closed, because a file that is open for writing cannot be executed.
    with_stub(binaries, image, creations, &stub.into_temp_path())
}

fn with_stub(binaries: &Binaries, image: &Path, creations: usize, stub: &Path) -> Result<Vec<Row>> {
    let stub = stub.to_str().context("a temporary folder with a plain name")?;
    let cloud = Cloud::start(binaries, image, &["--qemu", stub])?;
    cloud.acceleration()?;
    let mut times_ms = Vec::new();
    for index in 0..creations {
        let name = format!("stub-{index}");
        cloud.create(&name, "nano", &["--detach"])?;
        times_ms.push(started(&cloud, &name)?);
        output(cloud.lambda().args(["instance", "delete", &name]))?;
    }
    times_ms.sort_unstable();
    let at = |percent| percentile(&times_ms, percent).map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
    let measured = format!("p50 {}, p99 {}, most {}", at(50), at(99), at(100));
    let what = format!("request accepted → QEMU started, {creations} creations, stub QEMU");
    Ok(vec![Row::new(what, measured, "p99 ≤ 50 ms")])
}

/// Milliseconds between the control plane's acceptance and the node's start of QEMU, both read from the instance.
fn started(cloud: &Cloud<'_>, name: &str) -> Result<u64> {
    let start = Instant::now();
    loop {
        let instance = cloud.show(name)?;
        if let Some(ms) = difference(&instance) {
            return Ok(ms);
        }
        if start.elapsed() > STARTED {
            bail!("QEMU was not started within {} s; last seen: {}", STARTED.as_secs(), instance["state"]);
        }
    }
}

fn difference(instance: &Value) -> Option<u64> {
    let created = instance["created_ms"].as_u64()?;
    let phases = instance["phases"].as_array()?;
    let booting = phases.iter().find(|phase| phase["phase"] == "booting")?["at_ms"].as_u64()?;
    Some(booting.saturating_sub(created))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_difference_needs_the_booting_phase() {
        let mut instance = serde_json::json!({"created_ms": 1000, "phases": [{"phase": "preparing", "at_ms": 1010}]});
        assert_eq!(difference(&instance), None);
        instance["phases"] = serde_json::json!([{"phase": "booting", "at_ms": 1042}]);
        assert_eq!(difference(&instance), Some(42));
    }
}
