//! `lambda ssh` and `lambda cp`: OpenSSH through the blind tunnel, with the host key that the evidence vouches for.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use lambda_sdk::Customer;
use lambda_sdk::resolve::Known;

use crate::args::{Cp, Login, Ssh};
use crate::commands::customer;
use crate::exit::Failure;

/// Bound on getting fresh evidence, when this boot's host key is not on record.
const ATTEST: Duration = Duration::from_secs(60);

/// `lambda ssh`: becomes `ssh`, so that its exit code and its terminal are the caller's.
pub(crate) async fn ssh(args: &Ssh) -> Result<(), Failure> {
    let customer = customer()?;
    let known = customer.find(&args.name.instance).await?;
    let mut command = Command::new("ssh");
    command.args(options(&customer, &known, &args.login).await?);
    command.args(["-l", &args.login.login]).arg(known.instance.id.to_string());
    if !args.command.is_empty() {
        command.arg("--").args(&args.command);
    }
    Err(become_program(command, "ssh"))
}

/// `lambda cp`: becomes `scp`.
pub(crate) async fn cp(args: &Cp) -> Result<(), Failure> {
    let customer = customer()?;
    let (remote, copies_out) = match (remote(&args.from), remote(&args.to)) {
        (Some(from), None) => (from, true),
        (None, Some(to)) => (to, false),
        _ => return Err(Failure::usage("exactly one of the two must be INSTANCE:PATH")),
    };
    let known = customer.find(remote.0).await?;
    let there = format!("{}@{}:{}", args.login.login, known.instance.id, remote.1);
    let mut command = Command::new("scp");
    command.arg("-q").args(options(&customer, &known, &args.login).await?);
    if args.recursive {
        command.arg("-r");
    }
    command.arg("--");
    if copies_out {
        command.arg(there).arg(&args.to)
    } else {
        command.arg(&args.from).arg(there)
    };
    Err(become_program(command, "scp"))
}

/// `INSTANCE:PATH`; a slash before the colon makes it a local path.
fn remote(text: &str) -> Option<(&str, &str)> {
    let (instance, path) = text.split_once(':')?;
    if instance.is_empty() || instance.contains('/') { None } else { Some((instance, path)) }
}

/// Options that leave OpenSSH no other choice than the attested host key.
async fn options(customer: &Customer, known: &Known, login: &Login) -> Result<Vec<OsString>, Failure> {
    let target = customer.ssh_target(&known.instance, ATTEST).await?;
    let id = known.instance.id;
    let program = std::env::current_exe().map_err(Failure::other)?;
    let proxy = format!("{} tunnel {id} --port %p", quoted(&program));
    let fixed = [
        format!("ProxyCommand={proxy}"),
        format!("UserKnownHostsFile={}", quoted(&target.known_hosts)),
        format!("HostKeyAlias={}", target.alias),
        "GlobalKnownHostsFile=/dev/null".into(),
        "StrictHostKeyChecking=yes".into(),
        "HostKeyAlgorithms=ssh-ed25519".into(),
        "UpdateHostKeys=no".into(),
        "VerifyHostKeyDNS=no".into(),
        "CanonicalizeHostname=no".into(),
        "LogLevel=ERROR".into(),
    ];
    let mut options: Vec<OsString> = fixed.into_iter().flat_map(|option| ["-o".into(), option.into()]).collect();
    if let Some(identity) = &login.identity {
        options.extend(["-i".into(), identity.into(), "-o".into(), "IdentitiesOnly=yes".into()]);
    }
    Ok(options)
}

/// A path as OpenSSH's configuration reads it: quoted, `%` doubled.
fn quoted(path: &std::path::Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

/// Replaces this process; returns only when that fails.
fn become_program(mut command: Command, name: &str) -> Failure {
    let error = command.exec();
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::other(format!("`{name}` is not installed; on Debian: apt-get install openssh-client"));
    }
    Failure::other(format!("cannot run {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn local_paths_with_colons_stay_local() {
        assert_eq!(remote("web:/srv"), Some(("web", "/srv")));
        assert_eq!(remote("web:"), Some(("web", "")));
        assert_eq!(remote("./a:b"), None);
        assert_eq!(remote(":x"), None);
        assert_eq!(remote("plain"), None);
    }

    #[test]
    fn paths_survive_opensshs_expansion() {
        assert_eq!(quoted(&PathBuf::from("/a b/100%")), "\"/a b/100%%\"");
    }
}
