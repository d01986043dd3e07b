//! The data folder: what is where, who owns it, and the few settings that must outlive a restart.
//!
//! ```text
//!   settings.json                     node id, ports
//!   pki/{internal,public,platform}/   certificate authorities; root alone
//!   gateway/                          root's; gateway's group may read it
//!   control/                          root's; control's group may read it
//!   control/state/                    control's user alone: the store
//!   node/                             root; passable, because each guest's own user reaches its folder through it
//!   customer/                         what the operator hands to its first customer: ca.pem, api.key
//!   run/                              endpoint.json, up.pid, up.lock
//!   logs/                             one bounded log a role
//! ```
//!
//! Root acts by path, and follows what it finds there. Therefore a role that runs as a user of its own can write to no folder that
//! root works in: the one folder that it owns is `control/state`, and what opens that becomes its owner first.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use lambda_types::NodeId;
use rustix::fs::{Gid, Mode, OFlags, Uid};
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
    /// Names and addresses from `--name` that customers use for the public listener.
    #[serde(default)]
    pub(crate) names: std::collections::BTreeSet<String>,
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

    /// The control plane's store, in the one folder that its user owns.
    pub(crate) fn store(&self) -> PathBuf {
        self.role(RoleName::Control).join("state").join("store.sqlite")
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

    /// Stores the settings durably. Nothing is written when they are the stored ones: such a start needs no room on the disk.
    pub(crate) fn save_settings(&self, settings: &Settings) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(settings)?;
        if std::fs::read(self.settings_path()).is_ok_and(|stored| stored == bytes) {
            return Ok(());
        }
        Ok(lambda_transport::pki::write_file(&self.settings_path(), &bytes, 0o644)?)
    }

    /// Makes the folders, with their owners and modes; repeats harmlessly.
    pub(crate) fn make(&self) -> Result<()> {
        std::fs::create_dir_all(&self.root).with_context(|| self.root.display().to_string())?;
        folder(&self.root, 0o711, ROOT)?;
        self.check_parents()?;
        for (name, mode) in [("pki", 0o700), ("customer", 0o700), ("run", 0o711), ("logs", 0o700)] {
            folder(&self.root.join(name), mode, ROOT)?;
        }
        for role in RoleName::ALL {
            let mode = if role.uid().is_some() { 0o750 } else { 0o711 };
            folder(&self.role(role), mode, Owner { uid: 0, gid: role.gid() })?;
        }
        let control = RoleName::Control.gid();
        folder(&self.role(RoleName::Control).join("state"), 0o700, Owner { uid: control, gid: control })
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

/// Who has a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Root alone.
pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Makes a folder if absent, and sets mode and group. One that somebody else owns is refused: its content may be anybody's.
pub(crate) fn folder(path: &Path, mode: u32, owner: Owner) -> Result<()> {
    let shown = || path.display().to_string();
    let made = match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => true,
        Err(rustix::io::Errno::EXIST) => false,
        Err(error) => return Err(error).with_context(shown),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(path, flags, Mode::empty()).with_context(shown)?;
    let uid = rustix::fs::fstat(&handle).with_context(shown)?.st_uid;
    // Between making `state` and giving it away, a crash may have come.
    if !made && uid != owner.uid && uid != 0 {
        bail!(
            "{} belongs to user {uid}, not to {}: restore it with its owners, or start with another --data",
            path.display(),
            owner.uid
        );
    }
    rustix::fs::fchmod(&handle, Mode::from_raw_mode(mode)).with_context(shown)?;
    rustix::fs::fchown(&handle, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid))).with_context(shown)
}

/// Writes a whole file that a role's group may read: root's, mode 0640. Temporary name, sync, rename.
pub(crate) fn write_for(path: &Path, bytes: &[u8], gid: u32) -> Result<()> {
    let shown = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(shown),
        Ok(()) | Err(_) => {}
    }
    let mut file = create_exclusively(&temporary).with_context(shown)?;
    rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::from_raw(gid))).with_context(shown)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640)).with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    file.sync_all().with_context(shown)?;
    std::fs::rename(&temporary, path).with_context(shown)?;
    let parent = path.parent().context("a file in a folder")?;
    std::fs::File::open(parent).and_then(|parent| parent.sync_all()).with_context(shown)
}

/// A file that was not there, which its owner alone can read.
pub(crate) fn create_exclusively(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// An address on loopback with a port that the kernel picks.
pub(crate) const fn any_loopback() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_is_a_link_or_another_users_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let link = inside.path().join("gateway");
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        let mode = || outside.path().metadata().unwrap().mode();
        let before = mode();
        folder(&link, 0o750, Owner { uid: 0, gid: 61_001 }).unwrap_err();
        assert_eq!(mode(), before);
        let foreign = inside.path().join("control");
        std::fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(61_002), None).unwrap();
        let error = folder(&foreign, 0o750, Owner { uid: 0, gid: 61_002 }).unwrap_err().to_string();
        assert!(error.contains("belongs to user 61002"), "{error}");
    }

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
            names: ["cloud.example".into()].into(),
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
