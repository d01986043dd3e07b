//! `lambda`: the customer's program.
//!
//! It is the side that decides: it seals before it sends, judges evidence before it releases, and knows names that the
//! cloud does not. The logic is in `lambda-sdk`; this program parses, calls and prints.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod exit;
mod output;
mod progress;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Attest, Broker, Cli, Collateral, Command, Format, Image, Instance, Key, Policy, PolicyKey};
use commands::attest::{collateral, policy};
use commands::{attest, broker, connect, create, image, instance, key, ssh, tunnel};
use exit::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Failure::other("the TLS provider was installed twice").report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::other(error).report(),
    };
    let result = runtime.block_on(run(cli));
    // A blocked read of standard input must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let format = cli.output;
    match cli.command {
        Command::Connect(args) => connect::run(format, &args).await,
        Command::Instance(command) => match command {
            Instance::Create(args) => create::create(format, &args).await,
            Instance::List => instance::list(format).await,
            Instance::Show(args) => instance::show(format, &args).await,
            Instance::Start(args) => create::start(format, &args).await,
            Instance::Stop(args) => instance::stop(format, &args).await,
            Instance::Restart(args) => create::restart(format, &args).await,
            Instance::Resize(args) => instance::resize(format, &args).await,
            Instance::Delete(args) => instance::delete(format, &args).await,
            Instance::Attest(args) => attest::instance(format, &args).await,
            Instance::Why(args) => instance::why(format, &args).await,
        },
        Command::Ssh(args) => ssh::ssh(&args).await,
        Command::Cp(args) => ssh::cp(&args).await,
        Command::Tunnel(args) => tunnel::run(&args).await,
        Command::Image(command) => match command {
            Image::Build(args) => image::build(format, &args),
            Image::Import(args) => image::import(format, &args),
            Image::Measure(args) => image::measure(format, &args),
            Image::Trust(args) => image::trust(format, &args),
            Image::List => image::list(format).await,
        },
        Command::Broker(Broker::Run { policy }) => broker::run(&policy).await,
        Command::Key(Key::Show) => key::show(format),
        Command::Key(Key::RotateMaster) => key::rotate_master(format),
        Command::Key(Key::RotateProject) => key::rotate_project(format).await,
        Command::Attest(command) => judge(format, command).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "lambda", &mut std::io::stdout());
            Ok(())
        }
    }
}

async fn judge(format: Format, command: Attest) -> Result<(), Failure> {
    match command {
        Attest::Inspect(args) => attest::inspect(format, &args),
        Attest::Verify(args) => attest::verify(format, &args),
        Attest::Eventlog(args) => attest::eventlog(format, &args),
        Attest::Collateral(Collateral::Fetch(args)) => collateral::fetch(format, &args).await,
        Attest::Collateral(Collateral::Show { bundle, keys }) => collateral::show(format, bundle.as_deref(), &keys),
        Attest::Collateral(Collateral::Export(args)) => collateral::export(format, &args),
        Attest::Collateral(Collateral::Import(args)) => collateral::import(format, &args),
        Attest::Policy(Policy::New(args)) => policy::new(&args),
        Attest::Policy(Policy::Show { policy }) => policy::show(format, &policy),
        Attest::Policy(Policy::Sign(args)) => policy::sign(&args),
        Attest::Policy(Policy::Check { policy, keys }) => policy::check(format, &policy, &keys),
        Attest::Policy(Policy::Key(command)) => match command {
            PolicyKey::New { out } => policy::new_key(format, &out),
            PolicyKey::Show { key } => policy::show_key(format, &key),
            PolicyKey::Pin { keys } => policy::pin_keys(format, &keys),
            PolicyKey::Unpin => policy::unpin_keys(format),
        },
    }
}
