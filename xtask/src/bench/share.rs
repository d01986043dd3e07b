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
use super::percentile;
use super::table::{AtMost, Row};
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
    let mut shares = Vec::new();
    for index in 0..creations {
        let name = format!("stub-{index}");
        cloud.create(&name, "nano", &["--detach"])?;
        shares.push(started(&cloud, &name)?);
        output(cloud.lambda().args(["instance", "delete", &name]))?;
    }
    let what = format!("request accepted → QEMU started, {creations} creations, stub QEMU");
    let mut whole_ms: Vec<u64> = shares.iter().map(|share| share.whole_ms).collect();
    whole_ms.sort_unstable();
    let p99 = percentile(&whole_ms, 99).context("no creations")?;
    Ok(vec![
        Row::held(what, spread(&shares, |share| share.whole_ms), p99 as f64, "p99", AtMost(50.0, "ms")),
        Row::told("… of it until the node acts on it", spread(&shares, |share| share.control_ms)),
        Row::told("… of it in the node", spread(&shares, Share::node_ms)),
    ])
}

/// One creation, in milliseconds from its acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    /// Until the node begins to prepare it.
    control_ms: u64,
    /// Until QEMU is started.
    whole_ms: u64,
}

impl Share {
    fn node_ms(&self) -> u64 {
        self.whole_ms.saturating_sub(self.control_ms)
    }
}

fn spread(shares: &[Share], part: impl Fn(&Share) -> u64) -> String {
    let mut times_ms: Vec<u64> = shares.iter().map(part).collect();
    times_ms.sort_unstable();
    let at = |percent| percentile(&times_ms, percent).map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
    format!("p50 {}, p99 {}, most {}", at(50), at(99), at(100))
}

/// The times between the control plane's acceptance and the node's start of QEMU, read from the instance.
fn started(cloud: &Cloud<'_>, name: &str) -> Result<Share> {
    let start = Instant::now();
    loop {
        let instance = cloud.show(name)?;
        if let Some(share) = share(&instance) {
            return Ok(share);
        }
        if start.elapsed() > STARTED {
            bail!("QEMU was not started within {} s; last seen: {}", STARTED.as_secs(), instance["state"]);
        }
    }
}

fn share(instance: &Value) -> Option<Share> {
    let created = instance["created_ms"].as_u64()?;
    let phases = instance["phases"].as_array()?;
    let since = |name: &str| {
        let entered = phases.iter().find(|phase| phase["phase"] == name)?["at_ms"].as_u64()?;
        Some(entered.saturating_sub(created))
    };
    Some(Share { control_ms: since("preparing")?, whole_ms: since("booting")? })
}

#[cfg(test)]
mod tests {
    use super::{Share, share, spread};

    #[test]
    fn a_share_needs_both_phases_and_is_split_where_the_node_begins() {
        let mut instance = serde_json::json!({"created_ms": 1000, "phases": [{"phase": "preparing", "at_ms": 1010}]});
        assert_eq!(share(&instance), None);
        instance["phases"] =
            serde_json::json!([{"phase": "preparing", "at_ms": 1010}, {"phase": "booting", "at_ms": 1042}]);
        let found = share(&instance).unwrap();
        assert_eq!(found, Share { control_ms: 10, whole_ms: 42 });
        assert_eq!(spread(&[found], Share::node_ms), "p50 32 ms, p99 32 ms, most 32 ms");
    }
}
