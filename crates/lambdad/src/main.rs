//! The operator's daemon. It wires the layers and holds no logic of theirs: `up` supervises one process for each role.

mod certificates;
mod doctor;
mod down;
mod health;
mod init;
mod key;
mod layout;
mod logs;
mod privileges;
mod role;
mod supervisor;
mod up;

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
        #[command(flatten)]
        choices: init::Choices,
    },
    /// Stop everything: the roles, then every guest, vTPM, interface and rule of this data folder.
    Down(down::Options),
    /// API keys.
    #[command(subcommand)]
    ApiKey(ApiKey),
    /// Remove a node that never comes back, and every instance on it, from the store. Their volumes were on it.
    ForgetNode(key::ForgetNode),
    /// Say what this machine can do and what is missing, with the fix.
    Doctor(doctor::Options),
    /// Work on the keys in the store, as the control plane's user.
    #[command(hide = true)]
    StoreKey(key::InStore),
}

#[derive(Debug, Subcommand)]
enum ApiKey {
    /// Make a key and write it to a file that its owner alone can read. It is not shown again.
    Create(key::Create),
    /// Print all keys with project, state and scopes.
    List(key::List),
    /// End a key. It is refused from then on, by gateways at most 5 s later.
    Revoke(key::Revoke),
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
        Command::Init { data, choices } => init::init(&layout::Layout::new(&data)?, &choices).map(|_| ()),
        Command::Down(options) => down::run(&options),
        Command::ApiKey(ApiKey::Create(options)) => key::create(&options),
        Command::ApiKey(ApiKey::List(options)) => key::list(&options),
        Command::ApiKey(ApiKey::Revoke(options)) => key::revoke(&options),
        Command::ForgetNode(options) => key::forget_node(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::StoreKey(options) => key::in_store(&options),
    }
}
