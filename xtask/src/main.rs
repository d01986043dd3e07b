//! The work behind `./x`: setup, builds, the demo, the test suite, the benchmarks and the checks on the tree itself.

mod bench;
mod build;
mod demo;
mod differ;
mod docs;
mod fixtures;
mod fuzz;
mod layers;
mod mutate;
mod packages;
mod paths;
mod run;
mod setup;
mod simulated;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Lambda's developer commands. Each installs what it needs, says what it does, and skips what is done.
#[derive(Debug, Parser)]
#[command(name = "x", bin_name = "./x", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a whole cloud on loopback, create an instance in it, and use it over SSH.
    ///
    /// The cloud keeps running when the command ends; `./x demo --down` removes it and everything it made.
    Demo(demo::Options),
    /// Run the whole suite: format, lints, layers, docs, tests, end-to-end tests, dependency policy.
    Test(suite::Options),
    /// Measure, and print a table. It asserts nothing.
    Bench(bench::Options),
    /// Feed the verifier's parsers what nobody would write.
    Fuzz(fuzz::Options),
    /// Build the guest image that the demo and the tests use, and print its folder.
    Image {
        /// Build it even when one for the same guest is in the cache.
        #[arg(long)]
        force: bool,
    },
    /// Install what is missing: Debian packages and cargo tools.
    Setup,
    /// Check that no crate depends on one it must not know, and the house rules that a compiler does not hold.
    CheckLayers,
    /// Check that every link, path and command in the pages exists.
    CheckDocs {
        /// Folder with built `lambda` and `lambdad`; built when absent.
        #[arg(long)]
        bin_dir: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => suite::run_suite(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Image { force } => {
            setup::run(setup::Purpose::Run)?;
            println!("{}", build::image(&build::binaries(build::Profile::Demo)?, force)?.display());
            Ok(())
        }
        Command::Setup => setup::run(setup::Purpose::Everything),
        Command::CheckLayers => layers::check(),
        Command::CheckDocs { bin_dir } => docs::check(bin_dir.as_deref(), &Arguments::command()),
    }
}
