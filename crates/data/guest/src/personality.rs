//! What makes the generic root file system this instance: files written after the step into the new root.
//!
//! Whatever the customer may edit lives between marker lines, so that changed secrets take effect at the next boot
//! and the customer's own lines stay.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The SSH host key's path; the image's sshd reads only this one.
pub const SSH_HOST_KEY: &str = "run/lambda/ssh_host_ed25519_key";

const USER: &str = "lambda";
const BEGIN: &str = "# lambda: begin (written at every boot)";
const END: &str = "# lambda: end";
const USER_DATA: &str = "var/lib/lambda/user-data";
const USER_DATA_DONE: &str = "var/lib/lambda/user-data.done";
const UNIT: &str = "lambda-user-data.service";

/// What is written.
pub struct Personality<'a> {
    /// Host name.
    pub hostname: &'a str,
    /// Lines of `authorized_keys`.
    pub authorized_keys: &'a [Zeroizing<String>],
    /// Variables of `/etc/environment`.
    pub environment: &'a BTreeMap<String, Zeroizing<String>>,
    /// Script to run once, at the first boot.
    pub user_data: Option<&'a [u8]>,
    /// OpenSSH private key file.
    pub ssh_host_key: &'a Zeroizing<String>,
}

impl Personality<'_> {
    /// Writes everything below `root`.
    ///
    /// # Errors
    /// What the file system answers, naming the file.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        named("machine-id", machine_id(root))?;
        named("hostname", fs::write(root.join("etc/hostname"), format!("{}\n", self.hostname)))?;
        let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost ip6-localhost", self.hostname);
        named("hosts", managed_block(&root.join("etc/hosts"), &hosts))?;
        named("environment", managed_block(&root.join("etc/environment"), &self.environment_lines()))?;
        named("ssh host key", self.write_ssh_host_key(root))?;
        named("authorized_keys", self.write_authorized_keys(root))?;
        named("user data", self.write_user_data(root))
    }

    /// `NAME="VALUE"` for pam_env. It takes one quote off each end and everything between as it is, except `#`, which no
    /// released value holds ([`lambda_crypto::InstanceSecrets::check`]).
    fn environment_lines(&self) -> Zeroizing<String> {
        let mut lines = Zeroizing::new(String::new());
        for (name, value) in self.environment {
            for part in [name, "=\"", value, "\"\n"] {
                lines.push_str(part);
            }
        }
        lines
    }

    fn write_ssh_host_key(&self, root: &Path) -> io::Result<()> {
        let path = root.join(SSH_HOST_KEY);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, b"")?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        fs::write(&path, self.ssh_host_key.as_bytes())
    }

    fn write_authorized_keys(&self, root: &Path) -> io::Result<()> {
        let account = Account::find(root, USER)?;
        let folder = root.join(account.home.strip_prefix("/").unwrap_or(&account.home)).join(".ssh");
        fs::create_dir_all(&folder)?;
        let file = folder.join("authorized_keys");
        let lines: Vec<&str> = self.authorized_keys.iter().map(|key| key.as_str()).collect();
        managed_block(&file, &Zeroizing::new(lines.join("\n")))?;
        for (path, mode) in [(&folder, 0o700), (&file, 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            chown(path, Some(account.user), Some(account.group))?;
        }
        Ok(())
    }

    /// The script is stored before its unit, and the marker that it ran is written by the unit itself.
    fn write_user_data(&self, root: &Path) -> io::Result<()> {
        let Some(script) = self.user_data else { return Ok(()) };
        if root.join(USER_DATA_DONE).exists() {
            return Ok(());
        }
        let path = root.join(USER_DATA);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        fs::write(&path, b"")?;
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        fs::write(&path, script)?;
        let units = root.join("run/systemd/system");
        let wants = units.join("multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        fs::write(units.join(UNIT), unit_text())?;
        match std::os::unix::fs::symlink(format!("../{UNIT}"), wants.join(UNIT)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

fn unit_text() -> String {
    format!(
        "[Unit]\nDescription=User data of this instance\nAfter=network.target local-fs.target\n\
         ConditionPathExists=!/{USER_DATA_DONE}\n\n[Service]\nType=oneshot\nExecStart=/{USER_DATA}\n\
         ExecStopPost=/bin/touch /{USER_DATA_DONE}\nTimeoutStartSec=infinity\n"
    )
}

fn named(what: &str, result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// A random machine id, made once and kept on the volume.
fn machine_id(root: &Path) -> io::Result<()> {
    let path = root.join("etc/machine-id");
    let known = fs::read_to_string(&path).unwrap_or_default();
    let known = known.trim();
    if known.len() == 32 && known.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    fs::write(&path, format!("{:032x}\n", u128::from_be_bytes(bytes)))?;
    fs::set_permissions(&path, Permissions::from_mode(0o444))
}

/// Replaces what stands between the markers, or appends it with markers.
fn managed_block(path: &Path, body: &str) -> io::Result<()> {
    let stored = match fs::read_to_string(path) {
        Ok(text) => Some(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let known = stored.as_ref().map_or("", |text| text.as_str());
    let mut kept = Zeroizing::new(String::with_capacity(known.len() + body.len() + BEGIN.len() + END.len() + 3));
    let mut inside = false;
    for line in known.lines() {
        match line {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            line => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    if !body.is_empty() {
        for part in [BEGIN, "\n", body.trim_end(), "\n", END, "\n"] {
            kept.push_str(part);
        }
    }
    if stored.is_some() && kept.as_str() == known { Ok(()) } else { fs::write(path, kept.as_bytes()) }
}

struct Account {
    user: u32,
    group: u32,
    home: PathBuf,
}

impl Account {
    fn find(root: &Path, name: &str) -> io::Result<Self> {
        let text = fs::read_to_string(root.join("etc/passwd"))?;
        text.lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find_map(|fields| match fields.as_slice() {
                [user, _, uid, gid, _, home, _] if *user == name => {
                    Some(Self { user: uid.parse().ok()?, group: gid.parse().ok()?, home: PathBuf::from(home) })
                }
                _ => None,
            })
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("the root file system has no user {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let me = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("home/lambda")).unwrap();
        let line = format!("root:x:0:0::/root:/bin/sh\nlambda:x:{me}:{group}::/home/lambda:/bin/bash\n");
        fs::write(root.path().join("etc/passwd"), line).unwrap();
        root
    }

    fn write(root: &Path, keys: &[String], user_data: Option<&[u8]>) {
        let environment = BTreeMap::from([("COLOUR".to_owned(), Zeroizing::new("blue".to_owned()))]);
        let keys: Vec<_> = keys.iter().cloned().map(Zeroizing::new).collect();
        let ssh_host_key = Zeroizing::new("KEY".to_owned());
        Personality {
            hostname: "web",
            authorized_keys: &keys,
            environment: &environment,
            user_data,
            ssh_host_key: &ssh_host_key,
        }
        .write(root)
        .unwrap();
    }

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn changed_keys_replace_the_old_ones_and_the_customers_own_lines_stay() {
        let root = root();
        write(root.path(), &["ssh-ed25519 AAAA one".to_owned()], None);
        let file = "home/lambda/.ssh/authorized_keys";
        let edited = format!("ssh-ed25519 BBBB mine\n{}", read(root.path(), file));
        fs::write(root.path().join(file), edited).unwrap();
        write(root.path(), &["ssh-ed25519 CCCC two".to_owned()], None);
        let text = read(root.path(), file);
        assert!(text.contains("BBBB mine") && text.contains("CCCC two") && !text.contains("AAAA"), "{text}");
        assert_eq!(fs::metadata(root.path().join(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// `/etc/environment` as Linux-PAM 1.5.2 reads it (`_parse_env_file` in pam_env.c).
    fn as_pam_env_reads(text: &str) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for line in text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let line = line.split('#').next().unwrap_or_default().trim_end();
            let Some((name, value)) = line.split_once('=') else { continue };
            let value = match value.strip_prefix(['"', '\'']) {
                Some(rest) => rest.strip_suffix(['"', '\'']).unwrap_or(rest),
                None => value,
            };
            variables.insert(name.to_owned(), value.to_owned());
        }
        variables
    }

    #[test]
    fn every_environment_value_that_can_be_released_reaches_the_guest_unharmed() {
        let mut secrets = lambda_crypto::InstanceSecrets::new("web").unwrap();
        let values = [
            "plain",
            "",
            " ",
            " a b ",
            "\"",
            "a\"b",
            "\"ab\"",
            "a\"",
            "it's",
            "'q'",
            "\\",
            "a\\",
            "a\\\"b",
            "$HOME ${X} @{Y}",
            "%h !x `y` ; & |",
            "a=b",
            "ü€",
            "a#b",
            " #",
        ];
        let mut sent = 0;
        for value in values {
            secrets.environment.insert("A".into(), Zeroizing::new(value.to_owned()));
            if secrets.check().is_err() {
                assert!(value.contains('#'), "{value:?} is refused");
                continue;
            }
            let root = root();
            let ssh_host_key = Zeroizing::new(String::new());
            Personality {
                hostname: "web",
                authorized_keys: &[],
                environment: &secrets.environment,
                user_data: None,
                ssh_host_key: &ssh_host_key,
            }
            .write(root.path())
            .unwrap();
            let read = as_pam_env_reads(&read(root.path(), "etc/environment"));
            assert_eq!(read, BTreeMap::from([("A".to_owned(), value.to_owned())]));
            sent += 1;
        }
        assert_eq!(sent, values.len() - 2);
    }

    #[test]
    fn the_machine_id_is_made_once() {
        let root = root();
        write(root.path(), &[], None);
        let first = read(root.path(), "etc/machine-id");
        assert_eq!(first.trim().len(), 32);
        write(root.path(), &[], None);
        assert_eq!(read(root.path(), "etc/machine-id"), first);
    }

    #[test]
    fn the_host_key_is_readable_by_its_owner_only() {
        let root = root();
        write(root.path(), &[], None);
        let path = root.path().join(SSH_HOST_KEY);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(root.path(), "etc/hostname"), "web\n");
        assert!(read(root.path(), "etc/environment").contains("COLOUR=\"blue\""));
    }

    #[test]
    fn user_data_that_ran_is_not_scheduled_again() {
        let root = root();
        write(root.path(), &[], Some(b"#!/bin/sh\n"));
        assert!(root.path().join("run/systemd/system/multi-user.target.wants").join(UNIT).is_symlink());
        fs::write(root.path().join(USER_DATA_DONE), b"").unwrap();
        fs::remove_dir_all(root.path().join("run")).unwrap();
        write(root.path(), &[], Some(b"#!/bin/sh\n"));
        assert!(!root.path().join("run/systemd/system").exists());
    }

    #[test]
    fn a_root_without_the_user_is_refused() {
        let root = root();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        let ssh_host_key = Zeroizing::new(String::new());
        let personality = Personality {
            hostname: "web",
            authorized_keys: &[],
            environment: &BTreeMap::new(),
            user_data: None,
            ssh_host_key: &ssh_host_key,
        };
        assert!(personality.write(root.path()).unwrap_err().to_string().contains("no user lambda"));
    }
}
