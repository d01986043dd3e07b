//! Whether guests really run under KVM here.
//!
//! `/dev/kvm` may open, machines and processors may be created and firmware may run on a host where a Linux kernel
//! still never prints its first line (nested and broken virtualisation). So a kernel is started, and only its first
//! words on the serial console count. The verdict holds until the host boots again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lambda_types::node::Acceleration;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::arguments;
use crate::images::Images;
use crate::layout::write_atomically;

/// A kernel prints its first line within a second where KVM works.
pub(crate) const BOUND: Duration = Duration::from_secs(8);

const DEVICE: &str = "/dev/kvm";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cached {
    host_boot: String,
    qemu: String,
    acceleration: Acceleration,
}

fn host_boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The verdict of an earlier probe in this boot of the host.
pub(crate) fn cached(cache: &Path, qemu: &Path) -> Option<Acceleration> {
    let cached: Cached = serde_json::from_slice(&std::fs::read(cache).ok()?).ok()?;
    (cached.host_boot == host_boot().ok()? && Path::new(&cached.qemu) == qemu).then_some(cached.acceleration)
}

/// Probes and remembers. Falls back to software emulation with a notice.
pub(crate) async fn probe(cache: &Path, qemu: &Path, kernel: &Path) -> Acceleration {
    let acceleration = match try_kvm(qemu, kernel).await {
        Ok(()) => {
            tracing::info!("guests run under KVM");
            Acceleration::Kvm
        }
        Err(reason) => {
            tracing::warn!(%reason, "KVM is not usable on this host: guests run in software emulation, several times slower");
            Acceleration::Tcg
        }
    };
    let remembered = host_boot().and_then(|host_boot| {
        let cached = Cached { host_boot, qemu: qemu.to_string_lossy().into_owned(), acceleration };
        write_atomically(cache, &serde_json::to_vec(&cached)?)
    });
    if let Err(error) = remembered {
        tracing::warn!(%error, "the acceleration probe's verdict is not remembered; it runs again at the next start");
    }
    acceleration
}

/// What a probe guest showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmProbe {
    /// A kernel spoke.
    Works,
    /// It did not; what was seen.
    Fails(String),
    /// There was no kernel to start.
    Untried(&'static str),
}

impl KvmProbe {
    /// Starts a kernel of one of these images under KVM. Takes up to 8 s where KVM is broken.
    #[must_use]
    pub fn run(qemu: &Path, images: &[PathBuf]) -> Self {
        if !Path::new(DEVICE).exists() {
            return Self::Fails(format!("there is no {DEVICE}"));
        }
        let images = Images::new(images.to_vec());
        images.scan();
        let Some(kernel) = images.any_kernel() else {
            return Self::Untried("there is no image whose kernel could be started");
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime.map_err(|error| error.to_string()).and_then(|it| it.block_on(try_kvm(qemu, &kernel))) {
            Ok(()) => Self::Works,
            Err(why) => Self::Fails(why),
        }
    }
}

async fn try_kvm(qemu: &Path, kernel: &Path) -> Result<(), String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("there is no {DEVICE}"));
    }
    let mut child = tokio::process::Command::new(qemu)
        .args(arguments::probe(kernel))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", qemu.display()))?;
    let output = child.stdout.take().ok_or("QEMU has no output")?;
    let heard = tokio::time::timeout(BOUND, kernel_speaks(output)).await;
    let ended = child.kill().await;
    if let Err(error) = ended {
        tracing::debug!(%error, "the probe's QEMU had ended");
    }
    match heard {
        Ok(true) => Ok(()),
        Ok(false) => Err("the probe's QEMU ended before a kernel said anything".into()),
        Err(_) => Err(format!("a kernel under KVM said nothing for {} s", BOUND.as_secs())),
    }
}

async fn kernel_speaks(output: tokio::process::ChildStdout) -> bool {
    let mut lines = BufReader::new(output.take(1 << 20));
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(read) if read > 0 => {}
            Ok(_) | Err(_) => return false,
        }
        if line.windows(14).any(|window| window == b"Linux version ") {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_of_another_boot_or_another_qemu_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a.json");
        let write = |host_boot: &str| {
            let cached = Cached { host_boot: host_boot.into(), qemu: "/q".into(), acceleration: Acceleration::Kvm };
            std::fs::write(&cache, serde_json::to_vec(&cached).unwrap()).unwrap();
        };
        assert_eq!(cached(&cache, Path::new("/q")), None);
        write("another");
        assert_eq!(cached(&cache, Path::new("/q")), None);
        write(&host_boot().unwrap());
        assert_eq!(cached(&cache, Path::new("/other")), None);
        assert_eq!(cached(&cache, Path::new("/q")), Some(Acceleration::Kvm));
    }

    #[tokio::test]
    async fn a_missing_qemu_falls_back_to_emulation() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a.json");
        assert_eq!(probe(&cache, Path::new("/nonexistent"), Path::new("/k")).await, Acceleration::Tcg);
    }
}
