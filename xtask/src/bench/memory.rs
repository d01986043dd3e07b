//! Resident memory of gateway, control plane and node together, idle with one instance.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cloud::Cloud;
use super::table::{AtMost, Row};
use crate::build::Binaries;

/// Time for the daemons to come to rest after the instance is ready.
const REST: Duration = Duration::from_secs(10);

/// Measures it.
pub(crate) fn measure(binaries: &Binaries, image: &Path) -> Result<Vec<Row>> {
    let cloud = Cloud::start(binaries, image, &[])?;
    cloud.create("idle", "small", &[])?;
    std::thread::sleep(REST);
    let mut total_kib = 0;
    let mut parts = Vec::new();
    for (role, pid) in cloud.pids()? {
        let kib = resident_kib(&std::fs::read_to_string(format!("/proc/{pid}/status")).context("a daemon is gone")?)
            .context("no VmRSS")?;
        total_kib += kib;
        parts.push(format!("{role} {}", mib(kib)));
    }
    let measured = format!("{} ({})", mib(total_kib), parts.join(", "));
    let whole_mib = total_kib as f64 / 1024.0;
    Ok(vec![Row::held(
        "resident memory of the daemons, one idle instance",
        measured,
        whole_mib,
        "",
        AtMost(100.0, "MiB"),
    )])
}

fn mib(kib: u64) -> String {
    format!("{} MiB", kib.div_ceil(1024))
}

fn resident_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::resident_kib;

    #[test]
    fn the_resident_size_is_read_in_kib() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t   10240 kB\n"), Some(10_240));
        assert_eq!(resident_kib("Name:\tx\n"), None);
    }
}
