//! The operator's daemon. It wires the layers and holds no logic of theirs: `up` supervises one process for each role.

mod doctor;
mod down;
mod health;
mod init;
mod layout;
mod logs;
mod privileges;
mod role;
mod supervisor;
mod up;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use role::RoleName;

/// Runs a Lambda region, or one role of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the data folder if needed, and run all roles on this machine until SIGTERM. Guests outlive it.
    ///
    /// Example: lambdad up --data /var/lib/lambda --images ./debian-12
    Up(up::Options),
    /// Run the public API.
    Gateway(role::Options),
    /// Run the control plane.
    Control(role::Options),
    /// Run the node agent.
    Node(role::Options),
    /// Make the data folder: authorities, certificates, ports.
    Init {
        /// The data folder.
        #[arg(long)]
        data: PathBuf,
        /// Address of the public API.
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
    /// Stop everything: the roles, then every guest, vTPM, interface and rule of this data folder.
    Down(down::Options),
    /// API keys.
    #[command(subcommand)]
    ApiKey(ApiKey),
    /// Say what this machine can do and what is missing, with the fix.
    Doctor {
        /// Also look at this data folder.
        #[arg(long)]
        data: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ApiKey {
    /// Make a key and write it to a file that its owner alone can read. It is not shown again.
    Create(up::CreateKey),
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lambdad: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up::run(&options),
        Command::Gateway(options) => role::run(RoleName::Gateway, &options),
        Command::Control(options) => role::run(RoleName::Control, &options),
        Command::Node(options) => role::run(RoleName::Node, &options),
        Command::Init { data, listen } => init::init(&layout::Layout::new(&data)?, listen, &[]).map(|_| ()),
        Command::Down(options) => down::run(&options),
        Command::ApiKey(ApiKey::Create(options)) => up::create_key(&options),
        Command::Doctor { data } => doctor::run(data.as_deref()),
    }
}
