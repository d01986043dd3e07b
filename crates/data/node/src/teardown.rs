//! Removes what a node has on its host, for `lambdad down`. Volumes and records stay in the data folder.

use std::path::Path;
use std::time::Duration;

use crate::host::cgroup::Cgroups;
use crate::layout::{Layout, file};
use crate::network::namespace;

/// How long killed processes may take to go.
const GOING: Duration = Duration::from_secs(10);

/// Ends every guest and vTPM of the node with this data folder, and removes its cgroups and its network namespace, with
/// the taps and rules in it. The agent must have ended. Returns what could not be removed, in words.
///
/// # Errors
/// When an agent still runs.
pub fn teardown(data_dir: &Path) -> anyhow::Result<Vec<String>> {
    if !data_dir.exists() {
        return Ok(Vec::new());
    }
    let layout = Layout::new(data_dir);
    let _lock = crate::lock(&layout)?;
    let mut left = Vec::new();
    let cgroups = Cgroups::locate(data_dir)?;
    for name in cgroups.names() {
        if let Err(error) = cgroups.remove(&name, GOING) {
            left.push(format!("cgroup {name}: {error}"));
        }
    }
    if let Err(error) = cgroups.remove_roots(GOING) {
        left.push(error.to_string());
    }
    if let Err(error) = namespace::remove(&layout.netns()) {
        left.push(error.to_string());
    }
    for entry in std::fs::read_dir(layout.instances()).into_iter().flatten().filter_map(Result::ok) {
        for socket in [file::QMP_SOCKET, file::GUEST_SOCKET, file::TPM_SOCKET] {
            let path = entry.path().join(socket);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    left.push(format!("{}: {error}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
    crate::clear_ready(&layout)?;
    Ok(left)
}
