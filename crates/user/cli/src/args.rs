//! The command line: what a customer can type.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lambda_types::shape::{LaunchProfile, Shape};

mod attest;

pub(crate) use attest::{
    AmdLineName, Attest, Collateral, CollateralSource, EventlogArgs, Evidence, Export, Fetch, ImportBundle, Inspect,
    NewPolicy, PckCaName, Policy, PolicyKey, SignPolicy, TechnologyName, TeeName, Verify,
};

/// Runs instances on somebody else's machines, and releases their keys only to what you have verified.
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
    #[command(
        subcommand,
        visible_alias = "i",
        after_help = "Examples:
  lambda instance create --name web --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub
  lambda instance list
  lambda instance why web"
    )]
    Instance(Instance),
    /// Opens an SSH session; the host key comes from the evidence.
    Ssh(Ssh),
    /// Copies files to and from an instance.
    Cp(Cp),
    /// Connects standard input and output to a port of an instance (used by `ssh` and `cp`).
    #[command(hide = true, after_help = "Example:\n  lambda tunnel web --port 22")]
    Tunnel(Tunnel),
    /// Builds, measures, imports and trusts images.
    #[command(
        subcommand,
        after_help = "Examples:
  lambda image build debian-12 --out ./debian-12
  lambda image trust ./debian-12
  lambda image list"
    )]
    Image(Image),
    /// Releases keys unattended.
    #[command(subcommand, after_help = "Example:\n  lambda broker run --policy policy.json")]
    Broker(Broker),
    /// Names and rotates your keys.
    #[command(
        subcommand,
        after_help = "Examples:\n  lambda key show\n  lambda key rotate-master\n  lambda key rotate-project"
    )]
    Key(Key),
    /// Reads and judges evidence, and keeps what that takes: policies and collateral.
    #[command(
        subcommand,
        after_help = "Examples:
  lambda attest inspect web-evidence.json
  lambda attest verify web-evidence.json --policy policy.json
  lambda attest policy new --from ./debian-12 --out policy.json"
    )]
    Attest(Attest),
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
  lambda instance create --name job --image debian-12 --ssh-key id.pub --shape medium --volume-gib 50 --user-data setup.sh --detach
  lambda instance create --name api --image debian-12 --ssh-key id.pub --env-file api.env
  lambda instance create --name vault --image debian-12 --ssh-key id.pub --profile snp")]
    Create(Box<Create>),
    /// Lists instances; names are opened on this machine.
    #[command(after_help = "Examples:\n  lambda instance list\n  lambda instance list -o json")]
    List,
    /// Shows one instance, and the policy that it is judged by on this machine.
    #[command(after_help = "Example:\n  lambda instance show web")]
    Show(Name),
    /// Starts a stopped or failed instance and releases its keys.
    #[command(after_help = "Examples:\n  lambda instance start web\n  lambda instance start web --policy policy.json")]
    Start(Boot),
    /// Shuts an instance down; its keys are gone until it is started again.
    #[command(after_help = "Example:\n  lambda instance stop web")]
    Stop(Run),
    /// Stops and starts.
    #[command(after_help = "Example:\n  lambda instance restart web --timeout 300")]
    Restart(Boot),
    /// Enlarges the encrypted volume; the guest takes it up at its next boot, its data stays.
    #[command(after_help = "Example:\n  lambda instance resize web --volume-gib 50 && lambda instance restart web")]
    Resize(Resize),
    /// Deletes an instance and its volume.
    #[command(after_help = "Example:\n  lambda instance delete web")]
    Delete(Run),
    /// Asks a running instance for fresh evidence and judges it.
    #[command(
        after_help = "Examples:\n  lambda instance attest web\n  lambda instance attest web --record web-evidence.json"
    )]
    Attest(AttestInstance),
    /// Says what an instance waits for, since when and until when.
    #[command(after_help = "Example:\n  lambda instance why web")]
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
    /// How it is launched: tpm (the node's vTPM vouches for it), snp, tdx or cca (its processor does, and hides its memory from
    /// the host), or sgx (tpm, with memory for enclaves of its own).
    #[arg(long, default_value = "tpm")]
    pub(crate) profile: LaunchProfile,
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
    /// Environment variable for the guest's logins, with the value that it has here, one line without `#`; may be given
    /// several times. NAME=VALUE is taken too, but shows in process listings and the shell's history: not for secrets.
    #[arg(long = "env", value_name = "NAME", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// File with such variables, one NAME=VALUE a line; empty lines and lines that begin with `#` are skipped. May be
    /// given several times; a later file and then --env win.
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) environment_files: Vec<PathBuf>,
    /// Tag; known to you alone; may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Description; known to you alone.
    #[arg(long, default_value = "")]
    pub(crate) description: String,
    #[command(flatten)]
    pub(crate) policy: GivenPolicy,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `lambda instance resize`.
#[derive(Debug, Args)]
pub(crate) struct Resize {
    #[command(flatten)]
    pub(crate) name: Name,
    /// New size of the encrypted volume, GiB; a volume never shrinks.
    #[arg(long)]
    pub(crate) volume_gib: u32,
}

/// A policy for one instance.
#[derive(Debug, Args)]
pub(crate) struct GivenPolicy {
    /// Release policy; remembered on this machine for every later boot of the instance, in place of any other.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
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

/// A change that ends in a release.
#[derive(Debug, Args)]
pub(crate) struct Boot {
    #[command(flatten)]
    pub(crate) policy: GivenPolicy,
    #[command(flatten)]
    pub(crate) run: Run,
}

/// `lambda instance attest`.
#[derive(Debug, Args)]
pub(crate) struct AttestInstance {
    #[command(flatten)]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) policy: GivenPolicy,
    /// Writes the evidence with its spent challenge, for `lambda attest verify`.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
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
#[command(after_help = "Examples:\n  lambda cp -r ./data web:/home/lambda/\n  lambda cp -r web:/var/log ./logs")]
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
    /// Makes an image from any root file system that has an init and sshd.
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  lambda image import --name mine --rootfs rootfs.tar --kernel vmlinuz --out ./mine"
    )]
    Import(Import),
    /// Recomputes every expected measurement from an image's parts and compares.
    #[command(after_help = "Examples:
  lambda image measure ./debian-12
  lambda image measure ./debian-12 --profile snp --vcpus 2 --firmware OVMF.amdsev.fd

With --profile it prints what such a launch measures to, from firmware, kernel, initramfs and command line alone, and which
registers do not follow from the image.")]
    Measure(Measure),
    /// Measures an image and, if everything agrees, keeps its reference values for release policies.
    #[command(after_help = "Example:\n  lambda image trust ./debian-12")]
    Trust(Folder),
    /// Lists the cloud's images and whether you trust them.
    #[command(after_help = "Example:\n  lambda image list")]
    List,
}

/// `lambda image measure`.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    #[command(flatten)]
    pub(crate) folder: Folder,
    /// Computes this profile's launch measurement: snp or tdx.
    #[arg(long, value_name = "PROFILE", requires = "vcpus")]
    pub(crate) profile: Option<LaunchProfile>,
    /// Number of virtual processors.
    #[arg(long, value_name = "N", requires = "profile")]
    pub(crate) vcpus: Option<u32>,
    /// Firmware to launch with; the image's own for the profile if left out.
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub(crate) firmware: Option<PathBuf>,
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
    /// Takes the newest packages of the suites, and writes them into a new lock.
    #[arg(long, conflicts_with = "lock")]
    pub(crate) relock: bool,
}

/// `lambda image import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Name in image.json.
    #[arg(long)]
    pub(crate) name: String,
    /// Version in image.json.
    #[arg(long, default_value = "1")]
    pub(crate) version: String,
    /// Root file system: tar, plain or compressed with gzip or xz.
    #[arg(long, value_name = "TAR")]
    pub(crate) rootfs: PathBuf,
    /// Linux kernel with EFI stub.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,
    /// The kernel's modules, if the root file system does not carry them.
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,
    /// UEFI firmware, code volume; the one of the locked packages if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) firmware: Option<PathBuf>,
    /// The lambda-guest program; the one beside this program if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) guest: Option<PathBuf>,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
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

/// `lambda key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Replaces the master key; wraps the project keys anew and changes nothing in the cloud.
    #[command(after_help = "Example:
  lambda key rotate-master

Needs no cloud. If it is interrupted, the next command finishes or undoes it. Afterwards back up master.key and keyring.json
together, copy both to the machines that run a broker, and destroy the copies of the old master.key.")]
    RotateMaster,
    /// Makes the next version of the project key and seals every instance's secrets and metadata under it.
    #[command(after_help = "Example:
  lambda key rotate-project

If it is interrupted, run it again: it finishes before it would make another version. Old versions stay in keyring.json.
Afterwards back up keyring.json and copy it to the machines that run a broker. Volume keys stay as they are.")]
    RotateProject,
    /// Names the keys that sign the ID blocks of SNP guests, as reports and policies do.
    #[command(after_help = "Example:
  lambda key show

They are made with the first instance of profile snp, or the first policy for one.")]
    Show,
}

/// A variable and its value: the given one, or that of this process.
fn variable(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return pair(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.into(), value)),
        Err(std::env::VarError::NotPresent) => Err("it is not set here; export it first, or use --env-file".into()),
        Err(std::env::VarError::NotUnicode(_)) => Err("its value here is not UTF-8".into()),
    }
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("expected NAME=VALUE".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
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
    fn the_help_of_every_command_and_group_has_an_example() {
        let mut open = vec![Cli::command()];
        let mut seen = 0;
        while let Some(command) = open.pop() {
            open.extend(command.get_subcommands().cloned());
            seen += 1;
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains("\n  lambda "), "{}: {help}", command.get_name());
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn every_example_is_a_command_line_that_parses() {
        let mut open = vec![Cli::command()];
        while let Some(command) = open.pop() {
            open.extend(command.get_subcommands().cloned());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples =
                help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("lambda "));
            for line in examples.flat_map(|line| line.split(" && ")) {
                let words = line.split(" > ").next().unwrap_or_default().split_whitespace();
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
            }
        }
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
