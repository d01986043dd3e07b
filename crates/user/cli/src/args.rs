//! The command line: what a customer can type.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lambda_types::shape::Shape;

/// Runs confidential workloads on machines whose operator cannot look inside.
#[derive(Debug, Parser)]
#[command(name = "lambda", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// How to print results.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lambda connect https://cloud.example:8443 --ca ca.pem --api-key-file api.key
  lambda image trust ./debian-12
  lambda instance create --name web --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub
  lambda ssh web

Exit codes: 0 ok, 1 other failure, 2 usage, 3 attestation or policy refused, 4 not found, 5 conflict, 6 unavailable.
The configuration folder is ~/.config/lambda; LAMBDA_CONFIG_DIR moves it.";

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// JSON, one document.
    Json,
    /// YAML, one document.
    Yaml,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connects this machine to a cloud: pins its platform CA and makes the master key.
    Connect(Connect),
    /// Creates, shows and controls instances.
    #[command(subcommand, visible_alias = "i")]
    Instance(Instance),
    /// Opens an SSH session; the host key comes from the evidence.
    Ssh(Ssh),
    /// Copies files to and from an instance.
    Cp(Cp),
    /// Connects standard input and output to a port of an instance (used by `ssh` and `cp`).
    #[command(hide = true)]
    Tunnel(Tunnel),
    /// Builds, measures, imports and trusts images.
    #[command(subcommand)]
    Image(Image),
    /// Releases keys unattended.
    #[command(subcommand)]
    Broker(Broker),
    /// Reads evidence files.
    #[command(subcommand)]
    Attest(Attest),
    /// Writes and shows release policies.
    #[command(subcommand)]
    Policy(Policy),
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:\n  lambda completions bash > /etc/bash_completion.d/lambda")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// `lambda connect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lambda connect https://127.0.0.1:8443 --ca ca.pem --api-key-file api.key")]
pub(crate) struct Connect {
    /// The gateway, https://HOST:PORT.
    pub(crate) url: String,
    /// Certificate authority of the gateway, PEM; kept from an earlier connect if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File with the API key; kept from an earlier connect if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Accepts a platform CA other than the pinned one, after you compared its fingerprint with the operator's announcement.
    #[arg(long)]
    pub(crate) new_platform_ca: bool,
}

/// `lambda instance …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// Creates an instance and, unless detached, releases its keys once its evidence is accepted.
    #[command(after_help = "Examples:
  lambda instance create --name web --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub
  lambda instance create --name job --image debian-12 --shape medium --volume-gib 50 --user-data setup.sh --detach")]
    Create(Box<Create>),
    /// Lists instances; names are opened on this machine.
    List,
    /// Shows one instance.
    Show(Name),
    /// Starts a stopped or failed instance and releases its keys.
    Start(Run),
    /// Shuts an instance down; its keys are gone until it is started again.
    Stop(Run),
    /// Stops and starts.
    Restart(Run),
    /// Deletes an instance and its volume.
    Delete(Run),
    /// Asks a running instance for fresh evidence and judges it.
    Attest(Name),
    /// Says what an instance waits for, since when and until when.
    Why(Name),
}

/// `lambda instance create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name; known to you alone.
    #[arg(long)]
    pub(crate) name: String,
    /// Image: a name, name:version or id among the images you trust.
    #[arg(long)]
    pub(crate) image: String,
    /// Size: nano, micro, small, medium or large.
    #[arg(long, default_value = "small")]
    pub(crate) shape: Shape,
    /// Size of the encrypted volume, GiB.
    #[arg(long, default_value_t = 10)]
    pub(crate) volume_gib: u32,
    /// SSH public key file; may be given several times.
    #[arg(long = "ssh-key", value_name = "FILE", required = true)]
    pub(crate) ssh_keys: Vec<PathBuf>,
    /// Host name inside the guest; the name if left out.
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Script that runs once as root at first boot; starts with `#!`.
    #[arg(long, value_name = "FILE")]
    pub(crate) user_data: Option<PathBuf>,
    /// Environment variable for the guest; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) environment: Vec<(String, String)>,
    /// Tag; known to you alone; may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Description; known to you alone.
    #[arg(long, default_value = "")]
    pub(crate) description: String,
    /// Release policy; the one for the image if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Whether and how long to wait.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Returns at once; a broker elsewhere (`lambda broker run`) releases the keys.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Gives up after this many seconds.
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

/// An instance by name or id.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Name, id, or the beginning of an id.
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
}

/// A change of an instance that takes time.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// Who to log in as.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// SSH private key; your agent and default keys if left out.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// User inside the guest.
    #[arg(short, long, default_value = "lambda")]
    pub(crate) login: String,
}

/// `lambda ssh`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lambda ssh web\n  lambda ssh web -- uname -a")]
pub(crate) struct Ssh {
    #[command(flatten)]
    pub(crate) login: Login,
    #[command(flatten)]
    pub(crate) name: Name,
    /// Command to run instead of a shell.
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

/// `lambda cp`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lambda cp ./data web:/srv/\n  lambda cp -r web:/var/log ./logs")]
pub(crate) struct Cp {
    #[command(flatten)]
    pub(crate) login: Login,
    /// Copies folders whole.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// From; INSTANCE:PATH or a local path.
    pub(crate) from: String,
    /// To; INSTANCE:PATH or a local path. One of the two names an instance.
    pub(crate) to: String,
}

/// `lambda tunnel`.
#[derive(Debug, Args)]
pub(crate) struct Tunnel {
    #[command(flatten)]
    pub(crate) name: Name,
    /// TCP port inside the guest.
    #[arg(long, default_value_t = 22)]
    pub(crate) port: u16,
}

/// `lambda image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Builds an image from a distribution's packages.
    #[command(after_help = "Example:\n  lambda image build debian-12 --out ./debian-12")]
    Build(Build),
    /// Recomputes every expected measurement from an image's parts and compares.
    Measure(Folder),
    /// Measures an image and, if everything agrees, keeps its reference values for release policies.
    Trust(Folder),
    /// Lists the cloud's images and whether you trust them.
    List,
}

/// An image folder.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// Folder with image.json and the parts.
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

/// `lambda image build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Which distribution; debian-12.
    pub(crate) distribution: String,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The lambda-guest program; the one beside this program if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: Option<PathBuf>,
    /// Package lock; the one this program carries if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
}

/// `lambda broker …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Broker {
    /// Watches every instance of the project and releases keys under one policy, until stopped.
    #[command(after_help = "Example:\n  lambda broker run --policy policy.json")]
    Run {
        /// Release policy.
        #[arg(long, value_name = "FILE")]
        policy: PathBuf,
    },
}

/// `lambda attest …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Attest {
    /// Prints the claims of evidence without judging them.
    Inspect {
        /// Evidence.
        #[arg(value_name = "FILE")]
        evidence: PathBuf,
    },
}

/// `lambda policy …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Writes a policy that accepts one image on tier `platform` under the pinned platform CA.
    #[command(after_help = "Example:\n  lambda policy new --from ./debian-12 --out policy.json")]
    New {
        /// Image folder; measured first.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// File to write; standard output if left out.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Says what a policy accepts.
    Show {
        /// The policy.
        #[arg(value_name = "FILE")]
        policy: PathBuf,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected whole seconds, 1 to 86400".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_remote_command_is_kept_apart_from_options() {
        let cli = Cli::try_parse_from(["lambda", "ssh", "web", "--", "ls", "-l"]).unwrap();
        let Command::Ssh(ssh) = cli.command else { panic!("ssh") };
        assert_eq!(ssh.command, ["ls", "-l"]);
    }

    #[test]
    fn pairs_and_seconds_are_bounded() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("=x").is_err() && pair("x").is_err());
        assert!(seconds("0").is_err() && seconds("86401").is_err() && seconds("-1").is_err());
    }
}
