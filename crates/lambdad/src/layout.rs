//! The data folder: what is where, who owns it, and the few settings that must outlive a restart.
//!
//! ```text
//!   settings.json                     node id, ports
//!   pki/{internal,public,platform}/   certificate authorities; root alone
//!   gateway/                          gateway's user alone
//!   control/                          control's user alone: the store
//!   node/                             root; passable, because each guest's own user reaches its folder through it
//!   customer/                         what the operator hands to its first customer: ca.pem, api.key
//!   run/                              endpoint.json, up.pid, up.lock
//!   logs/                             one bounded log a role
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use lambda_types::NodeId;
use rustix::fs::{AtFlags, Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::role::RoleName;

/// Name of the region; one machine is one region.
pub(crate) const REGION: &str = "local";

/// A data folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What is chosen once and kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// This machine's node.
    pub(crate) node: NodeId,
    /// The public listener. Customers' configurations name it, so it stays.
    pub(crate) gateway: SocketAddr,
    /// Control's listener.
    pub(crate) control: SocketAddr,
    /// The node's tunnel listener.
    pub(crate) tunnel: SocketAddr,
    /// Where images are.
    #[serde(default)]
    pub(crate) images: std::collections::BTreeSet<PathBuf>,
}

impl Settings {
    /// Where a role listens.
    pub(crate) const fn address(&self, role: RoleName) -> SocketAddr {
        match role {
            RoleName::Gateway => self.gateway,
            RoleName::Control => self.control,
            RoleName::Node => self.tunnel,
        }
    }
}

impl Layout {
    /// The folder at this path; relative paths are resolved, because roles run elsewhere.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        Ok(Self { root: std::path::absolute(root).context("the data folder's path")? })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// One authority's folder.
    pub(crate) fn authority(&self, name: &str) -> PathBuf {
        self.root.join("pki").join(name)
    }

    /// A role's folder.
    pub(crate) fn role(&self, role: RoleName) -> PathBuf {
        self.root.join(role.name())
    }

    /// A file in `customer/`.
    pub(crate) fn customer(&self, file: &str) -> PathBuf {
        self.root.join("customer").join(file)
    }

    /// A file in `run/`.
    pub(crate) fn run(&self, file: &str) -> PathBuf {
        self.root.join("run").join(file)
    }

    /// A role's log.
    pub(crate) fn log(&self, role: RoleName) -> PathBuf {
        self.root.join("logs").join(format!("{}.log", role.name()))
    }

    fn settings_path(&self) -> PathBuf {
        self.root.join("settings.json")
    }

    /// The stored settings; `None` before the first start.
    pub(crate) fn settings(&self) -> Result<Option<Settings>> {
        let path = self.settings_path();
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Stores the settings durably.
    pub(crate) fn save_settings(&self, settings: &Settings) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(settings)?;
        Ok(lambda_transport::pki::write_file(&self.settings_path(), &bytes, 0o644)?)
    }

    /// Makes the folders, with their owners and modes; repeats harmlessly.
    pub(crate) fn make(&self) -> Result<()> {
        folder(&self.root, 0o711, None)?;
        self.check_parents()?;
        for (name, mode) in [("pki", 0o700), ("customer", 0o700), ("run", 0o711), ("logs", 0o700)] {
            folder(&self.root.join(name), mode, None)?;
        }
        for role in RoleName::ALL {
            let mode = if role.uid().is_some() { 0o700 } else { 0o711 };
            folder(&self.role(role), mode, role.uid())?;
        }
        Ok(())
    }

    /// The roles' and guests' own users must be able to reach the folder.
    fn check_parents(&self) -> Result<()> {
        for parent in self.root.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let mode = parent.metadata().with_context(|| parent.display().to_string())?.mode();
            if mode & 0o001 == 0 {
                bail!(
                    "{} (mode {:04o}) cannot be entered by the users that the roles and guests run as; \
                     choose another --data, for example /var/lib/lambda",
                    parent.display(),
                    mode & 0o7777
                );
            }
        }
        Ok(())
    }
}

/// Makes a folder if absent, and sets mode and owner.
fn folder(path: &Path, mode: u32, owner: Option<u32>) -> Result<()> {
    let shown = || path.display().to_string();
    std::fs::create_dir_all(path).with_context(shown)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(shown)?;
    chown(path, owner.unwrap_or(0))
}

fn chown(path: &Path, owner: u32) -> Result<()> {
    // Never through a link: a role that was taken over could have put one into its own folder.
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(rustix::fs::CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("cannot give {} to user {owner}", path.display()))
}

/// Gives a folder and everything in it to a role's user. Links are not followed.
pub(crate) fn give(path: &Path, owner: u32) -> Result<()> {
    chown(path, owner)?;
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            give(&entry.path(), owner)?;
        } else if kind.is_file() {
            chown(&entry.path(), owner)?;
        }
    }
    Ok(())
}

/// An address on loopback with a port that the kernel picks.
pub(crate) const fn any_loopback() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_a_restart_and_garbage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        assert!(layout.settings().unwrap().is_none());
        let settings = Settings {
            node: NodeId::from_bits(7),
            gateway: any_loopback(),
            control: any_loopback(),
            tunnel: any_loopback(),
            images: [PathBuf::from("/images")].into(),
        };
        layout.save_settings(&settings).unwrap();
        assert_eq!(layout.settings().unwrap().unwrap().node, settings.node);
        std::fs::write(layout.settings_path(), "{").unwrap();
        assert!(layout.settings().is_err());
    }

    #[test]
    fn a_parent_that_others_cannot_enter_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&folder.path().join("data")).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = layout.check_parents().unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }
}
