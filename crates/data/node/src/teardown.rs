//! Removes what a node has on its host, for `lambdad down`. Volumes and records stay in the data folder.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lambda_types::guest::ToGuest;

use crate::host::cgroup::Cgroups;
use crate::host::process::ProcessRef;
use crate::instance::state::InstanceRecord;
use crate::layout::{Layout, connect, file};
use crate::network::namespace;

/// How long killed processes may take to go.
const GOING: Duration = Duration::from_secs(10);

/// How long a guest's socket may refuse a frame.
const ASKING: Duration = Duration::from_secs(2);

/// How often it is looked whether the guests are gone.
const LOOK: Duration = Duration::from_millis(100);

/// Asks every guest to power itself off, and waits until all have or `bound` is over. The agent must have ended. Returns the
/// instances that still run.
///
/// # Errors
/// When an agent still runs, or a record cannot be read.
pub fn stop_guests(data_dir: &Path, bound: Duration) -> anyhow::Result<Vec<String>> {
    let layout = Layout::new(data_dir);
    if !layout.instances().exists() {
        return Ok(Vec::new());
    }
    let _lock = crate::lock(&layout)?;
    let deadline = Instant::now() + bound;
    let mut running = Vec::new();
    let mut unknown = Vec::new();
    for entry in std::fs::read_dir(layout.instances())? {
        let folder = entry?.path();
        let record = match InstanceRecord::load(&folder) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error) => {
                unknown.push(format!("{} ({error})", folder.display()));
                continue;
            }
        };
        let Some(qemu) = record.qemu.filter(ProcessRef::lives) else { continue };
        running.push((record.id, qemu, ask(&folder)));
    }
    loop {
        running.retain(|(_, qemu, _)| qemu.lives());
        // A guest that cannot be asked is not waited for.
        if Instant::now() >= deadline || running.iter().all(|(.., asked)| asked.is_err()) {
            unknown.extend(running.iter().map(|(id, ..)| id.to_string()));
            return Ok(unknown);
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends the frame. The connection is kept, and what the guest says on it is thrown away by the thread that reads it, so that a
/// guest in the middle of a message is not held up.
fn ask(folder: &Path) -> std::io::Result<UnixStream> {
    let mut stream = connect(folder, file::GUEST_SOCKET)?;
    stream.set_write_timeout(Some(ASKING))?;
    let frame = serde_json::to_vec(&ToGuest::Shutdown)?;
    let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), frame.as_slice()].concat())?;
    let mut reader = stream.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    Ok(stream)
}

/// Ends every guest and vTPM of the node with this data folder, and removes its cgroups and its network namespace, with
/// the taps and rules in it. The agent must have ended. Returns what could not be removed, in words.
///
/// # Errors
/// When an agent still runs.
pub fn teardown(data_dir: &Path) -> anyhow::Result<Vec<String>> {
    let layout = Layout::new(data_dir);
    let gone = !data_dir.exists();
    let _lock = if gone { None } else { Some(crate::lock(&layout)?) };
    let mut left = Vec::new();
    // A folder that was removed still names the cgroups in which its guests run.
    let cgroups = Cgroups::locate(data_dir)?;
    for name in cgroups.names() {
        if let Err(error) = cgroups.remove(&name, GOING) {
            left.push(format!("cgroup {name}: {error}"));
        }
    }
    if let Err(error) = cgroups.remove_roots(GOING) {
        left.push(error.to_string());
    }
    if gone {
        return Ok(left);
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
